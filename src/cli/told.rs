//! The format of errors: text, a JSON line in the format of the log, or a JSON object.
//!
//! Invariant: the format is determined before the command line and the settings are checked, so
//! that errors in them have the same format as all later errors.

use std::io::IsTerminal;
use std::path::Path;

use super::print::{print_error, print_error_as_json, print_error_line};
use crate::config::{self, Role};

/// Commands that are clients and print JSON on request.
const CLIENTS: [&str; 4] = ["count", "health", "load", "bench"];
/// Commands that run a node.
const NODES: [Role; 3] = [Role::Serve, Role::Coordinator, Role::Counter];

/// Format of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Text.
    Text,
    /// A JSON line in the format of the log.
    LogLine,
    /// A JSON object, for commands that print JSON.
    Object,
}

impl Told {
    /// Determines the format from the arguments and the environment of this process.
    #[must_use]
    pub fn here() -> Self {
        let args: Vec<String> = std::env::args_os()
            .skip(1)
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::of(&args, variable, std::io::stderr().is_terminal())
    }

    fn of(args: &[String], variable: impl Fn(&str) -> Option<String>, terminal: bool) -> Self {
        let command = args.first().map_or("serve", String::as_str);
        if CLIENTS.contains(&command) {
            return match args.iter().any(|arg| arg == "--json") {
                true => Self::Object,
                false => Self::Text,
            };
        }
        if !NODES.iter().any(|role| role.as_str() == command) && !command.starts_with('-') {
            return Self::Text;
        }
        let setting =
            |key: &str| flag(args, key).or_else(|| variable(&config::environment_name(key)));
        let of_file = || config::log_format_of(Path::new(&setting("config")?));
        let format = setting("log-format").or_else(of_file);
        let is_json = match format.as_deref() {
            Some("json") => true,
            None | Some("auto") => !terminal,
            _ => false,
        };
        match is_json {
            true => Self::LogLine,
            false => Self::Text,
        }
    }

    /// Prints an error.
    pub fn error(self, text: &str) {
        match self {
            Self::Text => print_error(text),
            Self::LogLine => print_error_line(text),
            Self::Object => print_error_as_json(text),
        }
    }
}

/// The last value of a flag.
fn flag(args: &[String], key: &str) -> Option<String> {
    let name = format!("--{key}");
    let value = |(index, arg): (usize, &String)| match arg.strip_prefix(&name)? {
        "" => args.get(index + 1).cloned(),
        rest => rest.strip_prefix('=').map(str::to_owned),
    };
    args.iter().enumerate().filter_map(value).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(args: &str, variable: Option<(&str, &str)>, terminal: bool) -> Told {
        let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        let variable = |name: &str| {
            let (known, value) = variable?;
            (known == name).then(|| value.to_owned())
        };
        Told::of(&args, variable, terminal)
    }

    #[test]
    fn a_node_tells_errors_as_it_logs() {
        for (args, on_terminal, elsewhere) in [
            ("", Told::Text, Told::LogLine),
            ("--listen x", Told::Text, Told::LogLine),
            ("serve --log-format auto", Told::Text, Told::LogLine),
            ("counter --log-format json", Told::LogLine, Told::LogLine),
            ("--log-format=json --nonsense", Told::LogLine, Told::LogLine),
            ("serve --log-format text", Told::Text, Told::Text),
            (
                "serve --log-format json --log-format=text",
                Told::Text,
                Told::Text,
            ),
            ("serve --log-format xml", Told::Text, Told::Text),
        ] {
            assert_eq!(told(args, None, true), on_terminal, "{args}");
            assert_eq!(told(args, None, false), elsewhere, "{args}");
        }
        let json = Some(("HEADCOUNT_LOG_FORMAT", "json"));
        assert_eq!(told("serve", json, true), Told::LogLine);
        assert_eq!(told("serve --log-format text", json, true), Told::Text);
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "log_format = \"json\"\nitems_max = 0\n").expect("written");
        let path = file.path().display().to_string();
        assert_eq!(
            told(&format!("serve --config {path}"), None, true),
            Told::LogLine
        );
        let named = Some(("HEADCOUNT_CONFIG", path.as_str()));
        assert_eq!(told("coordinator", named, true), Told::LogLine);
    }

    #[test]
    fn other_commands_tell_text_unless_they_print_json() {
        for terminal in [true, false] {
            assert_eq!(told("load a --json", None, terminal), Told::Object);
            assert_eq!(told("load a", None, terminal), Told::Text);
            assert_eq!(told("verify --log-format json", None, terminal), Told::Text);
        }
    }
}
