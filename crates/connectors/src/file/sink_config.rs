//! What can be written under a sink of `type: file`.

use std::path::{Component, Path};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use chrono::format::{Item, StrftimeItems};
use millstream_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{Problem, Problems, resolved};
use crate::format::EncodeConfig;
use crate::payload::{Body, Image};
use crate::template::Place;

/// Writes rows into files. A file appears in the folder only when it is whole, and each row is in exactly one of them,
/// whatever crashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct FileSinkConfig {
    /// The folder; it is made where it does not exist.
    pub folder: String,
    /// The beginning of each file's name, with the moment at which it was closed (UTC) in the codes of `strftime`:
    /// `news-%Y-%m-%d`. A slash makes subfolders: `date=%Y-%m-%d/news`. Partition and offset of the first row, and the
    /// extension, are added. Default: the sink's name and the day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the files hold: `json` (one object per line, `.jsonl`), `csv` (with a header, `.csv`; lists and objects are
    /// written as JSON), `text` (lines, `.txt`), `raw` (the bytes of one column, one after another, `.bin`) or
    /// `parquet` (compressed with zstd, `.parquet`). Default: `json`.
    #[serde(default)]
    pub encode: EncodeConfig,
    /// When to close a file and begin another.
    #[serde(default)]
    pub roll: RollConfig,
    /// What to write of a change stream.
    #[serde(default)]
    pub image: Image,
}

/// When to close a file: whichever comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct RollConfig {
    /// When it holds this many bytes.
    #[serde(default = "default_size")]
    pub size: ByteSize,
    /// When its first row was written this long ago.
    #[serde(default = "default_interval")]
    pub interval: HumanDuration,
}

impl Default for RollConfig {
    fn default() -> Self {
        Self { size: default_size(), interval: default_interval() }
    }
}

fn default_size() -> ByteSize {
    ByteSize(64 << 20)
}

fn default_interval() -> HumanDuration {
    HumanDuration(Duration::from_secs(60))
}

impl FileSinkConfig {
    /// JSON Lines into `folder`, with every other setting at its default.
    pub fn new(folder: impl Into<String>) -> Self {
        Self {
            folder: folder.into(),
            name: None,
            encode: EncodeConfig::default(),
            roll: RollConfig::default(),
            image: Image::default(),
        }
    }

    /// The settings as the sink relies on them; `folder` starts from `base`.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn checked(&self, base: &Path, schema: &SchemaRef) -> Result<FileSinkSpec, Vec<Problem>> {
        let mut problems = Problems::default();
        if self.folder.trim().is_empty() {
            problems.add("folder", "is empty: name a folder");
        }
        if let Some(name) = &self.name {
            if let Some(Item::Error) = StrftimeItems::new(name).find(|item| matches!(item, Item::Error)) {
                problems.add(
                    "name",
                    format!("`{name}` has an unknown `%` code: write %Y, %m, %d, %H, %M, %S, or %% for a percent sign"),
                );
            }
            let plain =
                |c: Component<'_>| matches!(c, Component::Normal(part) if !part.to_string_lossy().starts_with('.'));
            if name.is_empty() || name.ends_with('/') || !Path::new(name).components().all(plain) {
                problems.add("name", format!("`{name}` must be a name below the folder, without `..`, and not hidden"));
            }
        }
        if self.roll.size.0 == 0 {
            problems.add("roll.size", "is zero");
        }
        problems.check_not_zero("roll.interval", self.roll.interval);
        let body = problems.check_body(&self.encode, self.image, schema, Place::Line);
        problems.check_encode(&self.encode, "file");
        problems.check_image(self.image, schema);
        let config = Self { folder: resolved(base, &self.folder), ..self.clone() };
        problems.finish(|| Some(FileSinkSpec { config, body }))
    }
}

/// A sink of files whose settings were checked.
#[derive(Debug, Clone)]
pub struct FileSinkSpec {
    /// What was typed, with the folder from the working directory.
    pub(super) config: FileSinkConfig,
    /// What is written of each row; none: Parquet.
    pub(super) body: Option<Body>,
}
