//! The RabbitMQ that is installed: its version, where its programs are, and the port mapper of all
//! nodes.
//!
//! Invariant: the machine's own port mapper is never used.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use super::reaper;
use super::wait::{PATIENCE, until_blocking};

/// Where Debian has the programs themselves, without the wrapper that changes users.
pub(super) const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// The folder of another system's tree, in which the broker runs instead of here.
pub(super) fn other_root() -> Option<PathBuf> {
    match std::env::var("HEADCOUNT_TEST_BROKER").as_deref() {
        Ok("4") => {
            let root = std::env::var_os("HEADCOUNT_TEST_BROKER_ROOT");
            Some(
                root.expect("HEADCOUNT_TEST_BROKER_ROOT names the tree with RabbitMQ 4")
                    .into(),
            )
        }
        Ok("3") | Err(_) => None,
        Ok(other) => panic!("HEADCOUNT_TEST_BROKER is 3 or 4, not {other:?}"),
    }
}

/// The first number of the broker's version.
pub fn major() -> u32 {
    if other_root().is_some() { 4 } else { 3 }
}

/// One port mapper for all nodes of the process.
pub(super) static EPMD: LazyLock<Epmd> = LazyLock::new(|| {
    let port = reaper::free_port();
    let mut epmd = Command::new("epmd");
    epmd.args(["-port", &port.to_string(), "-address", "127.0.0.1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = reaper::spawn(&mut epmd);
    until_blocking("the port mapper", PATIENCE, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop)
    });
    Epmd {
        port,
        _child: child,
    }
});

pub(super) struct Epmd {
    pub(super) port: u16,
    /// It ends with the process; nobody waits for it.
    _child: Child,
}
