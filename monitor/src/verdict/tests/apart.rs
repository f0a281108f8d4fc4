//! What separates a segment from its neighbours: each rule with its comparison, and without.

use super::super::standing::Track;
use super::*;
use crate::cell::Arms;
use crate::path::ports::PortWindow;

/// Prefixes `from` and up, with three clients each.
fn prefixes(interconnect: &str, isp: &str, from: u8, count: u8, standing: Standing) -> Vec<Vote> {
    (from..from + count)
        .map(|prefix| vote(interconnect, isp, prefix, &[standing; 3]))
        .collect()
}

fn clean_ports(names: &[&str]) -> InterconnectPorts {
    let clean = PortWindow {
        covered: 1.0,
        samples: 2,
        utilisation: Some(0.4),
        drop_share: Some(0.0),
        error_share: Some(0.0),
        ..PortWindow::default()
    };
    let ports = names.iter().map(|name| ((*name).into(), clean.clone()));
    InterconnectPorts(ports.collect())
}

fn clean_devices() -> LocalCounters {
    LocalCounters {
        devices: vec![DeviceCounters {
            interface: "eth0".into(),
            sent_bytes: 1 << 30,
            sent_packets: 1_000_000,
            qdisc_dropped: 0,
            qdisc_backlog_min_bytes: 0,
            nic_tx_dropped: 0,
        }],
        window_us: 60_000_000,
    }
}

fn decided(
    votes: Vec<Vote>,
    local: Option<&LocalCounters>,
    ports: Option<&InterconnectPorts>,
) -> Vec<Vec<Segment>> {
    let window = Window {
        votes,
        observations: 100,
        ..Window::default()
    };
    let verdicts = decide(&window, local, ports, &Thresholds::default());
    verdicts.iter().map(names).collect()
}

#[test]
fn the_same_prefixes_elsewhere_name_an_interconnect_with_one_isp_behind_it() {
    let here = prefixes("a", "x", 0, 4, Bad);
    // Other prefixes of the same ISP are no such comparison.
    let others = [here.clone(), prefixes("b", "x", 100, 4, Good)].concat();
    assert_ne!(decided(others, None, None), [[Segment::Interconnect]]);
    let same_prefixes = || [here.clone(), prefixes("b", "x", 0, 4, Good)].concat();
    let same = same_prefixes();
    assert_eq!(decided(same.clone(), None, None), [[Segment::Interconnect]]);
    // Sent there by an experiment: the verdict says so, with the share.
    let experiments = |votes: &[Vote]| {
        let window = Window {
            votes: votes.to_vec(),
            observations: 100,
            ..Window::default()
        };
        let verdicts = decide(&window, None, None, &Thresholds::default());
        let told = verdicts.into_iter().flat_map(|verdict| verdict.evidence);
        let told = told.filter(|it| it.kind == "route_experiment_flow_share");
        told.map(|it| (it.value, it.samples)).collect::<Vec<_>>()
    };
    assert_eq!(experiments(&same), []);
    let divided = |clients: usize| {
        let mut votes = same.clone();
        for vote in &mut votes {
            let is_sent = *vote.cell.interconnect == *"b";
            let mut of: Vec<_> = vote.clients.to_vec();
            for client in of.iter_mut().take(clients) {
                let flows = client.observations;
                client.arms = Arms {
                    other_way: if is_sent { flows } else { 0 },
                    default_way: if is_sent { 0 } else { flows },
                    waiting: 0,
                };
            }
            vote.clients = of.into();
        }
        votes
    };
    let some = experiments(&divided(1));
    assert_eq!(
        some,
        [],
        "of some of them something else than chance decided"
    );
    let all = experiments(&divided(usize::MAX));
    let [(Some(share), samples)] = all[..] else {
        panic!("one item: {all:?}");
    };
    assert!(
        share > 0.0 && share < 1.0 && samples > 0,
        "{share} of {samples}"
    );
    // What both share may be at fault.
    let window = Window {
        votes: same,
        observations: 100,
        risk_groups: RiskGroups(
            ["a", "b"]
                .map(|name| (name.into(), ["router-1".into()].into()))
                .into(),
        ),
        ..Window::default()
    };
    let shared = decide(&window, None, None, &Thresholds::default());
    assert!(shared.iter().all(|verdict| verdict.segments.len() > 1));
    // One that is good behind it, before anything is set aside and after.
    let spared = [same_prefixes(), prefixes("a", "w", 200, 9, Good)].concat();
    let ailing = vote("a", "w", 220, &[Bad, Good, Good]);
    let spared = decided([spared, vec![ailing]].concat(), None, None);
    assert!(!spared.contains(&vec![Segment::Interconnect]), "{spared:?}");
    // As bad there: it is no interconnect's.
    let both = [here.clone(), prefixes("b", "x", 0, 4, Bad)].concat();
    assert!(!decided(both, None, None).concat().is_empty());
}

#[test]
fn a_transit_is_named_behind_a_port_with_room_and_with_good_ways_beside_it() {
    let through = |direct: bool| {
        let mut votes = [
            prefixes("t", "x", 0, 4, Bad),
            prefixes("t", "y", 10, 4, Bad),
        ]
        .concat();
        for vote in &mut votes {
            vote.cell.direct = direct;
        }
        let beside = [
            prefixes("a", "x", 20, 4, Good),
            prefixes("a", "y", 30, 4, Good),
        ];
        [votes, beside.concat()].concat()
    };
    let ports = clean_ports(&["t", "a"]);
    let named = decided(through(false), None, Some(&ports));
    // What leads to its port may be ours, unless another port at the same router is good.
    assert_eq!(named, [[Segment::OwnNetwork, Segment::Transit]]);
    let window = Window {
        votes: through(false),
        observations: 100,
        risk_groups: RiskGroups(
            ["a", "t"]
                .map(|name| (name.into(), ["router-1".into()].into()))
                .into(),
        ),
        ..Window::default()
    };
    let named = decide(&window, None, Some(&ports), &Thresholds::default());
    assert_eq!(names(&named[0]), [Segment::Transit]);
    let unknown = decided(through(false), None, None);
    assert_eq!(unknown, [[Segment::Interconnect, Segment::Transit]]);
    // Where it leads to the ISPs themselves, a queue before an idle port is ours or nobody's.
    let direct = decided(through(true), None, Some(&ports));
    assert!(!direct.concat().contains(&Segment::Transit), "{direct:?}");
    assert!(direct.iter().all(|segments| segments.len() > 1));
}

#[test]
fn whole_prefixes_among_good_ones_share_a_node() {
    // One home has a whole IPv6 prefix, and devices.
    let home = vote("a", "x", 0, &[Bad; 3]);
    let beside = prefixes("a", "x", 50, 9, Good);
    let home = decided([vec![home], beside].concat(), None, None);
    assert!(home.iter().all(|segments| segments.len() > 1), "{home:?}");
    let node = |bad: &[[Standing; 3]]| {
        let bad = bad.iter().zip(0..);
        let bad: Vec<Vote> = bad
            .map(|(clients, prefix)| vote("a", "x", prefix, clients))
            .collect();
        let beside = [
            prefixes("a", "x", 50, 5, Good),
            prefixes("a", "y", 60, 5, Good),
        ];
        [bad, beside.concat()].concat()
    };
    let whole = decided(node(&[[Bad; 3]; 2]), None, None);
    assert_eq!(whole, [[Segment::AccessShared]]);
    // A member of a bundle has a part of every prefix.
    let part = decided(node(&[[Bad, Bad, Good], [Bad, Good, Good]]), None, None);
    assert!(part.iter().all(|segments| segments.len() > 1), "{part:?}");
    // More of an ISP than a node has.
    let most = decided(node(&[[Bad; 3]; 4]), None, None);
    assert!(most.iter().all(|segments| segments.len() > 1), "{most:?}");
    // The same prefixes are good another way.
    let twins = [node(&[[Bad; 3]; 2]), prefixes("b", "x", 0, 2, Good)].concat();
    let twins = decided(twins, None, None);
    assert!(!twins.contains(&vec![Segment::AccessShared]), "{twins:?}");
    // Others behind the interconnect have the same trouble.
    let mut shared = node(&[[Bad; 3]; 2]);
    shared.push(vote("a", "y", 70, &[Bad; 3]));
    let shared = decided(shared, None, None);
    let nodes = shared.iter().filter(|it| **it == [Segment::AccessShared]);
    assert_eq!(nodes.count(), 0, "{shared:?}");
}

#[test]
fn a_node_waits_for_what_may_be_wider() {
    let fresh = |mut votes: Vec<Vote>| {
        for vote in &mut votes {
            let clients = vote.clients.iter().map(|client| Client {
                track: match client.is_bad() {
                    true => Track::bad_for(3),
                    false => client.track,
                },
                ..client.clone()
            });
            vote.clients = clients.collect();
        }
        votes
    };
    let votes = [
        prefixes("a", "x", 0, 2, Bad),
        prefixes("a", "x", 50, 5, Good),
        prefixes("a", "y", 60, 5, Good),
    ]
    .concat();
    assert_eq!(decided(votes.clone(), None, None).len(), 1);
    assert_ne!(decided(fresh(votes), None, None), [[Segment::AccessShared]]);
}

#[test]
fn one_isps_full_windows_are_a_middlebox_and_everybodys_are_not() {
    let limited = |isp: &str, from: u8| {
        let mut votes = prefixes("a", isp, from, 4, Bad);
        for vote in &mut votes {
            let clients = vote.clients.iter().map(|client| Client {
                track: {
                    let mut track = client.track;
                    track.rate_only = true;
                    track
                },
                signs: Signs {
                    rate: true,
                    ..Signs::default()
                },
                comparison: Comparison {
                    rate: sign(0.8, 0.5),
                    ..Comparison::default()
                },
                rwnd_limited_share: 0.9,
                ..client.clone()
            });
            vote.clients = clients.collect();
        }
        votes
    };
    let good = prefixes("a", "y", 40, 4, Good);
    let one = [limited("x", 0), good].concat();
    assert_eq!(decided(one, None, None), [[Segment::BehindProxy]]);
    let everybody = [limited("x", 0), limited("y", 40)].concat();
    assert_eq!(decided(everybody, None, None), [[]; 1]);
    // Nobody to compare with.
    assert_eq!(decided(limited("x", 0), None, None), [[]; 1]);
}

#[test]
fn losses_after_our_clean_devices_and_before_our_clean_ports_are_our_networks() {
    let all = [("a", "x", 0), ("b", "y", 10), ("c", "z", 20)];
    let votes: Vec<Vote> = all
        .iter()
        .flat_map(|(interconnect, isp, from)| prefixes(interconnect, isp, *from, 4, Bad))
        .collect();
    let (devices, ports) = (clean_devices(), clean_ports(&["a", "b", "c"]));
    let named = decided(votes.clone(), Some(&devices), Some(&ports));
    assert_eq!(named, [[Segment::OwnNetwork]]);
    let unread = decided(votes, None, Some(&ports));
    assert_eq!(unread, [[Segment::Host, Segment::OwnNetwork]]);
}

#[test]
fn a_full_queue_of_ours_explains_what_everybody_feels_a_little() {
    // Losses of half of what harms: most clients are neither good nor bad.
    let a_little = |interconnect: &str, isp: &str, from: u8| {
        let mut votes = prefixes(interconnect, isp, from, 4, Unsettled);
        votes.push(vote(interconnect, isp, from + 4, &[Bad; 3]));
        for vote in &mut votes {
            let clients = vote.clients.iter().map(|client| Client {
                comparison: Comparison {
                    loss: sign(0.006, 0.01),
                    ..client.comparison
                },
                ..client.clone()
            });
            vote.clients = clients.collect();
        }
        votes
    };
    let votes = [a_little("a", "x", 0), a_little("b", "y", 10)].concat();
    let mut full = clean_devices();
    full.devices[0].qdisc_dropped = 20_000;
    let named = decided(votes.clone(), Some(&full), None);
    assert_eq!(named, [[Segment::Host]]);
    let clean = decided(votes, Some(&clean_devices()), None);
    assert!(!clean.contains(&vec![Segment::Host]), "{clean:?}");
}
