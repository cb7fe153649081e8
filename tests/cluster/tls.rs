//! A broker that is spoken to by TLS, with a certificate of an authority that the system does not
//! know.
//!
//! Invariant: nothing is said to a broker that can't prove who it is.

use std::io::Write;

use tempfile::NamedTempFile;

use crate::broker::{Broker, Tls};
use crate::cluster::{Cluster, Setup};
use crate::node::{items, run};
use crate::wait;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_behind_tls_is_trusted_by_the_given_certificate_only() {
    let tls = Tls::new();
    let broker = Broker::with_tls(&tls);
    let mut authority = NamedTempFile::new().expect("a file");
    authority
        .write_all(tls.certificate.as_bytes())
        .expect("written");
    let path = authority.path().display().to_string();
    let mut cluster = Cluster::start(Setup::on(broker).flags(&["--amqp-ca-file", &path])).await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    assert_eq!(
        cluster.exact_count(0, "asd", "consistency=strong").await,
        10
    );

    cluster.forget_flags();
    cluster.start_counter("c4", &[]);
    wait::until("a broker that is not trusted", async || {
        let log = cluster.counter("c4").process.log();
        match log.contains("UnknownIssuer") {
            true => Ok(()),
            false => Err(log),
        }
    })
    .await;
    let counters = cluster.counters(0).await.expect("listed");
    assert_eq!(counters.get("c4"), None);
    cluster.assert_no_password();
}

#[test]
fn a_file_without_a_certificate_is_refused_by_name() {
    let file = NamedTempFile::new().expect("a file");
    let path = file.path().display().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let refused = run(&[
        "counter",
        "--name",
        "c1",
        "--amqp-url",
        "amqps://127.0.0.1:1",
        "--amqp-ca-file",
        &path,
        "--data-dir",
        &folder.path().join("c1").display().to_string(),
        "--listen",
        "127.0.0.1:0",
        "--log-format",
        "text",
    ]);
    assert!(!refused.status.success());
    let line = format!(
        "headcount: amqp-ca-file: {path} (from --amqp-ca-file): contains no PEM certificate\n"
    );
    assert_eq!(refused.stderr, line);
}
