//! The processes of a cluster: start, logs, restart and stop.
//!
//! Invariant: a process never outlives its value, and each of its output lines is in its log file
//! and on the terminal.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::process;

/// Timeout for a process to end after SIGTERM, in which a node drains and closes its store.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// Delay between an unexpected end and the restart.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Width of the names in front of the lines.
const NAME_WIDTH: usize = 11;

/// One process, and the command that starts it.
pub struct Member {
    name: &'static str,
    log: PathBuf,
    command: Box<dyn Fn() -> Command>,
    /// The process that must receive the signal to stop, if it is not the started one.
    target: Option<Box<dyn Fn() -> Option<u32>>>,
    child: Option<Child>,
    ended: Option<Instant>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("name", &self.name)
            .field("child", &self.child)
            .finish_non_exhaustive()
    }
}

impl Member {
    /// Creates a process that `command` starts, with its log in directory `logs`.
    pub fn new(name: &'static str, logs: &Path, command: impl Fn() -> Command + 'static) -> Self {
        Self {
            name,
            log: logs.join(format!("{name}.log")),
            command: Box::new(command),
            target: None,
            child: None,
            ended: None,
        }
    }

    /// Sends the signal to stop to the process that `target` returns.
    pub fn ended_by(mut self, target: impl Fn() -> Option<u32> + 'static) -> Self {
        self.target = Some(Box::new(target));
        self
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Starts the process.
    ///
    /// # Errors
    /// It can't start, or its log can't be written.
    pub fn start(&mut self) -> Result<(), String> {
        let log = || {
            let file = OpenOptions::new().create(true).append(true).open(&self.log);
            file.map_err(|why| format!("can't write {}: {why}", self.log.display()))
        };
        let (of_output, of_errors) = (log()?, log()?);
        let mut command = (self.command)();
        // A separate process group: Ctrl-C reaches only this process, which then stops the members
        // in order.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|why| format!("can't run {}: {why}", process::line(&command)))?;
        println!("{} started, process {}", self.name, child.id());
        if let Some(output) = child.stdout.take() {
            copy(output, self.name, of_output);
        }
        if let Some(errors) = child.stderr.take() {
            copy(errors, self.name, of_errors);
        }
        self.child = Some(child);
        self.ended = None;
        Ok(())
    }

    /// The exit status, if the process has ended.
    ///
    /// # Errors
    /// The operating system reports an error.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        match &mut self.child {
            Some(child) => process::wait(child, Duration::ZERO),
            None => Ok(None),
        }
    }

    /// Restarts the process after a short delay if it has ended.
    ///
    /// # Errors
    /// It can't start.
    pub fn restart_if_ended(&mut self) -> Result<(), String> {
        if let Some(status) = self.ended()? {
            println!("{} ended with {status}; restarting it", self.name);
            self.child = None;
            self.ended = Some(Instant::now());
        }
        match self.ended {
            Some(ended) if ended.elapsed() >= RESTART_PAUSE => self.start(),
            _ => Ok(()),
        }
    }

    /// Sends the signal to stop, waits, and kills the process if it still runs.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let target = self.target.as_ref().and_then(|target| target());
        let target = target.unwrap_or_else(|| child.id());
        // The process may have just ended.
        let _ = process::signal("TERM", &target.to_string());
        if !matches!(process::wait(&mut child, STOP_LIMIT), Ok(Some(_))) {
            println!("{} does not stop; killing it", self.name);
        }
        // Also kills processes that it started and left running; usually there are none.
        let _ = process::kill_group(child.id());
        let _ = child.wait();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = process::kill_group(child.id());
            let _ = child.wait();
        }
    }
}

fn copy(lines: impl Read + Send + 'static, name: &'static str, mut log: File) {
    thread::spawn(move || {
        for line in BufReader::new(lines).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            // A full disk must not stop the reading, because the process would block on its output.
            let _ = writeln!(log, "{line}");
            println!("{name:<NAME_WIDTH$} | {line}");
        }
    });
}
