//! HDratio from what was served: the share of the answers able to test a rate that reached it
//! (Schlinker et al., "Internet Performance from Facebook's Edge", IMC 2019, 3.2).
//!
//! Written from the paper, and apart from the daemon's own: it knows the bytes and times of whole
//! answers, and neither packets nor the congestion window, for which it takes what slow start would
//! have made of the initial one.

use std::collections::HashMap;

use crate::video::served::{Client, Served};

/// The least rate of HD.
pub const HD_BPS: f64 = 2.5e6;
/// Ten segments (RFC 6928) of an Ethernet's size with timestamps.
const INITIAL_WINDOW: f64 = 10.0 * 1448.0;

/// Answers able to test the rate, and those that reached it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ratio {
    /// Could have shown it.
    pub able: u64,
    /// Did.
    pub reached: u64,
}

impl Ratio {
    /// The one as a share of the other; `None`: there were none.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        (self.able > 0).then(|| self.reached as f64 / self.able as f64)
    }
}

/// HDratio of these answers, in the order in which they were served. `rtt_s` is a client's shortest
/// round trip, `took_s` how long an answer took from its first byte to the ACK of the last one.
#[must_use]
pub fn ratio(
    served: &[Served],
    rtt_s: impl Fn(Client) -> f64,
    took_s: impl Fn(&Served) -> f64,
) -> Ratio {
    let mut windows: HashMap<Client, f64> = HashMap::new();
    let mut ratio = Ratio::default();
    for answer in served {
        let rtt_s = rtt_s(answer.client);
        let window = windows.entry(answer.client).or_insert(INITIAL_WINDOW);
        let bytes = answer.bytes as f64;
        let (testable, grown) = testable_bps(bytes, *window, rtt_s);
        if testable >= HD_BPS {
            ratio.able += 1;
            ratio.reached += u64::from(took_s(answer) <= model_s(bytes, *window, rtt_s));
        }
        *window = grown;
    }
    ratio
}

/// The highest rate that so many bytes can test on a path without losses: that of the fullest of
/// the last two round trips of slow start; and the window at the end.
fn testable_bps(bytes: f64, window: f64, rtt_s: f64) -> (f64, f64) {
    let (mut before, mut round, mut last_full) = (0.0, window, 0.0);
    while before + round < bytes {
        before += round;
        last_full = round;
        round *= 2.0;
    }
    (f64::max(last_full, bytes - before) * 8.0 / rtt_s, round)
}

/// How long they take through a bottleneck of HD's rate: slow start until its window fills the
/// bottleneck, the rest at the rate, and a round trip for the last ACK.
fn model_s(bytes: f64, window: f64, rtt_s: f64) -> f64 {
    let (mut sent, mut round, mut slow_start_s) = (0.0, window, 0.0);
    while round < HD_BPS / 8.0 * rtt_s && sent + round < bytes {
        sent += round;
        round *= 2.0;
        slow_start_s += rtt_s;
    }
    slow_start_s + (bytes - sent) * 8.0 / HD_BPS + rtt_s
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::connection::Http;
    use std::net::Ipv4Addr;

    fn answer(bytes: u64, server_s: f64) -> Served {
        Served {
            client: (Ipv4Addr::LOCALHOST, 1),
            http: Http::One,
            begin: 0.0,
            end: server_s,
            player_s: server_s,
            bytes,
            logged_bytes: bytes,
            answers: 1,
            first: false,
            rtt_max_s: 0.1,
            rtt_min_s: 0.06,
        }
    }

    #[test]
    fn the_papers_example() {
        // 3.2, with ten packets of 1,500 bytes and 60 ms: 2 packets test 0.4 Mbit/s, 24 packets
        // 2.8 Mbit/s, because their second round trip carries 14.
        let (window, rtt_s) = (15_000.0, 0.06);
        assert!((testable_bps(3_000.0, window, rtt_s).0 - 0.4e6).abs() < 1.0);
        assert!((testable_bps(36_000.0, window, rtt_s).0 - 2.8e6).abs() < 1.0);
    }

    #[test]
    fn a_slow_answer_counts_against_and_a_small_one_not_at_all() {
        let all = [answer(500_000, 1.0), answer(500_000, 3.0), answer(600, 0.0)];
        let ratio = ratio(&all, |_| 0.02, |one| one.player_s);
        assert_eq!(
            ratio,
            Ratio {
                able: 2,
                reached: 1
            }
        );
        assert_eq!(ratio.share(), Some(0.5));
    }
}
