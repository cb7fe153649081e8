//! The kit's brokers do what the scenarios need, on this version of RabbitMQ.
//!
//! Invariant: each trick is seen to work from the outside, by a client.

use std::io::Result;

use crate::amqp::Client;
use crate::broker::{Broker, PASSWORD, USER};
use crate::broker_node::BrokerNode;
use crate::tcp_proxy::{BASIC_ACK, TcpProxy};
use crate::vhost::Vhost;
use crate::wait::{self, PATIENCE, until_blocking};

fn client(port: u16, vhost: &Vhost) -> Result<Client> {
    Client::connect(port, vhost.name(), USER, PASSWORD)
}

/// A queue with `count` messages.
fn filled(node: &BrokerNode, vhost: &Vhost, count: u64) -> Client {
    let mut client = client(node.port(), vhost).expect("connected");
    client.declare_queue("q").expect("declared");
    for n in 0..count {
        client
            .publish("", "q", &n.to_be_bytes())
            .expect("confirmed");
    }
    client
}

#[test]
fn virtual_hosts_are_apart_and_their_queues_can_be_handled() {
    let broker = Broker::shared();
    let node = broker.node(0);
    let (one, two) = (broker.new_vhost(), broker.new_vhost());
    let mut client = filled(node, &one, 3);
    assert!(one.has_queue(node, "q"));
    assert!(!two.has_queue(node, "q"));
    assert_eq!(one.ready(node, "q"), Ok(3));
    assert_eq!(one.consumers(node, "q"), Ok(0));
    assert_eq!(
        client.get("q").expect("got"),
        Some(0_u64.to_be_bytes().to_vec())
    );
    assert_eq!(one.connections(node), 1);
    assert_eq!(two.connections(node), 0);
    assert_eq!(one.purge(node, "q"), 2);
    assert_eq!(client.get("q").expect("got"), None);
    one.delete_queue(node, "q");
    assert!(!one.has_queue(node, "q"));
    assert!(one.exchanges(node).is_empty());
}

#[test]
fn what_a_killed_broker_confirmed_is_there_in_its_next_life() {
    let broker = Broker::private();
    let vhost = broker.new_vhost();
    let node = broker.node(0);
    let mut before = filled(node, &vhost, 10);
    node.settle();
    broker.kill_and_restart();
    assert!(before.publish("", "q", b"x").is_err());
    let ready = || {
        vhost.ready(node, "q").and_then(|ready| {
            if ready == 10 {
                Ok(())
            } else {
                Err(ready.to_string())
            }
        })
    };
    until_blocking("ten messages", PATIENCE, ready);
    node.stop();
    assert!(client(node.port(), &vhost).is_err());
    node.start();
    node.wait_until_up();
    until_blocking("ten messages", PATIENCE, ready);
}

#[test]
fn a_memory_alarm_holds_publishers_up() {
    let broker = Broker::private();
    let vhost = broker.new_vhost();
    let node = broker.node(0);
    let mut client = filled(node, &vhost, 1);
    node.memory_alarm(true);
    client.send_message("", "q", b"x").expect("sent");
    // The alarm is also why no more comes: another look is as good as a wait.
    for _ in 0..5 {
        assert_eq!(vhost.ready(node, "q"), Ok(1));
    }
    node.memory_alarm(false);
    until_blocking("the held message", PATIENCE, || {
        match vhost.ready(node, "q") {
            Ok(2) => Ok(()),
            seen => Err(seen),
        }
    });
}

#[test]
fn a_paused_broker_goes_on_where_it_was() {
    let broker = Broker::private();
    let vhost = broker.new_vhost();
    let node = broker.node(0);
    let mut client = filled(node, &vhost, 1);
    node.pause();
    client.send_message("", "q", b"x").expect("sent");
    node.resume();
    until_blocking("the second message", PATIENCE, || {
        match vhost.ready(node, "q") {
            Ok(2) => Ok(()),
            seen => Err(seen),
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_confirm_leaves_its_message_in_the_queue() {
    let broker = Broker::shared();
    let vhost = broker.new_vhost();
    let node = broker.node(0);
    let relay = TcpProxy::to_port(node.port());
    let mut client = client(relay.port(), &vhost).expect("connected");
    client.declare_queue("q").expect("declared");
    let publishing = tokio::task::spawn_blocking(move || client.publish("", "q", b"x"));
    relay.swallow(BASIC_ACK).await;
    assert!(publishing.await.expect("joined").is_err());
    wait::until("the message", async || match vhost.ready(node, "q") {
        Ok(1) => Ok(()),
        seen => Err(seen),
    })
    .await;
}

#[test]
fn a_cluster_of_three_survives_one_and_takes_back_a_lost_one() {
    let broker = Broker::of_three();
    let vhost = broker.new_vhost();
    let mut through_first = filled(broker.node(0), &vhost, 5);
    for node in broker.nodes() {
        assert_eq!(node.running_nodes(), Ok(3), "{}", node.name());
    }
    broker.node(2).kill();
    through_first
        .publish("", "q", b"two of three")
        .expect("confirmed");
    broker.node(2).start();
    broker.node(2).wait_until_up();

    broker.isolate(1);
    through_first
        .publish("", "q", b"also two of three")
        .expect("confirmed");
    let cut_off = client(broker.node(1).port(), &vhost)
        .and_then(|mut client| client.publish("", "q", b"alone"));
    assert!(cut_off.is_err(), "the minority took a message");
    broker.reunite(1);
    until_blocking("three that run", PATIENCE, || {
        match broker.node(1).running_nodes() {
            Ok(3) => Ok(()),
            seen => Err(seen),
        }
    });
    let mut through_second = until_blocking("a node that serves again", PATIENCE, || {
        client(broker.node(1).port(), &vhost)
    });
    until_blocking("a confirm of the third that was cut off", PATIENCE, || {
        through_second.publish("", "q", b"again")
    });
}
