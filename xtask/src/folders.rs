//! The directories of a cluster of plain processes.
//!
//! Invariant: everything is below one directory, which one cluster at a time uses.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process;
use crate::workspace::Workspace;

/// The script that creates the secrets, as for the compose file.
const MAKE_SECRETS: &str = "deploy/make-secrets.sh";

/// The directories of a cluster.
#[derive(Debug)]
pub struct Folders {
    base: PathBuf,
    /// Data of the nodes.
    pub data: PathBuf,
    /// Logs of the nodes.
    pub logs: PathBuf,
    /// Whether the directories are emptied first.
    pub ephemeral: bool,
}

impl Folders {
    /// The directories below `base`. Ephemeral ones are emptied first and removed at the end.
    pub fn new(base: PathBuf, ephemeral: bool) -> Self {
        Self {
            data: base.join(if ephemeral { "ephemeral" } else { "data" }),
            logs: base.join("logs"),
            base,
            ephemeral,
        }
    }

    /// Locks the directories against a second cluster until the file is closed.
    ///
    /// # Errors
    /// Another cluster holds the lock.
    pub fn lock(&self) -> Result<File, String> {
        let path = self.base.join("lock");
        let fault = |why: io::Error| format!("can't lock {}: {why}", path.display());
        fs::create_dir_all(&self.base).map_err(fault)?;
        let file = File::create(&path).map_err(fault)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err("a cluster of this checkout is already running".to_owned())
            }
            Err(TryLockError::Error(why)) => Err(fault(why)),
        }
    }

    /// Creates the directories.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn make(&self) -> Result<(), String> {
        if self.ephemeral {
            self.clear()?;
        }
        for folder in ["secrets", "broker-settings"].map(|name| self.data.join(name)) {
            make(&folder)?;
        }
        make(&self.logs)
    }

    /// Removes the data of the nodes.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn clear(&self) -> Result<(), String> {
        match fs::remove_dir_all(&self.data) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                Err(format!("can't remove {}: {why}", self.data.display()))
            }
            _ => Ok(()),
        }
    }

    /// Creates the missing secrets.
    ///
    /// # Errors
    /// The script fails.
    pub fn make_secrets(&self, workspace: &Workspace) -> Result<(), String> {
        let mut command = Command::new("sh");
        command
            .arg(workspace.root().join(MAKE_SECRETS))
            .arg(self.data.join("secrets"))
            .arg(self.data.join("broker-settings"))
            // The port is set later: it differs in each run.
            .arg("127.0.0.1:5672");
        process::run(&mut command, Duration::from_secs(10))
    }

    /// Writes the broker's port, which differs in each run, into the URL of the nodes.
    ///
    /// # Errors
    /// The URL file is missing or invalid.
    pub fn set_broker_port(&self, port: u16) -> Result<(), String> {
        let path = self.data.join("secrets/amqp-url");
        let fault = |why: io::Error| format!("can't change {}: {why}", path.display());
        let url = fs::read_to_string(&path).map_err(fault)?;
        let (user, _) = url
            .rsplit_once('@')
            .ok_or_else(|| format!("{} is not the URL of a broker", path.display()))?;
        fs::remove_file(&path).map_err(fault)?;
        fs::write(&path, format!("{user}@127.0.0.1:{port}/%2f\n")).map_err(fault)
    }
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|why| format!("can't make {}: {why}", folder.display()))
}
