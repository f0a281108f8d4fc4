//! Our own ports' counters: what they name, what they clear, and all the ways in which they must
//! not be believed.

use std::sync::Arc;

use super::*;
use crate::path::ports::{InterconnectPorts, PortWindow};
use crate::verdict::scene::RiskGroups;

fn port(utilisation: f64, drop_share: f64) -> PortWindow {
    PortWindow {
        covered: 0.9,
        samples: 4,
        utilisation: Some(utilisation),
        drop_share: Some(drop_share),
        error_share: Some(0.0),
        drops: Some((drop_share * 1e6) as u64),
        speed_bps: Some(10_000_000_000),
        age_us: Some(5_000_000),
        resets: 0,
    }
}

fn full() -> PortWindow {
    port(0.99, 0.01)
}

fn clean() -> PortWindow {
    port(0.4, 0.0)
}

struct Case {
    votes: Vec<Vote>,
    ports: Vec<(&'static str, PortWindow)>,
    groups: Vec<(&'static str, &'static str)>,
}

impl Case {
    fn of(votes: Vec<Vote>) -> Self {
        Self {
            votes,
            ports: Vec::new(),
            groups: Vec::new(),
        }
    }

    fn port(mut self, interconnect: &'static str, port: PortWindow) -> Self {
        self.ports.push((interconnect, port));
        self
    }

    fn sharing(mut self, group: &'static str, interconnects: &[&'static str]) -> Self {
        self.groups
            .extend(interconnects.iter().map(|name| (*name, group)));
        self
    }

    fn decide(self) -> Vec<Verdict> {
        let mut groups: std::collections::BTreeMap<Arc<str>, Vec<Arc<str>>> = Default::default();
        for (interconnect, group) in self.groups {
            groups
                .entry(interconnect.into())
                .or_default()
                .push(group.into());
        }
        let groups = groups.into_iter().map(|(name, of)| (name, of.into()));
        let window = Window {
            votes: self.votes,
            observations: 100,
            risk_groups: RiskGroups(groups.collect()),
            ..Window::default()
        };
        let ports = self.ports.into_iter().map(|(name, it)| (name.into(), it));
        let ports = InterconnectPorts(ports.collect());
        let quiet = LocalCounters::default();
        decide(&window, Some(&quiet), Some(&ports), &Thresholds::default())
    }

    fn only(self) -> Verdict {
        let mut verdicts = self.decide();
        assert_eq!(verdicts.len(), 1, "{verdicts:#?}");
        verdicts.remove(0)
    }

    /// Whom verdicts with one name name.
    fn names(self) -> Vec<(Place, Segment)> {
        self.decide()
            .into_iter()
            .filter(|verdict| verdict.segments.len() == 1)
            .map(|verdict| (verdict.place.clone(), names(&verdict)[0]))
            .collect()
    }
}

/// One interconnect dedicated to one ISP, bad; another one, for another ISP, good.
fn dedicated() -> Vec<Vote> {
    [group("a", "x", 6, Bad), group("bb", "yy", 6, Good)].concat()
}

fn with_signs(mut votes: Vec<Vote>, queue: bool, loss: bool) -> Vec<Vote> {
    let bad = votes
        .iter_mut()
        .flat_map(|vote| Arc::make_mut(&mut vote.clients))
        .filter(|client| client.is_bad());
    for client in bad {
        client.signs.queue = queue;
        client.signs.loss = loss;
        if !queue {
            client.comparison.rtt = sign(0.0, 5_000.0);
        }
        if !loss {
            client.comparison.loss = sign(0.0, 0.01);
        }
    }
    votes
}

#[test]
fn a_full_port_names_its_interconnect_with_one_isp_behind_it() {
    let verdict = Case::of(dedicated()).port("a", full()).only();
    assert_eq!(names(&verdict), [Segment::Interconnect], "{verdict:#?}");
    assert_eq!(verdict.place, Place::Interconnect("a".into()));
    assert!(verdict.open.is_empty());
    for (kind, value, threshold) in [
        ("port_utilisation", 0.99, 0.95),
        ("port_drop_share", 0.01, 0.001),
    ] {
        let item = verdict.evidence.iter().find(|item| item.kind == kind);
        let item = item.unwrap_or_else(|| panic!("no {kind}: {verdict:#?}"));
        assert_eq!((item.value, item.threshold), (Some(value), Some(threshold)));
        assert_eq!((item.samples, &*item.supports), (4, "interconnect"));
    }
}

#[test]
fn a_full_port_names_it_even_where_it_is_the_only_interconnect() {
    let votes = [group("a", "x", 6, Bad), group("a", "yy", 6, Bad)].concat();
    let verdict = Case::of(votes).port("a", full()).only();
    assert_eq!(names(&verdict), [Segment::Interconnect], "{verdict:#?}");
    let verdict = Case::of(group("a", "x", 6, Bad)).port("a", full()).only();
    assert_eq!(names(&verdict), [Segment::Interconnect], "{verdict:#?}");
}

#[test]
fn a_port_with_room_leaves_the_isp_and_its_shared_nodes() {
    let verdict = Case::of(dedicated()).port("a", clean()).only();
    assert_eq!(
        names(&verdict),
        [Segment::Isp, Segment::AccessShared],
        "{verdict:#?}"
    );
    let why = verdict
        .rejected
        .iter()
        .find(|other| other.segment == Some(Segment::Interconnect));
    assert!(
        why.is_some_and(|why| why.why.contains("40 % full")),
        "{why:?}"
    );
    let shown = verdict
        .evidence
        .iter()
        .find(|item| item.kind == "port_utilisation");
    assert_eq!(shown.map(|item| &*item.supports), Some("none"));
}

#[test]
fn ports_with_room_on_two_direct_paths_name_the_isp_without_another_isp_on_them() {
    let votes = || {
        [
            group("a", "x", 4, Bad),
            group("bb", "x", 4, Bad),
            group("ccc", "yy", 4, Good),
        ]
        .concat()
    };
    let verdict = Case::of(votes()).port("a", clean()).port("bb", clean());
    let verdict = verdict.only();
    assert_eq!(names(&verdict), [Segment::Isp], "{verdict:#?}");
    for case in [
        Case::of(votes()),
        Case::of(votes()).port("a", clean()),
        Case::of(votes()).port("a", clean()).port("bb", full()),
        // What one router does to both paths is no second witness.
        Case::of(votes())
            .port("a", clean())
            .port("bb", clean())
            .sharing("router-1", &["a", "bb"]),
    ] {
        assert_eq!(case.names(), []);
    }
}

#[test]
fn a_full_port_alone_names_nobody() {
    for votes in [
        site(Good, Good, Good, Good),
        site(Unsettled, Unsettled, Good, Good),
    ] {
        let case = Case::of(votes).port("a", full()).port("bb", full());
        let verdict = case.only();
        assert_eq!(verdict.degraded, Some(false), "{verdict:#?}");
        assert!(verdict.segments.is_empty());
    }
}

#[test]
fn the_counters_of_another_port_name_nobody() {
    assert_eq!(Case::of(dedicated()).port("bb", full()).names(), []);
    assert_eq!(Case::of(dedicated()).port("ccc", full()).names(), []);
}

#[test]
fn stale_counters_say_nothing() {
    for (mut port, set) in [(full(), "full"), (clean(), "clean")] {
        port.covered = 0.5;
        let verdict = Case::of(dedicated()).port("a", port).only();
        assert_eq!(
            names(&verdict),
            [Segment::Interconnect, Segment::Isp, Segment::AccessShared],
            "{set}"
        );
        assert!(
            verdict
                .evidence
                .iter()
                .all(|item| !item.kind.starts_with("port_"))
        );
    }
}

#[test]
fn drops_in_the_other_direction_or_of_an_unknown_share_are_nothing() {
    // `in` counters have no place in a window's figures at all; unknown `out` drops clear nobody.
    let unknown = PortWindow {
        drop_share: None,
        ..clean()
    };
    let verdict = Case::of(dedicated()).port("a", unknown).only();
    assert!(verdict.segments.contains(&Segment::Interconnect));
    let unknown = PortWindow {
        utilisation: None,
        drop_share: Some(0.0),
        ..clean()
    };
    let verdict = Case::of(dedicated()).port("a", unknown).only();
    assert!(verdict.segments.contains(&Segment::Interconnect));
}

#[test]
fn a_port_that_does_not_explain_what_the_clients_suffer_names_nobody() {
    for (what, port, queue, loss) in [
        (
            "a queue behind a port with room",
            port(0.3, 0.002),
            true,
            true,
        ),
        (
            "2 % lost behind one that drops nothing",
            port(0.97, 0.0),
            true,
            true,
        ),
        (
            "2 % lost behind one that drops 0.11 %",
            port(0.5, 0.0011),
            false,
            true,
        ),
        (
            "neither queue nor loss behind some drops",
            port(0.5, 0.002),
            false,
            false,
        ),
    ] {
        let votes = with_signs(dedicated(), queue, loss);
        let verdict = Case::of(votes).port("a", port).only();
        assert!(verdict.segments.len() > 1, "{what}: {verdict:#?}");
        assert!(verdict.segments.contains(&Segment::Interconnect), "{what}");
    }
}

#[test]
fn a_port_that_explains_losses_without_a_queue_is_named() {
    let votes = with_signs(dedicated(), false, true);
    let verdict = Case::of(votes).port("a", port(0.5, 0.015)).only();
    assert_eq!(names(&verdict), [Segment::Interconnect], "{verdict:#?}");
}

#[test]
fn a_port_with_room_does_not_clear_its_link_of_losses_without_a_queue() {
    // Frames that a dirty fibre damages were sent by the port.
    let votes = with_signs(dedicated(), false, true);
    let verdict = Case::of(votes).port("a", clean()).only();
    assert!(
        verdict.segments.contains(&Segment::Interconnect),
        "{verdict:#?}"
    );
}

#[test]
fn a_full_port_behind_which_somebody_is_good_is_not_named_and_not_cleared() {
    let verdict = Case::of(site(Bad, Good, Good, Good))
        .port("a", full())
        .only();
    assert!(verdict.segments.contains(&Segment::Interconnect));
    assert!(verdict.segments.len() > 1, "{verdict:#?}");
}

#[test]
fn a_full_port_is_not_named_for_an_isp_that_is_bad_elsewhere_too() {
    for elsewhere in [Bad, Unsettled] {
        let votes = || {
            [
                group("a", "x", 4, Bad),
                group("bb", "x", 4, elsewhere),
                group("bb", "yy", 4, Good),
            ]
            .concat()
        };
        assert_eq!(Case::of(votes()).port("a", full()).names(), []);
        let clean_elsewhere = Case::of(votes()).port("a", full()).port("bb", clean());
        assert_eq!(clean_elsewhere.names(), []);
    }
}

#[test]
fn an_isp_is_not_named_while_a_port_toward_it_is_full() {
    assert_eq!(
        Case::of(site(Bad, Good, Bad, Good)).names(),
        [(
            Place::Isp {
                isp: "x".into(),
                origin_asn: 64_500
            },
            Segment::Isp
        )]
    );
    assert_eq!(
        Case::of(site(Bad, Good, Bad, Good))
            .port("a", full())
            .names(),
        []
    );
}

#[test]
fn one_home_is_not_named_while_its_port_is_full() {
    assert_eq!(Case::of(with_prefix(&[Bad, Good])).names().len(), 1);
    assert_eq!(
        Case::of(with_prefix(&[Bad, Good]))
            .port("a", full())
            .names(),
        []
    );
}

#[test]
fn two_isps_bad_behind_a_port_with_room_are_a_contradiction_that_names_nobody() {
    let verdict = Case::of(site(Bad, Bad, Good, Good))
        .port("a", clean())
        .only();
    assert_eq!(
        names(&verdict),
        [Segment::OwnNetwork, Segment::Interconnect],
        "{verdict:#?}"
    );
    assert_eq!(verdict.place, Place::Interconnect("a".into()));
    // A stale one contradicts nothing.
    let mut stale = clean();
    stale.covered = 0.0;
    let verdict = Case::of(site(Bad, Bad, Good, Good)).port("a", stale).only();
    assert_eq!(names(&verdict), [Segment::Interconnect]);
}

/// Two interconnects bad at once, and a third one good for the same ISPs.
fn three(third: Standing) -> Vec<Vote> {
    [
        group("a", "x", 4, Bad),
        group("a", "yy", 4, Bad),
        group("bb", "x", 4, Bad),
        group("bb", "yy", 4, Bad),
        group("ccc", "x", 4, third),
        group("ccc", "yy", 4, third),
    ]
    .concat()
}

#[test]
fn members_of_one_risk_group_that_are_bad_together_may_be_what_they_share() {
    let verdicts = Case::of(three(Good))
        .sharing("fabric-1", &["a", "bb"])
        .decide();
    assert_eq!(verdicts.len(), 2, "{verdicts:#?}");
    for verdict in &verdicts {
        assert_eq!(
            names(verdict),
            [Segment::OwnNetwork, Segment::Interconnect],
            "{verdict:#?}"
        );
        let why = verdict
            .open
            .iter()
            .find(|other| other.segment == Some(Segment::Interconnect));
        assert!(
            why.is_some_and(|why| why.why.contains("fabric-1")),
            "{why:?}"
        );
    }
    // With nothing in common each of them makes the other one's ISPs no witness.
    for verdict in Case::of(three(Good)).decide() {
        assert!(verdict.segments.len() > 1, "{verdict:#?}");
    }
}

#[test]
fn a_member_of_a_risk_group_is_named_when_the_other_is_good_or_its_own_port_is_full() {
    let case = Case::of(site(Bad, Bad, Good, Good)).sharing("router-1", &["a", "bb"]);
    assert_eq!(
        case.names(),
        [(Place::Interconnect("a".into()), Segment::Interconnect)]
    );
    let case = Case::of(three(Good))
        .sharing("fabric-1", &["a", "bb"])
        .port("a", full())
        .port("bb", full());
    assert_eq!(
        case.names(),
        [
            (Place::Interconnect("a".into()), Segment::Interconnect),
            (Place::Interconnect("bb".into()), Segment::Interconnect)
        ]
    );
}

#[test]
fn many_interconnects_of_one_risk_group_are_one() {
    let everything = || three(Bad);
    let interconnect_is_rejected = |verdict: &Verdict| {
        verdict
            .rejected
            .iter()
            .any(|other| other.segment == Some(Segment::Interconnect))
    };
    assert!(interconnect_is_rejected(&Case::of(everything()).only()));
    let shared = Case::of(everything()).sharing("router-1", &["a", "bb", "ccc"]);
    let verdict = shared.only();
    assert!(!interconnect_is_rejected(&verdict), "{verdict:#?}");
    assert!(verdict.segments.contains(&Segment::OwnNetwork));
}

#[test]
fn risk_groups_join_through_each_other() {
    let groups = RiskGroups(
        [
            ("a", &["g1"][..]),
            ("b", &["g1", "g2"]),
            ("c", &["g2"]),
            ("d", &["g3"]),
        ]
        .into_iter()
        .map(|(name, of)| {
            let of: Vec<Arc<str>> = of.iter().map(|group| (*group).into()).collect();
            (name.into(), of.into())
        })
        .collect(),
    );
    let names: Vec<Arc<str>> = ["a", "c", "d", "b", "e"].map(Into::into).to_vec();
    assert_eq!(groups.independent(&names), 3);
    assert_eq!(groups.independent(&names[..2]), 2, "b is not looked at");
}

fn any_port() -> impl Strategy<Value = Option<PortWindow>> {
    let figures = (0.0f64..1.2, 0.0f64..0.03, 0.0f64..1.0, any::<bool>());
    prop::option::of(
        figures.prop_map(|(utilisation, drops, covered, counts_drops)| PortWindow {
            covered,
            drop_share: counts_drops.then_some(drops),
            ..port(utilisation, 0.0)
        }),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever ports say, a verdict stays whole, and a name that they add is that of an
    /// interconnect whose own fresh port is full and behind which nobody is good, or of an ISP
    /// that is bad on every way.
    #[test]
    fn ports_add_no_name_but_their_own(
        votes in any_votes(),
        a in any_port(),
        bb in any_port(),
        shared in any::<bool>(),
    ) {
        let without: BTreeSet<Name> = Case::of(votes.clone()).names().into_iter().collect();
        let mut case = Case::of(votes.clone());
        for (name, port) in [("a", &a), ("bb", &bb)] {
            if let Some(port) = port {
                case = case.port(name, port.clone());
            }
        }
        if shared {
            case = case.sharing("router", &["a", "bb"]);
        }
        let ports: std::collections::BTreeMap<&str, PortWindow> = case
            .ports
            .iter()
            .map(|(name, port)| (*name, port.clone()))
            .collect();
        for verdict in case.decide() {
            let rejected = verdict.rejected.iter().filter(|other| other.segment.is_some()).count();
            if verdict.degraded == Some(true) {
                prop_assert_eq!(verdict.segments.len() + rejected, Segment::ALL.len());
                prop_assert!(!verdict.segments.is_empty(), "{:#?}", verdict);
                prop_assert!(verdict.segments.len() > 1 || verdict.open.is_empty());
            }
            if verdict.segments.len() != 1 {
                continue;
            }
            let name = (verdict.place.clone(), names(&verdict)[0]);
            if without.contains(&name) {
                continue;
            }
            match name {
                (Place::Interconnect(name), Segment::Interconnect) => {
                    let port = ports.get(&*name);
                    prop_assert!(
                        port.is_some_and(|port| !port.is_stale()
                            && (port.utilisation >= Some(0.95) || port.drop_share >= Some(0.001))),
                        "{} named by {:?} in {}", name, port, in_short(&votes)
                    );
                }
                (Place::Isp { isp, .. }, Segment::Isp) => {
                    let ways = votes.iter().filter(|vote| vote.cell.isp == isp);
                    for (_, tally) in scene::tallies(ways, |cell| &cell.interconnect) {
                        prop_assert!(tally.bad() >= 0.8, "{} in {}", isp, in_short(&votes));
                    }
                    prop_assert!(!shared);
                }
                other => prop_assert!(false, "{other:?} in {}", in_short(&votes)),
            }
        }
    }
}
