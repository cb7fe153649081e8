//! The processes of a measurement: programs that print a result, and servers that are put under
//! load.
//!
//! Invariant: each has a process group of its own, which ends with its value, whatever it has
//! started.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process;
use crate::server::{address_of, status_of};

/// The longest wait for a server to be ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// The longest wait for a server to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// The longest wait for a group to end that is cut off.
const CUT_LIMIT: Duration = Duration::from_secs(2);

/// Between two looks at a process.
const POLL: Duration = Duration::from_millis(20);

/// The programs, and what all measurements share.
#[derive(Debug)]
pub struct Tools {
    /// Headcount itself.
    pub headcount: PathBuf,
    /// The contenders.
    pub contenders: PathBuf,
    /// A folder for what measurements leave.
    pub scratch: PathBuf,
    /// How long each measurement of a rate lasts.
    pub seconds: f64,
    /// Set when everything is to stop.
    pub stop: Arc<AtomicBool>,
}

impl Tools {
    /// Starts `command`, which prints one JSON object and ends.
    ///
    /// # Errors
    /// When it can't start.
    pub fn spawn(&self, command: &mut Command) -> Result<Printing, String> {
        command.stdout(Stdio::piped());
        let mut group = Group::start(command)?;
        let mut output = group.child.stdout.take();
        let text = thread::spawn(move || {
            let mut text = String::new();
            if let Some(output) = &mut output {
                // What can't be read is no result.
                let _ = output.read_to_string(&mut text);
            }
            text
        });
        Ok(Printing {
            group,
            text,
            line: process::line(command),
        })
    }

    /// What `command` prints within `limit`.
    ///
    /// # Errors
    /// When it fails, takes longer, or prints no JSON, and when all is to stop.
    pub fn result(&self, command: &mut Command, limit: Duration) -> Result<Value, String> {
        self.wait(self.spawn(command)?, limit)
    }

    /// Waits for the end of what was spawned.
    ///
    /// # Errors
    /// As for [`Self::result`].
    pub fn wait(&self, mut printing: Printing, limit: Duration) -> Result<Value, String> {
        let started = Instant::now();
        let line = printing.line;
        let killed = loop {
            self.check_stop()?;
            if let Some(status) = process::wait(&mut printing.group.child, POLL)? {
                // One that kills itself on purpose has no code.
                if status.code().is_some_and(|code| code != 0) {
                    return Err(format!("{line} ended with {status}"));
                }
                break status.code().is_none();
            }
            if started.elapsed() > limit {
                return Err(format!("{line} took longer than {} s", limit.as_secs()));
            }
        };
        drop(printing.group);
        let text = printing.text.join().unwrap_or_default();
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        serde_json::from_str(last.unwrap_or_default())
            .map_err(|why| format!("{line} printed no result ({why}; killed: {killed}): {text}"))
    }

    /// # Errors
    /// When all is to stop.
    pub fn check_stop(&self) -> Result<(), String> {
        if self.stop.load(Ordering::Relaxed) {
            Err("stopped".to_owned())
        } else {
            Ok(())
        }
    }

    /// An empty folder called `name`.
    ///
    /// # Errors
    /// When it can't be emptied or made.
    pub fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.scratch.join(name);
        remove(&folder)?;
        fs::create_dir_all(&folder)
            .map_err(|why| format!("can't make {}: {why}", folder.display()))?;
        Ok(folder)
    }
}

/// Removes a folder with all that is in it, if it is there.
///
/// # Errors
/// When the system refuses.
pub fn remove(folder: &Path) -> Result<(), String> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).map_err(|why| format!("can't remove {}: {why}", folder.display()))
}

/// A program that will print a result.
#[derive(Debug)]
pub struct Printing {
    group: Group,
    text: thread::JoinHandle<String>,
    line: String,
}

/// A server under load.
#[derive(Debug)]
pub struct Service {
    group: Group,
    folder: PathBuf,
    /// `http://` and its address.
    pub url: String,
}

impl Service {
    /// Starts `command`, whose folder is `folder`, and waits until it is ready.
    ///
    /// # Errors
    /// When it doesn't get ready, or all is to stop.
    pub fn start(tools: &Tools, mut command: Command, folder: PathBuf) -> Result<Self, String> {
        let fault = |why| format!("can't write a log in {}: {why}", folder.display());
        let log = File::create(folder.join("server.log")).map_err(fault)?;
        command
            .stdout(Stdio::piped())
            .stderr(log.try_clone().map_err(fault)?);
        let mut group = Group::start(&mut command)?;
        let line = process::line(&command);
        let address = address_of(&mut group.child, log)
            .ok_or_else(|| format!("{line} printed no address; see {}", folder.display()))?;
        let started = Instant::now();
        while status_of(address, "/readyz") != Some(200) {
            tools.check_stop()?;
            if started.elapsed() > READY_LIMIT {
                return Err(format!("{line} is not ready; see {}", folder.display()));
            }
            thread::sleep(POLL);
        }
        Ok(Self {
            group,
            folder,
            url: format!("http://{address}"),
        })
    }

    /// Stops it as an operator would, and removes its folder.
    ///
    /// # Errors
    /// When it doesn't end with success, or its folder stays.
    pub fn stop(mut self) -> Result<(), String> {
        let child = &mut self.group.child;
        process::signal("TERM", &child.id().to_string())?;
        match process::wait(child, STOP_LIMIT)? {
            Some(status) if status.success() => remove(&self.folder),
            Some(status) => Err(format!("the server ended with {status}")),
            None => Err("the server does not stop".to_owned()),
        }
    }
}

/// A process and what it started.
#[derive(Debug)]
struct Group {
    child: Child,
}

impl Group {
    fn start(command: &mut Command) -> Result<Self, String> {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HEADCOUNT_") {
                command.env_remove(name);
            }
        }
        command.process_group(0).stdin(Stdio::null());
        let child = command.spawn();
        let child = child.map_err(|why| format!("can't run {}: {why}", process::line(command)))?;
        Ok(Self { child })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let id = self.child.id();
        if matches!(self.child.try_wait(), Ok(None)) {
            // Databases tidy up what they share with the system.
            let _ = process::signal("TERM", &format!("-{id}"));
            let _ = process::wait(&mut self.child, CUT_LIMIT);
        }
        // Mostly there is nothing any more.
        let _ = process::kill_group(id);
        let _ = self.child.wait();
    }
}
