//! Files that are looked at again while the server runs: tokens, certificates and keys.
//!
//! Their bytes are read, not their times: so a change is seen whatever makes it (an editor, `mv`, the symbolic links
//! that Kubernetes turns around). A change counts once two looks have found the same: nobody reads a file half-written,
//! or a new certificate beside the old key.

use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use millstream_core::{Error, Result};
use sha2::{Digest, Sha256};

/// How often is looked.
const EVERY: Duration = Duration::from_secs(1);
/// A larger file is none of these.
const BYTES_MAX: u64 = 4 << 20;

/// What was read: one content a path.
pub type Contents = Vec<Vec<u8>>;

/// Files by their options: (`--tls-key`, path).
#[derive(Debug, Clone)]
pub struct Files(Vec<(&'static str, PathBuf)>);

impl Files {
    /// These files, each with the option that names it.
    pub fn new(named: Vec<(&'static str, PathBuf)>) -> Self {
        Self(named)
    }

    /// Option and path of each, for messages.
    pub fn named(&self, index: usize) -> String {
        self.0.get(index).map(|(option, path)| format!("{option} {}", path.display())).unwrap_or_default()
    }

    /// The contents.
    ///
    /// # Errors
    /// `Config`: one can't be read, and which.
    pub fn read(&self) -> Result<Contents> {
        let read = |(index, (_, path)): (usize, &(&'static str, PathBuf))| {
            let size = std::fs::metadata(path).map(|meta| meta.len());
            let bytes = match size {
                Ok(size) if size > BYTES_MAX => Err(std::io::Error::other("it is too large for such a file")),
                _ => std::fs::read(path),
            };
            bytes.map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::config(format!("{}: there is no such file", self.named(index))),
                _ => Error::config(format!("{}: it can't be read: {e}", self.named(index))),
            })
        };
        self.0.iter().enumerate().map(read).collect()
    }

    /// Warns of a file with secrets that every user of this machine can read.
    pub fn warn_where_readable(&self, index: usize) {
        if self.0.get(index).is_some_and(|(_, path)| is_readable_by_others(path)) {
            tracing::warn!("{}: every user of this machine can read it: chmod 600", self.named(index));
        }
    }

    /// Calls `load` with the contents whenever they have changed from `known`, for as long as there is a `target`.
    /// Where they can't be read or `load` refuses them, what there is stays, and that is said once. A pipe is read once
    /// only.
    pub fn watch<T: Send + Sync + 'static>(
        self,
        known: &Contents,
        target: Weak<T>,
        load: fn(&T, &Contents) -> Result<()>,
    ) {
        if !self.0.iter().all(|(_, path)| path.is_file()) {
            return;
        }
        let mut loaded = fingerprint(&Ok(known.clone()));
        let mut seen = loaded;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                let files = self.clone();
                let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else { continue };
                let Some(target) = target.upgrade() else { return };
                let now = fingerprint(&read);
                if now != loaded && now == seen {
                    loaded = now;
                    let names = (0..self.0.len()).map(|i| self.named(i)).collect::<Vec<_>>().join(", ");
                    match read.and_then(|contents| load(&target, &contents)) {
                        Ok(()) => tracing::info!("read again: {names}"),
                        Err(e) => tracing::warn!("not taken, what was read before stays in force: {e}"),
                    }
                }
                seen = now;
            }
        });
    }
}

fn fingerprint(read: &Result<Contents>) -> [u8; 32] {
    let mut digest = Sha256::new();
    match read {
        Ok(contents) => contents.iter().for_each(|bytes| {
            digest.update([1]);
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }),
        Err(e) => digest.update(e.to_string()),
    }
    digest.finalize().into()
}

#[cfg(unix)]
fn is_readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_readable_by_others(_path: &Path) -> bool {
    false
}
