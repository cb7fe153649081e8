//! Tests of messages: round trips, and bytes that are not messages.
//!
//! Invariant: see the [module above](super).

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{Contains, Counts, Coverage, ListQuery, Listing, QueryError, ReadRequirement, Status};
use headcount_model::{
    BatchId, Epoch, ItemHash, LossId, Partition, Requirement, SEQUENCE_MAX, Sequences, TenantName,
};

fn tenant() -> impl Strategy<Value = TenantName> {
    "[a-z\"\\\\é /]{1,8}".prop_map(|name| TenantName::new(&name).expect("valid"))
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let sequences = prop::collection::vec(1_u64..30, 0..8);
    let last = prop_oneof![Just(0), Just(SEQUENCE_MAX)];
    let part = (0_u16..3, any::<u128>(), sequences, last);
    prop::collection::vec(part, 0..4).prop_map(|parts| {
        let mut requirement = Requirement::default();
        for (partition, epoch, sequences, last) in parts {
            let mut set = Sequences::default();
            for sequence in sequences {
                set.insert(sequence);
            }
            set.insert(last);
            requirement.add_all(Partition(partition), Epoch(epoch), &set);
        }
        requirement
    })
}

fn demand() -> impl Strategy<Value = ReadRequirement> {
    let barrier =
        (any::<u16>(), any::<u128>(), any::<u64>()).prop_map(|(partition, epoch, sequence)| {
            BatchId {
                partition: Partition(partition),
                epoch: Epoch(epoch),
                sequence,
            }
        });
    let barriers = prop::collection::vec(barrier, 0..3);
    (requirement(), barriers, any::<u64>(), any::<bool>()).prop_map(
        |(requirement, barriers, wait_ms, whole_position)| ReadRequirement {
            requirement,
            barriers,
            wait: Duration::from_millis(wait_ms),
            whole_position,
        },
    )
}

fn cover() -> impl Strategy<Value = Coverage> {
    let partitions = prop::collection::btree_map(0_u16..5, any::<bool>(), 0..3);
    let loss = any::<Option<u64>>();
    (any::<u64>(), any::<bool>(), partitions, requirement(), loss).prop_map(
        |(life, barriers, partitions, covered, loss)| {
            let partitions = partitions.into_iter();
            Coverage {
                life,
                barriers,
                partitions: partitions
                    .map(|(p, covers)| (Partition(p), covers))
                    .collect(),
                covered,
                loss: loss.map(LossId),
            }
        },
    )
}

fn counts() -> impl Strategy<Value = Result<Counts, QueryError>> {
    let good = (cover(), prop::collection::vec(any::<u64>(), 0..4)).prop_map(|(cover, counts)| {
        let each = |&count: &u64| vec![count; cover.partitions.len()];
        let counts = counts.iter().map(each).collect();
        Ok(Counts { cover, counts })
    });
    prop_oneof![
        4 => good,
        1 => any::<String>().prop_map(|detail| Err(QueryError::Store(detail))),
        1 => any::<String>().prop_map(|detail| Err(QueryError::Unreachable(detail))),
    ]
}

fn same_demand(one: &ReadRequirement, other: &ReadRequirement) -> bool {
    one.requirement == other.requirement
        && one.barriers == other.barriers
        && one.wait == other.wait
        && one.whole_position == other.whole_position
}

fn there_and_back<M: Message>(message: &M) -> M {
    M::decode(&message.encode()).expect("just encoded")
}

proptest! {
    #[test]
    fn groups_survive_the_round_trip_and_share_what_they_require(
        shared in demand(),
        others in prop::collection::vec((prop::collection::vec(tenant(), 0..3), demand()), 0..4),
        tenants in prop::collection::vec(tenant(), 0..3),
    ) {
        let mut queries: Vec<CountsQuery> = others
            .into_iter()
            .map(|(tenants, demand)| CountsQuery { tenants: tenants.into(), demand })
            .collect();
        let before = CountsGroup(queries.clone()).encode();
        let before = serde_json::from_slice::<serde_json::Value>(&before)
            .expect("JSON")["requirements"].as_array().expect("a list").len();
        for _ in 0..3 {
            queries.push(CountsQuery { tenants: tenants.clone().into(), demand: shared.clone() });
        }
        let group = CountsGroup(queries);
        let json: serde_json::Value = serde_json::from_slice(&group.encode()).expect("JSON");
        prop_assert!(json["requirements"].as_array().expect("a list").len() <= before + 1);
        let back = there_and_back(&group);
        prop_assert_eq!(back.0.len(), group.0.len());
        for (one, other) in back.0.iter().zip(&group.0) {
            prop_assert_eq!(&one.tenants, &other.tenants);
            prop_assert!(same_demand(&one.demand, &other.demand));
        }
    }

    #[test]
    fn queries_survive_the_round_trip(
        tenant in tenant(),
        hash: [u8; 12],
        prefix: String,
        after: Option<String>,
        limit: usize,
        demand in demand(),
    ) {
        let query = ContainsQuery { tenant, hash: ItemHash(hash), demand: demand.clone() };
        let back = there_and_back(&query);
        prop_assert_eq!((&back.tenant, back.hash), (&query.tenant, query.hash));
        prop_assert!(same_demand(&back.demand, &demand));

        let list = ListQuery { prefix, after, limit };
        let query = ListingQuery { list, demand };
        let back = there_and_back(&query);
        prop_assert_eq!(&back.list.prefix, &query.list.prefix);
        prop_assert_eq!(&back.list.after, &query.list.after);
        prop_assert_eq!(back.list.limit, query.list.limit);
        prop_assert!(same_demand(&back.demand, &query.demand));
    }

    #[test]
    fn answers_survive_the_round_trip(
        answers in prop::collection::vec(counts(), 0..6),
        cover in cover(),
        tenants in prop::collection::btree_map(tenant(), any::<u64>(), 0..4),
        flag: bool,
        numbers: [u64; 11],
        last: Option<(String, u64)>,
        doubt: Option<String>,
        problem: Option<String>,
    ) {
        // Each answer twice, so that some share a cover.
        let answers = CountsAnswers([answers.clone(), answers].concat());
        prop_assert_eq!(there_and_back(&answers), answers);
        let membership = Contains { cover: cover.clone(), counted: flag };
        prop_assert_eq!(there_and_back(&membership), membership);
        let partitions = cover.partitions.len();
        let tenants = tenants.into_iter();
        let listing = Listing {
            cover,
            tenants: tenants.map(|(name, count)| (name, vec![count; partitions])).collect(),
            more: flag,
        };
        prop_assert_eq!(there_and_back(&listing), listing);
        let [tenants, items, epochs, holes, lag_ms, redeliveries, snapshots, forks, disk_bytes,
            memory_bytes, runs] = numbers;
        let status = Status {
            name: "c1".into(), complete: flag, tenants, items, epochs, last_applied: last, holes,
            lag_ms, redeliveries, snapshots, forks, disk_bytes, memory_bytes, runs, doubt,
            problem,
        };
        prop_assert_eq!(there_and_back(&status), status);
    }

    #[test]
    fn any_bytes_are_refused_or_read_without_a_panic(
        bytes: Vec<u8>,
        group in prop::collection::vec(counts(), 0..3),
        at: prop::sample::Index,
        put: u8,
    ) {
        let mut damaged = CountsAnswers(group).encode();
        let at = at.index(damaged.len());
        damaged[at] = put;
        for bytes in [&bytes, &damaged] {
            let _ = CountsGroup::decode(bytes);
            let _ = CountsAnswers::decode(bytes);
            let _ = ContainsQuery::decode(bytes);
            let _ = ListingQuery::decode(bytes);
            let _ = Contains::decode(bytes);
            let _ = Listing::decode(bytes);
            let _ = Status::decode(bytes);
            let _ = LossPlan::decode(bytes);
            let _ = LossRequest::decode(bytes);
            let _ = LossReceipt::decode(bytes);
        }
    }
}

#[test]
fn the_json_is_as_documented() {
    let mut requirement = Requirement::default();
    let sequences = Sequences::from_parts(4, vec![(6, 7)]).expect("valid");
    requirement.add_all(Partition(0), Epoch(0xab), &sequences);
    let query = CountsQuery {
        tenants: Arc::new([TenantName::new("asd").expect("valid")]),
        demand: ReadRequirement {
            requirement,
            ..ReadRequirement::default()
        },
    };
    let text = String::from_utf8(CountsGroup(vec![query]).encode()).expect("UTF-8");
    let epoch = "000000000000000000000000000000ab";
    let expected = format!(
        concat!(
            r#"{{"requirements":[[{{"partition":0,"epoch":"{epoch}","prefix":4,"#,
            r#""beyond":[[6,7]]}}]],"queries":[{{"tenants":["asd"],"requirement":0,"barriers":[],"#,
            r#""wait_ms":0,"whole_position":false}}]}}"#
        ),
        epoch = epoch
    );
    assert_eq!(text, expected);
}

/// A status without a problem is what the first release wrote, and that is read.
#[test]
fn a_status_of_another_release_is_read() {
    let first = concat!(
        r#"{"name":"c1","complete":true,"tenants":1,"items":2,"epochs":3,"last_applied":null,"#,
        r#""holes":4,"lag_ms":5,"redeliveries":6,"snapshots":7,"forks":8,"disk_bytes":9,"#,
        r#""memory_bytes":10,"runs":11}"#
    );
    let status = Status::decode(first.as_bytes()).expect("read");
    assert_eq!(status.problem, None);
    assert_eq!(String::from_utf8(status.encode()).expect("UTF-8"), first);
    let later = first.replace('}', r#","problem":"why","later":[1]}"#);
    let status = Status::decode(later.as_bytes()).expect("read");
    assert_eq!(status.problem.as_deref(), Some("why"));
}

/// A cover without a loss is what the first release wrote, and is read as one that does not report
/// it.
#[test]
fn a_cover_of_another_release_is_read() {
    let first = concat!(
        r#"{"covers":[{"life":1,"barriers":true,"partitions":[[0,false]],"covered":[]}],"#,
        r#""answers":[{"counts":{"cover":0,"counts":[]}}]}"#
    );
    let answers = CountsAnswers::decode(first.as_bytes()).expect("read");
    let cover = &answers.0[0].as_ref().expect("counts").cover;
    assert_eq!(cover.loss, None);
    assert_eq!(String::from_utf8(answers.encode()).expect("UTF-8"), first);
    let now = first.replace(
        r#""covered":[]"#,
        r#""covered":[],"loss":"00000000000000ab""#,
    );
    let answers = CountsAnswers::decode(now.as_bytes()).expect("read");
    let cover = &answers.0[0].as_ref().expect("counts").cover;
    assert_eq!(cover.loss, Some(LossId(0xab)));
    assert_eq!(String::from_utf8(answers.encode()).expect("UTF-8"), now);
    let wrong = now.replace("00ab", "0AB");
    assert!(CountsAnswers::decode(wrong.as_bytes()).is_err());
}

#[test]
fn what_contradicts_itself_is_refused() {
    let group = |requirements: &str, queries: &str| {
        let text = format!(r#"{{"requirements":{requirements},"queries":{queries}}}"#);
        CountsGroup::decode(text.as_bytes())
    };
    let query =
        r#"{"tenants":[],"requirement":0,"barriers":[],"wait_ms":0,"whole_position":false}"#;
    let part = |epoch: &str, beyond: &str| {
        format!(r#"[[{{"partition":0,"epoch":"{epoch}","prefix":4,"beyond":{beyond}}}]]"#)
    };
    let epoch = "0".repeat(32);
    assert!(group(&part(&epoch, "[]"), &format!("[{query}]")).is_ok());
    assert!(
        group("[]", &format!("[{query}]")).is_err(),
        "the requirement does not exist"
    );
    assert!(
        group(&part(&epoch, "[[5,6]]"), "[]").is_err(),
        "touches the prefix"
    );
    assert!(group(&part(&"A".repeat(32), "[]"), "[]").is_err());
    assert!(group(&part(&format!("+{}", "0".repeat(31)), "[]"), "[]").is_err());
    assert!(group(&part(&"0".repeat(31), "[]"), "[]").is_err());
    let many = vec![query; GROUP_QUERIES_MAX + 1].join(",");
    assert!(group("[[]]", &format!("[{many}]")).is_err());
    let bare = query.replace("[]", r#"["."]"#);
    assert!(
        group("[[]]", &format!("[{bare}]")).is_err(),
        "not a tenant's name"
    );

    // Short to send, but large in memory.
    let parts: Vec<String> = (0..GROUP_EPOCHS_MAX)
        .map(|epoch| format!(r#"{{"partition":0,"epoch":"{epoch:032x}","prefix":1}}"#))
        .collect();
    let long = format!("[[{}]]", parts.join(","));
    assert!(group(&long, &format!("[{query}]")).is_ok());
    assert!(group(&long, &format!("[{query},{query}]")).is_err());

    let cover = r#"{"life":1,"barriers":true,"partitions":[[0,true]],"covered":[]}"#;
    let answers = |counts: &str| {
        let text = format!(
            r#"{{"covers":[{cover}],"answers":[{{"counts":{{"cover":0,"counts":{counts}}}}}]}}"#
        );
        CountsAnswers::decode(text.as_bytes())
    };
    assert!(answers("[[1],[2]]").is_ok());
    assert!(
        answers("[[1],[2,3]]").is_err(),
        "two counts for one partition"
    );
}
