//! Proof that the truth was true: during a fault the queue it fills is full, and no other one is.
//!
//! A verdict can only be held against a truth that really happened. Emulated machines are slow
//! and schedulers unkind, so the lab reads the kernel's counters of every queue and refuses to
//! judge a run in which another link was congested, or the right one was not.

use std::fmt::Write as _;
use std::ops::Range;

use crate::plan::{Home, Plan};
use crate::player::ChunkReport;
use crate::queues::Sample;
use crate::scenario::{Fault, Place, Scenario, Traffic};

/// A queue that typically holds its packets for so long is standing, one below is only taking
/// bursts: the target of CoDel (RFC 8289, section 4.4).
const STANDING_MS: f64 = 5.0;
/// A queue that drops more than this share of its packets is congested, however short it is. A
/// home's line carries some 700 packets in a lead-in: a single drop is no congestion.
const QUIET_DROPS: f64 = 0.005;
/// Traffic needs so long after its start to fill a queue, in seconds.
const FILL_S: f64 = 2.0;
/// As many windows in a row as the daemon needs to believe anything of a client.
const SLOW_WINDOWS: u32 = 2;
/// Wire bytes of a full packet, to make packets of bytes.
const PACKET: f64 = 1514.0;

/// How a queue did during some time.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// What it stands for.
    pub place: Place,
    /// Which one.
    pub name: String,
    /// Median over time of what a packet waits, in milliseconds: bursts come and go, a standing
    /// queue does not.
    pub waiting_ms: f64,
    /// Mean rate that left it, in Mbit/s.
    pub mbit: f64,
    /// Packets it dropped.
    pub drops: u64,
    /// The same as a share of those that came.
    pub dropped: f64,
}

impl Load {
    /// What it stands for, in words.
    #[must_use]
    pub fn label(&self) -> String {
        link_in_words(self.place, &self.name)
    }
}

/// One stretch of time, which queue should be full in it, and how all queues did.
#[derive(Debug, Clone)]
pub struct Phase {
    /// Seconds after the start.
    pub from_s: f64,
    /// Seconds after the start.
    pub to_s: f64,
    /// The queues that should be full; none before and without a fault.
    pub full: Vec<(Place, String)>,
    /// Queues that other faults fill for a part of this time.
    pub partly_full: Vec<(Place, String)>,
    /// All queues, the longest wait first.
    pub loads: Vec<Load>,
}

impl Phase {
    /// Whether this should be full.
    #[must_use]
    pub fn is_full(&self, load: &Load) -> bool {
        let mut full = self.full.iter();
        full.any(|(place, name)| (*place, name) == (load.place, &load.name))
    }

    /// What contradicts the truth, in words; empty when the truth held.
    #[must_use]
    pub fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        for load in &self.loads {
            if self.partly_full.contains(&(load.place, load.name.clone())) {
                continue;
            }
            let should_be_full = self.is_full(load);
            let facts = format!(
                "{}: wait {:.1} ms, {} dropped ({:.2} %) from {:.0} s to {:.0} s",
                load.label(),
                load.waiting_ms,
                load.drops,
                load.dropped * 100.0,
                self.from_s,
                self.to_s
            );
            let full = load.waiting_ms >= STANDING_MS || load.dropped > QUIET_DROPS;
            if full != should_be_full {
                let should = if should_be_full { "full" } else { "quiet" };
                found.push(format!("{facts}: should be {should}"));
            }
        }
        found
    }
}

/// Splits the run into the time before the first fault and each fault's time.
#[must_use]
pub fn phases(scenario: &Scenario, plan: &Plan, samples: &[Sample]) -> Vec<Phase> {
    let end_s = *scenario.duration_s.get_ref();
    let first_s = scenario.faults.iter().map(|fault| fault.from_s);
    let mut phases = vec![phase(samples, 0.0, first_s.fold(end_s, f64::min))];
    for (index, fault) in scenario.faults.iter().enumerate() {
        let to_s = *fault.to_s.get_ref();
        let mut phase = phase(samples, fault.from_s + FILL_S, to_s);
        let full = filled_by(plan, fault);
        // What is under way on a longer way counts as waiting: [`short_detours`] has the proof.
        let is_longer = matches!(fault.traffic, Traffic::Detour { .. });
        let (full, on_their_way) = if is_longer {
            (Vec::new(), full)
        } else {
            (full, Vec::new())
        };
        phase.full = full;
        let others = scenario.faults.iter().enumerate();
        phase.partly_full = others
            .filter(|(other, _)| *other != index)
            .filter(|(_, other)| other.from_s < to_s && *other.to_s.get_ref() > fault.from_s)
            .flat_map(|(_, other)| filled_by(plan, other))
            .chain(on_their_way)
            .filter(|other| !phase.full.contains(other))
            .collect();
        phases.push(phase);
    }
    phases
}

/// The queues a fault fills.
fn filled_by(plan: &Plan, fault: &Fault) -> Vec<(Place, String)> {
    let ports = plan.filled(*fault.fills.get_ref(), fault.name());
    ports.map(|port| (port.place, port.name.clone())).collect()
}

/// A link, in words.
#[must_use]
pub fn link_in_words(place: Place, name: &str) -> String {
    let kind = match place {
        Place::Host => return "our own uplink".to_owned(),
        Place::OwnNetwork => return "our own backbone".to_owned(),
        Place::Interconnect => "port to",
        Place::Handover => "link of",
        Place::Isp => "core of",
        Place::AccessNode => "node of",
        Place::IspBack => "way back from",
        Place::Home => "line of",
    };
    format!("{kind} {name}")
}

fn phase(samples: &[Sample], from_s: f64, to_s: f64) -> Phase {
    let mut by_queue: Vec<Vec<&Sample>> = Vec::new();
    for sample in samples {
        if sample.at_s < from_s || sample.at_s > to_s {
            continue;
        }
        let same = |queue: &&mut Vec<&Sample>| {
            (queue[0].place, &queue[0].name) == (sample.place, &sample.name)
        };
        match by_queue.iter_mut().find(same) {
            Some(queue) => queue.push(sample),
            None => by_queue.push(vec![sample]),
        }
    }
    let mut loads: Vec<Load> = by_queue.iter().map(|queue| load(queue)).collect();
    loads.sort_by(|a, b| b.waiting_ms.total_cmp(&a.waiting_ms));
    Phase {
        from_s,
        to_s,
        full: Vec::new(),
        partly_full: Vec::new(),
        loads,
    }
}

/// How one queue did, from its samples in the order of time.
fn load(samples: &[&Sample]) -> Load {
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    // A repaired link's queue counts anew.
    let bytes = last.bytes.saturating_sub(first.bytes) as f64;
    let drops = last.drops.saturating_sub(first.drops);
    let mut waiting_ms: Vec<f64> = samples.iter().map(|sample| sample.waiting_ms).collect();
    waiting_ms.sort_by(f64::total_cmp);
    let seconds = (last.at_s - first.at_s).max(f64::EPSILON);
    let came = bytes / PACKET + drops as f64;
    Load {
        place: first.place,
        name: first.name.clone(),
        waiting_ms: waiting_ms[waiting_ms.len() / 2],
        mbit: bytes * 8.0 / 1e6 / seconds,
        drops,
        dropped: if came > 0.0 { drops as f64 / came } else { 0.0 },
    }
}

/// What the viewers say against the truth, in words: one who is behind no fault, and yet waits for
/// every first byte longer than before, by as much as a standing queue takes, for two
/// windows in a row. Whatever holds him up is nowhere in the truth: on an emulated machine it may be
/// the processor, which is in no queue's counters.
#[must_use]
pub fn slow_others(scenario: &Scenario, plan: &Plan, reports: &[ChunkReport]) -> Vec<String> {
    let (window_s, end_s) = (scenario.window_s(), *scenario.duration_s.get_ref());
    // Where nothing goes wrong, the second half is held against the first.
    let first_s = scenario.faults.iter().map(|fault| fault.from_s);
    let from_s = first_s.fold(end_s, f64::min);
    let from_s = if from_s < end_s { from_s } else { end_s / 2.0 };
    let others = plan.homes.iter().filter(|home| {
        let mut faults = scenario.faults.iter();
        !faults.any(|fault| is_behind(plan, home, fault))
    });
    let first_bytes_ms = |home: &Home, during: Range<f64>| {
        let mut all: Vec<f64> = reports
            .iter()
            .filter(|report| report.home == home.address && report.failed.is_none())
            .filter(|report| during.contains(&report.at_s))
            .map(|report| report.first_byte_ms)
            .collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let mut found = Vec::new();
    for home in others {
        let before = first_bytes_ms(home, scenario.video.start_within_s..from_s);
        let Some(usual_ms) = before.get(before.len() / 2) else {
            continue;
        };
        let (mut slow, mut begin_s) = (0, from_s);
        while begin_s + window_s <= end_s && slow < SLOW_WINDOWS {
            let window = first_bytes_ms(home, begin_s..begin_s + window_s);
            let is_slow = |shortest_ms: &f64| shortest_ms - usual_ms >= STANDING_MS;
            slow = if window.first().is_some_and(is_slow) {
                slow + 1
            } else {
                0
            };
            begin_s += window_s;
        }
        if slow == SLOW_WINDOWS {
            found.push(format!(
                "home {}: every first byte took {STANDING_MS} ms longer than the {usual_ms:.1} ms of before, \
                 for {SLOW_WINDOWS} windows until {begin_s:.0} s, though it is behind no fault",
                home.address
            ));
        }
    }
    found
}

/// What the viewers say against a detour, in words: that the first bytes of those behind it take no
/// longer than before.
#[must_use]
pub fn short_detours(scenario: &Scenario, plan: &Plan, reports: &[ChunkReport]) -> Vec<String> {
    /// What the homes' own bursts may hide.
    const SEEN_SHARE: f64 = 0.8;
    let mut found = Vec::new();
    for fault in &scenario.faults {
        let Traffic::Detour { longer_ms } = fault.traffic else {
            continue;
        };
        let median = |during: Range<f64>| {
            let behind = |report: &&ChunkReport| {
                let mut homes = plan.homes.iter();
                let home = homes.find(|home| home.address == report.home);
                home.is_some_and(|home| is_behind(plan, home, fault))
            };
            let mut all: Vec<f64> = reports
                .iter()
                .filter(|report| report.failed.is_none() && during.contains(&report.at_s))
                .filter(behind)
                .map(|report| report.first_byte_ms)
                .collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied()
        };
        let before = median(scenario.video.start_within_s..fault.from_s);
        let during = median(fault.from_s + FILL_S..*fault.to_s.get_ref());
        if let Some((before, during)) = before.zip(during)
            && during - before < SEEN_SHARE * longer_ms
        {
            found.push(format!(
                "{}: first bytes took {during:.1} ms instead of {before:.1} ms: should be {longer_ms} ms longer",
                link_in_words(*fault.fills.get_ref(), fault.name())
            ));
        }
    }
    found
}

/// What the players behind the full queue went through, and the others: one line a group.
#[must_use]
pub fn viewers(scenario: &Scenario, plan: &Plan, reports: &[ChunkReport]) -> Vec<String> {
    let mut lines = Vec::new();
    let first_fault_s = scenario.faults.iter().map(|fault| fault.from_s);
    let before = 0.0..first_fault_s.fold(*scenario.duration_s.get_ref(), f64::min);
    lines.extend(group("before any fault", before, reports, |_| true));
    for fault in &scenario.faults {
        let during = fault.from_s + FILL_S..*fault.to_s.get_ref();
        let hit = |report: &ChunkReport| {
            let home = plan.homes.iter().find(|home| home.address == report.home);
            home.is_some_and(|home| is_behind(plan, home, fault))
        };
        lines.extend(group("fault, behind it", during.clone(), reports, hit));
        lines.extend(group("fault, all others", during, reports, |report| {
            !hit(report)
        }));
    }
    lines
}

fn is_behind(plan: &Plan, home: &Home, fault: &Fault) -> bool {
    let name = fault.name();
    let is_of = plan.isps[home.isp] == name;
    match fault.fills.get_ref() {
        Place::Host | Place::OwnNetwork => true,
        Place::Interconnect => plan.interconnects[home.interconnect] == name,
        Place::Handover => is_of && plan.transits[home.interconnect].is_some(),
        Place::Isp | Place::IspBack => is_of,
        Place::AccessNode => is_of && home.on_node,
        Place::Home => home.address.to_string() == name,
    }
}

fn group(
    label: &str,
    when: Range<f64>,
    reports: &[ChunkReport],
    belongs: impl Fn(&ChunkReport) -> bool,
) -> Option<String> {
    let group: Vec<&ChunkReport> = reports
        .iter()
        .filter(|report| when.contains(&report.at_s) && belongs(report))
        .collect();
    let fetched: Vec<&&ChunkReport> = group.iter().filter(|r| r.failed.is_none()).collect();
    if group.is_empty() {
        return None;
    }
    let mean = |value: &dyn Fn(&ChunkReport) -> f64| {
        fetched.iter().map(|report| value(report)).sum::<f64>() / fetched.len().max(1) as f64
    };
    let mut line = format!(
        "{label}: {} chunks of {:.0} kbit/s, {:.0} ms each, first byte after {:.0} ms",
        fetched.len(),
        mean(&|report| f64::from(report.bitrate_kbit)),
        mean(&|report| report.fetch_ms),
        mean(&|report| report.first_byte_ms),
    );
    let stalled: f64 = fetched.iter().map(|report| report.stalled_s).sum();
    if stalled > 0.0 {
        let _ = write!(line, ", picture stood still for {stalled:.1} s");
    }
    if fetched.len() < group.len() {
        let _ = write!(line, ", {} failed", group.len() - fetched.len());
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(place: Place, name: &str, waiting_ms: f64, drops_each: u64) -> Vec<Sample> {
        let sample = |index: u64| Sample {
            at_s: index as f64,
            place,
            name: name.to_owned(),
            bytes: index * 151_400,
            drops: index * drops_each,
            waiting_ms,
        };
        (0..60).map(sample).collect()
    }

    fn contradictions(samples: &[Sample]) -> Vec<String> {
        let scenario = Scenario::load("interconnect").unwrap();
        let plan = Plan::new(&scenario).unwrap();
        // The lead-in of these samples is as full as the fault: only the fault's time counts.
        phases(&scenario, &plan, samples)[1].contradictions()
    }

    #[test]
    fn a_full_queue_at_the_right_place_alone_proves_the_truth() {
        let mut all = samples(Place::Interconnect, "ix-east", 60.0, 1);
        all.extend(samples(Place::Interconnect, "ix-west", 1.0, 0));
        assert_eq!(contradictions(&all), Vec::<String>::new());
    }

    #[test]
    fn an_empty_queue_where_the_fault_should_be_contradicts_it() {
        let found = contradictions(&samples(Place::Interconnect, "ix-east", 1.0, 0));
        assert!(found[0].ends_with("should be full"), "{found:?}");
    }

    #[test]
    fn a_queue_that_another_fault_fills_meanwhile_contradicts_nothing() {
        let mut scenario = Scenario::load("interconnect").unwrap();
        let core = Scenario::load("isp").unwrap().faults[0].clone();
        scenario.faults.push(core);
        let mut all = samples(Place::Interconnect, "ix-east", 60.0, 1);
        all.extend(samples(Place::Isp, "Northnet", 60.0, 1));
        let plan = Plan::new(&scenario).unwrap();
        let found = phases(&scenario, &plan, &all)[1].contradictions();
        assert_eq!(found, Vec::<String>::new());
    }

    /// One chunk a second of every home; the first byte takes as long as `first_byte_ms` says.
    fn chunks(plan: &Plan, first_byte_ms: impl Fn(&Home, u32) -> f64) -> Vec<ChunkReport> {
        let chunk = |home: &Home, second: u32| ChunkReport {
            at_s: f64::from(second) + 0.5,
            home: home.address,
            chunk: u64::from(second),
            bitrate_kbit: 250,
            bytes: 31_250,
            first_byte_ms: first_byte_ms(home, second),
            fetch_ms: 60.0,
            buffer_s: 6.0,
            stalled_s: 0.0,
            failed: None,
        };
        let homes = plan.homes.iter();
        homes
            .flat_map(|home| (0..65).map(move |second| chunk(home, second)))
            .collect()
    }

    #[test]
    fn a_viewer_who_is_behind_no_fault_and_slower_all_the_same_contradicts_the_truth() {
        let scenario = Scenario::load("isp").unwrap();
        let plan = Plan::new(&scenario).unwrap();
        let slow = |address: &'static str, seconds: Range<u32>| {
            let first_byte_ms = move |home: &Home, second: u32| {
                let is_slow = home.address.to_string() == address && seconds.contains(&second);
                if is_slow { 26.0 } else { 20.0 }
            };
            slow_others(&scenario, &plan, &chunks(&plan, first_byte_ms))
        };
        // Southnet's, for two windows of five seconds.
        let found = slow("198.18.4.11", 40..50);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("home 198.18.4.11"), "{found:?}");
        // One fast chunk in the second of them; before the fault; a home of the ISP that is full.
        assert_eq!(slow("198.18.4.11", 40..49), Vec::<String>::new());
        assert_eq!(slow("198.18.4.11", 10..20), Vec::<String>::new());
        assert_eq!(slow("198.18.0.10", 40..50), Vec::<String>::new());
    }

    #[test]
    fn drops_at_another_queue_contradict_the_truth() {
        let mut all = samples(Place::Interconnect, "ix-east", 60.0, 1);
        all.extend(samples(Place::Isp, "Northnet", 1.0, 1));
        let found = contradictions(&all);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("core of Northnet"), "{found:?}");
    }
}
