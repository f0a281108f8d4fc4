//! What is reported when only some flows are video, and when most of it is QUIC.

use std::path::Path;

use monitor_ebpf::flow::{Address, FlowKey};
use monitor_ebpf::quic::{PORT, QuicFlow};

use super::*;
use crate::capture::{FirstBytes, QuicSnapshot};
use crate::config::Config;
use crate::engine::video::VideoReason;
use crate::export::record::CellRecord;
use crate::recognise::Transport;

fn cells(records: &[Record]) -> Vec<CellRecord> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Cell(cell) => Some((**cell).clone()),
            _ => None,
        })
        .collect()
}

/// A site whose configuration has this `[video]` table, with one service in the list.
fn site(video: &str) -> Site {
    let mut site = Site::new(1);
    let config = Config::parse(video, Path::new("test.toml")).expect("right");
    let mut whole = Site::config(HD);
    whole.video = config.video;
    site.pipeline.reconfigure(&whole);
    let list = "suffix,service\ncdn.example,Films\n";
    let list = crate::recognise::services::Services::parse(list, Path::new("list.csv"));
    site.pipeline.set_services(list.expect("a list"));
    site
}

/// Every home asks for something: the even ones for a film, the others for a page.
fn ask(site: &mut Site) {
    for home in &site.homes {
        let host = if home.index.is_multiple_of(2) {
            "a.cdn.example"
        } else {
            "www.example"
        };
        let said = FirstBytes {
            key: home.key(),
            generation: home.generation(),
            transport: Transport::Tcp,
            offset: 0,
            bytes: format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(),
        };
        site.pipeline.hear(&said, site.now_us);
    }
}

#[test]
fn only_video_is_logged_and_judged() {
    let mut site = site("[video]\nbehaviour = false\n");
    // Nothing is known yet.
    let unknown = site.window(|_| Life::default());
    assert_eq!((flows(&unknown).len(), cells(&unknown).len()), (0, 0));
    ask(&mut site);
    let records = site.window(|_| Life::default());
    let said = flows(&records);
    let opened = said.iter().filter(|flow| flow.event == FlowEvent::Open);
    assert_eq!(opened.count(), 16);
    let updated = said.iter().filter(|flow| flow.event == FlowEvent::Update);
    assert_eq!(updated.count(), 16);
    for flow in &said {
        assert_eq!(flow.video, Some(true));
        assert_eq!(flow.video_reason, Some(VideoReason::Http));
        assert_eq!(flow.service.as_deref(), Some("Films"));
    }
    let observations: u64 = cells(&records).iter().map(|cell| cell.observations).sum();
    assert_eq!(observations, 16);
    // Each is opened once.
    let again = site.window(|_| Life::default());
    assert!(
        flows(&again)
            .iter()
            .all(|flow| flow.event == FlowEvent::Update)
    );
    assert_eq!(flows(&again).len(), 16);
}

#[test]
fn all_is_logged_where_that_is_asked_for_with_what_it_is() {
    let mut site = site("[video]\nbehaviour = false\nreport_all = true\n");
    ask(&mut site);
    let records = site.window(|_| Life::default());
    let of = |video| {
        let said = flows(&records);
        said.iter().filter(|flow| flow.video == video).count()
    };
    assert_eq!((of(Some(true)), of(Some(false)), of(None)), (32, 32, 0));
}

#[test]
fn where_most_of_the_video_is_quic_nothing_is_said() {
    let mut site = Site::new(5);
    for _ in 0..LEAD_IN + 3 {
        site.window(|_| Life::default());
    }
    let quic = |bytes: u64| -> Vec<QuicSnapshot> {
        (0..16u8)
            .map(|prefix| {
                let client = Address::v4([10, 0, prefix, 77]);
                let server = Address::v4([203, 0, 113, 9]);
                let (key, direction) = FlowKey::new(client, 50_000, server, PORT);
                let mut state = QuicFlow {
                    generation: 1,
                    ..QuicFlow::default()
                };
                state.halves[direction ^ 1].bytes = bytes;
                state.halves[direction ^ 1].packets = (bytes / 1_200) as u32;
                QuicSnapshot { key, state }
            })
            .collect()
    };
    site.pipeline.quic(&quic(1_000_000));
    let records = site.window(|_| Life::default());
    let said = verdicts(&records);
    assert_eq!(said[0].inconclusive, None);
    let share = said[0].tcp_share.expect("there was video");
    assert!((0.5..1.0).contains(&share), "{share}");
    for cell in cells(&records) {
        let quic = cell.quic.expect("in every prefix");
        assert_eq!((quic.bytes, quic.flows), (1_000_000, 1));
        assert!(cell.tcp_share.is_some_and(|share| share < 1.0));
    }
    site.pipeline.quic(&quic(101_000_000));
    let said = verdicts(&site.window(|_| Life::default()));
    assert_eq!(said[0].inconclusive, Some(Inconclusive::TcpShare));
    assert_eq!(said[0].degraded, None);
    // Without any the share is whole.
    let said = verdicts(&site.window(|_| Life::default()));
    assert_eq!(said[0].tcp_share, Some(1.0));
}
