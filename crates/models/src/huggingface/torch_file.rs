//! `pytorch_model.bin`: what `torch.save` writes. Since PyTorch 1.6 a ZIP archive, not compressed, of a pickle and one
//! entry per storage; before that pickles and storages one after the other.

use std::collections::HashMap;
use std::io::Cursor;

use millstream_core::{Error, Result, ResultExt};
use zip::{CompressionMethod, ZipArchive};

use super::file_bytes::FileBytes;
use super::pickle::{Node, Storage, Tensor, Unpickled, Value, unpickle};
use super::tensors::{Place, WeightFile};

/// The first bytes of a ZIP archive.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// A pickle of weights holds names and shapes only.
const PICKLE_BYTES_MAX: usize = 64 << 20;

/// Where a storage lies: its first byte, and its bytes.
type Stretch = (usize, usize);

/// The tensors of a file.
///
/// # Errors
/// `Corruption`: the file is cut off or damaged. `Config`: it holds something else than weights, with its name.
pub fn open(shown: String, bytes: FileBytes) -> Result<WeightFile> {
    let all = bytes.all();
    let places = if all.starts_with(ZIP_MAGIC) { of_zip(all) } else { of_pickles(all) };
    let places = places.doing(|| format!("read {shown} ({} bytes)", all.len()))?;
    Ok(WeightFile { shown, bytes, places })
}

fn of_zip(all: &[u8]) -> Result<HashMap<String, Place>> {
    let damaged = |e: zip::result::ZipError| {
        Error::corruption("the archive is cut off or damaged: copy or download it again").caused_by(e)
    };
    let mut archive = ZipArchive::new(Cursor::new(all)).map_err(damaged)?;
    let mut stretches = HashMap::new();
    let mut pickle = None;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        // The archive's own name stands in front.
        let Some((_, name)) = name.split_once('/') else { continue };
        if entry.compression() != CompressionMethod::Stored {
            return Err(Error::config(format!("`{name}` is compressed, which torch.save never does: save it again")));
        }
        let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
        let size = usize::try_from(entry.size()).ok();
        let end = start.zip(size).and_then(|(start, size)| start.checked_add(size)).filter(|end| *end <= all.len());
        let (Some(start), Some(end)) = (start, end) else {
            return Err(Error::corruption(format!("`{name}` is cut off: copy or download the file again")));
        };
        if name == "data.pkl" {
            pickle = Some(&all[start..end]);
        } else if name == "byteorder" && &all[start..end] != b"little" {
            return Err(Error::config("its numbers are big-endian: save it again on another machine"));
        } else if let Some(key) = name.strip_prefix("data/") {
            stretches.insert(key.to_owned(), (start, end - start));
        }
    }
    let pickle = pickle.ok_or_else(|| Error::config("it is an archive without `data.pkl`: no weights of PyTorch"))?;
    let unpickled = unpickle(pickle)?;
    places(&unpickled, |storage| stretches.get(&storage.key).copied())
}

/// The old format: a magic number, a version, facts about the machine, the tensors, the keys of the storages, and for
/// each key the count of its numbers (8 bytes) and the numbers.
fn of_pickles(all: &[u8]) -> Result<HashMap<String, Place>> {
    let mut at = 0;
    let mut next = || {
        let end = all.len().min(at + PICKLE_BYTES_MAX);
        let unpickled = unpickle(&all[at..end])?;
        at += unpickled.consumed;
        Ok::<_, Error>(unpickled)
    };
    next().map_err(|e| Error::config("these are no weights of PyTorch").caused_by(e))?;
    next()?;
    next()?;
    let tensors = next()?;
    let keys = next()?;
    let Some(Node::List(list)) = keys.node(keys.top) else {
        return Err(Error::corruption("the list of storages is damaged"));
    };
    let elements: HashMap<&str, &Storage> =
        tensors.tensors()?.into_iter().map(|(_, tensor)| (tensor.storage.key.as_str(), &tensor.storage)).collect();
    let mut stretches: HashMap<&str, Stretch> = HashMap::new();
    for key in list {
        let key = text(&keys, *key).ok_or_else(|| Error::corruption("the list of storages is damaged"))?;
        let cut_off = || Error::corruption(format!("it is cut off in storage `{key}`: copy or download it again"));
        let count = all.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(cut_off)?;
        let count = usize::try_from(u64::from_le_bytes(*count)).map_err(|_| cut_off())?;
        let storage =
            elements.get(key).ok_or_else(|| Error::config(format!("no tensor uses storage `{key}`: save it again")))?;
        let size = count.checked_mul(storage.element.size()).ok_or_else(cut_off)?;
        let end = (at + 8).checked_add(size).filter(|end| *end <= all.len()).ok_or_else(cut_off)?;
        stretches.insert(key, (at + 8, size));
        at = end;
    }
    places(&tensors, |storage| stretches.get(storage.key.as_str()).copied())
}

fn text(unpickled: &Unpickled, value: Value) -> Option<&str> {
    match unpickled.node(value) {
        Some(Node::Text(text)) => Some(text),
        _ => None,
    }
}

fn places(unpickled: &Unpickled, stretch: impl Fn(&Storage) -> Option<Stretch>) -> Result<HashMap<String, Place>> {
    let place = |(name, tensor): (&str, &Tensor)| {
        let key = &tensor.storage.key;
        let stretch = stretch(&tensor.storage)
            .ok_or_else(|| Error::corruption(format!("storage `{key}` of tensor `{name}` is missing")))?;
        let start = inside(tensor, stretch).ok_or_else(|| {
            Error::corruption(format!(
                "tensor `{name}` reaches beyond its storage `{key}`, which has {} bytes",
                stretch.1
            ))
        })?;
        let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
        Ok((name.to_owned(), Place { element: tensor.storage.element.clone(), shape, strides, start }))
    };
    unpickled.tensors()?.into_iter().map(place).collect()
}

/// The first byte of a tensor, where all of it is inside of its storage.
fn inside(tensor: &Tensor, (start, bytes): Stretch) -> Option<usize> {
    let size = tensor.storage.element.size();
    let first = tensor.offset.checked_mul(size)?;
    let mut count: usize = 1;
    let mut last = tensor.offset;
    for (length, stride) in tensor.shape.iter().zip(&tensor.strides) {
        count = count.checked_mul(*length)?;
        last = last.checked_add(length.saturating_sub(1).checked_mul(*stride)?)?;
    }
    // Strides of 0 could blow a few bytes up to any size.
    let end = if count == 0 { first } else { last.checked_add(1)?.checked_mul(size)? };
    (end <= bytes && count.checked_mul(size)? <= bytes).then_some(start + first)
}
