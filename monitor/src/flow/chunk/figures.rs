//! What any number of chunks say together. All of it adds up.

use super::bins::Bins;
use super::model::Test;
use super::{Chunk, Ladder};

/// A chunk below this is a handshake, a playlist, an answer of an API: it is counted, and says
/// nothing about rates. Two seconds of the lowest rendition of a ladder (Apple's authoring
/// specification: 145 kbit/s) are 36 kB.
pub const SMALL_BYTES: u64 = 16 << 10;

/// Who set the pace.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// It did not ask for more, or its window was closed.
    Player,
    /// It had nothing to send.
    Server,
    /// Data was under way.
    Network,
}

/// Chunks able to test one rate of the ladder, and those that reached it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rung {
    pub able: u64,
    pub reached: u64,
}

/// A chunk and what it shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    pub chunk: Chunk,
    pub test: Option<Test>,
}

impl Judged {
    /// Whether it can test `bps`.
    pub fn is_able(&self, bps: u64) -> bool {
        self.test.is_some_and(|test| test.is_able(bps))
    }

    /// Whether it can and did reach `bps`.
    pub fn reached(&self, bps: u64) -> bool {
        self.test
            .is_some_and(|test| test.is_able(bps) && test.reached(bps))
    }
}

/// Sums over chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Each in the span in which it was asked for.
    pub chunks: u64,
    /// Of these, chunks below [`SMALL_BYTES`].
    pub small: u64,
    /// Of these, chunks that were not over at the end of the span: judged by what they had done.
    pub unfinished: u64,
    /// Chunks whose reports were lost; in no other figure.
    pub lost: u64,
    pub bytes: u64,
    /// One for each rate of the ladder.
    pub rungs: Vec<Rung>,
    /// Delivered rates, bit/s, and times to the first byte, µs, of chunks that are not small.
    pub rates: Bins,
    pub first_bytes: Bins,
    /// Time in which the player wanted nothing, in which the server had nothing, and in which
    /// data was under way, µs.
    pub player_us: u64,
    pub server_us: u64,
    pub network_us: u64,
    pub stalls: u64,
    pub stalled_us: u64,
    pub paused_us: u64,
    pub idle_us: u64,
    pub retransmitted_segments: u64,
    pub lost_segments: u64,
}

impl Figures {
    /// Counts one chunk.
    pub fn count(&mut self, judged: &Judged, ladder: &Ladder) {
        let chunk = &judged.chunk;
        self.chunks += 1;
        self.bytes += chunk.bytes;
        self.unfinished += u64::from(!chunk.is_over);
        self.rungs.resize(ladder.len(), Rung::default());
        for (rung, &bps) in self.rungs.iter_mut().zip(ladder.iter()) {
            rung.able += u64::from(judged.is_able(bps));
            rung.reached += u64::from(judged.reached(bps));
        }
        if chunk.bytes < SMALL_BYTES {
            self.small += u64::from(chunk.is_over);
        } else {
            if let Some(bps) = chunk.rate_bps() {
                self.rates.push(bps);
            }
            if let Some(first_byte_us) = chunk.first_byte_us() {
                self.first_bytes.push(first_byte_us);
            }
        }
        let idle_us = chunk.idle_us.unwrap_or(0);
        let gaps_us = chunk.stalled_us + chunk.paused_us;
        // A round trip of it may be the network's, where we are not the server ourselves.
        let round_trip_us = u64::from(chunk.rtt_min_us.unwrap_or(0));
        let waited_us = chunk
            .first_byte_us()
            .unwrap_or(0)
            .saturating_sub(round_trip_us);
        let transfer_us = chunk.transfer_us().unwrap_or(0);
        self.idle_us += idle_us;
        self.stalls += u64::from(chunk.stalls);
        self.stalled_us += chunk.stalled_us;
        self.paused_us += chunk.paused_us;
        self.player_us += idle_us + chunk.paused_us;
        self.server_us += waited_us + chunk.stalled_us;
        self.network_us += transfer_us.saturating_sub(gaps_us);
        self.retransmitted_segments += u64::from(chunk.retransmitted_segments);
        self.lost_segments += u64::from(chunk.lost_segments);
    }

    /// Adds another span's, flow's or host's.
    pub fn add(&mut self, other: &Self) {
        self.chunks += other.chunks;
        self.small += other.small;
        self.unfinished += other.unfinished;
        self.lost += other.lost;
        self.bytes += other.bytes;
        let len = self.rungs.len().max(other.rungs.len());
        self.rungs.resize(len, Rung::default());
        for (rung, theirs) in self.rungs.iter_mut().zip(&other.rungs) {
            rung.able += theirs.able;
            rung.reached += theirs.reached;
        }
        self.rates.add(&other.rates);
        self.first_bytes.add(&other.first_bytes);
        self.player_us += other.player_us;
        self.server_us += other.server_us;
        self.network_us += other.network_us;
        self.stalls += other.stalls;
        self.stalled_us += other.stalled_us;
        self.paused_us += other.paused_us;
        self.idle_us += other.idle_us;
        self.retransmitted_segments += other.retransmitted_segments;
        self.lost_segments += other.lost_segments;
    }

    /// Whether there was no chunk.
    pub fn is_empty(&self) -> bool {
        self.chunks == 0 && self.lost == 0
    }

    /// Share of the chunks able to test the first rate of the ladder. Players that downshift make
    /// it smaller, and so hide what is wrong.
    pub fn able_share(&self) -> Option<f64> {
        let able = self.rungs.first()?.able;
        (self.chunks > 0).then(|| able as f64 / self.chunks as f64)
    }

    /// HDratio: the share of those that reached it.
    pub fn hd_ratio(&self) -> Option<f64> {
        let rung = self.rungs.first()?;
        (rung.able > 0).then(|| rung.reached as f64 / rung.able as f64)
    }

    /// Share of the time in which the player wanted nothing.
    pub fn off_time_share(&self) -> Option<f64> {
        let all_us = self.player_us + self.server_us + self.network_us;
        (all_us > 0).then(|| self.player_us as f64 / all_us as f64)
    }

    /// Who set the pace for most of the time.
    pub fn paced_by(&self) -> Option<Pace> {
        [
            (self.player_us, Pace::Player),
            (self.network_us, Pace::Network),
            (self.server_us, Pace::Server),
        ]
        .into_iter()
        // The first of equals; the server, which is blamed by it, last.
        .reduce(|most, other| if other.0 > most.0 { other } else { most })
        .filter(|&(time_us, _)| time_us > 0)
        .map(|(_, pace)| pace)
    }
}
