//! The processes of a cluster: started, logged, started again, stopped.
//!
//! Invariant: a process never outlives its value, and each of its lines is in its log file and on
//! the terminal.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::process;

/// The longest wait for an end after a SIGTERM; a node drains and closes its store meanwhile.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// Between an end that nobody asked for and the next start.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The width of the names before the lines.
const NAME_WIDTH: usize = 11;

/// One process, and how to start it again.
pub struct Member {
    name: &'static str,
    log: PathBuf,
    command: Box<dyn Fn() -> Command>,
    /// The process to ask to stop, where that is not the one that was started.
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
    /// A process that `command` starts, with its log in the folder `logs`.
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

    /// Stops by asking the process that `target` names.
    pub fn ended_by(mut self, target: impl Fn() -> Option<u32> + 'static) -> Self {
        self.target = Some(Box::new(target));
        self
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it can't start, or its log can't be written.
    pub fn start(&mut self) -> Result<(), String> {
        let log = || {
            let file = OpenOptions::new().create(true).append(true).open(&self.log);
            file.map_err(|why| format!("can't write {}: {why}", self.log.display()))
        };
        let (of_output, of_errors) = (log()?, log()?);
        let mut command = (self.command)();
        // A group of its own: Ctrl-C at the terminal is for us, and we stop them in order.
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

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        match &mut self.child {
            Some(child) => process::wait(child, Duration::ZERO),
            None => Ok(None),
        }
    }

    /// Starts it again, a moment after it ended.
    ///
    /// # Errors
    /// When it can't start.
    pub fn restart_if_ended(&mut self) -> Result<(), String> {
        if let Some(status) = self.ended()? {
            println!("{} ended with {status}; it is started again", self.name);
            self.child = None;
            self.ended = Some(Instant::now());
        }
        match self.ended {
            Some(ended) if ended.elapsed() >= RESTART_PAUSE => self.start(),
            _ => Ok(()),
        }
    }

    /// Asks it to stop, waits, and ends what still runs then.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let target = self.target.as_ref().and_then(|target| target());
        let target = target.unwrap_or_else(|| child.id());
        // It may have ended by itself just now.
        let _ = process::signal("TERM", &target.to_string());
        if !matches!(process::wait(&mut child, STOP_LIMIT), Ok(Some(_))) {
            println!("{} does not stop; it is killed", self.name);
        }
        // What it started and left behind, too; mostly there is nothing.
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
            // A full disk must not stop the reading: the process would wait for it.
            let _ = writeln!(log, "{line}");
            println!("{name:<NAME_WIDTH$} | {line}");
        }
    });
}
