//! Tests of names and queue arguments.
//!
//! Invariant: see the [module above](super).

use super::*;

#[test]
fn names_are_those_of_the_design() {
    let names = Names::new(&AmqpOptions::new(Vec::new()));
    let c1 = CounterName::new("c1").expect("valid");
    assert_eq!(names.items(Partition(3)), "headcount.items.3");
    assert_eq!(names.queue(Partition(0), &c1), "headcount.items.0.c1");
    assert_eq!(names.presence(), "headcount.presence");
    assert_eq!(names.generation(&c1), "headcount.generation.c1");
    for (marker, name) in [
        (Marker::Founded, "headcount.founded"),
        (Marker::Founding(c1.clone()), "headcount.founding.c1"),
        (Marker::Started(c1.clone()), "headcount.started.c1"),
        (Marker::Lost(c1.clone()), "headcount.lost.c1"),
        (Marker::Replaced, "headcount.replaced"),
        (Marker::Removed(c1), "headcount.removed.c1"),
    ] {
        assert_eq!(names.marker(&marker), name);
    }
}

/// Generation queues are read by `basic.get`, which a single active consumer would prevent.
#[test]
fn a_generation_queue_drops_nothing_and_is_looked_into() {
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let mut expected = queue_arguments(queue_type).inner().clone();
        expected.remove("x-single-active-consumer");
        assert_eq!(*lasting_arguments(queue_type).inner(), expected);
    }
}

#[test]
fn an_item_queue_drops_nothing_and_has_one_consumer() {
    let table = queue_arguments(QueueType::Quorum);
    let arguments = table.inner();
    assert_eq!(arguments.len(), 4);
    assert_eq!(
        arguments["x-consumer-disconnected-timeout"],
        AMQPValue::LongLongInt(0)
    );
    assert_eq!(
        arguments["x-single-active-consumer"],
        AMQPValue::Boolean(true)
    );
    assert_eq!(
        arguments["x-delivery-limit"],
        AMQPValue::LongLongInt(1_000_000_000)
    );
    assert_eq!(
        arguments["x-queue-type"],
        AMQPValue::LongString("quorum".into())
    );
    let table = queue_arguments(QueueType::Classic);
    assert_eq!(
        table.inner().len(),
        2,
        "a classic queue has neither a delivery limit nor a disconnect timeout"
    );
    assert_eq!(
        table.inner()["x-single-active-consumer"],
        AMQPValue::Boolean(true)
    );
}
