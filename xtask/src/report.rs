//! Prints a header above each step, and a table of the durations.
//!
//! Invariant: the table contains exactly the steps that ran, with their outcome.

use std::fmt;
use std::time::{Duration, Instant};

/// The steps so far.
#[derive(Debug)]
pub struct Report {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    took: Duration,
    passed: bool,
}

impl Report {
    /// An empty report.
    pub fn new() -> Self {
        Self { steps: Vec::new() }
    }

    /// Runs `step` under a header and records its duration.
    ///
    /// # Errors
    /// The error of the step.
    pub fn time<T, E>(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        println!("\n=== {name} ===");
        let start = Instant::now();
        let outcome = step();
        self.steps.push(Step {
            name,
            took: start.elapsed(),
            passed: outcome.is_ok(),
        });
        outcome
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<16} {:>9}  outcome", "stage", "seconds")?;
        for step in &self.steps {
            let outcome = if step.passed { "passed" } else { "FAILED" };
            writeln!(
                f,
                "{:<16} {:>9.1}  {outcome}",
                step.name,
                step.took.as_secs_f64()
            )?;
        }
        let total: Duration = self.steps.iter().map(|step| step.took).sum();
        let failed = self.steps.iter().any(|step| !step.passed);
        let outcome = if failed { "FAILED" } else { "passed" };
        write!(f, "{:<16} {:>9.1}  {outcome}", "all", total.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_what_failed() {
        let mut report = Report::new();
        assert_eq!(report.time("one", || Ok::<_, ()>(1)), Ok(1));
        assert!(!report.to_string().contains("FAILED"));
        assert_eq!(report.time("two", || Err::<(), _>("why")), Err("why"));
        let table = report.to_string();
        assert!(
            table
                .lines()
                .any(|line| line.starts_with("one") && line.ends_with("passed"))
        );
        assert!(
            table
                .lines()
                .any(|line| line.starts_with("two") && line.ends_with("FAILED"))
        );
        assert!(
            table
                .lines()
                .any(|line| line.starts_with("all") && line.ends_with("FAILED"))
        );
    }
}
