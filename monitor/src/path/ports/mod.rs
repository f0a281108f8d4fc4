//! The counters of our own ports: what each interconnect's port sent, dropped and could carry in
//! one window.
//!
//! The queue in the video's direction is our egress port, so this is the best evidence there is,
//! if it is the right port's and from the right time. So a [`PortWindow`] says how much of the
//! window its readings cover, and nothing is made up for the rest: a counter that was reset, a
//! scrape that is missing or readings too far apart leave a hole.
//!
//! Only `out` counters say anything about the way to the clients; `in` counters are kept for
//! whoever reads the log.

pub mod csv;
pub mod prometheus;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Readings kept of one port: an hour of one every 15 s.
const MAX_READINGS: usize = 240;
/// Readings further apart than this say nothing about a window of a minute: what happened in it
/// is lost in their mean.
const MAX_APART_US: u64 = 120_000_000;
/// The same for long windows, as a multiple of the window.
const MAX_APART_WINDOWS: u64 = 1;
/// Part of the window that readings must cover, so that they are about it. Four scrapes a window
/// cover three quarters, even when the last one has just been missed.
pub const MIN_COVERED: f64 = 0.7;
/// A packet with its framing (RFC 2544 has 64 bytes as the shortest frame): no port drops more of
/// them than it could send.
const SHORTEST_FRAME_BITS: f64 = 8.0 * 64.0;
/// Where packets are not counted: bytes of a packet on a link to access networks, on the small
/// side, so that the share of drops is rather too small.
const MEAN_PACKET_BYTES: f64 = 500.0;
/// A counter that is read a little early or late makes a port seem to send more than it can.
const RATE_TOLERANCE: f64 = 1.2;

/// A port's cumulative counters at one moment; `None`: not told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortReading {
    /// When the device was asked, µs since 1970, on our clock.
    pub time_us: u64,
    pub out_octets: Option<u64>,
    pub out_packets: Option<u64>,
    pub out_drops: Option<u64>,
    pub out_errors: Option<u64>,
    pub in_octets: Option<u64>,
    pub in_drops: Option<u64>,
    pub in_errors: Option<u64>,
    pub speed_bps: Option<u64>,
}

/// Why a reading was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The same moment again: a poller asks more often than is scraped.
    Repeated,
    /// Older than the last one.
    Older,
}

/// The latest readings of one port.
#[derive(Clone, Debug, Default)]
pub struct PortHistory {
    readings: VecDeque<PortReading>,
}

/// What a port did in one window, as far as readings cover it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortWindow {
    /// Part of the window between two usable readings.
    pub covered: f64,
    /// Pairs of readings behind the figures.
    pub samples: u64,
    /// Bits sent, as a share of what the port or the contract allows.
    pub utilisation: Option<f64>,
    /// Packets dropped before they were sent, as a share of those offered.
    pub drop_share: Option<f64>,
    /// Packets that could not be sent for errors, as a share of those offered.
    pub error_share: Option<f64>,
    /// Drops as counted.
    pub drops: Option<u64>,
    /// Bits that the port or the contract allows in a second.
    pub speed_bps: Option<u64>,
    /// µs from the last reading to the end of the window.
    pub age_us: Option<u64>,
    /// Counters that were set back in the window.
    pub resets: u64,
}

impl PortWindow {
    /// Whether the figures are not about this window.
    pub fn is_stale(&self) -> bool {
        self.covered < MIN_COVERED
    }
}

impl PortWindow {
    /// Several ports of one interconnect as one: as full as the fullest of them, and known as far
    /// as each of them is.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        let both = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a.max(b));
        Self {
            covered: self.covered.min(other.covered),
            samples: self.samples.min(other.samples),
            utilisation: both(self.utilisation, other.utilisation),
            drop_share: both(self.drop_share, other.drop_share),
            error_share: both(self.error_share, other.error_share),
            drops: self
                .drops
                .zip(other.drops)
                .map(|(a, b)| a.saturating_add(b)),
            speed_bps: self
                .speed_bps
                .zip(other.speed_bps)
                .map(|(a, b)| a.saturating_add(b)),
            age_us: self.age_us.zip(other.age_us).map(|(a, b)| a.max(b)),
            resets: self.resets + other.resets,
        }
    }
}

/// What is known about the ports of the interconnects in one window, by interconnect. One that is
/// not there has no port configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InterconnectPorts(pub BTreeMap<Arc<str>, PortWindow>);

impl InterconnectPorts {
    /// The figures of a port, if they are about this window.
    pub fn fresh(&self, interconnect: &str) -> Option<&PortWindow> {
        self.0.get(interconnect).filter(|port| !port.is_stale())
    }
}

/// What two readings, one after the other, have between them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Growth {
    out_octets: Option<u64>,
    out_packets: Option<u64>,
    out_drops: Option<u64>,
    out_errors: Option<u64>,
}

impl PortHistory {
    /// Takes a reading that is newer than all others.
    pub fn push(&mut self, reading: PortReading) -> Result<(), NotTaken> {
        if let Some(last) = self.readings.back() {
            if reading.time_us == last.time_us {
                return Err(NotTaken::Repeated);
            }
            if reading.time_us < last.time_us {
                return Err(NotTaken::Older);
            }
        }
        if self.readings.len() == MAX_READINGS {
            self.readings.pop_front();
        }
        self.readings.push_back(reading);
        Ok(())
    }

    /// When the last reading was made.
    pub fn last_us(&self) -> Option<u64> {
        self.readings.back().map(|reading| reading.time_us)
    }

    /// What the port did from `start_us` to `end_us`. `capacity_bps` is what the contract allows
    /// where that is less than the port's speed.
    pub fn window(&self, start_us: u64, end_us: u64, capacity_bps: Option<u64>) -> PortWindow {
        let length_us = end_us.saturating_sub(start_us).max(1);
        let mut window = PortWindow {
            age_us: self
                .readings
                .iter()
                .rev()
                .map(|reading| reading.time_us)
                .find(|&time_us| time_us <= end_us)
                .map(|time_us| end_us - time_us),
            ..PortWindow::default()
        };
        let mut sums = Sums::default();
        for (before, after) in self.readings.iter().zip(self.readings.iter().skip(1)) {
            let from = before.time_us.max(start_us);
            let to = after.time_us.min(end_us);
            let apart_us = after.time_us - before.time_us;
            let limit_us = MAX_APART_US.max(length_us * MAX_APART_WINDOWS);
            if from >= to || apart_us > limit_us {
                continue;
            }
            let Some(growth) = growth(before, after) else {
                window.resets += 1;
                continue;
            };
            let part = (to - from) as f64 / apart_us as f64;
            sums.add(&growth, part, (to - from) as f64);
            window.samples += 1;
            window.speed_bps = after.speed_bps.or(before.speed_bps).or(window.speed_bps);
        }
        window.covered = sums.covered_us / length_us as f64;
        window.speed_bps = [window.speed_bps, capacity_bps].into_iter().flatten().min();
        if let (Some(octets), Some(speed)) = (sums.octets.total(), window.speed_bps) {
            let seconds = sums.octets.covered_us / 1e6;
            window.utilisation =
                (seconds > 0.0 && speed > 0).then(|| octets * 8.0 / (seconds * speed as f64));
        }
        let offered = sums
            .packets
            .total()
            .or(sums.octets.total().map(|octets| octets / MEAN_PACKET_BYTES));
        let share = |of: &Sum| {
            let (lost, sent) = (of.total()?, offered?);
            (lost + sent > 0.0).then(|| lost / (lost + sent))
        };
        window.drop_share = share(&sums.drops);
        window.error_share = share(&sums.errors);
        window.drops = sums.drops.total().map(|drops| drops.round() as u64);
        window
    }
}

/// A counter's part in the window.
#[derive(Default)]
struct Sum {
    sum: f64,
    covered_us: f64,
    missing: bool,
}

impl Sum {
    fn add(&mut self, growth: Option<u64>, part: f64, covered_us: f64) {
        match growth {
            Some(growth) => {
                self.sum += growth as f64 * part;
                self.covered_us += covered_us;
            }
            None => self.missing = true,
        }
    }

    /// A counter that was told in a part of the readings only would be compared with others that
    /// were told in all of them.
    fn total(&self) -> Option<f64> {
        (self.covered_us > 0.0 && !self.missing).then_some(self.sum)
    }
}

#[derive(Default)]
struct Sums {
    octets: Sum,
    packets: Sum,
    drops: Sum,
    errors: Sum,
    covered_us: f64,
}

impl Sums {
    fn add(&mut self, growth: &Growth, part: f64, covered_us: f64) {
        self.octets.add(growth.out_octets, part, covered_us);
        self.packets.add(growth.out_packets, part, covered_us);
        self.drops.add(growth.out_drops, part, covered_us);
        self.errors.add(growth.out_errors, part, covered_us);
        self.covered_us += covered_us;
    }
}

/// By how much the counters grew; `None` where they were set back in between (the device was
/// restarted, the counters were cleared), so that nothing is known about that time.
///
/// A 32-bit counter that came around looks like one that was set back. It is taken as that only
/// where it stood in its upper half, now stands in its lower half, the growth is possible on a
/// port of that speed and no wider counter was set back with it (RFC 2863, section 3.1.6).
fn growth(before: &PortReading, after: &PortReading) -> Option<Growth> {
    let seconds = (after.time_us - before.time_us) as f64 / 1e6;
    let speed_bps = after
        .speed_bps
        .or(before.speed_bps)
        .map(|speed| speed as f64);
    let octets_possible = speed_bps.map(|speed| speed * seconds / 8.0 * RATE_TOLERANCE);
    let packets_possible =
        speed_bps.map(|speed| speed * seconds / SHORTEST_FRAME_BITS * RATE_TOLERANCE);
    let difference = |old: Option<u64>, new: Option<u64>, possible: Option<f64>| match (old, new) {
        (Some(old), Some(new)) => counter(old, new, possible).map(Some),
        _ => Some(None),
    };
    // `in` counters are the same device's: set back together.
    difference(before.in_octets, after.in_octets, octets_possible)?;
    let growth = Growth {
        out_octets: difference(before.out_octets, after.out_octets, octets_possible)?,
        out_packets: difference(before.out_packets, after.out_packets, packets_possible)?,
        out_drops: difference(before.out_drops, after.out_drops, packets_possible)?,
        out_errors: difference(before.out_errors, after.out_errors, packets_possible)?,
    };
    // More than the port can send: cleared and grown beyond, another port's, or a wrong speed.
    let impossible = |growth: Option<u64>, possible: Option<f64>| matches!((growth, possible), (Some(growth), Some(possible)) if growth as f64 > possible);
    let nonsense = impossible(growth.out_octets, octets_possible)
        || impossible(growth.out_packets, packets_possible)
        || impossible(growth.out_drops, packets_possible);
    (!nonsense).then_some(growth)
}

/// The growth of one counter; `None`: it was set back.
fn counter(old: u64, new: u64, possible: Option<f64>) -> Option<u64> {
    const WRAP: u64 = 1 << 32;
    const HALF: u64 = WRAP / 2;
    if new >= old {
        return Some(new - old);
    }
    let growth = (old < WRAP).then(|| new + WRAP - old)?;
    let is_wrap = old >= HALF && new < HALF && possible.is_some_and(|most| growth as f64 <= most);
    is_wrap.then_some(growth)
}
