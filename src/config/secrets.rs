//! Settings that are secrets, or that name a file with a secret.
//!
//! Invariant: a URL is never shown, because it may contain a password; an error names only the
//! source of the URL.

use std::fmt;
use std::path::{Path, PathBuf};

use super::values::{self, ConfigError, Values};
use crate::model::BYTE_ORDER_MARK;

/// Byte order marks of UTF-16.
const UTF_16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText {
    /// The text.
    pub text: String,
    /// Its source, for messages.
    pub source: String,
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hidden (from {})", self.source)
    }
}

/// Texts that are never shown.
#[derive(Debug, Clone)]
pub struct SecretTexts(pub Vec<SecretText>);

/// A file that a setting names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// The file.
    pub path: PathBuf,
    /// The source of its name.
    pub source: String,
}

impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {})", self.path.display(), self.source)
    }
}

impl NamedFile {
    /// The file that setting `key` names, if any.
    pub(super) fn of(values: &Values<'_>, key: &str) -> Option<Self> {
        let (path, source) = values.get(key);
        (!path.is_empty()).then(|| Self {
            path: PathBuf::from(path),
            source: source.name,
        })
    }
}

/// Reads a secret from a file. It removes a byte order mark, and whitespace and line ends around
/// the secret.
///
/// # Errors
/// The reason why the file can't be read, without any of its content.
pub fn read_secret(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    if UTF_16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err("it is UTF-16; save it as UTF-8".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
    Ok(text.trim().to_owned())
}

/// The URLs of the broker.
pub(super) fn amqp_urls(values: &Values<'_>) -> Result<SecretTexts, ConfigError> {
    let allowed = "amqp://user:password@host:port/vhost or amqps://…, given here or in \
        amqp-url-file, with every character of user and password that is not a letter or digit \
        percent-encoded (@ as %40, / as %2F)";
    let urls = urls(
        values,
        values::AMQP_URL,
        "amqp-url-file",
        ["amqp://", "amqps://"],
        allowed,
    )?;
    if urls.0.is_empty() {
        return Err(ConfigError::Missing {
            key: values::AMQP_URL.to_owned(),
            allowed: allowed.to_owned(),
        });
    }
    Ok(urls)
}

/// The URLs of the broker's management API; empty if it must not be queried.
pub(super) fn management_urls(values: &Values<'_>) -> Result<SecretTexts, ConfigError> {
    urls(
        values,
        values::MANAGEMENT_URL,
        "management-url-file",
        ["http://", "https://"],
        "http://user:password@host:15672 or https://…, given here or in management-url-file",
    )
}

/// The URLs from setting `key` and from the file that `file_key` names. If both settings are from
/// the same source, the URLs of both apply; otherwise only those of the setting from the higher
/// source.
fn urls(
    values: &Values<'_>,
    key: &str,
    file_key: &str,
    schemes: [&str; 2],
    allowed: &str,
) -> Result<SecretTexts, ConfigError> {
    let (given, given_by) = values.get(key);
    let (path, named_by) = values.get(file_key);
    let mut urls = Vec::new();
    if given_by.rank >= named_by.rank {
        urls.extend(split(&given, &given_by.name));
    }
    if named_by.rank >= given_by.rank && !path.is_empty() {
        let path = Path::new(&path);
        let text = read_secret(path).map_err(|detail| ConfigError::NamedFile {
            key: file_key.to_owned(),
            source_name: named_by.name.clone(),
            path: path.to_owned(),
            detail,
        })?;
        let source = format!("the file {}, by {}", path.display(), named_by.name);
        let before = urls.len();
        urls.extend(split(&text, &source));
        if urls.len() == before {
            return Err(ConfigError::NamedFile {
                key: file_key.to_owned(),
                source_name: named_by.name,
                path: path.to_owned(),
                detail: "it contains no URL".to_owned(),
            });
        }
    }
    let fits = |url: &&SecretText| schemes.iter().any(|scheme| url.text.starts_with(scheme));
    if let Some(wrong) = urls.iter().find(|url| !fits(url)) {
        return Err(ConfigError::Value {
            key: key.to_owned(),
            value: values::HIDDEN.to_owned(),
            source_name: wrong.source.clone(),
            allowed: allowed.to_owned(),
        });
    }
    Ok(SecretTexts(urls))
}

fn split<'a>(text: &'a str, source: &'a str) -> impl Iterator<Item = SecretText> + 'a {
    let parts = text.split([',', '\n']).map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(|part| SecretText {
            text: part.to_owned(),
            source: source.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use clap::{ArgMatches, Command};

    use super::super::{Role, args};
    use super::*;

    fn matches(flags: &[&str]) -> ArgMatches {
        let command = Command::new("test").no_binary_name(true);
        let known = args(Role::Coordinator).map(|arg| arg.env(None::<&str>));
        command
            .args(known)
            .try_get_matches_from(flags)
            .expect("flags")
    }

    /// Resolves the URLs from flags and a settings file. `FILE` in either stands for a file that
    /// holds `content`.
    fn resolve(flags: &[&str], settings: &str, content: &[u8]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret").display().to_string();
        std::fs::write(&path, content).expect("written");
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, settings.replace("FILE", &path)).expect("written");
        let flags: Vec<String> = flags
            .iter()
            .map(|flag| flag.replace("FILE", &path))
            .collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let matches = matches(&flags);
        let values = Values::new(&matches, Some(&file)).expect("a file");
        let urls = amqp_urls(&values);
        urls.map(|urls| urls.0.into_iter().map(|url| url.text).collect())
            .map_err(|error| {
                error
                    .to_string()
                    .replace(&path, "FILE")
                    .replace(&file.display().to_string(), "SETTINGS")
            })
    }

    #[test]
    fn the_higher_source_replaces_both() {
        let both = "amqp_url = \"amqp://low\"\namqp_url_file = \"FILE\"\n";
        let file = b"amqp://file-a,amqp://file-b\n";
        assert_eq!(
            resolve(&[], both, file),
            Ok(vec![
                "amqp://low".into(),
                "amqp://file-a".into(),
                "amqp://file-b".into()
            ])
        );
        assert_eq!(
            resolve(&["--amqp-url=amqp://high"], both, b""),
            Ok(vec!["amqp://high".into()])
        );
        assert_eq!(
            resolve(&["--amqp-url-file=FILE"], "amqp_url = \"amqp://low\"", file),
            Ok(vec!["amqp://file-a".into(), "amqp://file-b".into()])
        );
    }

    #[test]
    fn marks_and_line_ends_of_a_file_are_no_part_of_the_secret() {
        for content in [
            &b"amqp://me:x@broker"[..],
            b"\xef\xbb\xbfamqp://me:x@broker\r\n",
            b"\r\n amqp://me:x@broker \n\n",
        ] {
            let urls = resolve(&["--amqp-url-file=FILE"], "", content);
            assert_eq!(urls, Ok(vec!["amqp://me:x@broker".into()]));
        }
        for (content, why) in [
            (&b"\xff\xfea\0m\0"[..], "it is UTF-16; save it as UTF-8"),
            (b"amqp://me:\xe9@broker", "it is not UTF-8"),
            (b"\xef\xbb\xbf\r\n", "it contains no URL"),
        ] {
            let urls = resolve(&["--amqp-url-file=FILE"], "", content);
            let error = format!("amqp-url-file (from --amqp-url-file): FILE: {why}");
            assert_eq!(urls, Err(error));
        }
    }

    #[test]
    fn what_is_wrong_names_where_it_is_from_and_shows_nothing() {
        let hidden = |source: &str| format!("amqp-url is \"(hidden)\" (from {source}): ");
        for (flags, settings, source) in [
            (&["--amqp-url=s3cret"][..], "", "--amqp-url"),
            // A comma ends a URL.
            (&["--amqp-url=amqp://me:a,s3cret@b"], "", "--amqp-url"),
            (&[], "amqp_url = \"s3cret\"", "the file SETTINGS"),
            (
                &["--amqp-url-file=FILE"],
                "",
                "the file FILE, by --amqp-url-file",
            ),
            (
                &[],
                "amqp_url_file = \"FILE\"",
                "the file FILE, by the file SETTINGS",
            ),
        ] {
            let error = resolve(flags, settings, b"s3cret").expect_err("refused");
            assert!(error.starts_with(&hidden(source)), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = resolve(&[], "", b"").expect_err("refused");
        assert!(
            error.starts_with("amqp-url is not set: it must be amqp://"),
            "{error}"
        );
        let error = resolve(&[], "amqp_url_file = \"/none\"", b"").expect_err("refused");
        assert_eq!(
            error,
            "amqp-url-file (from the file SETTINGS): /none: No such file or directory (os error 2)"
        );
    }
}
