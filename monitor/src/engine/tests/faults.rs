//! Faults that begin and end in the middle of windows, at other times for every home, with homes
//! that are silent now and then: nobody but the culprit is ever named.

use proptest::prelude::*;

use super::site::{HD, Home, LEAD_IN, Life, MIXED, Random, SMALL, Scale, Site};
use super::verdicts;
use crate::export::record::VerdictRecord;
use crate::path::ports::{InterconnectPorts, PortWindow};
use crate::verdict::{DeviceCounters, LocalCounters, Segment};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    Interconnect(&'static str),
    Isp(&'static str),
    Host,
    Home(usize),
    /// Half of the prefixes of one ISP behind one interconnect: a node that they share.
    Node,
}

impl Fault {
    fn hits(self, home: &Home) -> bool {
        match self {
            Self::Nothing => false,
            Self::Interconnect(name) => home.interconnect == name,
            Self::Isp(name) => home.isp == name,
            Self::Host => true,
            Self::Home(index) => home.index == index,
            Self::Node => home.prefix < 2,
        }
    }

    fn segment(self) -> Option<Segment> {
        match self {
            Self::Nothing => None,
            Self::Interconnect(_) => Some(Segment::Interconnect),
            Self::Isp(_) => Some(Segment::Isp),
            Self::Host => Some(Segment::Host),
            Self::Home(_) => Some(Segment::LastMile),
            Self::Node => Some(Segment::AccessShared),
        }
    }

    /// Whether a verdict that names one segment names this fault, at its place.
    fn is_named_by(self, verdict: &VerdictRecord) -> bool {
        let place = match self {
            Self::Interconnect(name) => verdict.interconnect.as_deref() == Some(name),
            Self::Isp(name) => verdict.isp.as_deref() == Some(name),
            Self::Home(index) => {
                verdict.prefix.map(|prefix| prefix.to_string())
                    == Some(format!("10.0.{}.0/24", index / 2))
            }
            _ => true,
        };
        place && Some(verdict.segments[0]) == self.segment()
    }
}

/// How a fault happens.
#[derive(Clone, Copy, Debug)]
struct Course {
    fault: Fault,
    /// Happens at the same time.
    second: Fault,
    life: Life,
    scale: Scale,
    /// Windows over which it reaches one home after another, and leaves them.
    stagger: f64,
    /// Part of the home's windows without any traffic.
    silent: f64,
    /// Part of the home's windows with trouble on its own line.
    troubled: f64,
    counters: bool,
    /// Whether the ports of both interconnects are read.
    ports: bool,
    seed: u64,
}

const FROM: f64 = LEAD_IN as f64 + 6.4;
const TO: f64 = FROM + 14.0;
const WINDOWS: u64 = TO as u64 + 8;

/// What was said, and what was true beside the faults.
struct Played {
    /// Verdicts of every window, from the end of the lead-in on.
    said: Vec<Vec<VerdictRecord>>,
    /// Homes with trouble of their own, in the same windows.
    troubled: Vec<Vec<bool>>,
}

fn play(course: &Course) -> Vec<Vec<VerdictRecord>> {
    play_all(course).said
}

fn play_all(course: &Course) -> Played {
    let mut site = Site::scaled(course.seed, course.scale);
    let mut random = Random(course.seed.wrapping_mul(77) | 1);
    let delays: Vec<f64> = (0..32).map(|_| random.unit() * course.stagger).collect();
    let mut said = Vec::new();
    let mut troubles = Vec::new();
    for window in 0..WINDOWS {
        let silent: Vec<bool> = (0..32).map(|_| random.unit() < course.silent).collect();
        let (start, end) = (window as f64, window as f64 + 1.0);
        site.local = course.counters.then(|| {
            let full =
                [course.fault, course.second].contains(&Fault::Host) && end > FROM && start < TO;
            LocalCounters {
                window_us: 5_000_000,
                devices: vec![DeviceCounters {
                    interface: "eth0".into(),
                    sent_bytes: 100_000_000,
                    sent_packets: 70_000,
                    qdisc_dropped: if full { 900 } else { 0 },
                    qdisc_backlog_min_bytes: 3_000,
                    nic_tx_dropped: 0,
                }],
            }
        });
        site.ports = course.ports.then(|| {
            let port = |name: &'static str| {
                let is_at_fault =
                    [course.fault, course.second].contains(&Fault::Interconnect(name));
                let full = is_at_fault && end > FROM && start < TO + course.stagger;
                let port = PortWindow {
                    covered: 0.8,
                    samples: 4,
                    utilisation: Some(if full { 0.99 } else { 0.6 }),
                    drop_share: Some(if full { course.life.loss } else { 0.0 }),
                    error_share: Some(0.0),
                    ..PortWindow::default()
                };
                (name.into(), port)
            };
            InterconnectPorts([port("ic-a"), port("ic-b")].into())
        });
        let learned = window >= LEAD_IN;
        let troubled: Vec<bool> = (0..32)
            .map(|_| learned && random.unit() < course.troubled)
            .collect();
        let records = site.window(|home| {
            if silent[home.index] {
                return Life::silent();
            }
            let (from, to) = (FROM + delays[home.index], TO + delays[home.index]);
            let part = (end.min(to) - start.max(from)).clamp(0.0, 1.0);
            let hit = course.fault.hits(home) || course.second.hits(home);
            if hit && part > 0.0 {
                Life {
                    part,
                    ..course.life
                }
            } else if troubled[home.index] {
                Life::congested(30_000)
            } else {
                Life::default()
            }
        });
        if learned {
            said.push(verdicts(&records));
            troubles.push(troubled);
        }
    }
    Played {
        said,
        troubled: troubles,
    }
}

/// Verdicts that name one segment.
fn names(said: &[Vec<VerdictRecord>]) -> Vec<&VerdictRecord> {
    said.iter()
        .flatten()
        .filter(|verdict| verdict.segments.len() == 1)
        .collect()
}

fn calm(fault: Fault, seed: u64) -> Course {
    Course {
        fault,
        second: Fault::Nothing,
        life: Life::congested(40_000),
        scale: HD,
        stagger: 0.3,
        silent: 0.0,
        troubled: 0.0,
        counters: true,
        ports: false,
        seed,
    }
}

#[test]
fn each_fault_is_named_while_it_lasts_and_nobody_else_is() {
    for (scale, windows) in [(HD, 8), (SMALL, 8), (MIXED, 6)] {
        each_fault_is_named(scale, windows);
    }
}

fn each_fault_is_named(scale: Scale, windows: usize) {
    for fault in [
        Fault::Interconnect("ic-a"),
        Fault::Interconnect("ic-b"),
        Fault::Isp("isp-x"),
        Fault::Isp("isp-y"),
        Fault::Host,
        Fault::Home(5),
        Fault::Home(30),
    ] {
        for seed in 0..6 {
            let said = play(&Course {
                scale,
                ..calm(fault, seed)
            });
            let names = names(&said);
            assert!(
                names.iter().all(|verdict| fault.is_named_by(verdict)),
                "{fault:?} {seed}: {names:#?}"
            );
            assert!(
                names.len() >= windows,
                "{fault:?} {seed}: named in {} of 14 windows with homes at {:?} us: {:#?}",
                names.len(),
                scale.rtt_us,
                said.iter()
                    .flatten()
                    .filter(|verdict| verdict.degraded == Some(true))
                    .map(|verdict| (&verdict.segments, &verdict.interconnect, &verdict.open))
                    .collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn each_fault_is_named_as_well_where_the_ports_are_read() {
    for fault in [
        Fault::Interconnect("ic-a"),
        Fault::Isp("isp-y"),
        Fault::Host,
        Fault::Home(5),
    ] {
        let said = play(&Course {
            ports: true,
            ..calm(fault, 4)
        });
        let names = names(&said);
        assert!(
            names.iter().all(|verdict| fault.is_named_by(verdict)),
            "{fault:?}: {names:#?}"
        );
        assert!(names.len() >= 8, "{fault:?}: named in {}", names.len());
        let shows_ports = |verdict: &&VerdictRecord| {
            let kinds = verdict.evidence.iter().map(|item| &*item.kind);
            kinds.filter(|kind| kind.starts_with("port_")).count() >= 2
        };
        let wide = names.iter().filter(|verdict| verdict.prefix.is_none());
        assert!(
            wide.copied().all(|verdict| shows_ports(&verdict)),
            "{names:#?}"
        );
    }
}

#[test]
fn a_node_that_prefixes_share_is_in_the_set_and_nobody_is_named() {
    for seed in 0..6 {
        let said = play(&calm(Fault::Node, seed));
        assert!(names(&said).is_empty(), "{:#?}", names(&said));
        let sets: Vec<_> = said
            .iter()
            .flatten()
            .filter(|verdict| verdict.segments.len() > 1)
            .collect();
        assert!(sets.len() >= 10);
        assert!(
            sets.iter()
                .all(|verdict| verdict.segments.contains(&Segment::AccessShared))
        );
    }
}

#[test]
fn without_counters_of_our_own_the_host_is_one_of_a_set() {
    let said = play(&Course {
        counters: false,
        ..calm(Fault::Host, 1)
    });
    assert!(names(&said).is_empty(), "{:#?}", names(&said));
    let sets: Vec<_> = said
        .iter()
        .flatten()
        .filter(|verdict| verdict.degraded == Some(true))
        .collect();
    assert!(sets.len() >= 10);
    assert!(
        sets.iter()
            .all(|verdict| verdict.segments.contains(&Segment::Host))
    );
}

#[test]
fn a_delay_alone_may_be_on_the_way_back() {
    for fault in [Fault::Interconnect("ic-a"), Fault::Isp("isp-x")] {
        let said = play(&Course {
            life: Life::queued(40_000),
            ..calm(fault, 2)
        });
        assert!(names(&said).is_empty(), "{:#?}", names(&said));
        let sets: Vec<_> = said
            .iter()
            .flatten()
            .filter(|verdict| verdict.segments.len() > 1)
            .collect();
        assert!(sets.len() >= 10);
        for verdict in sets {
            assert!(
                verdict.segments.contains(&Segment::ReversePath),
                "{verdict:#?}"
            );
            assert!(
                verdict
                    .segments
                    .contains(&fault.segment().expect("a fault")),
                "{verdict:#?}"
            );
        }
    }
}

#[test]
fn losses_without_delay_are_enough() {
    let shallow = Life {
        loss: 0.03,
        rate: 0.5,
        ..Life::default()
    };
    for fault in [Fault::Interconnect("ic-b"), Fault::Isp("isp-y")] {
        let said = play(&Course {
            life: shallow,
            ..calm(fault, 3)
        });
        let names = names(&said);
        assert!(names.len() >= 8, "named in {} windows", names.len());
        assert!(
            names.iter().all(|verdict| fault.is_named_by(verdict)),
            "{names:#?}"
        );
    }
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Nothing),
        prop_oneof![Just("ic-a"), Just("ic-b")].prop_map(Fault::Interconnect),
        prop_oneof![Just("isp-x"), Just("isp-y")].prop_map(Fault::Isp),
        Just(Fault::Host),
        (0usize..32).prop_map(Fault::Home),
        Just(Fault::Node),
    ]
}

fn any_life() -> impl Strategy<Value = Life> {
    (0u32..80_000, 0.0f64..0.05, 0.1f64..1.0).prop_map(|(queue_us, loss, rate)| Life {
        queue_us,
        loss,
        rate,
        ..Life::default()
    })
}

impl Played {
    /// Whether the window's verdict names a home that had trouble of its own.
    fn is_trouble(&self, window: usize, verdict: &VerdictRecord) -> bool {
        let prefix = verdict.prefix.map(|prefix| prefix.to_string());
        verdict.segments == [Segment::LastMile]
            && (0..32).any(|home| {
                prefix == Some(format!("10.0.{}.0/24", home / 2)) && self.troubled[window][home]
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// The rule above all: whatever happens, however it begins and ends, whoever is silent or
    /// has trouble of his own, a name is the culprit's.
    #[test]
    fn a_name_is_never_wrong(
        (fault, second) in (any_fault(), prop_oneof![3 => Just(Fault::Nothing), 1 => any_fault()]),
        (life, scale) in (any_life(), prop_oneof![Just(HD), Just(SMALL), Just(MIXED)]),
        stagger in 0.0f64..2.0,
        silent in 0.0f64..0.6,
        troubled in prop_oneof![Just(0.0), 0.0f64..0.3],
        (counters, ports) in (any::<bool>(), any::<bool>()),
        seed in any::<u64>(),
    ) {
        let course =
            Course { fault, second, life, scale, stagger, silent, troubled, counters, ports, seed };
        let played = play_all(&course);
        for (window, said) in played.said.iter().enumerate() {
            for verdict in said.iter().filter(|verdict| verdict.segments.len() == 1) {
                let right = fault.is_named_by(verdict)
                    || second.is_named_by(verdict)
                    || played.is_trouble(window, verdict);
                prop_assert!(right, "{course:?} named {verdict:#?}");
            }
        }
    }
}
