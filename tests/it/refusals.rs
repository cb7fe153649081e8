//! What the program refuses at its start, and what its help says instead.
//!
//! Invariant: exit codes and the one line of an error are part of the interface; nothing is changed
//! in a folder that is refused.

use serde_json::Value;

use crate::node::{Node, items, run};

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused() {
    let node = Node::start(&[]);
    let folder = node.data_dir().display().to_string();
    for args in [
        vec!["serve", "--listen", "127.0.0.1:0", "--data-dir", &folder],
        vec!["verify", "--data-dir", &folder],
    ] {
        let refused = run(&args);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            refused.stderr.contains("is in use by another process"),
            "{}",
            refused.stderr
        );
    }
    node.post(&items("a", 0, 1)).await;
    assert_eq!(node.count("a").await, 1, "the first goes on");
}

/// What the last line of an output tells, as text or in JSON.
fn told(output: &str) -> String {
    let last = output.lines().last().unwrap_or_default();
    match serde_json::from_str::<Value>(last) {
        Ok(line) => line["message"].as_str().unwrap_or_default().to_owned(),
        Err(_) => last.trim_start_matches("headcount: ").to_owned(),
    }
}

#[test]
fn a_bad_setting_ends_at_once_with_one_line() {
    for (args, line) in [
        (
            ["serve", "--listen", "nowhere"],
            "listen is \"nowhere\" (from --listen): it must be an address and port such as \
             127.0.0.1:3000 or [::1]:3000, or unix:/path of a socket",
        ),
        (
            ["serve", "--items-max", "-5"],
            "items-max is \"-5\" (from --items-max): it must be a whole number from 1 to 1000000",
        ),
        (
            ["serve", "--config", "/none.toml"],
            "the settings file /none.toml (from --config): No such file or directory (os error 2)",
        ),
    ] {
        let refused = run(&args);
        // It is no terminal, so the line is JSON; a person gets the same as text.
        assert!(refused.stderr.starts_with('{'), "{}", refused.stderr);
        assert_eq!(told(&refused.stderr), line);
        assert_eq!(refused.stderr.lines().count(), 1);
        let as_text = run(&[&args[..], &["--log-format", "text"]].concat());
        assert_eq!(as_text.stderr, format!("headcount: {line}\n"));
        assert_eq!(refused.status.code(), Some(2));
        assert_eq!(refused.stdout, "");
    }
}

#[test]
fn a_bad_environment_variable_is_named() {
    let mut command = crate::node::headcount();
    command.arg("serve").env("HEADCOUNT_LOG_FORMAT", "xml");
    let output = command.output().expect("ran");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "headcount: log-format is \"xml\" (from HEADCOUNT_LOG_FORMAT): \
         it must be auto, text or json\n"
    );
}

#[test]
fn an_address_in_use_and_a_folder_of_something_else_are_refused() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data").display().to_string();
    let refused = run(&["serve", "--listen", &address, "--data-dir", &data]);
    assert_eq!(refused.status.code(), Some(1));
    let last = told(&refused.stderr);
    assert!(
        last.starts_with(&format!("can't listen on {address}: ")),
        "{last}"
    );

    std::fs::write(folder.path().join("thesis.txt"), "precious").expect("written");
    let foreign = folder.path().display().to_string();
    let refused = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", &foreign]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains(&foreign), "{}", refused.stderr);
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("read").collect();
    assert!(left.len() <= 3, "nothing was made of it: {left:?}");
}

#[test]
fn verify_makes_nothing_of_a_folder_that_is_not_ours() {
    let folder = tempfile::tempdir().expect("a folder");
    for path in [folder.path().to_owned(), folder.path().join("none")] {
        let path = path.display().to_string();
        let refused = run(&["verify", "--data-dir", &path]);
        assert_eq!(refused.status.code(), Some(1));
        assert_eq!(
            refused.stderr,
            format!("headcount: {path}: not a Headcount data directory\n")
        );
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 0);
}

/// Flips one byte of a file of a stopped node and expects that it is named.
#[tokio::test]
async fn a_damaged_file_is_refused_by_name_and_offset_and_left_as_it_is() {
    let mut node = Node::start(&[]);
    for post in 0..20 {
        node.post(&items("a", post * 100, 100)).await;
    }
    node.kill();
    let data_dir = node.data_dir().to_owned();
    let folder = data_dir.display().to_string();
    let journal = std::fs::read_dir(&data_dir)
        .expect("read")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.display().to_string().contains("journal-"))
        .expect("a journal");
    let mut bytes = std::fs::read(&journal).expect("read");
    let good = bytes.clone();
    // In the midst of the records: their bytes end where the zeros written ahead begin.
    let end = bytes.iter().rposition(|&byte| byte != 0).expect("records");
    bytes[end / 2] ^= 0x40;
    std::fs::write(&journal, &bytes).expect("written");
    for args in [
        vec!["serve", "--listen", "127.0.0.1:0", "--data-dir", &folder],
        vec!["verify", "--data-dir", &folder],
    ] {
        let refused = run(&args);
        assert_eq!(refused.status.code(), Some(1));
        let last = told(&refused.stderr);
        let start = format!("{} is damaged at byte ", journal.display());
        assert!(last.starts_with(&start), "{last}");
        assert_eq!(
            std::fs::read(&journal).expect("read"),
            bytes,
            "nothing was repaired"
        );
    }
    std::fs::write(&journal, good).expect("written");
    let node = Node::start_in(&data_dir, &[]);
    assert_eq!(node.count("a").await, 2_000);
}

#[test]
fn help_and_version_teach() {
    let version = run(&["--version"]);
    assert_eq!(
        version.stdout,
        concat!("headcount ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let help = run(&["--help"]);
    for word in ["serve", "count", "load", "verify", "curl"] {
        assert!(help.stdout.contains(word), "{word} in\n{}", help.stdout);
    }
    let serve = run(&["serve", "--help"]);
    for word in [
        "--listen",
        "HEADCOUNT_DATA_DIR",
        "127.0.0.1:3000",
        "--config",
    ] {
        assert!(serve.stdout.contains(word), "{word} in\n{}", serve.stdout);
    }
}

#[test]
fn a_log_filter_that_would_silence_everything_is_refused() {
    let refused = run(&["serve", "--log", "warning", "--log-format", "text"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        refused.stderr.starts_with(
            "headcount: log is \"warning\" (from --log): \
             it must be a level (off, error, warn, info, debug or trace)"
        ),
        "{}",
        refused.stderr
    );
}

#[test]
fn no_part_of_a_password_that_is_not_encoded_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("url").display().to_string();
    for url in [
        "amqp://me:12/s3cret@broker",
        "amqp://me:12@s3cret@broker",
        "amqp://me:12#s3cret@broker",
    ] {
        std::fs::write(&file, format!("\u{feff}{url}\r\n")).expect("written");
        let mut command = crate::node::headcount();
        command
            .args([
                "counter",
                "--name",
                "c1",
                "--log-format",
                "text",
                "--data-dir",
            ])
            .arg(folder.path().join("data"))
            .env("HEADCOUNT_AMQP_URL_FILE", &file);
        let output = command.output().expect("ran");
        let told = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(!output.status.success());
        assert!(!told.contains("s3cret"), "{told}");
        assert!(!told.replace(&file, "").contains("12"), "{told}");
        let source = format!("(from the file {file}, by HEADCOUNT_AMQP_URL_FILE)\n");
        assert!(told.ends_with(&source), "{told}");
    }
}

#[test]
fn an_empty_variable_is_an_absent_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = crate::node::headcount();
    for name in [
        "CONFIG",
        "MEMORY_MB",
        "LOG",
        "LOG_FORMAT",
        "DATA_DIR",
        "LISTEN",
    ] {
        command.env(format!("HEADCOUNT_{name}"), "");
    }
    let mut node = Node::start_by(command, &folder.path().join("data"));
    for args in [&["count", "a"][..], &["health"]] {
        let mut command = crate::node::headcount();
        let output = command
            .args(args)
            .env("HEADCOUNT_URL", "")
            .env("HEADCOUNT_LISTEN", node.url().trim_start_matches("http://"))
            .output();
        assert!(output.expect("ran").status.success(), "{args:?}");
    }
    assert_eq!(node.terminate().code(), Some(0));
}
