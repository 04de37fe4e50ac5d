//! A file system that can be filled, taken away and given back.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory over a folder, unmounted at the end.
pub struct Mount(PathBuf);

impl Mount {
    /// None, with a word about it, where this process may not mount.
    pub fn tmpfs(folder: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &folder.display().to_string()]);
        if !mounted {
            eprintln!("skipped: this process may not mount a file system");
        }
        mounted.then(|| Self(folder.to_owned()))
    }

    /// Changes its options: `size=…`, `ro`, `rw`.
    pub fn remount(&self, options: &str) {
        assert!(mount(&["-o", &format!("remount,{options}"), &self.0.display().to_string()]));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(args: &[&str]) -> bool {
    Command::new("mount").args(args).output().is_ok_and(|output| output.status.success())
}
