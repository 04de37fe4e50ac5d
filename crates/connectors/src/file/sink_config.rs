//! What can be written under a sink of `type: file`.

use std::path::{Component, Path};
use std::time::Duration;

use chrono::format::{Item, StrftimeItems};
use millstream_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sink::{Image, Problems};

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
    /// What the files hold.
    #[serde(default)]
    pub format: FileFormat,
    /// When to close a file and begin another.
    #[serde(default)]
    pub roll: RollConfig,
    /// What to write of a change stream.
    #[serde(default)]
    pub image: Image,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// One JSON object per line, `.jsonl`.
    #[default]
    JsonLines,
    /// Comma-separated values with a header, `.csv`; lists and objects are written as JSON.
    Csv,
    /// Parquet, compressed with zstd, `.parquet`.
    Parquet,
}

impl FileFormat {
    /// The extension of the files.
    pub fn extension(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
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
            format: FileFormat::default(),
            roll: RollConfig::default(),
            image: Image::default(),
        }
    }

    /// Finds settings that can't work; see [`crate::sink::SinkConfig::check`].
    pub(crate) fn check(&self, problems: &mut Problems) {
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
    }
}
