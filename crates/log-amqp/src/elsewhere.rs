//! Where the cluster is, of a broker with several addresses: one of its nodes that lost its disk,
//! and has not joined the others again, knows nothing of the cluster, or no more than the
//! definitions that were imported there.
//!
//! Invariant: nothing is founded, published or waited for behind an address whose node does not
//! carry the cluster while another does; and nothing is founded or published there while another is
//! silent.

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

/// How long a counter waits before it looks again whether the cluster is founded.
const FOUNDED_INTERVAL: Duration = Duration::from_millis(500);
/// How often the other addresses are looked at while the own one does not carry the cluster.
const ELSEWHERE_INTERVAL: Duration = Duration::from_secs(2);
/// Looks at generation queues before it counts that they are empty: a counter that looks into its
/// own takes for a moment what is in it.
const LOOKS: usize = 3;
/// The pause between those looks.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// What a node of the broker knows of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knows {
    /// It carries the cluster, as far as can be told.
    Cluster,
    /// Its markers and queues, and none of the messages that lie in generation queues for as long
    /// as the cluster lives: they were imported with definitions.
    Markers,
    /// Nothing was founded there.
    Nothing,
}

/// What a silent address means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silent {
    /// It may carry the cluster: nothing is done here until it answers.
    MayKnow,
    /// Nothing: what is done here does no harm.
    Passes,
}

/// What an address answers.
#[derive(Debug)]
enum Seen {
    Knows(Knows),
    Silent(BrokerError),
}

/// Looks what the node of `broker` knows, and, if it does not carry the cluster, what those behind
/// the other addresses know.
///
/// # Errors
/// When another one carries it, or is silent and that matters: what is done here would be done for
/// nobody.
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

/// The same before the cluster is founded; whether it is founded already. Of several addresses it
/// is founded behind the first in the order of host, port and virtual host: two nodes that have not
/// joined each other would else found it twice.
///
/// # Errors
/// As [`check`], a silent address included; and behind any other address.
pub(super) async fn check_founding(broker: &mut Broker) -> Result<bool, BrokerError> {
    if check(broker, Silent::MayKnow).await? != Knows::Nothing {
        return Ok(true);
    }
    let options = &broker.options;
    let own = options.urls.get(broker.address);
    match options.urls.iter().min_by_key(|url| url.place()) {
        Some(first) if own.is_some_and(|own| own.place() != first.place()) => {
            Err(BrokerError::Undone(format!(
                "the cluster is not founded yet, and is to be founded at {first}: on to that"
            )))
        }
        _ => Ok(false),
    }
}

/// What a counter does where the cluster is not founded yet: it waits, and looks again.
///
/// # Errors
/// Where the broker has more addresses: the cluster may be founded behind the next.
pub(super) async fn wait_or_move_on(options: &AmqpOptions) -> Result<(), BrokerError> {
    tokio::time::sleep(FOUNDED_INTERVAL).await;
    match options.urls.len() {
        0 | 1 => Ok(()),
        _ => Err(BrokerError::Undone(
            "this node of the broker does not know the cluster, or not yet: a coordinator declares it. On to the next"
                .to_owned(),
        )),
    }
}

/// Waits until another address turns out to carry the cluster while that of `broker`, of which a
/// [`check`] said what it knows, does not: who listens or publishes here is alone.
pub(super) async fn turns_up(mut broker: Broker, mut here: Knows) {
    let options = Arc::clone(&broker.options);
    while options.urls.len() >= 2 && here != Knows::Cluster {
        tokio::time::sleep(ELSEWHERE_INTERVAL).await;
        match knows(&mut broker).await {
            Ok(seen) => here = seen,
            // Whoever uses the connection notices when it is lost.
            Err(error) => {
                tracing::debug!(%error, "the broker does not say whether it carries the cluster");
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

/// What the node of `broker` knows. Of a broker with one address only the markers are looked at.
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
                // One that can't be looked at for now was not just imported.
                Ok(Some(_)) | Err(_) => return Ok(Knows::Cluster),
            }
        }
        // No such queue at all: of a release before them.
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

/// Whether a queue that shows no messages gives none either. Of one that has lost the majority of
/// its members RabbitMQ says that it has none; asked for one, it does not answer. On a connection
/// of its own, which that can end.
async fn is_surely_empty(options: &Arc<AmqpOptions>, address: usize, queue: &str) -> bool {
    let Some(url) = options.urls.get(address) else {
        return false;
    };
    let taken = async {
        let connection = connect(options, url, "looking into a queue").await?;
        let channel = timed(connection.create_channel()).await?;
        let taken = timed(channel.basic_get(queue.into(), BasicGetOptions::default())).await;
        // What was taken goes back with the connection.
        close(&connection).await;
        taken
    };
    matches!(taken.await, Ok(None))
}

/// Looks behind all addresses but `own`, at once, and no longer once one of them carries the
/// cluster.
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

/// Why nothing is done here.
fn refusal(seen: &[(impl Display, Seen)], silent: Silent) -> Option<String> {
    for (url, seen) in seen {
        if matches!(seen, Seen::Knows(Knows::Cluster)) {
            return Some(format!(
                "this node of the broker does not carry the cluster, and the one at {url} does: has it lost its disk, or not joined the \
                 others yet? On to the next"
            ));
        }
    }
    if silent == Silent::Passes {
        return None;
    }
    seen.iter().find_map(|(url, seen)| match seen {
        Seen::Silent(error) => Some(format!(
            "this node of the broker does not carry the cluster, and the one at {url} can't be asked ({error}). Nothing is founded or \
             published here until that one answers, or is taken out of --amqp-url"
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
