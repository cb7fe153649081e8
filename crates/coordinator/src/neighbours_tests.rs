//! Tests of which coordinators are presumed gone, and of which nodes cannot read a batch format.
//!
//! Invariant: all times are given by the tests.

use super::*;

const OWN: Epoch = Epoch(9);
const OTHER: Epoch = Epoch(1);

fn node(name: &str, role: NeighbourRole, heard_at: Instant) -> Neighbour {
    Neighbour {
        name: name.into(),
        release: "0.1.0".into(),
        url: format!("http://{name}"),
        heard_at,
        role,
        named: Vec::new(),
        reaches: None,
    }
}

fn appends(epoch: Epoch, heard_at: Instant) -> Neighbour {
    let name = format!("k{}", epoch.0);
    node(&name, NeighbourRole::Appends(Some(epoch)), heard_at)
}

/// Seconds since a start time.
struct Clock(Instant);

impl Clock {
    fn at(&self, seconds: u64) -> Instant {
        self.0 + Duration::from_secs(seconds)
    }

    /// Receives one own announcement per second from `first` to `last`, with `others` known as
    /// well.
    fn hear(&self, to: &mut Neighbours, first: u64, last: u64, others: &[Neighbour]) {
        for second in first..=last {
            let own = appends(OWN, self.at(second));
            to.note(OWN, [&[own], others].concat());
        }
    }
}

fn clock() -> Clock {
    Clock(Instant::now())
}

fn heard(epoch: Epoch) -> Option<MayCome> {
    let url = format!("http://k{}", epoch.0);
    Some(MayCome::Heard { url })
}

#[test]
fn a_coordinator_is_gone_a_minute_after_its_last_word() {
    let (clock, mut neighbours) = (clock(), Neighbours::default());
    let other = [appends(OTHER, clock.at(100))];
    clock.hear(&mut neighbours, 0, 100, &other);
    assert_eq!(neighbours.may_come(OTHER), heard(OTHER));
    assert_eq!(
        neighbours.may_come(Epoch(2)),
        None,
        "no coordinator has that epoch"
    );
    clock.hear(&mut neighbours, 101, 159, &other);
    assert_eq!(neighbours.may_come(OTHER), heard(OTHER));
    clock.hear(&mut neighbours, 160, 160, &other);
    assert_eq!(neighbours.may_come(OTHER), None);
    let back = [appends(OTHER, clock.at(161))];
    clock.hear(&mut neighbours, 161, 161, &back);
    assert_eq!(neighbours.may_come(OTHER), heard(OTHER), "it was only slow");
}

/// A coordinator that has just started has not heard any other node yet.
#[test]
fn who_has_not_listened_for_a_minute_takes_nobody_for_gone() {
    let (clock, mut neighbours) = (clock(), Neighbours::default());
    let deaf = Neighbours::default().may_come(OTHER);
    assert_eq!(deaf, Some(MayCome::NotHeardLong { yet: SILENCE_MAX }));
    clock.hear(&mut neighbours, 5, 64, &[]);
    let yet = Duration::from_secs(1);
    assert_eq!(
        neighbours.may_come(OTHER),
        Some(MayCome::NotHeardLong { yet })
    );
    clock.hear(&mut neighbours, 65, 65, &[]);
    assert_eq!(neighbours.may_come(OTHER), None);
}

/// The connection was lost, the process was stopped, or the broker accepted no messages. The other
/// nodes were not silent, but could not be heard.
#[test]
fn nobody_is_silent_while_nobody_listens() {
    let (clock, mut neighbours) = (clock(), Neighbours::default());
    let other = [appends(OTHER, clock.at(50))];
    clock.hear(&mut neighbours, 0, 50, &other);
    clock.hear(&mut neighbours, 300, 300, &other);
    assert!(neighbours.may_come(OTHER).is_some());
    clock.hear(&mut neighbours, 301, 359, &other);
    assert!(neighbours.may_come(OTHER).is_some());
    clock.hear(&mut neighbours, 360, 360, &other);
    assert_eq!(neighbours.may_come(OTHER), None);
    // No time passes without own announcements, whatever other nodes announce.
    let others = [
        appends(Epoch(3), clock.at(900)),
        appends(OTHER, clock.at(301)),
    ];
    neighbours.note(OWN, others.to_vec());
    assert_eq!(neighbours.may_come(OTHER), heard(OTHER));
}

#[test]
fn a_coordinator_that_does_not_say_its_epoch_may_have_any() {
    let (clock, mut neighbours) = (clock(), Neighbours::default());
    let silent = node("old", NeighbourRole::Appends(None), clock.at(100));
    let others = [silent, appends(OTHER, clock.at(100))];
    clock.hear(&mut neighbours, 0, 100, &others);
    let unsaid = MayCome::Unsaid {
        name: "old".into(),
        release: "0.1.0".into(),
    };
    assert_eq!(neighbours.may_come(Epoch(2)), Some(unsaid));
    assert_eq!(neighbours.may_come(OTHER), heard(OTHER));
    clock.hear(&mut neighbours, 101, 160, &others);
    assert_eq!(neighbours.may_come(Epoch(2)), None);
}

#[test]
fn who_reads_no_newer_version_is_found_and_coordinators_read_none() {
    let (clock, mut neighbours) = (clock(), Neighbours::default());
    let new = node("c1", NeighbourRole::Reads(2), clock.at(0));
    clock.hear(&mut neighbours, 0, 0, std::slice::from_ref(&new));
    assert_eq!(neighbours.cannot_read(2), None);
    let old = node("c2", NeighbourRole::Reads(1), clock.at(0));
    clock.hear(&mut neighbours, 1, 1, &[new, old.clone()]);
    assert_eq!(neighbours.cannot_read(2), Some(&old));
    assert_eq!(neighbours.cannot_read(1), None);
}
