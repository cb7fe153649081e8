//! The tools that the tasks need in addition to cargo: which are missing, and how to install them.
//!
//! Invariant: nothing is installed unless the caller requests it. A task starts only when its tools
//! are installed; tools from cargo and Python must have exactly the pinned version.

mod tool;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::process;
use crate::workspace::Workspace;
use tool::Source;
pub use tool::Tool;

/// Timeout of one step of an installation; building cargo-deny on two cores took 210 s.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// Finds, installs and runs the tools.
#[derive(Debug)]
pub struct Toolbox {
    workspace: Workspace,
}

impl Toolbox {
    /// Ensures that every tool in `needed` is installed.
    ///
    /// # Errors
    /// A tool is missing and `install` is false, or a tool can't be installed.
    pub fn prepare(workspace: &Workspace, needed: &[Tool], install: bool) -> Result<Self, String> {
        let toolbox = Self {
            workspace: workspace.clone(),
        };
        let missing = toolbox.missing(needed);
        if missing.is_empty() {
            println!("nothing is missing");
            return Ok(toolbox);
        }
        let steps = toolbox.steps(&missing);
        if !install {
            return Err(how_to_install(&missing, &steps));
        }
        for mut step in steps {
            process::run(&mut step, INSTALL_LIMIT)?;
        }
        match toolbox.missing(needed).as_slice() {
            [] => Ok(toolbox),
            still => Err(format!(
                "still missing after the installation: {}",
                titles(still)
            )),
        }
    }

    /// A command that runs `tool`.
    pub fn command(&self, tool: Tool) -> Command {
        Command::new(self.find(tool).unwrap_or_else(|| tool.name().into()))
    }

    fn missing(&self, needed: &[Tool]) -> Vec<Tool> {
        let mut missing: Vec<Tool> = Tool::ALL
            .into_iter()
            .filter(|tool| needed.contains(tool) && self.find(*tool).is_none())
            .collect();
        // Python is needed only to install other tools.
        let is_pip = |tool: &Tool| matches!(tool.source(), Source::Pip { .. });
        if missing.iter().any(is_pip) && self.find(Tool::Python).is_none() {
            missing.insert(0, Tool::Python);
        }
        missing
    }

    /// The program of `tool`; an installation of the tasks precedes the PATH.
    fn find(&self, tool: Tool) -> Option<PathBuf> {
        let on_path = PathBuf::from(tool.name());
        match tool.source() {
            Source::System { probe, .. } => {
                process::output(Command::new("sh").args(["-c", probe])).map(|_| on_path)
            }
            Source::Cargo { version } => {
                let ours = self.workspace.tools().join("bin").join(tool.name());
                [ours, on_path]
                    .into_iter()
                    .find(|program| is_version(program, version))
            }
            Source::Pip { version, .. } => {
                let ours = self.venv(tool).join("bin").join(tool.name());
                [ours, on_path]
                    .into_iter()
                    .find(|program| is_version(program, version))
            }
        }
    }

    fn venv(&self, tool: Tool) -> PathBuf {
        self.workspace.tools().join(tool.name())
    }

    /// The commands that install `missing`, in order.
    fn steps(&self, missing: &[Tool]) -> Vec<Command> {
        let mut packages: Vec<&str> = Vec::new();
        let mut steps = Vec::new();
        for &tool in missing {
            match tool.source() {
                Source::System { packages: more, .. } => packages.extend(more),
                Source::Cargo { version } => steps.push(self.cargo_install(tool, version)),
                Source::Pip {
                    package,
                    version,
                    constraints,
                } => steps.extend(self.pip_install(tool, package, version, constraints)),
            }
        }
        if !packages.is_empty() {
            let install = ["install", "--yes", "--no-install-recommends"];
            steps.insert(0, apt_get(&[&install[..], &packages].concat()));
            steps.insert(0, apt_get(&["update"]));
        }
        steps
    }

    fn cargo_install(&self, tool: Tool, version: &str) -> Command {
        let mut command = Command::new("cargo");
        command
            .args(["install", "--locked", "--version", version, "--root"])
            .arg(self.workspace.tools())
            .arg(tool.name());
        command
    }

    fn pip_install(
        &self,
        tool: Tool,
        package: &str,
        version: &str,
        constraints: Option<&str>,
    ) -> [Command; 2] {
        let venv = self.venv(tool);
        let mut make = Command::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(&venv);
        let mut install = Command::new(venv.join("bin/pip"));
        install.args(["install", "--quiet"]);
        if let Some(constraints) = constraints {
            install
                .arg("--constraint")
                .arg(self.workspace.root().join(constraints));
        }
        install.arg(format!("{package}=={version}"));
        [make, install]
    }
}

/// `apt-get` without prompts, as root if possible.
fn apt_get(args: &[&str]) -> Command {
    let root = process::output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    let sudo = !root && process::output(Command::new("sudo").arg("--version")).is_some();
    let mut command = Command::new(if sudo { "sudo" } else { "env" });
    if sudo {
        command.arg("env");
    }
    command
        // The maintenance run level, so that no service is started by its installation.
        .args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get"])
        .args(args);
    command
}

/// Whether `program --version` ends its first line with `version`.
fn is_version(program: &PathBuf, version: &str) -> bool {
    process::output(Command::new(program).arg("--version")).is_some_and(|text| {
        text.lines()
            .next()
            .and_then(|line| line.split_whitespace().last())
            == Some(version)
    })
}

fn titles(tools: &[Tool]) -> String {
    let titles: Vec<String> = tools.iter().map(|tool| tool.title()).collect();
    titles.join(", ")
}

fn how_to_install(missing: &[Tool], steps: &[Command]) -> String {
    let lines: Vec<String> = steps
        .iter()
        .map(|step| format!("  {}\n", process::line(step)))
        .collect();
    format!(
        "missing: {}\n\nInstall as `cargo xtask test --install` and `cargo xtask bench` do:\n\n{}",
        titles(missing),
        lines.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_for(missing: &[Tool]) -> Vec<String> {
        let workspace = Workspace::find().expect("built here");
        let toolbox = Toolbox { workspace };
        toolbox.steps(missing).iter().map(process::line).collect()
    }

    #[test]
    fn system_packages_come_first_in_one_installation() {
        let lines = lines_for(&[Tool::CargoDeny, Tool::Cxx, Tool::Python]);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].ends_with("apt-get update"), "{lines:?}");
        assert!(lines[1].ends_with("g++ python3 python3-venv"), "{lines:?}");
        assert!(
            lines[2].starts_with("cargo install --locked --version"),
            "{lines:?}"
        );
    }

    #[test]
    fn package_lists_are_fetched_only_for_packages() {
        assert!(!lines_for(&[Tool::CargoFuzz]).concat().contains("apt-get"));
        assert!(
            !lines_for(&[Tool::Schemathesis])
                .concat()
                .contains("apt-get")
        );
    }

    #[test]
    fn what_is_missing_is_named_with_its_commands() {
        let workspace = Workspace::find().expect("built here");
        let toolbox = Toolbox { workspace };
        let missing = [Tool::Schemathesis];
        let text = how_to_install(&missing, &toolbox.steps(&missing));
        assert!(text.contains("missing: schemathesis 4"), "{text}");
        assert!(text.contains("-m venv"), "{text}");
        assert!(text.contains("schemathesis==4"), "{text}");
    }

    #[test]
    fn another_version_is_not_good() {
        let cargo = PathBuf::from("rustc");
        assert!(!is_version(&cargo, "0.0.0"));
        assert!(!is_version(&PathBuf::from("no-such-program-here"), "0.0.0"));
    }
}
