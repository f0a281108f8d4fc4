use std::sync::Arc;

use super::*;
use crate::path::Route;
use crate::path::followed::tests::route;
use crate::path::followed::{Entry, News};

/// 2026-11-17 20:00 UTC, a Tuesday.
const EIGHT: u64 = 1_794_945_600_000_000;
const MINUTE: u64 = 60_000_000;

struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let name = format!("lastmile-history-{name}-{}.sqlite", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        file.remove();
        file
    }

    fn remove(&self) {
        for end in ["", "-wal", "-shm"] {
            let mut name = self.0.clone().into_os_string();
            name.push(end);
            let _ = std::fs::remove_file(name);
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.remove();
    }
}

fn entry(minute: u64, unit: &str, news: News) -> Entry {
    Entry {
        time_us: EIGHT + minute * MINUTE,
        unit: unit.parse().expect("a prefix"),
        news,
    }
}

fn way(prefix: &str, interconnect: &str) -> Option<Arc<Route>> {
    Some(Arc::new(route(prefix, interconnect)))
}

fn moved(prefix: &str, before: &str, after: &str) -> News {
    News::Moved {
        before: way(prefix, before),
        after: way(prefix, after),
    }
}

fn at(store: &Store, address: &str, minute: u64) -> Answer {
    let address = address.parse().expect("an address");
    store
        .at(address, EIGHT + minute * MINUTE)
        .expect("readable")
}

fn interconnect(answer: &Answer) -> &str {
    match answer {
        Answer::Known(known) => known.way.as_ref().map_or("none", |way| &way.interconnect),
        Answer::NotFollowed { .. } => "not followed",
        Answer::NotRecorded { .. } => "not recorded",
    }
}

/// Recorded from 20:00 to 20:30, and again, after a restart, from 21:00 to 21:30.
fn tuesday(file: &File) -> Store {
    let mut store = Store::open(&file.0).expect("opens");
    store.begin("host", EIGHT).expect("written");
    let (x, y) = ("10.0.0.0/24", "2001:db8:7::/48");
    store
        .record(
            &[
                entry(5, x, News::Seen(way(x, "ic-a"))),
                entry(5, y, News::Seen(way("2001:db8::/32", "ic-a"))),
                entry(20, x, moved(x, "ic-a", "ic-b")),
            ],
            EIGHT + 30 * MINUTE,
        )
        .expect("written");
    drop(store);
    let mut store = Store::open(&file.0).expect("opens again");
    store.begin("host", EIGHT + 60 * MINUTE).expect("written");
    store
        .record(
            &[entry(70, x, News::Seen(way(x, "ic-c")))],
            EIGHT + 90 * MINUTE,
        )
        .expect("written");
    store
}

#[test]
fn which_interconnect_served_this_prefix_at_a_quarter_past_eight_on_tuesday() {
    let file = File::new("tuesday");
    tuesday(&file);
    let store = Store::open_to_read(&file.0).expect("opens");
    let answer = at(&store, "10.0.0.77", 15);
    assert_eq!(interconnect(&answer), "ic-a");
    let Answer::Known(known) = answer else {
        panic!("known")
    };
    assert_eq!(known.prefix.to_string(), "10.0.0.0/24");
    assert_eq!(known.since_us, EIGHT + 5 * MINUTE);
    assert_eq!(known.until_us, Some(EIGHT + 20 * MINUTE));
    assert_eq!(known.moved_from, None);

    let Answer::Known(later) = at(&store, "10.0.0.77", 25) else {
        panic!("known")
    };
    assert_eq!(later.way.expect("a way").interconnect, "ic-b");
    let before = later.moved_from.expect("it moved").expect("a way");
    assert_eq!(before.interconnect, "ic-a");
    assert_eq!(later.until_us, None);

    let six = at(&store, "2001:db8:7::99", 10);
    assert_eq!(interconnect(&six), "ic-a");
}

#[test]
fn what_was_not_recorded_is_not_guessed() {
    let file = File::new("gap");
    let store = tuesday(&file);
    // Before it was seen, between the runs, in the new run before it was seen, after the end.
    assert_eq!(
        at(&store, "10.0.0.77", 3),
        Answer::NotFollowed {
            run_start_us: EIGHT
        }
    );
    assert_eq!(
        at(&store, "10.0.0.77", 45),
        Answer::NotRecorded {
            before_us: Some(EIGHT + 30 * MINUTE),
            after_us: Some(EIGHT + 60 * MINUTE),
        }
    );
    assert_eq!(
        at(&store, "10.0.0.77", 65),
        Answer::NotFollowed {
            run_start_us: EIGHT + 60 * MINUTE
        }
    );
    assert_eq!(interconnect(&at(&store, "10.0.0.77", 75)), "ic-c");
    assert_eq!(interconnect(&at(&store, "10.0.0.77", 95)), "not recorded");
    // A neighbour that nobody watched is another prefix.
    assert_eq!(interconnect(&at(&store, "10.0.1.77", 15)), "not followed");
}

#[test]
fn a_longer_prefix_counts_while_it_is_followed() {
    let file = File::new("longer");
    let mut store = Store::open(&file.0).expect("opens");
    store.begin("host", EIGHT).expect("written");
    let (wide, narrow) = ("10.0.0.0/24", "10.0.0.64/26");
    let entries = [
        entry(1, wide, News::Seen(way(wide, "ic-a"))),
        entry(2, narrow, News::Seen(way(narrow, "ic-b"))),
        entry(3, narrow, News::Left),
        entry(
            4,
            wide,
            News::Moved {
                before: way(wide, "ic-a"),
                after: None,
            },
        ),
    ];
    store.record(&entries, EIGHT + 9 * MINUTE).expect("written");
    let seen = |minute| interconnect(&at(&store, "10.0.0.65", minute)).to_owned();
    assert_eq!(
        [seen(1), seen(2), seen(3), seen(4)],
        ["ic-a", "ic-b", "ic-a", "none"]
    );
    assert_eq!(interconnect(&at(&store, "10.0.0.1", 2)), "ic-a");
}

#[test]
fn what_is_older_than_is_kept_goes_and_what_held_then_stays() {
    let file = File::new("retention");
    let mut store = tuesday(&file);
    let cutoff = EIGHT + 75 * MINUTE;
    let x = "10.0.0.0/24";
    store
        .record(
            &[entry(80, x, moved(x, "ic-c", "ic-d"))],
            EIGHT + 95 * MINUTE,
        )
        .expect("written");
    let mut removed = 0;
    loop {
        match store.forget_before(cutoff).expect("written") {
            0 => break,
            more => removed += more,
        }
    }
    assert_eq!(removed, 3, "the first run's changes");
    assert_eq!(interconnect(&at(&store, "10.0.0.77", 15)), "not recorded");
    assert_eq!(interconnect(&at(&store, "10.0.0.77", 72)), "not recorded");
    assert_eq!(interconnect(&at(&store, "10.0.0.77", 76)), "ic-c");
    assert_eq!(interconnect(&at(&store, "10.0.0.77", 82)), "ic-d");
    let rows = |table: &str| -> i64 {
        store
            .connection
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0)
            })
            .expect("counted")
    };
    assert_eq!((rows("run"), rows("change"), rows("way")), (1, 2, 2));
}

#[test]
fn how_the_sources_are_is_what_was_written_last() {
    let file = File::new("feeds");
    let mut store = tuesday(&file);
    let feed = |source, name: &str, peers| FeedState {
        source,
        name: name.to_owned(),
        prefixes: 7,
        peers,
        is_stale: peers.is_some(),
        detail: "away".to_owned(),
    };
    let before = [
        feed(Source::File, "a.csv", None),
        feed(Source::Bmp, "r1", Some(3)),
    ];
    store.write_feeds(&before, EIGHT).expect("written");
    let read = Store::open_to_read(&file.0).expect("opens").feeds();
    assert_eq!(read.expect("read"), before.map(|feed| (feed, EIGHT)));
    store.write_feeds(&[], EIGHT + 1).expect("written");
    assert_eq!(store.feeds().expect("read"), []);
}

#[test]
fn a_file_of_something_else_is_refused_and_left_alone() {
    let file = File::new("foreign");
    let foreign = Connection::open(&file.0).expect("opens");
    foreign.execute_batch("CREATE TABLE t (x)").expect("made");
    drop(foreign);
    let said = Store::open(&file.0).expect_err("refused").to_string();
    assert!(said.contains("is another program's file; name"), "{said}");
    std::fs::write(
        &file.0,
        "this is no database, but it is long enough to be one".repeat(99),
    )
    .expect("written");
    let said = format!("{:#}", Store::open(&file.0).expect_err("refused"));
    assert!(said.contains("file is not a database"), "{said}");
    let said = Store::open_to_read(Path::new("/nonexistent/h")).expect_err("none");
    assert!(said.to_string().starts_with("/nonexistent/h: no such file"));
}
