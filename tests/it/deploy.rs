//! What the image, the compose file and the manifests of the docs hand to the program.
//!
//! Invariant: a setting that is misspelt there would be ignored in silence; here it is found.

use crate::kit::reaper;
use crate::node::{Node, headcount, run};

const DOCKERFILE: &str = include_str!("../../Dockerfile");
const COMPOSE: &str = include_str!("../../docker-compose.yml");

/// Every environment variable of ours that `text` names.
fn variables(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("HEADCOUNT_"))
        .collect()
}

#[test]
fn the_image_the_compose_file_and_the_manifests_use_settings_that_exist() {
    // The help of a command names the environment variable of each of its settings.
    let commands = ["serve", "coordinator", "counter", "health"];
    let help = commands.map(|command| run(&[command, "--help"]).stdout);
    let dockerfile = variables(DOCKERFILE);
    let compose = variables(COMPOSE);
    let kubernetes = variables(include_str!("../../docs/kubernetes.md"));
    for named in [&dockerfile, &compose, &kubernetes] {
        assert!(!named.is_empty());
    }
    for variable in dockerfile.into_iter().chain(compose).chain(kubernetes) {
        let shown = format!("[env: {variable}=");
        assert!(
            help.iter().any(|help| help.contains(&shown)),
            "no setting has the variable {variable}"
        );
    }
}

#[test]
fn the_health_check_of_the_image_follows_its_environment() {
    let (_, check) = DOCKERFILE.split_once("HEALTHCHECK").expect("a check");
    let (_, words) = check.split_once("CMD [").expect("a command");
    let (words, _) = words.split_once(']').expect("its end");
    let words: Vec<&str> = words
        .split(", ")
        .map(|word| word.trim_matches('"'))
        .collect();
    assert_eq!(words[0], "headcount");
    let port = reaper::free_port();
    let node = Node::start(&["--listen", &format!("127.0.0.1:{port}")]);
    let check = |listen: &str, url: &str| {
        let mut command = headcount();
        command
            .args(&words[1..])
            .env("HEADCOUNT_LISTEN", listen)
            .env("HEADCOUNT_URL", url)
            // As Docker gives it to containers where it is set up for a proxy.
            .env("http_proxy", "http://127.0.0.1:9")
            .env("no_proxy", "")
            .env("NO_PROXY", "");
        command.output().expect("ran").status.code()
    };
    assert_eq!(check(&format!("0.0.0.0:{port}"), ""), Some(0));
    assert_eq!(check(&format!("127.0.0.1:{port}"), ""), Some(0));
    assert_eq!(check("0.0.0.0:9", node.url()), Some(0));
    assert_eq!(check("0.0.0.0:9", ""), Some(1));
}

#[test]
fn the_compose_file_asks_for_no_limit_that_a_host_may_not_have() {
    assert!(!COMPOSE.contains("ulimits:"));
    assert!(COMPOSE.contains("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: +Q 65536\n"));
}
