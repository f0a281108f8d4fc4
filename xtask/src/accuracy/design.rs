//! Which incidents are played in machines: written down before any of them is, and the same always.
//!
//! Every kind of fault is played equally often. Everything else has levels, whose combinations are
//! far more than can be played: each fault takes as many of them, a constant stride apart, so that
//! every level comes about equally often and with every other one (a lattice; Niederreiter, "Random
//! Number Generation and Quasi-Monte Carlo Methods", 1992).
//!
//! There are two blocks: the first was played before the lab had transits, backbones, nodes, ways
//! back, damaged links and detours.

use std::fmt::Write as _;

/// Incidents in all.
pub const INCIDENTS: usize = FIRST.incidents + SECOND.incidents;

/// Seconds of each: what is usual is learned until the fault begins, which lasts until the end.
const DURATION_S: u32 = 65;
const FAULT_FROM_S: u32 = 30;

/// Links, Mbit/s. Rates are small because the machine is emulated.
const UPLINK_MBIT: f64 = 20.0;
const PORT_MBIT: f64 = 12.0;
const CORE_MBIT: f64 = 14.0;
const LINE_MBIT: f64 = 5.0;
const BACKBONE_MBIT: f64 = 16.0;
const HANDOVER_MBIT: f64 = 8.0;
const NODE_MBIT: f64 = 8.0;
const BACK_MBIT: f64 = 4.0;
/// A private AS number (RFC 6996).
const FIRST_TRANSIT: usize = 64_910;
/// A stream that yields to nobody sends so much more than its link carries.
const OVERLOAD: f64 = 1.1;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Nothing, but a prefix is reached through another interconnect from then on.
    Moved,
    Host,
    Interconnect,
    Isp,
    LastMile,
    /// An interconnect, and a line that is reached through the other one.
    InterconnectAndLastMile,
    /// An ISP's core, and a line of another ISP's.
    IspAndLastMile,
    /// The backbone between our machines and our edge.
    OwnNetwork,
    /// Every transit's link into one ISP.
    Handover,
    /// Packets are lost at random, and no queue is full.
    LossyInterconnect,
    LossyIsp,
    LossyLine,
    /// What half of an ISP's prefixes share behind its core.
    AccessNode,
    /// The way back from one ISP.
    Reverse,
    /// Nothing, but one ISP is further away from then on.
    Detour,
}

impl Fault {
    pub const ALL: [Self; 16] = [
        Self::None,
        Self::Moved,
        Self::Host,
        Self::Interconnect,
        Self::Isp,
        Self::LastMile,
        Self::InterconnectAndLastMile,
        Self::IspAndLastMile,
        Self::OwnNetwork,
        Self::Handover,
        Self::LossyInterconnect,
        Self::LossyIsp,
        Self::LossyLine,
        Self::AccessNode,
        Self::Reverse,
        Self::Detour,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Moved => "none, a prefix moves",
            Self::Host => "host",
            Self::Interconnect => "interconnect",
            Self::Isp => "isp",
            Self::LastMile => "last mile",
            Self::InterconnectAndLastMile => "interconnect and last mile",
            Self::IspAndLastMile => "isp and last mile",
            Self::OwnNetwork => "own network",
            Self::Handover => "handover",
            Self::LossyInterconnect => "interconnect, damaged",
            Self::LossyIsp => "isp, damaged",
            Self::LossyLine => "last mile, damaged",
            Self::AccessNode => "access node",
            Self::Reverse => "reverse path",
            Self::Detour => "none, a longer way",
        }
    }

    /// Levels of factors that it cannot have, and which it has instead.
    fn needs(self) -> &'static [(&'static str, &'static str, &'static str)] {
        match self {
            Self::Moved | Self::InterconnectAndLastMile => &[("interconnects", "one", "two")],
            // The lab's transits speak no BGP.
            Self::Handover => &[("routes", "bgp", "csv")],
            Self::LossyLine => &[("line_queue", "cake", "fq_codel")],
            _ => &[],
        }
    }
}

/// What has levels, and which.
type Factors = [(&'static str, &'static [&'static str]); 7];

const FACTORS: Factors = [
    ("interconnects", &["two", "one"]),
    ("base_rtt_ms", &["10 to 25", "40 to 60", "100 to 120"]),
    ("congestion_control", &["cubic", "bbr"]),
    ("cross_traffic", &["8 cubic", "8 bbr", "udp"]),
    ("shared_queue", &["fifo 20", "fifo 80", "red 80", "codel"]),
    (
        "line_queue",
        &["fifo 50", "fifo 150", "codel", "fq_codel", "policer 100"],
    ),
    ("routes", &["csv", "bgp", "kernel"]),
];

const WITH_CAKE: Factors = {
    let mut factors = FACTORS;
    factors[5].1 = &[
        "fifo 50",
        "fifo 150",
        "codel",
        "fq_codel",
        "policer 100",
        "cake",
    ];
    factors
};

/// Incidents whose faults take turns.
struct Block {
    incidents: usize,
    faults: usize,
    factors: Factors,
    /// Combinations of each fault, however many of them are played.
    stretch: usize,
    /// Has no factor in common with the number of combinations, so that none comes twice, and is
    /// near its golden section, so that the first few are spread already.
    stride: usize,
}

const FIRST: Block = Block {
    incidents: 40,
    faults: 8,
    factors: FACTORS,
    stretch: 40,
    stride: 1_333,
};

const SECOND: Block = Block {
    incidents: 352,
    faults: Fault::ALL.len(),
    factors: WITH_CAKE,
    stretch: 22,
    stride: 1_609,
};

/// One incident.
pub struct Incident {
    pub number: usize,
    pub fault: Fault,
    /// Each factor's level.
    pub levels: Vec<(&'static str, &'static str)>,
}

/// All of them, in the order in which they are played.
pub fn incidents() -> impl Iterator<Item = Incident> {
    let first = (0..FIRST.incidents).map(|at| FIRST.incident(at, at));
    let second = (0..SECOND.incidents).map(|at| SECOND.incident(at, FIRST.incidents + at));
    first.chain(second)
}

impl Block {
    fn combinations(&self) -> usize {
        self.factors
            .iter()
            .map(|(_, levels)| levels.len())
            .product()
    }

    /// Its incident `at`, which is `number` of all.
    fn incident(&self, at: usize, number: usize) -> Incident {
        let kind = at % self.faults;
        let fault = Fault::ALL[kind];
        // Each fault has a stretch of its own.
        let place = kind * self.stretch + at / self.faults;
        let mut rest = place * self.stride % self.combinations();
        let levels = self.factors.map(|(factor, levels)| {
            let level = levels[rest % levels.len()];
            rest /= levels.len();
            (factor, level)
        });
        let mut incident = Incident {
            number,
            fault,
            levels: levels.into(),
        };
        for (factor, impossible, instead) in fault.needs() {
            for (name, level) in &mut incident.levels {
                if name == factor && level == impossible {
                    *level = instead;
                }
            }
        }
        incident
    }
}

impl Incident {
    /// The name that its folder and its scenario have.
    pub fn name(&self) -> String {
        format!("incident-{}", self.number)
    }

    fn level(&self, factor: &str) -> &'static str {
        let found = self.levels.iter().find(|(name, _)| *name == factor);
        found.map_or("", |(_, level)| level)
    }

    /// Its scenario, as tests/scenarios/README.md has them.
    pub fn scenario(&self) -> String {
        let shared = queue(self.level("shared_queue"));
        let line = queue(self.level("line_queue"));
        let (low, high) = self
            .level("base_rtt_ms")
            .split_once(" to ")
            .unwrap_or_default();
        let mut text = format!(
            r#"name = "{name}"
about = "Incident {number} of the design: {fault}."
duration_s = {DURATION_S}
routes = "{routes}"

[video_host]
uplink = {{ rate_mbit = {UPLINK_MBIT}, queue = {shared} }}
congestion_control = "{congestion_control}"

[homes]
prefixes_per_pair = 4
per_prefix = 2

[video]
chunk_s = 1
ladder_kbit = [80, 160, 250]
buffer_s = 6
start_within_s = 4

[daemon.window]
length_s = 5

[daemon.baseline]
min_windows = 4
slot_windows = 1
best_slots = 4

[daemon.verdict]
min_chunks_per_prefix = 2
min_rtt_samples = 5
min_segments = 20
"#,
            name = self.name(),
            number = self.number,
            fault = self.fault.name(),
            routes = self.level("routes"),
            congestion_control = self.level("congestion_control"),
        );
        if self.fault == Fault::OwnNetwork {
            let _ = write!(
                text,
                "\n[own_network]\nbackbone = {{ rate_mbit = {BACKBONE_MBIT}, queue = {shared} }}\n"
            );
        }
        let interconnects: &[&str] = match self.level("interconnects") {
            "two" => &["ix-east", "ix-west"],
            _ => &["ix-east"],
        };
        for (at, name) in interconnects.iter().enumerate() {
            let _ = write!(
                text,
                "\n[[interconnect]]\nname = \"{name}\"\n\
                 port = {{ rate_mbit = {PORT_MBIT}, queue = {shared} }}\n"
            );
            if self.fault == Fault::Handover {
                let asn = FIRST_TRANSIT + at;
                let _ = writeln!(
                    text,
                    "transit = {{ asn = {asn}, handover = {{ rate_mbit = {HANDOVER_MBIT}, \
                     queue = {shared} }} }}"
                );
            }
        }
        for (name, asn) in [("Northnet", 64_501), ("Southnet", 64_502)] {
            let _ = write!(
                text,
                "\n[[isp]]\nname = \"{name}\"\nasn = {asn}\n\
                 core = {{ rate_mbit = {CORE_MBIT}, queue = {shared} }}\n\
                 access = {{ rate_mbit = {LINE_MBIT}, queue = {line} }}\n\
                 base_rtt_ms = [{low}, {high}]\n"
            );
            let _ = match self.fault {
                Fault::AccessNode => writeln!(
                    text,
                    "node = {{ prefixes = 2, link = {{ rate_mbit = {NODE_MBIT}, queue = {line} }} }}"
                ),
                Fault::Reverse => writeln!(
                    text,
                    "back = {{ rate_mbit = {BACK_MBIT}, queue = {shared} }}"
                ),
                _ => Ok(()),
            };
        }
        self.faults(&mut text);
        text
    }

    /// What goes wrong, and what is true.
    fn faults(&self, text: &mut String) {
        // Prefixes are numbered interconnect by interconnect, and in it ISP by ISP, four each.
        const NORTHNET: Line = Line::new("Northnet", 2);
        const SOUTHNET: Line = Line::new("Southnet", 5);
        const NORTHNET_WEST: Line = Line::new("Northnet", 9);
        let interconnect = |text: &mut String| {
            self.fill(text, "interconnect", Some("ix-east"), PORT_MBIT);
            truth(text, "interconnect", "interconnect = \"ix-east\"");
        };
        let isp = |text: &mut String| {
            self.fill(text, "isp", Some("Northnet"), CORE_MBIT);
            truth(text, "isp", "isp = \"Northnet\"");
        };
        let line = |text: &mut String, line: &Line| {
            self.fill(text, "home", Some(&line.home()), LINE_MBIT);
            let place = format!("isp = \"{}\"\nprefix = \"{}\"", line.isp, line.prefix());
            truth(text, "last_mile", &place);
        };
        match self.fault {
            Fault::None => {}
            Fault::Moved => {
                let _ = write!(
                    text,
                    "\n[[move]]\nprefix = \"{}\"\nto = \"ix-west\"\nat_s = {FAULT_FROM_S}\n",
                    NORTHNET.prefix()
                );
            }
            Fault::Host => {
                self.fill(text, "host", None, UPLINK_MBIT);
                truth(text, "host", "");
            }
            Fault::Interconnect => interconnect(text),
            Fault::Isp => isp(text),
            Fault::LastMile => line(text, &NORTHNET),
            Fault::InterconnectAndLastMile => {
                interconnect(text);
                line(text, &NORTHNET_WEST);
            }
            Fault::IspAndLastMile => {
                isp(text);
                line(text, &SOUTHNET);
            }
            Fault::OwnNetwork => {
                self.fill(text, "own_network", None, BACKBONE_MBIT);
                truth(text, "own_network", "");
            }
            Fault::Handover => {
                self.fill(text, "handover", Some("Northnet"), HANDOVER_MBIT);
                // Nobody at the sender can tell the two sides of that link.
                truths(text, &["transit", "isp"], "isp = \"Northnet\"");
            }
            Fault::LossyInterconnect => {
                happen(text, "interconnect", Some("ix-east"), DAMAGE);
                truth(text, "interconnect", "interconnect = \"ix-east\"");
            }
            Fault::LossyIsp => {
                happen(text, "isp", Some("Northnet"), DAMAGE);
                truth(text, "isp", "isp = \"Northnet\"");
            }
            Fault::LossyLine => {
                happen(text, "home", Some(&NORTHNET.home()), DAMAGE);
                let place = format!("isp = \"Northnet\"\nprefix = \"{}\"", NORTHNET.prefix());
                truth(text, "last_mile", &place);
            }
            Fault::AccessNode => {
                self.fill(text, "access_node", Some("Northnet"), NODE_MBIT);
                truth(text, "access_shared", "isp = \"Northnet\"");
            }
            Fault::Reverse => {
                self.fill(text, "isp_back", Some("Northnet"), BACK_MBIT);
                truth(text, "reverse_path", "isp = \"Northnet\"");
            }
            Fault::Detour => {
                happen(text, "isp", Some("Northnet"), DETOUR);
                // It is no congestion: whoever is named alone is named wrongly.
                truths(text, &["isp", "reverse_path"], "isp = \"Northnet\"");
            }
        }
    }

    /// Traffic that fills a link of `rate_mbit`.
    fn fill(&self, text: &mut String, what: &str, name: Option<&str>, rate_mbit: f64) {
        let traffic = match self.level("cross_traffic").split_once(' ') {
            Some((flows, congestion_control)) => format!(
                "{{ kind = \"tcp\", flows = {flows}, congestion_control = \"{congestion_control}\" }}"
            ),
            None => format!(
                "{{ kind = \"udp\", rate_mbit = {:.2} }}",
                rate_mbit * OVERLOAD
            ),
        };
        happen(text, what, name, &traffic);
    }
}

/// What a damaged link does, and one that takes a longer way.
const DAMAGE: &str = "{ kind = \"damage\", loss_share = 0.05 }";
const DETOUR: &str = "{ kind = \"detour\", longer_ms = 20 }";

fn happen(text: &mut String, what: &str, name: Option<&str>, traffic: &str) {
    let name = name.map_or_else(String::new, |name| format!("name = \"{name}\"\n"));
    let _ = write!(
        text,
        "\n[[fault]]\nfills = \"{what}\"\n{name}from_s = {FAULT_FROM_S}\nto_s = {DURATION_S}\n\
         traffic = {traffic}\n"
    );
}

/// A home's line.
struct Line {
    isp: &'static str,
    prefix: u8,
}

impl Line {
    const fn new(isp: &'static str, prefix: u8) -> Self {
        Self { isp, prefix }
    }

    fn home(&self) -> String {
        format!("198.18.{}.10", self.prefix)
    }

    fn prefix(&self) -> String {
        format!("198.18.{}.0/24", self.prefix)
    }
}

fn truth(text: &mut String, segment: &str, place: &str) {
    truths(text, &[segment], place);
}

/// Segments that nobody can tell apart.
fn truths(text: &mut String, segments: &[&str], place: &str) {
    let _ = write!(
        text,
        "\n[[truth]]\nsegment = {segments:?}\n{place}\nfrom_s = {FAULT_FROM_S}\nto_s = {DURATION_S}\n"
    );
}

/// A level of a queue, as scenarios have it.
fn queue(level: &str) -> String {
    match level.split_once(' ') {
        Some(("policer", burst_ms)) => {
            format!("{{ kind = \"policer\", burst_ms = {burst_ms} }}")
        }
        Some((kind, limit_ms)) => format!("{{ kind = \"{kind}\", limit_ms = {limit_ms} }}"),
        None => format!("{{ kind = \"{level}\" }}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_incident_is_a_scenario() {
        for incident in incidents() {
            let text = incident.scenario();
            let scenario = lastmile_lab::scenario::Scenario::parse(&text, &incident.name());
            assert!(scenario.is_ok(), "{scenario:?} in\n{text}");
        }
    }

    #[test]
    fn every_fault_is_played_as_often_and_no_combination_twice() {
        let all: Vec<Incident> = incidents().collect();
        for (of, block) in [
            (&all[..FIRST.incidents], &FIRST),
            (&all[FIRST.incidents..], &SECOND),
        ] {
            let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
            let mut seen = BTreeSet::new();
            for incident in of {
                *faults.entry(incident.fault.name()).or_default() += 1;
                if incident.fault.needs().is_empty() {
                    assert!(seen.insert(&incident.levels), "{} again", incident.number);
                }
            }
            let each = block.incidents / block.faults;
            assert_eq!(faults.len(), block.faults);
            assert!(faults.values().all(|&count| count == each), "{faults:?}");
        }
    }

    #[test]
    fn every_level_is_played_about_as_often_with_every_fault() {
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        let second = incidents().skip(FIRST.incidents);
        for incident in second.filter(|incident| incident.fault.needs().is_empty()) {
            for level in incident.levels {
                *counts.entry((incident.fault.name(), level)).or_default() += 1;
            }
        }
        for ((fault, (factor, level)), count) in counts {
            let levels = SECOND.factors.iter().find(|(name, _)| *name == factor);
            let each = SECOND.incidents / SECOND.faults;
            let expected = each / levels.map_or(1, |(_, all)| all.len());
            assert!(
                count.abs_diff(expected) <= expected / 2,
                "{fault}, {factor} {level}: {count} of {expected}"
            );
        }
    }
}
