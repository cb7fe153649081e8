//! Starting, stopping, and what is refused.
//!
//! Invariant: exit codes and the one line of an error are part of the interface.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::node::{Node, PATIENCE, items, run, wait};

#[tokio::test]
async fn sigterm_and_ctrl_c_drain_and_end_with_zero() {
    for signal in ["-TERM", "-INT"] {
        let mut node = Node::start(&[]);
        node.post(&items("a", 0, 5)).await;
        node.signal(signal);
        assert_eq!(node.wait().code(), Some(0), "{signal}");
        let verified = run(&[
            "verify",
            "--data-dir",
            &node.data_dir().display().to_string(),
        ]);
        assert_eq!(verified.stdout, "1 tenants, 5 items: all counts agree\n");
        assert_eq!(verified.status.code(), Some(0));
    }
}

#[tokio::test]
async fn what_is_acknowledged_while_stopping_is_there_afterwards() {
    let mut node = Node::start(&[]);
    let data_dir = node.data_dir().to_owned();
    let posting = {
        let client = crate::node::client_builder().build().expect("a client");
        let url = format!("{}/items", node.url());
        tokio::spawn(async move {
            let mut acknowledged = 0_u64;
            for id in 0.. {
                let item = json!({"id": id.to_string(), "tenant": "a"});
                let sent = client.post(&url).json(&item).send().await;
                match sent {
                    Ok(answer) if answer.status() == 200 => acknowledged += 1,
                    _ => break,
                }
            }
            acknowledged
        })
    };
    let deadline = Instant::now() + PATIENCE;
    while node.count("a").await < 20 {
        assert!(Instant::now() < deadline, "nothing is counted");
    }
    assert_eq!(node.terminate().code(), Some(0));
    let acknowledged = posting.await.expect("joined");
    let again = Node::start_in(&data_dir, &[]);
    let count = again.count("a").await;
    assert!(
        (acknowledged..=acknowledged + 1).contains(&count),
        "{acknowledged} <= {count}"
    );
}

/// Whoever sends requests hears of the end late: from another place that looks at `/readyz` now and
/// then.
#[tokio::test]
async fn readiness_goes_before_the_listener() {
    let mut node = Node::start(&["--shutdown-delay-ms", "1500"]);
    node.post(&items("a", 0, 5)).await;
    let told = Instant::now();
    node.signal("-TERM");
    let gone = crate::kit::wait::until("a node that is not ready", async || {
        match node.get("/readyz").await {
            ready if ready.status == 200 => Err(ready.text),
            gone => Ok(gone),
        }
    })
    .await;
    gone.assert_problem(503, "not-ready");
    // A new connection of a client that has not heard of it.
    let other = crate::node::client_builder().build().expect("a client");
    let url = format!("{}/items", node.url());
    let posted = other.post(&url).json(&items("a", 5, 5)).send().await;
    assert_eq!(posted.expect("an answer").status(), 200);
    assert_eq!(node.get("/healthz").await.status, 200);
    assert_eq!(node.count("a").await, 10);
    assert_eq!(node.wait().code(), Some(0));
    assert!(told.elapsed() >= Duration::from_millis(1_500));
}

/// What was begun to be sent before the listener closed is taken, though it ends after that.
#[tokio::test]
async fn an_upload_under_way_is_taken_while_stopping() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut node = Node::start(&["--shutdown-delay-ms", "100"]);
    let address = node.url().trim_start_matches("http://").to_owned();
    let body = items("a", 0, 500).to_string();
    let (first, rest) = body.split_at(body.len() / 2);
    let head = format!(
        "POST /items HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{first}",
        body.len()
    );
    let mut upload = tokio::net::TcpStream::connect(&address)
        .await
        .expect("connected");
    upload.write_all(head.as_bytes()).await.expect("sent");
    // It was received so far: others of the same connection's time are answered.
    assert_eq!(node.count("a").await, 0);
    node.signal("-TERM");
    crate::kit::wait::until("a listener that is closed", async || {
        match tokio::net::TcpStream::connect(&address).await {
            Ok(_) => Err("it is open"),
            Err(_) => Ok(()),
        }
    })
    .await;
    upload.write_all(rest.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    upload.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(node.wait().code(), Some(0));
    let again = Node::start_in(node.data_dir(), &[]);
    assert_eq!(again.count("a").await, 500);
}

#[tokio::test]
async fn a_second_signal_ends_the_delay_at_once() {
    let mut node = Node::start(&["--shutdown-delay-ms", "3600000"]);
    node.post(&items("a", 0, 5)).await;
    node.signal("-TERM");
    crate::kit::wait::until("a node that is not ready", async || {
        let ready = node.get("/readyz").await;
        (ready.status == 503).then_some(()).ok_or(ready.text)
    })
    .await;
    node.signal("-TERM");
    assert_eq!(node.wait().code(), Some(130));
    let again = Node::start_in(node.data_dir(), &[]);
    assert_eq!(again.count("a").await, 5);
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_hold_up_the_stop_for_ever() {
    let mut node = Node::start(&["--drain-timeout-ms", "200"]);
    let address = node.url().trim_start_matches("http://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connected");
    let head =
        b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head)
        .await
        .expect("sent");
    let mut buffer = [0; 25];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut buffer)
        .await
        .expect("continue");
    let stopped = tokio::time::timeout(Duration::from_secs(30), async { node.terminate() }).await;
    assert_eq!(stopped.expect("in time").code(), Some(0));
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_spoil_the_stop() {
    let mut node = Node::start(&["--drain-timeout-ms", "200"]);
    node.post(&items("a", 0, 1)).await;
    let address = node.url().trim_start_matches("http://").to_owned();
    let mut idle = Vec::new();
    for sent in ["", "GET /healthz HT"] {
        let mut stream = std::net::TcpStream::connect(&address).expect("connected");
        std::io::Write::write_all(&mut stream, sent.as_bytes()).expect("sent");
        idle.push(stream);
    }
    assert_eq!(node.terminate().code(), Some(0));
}

/// A read that meets damage tells which file and where, and the process does not go on as if all
/// were well.
#[tokio::test]
async fn damage_that_a_read_meets_stops_the_process_and_is_named() {
    let mut node = Node::start(&[]);
    node.post(&items("a", 0, 20_000)).await;
    let data_dir = node.data_dir().to_owned();
    // A clean stop leaves everything in a run.
    assert_eq!(node.terminate().code(), Some(0));
    let run = std::fs::read_dir(&data_dir)
        .expect("read")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.display().to_string().contains("run-"))
        .expect("a run");
    let mut node = Node::start_logged(&data_dir);
    let mut bytes = std::fs::read(&run).expect("read");
    for block in 1..bytes.len() / 4096 {
        bytes[block * 4096 + 1_000] ^= 1;
    }
    std::fs::write(&run, bytes).expect("written");
    let answer = node.get("/items/a/ids/7").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(node.wait().code(), Some(1));
    let log = node.log();
    assert!(
        log.contains(&format!("{} is damaged at byte ", run.display())),
        "{log}"
    );
}

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
            "listen is \"nowhere\" (from --listen): it must be an address and port such as 127.0.0.1:3000 or [::1]:3000, or unix:/path of a socket",
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
        "headcount: log-format is \"xml\" (from HEADCOUNT_LOG_FORMAT): it must be auto, text or json\n"
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
            format!("headcount: {path}: there is no data of Headcount in it\n")
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

/// A limit on the size of files stands for all but a full disk: the write that would exceed it
/// fails.
#[tokio::test]
async fn a_failed_write_stops_the_process_and_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("data");
    let mut node = Node::start_limited(&data_dir, "-f 8192", &[]);
    let mut acknowledged = 0;
    for post in 0..2_000 {
        let request =
            node.request(reqwest::Method::POST, "/items")
                .json(&items("a", post * 500, 500));
        match crate::node::Answer::try_of(request).await {
            Ok(answer) if answer.status == 200 => acknowledged += 500,
            Ok(answer) => {
                answer.assert_problem(503, "outcome-unknown");
                break;
            }
            Err(_) => break,
        }
    }
    assert_eq!(node.wait().code(), Some(1), "a failed write is fatal");
    assert!(acknowledged > 0);
    let node = Node::start_in(&data_dir, &[]);
    let count = node.count("a").await;
    assert!(
        (acknowledged..=acknowledged + 500).contains(&count),
        "{acknowledged} <= {count}"
    );
}

#[test]
fn a_log_filter_that_would_silence_everything_is_refused() {
    let refused = run(&["serve", "--log", "warning", "--log-format", "text"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        refused.stderr.starts_with(
            "headcount: log is \"warning\" (from --log): it must be a level (off, error, warn, info, debug or trace)"
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

#[tokio::test]
async fn every_line_of_a_json_log_is_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let file = std::fs::File::create(&log).expect("a file");
    let start = |data: &std::path::Path, args: &[&str]| {
        let mut command = crate::node::headcount();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(args)
            .stdout(file.try_clone().expect("a file"))
            .stderr(file.try_clone().expect("a file"));
        command.spawn().expect("the program starts")
    };
    let json = ["--log-format", "json"];
    let mut node = start(&data, &json);
    let deadline = Instant::now() + PATIENCE;
    let greeting = loop {
        let text = std::fs::read_to_string(&log).expect("a log");
        if let Some(line) = text.lines().find(|line| line.contains("is listening on")) {
            break serde_json::from_str::<Value>(line).expect("JSON");
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let url = greeting["url"].as_str().expect("an address");
    assert!(url.starts_with("http://127.0.0.1:"), "{greeting}");
    // Ends that are errors: before the log starts, by misuse, and after.
    for (args, status) in [
        (&["--items-max", "0"][..], 2),
        (&["--nonsense"], 2),
        (&[], 1),
    ] {
        let mut twin = start(&data, &[&json, args].concat());
        assert_eq!(wait(&mut twin).code(), Some(status));
    }
    // A panic, of a task that debug builds let a test choose.
    let mut command = crate::node::headcount();
    command
        .env("HEADCOUNT_TEST_PANIC", "metrics-upkeep")
        .env("RUST_BACKTRACE", "1")
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path().join("panics"))
        .args(json)
        .stdout(file.try_clone().expect("a file"))
        .stderr(file.try_clone().expect("a file"));
    let mut panics = command.spawn().expect("the program starts");
    assert_eq!(wait(&mut panics).code(), Some(1));
    node.kill().expect("killed");
    node.wait().expect("waited");
    let text = std::fs::read_to_string(&log).expect("a log");
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        line["message"].as_str().expect("a message").to_owned()
    });
    let lines: Vec<String> = lines.collect();
    for told in [
        "items-max is \"0\"",
        "unexpected argument '--nonsense' found",
        "is in use by another process",
        "a thread panicked",
        "the task metrics-upkeep panicked",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(told)),
            "{told} in {text}"
        );
    }
}

#[tokio::test]
async fn trouble_on_this_side_is_told_with_the_id_of_its_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("made");
    let node = Node::start_logged(&data);
    let ask = async |id: Option<&str>| {
        // Without time, a strong read has no answer, unless it is quicker than that.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let path = "/items/a/count?consistency=strong&timeout_ms=0";
            let mut request = node.request(reqwest::Method::GET, path);
            if let Some(id) = id {
                request = request.header("X-Request-Id", id);
            }
            let answer = crate::node::Answer::of(request).await;
            if answer.status == 503 {
                answer.assert_problem(503, "no-majority");
                assert_eq!(
                    answer.json["request_id"],
                    json!(answer.header("x-request-id"))
                );
                return answer.header("x-request-id").to_owned();
            }
            assert!(Instant::now() < deadline, "{}", answer.text);
        }
    };
    assert_eq!(ask(Some("night-1")).await, "night-1");
    let made = ask(None).await;
    assert!(made.len() > 8, "{made}");
    let mut last = String::new();
    for _ in 0..20 {
        last = ask(None).await;
    }
    assert_ne!(made, last);
    let deadline = Instant::now() + PATIENCE;
    let lines: Vec<Value> = loop {
        let log = node.log();
        let lines = log
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let refused = lines.filter(|line: &Value| line["message"] == "refused");
        let refused: Vec<Value> = refused.collect();
        let times = refused.iter().filter_map(|line| line["times"].as_u64());
        if times.sum::<u64>() == 22 {
            break refused;
        }
        assert!(Instant::now() < deadline, "{log}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(lines[0]["request_id"], "night-1");
    assert_eq!(lines[0]["times"], 1);
    assert_eq!(lines[0]["status"], 503);
    assert_eq!(lines[0]["route"], "/items/{tenant}/count");
    assert_eq!(
        lines.last().map(|line| &line["request_id"]),
        Some(&json!(last))
    );
    assert!(lines.len() < 22, "they are counted: {lines:?}");
    // Success has none.
    let answer = node.get("/items/a/count").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("x-request-id")),
        (200, "")
    );
}
