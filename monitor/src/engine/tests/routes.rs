//! Prefixes that move while they are watched, and sources that go silent.

use std::collections::HashSet;
use std::sync::Arc;

use super::site::{Home, LEAD_IN, Life, Site};
use super::verdicts;
use crate::export::Record;
use crate::export::record::{CellRecord, RouteRecord, VerdictRecord, WayPart};
use crate::path::followed::{Affected, News};
use crate::path::{Path, Routes, Source, SourceTable};
use crate::verdict::{Inconclusive, Segment};

fn routes(records: &[Record]) -> Vec<RouteRecord> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Route(route) => Some((**route).clone()),
            _ => None,
        })
        .collect()
}

fn cells(records: &[Record], prefix: &str) -> Vec<CellRecord> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Cell(cell) if cell.prefix.to_string() == prefix => Some((**cell).clone()),
            _ => None,
        })
        .collect()
}

fn names(said: &[VerdictRecord]) -> bool {
    said.iter().any(|verdict| !verdict.segments.is_empty())
}

fn only(prefix: &str) -> Affected {
    Affected::Prefixes(vec![prefix.parse().expect("a prefix")])
}

/// The file says from now on that the prefix is reached through `interconnect`.
fn moves(routes: &mut Routes, prefix: &str, interconnect: &str) {
    let prefix = prefix.parse().expect("a prefix");
    let mut table = SourceTable::clone(&routes.file);
    let path = table.get(&prefix).expect("known").as_ref().clone();
    let moved = Path {
        interconnect: Some(interconnect.into()),
        ..path
    };
    table.insert(prefix, Arc::new(moved));
    routes.file = Arc::new(table);
}

/// BGP knows more about the prefix: told by `router`, across `middle`.
fn is_told(routes: &mut Routes, prefix: &str, router: &str, middle: &[u32]) {
    let mut table = SourceTable::clone(&routes.bmp);
    let path = Path {
        router: Some(router.into()),
        as_path_middle: middle.into(),
        ..Path::default()
    };
    table.insert(prefix.parse().expect("a prefix"), Arc::new(path));
    routes.bmp = Arc::new(table);
}

fn learned(seed: u64) -> Site {
    let mut site = Site::new(seed);
    for _ in 0..LEAD_IN + 3 {
        site.window(|_| Life::default());
    }
    site
}

#[test]
fn a_prefix_that_moves_is_noticed_and_blames_nobody() {
    for seed in 0..4 {
        let mut site = learned(seed);
        // The other way is longer, and lossy: its clients are badly off from then on.
        let worse = |home: &Home| match home.prefix {
            3 => Life::congested(40_000),
            _ => Life::default(),
        };
        let records = site.window_with_change(
            |_| Life::default(),
            &only("10.0.3.0/24"),
            |routes| moves(routes, "10.0.3.0/24", "ic-b"),
            worse,
        );
        let told = routes(&records);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(
            told[0].prefix.map(|net| net.to_string()).as_deref(),
            Some("10.0.3.0/24")
        );
        assert_eq!((told[0].prefixes, told[0].flows), (1, 2));
        assert_eq!(told[0].changed, [WayPart::Interconnect]);
        let way = |way: &Option<crate::export::record::WayRecord>| {
            way.as_ref().map(|way| way.interconnect.clone())
        };
        assert_eq!(way(&told[0].before).as_deref(), Some("ic-a"));
        assert_eq!(way(&told[0].after).as_deref(), Some("ic-b"));
        assert!(!names(&verdicts(&records)));
        for _ in 0..12 {
            let records = site.window(worse);
            assert!(routes(&records).is_empty());
            let said = verdicts(&records);
            assert!(!names(&said), "{said:#?}");
        }
    }
}

#[test]
fn a_window_is_split_where_the_way_changed_and_nothing_is_lost() {
    let mut site = learned(20);
    let records = site.window_with_change(
        |_| Life::default(),
        &only("10.0.3.0/24"),
        |routes| moves(routes, "10.0.3.0/24", "ic-b"),
        |_| Life::default(),
    );
    let both = cells(&records, "10.0.3.0/24");
    let names: Vec<&str> = both.iter().map(|cell| cell.interconnect.as_str()).collect();
    assert_eq!(names, ["ic-a", "ic-b"]);
    for cell in &both {
        assert!(cell.route_changed);
        assert_eq!((cell.observations, cell.clients_judged), (2, 0));
        // As many chunks as each half of the window had.
        assert_eq!(cell.chunks, 4);
    }
    let other = cells(&records, "10.0.2.0/24");
    assert!(!other[0].route_changed);
    assert_eq!((other.len(), other[0].chunks), (1, 8));
}

#[test]
fn another_middle_of_the_path_is_another_way_with_a_baseline_of_its_own() {
    let mut site = learned(21);
    let worse = |home: &Home| match home.prefix {
        3 => Life::congested(40_000),
        _ => Life::default(),
    };
    let records = site.window_with_change(
        |_| Life::default(),
        &only("10.0.3.0/24"),
        |routes| is_told(routes, "10.0.3.0/24", "r1", &[64_700]),
        worse,
    );
    assert_eq!(routes(&records)[0].changed, [WayPart::AsPathMiddle]);
    for window in 0..LEAD_IN + 4 {
        let records = site.window(worse);
        let said = verdicts(&records);
        assert!(!names(&said), "{said:#?}");
        let cell = &cells(&records, "10.0.3.0/24")[0];
        assert_eq!(cell.route_changed, window == 0);
        // What is usual on the new way is learned anew.
        let is_known = cell.baseline_rtt_p10_us.is_some();
        assert_eq!(is_known, window >= LEAD_IN, "window {window}");
    }
    // Back on the old way, what was usual there is still known.
    let back = site.window_with_change(
        worse,
        &only("10.0.3.0/24"),
        |routes| routes.bmp = Arc::new(SourceTable::default()),
        |_| Life::default(),
    );
    assert_eq!(routes(&back).len(), 1);
    let records = site.window(|_| Life::default());
    assert!(
        cells(&records, "10.0.3.0/24")[0]
            .baseline_rtt_p10_us
            .is_some()
    );
}

#[test]
fn a_way_that_becomes_known_is_no_move() {
    let known = Routes::clone(&Site::new(26).routes.load());
    let mut site = Site::without_routes(26);
    site.window(|_| Life::default());
    let records = site.window_with_change(
        |_| Life::default(),
        &Affected::Everything,
        |routes| *routes = known,
        |_| Life::default(),
    );
    let told = routes(&records);
    assert_eq!(told.len(), 16);
    assert!(told.iter().all(|route| route.before.is_none()));
    let cell = &cells(&records, "10.0.3.0/24")[0];
    assert!(!cell.route_changed);
    assert_eq!(
        (cell.observations, cell.chunks),
        (2, 4),
        "what it did since"
    );
    for _ in 0..4 {
        let said = verdicts(&site.window(|_| Life::default()));
        assert_eq!(said[0].inconclusive, Some(Inconclusive::NoBaseline));
    }
}

#[test]
fn what_changed_elsewhere_or_not_at_all_changes_nothing() {
    let mut site = learned(22);
    for changed in [
        only("192.0.2.0/24"),
        Affected::Everything,
        Affected::default(),
    ] {
        let records =
            site.window_with_change(|_| Life::default(), &changed, |_| {}, |_| Life::default());
        assert!(routes(&records).is_empty());
        assert!(
            cells(&records, "10.0.3.0/24")
                .iter()
                .all(|cell| !cell.route_changed)
        );
        assert_eq!(verdicts(&records)[0].degraded, Some(false));
    }
}

#[test]
fn a_source_that_has_gone_silent_supports_nothing_and_says_so() {
    let mut site = learned(23);
    let bad = |home: &Home| match home.interconnect {
        "ic-a" => Life::congested(40_000),
        _ => Life::default(),
    };
    let records = site.window_with_change(
        bad,
        &Affected::Everything,
        |routes| routes.stale_sources = vec![Source::File],
        bad,
    );
    assert!(routes(&records).is_empty(), "silence is no change");
    for _ in 0..4 {
        let records = site.window(bad);
        let said = verdicts(&records);
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].inconclusive, Some(Inconclusive::RouteStale));
        assert_eq!(said[0].missed.clients_route_stale, 32);
        assert!(said[0].segments.is_empty());
        assert!(cells(&records, "10.0.3.0/24")[0].route_stale);
    }
    // It speaks again: what is wrong is named again.
    site.window_with_change(
        bad,
        &Affected::Everything,
        |routes| routes.stale_sources.clear(),
        bad,
    );
    let mut last = Vec::new();
    for _ in 0..6 {
        last = verdicts(&site.window(bad));
    }
    assert_eq!(last[0].segments, [Segment::Interconnect], "{last:#?}");
    assert_eq!(last[0].missed.clients_route_stale, 0);
}

#[test]
fn half_of_what_is_bad_hidden_by_silence_makes_the_other_half_no_culprit() {
    let mut site = learned(24);
    let bad = |_: &Home| Life::congested(40_000);
    site.window_with_change(
        |_| Life::default(),
        &Affected::Everything,
        |routes| {
            for third in 8..16 {
                is_told(routes, &format!("10.0.{third}.0/24"), "r2", &[]);
            }
            routes.stale_routers = Arc::new(HashSet::from(["r2".into()]));
        },
        |_| Life::default(),
    );
    for _ in 0..10 {
        let said = verdicts(&site.window(bad));
        for verdict in &said {
            assert_ne!(verdict.segments, [Segment::Interconnect], "{verdict:#?}");
            assert_ne!(verdict.segments, [Segment::Isp], "{verdict:#?}");
            assert_eq!(verdict.missed.clients_route_stale, 16);
        }
    }
}

#[test]
fn what_becomes_of_the_prefixes_that_are_served_is_told_to_the_history() {
    let mut site = Site::new(25);
    site.pipeline.keep_history();
    site.window(|_| Life::default());
    let first = site.pipeline.take_history();
    assert_eq!(first.len(), 16, "each prefix once: {first:?}");
    assert!(
        first
            .iter()
            .all(|entry| matches!(&entry.news, News::Seen(Some(_))))
    );
    site.window(|_| Life::silent());
    assert_eq!(site.pipeline.take_history(), []);
    site.window_with_change(
        |_| Life::silent(),
        &only("10.0.3.0/24"),
        |routes| moves(routes, "10.0.3.0/24", "ic-b"),
        |_| Life::silent(),
    );
    let news = site.pipeline.take_history();
    let [entry] = news.as_slice() else {
        panic!("{news:?}")
    };
    let News::Moved { before, after } = &entry.news else {
        panic!("{entry:?}")
    };
    let name = |route: &Option<Arc<crate::path::Route>>| {
        route.as_ref().map(|route| route.interconnect.to_string())
    };
    assert_eq!(entry.unit.to_string(), "10.0.3.0/24");
    assert_eq!(name(before).as_deref(), Some("ic-a"));
    assert_eq!(name(after).as_deref(), Some("ic-b"));
    assert_eq!(site.pipeline.followed(site.now_us).len(), 16);
}
