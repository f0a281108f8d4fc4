//! What one home's video looks like to the monitor in one window.

use lastmile::flow::{Observation, Totals};
use monitor_ebpf::flow::{RTT_BINS, rtt_bin};

use super::fault::Effects;
use super::random::Random;
use super::world::Home;

pub const WINDOW_S: u32 = 60;
const MSS: f64 = 1_448.0;
/// Seconds of video in a chunk.
const CHUNK_S: f64 = 4.0;
/// Rates that the video is offered in, bit/s.
const LADDER_BPS: [f64; 5] = [0.4e6, 0.8e6, 1.5e6, 3.0e6, 6.0e6];
/// The player takes a rendition of at most this part of the rate that it sees.
const SAFETY: f64 = 0.7;
/// A window keeps no more RTT samples than this; more would only cost time.
const RTT_SAMPLES: u64 = 40;
/// Losses on a path that nothing ails.
const USUAL_LOSS: f64 = 0.0005;
/// Chunks of a download that never pauses.
const BULK_CHUNKS: f64 = 3.0;

/// How the video is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sending {
    /// Chunks of an adaptive player, cubic.
    Cubic,
    /// The same, BBR.
    Bbr,
    /// The sender paces at a little more than the video's rate.
    Paced,
    /// Downloads.
    Bulk,
    /// One half of the homes cubic, the other BBR.
    Mixed,
}

impl Sending {
    /// How a home's video is sent.
    pub fn to_home(self, number: usize) -> Self {
        match self {
            Self::Mixed if number.is_multiple_of(2) => Self::Cubic,
            Self::Mixed => Self::Bbr,
            same => same,
        }
    }
}

/// One window of `home` under `effects`.
pub fn observe(
    home: &Home,
    effects: &Effects,
    sending: Sending,
    random: &mut Random,
) -> Observation {
    let jitter_us = 1_500.0;
    let standing_us = (effects.queue_us.0 + effects.queue_us.1) / 2.0
        + (effects.back_us.0 + effects.back_us.1) / 2.0;
    let rtt_us = home.base_rtt_us + standing_us + jitter_us / 2.0;
    let loss = USUAL_LOSS + effects.loss;
    let signals = loss + effects.marks;
    let mut rate_bps = home.access_bps * random.between(0.8, 1.0);
    if effects.rate_bps > 0.0 {
        rate_bps = rate_bps.min(effects.rate_bps * random.between(0.8, 1.2));
    }
    if sending != Sending::Bbr {
        // Mathis et al. (1997), and what cubic gains over Reno on short paths.
        rate_bps = rate_bps.min(1.3 * MSS * 8e6 / rtt_us * 1.22 / signals.sqrt());
    }
    if effects.paced > 0.0 {
        rate_bps *= effects.paced;
    }
    let rendition = LADDER_BPS
        .into_iter()
        .rfind(|&of| of <= rate_bps * SAFETY)
        .unwrap_or(LADDER_BPS[0]);
    if sending == Sending::Paced {
        rate_bps = rate_bps.min(rendition * 1.25);
    }
    let window_s = f64::from(WINDOW_S);
    let (chunks, chunk_bytes) = if sending == Sending::Bulk {
        let bytes = rate_bps * window_s * 0.9 / 8.0;
        (BULK_CHUNKS, bytes / BULK_CHUNKS)
    } else {
        let bytes = rendition * CHUNK_S / 8.0;
        // A chunk begins in slow start: as many RTTs as it takes to reach its size.
        let seconds = bytes * 8.0 / rate_bps + 3.0 * rtt_us / 1e6;
        ((window_s / seconds.max(CHUNK_S)).max(1.0).floor(), bytes)
    };
    let seconds_each = chunk_bytes * 8.0 / rate_bps + 3.0 * rtt_us / 1e6;
    let bytes = chunks * chunk_bytes * random.between(0.9, 1.1);
    let segments = (bytes / MSS) as u64;
    let lost = random.count(segments, loss);
    let mut to_client = Totals {
        bytes: bytes as u64 + lost * MSS as u64,
        frames: segments / 8,
        segments: segments + lost,
        retransmitted_segments: lost,
        retransmitted_bytes: lost * MSS as u64,
        lost_downstream_segments: lost,
        ce_marked_segments: random.count(segments, effects.marks),
        rwnd_limited_segments: (segments as f64 * effects.window_full) as u64,
        acked_bytes: bytes as u64,
        busy_us: (chunks * seconds_each * 1e6).min(window_s * 1e6) as u64,
        bursts: chunks as u64,
        ..Totals::default()
    };
    let own_us = match sending {
        Sending::Paced => 500.0,
        _ => 8_000.0,
    };
    let mut bins = [0_u16; RTT_BINS];
    for sample in 0..RTT_SAMPLES {
        let queue = random.between(effects.queue_us.0, effects.queue_us.1)
            + random.between(effects.back_us.0, effects.back_us.1);
        // A chunk fills the home's own queue as it goes on.
        let own = own_us * (sample % 8) as f64 / 8.0;
        let rtt = (home.base_rtt_us + queue + own + jitter_us * random.unit()) as u32;
        bins[rtt_bin(rtt)] += 1;
        to_client.rtt_sum_us += u64::from(rtt);
        to_client.rtt_min_us = Some(to_client.rtt_min_us.map_or(rtt, |min| min.min(rtt)));
        to_client.rtt_max_us = Some(to_client.rtt_max_us.map_or(rtt, |max| max.max(rtt)));
    }
    to_client.rtt.add_difference(&[0; RTT_BINS], &bins);
    to_client.rtt_samples = RTT_SAMPLES;
    Observation {
        stands_for: 1,
        client: home.address.into(),
        location: Some(home.location.clone()),
        arm: None,
        rerouted: false,
        to_client,
        to_server: Totals::default(),
        handshake_rtt_us: None,
        chunks: Default::default(),
    }
}
