//! Runs other programs with a timeout and without standard input.
//!
//! Invariant: a program that exceeds its timeout is killed; in CI, together with all processes that
//! it started.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Polling interval of a running program.
const POLL: Duration = Duration::from_millis(50);

/// Whether this is an unattended run: `CI` is set, and not empty, `0` or `false`.
pub fn in_ci() -> bool {
    env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Runs `command` until it ends. It inherits standard output and standard error.
///
/// # Errors
/// It can't start, fails, or takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<(), String> {
    println!("$ {}", line(command));
    let own_group = in_ci();
    if own_group {
        // On a terminal the program stays in this process group, so that it receives an interrupt
        // from the keyboard.
        command.process_group(0);
    }
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .map_err(|why| format!("can't run {}: {why}", line(command)))?;
    let status = match wait(&mut child, limit)? {
        Some(status) => status,
        None => {
            end(&mut child, own_group);
            return Err(format!(
                "{} took longer than {} s",
                line(command),
                limit.as_secs()
            ));
        }
    };
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} ended with {status}", line(command)))
    }
}

/// The standard output of `command`, if it ran and succeeded.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until `child` ends. Returns `None` if it still runs after `limit`.
///
/// # Errors
/// The operating system reports an error.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>, String> {
    let deadline = Instant::now() + limit;
    loop {
        let status = child
            .try_wait()
            .map_err(|why| format!("can't wait for process {}: {why}", child.id()))?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        thread::sleep(POLL);
    }
}

/// Sends a signal, given by name, to a process, or to a process group if `target` starts with `-`.
///
/// It runs the shell's `kill`, because the standard library can't send signals.
///
/// # Errors
/// There is no such process.
pub fn signal(name: &str, target: &str) -> Result<(), String> {
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$1\" -- \"$2\"", "sh", name, target])
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("can't send {name} to process {target}")),
    }
}

/// Kills all processes of a group.
///
/// # Errors
/// The group is empty.
pub fn kill_group(id: u32) -> Result<(), String> {
    let group = format!("-{id}");
    // Suppresses the shell's error message if the group is empty, which is the normal case.
    match output(Command::new("sh").args(["-c", "kill -s KILL -- \"$1\"", "sh", &group])) {
        Some(_) => Ok(()),
        None => Err(format!("no process is left in group {id}")),
    }
}

fn end(child: &mut Child, own_group: bool) {
    if own_group {
        // The process may have just ended.
        let _ = signal("KILL", &format!("-{}", child.id()));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// A command as it would be typed.
pub fn line(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| {
            Some(format!("{}={}", name.to_str()?, quoted(value?.to_str()?)))
        })
        .collect();
    words.push(quoted(&command.get_program().to_string_lossy()));
    words.extend(command.get_args().map(|arg| quoted(&arg.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn success_and_failure_are_told_apart() {
        let limit = Duration::from_secs(10);
        assert!(run(&mut sh("exit 0"), limit).is_ok());
        assert!(run(&mut sh("exit 3"), limit).is_err_and(|why| why.contains('3')));
        assert!(run(&mut Command::new("no-such-program-here"), limit).is_err());
    }

    #[test]
    fn an_overrun_is_ended() {
        let outcome = run(&mut sh("exec sleep 60"), Duration::from_millis(100));
        assert!(outcome.is_err_and(|why| why.contains("longer")));
    }

    #[test]
    fn a_line_can_be_typed_again() {
        let mut command = sh("echo it's");
        command.env("FLAGS", "-D warnings");
        assert_eq!(line(&command), r"FLAGS='-D warnings' sh -c 'echo it'\''s'");
    }
}
