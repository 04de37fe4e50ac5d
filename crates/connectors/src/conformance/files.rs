//! Files, for sources.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::sources::{Record, System, Unsteady};

/// Lines of a file that is read to its end.
pub(super) struct BoundedFile(TempDir);

/// Lines of a file that grows.
pub(super) struct FollowedFile {
    folder: TempDir,
    is_torn: parking_lot::Mutex<bool>,
}

fn text(records: &[Record]) -> String {
    records.iter().map(|record| record.text() + "\n").collect()
}

fn append(path: &PathBuf, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[async_trait]
impl System for BoundedFile {
    async fn start() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn settings(&self) -> Value {
        json!({ "type": "file", "path": self.0.path().join("wire.jsonl") })
    }

    fn add(&self, records: &[Record]) {
        append(&self.0.path().join("wire.jsonl"), &text(records));
    }
}

impl FollowedFile {
    /// The folder that it is in, and what that is called while it is away: as a disk that is not mounted.
    fn folders(&self) -> [PathBuf; 2] {
        ["disk", "away"].map(|name| self.folder.path().join(name))
    }

    /// Where it is now.
    fn path(&self) -> PathBuf {
        let [here, away] = self.folders();
        if here.exists() { here } else { away }.join("wire.jsonl")
    }
}

#[async_trait]
impl System for FollowedFile {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("disk")).unwrap();
        Self { folder, is_torn: parking_lot::Mutex::new(false) }
    }

    fn settings(&self) -> Value {
        json!({ "type": "file", "path": self.folders()[0].join("wire.jsonl"), "follow": true, "poll_interval": "2ms" })
    }

    fn add(&self, records: &[Record]) {
        let (path, text) = (self.path(), text(records));
        if !std::mem::take(&mut *self.is_torn.lock()) {
            return append(&path, &text);
        }
        // Whoever writes it is in the middle of a line.
        let (first, second) = text.split_at(text.len() / 2);
        append(&path, first);
        let second = second.to_owned();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            append(&path, &second);
        });
    }
}

impl Unsteady for FollowedFile {
    fn set_away(&self, is_away: bool) {
        let [here, away] = self.folders();
        let (from, to) = if is_away { (here, away) } else { (away, here) };
        std::fs::rename(from, to).unwrap();
    }

    fn tear(&self) {
        *self.is_torn.lock() = true;
    }
}
