//! Which incidents are played in machines: written down before any of them is, and the same always.
//!
//! Every kind of fault is played equally often. Everything else has levels, whose combinations are
//! far more than can be played: each fault takes as many of them, a constant stride apart, so that
//! every level comes about equally often and with every other one (a lattice; Niederreiter, "Random
//! Number Generation and Quasi-Monte Carlo Methods", 1992).

use std::fmt::Write as _;

/// Incidents in all.
pub const INCIDENTS: usize = 320;

/// Seconds of each: what is usual is learned until the fault begins, which lasts until the end.
const DURATION_S: u32 = 65;
const FAULT_FROM_S: u32 = 30;

/// Links, Mbit/s. Rates are small because the machine is emulated.
const UPLINK_MBIT: f64 = 20.0;
const PORT_MBIT: f64 = 12.0;
const CORE_MBIT: f64 = 14.0;
const LINE_MBIT: f64 = 5.0;
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
}

impl Fault {
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Moved,
        Self::Host,
        Self::Interconnect,
        Self::Isp,
        Self::LastMile,
        Self::InterconnectAndLastMile,
        Self::IspAndLastMile,
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
        }
    }

    /// Whether there is such a thing only where there are two interconnects.
    fn needs_two(self) -> bool {
        matches!(self, Self::Moved | Self::InterconnectAndLastMile)
    }
}

/// What has levels, and which.
const FACTORS: [(&str, &[&str]); 7] = [
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

/// 2,160 combinations. The stride has no factor in common with that, so that no combination comes
/// twice, and is near the golden section, so that the first few are spread already.
const STRIDE: usize = 1_333;

/// One incident.
pub struct Incident {
    pub number: usize,
    pub fault: Fault,
    /// Each factor's level.
    pub levels: Vec<(&'static str, &'static str)>,
}

/// All of them, in the order in which they are played.
pub fn incidents() -> impl Iterator<Item = Incident> {
    let combinations: usize = FACTORS.iter().map(|(_, levels)| levels.len()).product();
    (0..INCIDENTS).map(move |number| {
        let kind = number % Fault::ALL.len();
        let fault = Fault::ALL[kind];
        // Each fault has a stretch of its own.
        let place = kind * (INCIDENTS / Fault::ALL.len()) + number / Fault::ALL.len();
        let mut rest = place * STRIDE % combinations;
        let levels = FACTORS.map(|(factor, levels)| {
            let level = levels[rest % levels.len()];
            rest /= levels.len();
            (factor, level)
        });
        let mut incident = Incident {
            number,
            fault,
            levels: levels.into(),
        };
        if fault.needs_two() {
            incident.levels[0].1 = FACTORS[0].1[0];
        }
        incident
    })
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
        let interconnects: &[&str] = match self.level("interconnects") {
            "two" => &["ix-east", "ix-west"],
            _ => &["ix-east"],
        };
        for name in interconnects {
            let _ = write!(
                text,
                "\n[[interconnect]]\nname = \"{name}\"\n\
                 port = {{ rate_mbit = {PORT_MBIT}, queue = {shared} }}\n"
            );
        }
        for (name, asn) in [("Northnet", 64_501), ("Southnet", 64_502)] {
            let _ = write!(
                text,
                "\n[[isp]]\nname = \"{name}\"\nasn = {asn}\n\
                 core = {{ rate_mbit = {CORE_MBIT}, queue = {shared} }}\n\
                 access = {{ rate_mbit = {LINE_MBIT}, queue = {line} }}\n\
                 base_rtt_ms = [{low}, {high}]\n"
            );
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
        let name = name.map_or_else(String::new, |name| format!("name = \"{name}\"\n"));
        let _ = write!(
            text,
            "\n[[fault]]\nfills = \"{what}\"\n{name}from_s = {FAULT_FROM_S}\nto_s = {DURATION_S}\n\
             traffic = {traffic}\n"
        );
    }
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
    let _ = write!(
        text,
        "\n[[truth]]\nsegment = \"{segment}\"\n{place}\nfrom_s = {FAULT_FROM_S}\nto_s = {DURATION_S}\n"
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
        let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for incident in incidents() {
            *faults.entry(incident.fault.name()).or_default() += 1;
            if !incident.fault.needs_two() {
                assert!(seen.insert(incident.levels), "{} again", incident.number);
            }
        }
        let each = INCIDENTS / Fault::ALL.len();
        assert!(faults.values().all(|&count| count == each), "{faults:?}");
    }

    #[test]
    fn every_level_is_played_about_as_often_with_every_fault() {
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        for incident in incidents().filter(|incident| !incident.fault.needs_two()) {
            for level in incident.levels {
                *counts.entry((incident.fault.name(), level)).or_default() += 1;
            }
        }
        for ((fault, (factor, level)), count) in counts {
            let levels = FACTORS.iter().find(|(name, _)| *name == factor);
            let expected = INCIDENTS / Fault::ALL.len() / levels.map_or(1, |(_, all)| all.len());
            assert!(
                count.abs_diff(expected) <= expected / 2,
                "{fault}, {factor} {level}: {count} of {expected}"
            );
        }
    }
}
