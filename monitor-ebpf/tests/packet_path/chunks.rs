//! Requests and the responses they get.

use monitor_ebpf::{
    chunk::{Chunk, ChunkReport, Progress, progress},
    counters::Counter,
    sequence::high,
};

use crate::support::wire::{START_NS, Wire};

/// Wrapping µs of a moment of the test.
fn at(us: u32) -> u32 {
    (START_NS / 1_000) as u32 + us
}

fn ended(wire: &Wire) -> Vec<ChunkReport> {
    wire.tables.take_chunks()
}

/// The chunk under way, and where it has come to.
fn now(wire: &Wire) -> (Chunk, Progress) {
    let (server, client) = (wire.server_half(), wire.client_half());
    (server.chunk, progress(&server, &client, high(server.burst)))
}

fn bytes(chunk: &Chunk, progress: &Progress) -> u32 {
    progress.end.wrapping_sub(chunk.start)
}

/// A request of 100 bytes at 100 ms, and 3,000 bytes in answer from 150 ms on, acknowledged at
/// 170 ms.
fn one_response() -> Wire {
    let mut wire = Wire::established();
    wire.sees(100_000, wire.client().data(0, 100));
    wire.sees(150_000, wire.server().data(0, 1_000).ack(100));
    wire.sees(150_010, wire.server().data(1_000, 2_000).ack(100));
    wire.sees(170_000, wire.client().data(100, 0).ack(3_000));
    wire
}

/// As [`one_response`], until another one begins: what was reported of it.
fn reported_after(wire: &mut Wire, request: u32, offset: u32) -> ChunkReport {
    wire.sees(5_000_000, wire.client().data(request, 100).ack(offset));
    wire.sees(
        5_030_000,
        wire.server().data(offset, 2_000).ack(request + 100),
    );
    let chunks = ended(wire);
    assert_eq!(chunks.len(), 1, "{chunks:?}");
    chunks[0]
}

#[test]
fn from_the_request_to_the_ack_of_the_last_byte() {
    let wire = one_response();
    let (chunk, progress) = now(&wire);
    assert_eq!(
        (chunk.number, chunk.request_us, chunk.first_us),
        (1, at(100_000), at(150_000))
    );
    assert_eq!((progress.end_us, progress.unacknowledged), (at(170_000), 0));
    assert_eq!(bytes(&chunk, &progress), 3_000);
    assert_eq!(ended(&wire), []);
}

#[test]
fn the_next_response_ends_it_and_it_is_told_once() {
    let mut wire = one_response();
    let report = reported_after(&mut wire, 100, 3_000);
    let state = wire.state();
    assert_eq!(
        (report.key, report.generation),
        (state.key, state.generation)
    );
    assert_eq!(report.chunk.number, 1);
    assert_eq!(bytes(&report.chunk, &report.progress), 3_000);
    assert_eq!(report.progress.end_us, at(170_000));
    let (chunk, progress) = now(&wire);
    assert_eq!(
        (chunk.number, chunk.request_us, chunk.first_us),
        (2, at(5_000_000), at(5_030_000))
    );
    assert_eq!((progress.unacknowledged, progress.end_us), (2_000, 0));
    assert_eq!(wire.counter(Counter::ChunksSent), 1);
}

#[test]
fn what_the_ring_buffer_has_no_room_for_is_counted() {
    let mut wire = one_response();
    wire.tables.reports_fit = false;
    wire.sees(5_000_000, wire.client().data(100, 100).ack(3_000));
    wire.sees(5_030_000, wire.server().data(3_000, 500).ack(200));
    assert_eq!(ended(&wire), []);
    assert_eq!(wire.counter(Counter::ChunksLost), 1);
    assert_eq!(now(&wire).0.number, 2);
}

#[test]
fn a_retransmission_is_no_further_byte_and_a_loss_inside() {
    let mut wire = one_response();
    wire.sees(1_000_000, wire.client().data(100, 100).ack(3_000));
    wire.sees(1_010_000, wire.server().data(3_000, 1_000).ack(200));
    wire.sees(1_010_010, wire.server().data(4_000, 1_000).ack(200));
    wire.sees(1_030_000, wire.client().data(200, 0).ack(4_000));
    wire.sees(1_300_000, wire.server().data(4_000, 1_000).ack(200));
    wire.sees(1_320_000, wire.client().data(200, 0).ack(5_000));
    assert_eq!(ended(&wire).len(), 1);
    let (chunk, progress) = now(&wire);
    assert_eq!(bytes(&chunk, &progress), 2_000);
    assert_eq!(
        progress.retransmitted_segments - chunk.retransmitted_segments,
        1
    );
    assert_eq!(progress.lost_segments - chunk.lost_segments, 1);
    assert_eq!(progress.end_us, at(1_320_000));
}

#[test]
fn small_records_of_the_client_do_not_split_a_response() {
    let mut wire = one_response();
    wire.sees(1_000_000, wire.client().data(100, 100).ack(3_000));
    wire.sees(1_010_000, wire.server().data(3_000, 2_000).ack(200));
    // Two WINDOW_UPDATEs: while data is outstanding, and with the last ACK.
    wire.sees(1_030_000, wire.client().data(200, 35).ack(3_000));
    wire.sees(1_040_000, wire.client().data(235, 48).ack(5_000));
    wire.sees(1_041_000, wire.server().data(5_000, 1_000).ack(283));
    wire.sees(1_061_000, wire.client().data(283, 0).ack(6_000));
    assert_eq!(ended(&wire).len(), 1, "the one before");
    let (chunk, progress) = now(&wire);
    assert_eq!((chunk.number, bytes(&chunk, &progress)), (2, 3_000));
    assert_eq!((chunk.stalls, chunk.pauses), (0, 0));
}

#[test]
fn short_requests_in_clear_text_are_requests() {
    let mut wire = Wire::established();
    for chunk in 0..5 {
        let ms = 1_000_000 + chunk * 600_000;
        wire.sees(ms, wire.client().data(chunk * 8, 8).ack(chunk * 1_000));
        wire.sees(
            ms + 10_000,
            wire.server().data(chunk * 1_000, 1_000).ack(chunk * 8 + 8),
        );
        let ack = wire
            .client()
            .data(chunk * 8 + 8, 0)
            .ack(chunk * 1_000 + 1_000);
        wire.sees(ms + 30_000, ack);
    }
    let sizes: Vec<_> = ended(&wire)
        .iter()
        .map(|report| bytes(&report.chunk, &report.progress))
        .collect();
    assert_eq!(sizes, [1_000; 4]);
    assert_eq!(now(&wire).0.number, 5);
}

#[test]
fn a_gap_that_nobody_asked_for_is_the_servers() {
    let mut wire = one_response();
    reported_after(&mut wire, 100, 3_000);
    wire.sees(5_050_000, wire.client().data(200, 0).ack(5_000));
    wire.sees(5_450_000, wire.server().data(5_000, 2_000).ack(200));
    wire.sees(5_470_000, wire.client().data(200, 0).ack(7_000));
    let (chunk, progress) = now(&wire);
    assert_eq!((chunk.number, bytes(&chunk, &progress)), (2, 4_000));
    assert_eq!((chunk.stalls, chunk.pauses, chunk.paused_us), (1, 0, 0));
    // Less what a round trip to the server takes.
    assert!(chunk.stalled_us.abs_diff(390_000) <= 8, "{chunk:?}");
    assert_eq!(progress.end_us, at(5_470_000));
}

#[test]
fn a_gap_until_the_client_says_something_is_the_players() {
    let mut wire = one_response();
    reported_after(&mut wire, 100, 3_000);
    wire.sees(5_050_000, wire.client().data(200, 0).ack(5_000));
    // A WINDOW_UPDATE of HTTP/2 after 400 ms, and data at once.
    wire.sees(5_450_000, wire.client().data(200, 35).ack(5_000));
    wire.sees(5_470_000, wire.server().data(5_000, 2_000).ack(235));
    let (chunk, _) = now(&wire);
    assert_eq!((chunk.number, chunk.stalls, chunk.pauses), (2, 0, 1));
    assert!((390_000..=420_000).contains(&chunk.paused_us), "{chunk:?}");
}

#[test]
fn a_gap_until_the_window_opens_is_the_players() {
    let mut wire = one_response();
    reported_after(&mut wire, 100, 3_000);
    wire.sees(5_050_000, wire.client().data(200, 0).ack(5_000).window(0));
    wire.sees(
        5_450_000,
        wire.client().data(200, 0).ack(5_000).window(60_000),
    );
    wire.sees(5_470_000, wire.server().data(5_000, 2_000).ack(200));
    let (chunk, _) = now(&wire);
    assert_eq!((chunk.number, chunk.stalls, chunk.pauses), (2, 0, 1));
}

#[test]
fn session_tickets_are_no_part_of_the_first_response() {
    let mut wire = Wire::established();
    wire.sees(100_000, wire.client().data(0, 80));
    wire.sees(110_000, wire.server().data(0, 510).ack(80));
    wire.sees(130_000, wire.client().data(80, 0).ack(510));
    wire.sees(400_000, wire.server().data(510, 9_000).ack(80));
    wire.sees(420_000, wire.client().data(80, 0).ack(9_510));
    let (chunk, progress) = now(&wire);
    assert_eq!((chunk.number, bytes(&chunk, &progress)), (1, 9_000));
    assert_eq!((chunk.first_us, chunk.stalls), (at(400_000), 0));
}

#[test]
fn headers_that_are_acknowledged_before_the_body_are_part_of_the_response() {
    let mut wire = Wire::established();
    wire.sees(100_000, wire.client().data(0, 80));
    wire.sees(110_000, wire.server().data(0, 115).ack(80));
    wire.sees(130_000, wire.client().data(80, 0).ack(115));
    wire.sees(160_000, wire.server().data(115, 9_000).ack(80));
    wire.sees(180_000, wire.client().data(80, 0).ack(9_115));
    let (chunk, progress) = now(&wire);
    assert_eq!(
        (chunk.first_us, bytes(&chunk, &progress)),
        (at(110_000), 9_115)
    );
}

#[test]
fn responses_that_overlap_are_one_chunk() {
    let mut wire = Wire::established();
    wire.sees(100_000, wire.client().data(0, 100));
    wire.sees(101_000, wire.client().data(100, 100));
    wire.sees(110_000, wire.server().data(0, 1_000).ack(200));
    wire.sees(111_000, wire.client().data(200, 100));
    wire.sees(112_000, wire.server().data(1_000, 1_000).ack(300));
    wire.sees(132_000, wire.client().data(300, 0).ack(2_000));
    let (chunk, progress) = now(&wire);
    assert_eq!((chunk.number, bytes(&chunk, &progress)), (1, 2_000));
    assert_eq!(chunk.request_us, at(100_000));
}

#[test]
fn a_delayed_ack_of_the_end_is_no_part_of_the_duration() {
    let mut wire = Wire::established();
    wire.sees(100_000, wire.client().data(0, 100));
    let mut at_us = 110_000;
    for flight in 0..10 {
        wire.sees(at_us, wire.server().data(flight * 2_000, 2_000).ack(100));
        at_us += 20_000;
        wire.sees(
            at_us,
            wire.client().data(100, 0).ack(flight * 2_000 + 2_000),
        );
    }
    wire.sees(at_us, wire.server().data(20_000, 300).ack(100));
    wire.sees(at_us + 60_000, wire.client().data(100, 0).ack(20_300));
    let (_, progress) = now(&wire);
    let end_us = progress.end_us.wrapping_sub(at(0));
    assert!(end_us.abs_diff(at_us + 20_000) < 100, "{end_us}");
}

#[test]
fn a_queue_that_fills_is_no_delay_of_an_ack() {
    let mut wire = Wire::established();
    wire.sees(100_000, wire.client().data(0, 100));
    let mut at_us = 110_000;
    for flight in 0..10 {
        wire.sees(at_us, wire.server().data(flight * 2_000, 2_000).ack(100));
        at_us += 20_000 + flight * 30_000;
        wire.sees(
            at_us,
            wire.client().data(100, 0).ack(flight * 2_000 + 2_000),
        );
    }
    wire.sees(at_us, wire.server().data(20_000, 300).ack(100));
    at_us += 320_000;
    wire.sees(at_us, wire.client().data(100, 0).ack(20_300));
    assert_eq!(now(&wire).1.end_us, at(at_us));
}

#[test]
fn a_connection_that_is_closed_later_was_done_before() {
    let mut wire = one_response();
    wire.sees(60_000_000, wire.server().fin(3_000).ack(100));
    wire.sees(60_020_000, wire.client().data(100, 0).ack(3_001));
    let (server, client) = (wire.server_half(), wire.client_half());
    let progress = progress(&server, &client, high(server.burst) - 1);
    assert_eq!((server.chunk.number, progress.end_us), (1, at(170_000)));
}

#[test]
fn without_a_handshake_either_side_may_be_the_server() {
    let mut wire = Wire::new();
    wire.sees(100_000, wire.client().data(0, 100));
    wire.sees(150_000, wire.server().data(0, 3_000).ack(100));
    wire.sees(170_000, wire.client().data(100, 0).ack(3_000));
    let (chunk, progress) = now(&wire);
    assert_eq!(
        (chunk.number, bytes(&chunk, &progress), chunk.request_us),
        (1, 3_000, at(100_000))
    );
    reported_after(&mut wire, 100, 3_000);
}

#[test]
fn what_a_client_sends_is_no_chunk() {
    let mut wire = one_response();
    reported_after(&mut wire, 100, 3_000);
    assert_eq!(wire.client_half().chunk, Chunk::EMPTY);
    assert_eq!(wire.server_half().request, 0);
}
