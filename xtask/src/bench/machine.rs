//! The environment of a measurement: the machine, and the versions of all software that runs.
//!
//! Invariant: the description contains no name of a person, host or directory.

use std::fs;
use std::process::Command;

use crate::process;
use crate::workspace::Workspace;

/// Names and values for the header of the report.
pub fn describe() -> Vec<(String, String)> {
    let version = |program: &str, args: &[&str]| {
        let text = process::output(Command::new(program).args(args));
        text.map_or_else(
            || "not there".to_owned(),
            |text| text.lines().next().unwrap_or_default().trim().to_owned(),
        )
    };
    let postgres = "$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)/postgres --version";
    let rabbitmq = "dpkg-query --show --showformat '${Version}' rabbitmq-server";
    [
        ("processor", processor()),
        ("cores", cores()),
        ("memory", memory()),
        ("Linux", version("uname", &["-r"])),
        ("Rust", version("rustc", &["--version"])),
        ("fjall", fjall()),
        (
            "Redis",
            version("sh", &["-c", "redis-server --version | sed 's/ sha=.*//'"]),
        ),
        ("PostgreSQL", version("sh", &["-c", postgres])),
        ("RabbitMQ", version("sh", &["-c", rabbitmq])),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// The commit, and whether the checkout differs from it.
pub fn commit(workspace: &Workspace) -> String {
    let git = |args: &[&str]| {
        process::output(Command::new("git").args(args).current_dir(workspace.root()))
            .map(|text| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    // The results may differ: they are the output.
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs/performance"]);
    if changed.is_some_and(|changed| changed.is_empty()) {
        commit
    } else {
        format!("{commit}, changed")
    }
}

/// The current time in UTC.
pub fn now() -> String {
    let text = process::output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]));
    text.unwrap_or_default().trim().to_owned()
}

fn processor() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned())
}

fn cores() -> String {
    std::thread::available_parallelism().map_or_else(|_| "unknown".to_owned(), |n| n.to_string())
}

fn memory() -> String {
    let total = field("/proc/meminfo", "MemTotal");
    let kib = total.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    kib.map_or_else(
        || "unknown".to_owned(),
        |kib| format!("{:.0} GiB", kib / f64::from(1 << 20)),
    )
}

/// The version of fjall in the lock file of the contenders.
fn fjall() -> String {
    let lock = include_str!("../../../bench/Cargo.lock");
    let after = lock.split("name = \"fjall\"\nversion = \"").nth(1);
    after
        .and_then(|rest| rest.split('"').next())
        .unwrap_or("unknown")
        .to_owned()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_of_fjall_is_found() {
        assert!(super::fjall().starts_with("3."), "{}", super::fjall());
    }
}
