//! What the other addresses of the broker say: one of its nodes that lost its disk, and has not joined the others again, knows
//! nothing of a cluster that they carry.
//!
//! Invariant: a cluster is founded only where no address knows it, and none is silent.

use std::sync::Arc;
use std::time::Duration;

use super::connection::{BrokerError, close, connect};
use super::topology::{Broker, Marker};
use super::{AmqpOptions, AmqpUrl};

/// How long a counter waits before it looks again whether the cluster is founded.
const FOUNDED_INTERVAL: Duration = Duration::from_millis(500);

/// How often the other addresses are looked at meanwhile.
const ELSEWHERE_INTERVAL: Duration = Duration::from_secs(2);

/// What is known of the cluster behind an address.
enum Seen {
    Founded,
    NotFounded,
    Silent(BrokerError),
}

/// Checks that the cluster is founded behind no address of the broker; to be called before it is founded behind one of them.
///
/// # Errors
/// When another address knows it, or does not answer: what is published here may then be in no counter's queue.
pub(super) async fn check_not_founded(options: &Arc<AmqpOptions>) -> Result<(), BrokerError> {
    if options.urls.len() < 2 {
        return Ok(());
    }
    match refusal(&look_at_all(options).await) {
        Some(why) => Err(BrokerError::Undone(why)),
        None => Ok(()),
    }
}

/// Waits until the cluster is founded behind another address than that of `broker`, and not behind its own: who announces
/// itself here, or listens, is alone.
pub(super) async fn founded(mut broker: Broker) {
    let options = Arc::clone(&broker.options);
    while options.urls.len() >= 2 {
        // An error here is one of the connection, which others notice.
        if broker.has(&Marker::Founded).await.unwrap_or(true) {
            break;
        }
        let seen = look_at_all(&options).await;
        if seen.iter().any(|(_, seen)| matches!(seen, Seen::Founded)) {
            return;
        }
        tokio::time::sleep(ELSEWHERE_INTERVAL).await;
    }
    std::future::pending().await
}

async fn look_at_all(options: &Arc<AmqpOptions>) -> Vec<(&AmqpUrl, Seen)> {
    let seen = options.urls.iter().map(|url| look(options, url));
    let seen = futures_util::future::join_all(seen).await;
    options.urls.iter().zip(seen).collect()
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

async fn look(options: &Arc<AmqpOptions>, url: &AmqpUrl) -> Seen {
    let looked = async {
        let connection = Arc::new(connect(options, url, "looking for the cluster").await?);
        let mut broker = Broker::new(Arc::clone(options), Arc::clone(&connection));
        let founded = broker.has(&Marker::Founded).await;
        close(&connection).await;
        founded
    };
    match looked.await {
        Ok(true) => Seen::Founded,
        Ok(false) => Seen::NotFounded,
        Err(error) => Seen::Silent(error),
    }
}

/// Why nothing is founded.
fn refusal(seen: &[(&AmqpUrl, Seen)]) -> Option<String> {
    if let Some((url, _)) = seen.iter().find(|(_, seen)| matches!(seen, Seen::Founded)) {
        return Some(format!(
            "this node of the broker does not know the cluster, and the one at {url} does: has it lost its disk, or not joined \
             the others yet? Nothing is declared here"
        ));
    }
    seen.iter().find_map(|(url, seen)| match seen {
        Seen::Silent(error) => Some(format!(
            "this node of the broker does not know the cluster, and the one at {url} can't be asked ({error}). Nothing is \
             declared here until that one answers, or is taken out of --amqp-url"
        )),
        Seen::Founded | Seen::NotFounded => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_founded_only_where_no_address_knows_it_and_none_is_silent() {
        let url: AmqpUrl = "amqp://u:secret@one".parse().expect("an address");
        let silent = || Seen::Silent(BrokerError::Undone("refused".to_owned()));
        let why = |seen: Vec<Seen>| {
            let seen: Vec<_> = seen.into_iter().map(|seen| (&url, seen)).collect();
            refusal(&seen)
        };
        assert_eq!(why(vec![Seen::NotFounded, Seen::NotFounded]), None);
        let elsewhere = why(vec![Seen::NotFounded, silent(), Seen::Founded]).expect("known");
        assert!(
            elsewhere.contains("one") && elsewhere.contains("does:"),
            "{elsewhere}"
        );
        assert!(!elsewhere.contains("secret"));
        let silent = why(vec![Seen::NotFounded, silent()]).expect("silent");
        assert!(
            silent.contains("refused") && silent.contains("--amqp-url"),
            "{silent}"
        );
    }
}
