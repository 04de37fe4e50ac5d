//! `.safetensors`: a JSON header that says what lies where, then the numbers
//! (format: <https://huggingface.co/docs/safetensors>).

use std::collections::HashMap;

use millstream_core::{Error, Result};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};

use super::file_bytes::FileBytes;
use super::tensors::{Element, Place, WeightFile};

/// Bytes in front of the header: its length.
const LENGTH_BYTES: usize = 8;

/// The tensors of a file and the texts in its header.
///
/// # Errors
/// `Corruption`: the file is cut off, or its header can't be read.
pub fn open(shown: String, bytes: FileBytes) -> Result<(WeightFile, HashMap<String, String>)> {
    let all = bytes.all();
    let (header_bytes, header) = SafeTensors::read_metadata(all).map_err(|e| {
        let size = all.len();
        Error::corruption(format!("{shown} ({size} bytes) is cut off or damaged: copy or download it again"))
            .caused_by(e)
    })?;
    let places = places(&header, LENGTH_BYTES + header_bytes);
    let texts = header.metadata().clone().unwrap_or_default();
    Ok((WeightFile { shown, bytes, places }, texts))
}

fn places(header: &Metadata, data_start: usize) -> HashMap<String, Place> {
    let place = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let element = match info.dtype {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            Dtype::I8 => Element::I8,
            other => Element::Other(format!("{other:?}"), other.bitsize() / 8),
        };
        (name, Place::row_major(element, info.shape.clone(), data_start + info.data_offsets.0))
    };
    header.tensors().into_iter().map(place).collect()
}
