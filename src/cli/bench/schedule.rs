//! The due times of requests, and which requests are measured.
//!
//! Invariant: times are relative to the start of the run. In an open loop the n-th request is due
//! at a fixed time, however slow the earlier responses are, and its latency is measured from that
//! time.

use std::time::Duration;

/// The length of a run, and which part of it is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Duration of the warm-up, in which nothing is measured.
    pub(super) warmup: Duration,
    /// Length of the measurement after the warm-up.
    pub(super) length: Length,
}

/// Length of a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Length {
    Time(Duration),
    Requests(u64),
}

impl Window {
    /// The time after which no request starts. `None` if that depends on the number of requests.
    pub(super) fn end(&self) -> Option<Duration> {
        match self.length {
            Length::Time(length) => Some(self.warmup + length),
            Length::Requests(_) => None,
        }
    }

    /// Whether it is too late to start a request at `at`.
    pub(super) fn is_over(&self, at: Duration) -> bool {
        self.end().is_some_and(|end| at >= end)
    }

    /// Whether to measure the latency of a request that started, or was due, at `started`.
    pub(super) fn is_measured(&self, started: Duration) -> bool {
        started >= self.warmup
    }

    /// Whether a request counts for the throughput. A run of fixed duration counts every response
    /// within it, so that neither end of the run lacks requests.
    pub(super) fn is_counted(&self, started: Duration, answered: Duration) -> bool {
        match self.end() {
            Some(end) => answered >= self.warmup && answered <= end,
            None => started >= self.warmup,
        }
    }

    /// Duration of the measurement if the last response arrived at `last`.
    pub(super) fn measured(&self, last: Duration) -> Duration {
        match self.length {
            Length::Time(length) => length,
            Length::Requests(_) => last.saturating_sub(self.warmup),
        }
    }
}

/// The due times of an open loop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    rate: f64,
    /// Number of requests, including warm-up.
    pub(super) slots: u64,
}

impl Schedule {
    /// Schedules `rate` requests per second over `window`.
    pub(super) fn new(rate: f64, window: &Window) -> Self {
        // Excludes a slot that is due exactly at the end, regardless of rounding.
        let within = |time: Duration| (rate * time.as_secs_f64() - 1e-6).ceil() as u64;
        let slots = match window.length {
            Length::Time(length) => within(window.warmup + length),
            Length::Requests(requests) => within(window.warmup) + requests,
        };
        Self { rate, slots }
    }

    /// The time when slot number `slot` is due.
    pub(super) fn due(&self, slot: u64) -> Duration {
        Duration::from_secs_f64(slot as f64 / self.rate)
    }

    /// The number of slots that are due by `at`.
    pub(super) fn due_by(&self, at: Duration) -> u64 {
        let mut slots = (at.as_secs_f64() * self.rate) as u64;
        // Runs once, or twice if rounding put a slot on the wrong side of its due time.
        while slots < self.slots && self.due(slots) <= at {
            slots += 1;
        }
        slots.min(self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const TIMED: Window = Window {
        warmup: ms(1_000),
        length: Length::Time(ms(2_000)),
    };
    const COUNTED: Window = Window {
        warmup: ms(1_000),
        length: Length::Requests(5),
    };

    #[test]
    fn a_run_of_fixed_length_counts_what_is_answered_in_it() {
        assert!(!TIMED.is_counted(ms(900), ms(950)));
        assert!(TIMED.is_counted(ms(900), ms(1_000)));
        assert!(TIMED.is_counted(ms(2_900), ms(3_000)));
        assert!(!TIMED.is_counted(ms(2_900), ms(3_001)));
        assert!(!TIMED.is_over(ms(2_999)));
        assert!(TIMED.is_over(ms(3_000)));
        assert_eq!(TIMED.measured(ms(9_000)), ms(2_000));
    }

    #[test]
    fn a_run_of_fixed_requests_counts_those_that_start_after_the_warmup() {
        assert!(!COUNTED.is_counted(ms(999), ms(1_500)));
        assert!(COUNTED.is_counted(ms(1_000), ms(90_000)));
        assert!(!COUNTED.is_over(ms(90_000)));
        assert_eq!(COUNTED.measured(ms(3_500)), ms(2_500));
        assert!(COUNTED.is_measured(ms(1_000)) && !COUNTED.is_measured(ms(999)));
    }

    #[test]
    fn slots_are_due_at_fixed_times() {
        let schedule = Schedule::new(10.0, &TIMED);
        assert_eq!(schedule.slots, 30);
        assert_eq!(schedule.due(0), ms(0));
        assert_eq!(schedule.due(15), ms(1_500));
        assert_eq!(schedule.due_by(ms(0)), 1);
        assert_eq!(schedule.due_by(ms(99)), 1);
        assert_eq!(schedule.due_by(ms(100)), 2);
        assert_eq!(schedule.due_by(ms(99_000)), 30);
        assert_eq!(Schedule::new(10.0, &COUNTED).slots, 15);
        let uneven = Window {
            warmup: ms(300),
            ..TIMED
        };
        assert_eq!(Schedule::new(10_000.0, &uneven).slots, 23_000);
    }

    #[test]
    fn every_slot_is_due_by_its_own_time() {
        for rate in [3.0, 7.7, 1_000.0, 33_333.3] {
            let schedule = Schedule::new(rate, &TIMED);
            for slot in 0..schedule.slots {
                assert!(schedule.due_by(schedule.due(slot)) > slot, "{rate} {slot}");
            }
        }
    }
}
