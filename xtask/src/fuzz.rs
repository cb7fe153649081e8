//! The stage that runs every fuzz target for a short time, starting from the committed corpus.
//!
//! Invariant: the committed corpus is not changed; inputs found by a run are stored below the
//! target directory.

use std::fs;

use crate::stages::{self, Options};
use crate::tools::Tool;

/// Duration of each target in seconds, without building.
const RUN_S: u32 = 20;

/// The duration with `--long`.
const LONG_RUN_S: u32 = 15 * 60;

/// Timeout of one input in seconds, after which it counts as a hang.
const INPUT_S_MAX: u32 = 10;

/// Maximum size of an input in bytes.
const INPUT_BYTES_MAX: u32 = 64 * 1024;

/// Builds and runs the targets.
///
/// # Errors
/// The lock file is stale, a target doesn't build, or an input fails.
pub fn run(options: &Options) -> Result<(), String> {
    // cargo-fuzz has no `--locked`: it would silently update a stale lock file.
    stages::cargo(options, "fetch --locked --manifest-path fuzz/Cargo.toml")?;
    for target in targets(options)? {
        let found = options.workspace.scratch("fuzz").join(&target);
        fs::create_dir_all(&found)
            .map_err(|why| format!("can't make {}: {why}", found.display()))?;
        let mut fuzz = options.tools.command(Tool::CargoFuzz);
        let (sanitizer, run_s) = if options.long {
            // AddressSanitizer is a nightly flag; this makes the pinned compiler accept it.
            fuzz.env("RUSTC_BOOTSTRAP", "1");
            ("address", LONG_RUN_S)
        } else {
            // Coverage alone needs only stable flags, and builds in half the time.
            ("none", RUN_S)
        };
        fuzz.args(["run", "--sanitizer", sanitizer, &target])
            .arg(found)
            .arg(format!("fuzz/corpus/{target}"))
            .arg("--")
            .arg(format!("-max_total_time={run_s}"))
            .arg(format!("-timeout={INPUT_S_MAX}"))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .args(["-verbosity=0", "-print_final_stats=1"])
            .current_dir(options.workspace.root());
        stages::run(options, &mut fuzz)?;
    }
    Ok(())
}

/// The names of the targets, one per file.
fn targets(options: &Options) -> Result<Vec<String>, String> {
    let folder = options.workspace.root().join("fuzz/fuzz_targets");
    let unreadable = |why| format!("can't read {}: {why}", folder.display());
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            targets.extend(
                path.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
    }
    targets.sort();
    if targets.is_empty() {
        return Err("there is no fuzz target".to_owned());
    }
    Ok(targets)
}
