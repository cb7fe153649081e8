//! A small file system of its own, to be filled.
//!
//! Invariant: it is gone with the test process; where it can't be mounted, that is said.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::reaper;

/// A file system in memory. Dropping it unmounts it.
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// One of `mib` MiB; none where this user may not mount.
    pub fn mount(mib: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder").keep();
        reaper::unmount_at_the_end(&folder);
        let size = format!("size={mib}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&folder)
            .output();
        match mount {
            Ok(done) if done.status.success() => Some(Self { folder }),
            other => {
                eprintln!("SKIPPED: no small disk can be mounted, which takes root: {other:?}");
                None
            }
        }
    }

    /// A folder on it.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Takes `mib` MiB of it, or what is left of them.
    pub fn take(&self, mib: u64) {
        let ballast = File::create(self.folder.join("ballast")).expect("a file");
        write_zeros(ballast, mib << 20);
    }

    /// Takes all that is left.
    pub fn fill(&self) {
        let rest = self.folder.join("rest");
        let rest = File::options().create(true).append(true).open(rest);
        // Where there is no room for a name it is full.
        if let Ok(rest) = rest {
            write_zeros(rest, u64::MAX);
        }
    }

    /// Gives back all that was taken.
    pub fn free(&self) {
        for name in ["ballast", "rest"] {
            let _ = fs::remove_file(self.folder.join(name));
        }
    }
}

fn write_zeros(mut file: File, bytes: u64) {
    let zeros = [0; 4096];
    let mut left = bytes;
    while left > 0 {
        let some = zeros.len().min(left as usize);
        match file.write(&zeros[..some]) {
            Ok(written) => left -= written as u64,
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmount = Command::new("umount").arg("-l").arg(&self.folder).status();
        assert!(unmount.is_ok_and(|status| status.success()));
        let _ = fs::remove_dir(&self.folder);
    }
}
