//! Which rates a chunk could have shown, and whether it did: the model of Schlinker et al.,
//! "Internet Performance from Facebook's Edge" (IMC 2019), section 3.2.
//!
//! A small response says nothing about a fast path: it is over before the congestion window has
//! grown. So a chunk *can test* a rate only if a path without losses and queues, on which the
//! window doubles every round trip, would have carried at least one of its round trips at that
//! rate; and it *reached* the rate if it took no longer than it would have through a bottleneck
//! of that rate. HDratio is the share of the chunks able to test the rate of HD that reached it.
//!
//! Two things differ from the paper. It takes the last packet out of every transfer, because the
//! ACK of it may be delayed; here such an ACK is recognised and its delay taken out. And where the
//! connection was idle for longer than a retransmission timeout, the window of the round trips
//! before is not assumed any more: Linux starts again from the initial window (RFC 5681, 4.1).

use super::Chunk;

/// The initial window, in segments and in bytes (RFC 6928), where the socket's is not known.
const INITIAL_WINDOW_SEGMENTS: u64 = 10;
const INITIAL_WINDOW_MAX: u64 = 14_600;

/// No retransmission timeout is shorter (Linux, `TCP_RTO_MIN`).
const TIMEOUT_MIN_US: u64 = 200_000;

/// More round trips in slow start than any chunk takes: 2^64 bytes.
const ROUNDS_MAX: u32 = 64;

/// The window of one connection on a path without losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Model {
    /// At the end of the chunk before, bytes.
    window: Option<f64>,
    /// When that was, µs.
    end_us: Option<u64>,
}

/// What one chunk could show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    bytes: f64,
    rtt_us: f64,
    window: f64,
    transfer_us: f64,
    /// The highest rate that it can test, bit/s.
    pub testable_bps: f64,
}

impl Model {
    /// What the next chunk of the connection could show. `None`: nothing, because its end or any
    /// RTT is not known, or because somebody else than the network set its pace.
    pub fn next(&mut self, chunk: &Chunk, rtt_min_us: Option<u32>) -> Option<Test> {
        let initial = (INITIAL_WINDOW_SEGMENTS * u64::from(chunk.mss))
            .min(INITIAL_WINDOW_MAX.max(2 * u64::from(chunk.mss)));
        let actual = chunk.cwnd.map_or(initial, u64::from).max(1) as f64;
        let rtt_us = rtt_min_us.filter(|&rtt_us| rtt_us > 0).map(f64::from);
        let timeout_us = TIMEOUT_MIN_US.max(2 * u64::from(rtt_min_us.unwrap_or(0)));
        let idle = self
            .end_us
            .is_none_or(|end_us| chunk.first_us.saturating_sub(end_us) > timeout_us);
        let window = match self.window {
            Some(window) if !idle => window.max(actual),
            _ => actual,
        };
        let bytes = chunk.acked_bytes as f64;
        let (rounds, before_last) = slow_start(window, bytes);
        self.window = Some(window * f64::from(rounds - 1).exp2());
        self.end_us = chunk.end_us;
        if chunk.stalls > 0 || chunk.pauses > 0 || chunk.acked_bytes == 0 {
            return None;
        }
        let (rtt_us, transfer_us) = (rtt_us?, chunk.transfer_us()? as f64);
        let last_full = if rounds > 1 {
            window * f64::from(rounds - 2).exp2()
        } else {
            0.0
        };
        Some(Test {
            bytes,
            rtt_us,
            window,
            transfer_us,
            testable_bps: last_full.max(bytes - before_last) * 8e6 / rtt_us,
        })
    }
}

/// Round trips that `bytes` take from a window of `window` that doubles each time, and how many
/// bytes went before the last of them.
fn slow_start(window: f64, bytes: f64) -> (u32, f64) {
    let (mut rounds, mut sent, mut next) = (1, 0.0, window);
    while sent + next < bytes && rounds < ROUNDS_MAX {
        sent += next;
        next *= 2.0;
        rounds += 1;
    }
    (rounds, sent)
}

impl Test {
    /// Whether the chunk can test a rate of `bps`.
    pub fn is_able(&self, bps: u64) -> bool {
        self.testable_bps >= bps as f64
    }

    /// Whether it took no longer than through a bottleneck of `bps`.
    pub fn reached(&self, bps: u64) -> bool {
        self.transfer_us <= self.model_us(bps)
    }

    /// What it takes through a bottleneck of `bps`, µs: round trips in slow start until the window
    /// fills the bottleneck, the rest at its rate, and a round trip for the last ACK.
    fn model_us(&self, bps: u64) -> f64 {
        let bytes_per_us = bps as f64 / 8e6;
        let (mut rounds, mut sent, mut window) = (0u32, 0.0, self.window);
        while window < bytes_per_us * self.rtt_us
            && sent + window < self.bytes
            && rounds < ROUNDS_MAX
        {
            sent += window;
            window *= 2.0;
            rounds += 1;
        }
        f64::from(rounds) * self.rtt_us + (self.bytes - sent) / bytes_per_us + self.rtt_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::chunk::tests::chunk;

    const HD: u64 = 2_500_000;
    const RTT_US: u32 = 60_000;

    /// A chunk of a connection whose window was `cwnd` segments of 1,500 bytes.
    fn sent(bytes: u64, cwnd: u32, transfer_us: u64) -> Chunk {
        Chunk {
            mss: 1_500,
            cwnd: Some(cwnd * 1_500),
            ..chunk(bytes, transfer_us)
        }
    }

    /// The paper's figure 4: windows of 10 segments, 60 ms; of 2, 24 and 14 packets the last two
    /// responses can test 2.8 Mbit/s, the first 0.4.
    #[test]
    fn the_papers_example() {
        let mut model = Model::default();
        let mut testable = |packets: u64| {
            let test = model.next(&sent(packets * 1_500, 10, 120_000), Some(RTT_US));
            (test.expect("there is an RTT").testable_bps / 1e5).round() / 10.0
        };
        assert_eq!([testable(2), testable(24), testable(14)], [0.4, 2.8, 2.8]);
    }

    #[test]
    fn what_fits_in_the_window_is_a_round_trip_and_its_own_length() {
        let test = Model::default().next(&sent(15_000, 10, 108_000), Some(RTT_US));
        let test = test.expect("there is an RTT");
        assert_eq!(test.testable_bps, 2_000_000.0);
        assert!(!test.is_able(HD));
        // 15,000 bytes at 2.5 Mbit/s take 48 ms.
        assert!(test.reached(HD));
        let slower = Model::default().next(&sent(15_000, 10, 108_001), Some(RTT_US));
        assert!(!slower.expect("there is an RTT").reached(HD));
    }

    #[test]
    fn a_window_below_the_bottlenecks_grows_first() {
        // 15,000 bytes in the first round trip of 60 ms, 18,750 a round trip at 2.5 Mbit/s.
        let test = Model::default().next(&sent(45_000, 10, 0), Some(RTT_US));
        assert_eq!(test, None, "it did not take any time");
        let at = |transfer_us| {
            let test = Model::default().next(&sent(45_000, 10, transfer_us), Some(RTT_US));
            test.expect("there is an RTT").reached(HD)
        };
        let model_us = 60_000 + 30_000 * 8 * 10 / 25 + 60_000;
        assert!(at(model_us) && !at(model_us + 1));
    }

    #[test]
    fn a_window_that_losses_made_small_is_no_excuse_until_the_connection_was_idle() {
        let first = sent(150_000, 10, 300_000);
        let after = |idle_us| {
            let mut model = Model::default();
            model.next(&first, Some(RTT_US));
            let begins_us = first.end_us.expect("it is over") + idle_us;
            let next = Chunk {
                first_us: begins_us,
                end_us: Some(begins_us + 100_000),
                ..sent(30_000, 2, 1)
            };
            model.next(&next, Some(RTT_US)).expect("an RTT").window
        };
        assert_eq!(after(10_000), 120_000.0);
        assert_eq!(after(1_000_000), 3_000.0);
    }

    #[test]
    fn who_was_held_back_by_others_tests_nothing() {
        let mut stalled = sent(1_000_000, 10, 5_000_000);
        stalled.stalls = 1;
        assert_eq!(Model::default().next(&stalled, Some(RTT_US)), None);
        let fine = sent(1_000_000, 10, 5_000_000);
        assert_eq!(Model::default().next(&fine, None), None, "no RTT");
    }
}
