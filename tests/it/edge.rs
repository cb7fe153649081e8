//! What ordinary clients send, and what reaches them: bodies that nobody wants, refusals, origins,
//! hosts and methods.
//!
//! Invariant: a client that sends a whole request gets its answer, whatever that is, and may send
//! the next one unless it is told that the connection is closed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use reqwest::Method;

use crate::node::{Answer, Node};

/// Runs a script of the tests' folder against a node, which prints what it saw.
fn script(program: &str, name: &str, args: &[&str]) -> String {
    let path = format!("{}/tests/it/clients/{name}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(program).arg(path).args(args).output();
    let output = output
        .unwrap_or_else(|why| panic!("{program}: {why}; cargo xtask test --install installs it"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{name}: {out}{err}");
    out.into_owned()
}

#[test]
fn python_gets_each_answer_and_keeps_its_connection() {
    let node = Node::start(&[]);
    assert_eq!(script("python3", "python.py", &[node.url()]), "ok\n");
}

#[test]
fn node_gets_each_answer() {
    let node = Node::start(&[]);
    assert_eq!(script("node", "node.mjs", &[node.url()]), "ok\n");
}

#[test]
fn curl_and_wget_get_refusals_of_large_bodies() {
    let node = Node::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let body = folder.path().join("body");
    std::fs::write(
        &body,
        [b"[".as_slice(), &vec![b' '; 9 << 20], b"]"].concat(),
    )
    .expect("written");
    let (url, data) = (
        format!("{}/items", node.url()),
        format!("@{}", body.display()),
    );
    for expect in ["Expect: 100-continue", "Expect:"] {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "60",
                "--write-out",
                "%{http_code}",
                "--output",
                "/dev/null",
            ])
            .args([
                "--header",
                expect,
                "--header",
                "Content-Type: application/json",
                "--data-binary",
                &data,
                &url,
            ])
            .output()
            .expect("curl runs");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "413",
            "{expect}: {output:?}"
        );
        assert!(output.status.success(), "{expect}: {output:?}");
    }
    let output = Command::new("wget")
        .args([
            "--quiet",
            "--server-response",
            "--tries=1",
            "--timeout=60",
            "--output-document=/dev/null",
        ])
        .args([
            "--header=Content-Type: application/json",
            &format!("--post-file={}", body.display()),
            &url,
        ])
        .output()
        .expect("wget runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("413"), "{said}");
    // A server's error, and not a network's.
    assert_eq!(output.status.code(), Some(8), "{said}");
}

/// A proxy of its users' kind, with a folder of its own.
struct Nginx(std::process::Child);

impl Nginx {
    fn before(node: &Node, folder: &std::path::Path, more: &str) -> (Self, String) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let upstream = node.url().trim_start_matches("http://");
        let at = folder.display();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error;\n\
             events {{}}\n\
             http {{ access_log off; client_max_body_size 100m; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
             fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
             upstream headcount {{ server {upstream}; keepalive 8; }}\n\
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://headcount; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; {more} }} }} }}\n"
        );
        let path = folder.join("nginx.conf");
        std::fs::write(&path, config).expect("written");
        let child = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(&path)
            .spawn()
            .expect("nginx runs");
        (Self(child), format!("http://127.0.0.1:{port}"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn refusals_pass_through_nginx_however_it_buffers() {
    let at_an_address = Node::start(&[]);
    let sockets = tempfile::tempdir().expect("a folder");
    let socket = format!("unix:{}", sockets.path().join("socket").display());
    let at_a_path = Node::start(&["--listen", &socket]);
    for (node, more) in [
        (&at_an_address, ""),
        (&at_an_address, "proxy_request_buffering off;"),
        (&at_a_path, ""),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let (_nginx, url) = Nginx::before(node, folder.path(), more);
        let http = reqwest::Client::new();
        let deadline = std::time::Instant::now() + crate::node::PATIENCE;
        while Answer::try_of(http.get(format!("{url}/healthz")))
            .await
            .is_err()
        {
            assert!(std::time::Instant::now() < deadline, "nginx answers");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for _ in 0..5 {
            let large = vec![b' '; 9 << 20];
            let post = http
                .post(format!("{url}/items"))
                .header("Content-Type", "application/json");
            assert_eq!(
                Answer::of(post.body(large.clone())).await.status,
                413,
                "{more}"
            );
            let post = http
                .post(format!("{url}/items"))
                .header("Content-Type", "text/xml");
            assert_eq!(
                Answer::of(post.body(large[..300_000].to_vec()))
                    .await
                    .status,
                415,
                "{more}"
            );
            let post = http
                .post(format!("{url}/items"))
                .header("Content-Type", "application/json");
            let answer = Answer::of(post.body(r#"{"id":"5","tenant":"asd"}"#)).await;
            assert_eq!(answer.status, 200, "{more}: {}", answer.text);
        }
    }
}

/// Sends raw bytes, then reads until the node closes.
fn raw(node: &Node, sent: &str) -> String {
    let address = node.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("connected");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    stream.write_all(sent.as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn bytes_that_are_no_request_are_answered_with_a_problem() {
    let node = Node::start(&[]);
    let good = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let path = "a".repeat(70_000);
    let header = format!("X: {}\r\n", "b".repeat(1 << 20));
    let many = "X: 1\r\n".repeat(101);
    for (sent, status, kind) in [
        ("nonsense\r\n\r\n".to_owned(), 400, "invalid-request"),
        ("GET / HTTP/3.7\r\n\r\n".to_owned(), 400, "invalid-request"),
        (
            "GET / HTTP/1.1\r\nHost x\r\n\r\n".to_owned(),
            400,
            "invalid-request",
        ),
        (
            format!("GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n"),
            414,
            "uri-too-long",
        ),
        (
            format!("GET / HTTP/1.1\r\n{header}\r\n"),
            431,
            "head-too-large",
        ),
        (
            format!("GET / HTTP/1.1\r\n{many}\r\n"),
            431,
            "head-too-large",
        ),
    ] {
        // Alone, and behind a request on the same connection, in the same packet.
        for before in ["", good] {
            let answers = raw(&node, &format!("{before}{sent}"));
            let at = answers
                .rfind(&format!("HTTP/1.1 {status}"))
                .unwrap_or_default();
            let (head, body) = answers[at..]
                .split_once("\r\n\r\n")
                .unwrap_or_else(|| panic!("{kind}: {answers:?}"));
            for header in [
                "content-type: application/problem+json",
                "server: headcount",
            ] {
                assert!(head.contains(header), "{head}");
            }
            let length = format!("content-length: {}", body.len());
            assert!(head.contains(&length), "{head}");
            let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(problem["type"], format!("urn:headcount:problem:{kind}"));
            assert_eq!(problem["status"], status);
            assert_eq!(answers.matches("HTTP/1.1 200").count(), before.len().min(1));
        }
    }
}

#[tokio::test]
async fn an_unwanted_body_keeps_the_connection_up_to_a_mebibyte() {
    let node = Node::start(&[]);
    let next = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (method, path) in [
        ("GET", "/items/a/count"),
        ("GET", "/tenants"),
        ("DELETE", "/items"),
        ("GET", "/nothing"),
        ("POST", "/counters"),
    ] {
        let body = "x".repeat(1 << 20);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let text = raw(&node, &format!("{head}{body}{next}"));
        assert_eq!(
            text.matches("HTTP/1.1 ").count(),
            2,
            "{method} {path}: {text}"
        );
        assert!(text.contains("{\"status\":\"ok\"}"), "{text}");
        let chunked = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        );
        let text = raw(&node, &format!("{chunked}{next}"));
        assert_eq!(
            text.matches("HTTP/1.1 ").count(),
            2,
            "{method} {path}: {text}"
        );
        let longer = format!("{body}x");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            longer.len()
        );
        let text = raw(&node, &format!("{head}{longer}"));
        assert!(
            text.contains("connection: close"),
            "{method} {path}: {text}"
        );
    }
}

/// One that sends no more than half of what it announced is told so, and soon.
#[tokio::test]
async fn who_stops_in_the_middle_of_a_refused_body_gets_the_refusal() {
    let node = Node::start(&[]);
    let begun = std::time::Instant::now();
    let address = node.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("connected");
    let head = "POST /items HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: 100\r\n\r\n<half";
    stream.write_all(head.as_bytes()).expect("sent");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(
        text.starts_with("HTTP/1.1 415 ") && text.contains("connection: close"),
        "{text}"
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_request_has_one_host() {
    let node = Node::start(&[]);
    for head in [
        "GET /healthz HTTP/1.1\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
    ] {
        let text = raw(&node, &format!("{head}Connection: close\r\n\r\n"));
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        assert!(
            text.contains("urn:headcount:problem:invalid-host"),
            "{text}"
        );
    }
    let text = raw(&node, "GET /healthz HTTP/1.0\r\n\r\n");
    assert!(text.starts_with("HTTP/1.0 200 "), "{text}");
}

#[tokio::test]
async fn other_hosts_and_other_pages_are_kept_out() {
    let node = Node::start(&[
        "--cors-origins",
        "https://app.example",
        "--hosts",
        "counts.example",
    ]);
    let item = r#"{"id":"5","tenant":"asd"}"#;
    let post = |name: &'static str, value: &str| {
        let post = node.request(Method::POST, "/items").header(name, value);
        Answer::of(post.body(item))
    };
    post("Host", "evil.example:3000")
        .await
        .assert_problem(421, "foreign-host");
    post("Origin", "https://evil.example")
        .await
        .assert_problem(403, "foreign-origin");
    post("Origin", "null")
        .await
        .assert_problem(403, "foreign-origin");
    assert_eq!(node.count("asd").await, 0, "nothing was done");
    assert_eq!(post("Host", "counts.example:80").await.status, 200);
    assert_eq!(post("Host", "headcount").await.status, 200);
    let own = post("Origin", node.url()).await;
    assert_eq!(own.status, 200);
    assert_eq!(own.header("access-control-allow-origin"), "");

    let shared = post("Origin", "https://app.example").await;
    assert_eq!(shared.status, 200);
    assert_eq!(
        shared.header("access-control-allow-origin"),
        "https://app.example"
    );
    assert_eq!(shared.header("vary"), "origin");
    let asked = node
        .request(Method::OPTIONS, "/items")
        .header("Origin", "https://app.example")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "content-type");
    let asked = Answer::of(asked).await;
    assert_eq!(asked.status, 204);
    assert!(
        asked
            .header("access-control-allow-methods")
            .contains("POST")
    );
    assert!(
        asked
            .header("access-control-allow-headers")
            .contains("content-type")
    );
    let other = node
        .request(Method::OPTIONS, "/items")
        .header("Origin", "https://evil.example")
        .header("Access-Control-Request-Method", "POST");
    Answer::of(other)
        .await
        .assert_problem(403, "foreign-origin");
}

#[tokio::test]
async fn methods_are_those_of_the_resource() {
    let node = Node::start(&[]);
    let ask = |method: Method, path: &str| Answer::of(node.request(method, path));
    let allowed = ask(Method::OPTIONS, "/items").await;
    assert_eq!(
        (allowed.status.as_u16(), allowed.header("allow")),
        (204, "POST,OPTIONS")
    );
    let allowed = ask(Method::OPTIONS, "/items/a/count").await;
    assert_eq!(
        (allowed.status.as_u16(), allowed.header("allow")),
        (204, "GET,HEAD,OPTIONS")
    );
    ask(Method::OPTIONS, "/nothing")
        .await
        .assert_problem(404, "not-found");
    let text = raw(
        &node,
        "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(
        text.starts_with("HTTP/1.1 204 ") && text.contains("allow: "),
        "{text}"
    );
    for path in ["/items/a/count", "/healthz", "/tenants"] {
        let text = raw(
            &node,
            &format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        );
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: "),
            "{head}"
        );
        assert!(
            head.contains("\r\ndate: ") && head.contains("\r\nserver: headcount"),
            "{head}"
        );
        assert_eq!(body, "");
    }
    ask(Method::DELETE, "/items")
        .await
        .assert_problem(405, "method-not-allowed");
}
