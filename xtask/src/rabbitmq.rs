//! Selects the RabbitMQ for the tests: the system's, or version 4 in a separate directory tree.
//!
//! Invariant: a tree is used only if it was installed completely.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::process;
use crate::workspace::Workspace;

/// The script that installs the tree.
const MAKE: &str = "xtask/make-rabbitmq-4.sh";

/// Timeout of the installation; it took 38 s when measured.
const MAKE_LIMIT: Duration = Duration::from_secs(900);

/// A RabbitMQ to test against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RabbitMq {
    /// The package of the operating system.
    System,
    /// Version 4, in a tree of Debian unstable.
    Tree(PathBuf),
}

impl RabbitMq {
    /// Allowed values of `--broker`.
    pub const VERSIONS: [&str; 2] = ["system", "4"];

    /// Finds the RabbitMQ of this version. Installs it if it is missing and `install` is set.
    ///
    /// # Errors
    /// It is missing or can't be installed.
    pub fn prepare(version: &str, workspace: &Workspace, install: bool) -> Result<Self, String> {
        if version != "4" {
            return Ok(Self::System);
        }
        let tree = workspace.tools().join("rabbitmq-4");
        if tree.is_dir() {
            return Ok(Self::Tree(tree));
        }
        let mut make = Command::new("sh");
        make.arg(workspace.root().join(MAKE)).arg(&tree);
        if !install {
            return Err(format!(
                "RabbitMQ 4 is missing. Install it with `cargo xtask test --broker 4 --install`, \
                 which runs:\n\n  {}",
                process::line(&make)
            ));
        }
        process::run(&mut make, MAKE_LIMIT)?;
        Ok(Self::Tree(tree))
    }

    /// Passes the choice to the tests by environment variables.
    pub fn tell(&self, command: &mut Command) {
        if let Self::Tree(tree) = self {
            command
                .env("HEADCOUNT_TEST_BROKER", "4")
                .env("HEADCOUNT_TEST_BROKER_ROOT", tree);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_are_told_where_version_4_is() {
        let mut command = Command::new("cargo");
        RabbitMq::System.tell(&mut command);
        assert_eq!(command.get_envs().count(), 0);
        RabbitMq::Tree("/tree".into()).tell(&mut command);
        let told: Vec<_> = command.get_envs().filter_map(|(_, value)| value).collect();
        assert_eq!(told, ["4", "/tree"]);
    }
}
