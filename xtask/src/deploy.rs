//! The stage that checks the image and the cluster's compose file, as far as that is possible
//! without containers.
//!
//! Invariant: it claims only what it checked; if the compose file was not rendered, it says so.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::process;
use crate::stages::{self, Options};
use crate::tools::Tool;

/// The script that downloads docker-compose 2 if the system has none.
const FETCH_COMPOSE: &str = "xtask/fetch-compose.sh";

/// Timeout of the download.
const FETCH_LIMIT: Duration = Duration::from_secs(300);

/// Lints the Dockerfile and renders the compose file.
///
/// # Errors
/// The linter reports something, or the compose file can't be rendered.
pub fn run(options: &Options) -> Result<(), String> {
    let mut hadolint = options.tools.command(Tool::Hadolint);
    hadolint
        .args(["--no-color", "--failure-threshold=info", "Dockerfile"])
        .current_dir(options.workspace.root());
    stages::run(options, &mut hadolint)?;
    let Some(compose) = compose(options) else {
        println!("docker-compose.yml was NOT rendered: docker-compose 2 is not installed");
        return Ok(());
    };
    let mut render = Command::new(compose);
    render
        .args(["--file", "docker-compose.yml", "config", "--quiet"])
        .current_dir(options.workspace.root());
    stages::run(options, &mut render)
}

/// Finds docker-compose of version 2 or later: the system's, one downloaded earlier, or one
/// downloaded now.
fn compose(options: &Options) -> Option<PathBuf> {
    let folder = options.workspace.tools().join("docker-compose");
    let ours = folder.join("docker-compose");
    let find = || {
        [PathBuf::from("docker-compose"), ours.clone()]
            .into_iter()
            .find(is_recent)
    };
    if let Some(program) = find() {
        return Some(program);
    }
    if options.install {
        let mut fetch = Command::new("sh");
        fetch
            .arg(options.workspace.root().join(FETCH_COMPOSE))
            .arg(&folder);
        if let Err(why) = process::run(&mut fetch, FETCH_LIMIT) {
            println!("{why}");
        }
    }
    find()
}

fn is_recent(program: &PathBuf) -> bool {
    process::output(Command::new(program).arg("--version"))
        .and_then(|text| major(&text))
        .is_some_and(|major| major >= 2)
}

/// The major version at the end of `text`.
fn major(text: &str) -> Option<u32> {
    let version = text.split_whitespace().last()?.trim_start_matches('v');
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major("Docker Compose version 2.40.3-3\n"), Some(2));
        assert_eq!(major("Docker Compose version v5.1.0\n"), Some(5));
        assert_eq!(major("docker-compose version 1.29.2, build unknown"), None);
        assert_eq!(major(""), None);
    }

    #[test]
    fn the_image_has_the_toolchain_of_the_workspace() {
        let toolchain = include_str!("../../rust-toolchain.toml");
        let dockerfile = include_str!("../../Dockerfile");
        let (_, rest) = toolchain.split_once("channel = \"").expect("a channel");
        let (channel, _) = rest.split_once('"').expect("a string");
        assert!(dockerfile.contains(&format!("FROM rust:{channel}-slim-")));
    }
}
