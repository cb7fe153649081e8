//! The directories of a checkout: the root of the workspace, and files of the tasks below
//! `target/`.
//!
//! Invariant: the tasks write only to paths that git ignores.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process;

/// The directories of one checkout.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace in which this program was built.
    ///
    /// # Errors
    /// The directory no longer exists.
    pub fn find() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .filter(|root| root.join("Cargo.toml").is_file())
            .ok_or("the workspace has moved: build xtask again")?;
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        Ok(Self {
            root: root.to_owned(),
            target: root.join(target),
        })
    }

    /// The directory of the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of installed tools.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The directory for the files of one task.
    pub fn scratch(&self, chore: &str) -> PathBuf {
        self.target.join("xtask").join(chore)
    }

    /// The directory for the data and logs of `cargo xtask cluster`.
    pub fn cluster(&self) -> PathBuf {
        self.target.join("cluster")
    }

    /// The build directory of the contenders of `cargo xtask bench`.
    pub fn bench_target(&self) -> PathBuf {
        self.target.join("bench")
    }

    /// Builds `name`, which is of the `kind` `--bin` or `--example`, with `profile`.
    ///
    /// # Errors
    /// The build fails or exceeds `limit`.
    pub fn build(
        &self,
        profile: &str,
        kind: &str,
        name: &str,
        limit: Duration,
    ) -> Result<(), String> {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["build", "--locked", "--profile", profile, kind, name])
            .current_dir(&self.root);
        process::run(&mut cargo, limit)
    }

    /// A program built with the release profile.
    pub fn release_binary(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// A program built with the dist profile.
    pub fn dist_binary(&self, name: &str) -> PathBuf {
        self.target.join("dist").join(name)
    }

    /// An example built with the dist profile.
    pub fn dist_example(&self, name: &str) -> PathBuf {
        self.target.join("dist").join("examples").join(name)
    }

    /// A program built with the dev profile.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }
}
