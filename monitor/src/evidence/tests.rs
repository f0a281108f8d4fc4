//! What is kept of a site's verdicts, and what is made of it again.

use std::path::PathBuf;

use super::kept::{ENGINE, config_hash, differences};
use super::store::{Label, Store};
use super::{KeptVerdict, Unkept, command};
use crate::config::Config;
use crate::engine::tests::site::{HD, LEAD_IN, Life, Site};
use crate::export::Record;
use crate::verdict::{DeviceCounters, LocalCounters, Segment};

pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lastmile-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("evidence.sqlite")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is kept of a site whose `isp-x` fails for a while, and its log.
pub(crate) fn trouble() -> (Vec<Unkept>, Vec<Record>) {
    let mut site = Site::new(3);
    site.pipeline.keep_evidence();
    let mut records = Vec::new();
    for window in 0..LEAD_IN + 12 {
        site.local = Some(LocalCounters {
            window_us: 5_000_000,
            devices: vec![DeviceCounters {
                interface: "eth0".into(),
                sent_bytes: 100_000_000,
                sent_packets: 70_000,
                qdisc_dropped: 3,
                qdisc_backlog_min_bytes: 0,
                nic_tx_dropped: 0,
            }],
        });
        records.extend(site.window(|home| match home.isp {
            "isp-x" if window >= LEAD_IN + 2 => Life::congested(30_000),
            _ => Life::default(),
        }));
    }
    (site.pipeline.take_evidence(), records)
}

/// The verdicts of a log that are to be kept.
fn logged(records: &[Record]) -> Vec<KeptVerdict> {
    let verdicts = records.iter().filter_map(|record| match record {
        Record::Verdict(verdict) => Some((verdict.verdict_id.clone()?, record)),
        _ => None,
    });
    let kept = verdicts.map(|(id, record)| KeptVerdict {
        id,
        line: serde_json::to_string(record).expect("JSON"),
    });
    kept.collect()
}

#[test]
fn every_verdict_but_none_is_recomputed_to_the_byte_from_the_file() {
    let folder = Folder::new("evidence-bytes");
    let (windows, records) = trouble();
    let logged = logged(&records);
    let of_record = |record: &&Record| match record {
        Record::Verdict(verdict) => verdict.degraded != Some(false),
        _ => false,
    };
    assert_eq!(logged.len(), records.iter().filter(of_record).count());
    assert!(
        logged
            .iter()
            .any(|it| it.line.contains("\"segments\":[\"isp\"]"))
    );
    let mut store = Store::open(&folder.file()).expect("opens");
    for window in &windows {
        store.keep(window).expect("written");
    }
    drop(store);
    let store = Store::open_existing(&folder.file())
        .expect("opens")
        .expect("it is there");
    for verdict in &logged {
        let found = store.find(&verdict.id).expect("readable").expect("kept");
        assert_eq!(found.line, verdict.line);
        assert_eq!(found.kept.engine, ENGINE);
        assert_eq!(found.kept.config_hash, config_hash(&Site::config(HD)));
        let again = found.kept.verdicts();
        assert!(again.contains(verdict), "{again:#?}\n{verdict:#?}");
    }
    assert!(store.find("test-1-1").expect("readable").is_none());
}

#[test]
fn clients_are_kept_by_pseudonyms() {
    let (windows, _) = trouble();
    let mut clients = 0;
    for window in &windows {
        let json = serde_json::to_string(&window.kept).expect("JSON");
        clients += json.matches("\"fd6c:6173:746d:1:").count();
        let addresses =
            (0..16).flat_map(|prefix| [1, 2].map(|it| format!("\"10.0.{prefix}.{it}\"")));
        for address in addresses {
            assert!(!json.contains(&address), "{address}");
        }
    }
    assert!(clients > 100, "{clients}");
}

#[test]
fn inputs_that_were_changed_give_another_verdict() {
    let (windows, _) = trouble();
    let last = windows.last().expect("the ISP is named");
    let json = serde_json::to_string(&last.kept).expect("JSON");
    let changed = json.replacen("\"standing\":\"Bad\"", "\"standing\":\"Good\"", 1);
    assert_ne!(json, changed);
    let changed: super::Kept = serde_json::from_str(&changed).expect("JSON");
    let again = changed.verdicts();
    let one = &last.verdicts[0];
    let other = again.iter().find(|verdict| verdict.id == one.id);
    let said = differences(&one.line, &other.expect("still a verdict").line);
    assert!(
        said.iter().any(|it| it.starts_with("confidence: ")),
        "{said:?}"
    );
}

#[test]
fn what_is_too_old_or_too_much_is_forgotten_and_labels_stay() {
    let folder = Folder::new("evidence-bounds");
    let (windows, _) = trouble();
    let one = windows.last().expect("one").clone();
    let mut store = Store::open(&folder.file()).expect("opens");
    let window_us = 5_000_000;
    let id = |number: u64| format!("h-{number}-1");
    for number in 0..400 {
        let mut window = one.clone();
        window.kept.span.start_us = number * window_us;
        window.verdicts[0].id = id(number);
        store.keep(&window).expect("written");
    }
    let label = Label {
        id: id(0),
        truth: vec![Segment::Isp],
        said: vec![Segment::Isp],
        time_us: 7,
    };
    store.label(&label).expect("written");
    let is_there = |store: &Store, number| store.find(&id(number)).expect("readable").is_some();
    while store.forget(10 * window_us, u64::MAX).expect("forgets") > 0 {}
    assert!(!is_there(&store, 9) && is_there(&store, 10));

    let before = store.bytes().expect("readable");
    let max_bytes = before / 2;
    while store.forget(0, max_bytes).expect("forgets") > 0 {}
    let after = store.bytes().expect("readable");
    assert!(after <= max_bytes && after > before / 4, "{before} {after}");
    // The oldest went.
    assert!(!is_there(&store, 10) && is_there(&store, 399));
    assert_eq!(store.labels().expect("readable"), [label]);
}

#[test]
fn a_later_label_replaces_an_earlier_one() {
    let folder = Folder::new("evidence-label");
    let store = Store::open(&folder.file()).expect("opens");
    let mut label = Label {
        id: "h-1-1".to_owned(),
        truth: vec![Segment::Isp],
        said: vec![Segment::Isp, Segment::Interconnect],
        time_us: 7,
    };
    store.label(&label).expect("written");
    label.truth = vec![Segment::LastMile, Segment::Isp];
    store.label(&label).expect("written");
    assert_eq!(store.labels().expect("readable"), [label]);
}

#[test]
fn another_programs_file_and_one_that_is_not_there_are_told_apart() {
    let folder = Folder::new("evidence-other");
    assert!(
        Store::open_existing(&folder.file())
            .expect("no error")
            .is_none()
    );
    assert!(!folder.file().exists());
    let other = rusqlite::Connection::open(folder.file()).expect("opens");
    other.execute_batch("CREATE TABLE t (a)").expect("made");
    let error = Store::open(&folder.file()).err();
    assert!(error.is_some_and(|error| error.to_string().contains("another program")));
}

#[test]
fn a_command_verifies_labels_and_reports() {
    let folder = Folder::new("evidence-command");
    let (windows, _) = trouble();
    let mut store = Store::open(&folder.file()).expect("opens");
    windows
        .iter()
        .for_each(|window| store.keep(window).expect("written"));
    let id = &windows.last().expect("one").verdicts[0].id;
    let mut config = Site::config(HD);
    config.evidence.file = Some(folder.file());
    command::verify(&config, &[], id).expect("equal");
    let other = Config::default();
    assert!(command::verify(&other, &[], id).is_err(), "nowhere to look");
    command::verify(&other, std::slice::from_ref(&folder.0), id).expect("found in the folder");

    let truth = command::truth("isp").expect("a segment");
    command::label(&config, &[], id, &truth, 7).expect("labelled");
    let labels = store.labels().expect("readable");
    assert_eq!(labels.len(), 1);
    assert_eq!(
        (labels[0].said.as_slice(), labels[0].time_us),
        (&[Segment::Isp][..], 7)
    );
    command::report(&config, &[]).expect("reported");
    let unknown = command::label(&config, &[], "h-1-1", &truth, 7).expect_err("no such verdict");
    assert!(unknown.to_string().contains("no verdict h-1-1"));

    let direct = rusqlite::Connection::open(folder.file()).expect("opens");
    let changed = direct
        .execute(
            "UPDATE verdict SET line = replace(line, 'isp-x', 'isp-y') WHERE id = ?1",
            [id],
        )
        .expect("written");
    assert_eq!(changed, 1);
    let said = command::verify(&config, &[], id).expect_err("another line");
    assert!(said.to_string().contains("not what its inputs give"));
}
