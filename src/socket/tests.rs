//! Places, and who may take over which.
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

    // A process that is killed removes nothing.
    let Listener::Unix(socket, file) = listener else {
        panic!("another socket");
    };
    drop(socket);
    let next = bind(&place).await.expect("listens");
    drop(file);
    assert!(path(&place).exists(), "it is the next one's");
    drop(next);
    assert!(!path(&place).exists());

    std::fs::write(path(&place), "no socket").expect("written");
    assert_eq!(bind(&place).await.err(), Some(ErrorKind::AlreadyExists));
    assert!(path(&place).exists());
}
