//! A running `headcount serve`, for stages that need a real server.
//!
//! Invariant: the server never outlives the value.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::process;

/// Timeout for the address to be printed, and then for readiness.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Timeout for the server to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Timeout of one readiness check.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Delay between two readiness checks.
const READY_POLL: Duration = Duration::from_millis(100);

/// Number of log lines that a failure shows.
const LOG_LINES_SHOWN: usize = 30;

/// A server on a free port.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Server {
    /// Starts `binary` with an empty data directory below `scratch`, and waits until it is ready.
    ///
    /// # Errors
    /// It doesn't start, ends, or isn't ready in time. The message contains the end of its log.
    pub fn start(binary: &Path, scratch: &Path) -> Result<Self, String> {
        let data = scratch.join("data");
        let log = scratch.join("server.log");
        let io = |why| format!("can't prepare {}: {why}", scratch.display());
        if data.exists() {
            fs::remove_dir_all(&data).map_err(io)?;
        }
        fs::create_dir_all(&data).map_err(io)?;
        let log_file = File::create(&log).map_err(io)?;
        let mut command = Command::new(binary);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .current_dir(scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file.try_clone().map_err(io)?);
        println!("$ {}", process::line(&command));
        let mut child = command
            .spawn()
            .map_err(|why| format!("can't run {}: {why}", binary.display()))?;
        let address = address_of(&mut child, log_file);
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Self {
            child,
            address: address.unwrap_or(unspecified),
            log,
        };
        if address.is_none() {
            return Err(server.failure("did not print the address that it listens on"));
        }
        server.wait_until_ready()?;
        Ok(server)
    }

    /// `http://` and the address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops the server with SIGTERM, as an operator would. The server must still be ready before
    /// and must end cleanly.
    ///
    /// # Errors
    /// It isn't ready any more, its exit status isn't zero, or it does not end in time.
    pub fn stop(mut self) -> Result<(), String> {
        if status_of(self.address, "/readyz") != Some(200) {
            return Err(self.failure("is not ready any more"));
        }
        process::signal("TERM", &self.child.id().to_string())?;
        match process::wait(&mut self.child, STOP_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failure(&format!("ended with {status} after SIGTERM"))),
            None => Err(self.failure("did not end after SIGTERM")),
        }
    }

    /// Builds an error message with the end of the log.
    pub fn failure(&self, what: &str) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
        format!(
            "the server {what}; the end of {}:\n{}",
            self.log.display(),
            lines[from..].join("\n")
        )
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        while status_of(self.address, "/readyz") != Some(200) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failure(&format!("ended with {status} before it was ready")));
            }
            if Instant::now() >= deadline {
                return Err(self.failure("was not ready in time"));
            }
            thread::sleep(READY_POLL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the address that a server prints. Copies its output to `log` for as long as it runs.
pub fn address_of(child: &mut Child, log: File) -> Option<SocketAddr> {
    let stdout = child.stdout.take()?;
    let (found, finds) = mpsc::channel();
    thread::spawn(move || drain(stdout, log, &found));
    finds.recv_timeout(START_LIMIT).ok()
}

fn drain(stdout: ChildStdout, mut log: File, found: &mpsc::Sender<SocketAddr>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if let Some(address) = address_in(&line) {
            // Only the first address matters; for later ones the receiver may be gone.
            let _ = found.send(address);
        }
        let _ = writeln!(log, "{line}");
    }
}

/// The address of the first `http://ADDRESS:PORT` in `line`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("http://")?;
    let end = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || "[].:".contains(c)))
        .unwrap_or(rest.len());
    rest[..end].trim_end_matches('.').parse().ok()
}

/// The status of a GET request, if there is a response.
pub fn status_of(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT).ok()?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    stream.set_write_timeout(Some(ANSWER_LIMIT)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    // "HTTP/1.1 200"
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head)
        .ok()?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_address_is_found_in_any_line() {
        let address = |line| address_in(line).map(|address| address.to_string());
        let plain = Some("127.0.0.1:8080".to_owned());
        assert_eq!(address("listening on http://127.0.0.1:8080"), plain);
        assert_eq!(address("see http://127.0.0.1:8080/docs."), plain);
        assert_eq!(address("at http://127.0.0.1:8080."), plain);
        assert_eq!(address("at http://[::1]:80,"), Some("[::1]:80".to_owned()));
        assert_eq!(address("starting"), None);
        assert_eq!(address("http://example:80"), None);
    }

    #[test]
    fn a_status_is_read_from_the_first_line() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            stream
                .write_all(b"HTTP/1.1 503 Busy\r\n\r\n")
                .expect("write");
            let mut request = String::new();
            // The client closes the connection early; the request received so far is enough.
            let _ = stream.read_to_string(&mut request);
            request
        });
        assert_eq!(status_of(address, "/readyz"), Some(503));
        assert!(
            peer.join()
                .expect("peer")
                .starts_with("GET /readyz HTTP/1.1\r\n")
        );
    }

    #[test]
    fn a_server_that_prints_no_address_is_refused() {
        let scratch = std::env::temp_dir().join(format!("headcount-xtask-{}", std::process::id()));
        let outcome = Server::start(Path::new("true"), &scratch);
        let _ = fs::remove_dir_all(&scratch);
        assert!(outcome.is_err_and(|why| why.contains("address")));
    }
}
