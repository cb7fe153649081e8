//! Where things are: the workspace's root, and what the chores leave under `target/`.
//!
//! Invariant: the chores write only where git ignores it.

use std::env;
use std::path::{Path, PathBuf};

/// The folders of one checkout.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace that this program was built in.
    ///
    /// # Errors
    /// When the folder is no longer there.
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

    /// The folder of the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where tools are installed.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The folder of one chore's own files.
    pub fn scratch(&self, chore: &str) -> PathBuf {
        self.target.join("xtask").join(chore)
    }

    /// Where `cargo xtask cluster` keeps its data and logs.
    pub fn cluster(&self) -> PathBuf {
        self.target.join("cluster")
    }

    /// Where the contenders of `cargo xtask bench` are built.
    pub fn bench_target(&self) -> PathBuf {
        self.target.join("bench")
    }

    /// A program of the release profile.
    pub fn release_binary(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// An example of the release profile.
    pub fn release_example(&self, name: &str) -> PathBuf {
        self.target.join("release").join("examples").join(name)
    }

    /// A program of the dev profile.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }
}
