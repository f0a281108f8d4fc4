//! Captures to records.

use anyhow::Result;
use lastmile::{
    capture::replay::{Attribution, Capture, CaptureError, Stream},
    config::Config,
    export::{Record, record::FlowEvent},
};
use monitor_ebpf::counters::Counter;

use super::seeds::{conversation, pcap, pcapng};

/// Bytes read at once: so few that records lie across reads.
const READ_BYTES: usize = 128;
/// Status records of one capture that are written as JSON.
const STATUS_WRITTEN_MAX: u64 = 4;

/// The flows of a capture.
pub fn run(data: &[u8]) {
    replay(data, Attribution::Off);
}

/// A capture whose windows are judged: every silence of it is many of them.
pub fn run_windows(data: &[u8]) {
    replay(data, Attribution::On);
}

fn replay(capture: &[u8], attribution: Attribution) {
    let mut closed = 0u64;
    let mut last_is_status = false;
    let mut of_silence = 0u64;
    let sink = |records: &[Record]| -> Result<()> {
        for record in records {
            last_is_status = matches!(record, Record::Status(_));
            // Every silent window has one, and they are alike: writing them all would take half
            // of the time.
            of_silence += u64::from(last_is_status);
            if of_silence <= STATUS_WRITTEN_MAX || !last_is_status {
                serde_json::to_string(record)?;
            }
            if let Record::Flow(flow) = record
                && flow.event == FlowEvent::Close
            {
                assert!(flow.close_reason.is_some(), "{flow:?}");
                assert!(flow.start_time <= flow.time, "{flow:?}");
                closed += 1;
            }
        }
        Ok(())
    };
    let mut stream = Stream::new(Config::default(), attribution, sink).expect("no file is named");
    let Some((packets, passed_over)) = read(capture, &mut stream) else {
        return;
    };
    stream.finish(&[]).expect("memory takes every record");

    let counters = stream.counters();
    let counted: u64 = counters[..=Counter::Watched as usize].iter().sum();
    assert_eq!(
        counted + passed_over,
        packets,
        "each packet is counted once"
    );
    let created = counters[Counter::FlowsCreated as usize];
    let pending = counters[Counter::FlowsPending as usize];
    let said = stream.flows_closed();
    assert!(
        said <= created + pending,
        "{said} of {created} and {pending}"
    );
    assert!(said >= created, "{said} of {created}");
    drop(stream);
    assert_eq!(closed, said);
    assert!(last_is_status, "the last line counts");
}

/// Reads it until its end or its damage: packets, and how many were passed over.
fn read<S: FnMut(&[Record]) -> Result<()>>(
    capture: &[u8],
    stream: &mut Stream<S>,
) -> Option<(u64, u64)> {
    let mut capture = Capture::from_bytes(capture.to_vec(), "memory".as_ref(), READ_BYTES).ok()?;
    loop {
        match capture.advance() {
            Ok(true) => {
                let packet = capture.packet().expect("it is at hand");
                stream.packet(&packet).expect("memory takes every record");
            }
            Ok(false) | Err(CaptureError::LinkType { .. }) => break,
            Err(CaptureError::Damaged { packets, .. }) => {
                assert_eq!(packets, capture.packets());
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let passed_over = capture.passed_over().packets_not_understood;
    Some((capture.packets(), passed_over))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let frames: Vec<_> = conversation().iter().map(|tcp| tcp.ethernet()).collect();
    let raw: Vec<_> = conversation().iter().map(|tcp| tcp.ipv4()).collect();
    vec![
        pcap([0xd4, 0xc3, 0xb2, 0xa1], 1, &frames),
        pcap([0xa1, 0xb2, 0xc3, 0xd4], 101, &raw),
        pcap([0x4d, 0x3c, 0xb2, 0xa1], 228, &raw[..3]),
        pcapng(&frames),
        pcapng(&frames[..6]),
    ]
}
