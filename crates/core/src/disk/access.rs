//! Who may read what is written: files of ours are their owner's alone, and no link that somebody laid is followed.
//!
//! Folders of the data folder have mode 0700, its files 0600, whatever the umask. Files that users get (of a file sink,
//! of `init`) have the mode that the umask gives.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;

/// Modes of others than the owner.
#[cfg(unix)]
const OTHERS: u32 = 0o077;

/// Creates a folder and its parents, where they are missing, for their owner alone.
///
/// # Errors
/// A folder can't be created, or a part of the path is a file.
pub fn create_private_dir_all(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// How files of ours are opened: a new one is its owner's alone, and a link is not followed.
pub fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    }
    options
}

/// A new file for a user, to write. What had its name is removed, not followed and not emptied: a link may lead
/// anywhere.
///
/// # Errors
/// It can't be created, or somebody else was faster.
pub fn create_fresh(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    File::create_new(path)
}

/// Takes from a file or folder what others than its owner may do with it. One that is gone is fine.
///
/// # Errors
/// It belongs to somebody else.
#[cfg(unix)]
pub fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let is_gone = |e: io::Error| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) => return is_gone(e),
    };
    let mode = found.permissions().mode();
    if found.is_symlink() || mode & OTHERS == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & !OTHERS & 0o7777)).or_else(is_gone)
}

/// Nothing: on Windows a file has the rights of its folder.
#[cfg(not(unix))]
pub fn make_private(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// True where others than the owner may look into a folder.
///
/// # Errors
/// It can't be looked at.
#[cfg(unix)]
pub fn is_open_to_others(dir: &Path) -> io::Result<bool> {
    Ok(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(dir)?.permissions()) & OTHERS != 0)
}

/// Never: on Windows a folder has the rights of the folder that it is in.
#[cfg(not(unix))]
pub fn is_open_to_others(_dir: &Path) -> io::Result<bool> {
    Ok(false)
}

/// [`make_private`] for a folder and everything in it. Links are neither changed nor followed.
///
/// # Errors
/// Something in it belongs to somebody else.
pub fn make_tree_private(dir: &Path) -> io::Result<()> {
    make_private(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { make_tree_private(&entry.path())? } else { make_private(&entry.path())? }
    }
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::disk::{Disk, OpenMode, RealDisk, write_atomic};

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_the_disk_makes_is_its_owners_alone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b");
        RealDisk.create_dir_all(&dir).unwrap();
        RealDisk.open(&dir.join("log"), OpenMode::CreateNew).unwrap();
        write_atomic(&RealDisk, &dir.join("json"), b"{}").unwrap();
        for (path, wanted) in [("a", 0o700), ("a/b", 0o700), ("a/b/log", 0o600), ("a/b/json", 0o600)] {
            assert_eq!(mode(&temp.path().join(path)), wanted, "{path}");
        }
    }

    #[test]
    fn an_open_tree_is_closed_and_its_links_are_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, other) = (temp.path().join("data"), temp.path().join("other"));
        fs::create_dir_all(dir.join("log")).unwrap();
        for file in [&dir.join("log/1"), &other] {
            fs::write(file, "x").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&other, dir.join("link")).unwrap();
        assert!(is_open_to_others(&dir).unwrap());
        make_tree_private(&dir).unwrap();
        assert!(!is_open_to_others(&dir).unwrap());
        assert_eq!((mode(&dir), mode(&dir.join("log")) & OTHERS, mode(&dir.join("log/1"))), (0o700, 0, 0o600));
        assert_eq!(mode(&other), 0o644, "behind a link");
        make_private(&dir.join("gone")).unwrap();
    }

    #[test]
    fn a_link_in_the_way_is_not_written_through() {
        let temp = tempfile::tempdir().unwrap();
        let (victim, link) = (temp.path().join("victim"), temp.path().join("link"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        assert!(private_options().write(true).open(&link).is_err());
        assert!(RealDisk.open(&link, OpenMode::Write).is_err());
        assert!(RealDisk.open(&link, OpenMode::CreateNew).is_err());
        io::Write::write_all(&mut create_fresh(&link).unwrap(), b"new").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
        assert!(!fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
