//! Which files a path stands for: the file itself, the files of a folder, or the matches of a glob.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use millstream_core::descriptors::wait_for_one;
use millstream_core::{Error, Result, ResultExt};

use super::config::FileSourceSpec;
use super::identity::FileId;

/// True where `path` holds a character that only a glob gives a meaning to.
pub(crate) fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// A file that the source's path stands for, as it was found on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub path: PathBuf,
    pub id: FileId,
    pub size: u64,
    pub mtime_ns: i64,
}

impl Found {
    pub(crate) fn new(path: PathBuf, meta: &Metadata) -> Self {
        Self { path, id: FileId { dev: meta.dev(), inode: meta.ino() }, size: meta.len(), mtime_ns: mtime_ns(meta) }
    }
}

/// A file's modification time in nanoseconds since the epoch.
pub(crate) fn mtime_ns(meta: &Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

/// What the source's path stands for.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Every regular file, by name.
    pub files: Vec<Found>,
    /// What could not be looked at, or is nothing to be read, and why.
    pub troubles: Vec<(PathBuf, String)>,
    /// The file or folder does not exist.
    pub missing: bool,
    /// The path names one file.
    pub is_one_file: bool,
}

impl Listing {
    fn trouble(&mut self, path: PathBuf, why: impl std::fmt::Display) {
        self.troubles.push((path, why.to_string()));
    }
}

/// Lists files by the source's path.
#[derive(Debug)]
pub(crate) struct View {
    path: String,
    ignore: Vec<glob::Pattern>,
}

impl View {
    pub(crate) fn new(spec: &FileSourceSpec) -> Self {
        Self { path: spec.config.path.clone(), ignore: spec.ignore.clone() }
    }

    /// Every regular file there is, by name, each file once though several names may lead to it.
    ///
    /// # Errors
    /// `Environment`: the path itself can't be looked at; `Config`: it is neither a file nor a folder.
    pub(crate) fn list(&self) -> Result<Listing> {
        let path = Path::new(&self.path);
        let mut listing = Listing::default();
        match path.metadata() {
            Ok(meta) if meta.is_dir() => self.list_folder(path, &mut listing)?,
            Ok(meta) if meta.is_file() => {
                let files = vec![Found::new(path.to_owned(), &meta)];
                return Ok(Listing { files, is_one_file: true, ..listing });
            }
            Ok(_) => {
                return Err(Error::config(format!("{} is neither a regular file nor a folder", path.display())));
            }
            Err(e) if is_absent(&e) && is_glob(&self.path) => self.list_glob(&mut listing)?,
            Err(e) if is_absent(&e) => return Ok(Listing { missing: true, ..listing }),
            Err(e) => return Err(e).doing(|| format!("look at {}", path.display())),
        }
        listing.files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut seen = HashSet::new();
        listing.files.retain(|file| seen.insert(file.id));
        Ok(listing)
    }

    fn list_folder(&self, folder: &Path, listing: &mut Listing) -> Result<()> {
        for entry in
            wait_for_one(|| std::fs::read_dir(folder)).doing(|| format!("list the folder {}", folder.display()))?
        {
            let path = entry.doing(|| format!("list the folder {}", folder.display()))?.path();
            let temporary = path.file_name().is_none_or(|name| {
                let name = name.as_encoded_bytes();
                name.starts_with(b".") || name.ends_with(b".tmp")
            });
            if !temporary {
                self.keep(path, listing);
            }
        }
        Ok(())
    }

    fn list_glob(&self, listing: &mut Listing) -> Result<()> {
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let matches = glob::glob_with(&self.path, options)
            .map_err(|e| Error::config(format!("`path: {}` is no valid glob: {e}", self.path)))?;
        let wants_temporary = self.path.ends_with(".tmp");
        for path in matches {
            match path {
                Ok(path) if wants_temporary || path.extension().is_none_or(|extension| extension != "tmp") => {
                    self.keep(path, listing);
                }
                Ok(_) => {}
                // A folder that vanishes while it is listed is no trouble.
                Err(e) if is_absent(e.error()) => {}
                Err(e) => listing.trouble(e.path().to_owned(), format!("the folder can't be listed: {}", e.error())),
            }
        }
        Ok(())
    }

    /// Adds `path` where it is a regular file that is not to be ignored.
    fn keep(&self, path: PathBuf, listing: &mut Listing) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if self.ignore.iter().any(|pattern| pattern.matches(&name) || pattern.matches_path(&path)) {
            return;
        }
        match path.metadata() {
            Ok(meta) if meta.is_file() => listing.files.push(Found::new(path, &meta)),
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => listing.trouble(path, "it is neither a regular file nor a folder"),
            Err(e) if is_absent(&e) && path.is_symlink() => listing.trouble(path, "the link leads to nothing"),
            // Gone since the folder was listed.
            Err(e) if is_absent(&e) => {}
            Err(e) => listing.trouble(path, e),
        }
    }
}

/// Looks whether there is something to read.
///
/// # Errors
/// `Retry`: it is not there yet, and the source waits for it (`follow`). `Config`, `Environment`: it is not there, or
/// can't be read.
pub(super) fn probe(spec: &FileSourceSpec) -> Result<String> {
    let config = &spec.config;
    let Listing { files, troubles, missing, is_one_file } = View::new(spec).list()?;
    if missing && config.follow {
        return Err(Error::retry(format!("{} is not there yet", config.path)));
    }
    if missing {
        return Err(Error::config(format!("{} does not exist", config.path)));
    }
    let mut unreadable = files.iter().filter_map(|f| Some((&f.path, super::reader::open(&f.path).err()?)));
    match unreadable.next() {
        // One of many: the source says so itself, and reads the others.
        Some((path, e)) if is_one_file => Err(e).doing(|| format!("read {}", path.display())),
        _ if files.is_empty() && troubles.is_empty() => Ok(format!("{} holds no file yet", config.path)),
        _ => Ok(format!("{} file{}", files.len(), if files.len() == 1 { "" } else { "s" })),
    }
}

/// Looks in `folder` for the file with this identity, under whatever name it has now.
pub(crate) fn find_by_identity(folder: &Path, id: FileId) -> Option<Found> {
    let entry = std::fs::read_dir(folder).ok()?.flatten().find(|entry| entry.ino() == id.inode)?;
    let meta = entry.metadata().ok()?;
    let found = Found::new(entry.path(), &meta);
    (meta.is_file() && found.id == id).then_some(found)
}

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
