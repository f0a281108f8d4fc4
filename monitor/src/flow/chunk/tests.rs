use std::sync::Arc;

use monitor_ebpf::chunk::{Chunk as State, ChunkReport, Progress};
use monitor_ebpf::flow::Half;
use monitor_ebpf::sequence::pack;

use super::figures::{Figures, Pace};
use super::ledger::LISTED_MAX;
use super::*;

const HD: u64 = 2_500_000;

/// A moment at which the wrapping clock has just turned.
const READ: Moment = Moment {
    unix_us: 1_700_000_000_000_000,
    monotonic_ns: ((1 << 32) + 5_000_000) * 1_000,
};

fn ladder() -> Ladder {
    Arc::from([HD, 10 * HD])
}

/// The connection's first chunk, that took `transfer_us` from its first byte on.
pub(super) fn chunk(bytes: u64, transfer_us: u64) -> Chunk {
    let first_us = READ.unix_us;
    Chunk {
        number: 1,
        request_us: Some(first_us - 5_000),
        first_us,
        end_us: Some(first_us + transfer_us),
        is_over: true,
        bytes,
        acked_bytes: bytes,
        idle_us: None,
        queued: false,
        stalls: 0,
        stalled_us: 0,
        pauses: 0,
        paused_us: 0,
        retransmitted_segments: 0,
        lost_segments: 0,
        rtt_samples: 0,
        rtt_sum_us: 0,
        rtt_min_us: Some(20_000),
        cwnd: None,
        mss: 1_448,
    }
}

/// The `number`th chunk, `start_us` after the first.
fn later(number: u32, start_us: u64, bytes: u64, transfer_us: u64) -> Chunk {
    let first = chunk(bytes, transfer_us);
    Chunk {
        number,
        request_us: first.request_us.map(|us| us + start_us),
        first_us: first.first_us + start_us,
        end_us: first.end_us.map(|us| us + start_us),
        ..first
    }
}

fn report() -> ChunkReport {
    ChunkReport {
        time_ns: READ.monotonic_ns - 1_000_000_000,
        chunk: State {
            number: 3,
            start: u32::MAX - 999,
            request_us: u32::MAX - 999_999,
            first_us: u32::MAX - 499_999,
            payload_kib: 10,
            rtt_samples: 5,
            rtt_sum_us: u32::MAX - 9,
            retransmitted_segments: 1,
            ..State::EMPTY
        },
        progress: Progress {
            end: 2_000,
            end_us: 1_500_000,
            payload_kib: 13,
            rtt_samples: 7,
            rtt_sum_us: 40_000,
            rtt_min_us: 20_000,
            retransmitted_segments: 3,
            mss: 1_448,
            ..Progress::default()
        },
        ..ChunkReport::default()
    }
}

#[test]
fn wrapping_times_and_numbers_become_times_and_differences() {
    let chunk = Chunk::reported(&report(), READ);
    assert_eq!(chunk.request_us, Some(READ.unix_us - 6_000_000));
    assert_eq!(chunk.first_us, READ.unix_us - 5_500_000);
    assert_eq!(chunk.end_us, Some(READ.unix_us - 3_500_000));
    assert_eq!((chunk.bytes, chunk.rate_bps()), (3_000, Some(12_000)));
    assert_eq!(
        (chunk.retransmitted_segments, chunk.rtt_mean_us()),
        (2, Some(20_005))
    );
    assert_eq!(chunk.first_byte_us(), Some(500_000));
}

#[test]
fn sequence_numbers_may_turn_more_than_once() {
    let mut report = report();
    report.chunk.payload_kib = u32::MAX - 100;
    // Two turns and 3,000 bytes, of which 40 MB were sent again.
    report.progress.payload_kib = (((2u64 << 32) + 3_000 + 40_000_000) >> 10) as u32 - 101;
    let chunk = Chunk::reported(&report, READ);
    assert_eq!(chunk.bytes, (2 << 32) + 3_000);
}

#[test]
fn what_is_under_way_has_come_as_far_as_its_acks() {
    let (mut sender, mut receiver) = (Half::EMPTY, Half::EMPTY);
    assert_eq!(Chunk::under_way(&sender, &receiver, READ), None);
    sender.chunk = State {
        number: 1,
        start: 1_000,
        first_us: 4_000_000,
        ..State::EMPTY
    };
    sender.burst = pack(11_000, 4_000_000);
    receiver.flags = half_flags::ACK_KNOWN;
    receiver.acked = pack(4_000, 60_000);
    receiver.last_seen_ns = READ.monotonic_ns - 100_000_000;
    let chunk = Chunk::under_way(&sender, &receiver, READ).expect("there is one");
    assert_eq!(
        (chunk.bytes, chunk.acked_bytes, chunk.is_over),
        (10_000, 3_000, false)
    );
    assert_eq!(chunk.transfer_us(), Some(900_000));
}

#[test]
fn the_end_of_the_connection_is_no_byte_of_a_chunk() {
    let (mut sender, mut receiver) = (Half::EMPTY, Half::EMPTY);
    sender.flags = half_flags::FIN;
    sender.chunk.number = 1;
    sender.burst = pack(3_001, 4_000_000);
    receiver.flags = half_flags::ACK_KNOWN;
    receiver.acked = pack(3_001, 60_000);
    receiver.drained = pack(3_000, 4_500_000);
    let chunk = Chunk::under_way(&sender, &receiver, READ).expect("there is one");
    assert_eq!((chunk.bytes, chunk.is_over), (3_000, true));
    assert_eq!(chunk.end_us, Some(READ.unix_us - 500_000));
}

#[test]
fn a_request_with_the_last_ack_of_the_chunk_before_did_not_wait_for_that() {
    // The first one is over 100 ms after its first byte, which came 5 ms after its request.
    for (asked_us, first_byte_us) in [
        (100_000, Some(5_000)),
        (99_500, Some(5_000)),
        (50_000, None),
    ] {
        let mut ledger = Ledger::default();
        ledger.take(&later(1, 0, 50_000, 100_000), &ladder());
        let second = later(2, asked_us + 5_000, 50_000, 100_000);
        ledger.take(&second, &ladder());
        let second = ledger.recent().last().expect("it was taken").chunk;
        assert_eq!(second.idle_us, Some(0));
        assert_eq!(second.first_byte_us(), first_byte_us, "{asked_us}");
    }
}

#[test]
fn each_chunk_is_counted_once_and_the_lost_ones_are_known() {
    let mut ledger = Ledger::default();
    ledger.take(&later(1, 0, 50_000, 100_000), &ladder());
    ledger.take(&later(1, 0, 50_000, 100_000), &ladder());
    ledger.take(&later(2, 2_000_000, 50_000, 100_000), &ladder());
    ledger.take(&later(5, 9_000_000, 50_000, 100_000), &ladder());
    ledger.take(&later(2, 2_000_000, 50_000, 100_000), &ladder());
    let life = ledger.life();
    assert_eq!((life.chunks, life.lost, life.bytes), (3, 2, 150_000));
    // Between the first two; what was before the last is not known.
    assert_eq!(life.idle_us, 2_000_000 - 105_000);
    let numbers: Vec<_> = ledger.recent().map(|one| one.chunk.number).collect();
    assert_eq!(numbers, [1, 2, 5]);
    assert_eq!(ledger.take_for_session(), *ledger.life());
    assert!(ledger.take_for_session().is_empty());
}

#[test]
fn a_slow_chunk_is_in_the_window_in_which_it_began() {
    let mut ledger = Ledger::default();
    let so_far = Chunk {
        is_over: false,
        ..later(1, 0, 100_000, 1_000_000)
    };
    ledger.count_in_window(&so_far, &ladder());
    let first = ledger.take_window();
    assert_eq!((first.chunks, first.unfinished), (1, 1));
    assert_eq!(first.hd_ratio(), Some(0.0), "0.8 Mbit/s so far");
    ledger.count_in_window(&so_far, &ladder());
    assert!(ledger.take_window().is_empty());
    ledger.take(&later(1, 0, 1_000_000, 9_000_000), &ladder());
    assert!(ledger.take_window().is_empty());
    assert_eq!((ledger.life().chunks, ledger.life().unfinished), (1, 0));
}

#[test]
fn a_list_is_bounded_and_says_so() {
    let mut ledger = Ledger::default();
    for number in 1..=40 {
        ledger.take(
            &later(number, u64::from(number) * 1_000_000, 20_000, 50_000),
            &ladder(),
        );
    }
    assert_eq!(
        (ledger.recent().count(), ledger.unlisted()),
        (LISTED_MAX, 8)
    );
    ledger.forget_recent();
    assert_eq!((ledger.recent().count(), ledger.unlisted()), (0, 0));
}

/// Figures of chunks that one connection got one after the other, 4 s apart.
fn figures(chunks: &[(u64, u64)]) -> Figures {
    let mut ledger = Ledger::default();
    for (number, &(bytes, transfer_us)) in (1..).zip(chunks) {
        let start_us = u64::from(number) * 4_000_000;
        ledger.take(&later(number, start_us, bytes, transfer_us), &ladder());
    }
    ledger.life().clone()
}

#[test]
fn hd_ratio_is_of_the_chunks_that_can_test_it() {
    // 4 kB fit in one segment's worth of time at any rate; 500 kB in 1 s are 4 Mbit/s, in 4 s 1.
    let all = figures(&[(4_000, 25_000), (500_000, 1_000_000), (500_000, 4_000_000)]);
    let [hd, ten_times] = all.rungs[..] else {
        panic!("two rates");
    };
    assert_eq!((hd.able, hd.reached), (2, 1));
    assert_eq!((ten_times.able, ten_times.reached), (2, 0));
    assert_eq!(all.able_share(), Some(2.0 / 3.0));
    assert_eq!(all.hd_ratio(), Some(0.5));
    assert_eq!(all.small, 1);
}

#[test]
fn who_takes_the_most_time_sets_the_pace() {
    assert_eq!(
        figures(&[(500_000, 100_000); 5]).paced_by(),
        Some(Pace::Player)
    );
    assert_eq!(
        figures(&[(500_000, 3_900_000); 5]).paced_by(),
        Some(Pace::Network)
    );
    let mut stalled = later(1, 0, 500_000, 3_000_000);
    (stalled.stalls, stalled.stalled_us) = (1, 2_900_000);
    let mut ledger = Ledger::default();
    ledger.take(&stalled, &ladder());
    assert_eq!(ledger.life().paced_by(), Some(Pace::Server));
    assert_eq!(
        ledger.life().able_share(),
        Some(0.0),
        "it tests nobody else"
    );
    assert_eq!(Figures::default().paced_by(), None);
}

#[test]
fn a_request_that_waits_for_another_response_has_no_time_to_its_first_byte() {
    let mut ledger = Ledger::default();
    ledger.take(&later(1, 0, 500_000, 3_000_000), &ladder());
    let mut next = later(2, 3_000_000, 500_000, 3_000_000);
    next.request_us = Some(READ.unix_us + 100_000);
    ledger.take(&next, &ladder());
    assert_eq!(
        ledger.recent().last().map(|one| one.chunk.first_byte_us()),
        Some(None)
    );
}

#[test]
fn figures_add_up() {
    let (one, other) = (
        figures(&[(500_000, 100_000); 5]),
        figures(&[(9_000, 4_000); 3]),
    );
    let mut sum = one.clone();
    sum.add(&other);
    assert_eq!((sum.chunks, sum.small, sum.bytes), (8, 3, 2_527_000));
    assert_eq!(sum.network_us, one.network_us + other.network_us);
    let mut back = other.clone();
    back.add(&one);
    assert_eq!(sum, back);
}
