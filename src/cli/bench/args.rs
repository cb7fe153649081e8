//! The arguments of `headcount bench`.
//!
//! Invariant: what is in [`BenchOptions`] is within the limits named here.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::BenchOptions;
use super::plan::Work;
use crate::cli::client_args::{number_arg, url_arg};

/// Letters of a prefix: with the rest of a name it stays far below what a tenant or an id may have.
const PREFIX_CHARS_MAX: usize = 64;

/// Each paragraph is one line, which the terminal's width breaks.
const ABOUT: &str = "\
Puts a running coordinator under load, measures it, and checks that it counted right.

Each connection sends its next request once the one before is answered (a closed loop). With --rate requests \
are due at fixed times instead, however slow the answers are, and latency is counted from when a request was \
due (an open loop): what a slow answer holds up is not left out.

Tenants and ids are new for each run, so that afterwards every tenant's count can be compared with the ids that \
were acknowledged. A request that is refused or gets no answer is, in a closed loop, sent again until it is \
acknowledged; one that never is is in doubt: its items may count or not. The exit status is 0 only if the counts \
are right.

It fills the service with items that nobody can delete: give it a data folder of its own.";

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
        .about("Put a coordinator under load, measure it, check its counts")
        .long_about(ABOUT)
        .after_help(EXAMPLES)
        .args(what_args())
        .args(how_args())
        .args(after_args())
}

/// What is sent.
fn what_args() -> [Arg; 9] {
    let url = url_arg().help("The coordinator, by plain http:// and past any proxy");
    let work = Arg::new("work")
        .long("work")
        .value_name("WORK")
        .value_parser(["items", "counts"])
        .default_value("items")
        .help("items posts items, counts reads the counts of tenants");
    let prefix = Arg::new("prefix")
        .long("prefix")
        .value_name("TEXT")
        .value_parser(prefix)
        .help("How tenants' names begin: TEXT-t0, TEXT-t1… [default: another one each run]");
    let consistency = Arg::new("consistency")
        .long("consistency")
        .value_name("LEVEL")
        .value_parser(["session", "strong", "eventual"])
        .help("What the counts read must include, with --work counts");
    [
        url,
        work,
        number_arg(
            "items-per-request",
            "N",
            "1",
            1,
            100_000,
            "Items in one request; one alone is no array",
        ),
        number_arg(
            "tenants",
            "N",
            "1000",
            1,
            10_000_000,
            "Tenants that the items are spread over",
        ),
        decimal_arg("zipf", "EXPONENT", 0.0, 10.0)
            .default_value("0")
            .help("How uneven tenants are: the n-th has 1/n^EXPONENT of the first's items"),
        decimal_arg("duplicates", "FRACTION", 0.0, 1.0)
            .default_value("0")
            .help("Of all items, how many repeat an id posted before"),
        prefix,
        consistency,
        number_arg(
            "seed",
            "N",
            "1",
            0,
            u64::MAX,
            "Other draws of tenants and duplicates",
        ),
    ]
}

/// How it is sent.
fn how_args() -> [Arg; 7] {
    [
        number_arg("connections", "N", "64", 1, 10_000, "Connections, each with one request under way"),
        number_arg("threads", "N", "1", 1, 64, "Threads that send; one drives about 100,000 requests/s"),
        decimal_arg("rate", "N", 0.001, 10_000_000.0)
            .help("Requests a second over all connections, at fixed times [default: as fast as answers come]"),
        decimal_arg("duration-s", "SECONDS", 0.001, 86_400.0)
            .default_value("10")
            .help("How long to measure"),
        Arg::new("requests")
            .long("requests")
            .value_name("N")
            .value_parser(value_parser!(u64).range(1..))
            .conflicts_with("duration-s")
            .help("Measure this many requests, however long they take"),
        decimal_arg("warmup-s", "SECONDS", 0.0, 3_600.0)
            .default_value("1")
            .help("How long to send before that, without measuring"),
        number_arg("timeout-ms", "MS", "30000", 1, 600_000, "How long to wait for an answer"),
    ]
}

/// What is done with the results.
fn after_args() -> [Arg; 3] {
    [
        Arg::new("check")
            .long("check")
            .value_name("BOOL")
            .value_parser(value_parser!(bool))
            .default_value("true")
            .help("Afterwards, compare the counts of all tenants with what was acknowledged"),
        Arg::new("settle")
            .long("settle")
            .action(ArgAction::SetTrue)
            .help("Afterwards, wait until every counter has committed everything, and tell when"),
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

/// What the command line asks for.
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
