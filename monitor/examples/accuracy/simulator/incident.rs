//! One simulated incident, from what is usual through the fault to its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use lastmile::cell::Cells;
use lastmile::config::{Baseline, Config};
use lastmile::engine::judge::{self, Judge, Moves};
use lastmile::engine::{Missed, WindowSpan};
use lastmile::flow::Observation;
use lastmile::path::ports::{InterconnectPorts, PortWindow};
use lastmile::verdict::incident::Incidents;
use lastmile::verdict::{self, DeviceCounters, LocalCounters, Verdict, Vote};

use super::fault::{Effects, Fault, Place, Queue};
use super::random::Random;
use super::rivals::{BlameIt, Signature};
use super::traffic::{self, Sending, WINDOW_S};
use super::world::{PLAYERS, Scale, Topology, World};

/// Windows before the fault: enough for a baseline, and some more.
pub const LEAD_IN: u64 = 30;
/// Windows of the fault.
pub const LASTS: u64 = 14;
/// Windows after it.
pub const AFTER: u64 = 6;
const FIRST_WINDOW: u64 = 30_000_000;

/// What kind of evidence is taken away, to see what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Without {
    Nothing,
    Ports,
    Losses,
    Delay,
    Rate,
}

/// An incident, as the design has it.
#[derive(Clone, Debug)]
pub struct Incident {
    pub seed: u64,
    pub topology: Topology,
    pub scale: Scale,
    pub base_rtt_ms: f64,
    pub sending: Sending,
    /// What to break: chosen in the world once it is there.
    pub faults: Vec<(Kind, Queue)>,
    /// Counters of our own ports are known.
    pub ports: bool,
    /// The fault was there for a third of the time in which the baseline was learned.
    pub recurrent: bool,
    /// Share of the observations that are never reported.
    pub unseen: f64,
    /// Part of each prefix's homes that takes another way at the same time.
    pub balanced: f64,
    /// Everybody watches while it lasts.
    pub crowd: bool,
    /// Homes are reached one after another over so many windows.
    pub spreads: u64,
}

/// What is broken, before it is known which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    None,
    Host,
    OwnNetwork,
    Interconnect,
    BundleMember,
    Transit,
    Handover,
    Isp,
    AccessNode,
    LastMile,
    Reverse,
    Proxy,
    PathChange,
    Sender,
    Receiver,
}

impl Kind {
    /// One of its places in `world`; `None` where the world has none.
    fn place(self, world: &World, random: &mut Random) -> Option<Place> {
        let isp = random.index(world.isps.len());
        let used: Vec<usize> = (0..world.interconnects.len())
            .filter(|&at| world.homes.iter().any(|home| home.interconnect == at))
            .collect();
        let link = used[random.index(used.len())];
        let transits: Vec<usize> = (0..world.interconnects.len())
            .filter(|&at| world.interconnects[at].transit.is_some())
            .collect();
        let home = random.index(world.homes.len());
        Some(match self {
            Self::None => return None,
            Self::Host => Place::Host,
            Self::OwnNetwork => Place::OwnNetwork,
            Self::Interconnect => Place::Interconnect(link),
            Self::BundleMember => Place::BundleMember(link, random.index(4)),
            Self::Transit => Place::Transit(*transits.first()?),
            Self::Handover => {
                transits.first()?;
                Place::Handover(isp)
            }
            Self::Isp => Place::Isp(isp),
            Self::AccessNode => Place::AccessNode(world.homes[home].isp, world.homes[home].node),
            Self::PathChange => Place::PathChange(world.homes[home].isp, world.homes[home].node),
            Self::LastMile => Place::LastMile(home),
            Self::Reverse => Place::Reverse(isp),
            Self::Proxy => Place::Proxy(isp),
            Self::Sender => Place::Sender,
            Self::Receiver => Place::Receiver(random.index(PLAYERS)),
        })
    }
}

/// What was said in one window.
pub struct Said {
    /// Windows since the fault began; negative: before.
    pub window: i64,
    pub verdicts: Vec<Verdict>,
    /// What there was to tell of incidents.
    pub incidents: Vec<lastmile::verdict::incident::Incident>,
    pub blame_it: Vec<super::rivals::Name>,
    pub signature: Vec<super::rivals::Name>,
}

/// An incident that was played.
pub struct Played {
    pub world: World,
    pub faults: Vec<Fault>,
    pub recurrent: bool,
    /// Counters of our own ports were known.
    pub ports: bool,
    pub said: Vec<Said>,
}

/// Whether a recurrent fault was there already, while the baseline was learned.
pub fn recurred(recurrent: bool, window: i64) -> bool {
    recurrent && window < 0 && (window + LEAD_IN as i64) % 15 >= 10
}

struct Nobody;

impl Moves for Nobody {
    fn moved_lately(&self, _: &IpNet, _: u64) -> bool {
        false
    }

    fn has_moved(&self, _: &IpNet) -> bool {
        false
    }
}

/// The daemon's thresholds; the time it learns is scaled to the incident's.
pub fn config() -> Config {
    Config {
        baseline: Baseline {
            min_windows: 20,
            slot_windows: 3,
            best_slots: 4,
            span_slots: 1_000,
        },
        ..Config::default()
    }
}

/// A course of windows in one world.
pub struct Course {
    pub config: Config,
    judge: Judge,
    incidents: Incidents,
    blame_it: BlameIt,
    number: u64,
}

impl Course {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: Config) -> Self {
        Self {
            config,
            judge: Judge::default(),
            incidents: Incidents::default(),
            blame_it: BlameIt::default(),
            number: FIRST_WINDOW,
        }
    }

    /// One window: what was observed, to what is said.
    pub fn window(
        &mut self,
        observations: Vec<Observation>,
        local: &LocalCounters,
        ports: Option<&InterconnectPorts>,
        window: i64,
        learning: bool,
    ) -> Said {
        let blame_it = self.blame_it.window(&observations, learning);
        let signature = Signature::window(&observations);
        let (verdicts, votes) = self.decide(observations, local, ports);
        let span = judge::span(&self.config.baseline);
        let news = self.incidents.window(&verdicts, &votes, self.number, span);
        Said {
            window,
            verdicts,
            incidents: news.into_iter().map(|(_, incident)| incident).collect(),
            blame_it,
            signature,
        }
    }

    /// The same without rivals and incidents.
    pub fn engine(
        &mut self,
        observations: Vec<Observation>,
        local: &LocalCounters,
        ports: Option<&InterconnectPorts>,
    ) -> Vec<Verdict> {
        self.decide(observations, local, ports).0
    }

    fn decide(
        &mut self,
        observations: Vec<Observation>,
        local: &LocalCounters,
        ports: Option<&InterconnectPorts>,
    ) -> (Vec<Verdict>, Vec<Vote>) {
        let length_us = u64::from(WINDOW_S) * 1_000_000;
        self.number += 1;
        let span = WindowSpan::at(self.number * length_us, WINDOW_S);
        let missed = Missed {
            reports_received: observations.len() as u64,
            ..Missed::default()
        };
        let cells = Cells::collect(observations);
        let judged = self
            .judge
            .window(&cells, &span, &missed, &Nobody, &self.config);
        let verdicts = verdict::decide(&judged.window, Some(local), ports, &self.config.verdict);
        (verdicts, judged.window.votes)
    }
}

/// Plays `incident`, with some evidence taken away.
pub fn play(incident: &Incident, without: Without) -> Option<Played> {
    let mut random = Random::new(incident.seed);
    let world = World::new(
        incident.topology,
        incident.scale,
        incident.base_rtt_ms,
        incident.balanced,
        &mut random,
    );
    let mut faults = Vec::new();
    for &(kind, queue) in &incident.faults {
        if kind == Kind::None {
            continue;
        }
        let place = kind.place(&world, &mut random)?;
        faults.push(Fault::new(place, queue, &mut random));
    }
    // When a home is reached by what spreads.
    let delays: Vec<u64> = world
        .homes
        .iter()
        .map(|_| random.index(incident.spreads as usize + 1) as u64)
        .collect();

    let mut course = Course::new();
    let mut said = Vec::new();
    for at in 0..LEAD_IN + LASTS + AFTER {
        let window = at as i64 - LEAD_IN as i64;
        let recurred = recurred(incident.recurrent, window);
        let strength = |delay: u64| {
            if recurred {
                return 1.0;
            }
            let since = window - delay as i64;
            match since {
                _ if since < 0 || window >= LASTS as i64 => 0.0,
                0 => 0.5,
                _ => 1.0,
            }
        };
        let mut observations = Vec::new();
        for (number, home) in world.homes.iter().enumerate() {
            let watches = match incident.crowd && (0..LASTS as i64).contains(&window) {
                true => 1.0,
                false => home.watches,
            };
            if !random.chance(watches) || random.chance(incident.unseen) {
                continue;
            }
            let mut effects = Effects::default();
            for fault in &faults {
                let level = strength(delays[number]);
                if level > 0.0 && fault.hits(number, home, &world) {
                    fault.apply(level, &mut effects);
                }
            }
            let sending = incident.sending.to_home(number);
            let mut observation = traffic::observe(home, &effects, sending, &mut random);
            remove(&mut observation, home.base_rtt_us, without);
            observations.push(observation);
        }
        let level = strength(0);
        let ports = (incident.ports && without != Without::Ports)
            .then(|| ports(&world, &faults, level, &mut random));
        let local = local(&faults, level);
        said.push(course.window(observations, &local, ports.as_ref(), window, window < 0));
    }
    Some(Played {
        world,
        faults,
        recurrent: incident.recurrent,
        ports: incident.ports && without != Without::Ports,
        said,
    })
}

/// Takes evidence away.
fn remove(observation: &mut Observation, base_rtt_us: f64, without: Without) {
    let totals = &mut observation.to_client;
    match without {
        Without::Nothing | Without::Ports => {}
        Without::Losses => {
            totals.lost_downstream_segments = 0;
            totals.ce_marked_segments = 0;
        }
        Without::Delay => {
            let samples = totals.rtt_samples as u16;
            let mut bins = [0; monitor_ebpf::flow::RTT_BINS];
            bins[monitor_ebpf::flow::rtt_bin(base_rtt_us as u32)] = samples;
            totals.rtt = Default::default();
            totals
                .rtt
                .add_difference(&[0; monitor_ebpf::flow::RTT_BINS], &bins);
            totals.rtt_min_us = Some(base_rtt_us as u32);
            totals.rtt_max_us = Some(base_rtt_us as u32);
        }
        Without::Rate => totals.busy_us = 0,
    }
}

/// What our own machine's devices count.
pub fn local(faults: &[Fault], level: f64) -> LocalCounters {
    let mut device = DeviceCounters {
        interface: "eth0".into(),
        sent_bytes: 10_000_000_000,
        sent_packets: 8_000_000,
        qdisc_dropped: 0,
        qdisc_backlog_min_bytes: 0,
        nic_tx_dropped: 0,
    };
    for fault in faults.iter().filter(|fault| fault.place == Place::Host) {
        device.qdisc_dropped = (device.sent_packets as f64 * fault.share * level) as u64;
        let per_us = device.sent_bytes as f64 / (f64::from(WINDOW_S) * 1e6);
        let stands_us = match fault.queue {
            Queue::DeepFifo => 0.6 * fault.depth_us * level,
            _ => 0.0,
        };
        device.qdisc_backlog_min_bytes = (per_us * stands_us) as u64;
    }
    LocalCounters {
        devices: vec![device],
        window_us: u64::from(WINDOW_S) * 1_000_000,
    }
}

/// What our own ports count.
pub fn ports(
    world: &World,
    faults: &[Fault],
    level: f64,
    random: &mut Random,
) -> InterconnectPorts {
    let mut ports = BTreeMap::new();
    for (at, link) in world.interconnects.iter().enumerate() {
        let fault = faults
            .iter()
            .find(|fault| fault.place == Place::Interconnect(at))
            .filter(|_| level > 0.0);
        let (utilisation, drops) = match fault {
            // A damaged link sends what it was given: its port counts nothing.
            Some(fault) if fault.queue == Queue::RandomLoss => (random.between(0.3, 0.6), 0.0),
            Some(fault) => (random.between(0.96, 1.0), fault.share * level),
            None => (random.between(0.3, 0.6), 0.0),
        };
        let port = PortWindow {
            covered: 1.0,
            samples: 2,
            utilisation: Some(utilisation),
            drop_share: Some(drops),
            error_share: Some(0.0),
            ..PortWindow::default()
        };
        ports.insert(Arc::clone(&link.name), port);
    }
    InterconnectPorts(ports)
}
