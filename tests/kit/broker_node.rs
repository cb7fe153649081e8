//! One RabbitMQ node: on free ports, in a folder of its own.
//!
//! Invariant: no node, port, cookie or folder of the machine's own broker is ever touched; what is
//! started here ends with the test process.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::broker::{PASSWORD, Tls, USER};
use super::rabbitmq::{EPMD, PROGRAMS, major, other_root};
use super::reaper;
use super::wait::{PATIENCE, until_blocking};

/// The cookie of our nodes; it keeps nobody out.
pub(super) const COOKIE: &str = "HEADCOUNTTESTS";

/// The longest that one evaluation may take.
const EVAL_LIMIT: Duration = Duration::from_secs(60);

/// Memory above which a node would stop publishers by itself; absolute, so that the machine's size
/// is no part of a test.
const MEMORY_LIMIT: &str = "8GB";

/// One node.
pub struct BrokerNode {
    name: String,
    port: u16,
    dist_port: u16,
    tls_port: Option<u16>,
    /// Where its management API listens, if it has one.
    pub(super) management_port: Option<u16>,
    /// As seen from here, and from inside the broker's tree.
    folder: PathBuf,
    folder_inside: PathBuf,
    child: Mutex<Option<Child>>,
}

impl BrokerNode {
    pub(super) fn new(number: usize, config: &str) -> Self {
        let node = Self::prepare(number, config);
        node.start();
        node
    }

    /// Everything but the process.
    pub(super) fn prepare(number: usize, config: &str) -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("headcount-broker-");
        let root = other_root();
        let folder = match &root {
            Some(root) => builder.tempdir_in(root.join("tmp")),
            None => builder.tempdir(),
        };
        let folder = folder.expect("a folder").keep();
        reaper::remove_at_the_end(&folder);
        let folder_inside = match &root {
            Some(root) => Path::new("/").join(folder.strip_prefix(root).expect("below it")),
            None => folder.clone(),
        };
        let port = reaper::free_port();
        let node = Self {
            // A name may not come twice at one port mapper.
            name: format!("test{number}-{port}@localhost"),
            port,
            dist_port: reaper::free_port(),
            tls_port: None,
            management_port: None,
            folder,
            folder_inside,
            child: Mutex::new(None),
        };
        let write =
            |name: &str, text: &str| fs::write(node.folder.join(name), text).expect("written");
        write(".erlang.cookie", COOKIE);
        let cookie = node.folder.join(".erlang.cookie");
        fs::set_permissions(cookie, fs::Permissions::from_mode(0o400)).expect("set");
        write("plugins", "[].\n");
        write("env.conf", "");
        let config = format!(
            "vm_memory_high_watermark.absolute = {MEMORY_LIMIT}\n\
             disk_free_limit.absolute = 50MB\n\
             raft.wal_max_size_bytes = 67108864\n\
             default_user = {USER}\n\
             default_pass = {PASSWORD}\n\
             {config}"
        );
        write("rabbitmq.conf", &config);
        node
    }

    /// Speaks TLS as well from its next start.
    pub(super) fn add_tls(&mut self, tls: &Tls) {
        let port = reaper::free_port();
        let write =
            |name: &str, text: &str| fs::write(self.folder.join(name), text).expect("written");
        write("certificate.pem", &tls.certificate);
        write("key.pem", &tls.key);
        let inside = self.folder_inside.display();
        self.configure(&format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {inside}/certificate.pem\n\
             ssl_options.certfile = {inside}/certificate.pem\n\
             ssl_options.keyfile = {inside}/key.pem\n\
             ssl_options.verify = verify_none\n"
        ));
        self.tls_port = Some(port);
    }

    /// Has these plugins from its next start.
    pub(super) fn enable(&self, plugins: &str) {
        fs::write(self.folder.join("plugins"), format!("[{plugins}].\n")).expect("written");
    }

    /// Adds to its settings, for its next start.
    pub(super) fn configure(&self, settings: &str) {
        let mut file = fs::File::options()
            .append(true)
            .open(self.folder.join("rabbitmq.conf"))
            .expect("prepared");
        file.write_all(settings.as_bytes()).expect("written");
    }

    /// Starts the virtual machine and does not wait for it.
    pub fn start(&self) {
        let inside = |name: &str| self.folder_inside.join(name);
        let output = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("output"))
            .expect("a file");
        let mut command = self.command("rabbitmq-server");
        command
            // Then the script becomes the virtual machine instead of waiting for it.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", inside("data"))
            .env("RABBITMQ_LOG_BASE", inside("log"))
            .env("RABBITMQ_PID_FILE", inside("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", inside("plugins"))
            .env("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output);
        let mut child = self.child.lock();
        assert!(child.is_none(), "{} runs already", self.name);
        *child = Some(reaper::spawn(&mut command));
    }

    /// A program of RabbitMQ's for this node, in the node's tree and with nothing of the machine's
    /// own settings.
    pub(super) fn command(&self, program: &str) -> Command {
        let program = format!("{PROGRAMS}/{program}");
        let mut command = match other_root() {
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LANG", "C.UTF-8")
            .env("HOME", &self.folder_inside)
            .env("RABBITMQ_NODENAME", &self.name)
            .env(
                "RABBITMQ_CONF_ENV_FILE",
                self.folder_inside.join("env.conf"),
            )
            .env("ERL_EPMD_PORT", EPMD.port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command
    }

    /// Waits until it serves.
    pub fn wait_until_up(&self) {
        until_blocking("a broker that has started", PATIENCE, || {
            if let Some(child) = &mut *self.child.lock()
                && let Ok(Some(status)) = child.try_wait()
            {
                panic!("the broker ended with {status}:\n{}", self.log());
            }
            match self.try_eval("rabbit:is_booted()") {
                Ok(answer) if answer == "true" => Ok(()),
                seen => Err(seen),
            }
        });
    }

    /// `kill -9`.
    pub fn kill(&self) {
        let child = self.child.lock().take();
        reaper::kill(&mut child.expect("it runs"));
    }

    /// `kill -9`, and the loss of its disk.
    pub fn lose(&self) {
        self.kill();
        fs::remove_dir_all(self.folder.join("data")).expect("removed");
    }

    /// A new node in the old one's place, which has lost its disk.
    pub fn replace(&self) {
        self.lose();
        self.start();
        self.wait_until_up();
    }

    /// How many nodes of its cluster it sees running.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn running_nodes(&self) -> Result<u64, String> {
        let list = if major() == 3 {
            "all_running"
        } else {
            "list_running"
        };
        let running = self.try_eval(&format!("length(rabbit_nodes:{list}())"))?;
        running.parse().map_err(|_| running)
    }

    /// Makes sure that queues declared just now survive a [`Self::kill`]. RabbitMQ keeps their
    /// names in tables that it writes some seconds late; killed before that, it comes back with a
    /// queue that never answers.
    pub fn settle(&self) {
        self.eval("[ok = dets:sync(Table) || Table <- dets:all()]");
    }

    /// A clean stop, as a service manager does it.
    pub fn stop(&self) {
        let mut child = self.child.lock().take().expect("it runs");
        reaper::signal(&child, "-TERM");
        super::node::wait(&mut child);
        reaper::ended(child.id());
    }

    pub fn pause(&self) {
        reaper::signal(self.child.lock().as_ref().expect("it runs"), "-STOP");
    }

    pub fn resume(&self) {
        reaper::signal(self.child.lock().as_ref().expect("it runs"), "-CONT");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port and the scheme for nodes: TLS where it is spoken.
    pub fn way(&self) -> (u16, &'static str) {
        match self.tls_port {
            Some(port) => (port, "amqps"),
            None => (self.port, "amqp"),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The end of its log and of what it printed.
    pub fn log(&self) -> String {
        let log = self.folder.join("log").join(format!("{}.log", self.name));
        [self.folder.join("output"), log]
            .iter()
            .map(|path| super::process::tail(path, 40))
            .collect()
    }

    /// Evaluates an Erlang expression in the node and gives the result as text, in Erlang's
    /// notation.
    ///
    /// # Errors
    /// When the node does not answer or the expression fails.
    pub fn try_eval(&self, expression: &str) -> Result<String, String> {
        let mut command = Command::new("erl_call");
        command
            .args(["-e", "-n", &self.name, "-c", COOKIE])
            .env("ERL_EPMD_PORT", EPMD.port.to_string())
            .env("HOME", &self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("erl_call of Debian's erlang-base");
        let text = format!("lists:flatten(io_lib:format(\"~0tp\", [begin {expression} end])).\n");
        let mut stdin = child.stdin.take().expect("piped");
        // It may have ended already, not finding the node.
        let _ = stdin.write_all(text.as_bytes());
        drop(stdin);
        let deadline = Instant::now() + EVAL_LIMIT;
        while child.try_wait().expect("waited").is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{} does not answer", self.name));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let output = child.wait_with_output().expect("waited");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let answer = stdout
            .trim()
            .strip_prefix("{ok, \"")
            .and_then(|rest| rest.strip_suffix("\"}"));
        match answer {
            Some(answer) => Ok(answer.replace("\\\"", "\"").replace("\\\\", "\\")),
            None if stdout.trim() == "{ok, []}" => Ok(String::new()),
            None => Err(format!(
                "{stdout}{}",
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }

    /// The same where it must work.
    #[track_caller]
    pub fn eval(&self, expression: &str) -> String {
        // A node that is busy or just starting may not be reached at once; then nothing was
        // evaluated.
        until_blocking("an evaluation", EVAL_LIMIT, || {
            match self.try_eval(expression) {
                Err(why) if why.contains("failed to connect") => Err(why),
                outcome => Ok(outcome),
            }
        })
        .unwrap_or_else(|why| panic!("{expression} on {}: {why}", self.name))
    }

    /// A memory alarm, which stops publishers, or its end.
    pub fn memory_alarm(&self, on: bool) {
        // What the memory monitor does; it does not run where it can't tell the machine's memory.
        let alarm = format!("{{{{resource_limit, memory, '{}'}}, []}}", self.name);
        self.eval(&match on {
            true => format!("rabbit_alarm:set_alarm({alarm})"),
            false => format!("rabbit_alarm:clear_alarm(element(1, {alarm}))"),
        });
        until_blocking("the alarm", PATIENCE, || {
            let alarms = self.eval("rabbit_alarm:get_alarms()");
            match alarms.contains("memory") == on {
                true => Ok(()),
                false => Err(alarms),
            }
        });
    }
}

impl Drop for BrokerNode {
    fn drop(&mut self) {
        if let Some(child) = &mut *self.child.lock() {
            reaper::kill(child);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
