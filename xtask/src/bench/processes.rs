//! The processes of a measurement: programs that print a result, and servers under load.
//!
//! Invariant: each process has its own process group, which is killed when its value is dropped,
//! with all processes that it started.

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

/// Timeout for a server to become ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Timeout for a server to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// Timeout for an aborted group to end.
const CUT_LIMIT: Duration = Duration::from_secs(2);

/// Polling interval.
const POLL: Duration = Duration::from_millis(20);

/// The programs, and what all measurements share.
#[derive(Debug)]
pub struct Tools {
    /// The Headcount program.
    pub headcount: PathBuf,
    /// The program of the contenders.
    pub contenders: PathBuf,
    /// Directory for files of the measurements.
    pub scratch: PathBuf,
    /// Duration of each measurement of a rate.
    pub seconds: f64,
    /// Set when everything must stop.
    pub stop: Arc<AtomicBool>,
}

impl Tools {
    /// Starts `command`, which prints one JSON object and ends.
    ///
    /// # Errors
    /// It can't start.
    pub fn spawn(&self, command: &mut Command) -> Result<Printing, String> {
        command.stdout(Stdio::piped());
        let mut group = Group::start(command)?;
        let mut output = group.child.stdout.take();
        let text = thread::spawn(move || {
            let mut text = String::new();
            if let Some(output) = &mut output {
                // Output that can't be read is not a result.
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

    /// Runs `command` and returns the JSON that it prints within `limit`.
    ///
    /// # Errors
    /// It fails, exceeds the limit, or prints no JSON, or everything must stop.
    pub fn result(&self, command: &mut Command, limit: Duration) -> Result<Value, String> {
        self.wait(self.spawn(command)?, limit)
    }

    /// Waits until a spawned command ends.
    ///
    /// # Errors
    /// Same as for [`Self::result`].
    pub fn wait(&self, mut printing: Printing, limit: Duration) -> Result<Value, String> {
        let started = Instant::now();
        let line = printing.line;
        let killed = loop {
            self.check_stop()?;
            if let Some(status) = process::wait(&mut printing.group.child, POLL)? {
                // A command that kills itself on purpose has no exit code.
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
    /// Everything must stop.
    pub fn check_stop(&self) -> Result<(), String> {
        if self.stop.load(Ordering::Relaxed) {
            Err("stopped".to_owned())
        } else {
            Ok(())
        }
    }

    /// Creates an empty directory called `name`.
    ///
    /// # Errors
    /// It can't be emptied or created.
    pub fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.scratch.join(name);
        remove(&folder)?;
        fs::create_dir_all(&folder)
            .map_err(|why| format!("can't make {}: {why}", folder.display()))?;
        Ok(folder)
    }
}

/// Removes a directory and its contents, if it exists.
///
/// # Errors
/// The operating system refuses.
pub fn remove(folder: &Path) -> Result<(), String> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).map_err(|why| format!("can't remove {}: {why}", folder.display()))
}

/// A program that prints a result.
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
    /// `http://` and the address.
    pub url: String,
}

impl Service {
    /// Starts `command` with the directory `folder`, and waits until it is ready.
    ///
    /// # Errors
    /// It doesn't become ready, or everything must stop.
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

    /// Stops the server with SIGTERM, as an operator would, and removes its directory.
    ///
    /// # Errors
    /// Its exit status is not success, or its directory can't be removed.
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

/// A process and the processes that it started.
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
            // Databases remove resources that they share with the system.
            let _ = process::signal("TERM", &format!("-{id}"));
            let _ = process::wait(&mut self.child, CUT_LIMIT);
        }
        // Usually no process is left.
        let _ = process::kill_group(id);
        let _ = self.child.wait();
    }
}
