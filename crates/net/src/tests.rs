//! Tests of socket addresses, and of the ownership of socket paths.
//!
//! Invariant: see the [module above](super).

use tempfile::TempDir;

use super::*;

fn place(folder: &TempDir) -> SocketPlace {
    SocketPlace::Unix(folder.path().join("socket"))
}

fn path(place: &SocketPlace) -> &Path {
    match place {
        SocketPlace::Unix(path) => path,
        SocketPlace::Tcp(_) => panic!("no path"),
    }
}

async fn bind(place: &SocketPlace) -> Result<Listener, ErrorKind> {
    Listener::bind(place).await.map_err(|error| error.kind())
}

#[test]
fn places_are_read_and_written_alike() {
    for (text, url, is_local) in [
        ("127.0.0.1:3000", "http://127.0.0.1:3000", true),
        ("[::1]:3000", "http://[::1]:3000", true),
        ("0.0.0.0:80", "http://0.0.0.0:80", false),
        ("unix:/run/a b", "unix:/run/a b", true),
    ] {
        let place: SocketPlace = text.parse().expect(text);
        assert_eq!(place.to_string(), text);
        assert_eq!(place.url(), url);
        assert_eq!(place.is_local(), is_local);
    }
    for text in ["", "localhost:1", "unix:", "unix:a", "unix:/run/", "/run/a"] {
        assert_eq!(text.parse::<SocketPlace>(), Err(NoPlace), "{text}");
    }
}

#[tokio::test]
async fn a_path_is_taken_over_from_the_dead_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = place(&folder);
    let listener = bind(&place).await.expect("listens");
    assert_eq!(listener.place().expect("bound"), place);
    assert_eq!(bind(&place).await.err(), Some(ErrorKind::AddrInUse));
    drop(listener);
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0, "nothing stays");

    // A killed process does not remove its files.
    drop(UnixListener::bind(path(&place)).expect("listens"));
    let lock = folder.path().join("socket.lock");
    std::fs::write(&lock, "").expect("written");
    let next = bind(&place).await.expect("listens");
    drop(next);
    assert!(!path(&place).exists() && !lock.exists());

    // Another program does not use the lock file.
    let other = UnixListener::bind(path(&place)).expect("listens");
    assert_eq!(bind(&place).await.err(), Some(ErrorKind::AddrInUse));
    assert!(path(&place).exists());
    drop(other);

    std::fs::remove_file(path(&place)).expect("removed");
    std::fs::write(path(&place), "no socket").expect("written");
    assert_eq!(bind(&place).await.err(), Some(ErrorKind::AlreadyExists));
    assert!(path(&place).exists());
}

/// A process that is about to listen looks like one that has died, and a process that releases a
/// path does so while it still listens.
#[tokio::test]
async fn one_of_many_that_start_and_stop_at_once_has_the_path_and_keeps_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = place(&folder);
    for _ in 0..200 {
        let starts = (0..4).map(|_| {
            let place = place.clone();
            tokio::task::spawn_blocking(move || {
                let runtime = tokio::runtime::Handle::current();
                runtime.block_on(Listener::bind(&place)).ok()
            })
        });
        let starts = futures_util::future::join_all(starts).await;
        let listening: Vec<Listener> = starts
            .into_iter()
            .filter_map(|start| start.expect("joins"))
            .collect();
        assert_eq!(listening.len(), 1, "one of them listens");
        let (stopped, next) = tokio::join!(
            tokio::task::spawn_blocking(move || drop(listening)),
            async {
                loop {
                    if let Ok(next) = Listener::bind(&place).await {
                        break next;
                    }
                    tokio::task::yield_now().await;
                }
            }
        );
        stopped.expect("stopped");
        Stream::connect(&place).await.expect("the next one listens");
        drop(next);
    }
}
