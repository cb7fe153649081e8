//! A coordinator or a counter as a real process, with its log in a file.
//!
//! Invariant: a process never outlives its value, and its log is kept over its lives.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;

use super::node::{headcount, wait};
use super::reaper;
use super::wait::{PATIENCE, until_blocking};

/// Where a process listens, if it does.
#[derive(Debug, Default)]
struct Place {
    /// Lives are counted, so that a late line of one is not taken for the next one's.
    life: u64,
    url: Option<String>,
}

/// Where a process can be asked; it follows it over its lives.
#[derive(Debug, Clone, Default)]
pub struct Face(Arc<Mutex<Place>>);

impl Face {
    /// The address of the current life, once it has told.
    pub fn url(&self) -> Option<String> {
        self.0.lock().url.clone()
    }

    /// Which life it is, from 1, and its address once it has told.
    pub fn life(&self) -> Option<(u64, String)> {
        let place = self.0.lock();
        Some((place.life, place.url.clone()?))
    }
}

/// A process that can be started many times.
pub struct Process {
    name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    log: PathBuf,
    face: Face,
    child: Option<Child>,
}

impl Process {
    /// Starts it and does not wait.
    pub fn start(name: &str, args: Vec<String>, folder: &Path) -> Self {
        Self::start_in(name, args, folder, &[])
    }

    /// The same with more in its environment.
    pub fn start_in(name: &str, args: Vec<String>, folder: &Path, env: &[(&str, &str)]) -> Self {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut process = Self {
            name: name.to_owned(),
            args,
            env: env.collect(),
            log: folder.join(format!("{name}.log")),
            face: Face::default(),
            child: None,
        };
        process.restart();
        process
    }

    /// A new life.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log);
        let mut command = headcount();
        command
            .args(&self.args)
            .envs(self.env.clone())
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.expect("a file"));
        let mut child = reaper::spawn(&mut command);
        let stdout = child.stdout.take().expect("piped");
        let face = self.face.clone();
        let life = {
            let mut place = face.0.lock();
            place.life += 1;
            place.url = None;
            place.life
        };
        // Read to the end: left unread, a full pipe would stop the process.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut place = face.0.lock();
                if place.life == life && place.url.is_none() {
                    let url = line
                        .split_whitespace()
                        .find(|word| word.starts_with("http://"));
                    place.url = url.map(str::to_owned);
                }
            }
        });
        self.child = Some(child);
    }

    pub fn args_mut(&mut self) -> &mut Vec<String> {
        &mut self.args
    }

    pub fn face(&self) -> Face {
        self.face.clone()
    }

    /// Where it listens, once it does.
    #[track_caller]
    pub fn url(&mut self) -> String {
        until_blocking(&format!("the address of {}", self.name), PATIENCE, || {
            if let Some(status) = self.ended() {
                panic!(
                    "{} ended with {status}:\n{}",
                    self.name,
                    tail(&self.log, 60)
                );
            }
            self.face.url().ok_or("nothing printed")
        })
    }

    fn child(&mut self) -> &mut Child {
        self.child
            .as_mut()
            .unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    /// How it ended, if it did by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child().try_wait().expect("waited")
    }

    /// `kill -9`.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let group = child.id();
        reaper::signal(&child, "-KILL");
        let status = child.wait().expect("waited");
        reaper::ended(group);
        assert_eq!(
            status.signal(),
            Some(9),
            "{} had ended by itself: {status}\n{}",
            self.name,
            tail(&self.log, 60)
        );
    }

    /// SIGTERM, and the end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        reaper::signal(self.child(), "-TERM");
        self.wait_for_end()
    }

    /// Its end, which comes by itself.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let status = wait(&mut child);
        reaper::ended(child.id());
        status
    }

    /// Sends a signal, if it runs.
    pub fn signal(&self, signal: &str) {
        if let Some(child) = &self.child {
            reaper::signal(child, signal);
        }
    }

    pub fn pause(&mut self) {
        reaper::signal(self.child(), "-STOP");
    }

    pub fn resume(&mut self) {
        reaper::signal(self.child(), "-CONT");
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&mut self) -> u64 {
        let path = format!("/proc/{}/status", self.child().id());
        let status = fs::read_to_string(path).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number")
            * 1024
    }

    /// Everything that it logged in all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of the log, for a failure.
    pub fn log_tail(&self) -> String {
        tail(&self.log, 40)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            reaper::kill(child);
        }
    }
}

/// The last lines of a file under its name.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    format!("--- {}\n{}\n", path.display(), all[from..].join("\n"))
}
