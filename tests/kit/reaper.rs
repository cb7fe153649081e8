//! What ends everything that a test process started, however that process ends.
//!
//! Invariant: no broker, no node, no mount and no folder outlives the test process by more than a
//! moment.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;

use parking_lot::Mutex;

/// Lives until its input ends, which the kernel does for a process that ends by whatever means.
/// Then it kills the process groups that it was told of, waits for their end, unmounts, and removes
/// the folders.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
set -f
IFS='
'
while IFS=' ' read -r verb what; do
    case $verb in
    group) groups="$groups
$what" ;;
    ended) left=
        for group in $groups; do [ "$group" = "$what" ] || left="$left
$group"; done
        groups=$left ;;
    folder) folders="$folders
$what" ;;
    mount) mounts="$mounts
$what" ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
tries=0
for group in $groups; do
    while kill -s 0 -- "-$group" 2>/dev/null && [ "$tries" -lt 50 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
done
for mount in $mounts; do umount -l -- "$mount" 2>/dev/null; done
for folder in $folders; do rm -rf -- "$folder"; done
"#;

static GUARDIAN: LazyLock<Mutex<Reaper>> = LazyLock::new(|| {
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    let input = child.stdin.take().expect("piped");
    Mutex::new(Reaper {
        input,
        _child: child,
    })
});

struct Reaper {
    input: ChildStdin,
    /// It outlives us.
    _child: Child,
}

fn tell(verb: &str, what: &str) {
    writeln!(GUARDIAN.lock().input, "{verb} {what}").expect("the reaper listens");
}

/// Starts `command` in a process group of its own that does not outlive this process.
pub fn spawn(command: &mut Command) -> Child {
    let child = command
        .process_group(0)
        .spawn()
        .unwrap_or_else(|why| panic!("{command:?} does not start: {why}"));
    tell("group", &child.id().to_string());
    child
}

/// Kills what [`spawn`] started, with its children, and waits for its end.
pub fn kill(child: &mut Child) {
    let group = child.id();
    signal(child, "-KILL");
    let _ = child.wait();
    ended(group);
}

/// Notes that the group of a child that was waited for is gone.
pub fn ended(group: u32) {
    tell("ended", &group.to_string());
}

/// Sends a signal to all of a child's group, which may have ended just now.
pub fn signal(child: &Child, signal: &str) {
    let _ = Command::new("kill")
        .args([signal, "--", &format!("-{}", child.id())])
        .stderr(Stdio::null())
        .status();
}

/// Removes `folder` at the end.
pub fn remove_at_the_end(folder: &Path) {
    tell("folder", &folder.display().to_string());
}

/// Unmounts what is mounted at `folder`, and removes that, at the end.
pub fn unmount_at_the_end(folder: &Path) {
    tell("mount", &folder.display().to_string());
    remove_at_the_end(folder);
}

/// A port that nobody listens on, below those that the system gives to outgoing connections: a
/// restart finds it free again. It is found by asking, not by listening: what is started meanwhile
/// would keep the listener until its exec.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static TAKEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    for _ in 0..1_000 {
        let mut bytes = [0; 2];
        getrandom::fill(&mut bytes).expect("randomness");
        let port = FIRST + u16::from_le_bytes(bytes) % COUNT;
        let mut taken = TAKEN.lock();
        if !taken.contains(&port) && TcpStream::connect(("127.0.0.1", port)).is_err() {
            taken.push(port);
            return port;
        }
    }
    panic!("no free port");
}

/// Frees the port of a listener at once, also when a child that was just started still has a copy
/// of it.
pub fn stop_listening(listener: impl AsFd) {
    rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("it listened");
}
