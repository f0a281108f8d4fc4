//! Routers on loopback sockets and files in a folder, as the daemon has them.

use std::net::IpAddr;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::bmp_examples::*;
use super::*;
use crate::path::Location;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lastmile-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    /// Replaces a file as an operator's script should: beside it, then renamed.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let (new, path) = (self.0.join("new"), self.0.join(name));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, &path).expect("renamed");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Started {
    feeds: Feeds,
    routes: Arc<ArcSwap<Routes>>,
}

fn start(sources: &PathSources) -> Started {
    let routes = Arc::new(ArcSwap::from_pointee(read_once(sources).expect("right")));
    let feeds = Feeds::start(sources, Arc::clone(&routes)).expect("starts");
    Started { feeds, routes }
}

fn station() -> PathSources {
    let mut sources = PathSources::default();
    sources.bmp.listen = Some("127.0.0.1:0".parse().expect("right"));
    sources
}

impl Started {
    async fn router(&self) -> TcpStream {
        let address = self.feeds.bmp_address().expect("it listens");
        TcpStream::connect(address).await.expect("connects")
    }

    fn locate(&self, client: &str) -> Option<Location> {
        let client: IpAddr = client.parse().expect("an address");
        self.routes.load().locate(client)
    }

    /// The interconnect of `client`, once `holds`.
    async fn until(&self, client: &str, holds: impl Fn(Option<&Location>) -> bool) {
        let wait = async {
            while !holds(self.locate(client).as_ref()) {
                self.feeds.changed().await;
            }
        };
        timeout(PATIENCE, wait).await.expect("in time");
    }
}

fn through(location: Option<&Location>) -> Option<&str> {
    location.map(|location| &*location.route.interconnect)
}

async fn closed(stream: &mut TcpStream) {
    let end = timeout(PATIENCE, stream.read(&mut [0; 16])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
}

#[tokio::test]
async fn what_a_router_says_is_swapped_in_and_the_daemon_is_told() {
    let started = start(&station());
    let mut router = started.router().await;
    let said = [initiation("r1"), announce(1)].concat();
    router.write_all(&said).await.expect("sent");
    started
        .until("10.0.1.7", |location| {
            through(location) == Some("AS64999 via 192.0.2.1")
        })
        .await;
    let prefix = "10.0.1.0/24".parse().expect("a prefix");
    assert_eq!(
        started.feeds.take_affected(),
        Affected::Prefixes(vec![prefix])
    );
    assert!(started.feeds.take_affected().is_empty());
    router.write_all(&withdraw(1)).await.expect("sent");
    started
        .until("10.0.1.7", |location| location.is_none())
        .await;
}

#[tokio::test]
async fn a_reader_that_holds_an_old_table_delays_nobody_for_ever() {
    let started = start(&station());
    let mut router = started.router().await;
    router.write_all(&initiation("r1")).await.expect("sent");
    let mut held = Vec::new();
    for third in 0..100 {
        router.write_all(&announce(third)).await.expect("sent");
        held.push(started.routes.load_full());
    }
    drop(held);
    started
        .until("10.0.99.7", |location| location.is_some())
        .await;
    assert!((0..100).all(|third| started.locate(&format!("10.0.{third}.7")).is_some()));
}

#[tokio::test]
async fn garbage_ends_that_session_and_no_other_and_takes_no_route_away() {
    let started = start(&station());
    let mut good = started.router().await;
    good.write_all(&[initiation("r1"), announce(1)].concat())
        .await
        .expect("sent");
    started
        .until("10.0.1.7", |location| location.is_some())
        .await;

    let mut bad = started.router().await;
    let lies = [3, 0xff, 0xff, 0xff, 0xff, 0];
    bad.write_all(&[initiation("r2"), announce(2), lies.to_vec()].concat())
        .await
        .expect("sent");
    closed(&mut bad).await;
    started
        .until("10.0.2.7", |location| location.is_some())
        .await;
    assert!(started.locate("10.0.1.7").is_some());
    good.write_all(&announce(3)).await.expect("still there");
    started
        .until("10.0.3.7", |location| location.is_some())
        .await;
}

#[tokio::test]
async fn a_flood_is_taken_as_fast_as_it_can_be_and_another_router_is_heard_meanwhile() {
    let started = start(&station());
    let mut flooding = started.router().await;
    let mut flood = initiation("r1");
    for _ in 0..2_000 {
        flood.extend(announce(1));
        flood.extend(withdraw(1));
    }
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let sender = tokio::spawn(async move {
        loop {
            tokio::select! {
                sent = flooding.write_all(&flood) => sent.expect("sent"),
                _ = &mut stopped => return,
            }
            // Only the first round begins a session.
            if flood.starts_with(&initiation("r1")) {
                flood.drain(..initiation("r1").len());
            }
        }
    });
    let mut other = started.router().await;
    other
        .write_all(&[initiation("r2"), announce(9)].concat())
        .await
        .expect("sent");
    started
        .until("10.0.9.7", |location| location.is_some())
        .await;
    let _ = stop.send(());
    sender.await.expect("it ran");
}

#[tokio::test]
async fn a_file_that_is_replaced_is_read_and_a_wrong_one_leaves_the_old_and_marks_it_stale() {
    let folder = Folder::new("feeds");
    let header = "prefix,origin_asn,isp,interconnect\n";
    let csv = |interconnect: &str| format!("{header}10.0.1.0/24,64501,x,{interconnect}\n");
    let mut sources = PathSources {
        prefixes_csv: Some(folder.write("prefixes.csv", &csv("ic-a"))),
        ..PathSources::default()
    };
    let started = start(&sources);
    assert_eq!(through(started.locate("10.0.1.7").as_ref()), Some("ic-a"));

    folder.write("prefixes.csv", &csv("ic-b"));
    started
        .until("10.0.1.7", |location| through(location) == Some("ic-b"))
        .await;
    assert_eq!(started.feeds.take_affected(), Affected::Everything);

    folder.write(
        "prefixes.csv",
        &format!("{header}10.0.1.0/24,many,x,ic-c\n"),
    );
    let is_stale = |location: Option<&Location>| location.is_some_and(|at| at.route.stale);
    started.until("10.0.1.7", is_stale).await;
    assert_eq!(through(started.locate("10.0.1.7").as_ref()), Some("ic-b"));

    folder.write("prefixes.csv", &csv("ic-d"));
    started
        .until("10.0.1.7", |location| through(location) == Some("ic-d"))
        .await;
    assert!(!is_stale(started.locate("10.0.1.7").as_ref()));

    // SIGHUP, with another file and without one.
    sources.prefixes_csv = Some(folder.write("other.csv", &csv("ic-e")));
    started.feeds.reload(sources);
    started
        .until("10.0.1.7", |location| through(location) == Some("ic-e"))
        .await;
    started.feeds.reload(PathSources::default());
    started
        .until("10.0.1.7", |location| location.is_none())
        .await;
}

#[test]
fn an_address_that_is_not_ours_is_said_with_what_would_be_right() {
    let mut sources = PathSources::default();
    sources.bmp.listen = Some("192.0.2.1:11019".parse().expect("right"));
    let routes = Arc::new(ArcSwap::from_pointee(Routes::default()));
    let said = format!(
        "{:#}",
        Feeds::start(&sources, routes).expect_err("not ours")
    );
    assert!(
        said.starts_with("cannot listen for BMP on 192.0.2.1:11019: set path.bmp.listen"),
        "{said}"
    );
    sources.bmp.listen = None;
    sources.mrt = vec![Path::new("/nonexistent.mrt").to_owned()];
    let said = read_once(&sources).expect_err("no file").to_string();
    assert!(
        said.starts_with("/nonexistent.mrt: cannot be read"),
        "{said}"
    );
}
