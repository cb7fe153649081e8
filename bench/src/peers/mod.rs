//! Redis and PostgreSQL, each as a private server with its own directory, doing the same work.
//!
//! Invariant: a server starts empty on a free loopback port and never outlives its value.

mod batches;
mod load;
pub mod postgres;
pub mod redis;
mod resp;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::BenchError;

/// Timeout for a server to end after the signal to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Timeout for the first response of a server.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Polling interval.
const POLL: Duration = Duration::from_millis(20);

/// A running server.
struct Daemon {
    child: Child,
    stop: Signal,
}

impl Daemon {
    /// Starts the server; `stop` is the signal that stops it.
    fn start(peer: &'static str, command: &mut Command, stop: Signal) -> Result<Self, BenchError> {
        let child = command
            .spawn()
            .map_err(|why| BenchError::io(format!("start {peer}"), why))?;
        Ok(Self { child, stop })
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // The process may have already ended.
            let _ = kill_process(pid, self.stop);
        }
        let asked = Instant::now();
        while !self.has_ended() && asked.elapsed() < STOP_LIMIT {
            thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes `dir` and creates it again, empty.
fn make_empty(dir: &Path) -> Result<(), BenchError> {
    match fs::remove_dir_all(dir) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            return Err(BenchError::io(format!("empty {}", dir.display()), why));
        }
        _ => {}
    }
    fs::create_dir_all(dir).map_err(|why| BenchError::io(format!("make {}", dir.display()), why))
}

/// Removes the files of a run.
fn remove(dir: &Path) -> Result<(), BenchError> {
    fs::remove_dir_all(dir).map_err(|why| BenchError::io(format!("remove {}", dir.display()), why))
}

/// A free port.
fn free_port() -> Result<u16, BenchError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|why| BenchError::io("find a free port", why))
}

/// The standard output of `command`.
fn output(peer: &'static str, command: &mut Command) -> Result<String, BenchError> {
    let output = command
        .output()
        .map_err(|why| BenchError::io(format!("run {:?}", command.get_program()), why))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(BenchError::Peer {
        peer,
        detail: format!(
            "{:?} ended with {}: {}",
            command.get_program(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    })
}
