//! `lastmile route` and what the daemon recorded, as an operator asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use lastmile::path::followed::{Entry, News};
use lastmile::path::history::Store;
use lastmile::path::{Route, Source, SourceSet};
use serde_json::Value;

/// 2026-11-17 20:00 UTC, a Tuesday.
const EIGHT: u64 = 1_794_945_600_000_000;
const MINUTE: u64 = 60_000_000;
const PREFIX: &str = "198.51.100.0/24";

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lastmile-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A way that BGP told, through `interconnect` and across AS64700.
fn way(interconnect: &str) -> Option<Arc<Route>> {
    Some(Arc::new(Route {
        prefix: "198.51.100.0/22".parse().expect("a prefix"),
        origin_asn: 64_501,
        isp: "Northnet".into(),
        interconnect: interconnect.into(),
        peer_asn: Some(64_999),
        peer_address: Some([192, 0, 2, 1].into()),
        next_hop: Some([192, 0, 2, 1].into()),
        router: Some("r1".into()),
        interface: None,
        as_path_middle: [64_700].into(),
        connectivity: None,
        site: None,
        risk_groups: [].into(),
        sources: SourceSet {
            who: Source::Bmp,
            way: Source::Bmp,
        },
        stale: false,
    }))
}

fn entry(minute: u64, news: News) -> Entry {
    Entry {
        time_us: EIGHT + minute * MINUTE,
        unit: PREFIX.parse().expect("a prefix"),
        news,
    }
}

/// A daemon ran from 20:00 to 20:30, and another from 21:00 to 21:30.
fn tuesday(folder: &Folder) -> PathBuf {
    let file = folder.0.join("history.sqlite");
    for (begin, end, entries) in [
        (
            0,
            30,
            vec![
                entry(2, News::Seen(way("pni-north"))),
                entry(
                    20,
                    News::Moved {
                        before: way("pni-north"),
                        after: way("ix-east"),
                    },
                ),
            ],
        ),
        (60, 90, vec![entry(61, News::Seen(way("transit-west")))]),
    ] {
        let mut store = Store::open(&file).expect("opens");
        store
            .begin("host", EIGHT + begin * MINUTE)
            .expect("written");
        store
            .record(&entries, EIGHT + end * MINUTE)
            .expect("written");
    }
    folder.write(
        "lastmile.toml",
        "[path.history]\nfile = \"history.sqlite\"\n",
    )
}

fn ask(config: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lastmile"))
        .arg("route")
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .expect("it runs")
}

fn text(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn which_interconnect_served_this_prefix_at_a_quarter_past_eight_on_tuesday() {
    let folder = Folder::new("route-tuesday");
    let config = tuesday(&folder);
    let said = text(&ask(&config, &["198.51.100.7", "--at", "2026-11-17 20:15"]));
    for line in [
        "prefix         198.51.100.0/24, announced 198.51.100.0/22\n",
        "ISP            Northnet (AS64501), from bmp\n",
        "interconnect   pni-north, from bmp\n",
        "way            neighbour AS64999 at 192.0.2.1, next hop 192.0.2.1, across AS64700, told by r1\n",
        "since          2026-11-17T20:02:00.000000Z (first seen)\n",
        "until          2026-11-17T20:20:00.000000Z\n",
    ] {
        assert!(said.contains(line), "{line}{said}");
    }
    let json = |at: &str| -> Value {
        let output = ask(&config, &["198.51.100.7", "--at", at, "--json"]);
        serde_json::from_str(&text(&output)).expect("JSON")
    };
    let later = json("2026-11-17T21:25:00+01:00");
    assert_eq!(later["history"]["answer"], "known");
    assert_eq!(later["history"]["way"]["interconnect"], "ix-east");
    assert_eq!(later["history"]["moved_from"]["interconnect"], "pni-north");
    // After the restart.
    let next = json("2026-11-17T21:10:00Z");
    assert_eq!(next["history"]["way"]["interconnect"], "transit-west");
}

#[test]
fn in_a_gap_it_says_that_it_does_not_know() {
    let folder = Folder::new("route-gap");
    let config = tuesday(&folder);
    let said = text(&ask(&config, &["198.51.100.7", "--at", "2026-11-17 20:45"]));
    assert!(
        said.contains("unknown: nothing was recorded then")
            && said.contains("2026-11-17T20:30:00.000000Z was the last")
            && said.contains("2026-11-17T21:00:00.000000Z was the first"),
        "{said}"
    );
    for interconnect in ["pni-north", "ix-east", "transit-west"] {
        assert!(!said.contains(interconnect), "{said}");
    }
    let said = text(&ask(&config, &["198.51.101.7", "--at", "2026-11-17 20:15"]));
    assert!(
        said.contains("unknown: no client of this prefix had been seen since"),
        "{said}"
    );
}

#[test]
fn without_a_history_the_sources_themselves_are_shown_in_their_order() {
    let folder = Folder::new("route-sources");
    folder.write(
        "prefixes.csv",
        "prefix,origin_asn,isp,interconnect,peer_asn\n198.51.100.0/24,64501,Northnet,ix-east,64999\n",
    );
    let config = folder.write("lastmile.toml", "[path]\nprefixes_csv = \"prefixes.csv\"\n");
    let said = text(&ask(&config, &["198.51.100.7"]));
    for line in [
        "prefix         198.51.100.0/24\n",
        "interconnect   ix-east, from file\n",
        "file says      198.51.100.0/24: Northnet (AS64501), through ix-east, neighbour AS64999\n",
    ] {
        assert!(said.contains(line), "{line}{said}");
    }
    let said = text(&ask(&config, &["203.0.113.1"]));
    assert!(
        said.contains("way            unknown: no source knows its network and the way to it\n"),
        "{said}"
    );
    let output = ask(&config, &["198.51.100.7", "--at", "2026-11-17 20:15"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("nothing was recorded: write path.history.file"),
        "{said}"
    );
}

#[test]
fn what_is_no_address_or_no_time_is_refused() {
    let folder = Folder::new("route-wrong");
    let config = folder.write("lastmile.toml", "");
    for (arguments, right) in [
        (&["example.org"][..], "invalid value 'example.org'"),
        (
            &["192.0.2.1", "--at", "yesterday"],
            "`yesterday` is no time: write 2026-11-17T20:15:00Z, or \"2026-11-17 20:15\" in UTC",
        ),
    ] {
        let output = ask(&config, arguments);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(right), "{said}");
    }
}

#[test]
fn check_shows_the_sources_and_the_listening_address() {
    let folder = Folder::new("route-check");
    let config = tuesday(&folder);
    let mut text = fs::read_to_string(&config).expect("readable");
    text.push_str("[path.bmp]\nlisten = \"127.0.0.1:11019\"\nallow = [\"192.0.2.1/32\"]\n");
    fs::write(&config, text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_lastmile"))
        .args(["check", "--config"])
        .arg(&config)
        .output()
        .expect("it runs");
    // Whether this host could run it is not the question here.
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("BMP            listens on 127.0.0.1:11019, lets in 192.0.2.1/32\n"),
        "{said}"
    );
    assert!(
        said.contains("history.sqlite, of 35 days, recorded until 2026-11-17T21:30:00.000000Z\n"),
        "{said}"
    );
}
