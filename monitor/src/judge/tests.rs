//! What the logs of a site say against what its hosts said themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::logs::{Damage, Logs};
use super::run::Site as Judged;
use crate::config::Config;
use crate::engine::Pipeline;
use crate::engine::tests::site::{HD, LEAD_IN, Life, Site};
use crate::export::Record;
use crate::export::record::VerdictRecord;
use crate::export::schema::validate_line;
use crate::path::ports::{InterconnectPorts, PortWindow};
use crate::verdict::{DeviceCounters, LocalCounters, Segment};

const WINDOWS: u64 = LEAD_IN + 24;

/// The log of a site with a fault in `isp-x`, then one on `ic-a`.
fn course(mut site: Site) -> Vec<Record> {
    let mut records = Vec::new();
    for window in 0..WINDOWS {
        let device = DeviceCounters {
            interface: "eth0".into(),
            sent_bytes: 100_000_000 + window,
            sent_packets: 70_000,
            qdisc_dropped: 0,
            qdisc_backlog_min_bytes: 3_000,
            nic_tx_dropped: 0,
        };
        site.local = Some(LocalCounters {
            window_us: 5_000_000,
            devices: vec![device],
        });
        let port = PortWindow {
            covered: 0.8,
            samples: 4,
            utilisation: Some(0.1 + 0.01 * window as f64 / 3.0),
            drop_share: Some(0.0),
            error_share: Some(0.0),
            ..PortWindow::default()
        };
        let ports = [("ic-b".into(), port)];
        site.ports = Some(InterconnectPorts(ports.into()));
        records.extend(site.window(|home| {
            let isp = (LEAD_IN + 2..LEAD_IN + 10).contains(&window) && home.isp == "isp-x";
            let port =
                (LEAD_IN + 14..LEAD_IN + 22).contains(&window) && home.interconnect == "ic-a";
            match home.index {
                _ if isp || port => Life::congested(30_000),
                // Somebody is away for a while.
                index if index as u64 == window % 32 => Life::silent(),
                _ => Life::default(),
            }
        }));
    }
    records.extend(site.pipeline.finish(site.now_us, None));
    records
}

fn site(full_client_addresses: bool) -> Site {
    let mut site = Site::new(7);
    let mut config = Site::config(HD);
    config.log.full_client_addresses = full_client_addresses;
    site.pipeline = Pipeline::new(&config, Arc::clone(&site.routes), "test");
    site
}

fn text(records: &[Record]) -> Vec<u8> {
    let mut text = Vec::new();
    records
        .iter()
        .for_each(|record| record.write_line(&mut text));
    text
}

fn judge(config: &Config, texts: &[&[u8]]) -> (Vec<Record>, Damage) {
    let mut logs = Logs::open(&[]);
    for (at, text) in texts.iter().enumerate() {
        let name = PathBuf::from(format!("log-{at}"));
        logs.add(&name, Box::new(std::io::Cursor::new(text.to_vec())));
    }
    let mut site = Judged::new(config);
    let mut records = Vec::new();
    while let Some((window, batch)) = logs.next_window() {
        records.extend(site.window(&window, batch));
    }
    records.extend(site.finish());
    for line in text(&records).split(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(line).expect("UTF-8");
        if !line.is_empty() {
            validate_line(line).expect("a record");
        }
    }
    (records, logs.damage())
}

/// What was said, without what only a host's own record has.
fn said(records: &[Record]) -> Vec<Record> {
    let said = records.iter().filter_map(|record| match record {
        Record::Verdict(_) | Record::Incident(_) => Some(record.clone()),
        _ => None,
    });
    said.collect()
}

fn verdicts(records: &[Record]) -> Vec<VerdictRecord> {
    let verdicts = records.iter().filter_map(|record| match record {
        Record::Verdict(verdict) => Some((**verdict).clone()),
        _ => None,
    });
    verdicts.collect()
}

fn names(records: &[Record]) -> Vec<Segment> {
    let named = verdicts(records)
        .into_iter()
        .filter(|verdict| verdict.segments.len() == 1);
    let mut names: Vec<Segment> = named.flat_map(|verdict| verdict.segments).collect();
    names.dedup();
    names
}

#[test]
fn a_host_s_log_says_what_the_host_said() {
    let records = course(site(true));
    let (judged, damage) = judge(&Site::config(HD), &[&text(&records)]);
    assert_eq!(damage, Damage::default());
    let expected = said(&records);
    assert_eq!(names(&expected), [Segment::Isp, Segment::Interconnect]);
    let incidents = expected.len() - verdicts(&expected).len();
    assert!(incidents >= 4, "{incidents}");
    assert_eq!(
        String::from_utf8_lossy(&text(&judged)),
        String::from_utf8_lossy(&text(&expected))
    );
}

#[test]
fn pseudonyms_change_no_verdict() {
    let records = course(site(false));
    let (judged, _) = judge(&Site::config(HD), &[&text(&records)]);
    let (judged, expected) = (verdicts(&judged), verdicts(&records));
    assert_eq!(judged.len(), expected.len());
    for (judged, expected) in judged.iter().zip(&expected) {
        assert_eq!(
            (
                &judged.window_start,
                &judged.segments,
                &judged.mechanisms,
                &judged.rejected
            ),
            (
                &expected.window_start,
                &expected.segments,
                &expected.mechanisms,
                &expected.rejected
            )
        );
        assert_eq!(
            (&judged.interconnect, &judged.isp),
            (&expected.interconnect, &expected.isp)
        );
        // Sums in another order.
        assert!((judged.confidence - expected.confidence).abs() < 1e-9);
    }
    let log = String::from_utf8(text(&records)).expect("UTF-8");
    assert!(
        !log.contains("10.0.3.1\""),
        "no address of a client is logged"
    );
}

/// The lines of every record whose cell is of one of two halves of the prefixes, and everything
/// else in both, but for what was missed and received, in the first alone.
fn as_two_hosts(records: &[Record]) -> [Vec<u8>; 2] {
    [0, 1].map(|half| {
        let mut lines = Vec::new();
        for record in records {
            let mut record = record.clone();
            match &mut record {
                Record::Cell(cell) => {
                    let mut number = 0;
                    cell.client_list.retain(|_| {
                        number += 1;
                        number % 2 == half
                    });
                    cell.clients = cell.client_list.len() as u64;
                    cell.host = format!("host-{half}");
                    if cell.clients == 0 {
                        continue;
                    }
                }
                Record::Verdict(verdict) => verdict.host = format!("host-{half}"),
                _ => continue,
            }
            record.write_line(&mut lines);
        }
        lines
    })
}

#[test]
fn the_order_of_files_changes_no_byte_and_two_halves_are_as_good_as_the_whole() {
    let records = course(site(true));
    let config = Site::config(HD);
    let [one, other] = as_two_hosts(&records);
    let (first, damage) = judge(&config, &[&one, &other]);
    assert_eq!(damage, Damage::default());
    let (second, _) = judge(&config, &[&other, &one]);
    assert_eq!(text(&first), text(&second));
    let (whole, _) = judge(&config, &[&text(&records)]);
    let segments = |records: &[Record]| -> Vec<_> {
        let verdicts = verdicts(records);
        verdicts
            .into_iter()
            .map(|it| (it.window_start, it.segments))
            .collect()
    };
    assert_eq!(segments(&first), segments(&whole));
    assert!(
        verdicts(&first)
            .iter()
            .all(|verdict| verdict.host == "host-0+host-1")
    );
    // Either half alone has too few neighbours for some of it, and says less.
    let (half, _) = judge(&config, &[&one]);
    assert_eq!(verdicts(&half).len(), verdicts(&whole).len());
    // Rotated logs in any order are one log.
    let lines: Vec<&[u8]> = one.split_inclusive(|byte| *byte == b'\n').collect();
    let middle = lines.len() / 2;
    let (start, end) = (lines[..middle].concat(), lines[middle..].concat());
    let (parts, damage) = judge(&config, &[&end, &other, &start]);
    assert_eq!(damage, Damage::default());
    assert_eq!(text(&parts), text(&first));
}

#[test]
fn the_same_file_twice_counts_once() {
    let log = text(&course(site(true)));
    let config = Site::config(HD);
    let mut logs = Logs::open(&[]);
    for name in ["a", "b"] {
        logs.add(Path::new(name), Box::new(std::io::Cursor::new(log.clone())));
    }
    let mut site = Judged::new(&config);
    let mut twice = Vec::new();
    while let Some((window, batch)) = logs.next_window() {
        twice.extend(site.window(&window, batch));
    }
    twice.extend(site.finish());
    assert!(logs.repeated > 0);
    let (once, _) = judge(&config, &[&log]);
    assert_eq!(text(&twice), text(&once));
}

#[test]
fn damaged_lines_are_named_and_everything_else_is_judged() {
    let records = course(site(true));
    let log = text(&records);
    let config = Site::config(HD);
    let (whole, _) = judge(&config, &[&log]);
    let lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
    let mut damaged = lines[..3].concat();
    damaged.extend(b"{\"type\":\"cell\",\n\xff\xfe\n{\"type\":\"gossip\"}\n");
    damaged.extend(lines[3..].concat());
    damaged.extend(b"{\"schema\":\"lastmile/1\",\"type\":\"ver");
    let (judged, damage) = judge(&config, &[&damaged]);
    assert_eq!(text(&judged), text(&whole));
    assert_eq!(damage.lines, 4);
    let last = format!("log-0:{}: ", lines.len() + 4);
    for (said, expected) in damage.named.iter().zip([
        "log-0:4: no record: ",
        "log-0:5: no record: ",
        "log-0:6: `gossip` is no record type",
        &last,
    ]) {
        assert!(said.starts_with(expected), "{said}");
    }
}

#[test]
fn cells_that_cannot_be_judged_are_named() {
    let records = course(site(true));
    let older = |record: &Record| match record {
        Record::Cell(cell) => {
            let mut cell = cell.clone();
            cell.client_list.clear();
            Record::Cell(cell)
        }
        other => other.clone(),
    };
    let older: Vec<Record> = records.iter().map(older).collect();
    let (judged, damage) = judge(&Site::config(HD), &[&text(&older)]);
    assert!(
        damage.named[0].contains("no `client_list`"),
        "{:?}",
        damage.named[0]
    );
    assert_eq!(damage.named.len() as u64, 10 + 1);
    assert!(names(&judged).is_empty());
}

#[test]
fn a_window_that_comes_late_and_one_of_another_length_are_left_out() {
    let records = course(site(true));
    let config = Site::config(HD);
    let log = text(&records);
    let mut cells = records.iter().filter(|it| matches!(it, Record::Cell(_)));
    let early = cells.next().cloned().expect("a cell");
    let Some(Record::Cell(longer)) = cells.next_back() else {
        panic!("a cell");
    };
    let mut longer = longer.clone();
    longer.window_s = 1;
    let (whole, _) = judge(&config, &[&log]);
    let late = [log, text(&[early, Record::Cell(longer)])].concat();
    let (judged, damage) = judge(&config, &[&late]);
    assert_eq!(text(&judged), text(&whole));
    assert!(
        damage.named[0].contains("comes after a later one"),
        "{damage:?}"
    );
    assert!(
        damage.named[1].contains("a window of 1 s among windows of 5 s"),
        "{damage:?}"
    );
}

#[test]
fn no_bytes_make_it_panic() {
    let config = Config::default();
    for text in [
        &b""[..],
        b"\n\n",
        b"null",
        b"{\"type\":7}",
        &[0xff; 1_000],
        b"{\"type\":\"verdict\"}\n{\"type\":\"route\"}\n{\"type\":\"cell\"}",
    ] {
        let (judged, _) = judge(&config, &[text]);
        assert!(judged.is_empty());
    }
}

/// The lines of two hosts, of which the first has trouble of its own from a window on: a queue
/// before it delays everybody that it serves, and it serves a part of every prefix.
fn with_a_host_in_trouble(troubled: bool) -> [Vec<u8>; 2] {
    let mut site = site(true);
    let mut records = Vec::new();
    for window in 0..WINDOWS {
        records.extend(site.window(|home| {
            let is_hit = troubled && home.number == 0 && window >= LEAD_IN + 2;
            match is_hit {
                true => Life::congested(30_000),
                false => Life::default(),
            }
        }));
    }
    as_two_hosts(&records)
}

#[test]
fn a_host_s_own_trouble_is_said_of_the_host_and_blames_nobody_else() {
    let config = Site::config(HD);
    let [one, other] = with_a_host_in_trouble(true);
    let (judged, damage) = judge(&config, &[&one, &other]);
    assert_eq!(damage, Damage::default());
    let of_host: Vec<VerdictRecord> = verdicts(&judged)
        .into_iter()
        .filter(|it| it.segments == [Segment::Host, Segment::OwnNetwork])
        .collect();
    assert!(of_host.len() >= 10, "{}", of_host.len());
    for verdict in &of_host {
        let about = verdict.evidence[0].about.as_deref();
        assert_eq!(
            (&*verdict.evidence[0].kind, about),
            ("bad_client_share_of_host", Some("host-1"))
        );
        assert_eq!(verdict.rejected.len(), 7);
    }
    assert!(names(&judged).is_empty(), "{:?}", names(&judged));

    let [one, other] = with_a_host_in_trouble(false);
    let (judged, _) = judge(&config, &[&one, &other]);
    let is_about_hosts = |it: &VerdictRecord| it.segments.contains(&Segment::Host);
    assert!(!verdicts(&judged).iter().any(is_about_hosts));
}
