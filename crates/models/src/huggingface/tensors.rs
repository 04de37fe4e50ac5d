//! The tensors of a model's weight files: found by name, compared in shape, widened to single precision.
//!
//! A weight file is mapped into memory, never read as a whole; [`safetensors_file`](super::safetensors_file) and
//! [`torch_file`](super::torch_file) find out what lies where in it, and this module reads one tensor at a time.

use std::collections::HashMap;

use half::{bf16, f16};
use millstream_core::{Error, Result};
use xxhash_rust::xxh3::Xxh3;

use super::file_bytes::FileBytes;

/// Bytes that are hashed at once: so many of a mapped file are in memory meanwhile.
const HASHED_BYTES: usize = 4 << 20;

/// The type of a tensor's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit integers; their scales, one per row, are in the tensor `<name>.scale`.
    I8,
    /// Another type, which weights can't have (counters and masks of old files do), and its size in bytes.
    Other(String, usize),
}

impl Element {
    /// Bytes of one number.
    pub fn size(&self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
            Self::Other(_, size) => *size,
        }
    }
}

/// Where a tensor lies in its file. All of it is inside of the file; whoever makes one has checked that.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The type of its numbers.
    pub element: Element,
    /// Its length in each dimension.
    pub shape: Vec<usize>,
    /// Numbers from one index to the next, in each dimension.
    pub strides: Vec<usize>,
    /// The first number's byte in the file.
    pub start: usize,
}

impl Place {
    /// A tensor without gaps, in row-major order.
    pub fn row_major(element: Element, shape: Vec<usize>, start: usize) -> Self {
        let strides = row_major_strides(&shape);
        Self { element, shape, strides, start }
    }

    /// Bytes from its first number to behind its last.
    fn extent(&self) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        let last: usize = self.shape.iter().zip(&self.strides).map(|(length, stride)| (length - 1) * stride).sum();
        (last + 1) * self.element.size()
    }
}

/// The strides of a tensor without gaps, in row-major order.
pub fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i].max(1));
    }
    strides
}

/// One weight file.
pub struct WeightFile {
    /// Its name, for messages.
    pub shown: String,
    /// All of it.
    pub bytes: FileBytes,
    /// What lies where.
    pub places: HashMap<String, Place>,
}

/// All tensors of a model.
pub struct Weights {
    files: Vec<WeightFile>,
}

impl Weights {
    /// The tensors of `files`.
    pub fn new(files: Vec<WeightFile>) -> Self {
        Self { files }
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.find(name).map(|(_, place)| place.shape.as_slice())
    }

    /// Names of the weight files, for messages.
    pub fn shown(&self) -> String {
        self.files.iter().map(|file| file.shown.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// A hash of all bytes. Not made to withstand an attacker: whoever can change the weights can change the answers.
    pub fn hash(&self) -> u128 {
        let mut hash = Xxh3::new();
        for file in &self.files {
            let bytes = file.bytes.all();
            hash.update(&(bytes.len() as u64).to_le_bytes());
            for (index, part) in bytes.chunks(HASHED_BYTES).enumerate() {
                hash.update(part);
                file.bytes.release(index * HASHED_BYTES, part.len());
            }
        }
        hash.digest128()
    }

    /// Whether the tensor is there, in this shape, in a type that can be read.
    ///
    /// # Errors
    /// `Config`: it is not; with tensor, file, and both shapes.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.checked(name, shape).map(|_| ())
    }

    /// The numbers of a tensor in single precision, row-major.
    ///
    /// # Errors
    /// As [`Weights::check`]; `Config` also where a number is infinite or no number.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (file, place) = self.checked(name, shape)?;
        let bytes = file.bytes.all();
        let mut numbers = match place.element {
            Element::F32 => gather(bytes, place, |b: [u8; 4]| f32::from_le_bytes(b)),
            Element::F16 => gather(bytes, place, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
            Element::Bf16 => gather(bytes, place, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
            Element::I8 => gather(bytes, place, |b: [u8; 1]| f32::from(i8::from_le_bytes(b))),
            Element::Other(..) => return Err(unreadable(name, file, place)),
        };
        file.bytes.release(place.start, place.extent());
        if place.element == Element::I8 {
            let rows = shape.first().copied().unwrap_or(1);
            let scales = self.read(&scale_name(name), &[rows])?;
            let width = numbers.len() / rows.max(1);
            for (row, scale) in numbers.chunks_exact_mut(width.max(1)).zip(scales) {
                row.iter_mut().for_each(|number| *number *= scale);
            }
        }
        if let Some(index) = numbers.iter().position(|number| !number.is_finite()) {
            let (value, shown) = (numbers[index], &file.shown);
            return Err(Error::config(format!(
                "tensor `{name}` in {shown} holds {value} (number {index} of {}): the model is broken, train or export it again",
                numbers.len()
            )));
        }
        Ok(numbers)
    }

    fn checked(&self, name: &str, shape: &[usize]) -> Result<(&WeightFile, &Place)> {
        let (file, place) = self.find(name).ok_or_else(|| {
            Error::config(format!("tensor `{name}` is missing in {}; its shape would be {shape:?}", self.shown()))
        })?;
        if place.shape != shape {
            let (found, shown) = (&place.shape, &file.shown);
            return Err(Error::config(format!(
                "tensor `{name}` in {shown} has the shape {found:?}, but config.json asks for {shape:?}: the two files don't belong together"
            )));
        }
        match place.element {
            Element::Other(..) => return Err(unreadable(name, file, place)),
            Element::I8 => self.check(&scale_name(name), &shape[..shape.len().min(1)])?,
            _ => {}
        }
        Ok((file, place))
    }

    /// Old files call scale and shift of a layer norm `gamma` and `beta`.
    fn find(&self, name: &str) -> Option<(&WeightFile, &Place)> {
        let find = |name: &str| self.files.iter().find_map(|file| Some((file, file.places.get(name)?)));
        find(name).or_else(|| {
            let old_name = match name.strip_suffix("LayerNorm.weight") {
                Some(front) => format!("{front}LayerNorm.gamma"),
                None => format!("{}LayerNorm.beta", name.strip_suffix("LayerNorm.bias")?),
            };
            find(&old_name)
        })
    }
}

fn scale_name(name: &str) -> String {
    format!("{name}.scale")
}

fn unreadable(name: &str, file: &WeightFile, place: &Place) -> Error {
    let kind = match &place.element {
        Element::Other(kind, _) => kind.as_str(),
        _ => "an unknown type",
    };
    let shown = &file.shown;
    Error::config(format!("tensor `{name}` in {shown} is of {kind}: weights are F32, F16, BF16, or I8 with a scale"))
}

fn gather<const N: usize>(bytes: &[u8], place: &Place, number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let count = place.shape.iter().product();
    if place.strides == row_major_strides(&place.shape) {
        let (parts, _) = bytes[place.start..][..count * N].as_chunks::<N>();
        return parts.iter().map(|part| number(*part)).collect();
    }
    let mut numbers = Vec::with_capacity(count);
    let mut index = vec![0; place.shape.len()];
    while numbers.len() < count {
        let offset: usize = index.iter().zip(&place.strides).map(|(i, stride)| i * stride).sum();
        let mut part = [0; N];
        part.copy_from_slice(&bytes[place.start + offset * N..][..N]);
        numbers.push(number(part));
        for dimension in (0..index.len()).rev() {
            index[dimension] += 1;
            if index[dimension] < place.shape[dimension] {
                break;
            }
            index[dimension] = 0;
        }
    }
    numbers
}
