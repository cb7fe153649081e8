//! The arguments of `headcount bench`.
//!
//! Invariant: all values in [`BenchOptions`] are within the limits declared here.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::BenchOptions;
use super::plan::Work;
use crate::cli::client_args::{number_arg, url_arg};

/// Maximum length of a prefix. With the rest of a name, it stays far below the limits on tenants
/// and ids.
const PREFIX_CHARS_MAX: usize = 64;

/// Each paragraph is one line, which clap wraps to the width of the terminal.
const ABOUT: &str = "\
Puts load on a running coordinator, measures it, and checks the resulting counts.

Each connection sends its next request once the previous one is answered (a closed loop). With \
--rate, requests are due at fixed times however slow the answers are, and latency is measured from \
the time a request was due (an open loop), so that time spent waiting behind a slow answer is \
included.

Tenants and ids are new for each run, so that afterwards every tenant's count can be compared with \
the acknowledged ids. In a closed loop, a request that is refused or not answered is sent again \
until it is acknowledged; one that never is stays in doubt: its items may or may not count. The \
exit status is 0 only if the counts are right.

Items can't be deleted: use a data directory of its own.";

const EXAMPLES: &str = "\
How many single items a second, and how fast:
  headcount bench
Big requests, a few tenants with most of the items, a tenth of them duplicates:
  headcount bench --items-per-request 1000 --tenants 100000 --zipf 1.1 --duplicates 0.1
Latency at 2,000 requests a second:
  headcount bench --rate 2000 --duration-s 30
Reads of counts that an earlier run with --prefix demo made:
  headcount bench --work counts --prefix demo";

/// The declaration of the command.
pub(in crate::cli) fn command() -> Command {
    Command::new("bench")
        .about("Generate load on a coordinator, measure it, check its counts")
        .long_about(ABOUT)
        .after_help(EXAMPLES)
        .args(what_args())
        .args(how_args())
        .args(after_args())
}

/// Arguments about the requests.
fn what_args() -> [Arg; 9] {
    let url = url_arg().help("URL of the coordinator: http:// or unix:/path; proxies are not used");
    let work = Arg::new("work")
        .long("work")
        .value_name("WORK")
        .value_parser(["items", "counts"])
        .default_value("items")
        .help("Post items (items) or read the counts of tenants (counts)");
    let prefix = Arg::new("prefix")
        .long("prefix")
        .value_name("TEXT")
        .value_parser(prefix)
        .help("Prefix of tenant names: TEXT-t0, TEXT-t1… [default: random]");
    let consistency = Arg::new("consistency")
        .long("consistency")
        .value_name("LEVEL")
        .value_parser(["session", "strong", "eventual"])
        .help("What counts must include; only with --work counts");
    [
        url,
        work,
        number_arg(
            "items-per-request",
            "N",
            "1",
            1,
            100_000,
            "Items per request (1 sends an object, not an array)",
        ),
        number_arg("tenants", "N", "1000", 1, 10_000_000, "Number of tenants"),
        decimal_arg("zipf", "EXPONENT", 0.0, 10.0)
            .default_value("0")
            .help("Skew of tenants: the n-th gets 1/n^EXPONENT as many items as the first"),
        decimal_arg("duplicates", "FRACTION", 0.0, 1.0)
            .default_value("0")
            .help("Fraction of items that repeat an id posted before"),
        prefix,
        consistency,
        number_arg(
            "seed",
            "N",
            "1",
            0,
            u64::MAX,
            "Seed of the random tenants and duplicates",
        ),
    ]
}

/// Arguments about the load.
fn how_args() -> [Arg; 7] {
    [
        number_arg(
            "connections",
            "N",
            "64",
            1,
            10_000,
            "Number of connections, each with one request in flight",
        ),
        number_arg(
            "threads",
            "N",
            "1",
            1,
            64,
            "Number of sender threads; one sends about 100,000 requests/s",
        ),
        decimal_arg("rate", "N", 0.001, 10_000_000.0).help(
            "Requests per second over all connections, at fixed times [default: as fast as \
             responses arrive]",
        ),
        decimal_arg("duration-s", "SECONDS", 0.001, 86_400.0)
            .default_value("10")
            .help("Duration of the measurement"),
        Arg::new("requests")
            .long("requests")
            .value_name("N")
            .value_parser(value_parser!(u64).range(1..))
            .conflicts_with("duration-s")
            .help("Number of requests to measure, instead of a duration"),
        decimal_arg("warmup-s", "SECONDS", 0.0, 3_600.0)
            .default_value("1")
            .help("Duration of the warm-up before the measurement"),
        number_arg(
            "timeout-ms",
            "MS",
            "30000",
            1,
            600_000,
            "Timeout of a request",
        ),
    ]
}

/// Arguments about the results.
fn after_args() -> [Arg; 3] {
    [
        Arg::new("check")
            .long("check")
            .value_name("BOOL")
            .value_parser(value_parser!(bool))
            .default_value("true")
            .help("Compare the counts of all tenants with the acknowledged ids afterwards"),
        Arg::new("settle")
            .long("settle")
            .action(ArgAction::SetTrue)
            .help("Wait until every counter has committed everything, and report the time"),
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("Print one JSON object instead of a table"),
    ]
}

fn decimal_arg(name: &'static str, value: &'static str, min: f64, max: f64) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .value_parser(move |text: &str| {
            let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
            match (min..=max).contains(&number) {
                true => Ok(number),
                false => Err(format!("not within {min} to {max}")),
            }
        })
}

fn prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !text.is_empty() && text.len() <= PREFIX_CHARS_MAX && text.chars().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "1 to {PREFIX_CHARS_MAX} letters, digits, -, _ and ."
        )),
    }
}

/// The options that the arguments describe.
pub(in crate::cli) fn options(matches: &ArgMatches) -> BenchOptions {
    let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or_default();
    let decimal = |name: &str| matches.get_one::<f64>(name).copied();
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    BenchOptions {
        url: text("url").unwrap_or_default(),
        work: match text("work").as_deref() {
            Some("counts") => Work::Counts,
            _ => Work::Items,
        },
        connections: number("connections") as u32,
        threads: number("threads") as u32,
        items_per_request: number("items-per-request"),
        tenants: number("tenants") as u32,
        zipf: decimal("zipf").unwrap_or_default(),
        duplicates: decimal("duplicates").unwrap_or_default(),
        rate: decimal("rate"),
        duration_s: decimal("duration-s").unwrap_or_default(),
        requests: matches.get_one::<u64>("requests").copied(),
        warmup_s: decimal("warmup-s").unwrap_or_default(),
        prefix: text("prefix"),
        consistency: text("consistency"),
        timeout_ms: number("timeout-ms"),
        seed: number("seed"),
        check: matches.get_one("check").copied().unwrap_or(true),
        settle: matches.get_flag("settle"),
        json: matches.get_flag("json"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<BenchOptions, clap::Error> {
        let all = std::iter::once(&"bench").chain(args);
        command()
            .try_get_matches_from(all)
            .map(|matches| options(&matches))
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let options = parse(&[]).expect("valid");
        assert_eq!(options.connections, 64);
        assert_eq!(options.tenants, 1_000);
        assert_eq!(options.duration_s, 10.0);
        assert_eq!(options.requests, None);
        assert_eq!(options.rate, None);
        assert!(options.check && !options.settle && !options.json);
    }

    #[test]
    fn what_is_not_allowed_is_refused() {
        for args in [
            ["--duplicates", "1.1"],
            ["--rate", "0"],
            ["--rate", "NaN"],
            ["--zipf", "-1"],
            ["--prefix", "a\"b"],
            ["--prefix", ""],
            ["--connections", "0"],
            ["--check", "maybe"],
            ["--duration-s", "x"],
        ] {
            assert!(parse(&args).is_err(), "{args:?}");
        }
        assert!(parse(&["--requests", "1", "--duration-s", "1"]).is_err());
    }
}
