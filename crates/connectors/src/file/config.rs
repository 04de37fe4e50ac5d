//! What can be written under a source of `type: file`.

use std::path::Path;
use std::time::Duration;

use millstream_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{Problem, Problems, default_max_record, resolved};

/// Reads a file, the files of a folder, or all files that match a glob.
///
/// Without `follow` every file is read to its end and the source is finished; a later run reads only files that are
/// new, and what was appended to the others. With `follow: true` the source goes on: it waits for lines that are added
/// and for files that appear, and keeps its place when a log file is rotated by renaming or by truncation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct FileSourceConfig {
    /// A file (`./data/wire.jsonl`), a folder (the files directly in it), or a glob (`./archive/**/*.xml`).
    pub path: String,
    /// Keep reading what is added.
    #[serde(default)]
    pub follow: bool,
    /// The largest record (line, or whole file for formats that take one document per file). A larger one goes to the
    /// dead letter queue with its first MiB, and the rest of it is skipped.
    #[serde(default = "default_max_record")]
    pub max_record: ByteSize,
    /// With `follow`: how often to look for added lines and new files.
    #[serde(default = "default_poll_interval")]
    pub poll_interval: HumanDuration,
    /// With `follow`: where to begin in files that are there when the source starts for the first time.
    #[serde(default)]
    pub start: StartAt,
    /// Whether files are compressed. `auto` (default) looks at their first bytes.
    #[serde(default)]
    pub compression: Compression,
    /// What a file is known by, so that it is read once: see [`Identity`]. Default: `auto`.
    #[serde(default)]
    pub identity: Identity,
    /// With `follow` and `format: csv`: how long rows wait behind a quote that is open. Then the quote is taken for one
    /// that is never closed, and its row ends at its first line end.
    #[serde(default = "default_quote_timeout")]
    pub quote_timeout: HumanDuration,
    /// Globs of file names to leave out, such as `*.gz`. In folders, names that begin with a dot or end in `.tmp` are
    /// always left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
}

/// Where to begin in a file that has never been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// At the first record.
    #[default]
    Beginning,
    /// Behind the last record: only what is added from now on.
    End,
}

/// How the bytes of a file are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// A file that begins as gzip files do is unpacked, any other is read as it is.
    #[default]
    Auto,
    /// Every file is gzip, of one member or several.
    Gzip,
    /// Every file is read as it is.
    None,
}

/// What a file is known by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// Device and inode, and the content: a file that begins with all that was read of another one is a copy of it, and
    /// is read on from there, where that was 1 KiB or more, where the other has been cut or rewritten in the meantime
    /// (`copytruncate`), or where it took the other's name and the other is gone (restored from a backup).
    #[default]
    Auto,
    /// Device and inode only: a copy is read anew.
    Inode,
    /// The content: a file that begins with all that was read of another one is a copy of it, however short that was.
    Content,
}

fn default_poll_interval() -> HumanDuration {
    HumanDuration(Duration::from_millis(500))
}

fn default_quote_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

impl FileSourceConfig {
    /// A source that reads `path` to its end, with every other setting at its default.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            follow: false,
            max_record: default_max_record(),
            poll_interval: default_poll_interval(),
            start: StartAt::default(),
            compression: Compression::default(),
            identity: Identity::default(),
            quote_timeout: default_quote_timeout(),
            ignore: Vec::new(),
        }
    }

    /// The settings as the source relies on them; `path` starts from `base`.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn checked(&self, base: &Path) -> Result<FileSourceSpec, Vec<Problem>> {
        let mut problems = Problems::default();
        if self.path.trim().is_empty() {
            problems.add("path", "is empty: name a file, a folder or a glob");
        } else if let Err(e) = glob::Pattern::new(&self.path) {
            // A path that holds a lone `[` may still name a file; `**` in the wrong place can't.
            if super::view::is_glob(&self.path) {
                problems.add("path", format!("is no valid glob: {e}"));
            }
        }
        let mut ignore = Vec::new();
        for (i, pattern) in self.ignore.iter().enumerate() {
            match glob::Pattern::new(pattern) {
                Ok(pattern) => ignore.push(pattern),
                Err(e) => problems.add(format!("ignore[{i}]"), format!("`{pattern}` is no valid glob: {e}")),
            }
        }
        problems.check_max_record(self.max_record);
        problems.check_not_zero("poll_interval", self.poll_interval);
        problems.check_not_zero("quote_timeout", self.quote_timeout);
        if self.start == StartAt::End && !self.follow {
            problems.add("start", "`end` needs `follow: true`: without it there would be nothing to read");
        }
        let config = Self { path: resolved(base, &self.path), ..self.clone() };
        problems.finish(|| Some(FileSourceSpec { config, ignore }))
    }
}

/// A source of files whose settings were checked.
#[derive(Debug, Clone)]
pub struct FileSourceSpec {
    /// What was typed, with the path from the working directory.
    pub(crate) config: FileSourceConfig,
    /// Names to leave out.
    pub(crate) ignore: Vec<glob::Pattern>,
}
