//! The whole service as one child process, and a client that speaks to it.
//!
//! Invariant: a node never outlives its test, and every wait is for a condition, with a limit.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The longest that any single step of a test may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the long form of a test is asked for.
pub fn long() -> bool {
    std::env::var_os("HEADCOUNT_TEST_LONG").is_some()
}

/// The program, without any setting from the outside.
pub fn headcount() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HEADCOUNT_") {
            command.env_remove(name);
        }
    }
    command
}

/// A client's builder, with TLS ready although nothing here uses it.
pub fn client_builder() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(PATIENCE)
}

/// Beside the data folder, which takes no strangers.
fn log_path(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("log")
}

/// A running node. Dropping it kills it.
pub struct Node {
    child: Child,
    url: String,
    /// What paths are joined to: of a socket, any name does.
    base: String,
    data_dir: PathBuf,
    _folder: Option<TempDir>,
    http: reqwest::Client,
}

impl Node {
    /// Starts a node on a new folder.
    pub fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = folder.path().join("data");
        let mut node = Self::start_in(&data_dir, flags);
        node._folder = Some(folder);
        node
    }

    /// Starts a node on an existing folder and waits until it listens.
    pub fn start_in(data_dir: &Path, flags: &[&str]) -> Self {
        Self::spawn(headcount(), data_dir, flags)
    }

    /// Starts a node by a command with an environment of its own.
    pub fn start_by(command: Command, data_dir: &Path) -> Self {
        Self::spawn(command, data_dir, &[])
    }

    /// Starts a node whose log is kept for [`Self::log`].
    pub fn start_logged(data_dir: &Path) -> Self {
        let mut command = headcount();
        let log = std::fs::File::create(log_path(data_dir)).expect("a file");
        command.stderr(log);
        Self::spawn(command, data_dir, &[])
    }

    /// Starts a node from a working folder, from where `data_dir` is found. Its log goes to the
    /// file `log`.
    pub fn start_from(working: &Path, data_dir: &Path, log: &Path) -> Self {
        let mut command = headcount();
        let log = std::fs::File::create(log).expect("a file");
        command.stderr(log).current_dir(working);
        Self::spawn(command, data_dir, &[])
    }

    /// The log of a node made by [`Self::start_logged`].
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_path(&self.data_dir)).expect("a log")
    }

    /// Starts a node under a limit of the shell's `ulimit`.
    pub fn start_limited(data_dir: &Path, limit: &str, flags: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        // With the signal ignored, a write beyond the limit on files fails.
        let script = format!("trap '' XFSZ; ulimit {limit}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_headcount")]);
        Self::spawn(shell, data_dir, flags)
    }

    fn spawn(mut command: Command, data_dir: &Path, flags: &[&str]) -> Self {
        let listen: &[&str] = match flags.contains(&"--listen") {
            true => &[],
            false => &["--listen", "127.0.0.1:0"],
        };
        let mut child = command
            .arg("serve")
            .args(listen)
            .args(["--log", "warn", "--data-dir"])
            .arg(data_dir)
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = child.stdout.take().expect("piped");
        let (printed, first) = std::sync::mpsc::channel();
        // Read to the end: left unread, a full pipe would stop the node.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = printed.send(line);
            }
        });
        let Ok(first) = first.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            panic!("the node printed nothing; it ended with {:?}", child.wait());
        };
        let url = first
            .split_whitespace()
            .find(|word| word.starts_with("http://") || word.starts_with("unix:"))
            .unwrap_or_else(|| panic!("no address in {first:?}"));
        let (client, base) = match url.strip_prefix("unix:") {
            Some(path) => (client_builder().unix_socket(path), "http://localhost"),
            None => (client_builder(), url),
        };
        Self {
            child,
            url: url.to_owned(),
            base: base.to_owned(),
            data_dir: data_dir.to_owned(),
            _folder: None,
            http: client.build().expect("a client"),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// `kill -9`, then a new life on the same folder.
    pub fn kill_and_restart(&mut self, flags: &[&str]) {
        self.kill();
        let mut next = Self::start_in(&self.data_dir, flags);
        std::mem::swap(self, &mut next);
        self._folder = next._folder.take();
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        let status = self.child.wait().expect("waited");
        assert_eq!(
            status.signal(),
            Some(9),
            "the node had ended by itself: {status}"
        );
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.wait()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.expect("kill runs").success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the node runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number")
            * 1024
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .timeout(PATIENCE)
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    /// Posts a JSON body.
    pub async fn post(&self, body: &Value) -> Answer {
        self.post_as(Some("application/json"), body.to_string())
            .await
    }

    pub async fn post_as(
        &self,
        content_type: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let mut request = self.request(Method::POST, "/items").body(body);
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        Answer::of(request).await
    }

    /// An exact count.
    pub async fn count(&self, tenant: &str) -> u64 {
        let answer = self.get(&format!("/items/{tenant}/count")).await;
        assert_eq!(answer.status, 200, "{}", answer.json);
        assert_eq!(answer.json["tenant"], json!(tenant));
        assert_eq!(answer.json["exact"], json!(true));
        answer.json["count"].as_u64().expect("a number")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a child's end; one that does not end in time is killed and fails the test.
pub fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("waited") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the process did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An answer, with its body as JSON where it is that.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        Self::try_of(request).await.expect("an answer")
    }

    pub async fn try_of(request: RequestBuilder) -> reqwest::Result<Self> {
        let response = request.send().await?;
        let status = response.status();
        let headers = response.headers().clone();
        let text = response.text().await?;
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Self {
            status,
            headers,
            text,
            json,
        })
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }

    /// Asserts a problem of this status and kind, in the form that all problems have.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, kind: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(
            self.json["type"],
            json!(format!("urn:headcount:problem:{kind}"))
        );
        assert_eq!(self.json["status"], json!(status));
        for field in ["title", "detail"] {
            let text = self.json[field].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{field} is missing in {}", self.text);
        }
        if status == 503 {
            assert!(!self.header("retry-after").is_empty());
        }
    }
}

/// What a command printed and how it ended.
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command of the program to its end.
pub fn run(args: &[&str]) -> Ran {
    let mut child = headcount()
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stdout = child.stdout.take().expect("piped");
    let stderr = child.stderr.take().expect("piped");
    let stdout = std::thread::spawn(move || std::io::read_to_string(stdout).expect("UTF-8"));
    let stderr = std::thread::spawn(move || std::io::read_to_string(stderr).expect("UTF-8"));
    Ran {
        status: wait(&mut child),
        stdout: stdout.join().expect("read"),
        stderr: stderr.join().expect("read"),
    }
}

/// `count` items of one tenant, ids from `first`.
pub fn items(tenant: &str, first: u64, count: u64) -> Value {
    let items = (first..first + count).map(|id| json!({"id": id.to_string(), "tenant": tenant}));
    Value::Array(items.collect())
}
