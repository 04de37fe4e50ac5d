//! Where the files of a model are: in a folder, or packed into one file inside of the program.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use millstream_core::{Error, Result, ResultExt};
use serde_json::Value;

use super::file_bytes::FileBytes;
use super::tensors::{WeightFile, Weights};
use super::{safetensors_file, torch_file};

/// A larger configuration or tokenizer is none.
const SMALL_FILE_BYTES_MAX: u64 = 256 << 20;
/// Names of weights, the preferred one first.
pub const SAFETENSORS: &str = "model.safetensors";
/// The index of weights in several files.
pub const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";
/// What `torch.save` wrote.
pub const TORCH: &str = "pytorch_model.bin";

/// The files of a model.
#[derive(Debug, Clone)]
pub enum Files {
    /// A folder as `save_pretrained` writes it.
    Folder(PathBuf),
    /// One safetensors file whose header holds the small files as texts.
    Packed {
        /// What to call it.
        name: &'static str,
        /// All of it.
        bytes: &'static [u8],
        /// The texts of the header.
        texts: HashMap<String, String>,
    },
}

impl Files {
    /// The files of a folder.
    ///
    /// # Errors
    /// `Config`: it is no folder.
    pub fn folder(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let shown = path.display();
        let why = if path.exists() { "is a file" } else { "does not exist" };
        Err(Error::config(format!(
            "the model's folder {shown} {why}: write the path of a folder that holds config.json, weights and a tokenizer"
        )))
    }

    /// A packed file.
    ///
    /// # Errors
    /// `Corruption`: it is damaged.
    pub fn packed(name: &'static str, bytes: &'static [u8]) -> Result<Self> {
        let (_, texts) = safetensors_file::open(name.into(), FileBytes::InMemory(bytes.into()))?;
        Ok(Self::Packed { name, bytes, texts })
    }

    /// A folder inside; none are inside of a packed file.
    pub fn inside(&self, folder: &str) -> Self {
        match self {
            Self::Folder(path) => Self::Folder(path.join(folder)),
            Self::Packed { name, bytes, .. } => Self::Packed { name, bytes, texts: HashMap::new() },
        }
    }

    /// How messages call a file.
    pub fn shown(&self, name: &str) -> String {
        match self {
            Self::Folder(path) => path.join(name).display().to_string(),
            Self::Packed { name: packed, .. } => format!("{packed}:{name}"),
        }
    }

    /// A small file; none where there is none.
    ///
    /// # Errors
    /// `Environment`: it can't be read. `Config`: it is too large to be what it should be.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = match self {
            Self::Folder(path) => path.join(name),
            Self::Packed { texts, .. } => return Ok(texts.get(name).map(|text| text.clone().into_bytes())),
        };
        let doing = || format!("read {}", path.display());
        match std::fs::metadata(&path) {
            Ok(facts) if facts.len() > SMALL_FILE_BYTES_MAX => {
                let size = facts.len();
                Err(Error::config(format!("{} has {size} bytes: that can't be right", path.display())))
            }
            Ok(_) => Ok(Some(std::fs::read(&path).doing(doing)?)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from(e).context(doing())),
        }
    }

    /// A JSON file; none where there is none.
    ///
    /// # Errors
    /// As [`Files::bytes`]; `Config`: it is no JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|e| Error::config(format!("{} is no JSON", self.shown(name))).caused_by(e))
    }

    /// The weights: mapped, not read.
    ///
    /// # Errors
    /// `Config`: there are none. `Corruption`: a file is cut off or damaged.
    pub fn weights(&self) -> Result<Weights> {
        let path = match self {
            Self::Folder(path) => path,
            Self::Packed { name, bytes, .. } => {
                let (file, _) = safetensors_file::open((*name).into(), FileBytes::InMemory((*bytes).into()))?;
                return Ok(Weights::new(vec![file]));
            }
        };
        if path.join(SAFETENSORS).exists() {
            return Ok(Weights::new(vec![open_safetensors(&path.join(SAFETENSORS))?]));
        }
        if let Some(index) = self.json(SAFETENSORS_INDEX)? {
            let shards = shards(&index).ok_or_else(|| {
                Error::config(format!("{} has no `weight_map` of file names", self.shown(SAFETENSORS_INDEX)))
            })?;
            let files = shards.iter().map(|name| open_safetensors(&path.join(name)));
            return Ok(Weights::new(files.collect::<Result<_>>()?));
        }
        if path.join(TORCH).exists() {
            let path = path.join(TORCH);
            let file = torch_file::open(path.display().to_string(), FileBytes::map(&path)?)?;
            return Ok(Weights::new(vec![file]));
        }
        let shown = path.display();
        Err(Error::config(format!(
            "{shown} has no weights: {SAFETENSORS} (or its index and parts), or {TORCH}, is missing"
        )))
    }
}

fn open_safetensors(path: &Path) -> Result<WeightFile> {
    let (file, _) = safetensors_file::open(path.display().to_string(), FileBytes::map(path)?)?;
    Ok(file)
}

/// The files that an index names, each once; all of them lie beside it.
pub fn shards(index: &Value) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in index.get("weight_map")?.as_object()?.values() {
        let name = name.as_str()?;
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return None;
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Some(names)
}
