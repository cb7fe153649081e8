//! Finding the cluster on a broker with several addresses. A broker node that lost its disk and has
//! not joined the others again knows nothing of the cluster, or only imported definitions.
//!
//! Invariant: behind an address of a node that does not carry the cluster, nothing is bootstrapped,
//! published or waited for while another node carries it; and nothing is bootstrapped or published
//! there while another address is silent.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::BasicGetOptions;

use super::broker_error::BrokerError;
use super::connection::{Link, close, connect, timed};
use super::topology::{Broker, Marker};
use super::{AmqpOptions, AmqpUrl};

/// How long a counter waits before it checks again whether the cluster is bootstrapped.
const FOUNDED_INTERVAL: Duration = Duration::from_millis(500);
/// How often the other addresses are checked while this one does not carry the cluster.
const ELSEWHERE_INTERVAL: Duration = Duration::from_secs(2);
/// How often generation queues are checked before they count as empty: a counter that reads its own
/// queue holds the messages for a moment.
const LOOKS: usize = 3;
/// The pause between two of these checks.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// What a node of the broker knows of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knows {
    /// It carries the cluster, as far as can be determined.
    Cluster,
    /// It has markers and queues, but none of the messages that stay in generation queues for the
    /// lifetime of the cluster: they were imported with definitions.
    Markers,
    /// No cluster was bootstrapped there.
    Nothing,
}

/// What a silent address means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silent {
    /// Its node may carry the cluster: nothing is done here until it responds.
    MayKnow,
    /// Nothing, because what is done here does no harm.
    Passes,
}

/// What a check of an address found.
#[derive(Debug)]
enum Seen {
    Knows(Knows),
    Silent(BrokerError),
}

/// Checks what the node of `broker` knows and, if it does not carry the cluster, what the nodes at
/// the other addresses know.
///
/// # Errors
/// When another node carries the cluster, or is silent and that matters: then nobody would see what
/// is done here.
pub(super) async fn check(broker: &mut Broker, silent: Silent) -> Result<Knows, BrokerError> {
    let here = knows(broker).await?;
    if here == Knows::Cluster || broker.options.urls.len() < 2 {
        return Ok(here);
    }
    let options = Arc::clone(&broker.options);
    let seen = look_around(&options, broker.address).await;
    match refusal(&seen, silent) {
        Some(why) => Err(BrokerError::Undone(why)),
        None => Ok(here),
    }
}

/// Like [`check`], before the bootstrap; returns whether the cluster is bootstrapped already. With
/// several addresses, the bootstrap is done at the first one in the order of host, port and virtual
/// host. Otherwise two nodes that have not joined each other could both be bootstrapped.
///
/// # Errors
/// Like [`check`] where a silent address matters, and at any address but the first.
pub(super) async fn check_founding(broker: &mut Broker) -> Result<bool, BrokerError> {
    if check(broker, Silent::MayKnow).await? != Knows::Nothing {
        return Ok(true);
    }
    let options = &broker.options;
    let own = options.urls.get(broker.address);
    match options.urls.iter().min_by_key(|url| url.place()) {
        Some(first) if own.is_some_and(|own| own.place() != first.place()) => {
            Err(BrokerError::Undone(format!(
                "the cluster is not bootstrapped yet, and must be bootstrapped at {first}; trying \
                 the next address"
            )))
        }
        _ => Ok(false),
    }
}

/// Waits before a counter checks again whether the cluster is bootstrapped.
///
/// # Errors
/// When the broker has more addresses, because the cluster may be bootstrapped at the next one.
pub(super) async fn wait_or_move_on(options: &AmqpOptions) -> Result<(), BrokerError> {
    tokio::time::sleep(FOUNDED_INTERVAL).await;
    match options.urls.len() {
        0 | 1 => Ok(()),
        _ => Err(BrokerError::Undone(
            "this broker node does not know the cluster; a coordinator must bootstrap it. Trying \
             the next address"
                .to_owned(),
        )),
    }
}

/// Waits until another address proves to carry the cluster while the address of `broker` does not.
/// Then a node that listens or publishes here is isolated. `here` is the result of a [`check`].
pub(super) async fn turns_up(mut broker: Broker, mut here: Knows) {
    let options = Arc::clone(&broker.options);
    while options.urls.len() >= 2 && here != Knows::Cluster {
        tokio::time::sleep(ELSEWHERE_INTERVAL).await;
        match knows(&mut broker).await {
            Ok(seen) => here = seen,
            // The user of the connection notices if it is lost.
            Err(error) => {
                tracing::debug!(%error, "checking whether the node carries the cluster failed");
                continue;
            }
        }
        if here != Knows::Cluster {
            let seen = look_around(&options, broker.address).await;
            if refusal(&seen, Silent::Passes).is_some() {
                return;
            }
        }
    }
    std::future::pending().await
}

/// What the node of `broker` knows. If the broker has one address, only the marker is checked.
pub(super) async fn knows(broker: &mut Broker) -> Result<Knows, BrokerError> {
    if !broker.has(&Marker::Founded).await? {
        return Ok(Knows::Nothing);
    }
    let options = Arc::clone(&broker.options);
    if options.urls.len() < 2 {
        return Ok(Knows::Cluster);
    }
    let mut empty = Vec::new();
    for look in 1..=LOOKS {
        empty.clear();
        for counter in &options.witnesses {
            let queue = broker.names.generation(counter);
            match broker.messages(&queue).await {
                Ok(Some(0)) => empty.push(queue),
                Ok(None) => {}
                // A queue that cannot be checked for now was not just imported.
                Ok(Some(_)) | Err(_) => return Ok(Knows::Cluster),
            }
        }
        // Without any such queue, a release without generations bootstrapped the cluster.
        if empty.is_empty() {
            return Ok(Knows::Cluster);
        }
        if look < LOOKS {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
    for queue in &empty {
        if !is_surely_empty(&options, broker.address, queue).await {
            return Ok(Knows::Cluster);
        }
    }
    Ok(Knows::Markers)
}

/// Whether a queue that reports no messages also delivers none. For a queue that has lost the
/// majority of its members, RabbitMQ reports no messages, but does not respond when one is
/// requested. The request has its own connection, because it can end the connection.
async fn is_surely_empty(options: &Arc<AmqpOptions>, address: usize, queue: &str) -> bool {
    let Some(url) = options.urls.get(address) else {
        return false;
    };
    let taken = async {
        let connection = connect(options, url, "looking into a queue").await?;
        let channel = timed(connection.create_channel()).await?;
        let taken = timed(channel.basic_get(queue.into(), BasicGetOptions::default())).await;
        // A message that was taken returns to the queue with the end of the connection.
        close(&connection).await;
        taken
    };
    matches!(taken.await, Ok(None))
}

/// Checks all addresses except `own` concurrently, until one of them proves to carry the cluster.
async fn look_around(options: &Arc<AmqpOptions>, own: usize) -> Vec<(&AmqpUrl, Seen)> {
    let others = options.urls.iter().enumerate();
    let others = others.filter(|(address, _)| *address != own);
    let mut looks: FuturesUnordered<_> = others
        .map(async |(address, url)| (url, look(options, address, url).await))
        .collect();
    let mut seen = Vec::with_capacity(options.urls.len());
    while let Some((url, one)) = looks.next().await {
        let carries = matches!(one, Seen::Knows(Knows::Cluster));
        seen.push((url, one));
        if carries {
            break;
        }
    }
    seen
}

async fn look(options: &Arc<AmqpOptions>, address: usize, url: &AmqpUrl) -> Seen {
    let looked = async {
        let connection = connect(options, url, "looking for the cluster").await?;
        let link = Link::new(connection, address);
        let seen = knows(&mut Broker::new(Arc::clone(options), &link)).await;
        link.close().await;
        seen
    };
    match looked.await {
        Ok(knows) => Seen::Knows(knows),
        Err(error) => Seen::Silent(error),
    }
}

/// Why nothing may be done at this address; none if it may.
fn refusal(seen: &[(impl Display, Seen)], silent: Silent) -> Option<String> {
    for (url, seen) in seen {
        if matches!(seen, Seen::Knows(Knows::Cluster)) {
            return Some(format!(
                "this broker node does not carry the cluster, but the node at {url} does; this \
                 node may have lost its disk, or not have joined the others yet. Trying the next \
                 address"
            ));
        }
    }
    if silent == Silent::Passes {
        return None;
    }
    seen.iter().find_map(|(url, seen)| match seen {
        Seen::Silent(error) => Some(format!(
            "this broker node does not carry the cluster, and the node at {url} does not respond \
             ({error}). Nothing is bootstrapped or published here until that node responds or is \
             removed from --amqp-url"
        )),
        Seen::Knows(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_where_the_cluster_is_not_while_it_may_be_elsewhere() {
        let silent = || {
            (
                "three",
                Seen::Silent(BrokerError::Undone("refused".to_owned())),
            )
        };
        let knows = |knows| ("two", Seen::Knows(knows));
        for unfounded in [Knows::Nothing, Knows::Markers] {
            assert_eq!(refusal(&[knows(unfounded)], Silent::MayKnow), None);
            let why = refusal(&[knows(unfounded), silent()], Silent::MayKnow).expect("silent");
            assert!(why.contains("refused") && why.contains("at three"), "{why}");
            assert_eq!(refusal(&[knows(unfounded), silent()], Silent::Passes), None);
        }
        for matters in [Silent::MayKnow, Silent::Passes] {
            let why = refusal(&[silent(), knows(Knows::Cluster)], matters).expect("elsewhere");
            assert!(why.contains("at two does"), "{why}");
        }
    }
}
