//! Ordinary clients as they are installed, and a proxy before the node: Python, Node.js, curl, wget
//! and nginx.
//!
//! Invariant: each of them gets the node's answer, also where the node refuses a body before its
//! end.

use std::process::Command;
use std::time::Duration;

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
             http {{ access_log off; client_max_body_size 100m;\n\
             client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
             fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
             upstream headcount {{ server {upstream}; keepalive 8; }}\n\
             server {{ listen 127.0.0.1:{port}; location / {{\n\
             proxy_pass http://headcount; proxy_http_version 1.1;\n\
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
