//! On which side of a tap a segment was lost, against the drop log of real queues: real Linux TCP
//! from a sender through a queue, past the tap, through another queue, to a receiver.

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    thread,
    time::{Duration, Instant},
};

use lastmile::{
    capture::{
        live::Hook,
        replay::{Captured, HostTables},
    },
    netlink::{Netlink, Queue},
};
use lastmile_lab::netns;
use monitor_ebpf::{
    flow::{Address, FlowKey, FlowState, Half},
    observe::{Tables as _, observe},
    packet::Link,
    select::{Settings, settings_flags},
};
use support::{
    chain::{Chain, LEFT, RIGHT, queue_or_skip},
    ethtool,
    net::PORT,
    observer::{Observer, Sight},
    receiver,
    ring::Ring,
    segment::{SYN, Segment},
    transfer::Downloads,
    truth::{self, Truth},
};

/// The hosts of the chain.
const SENDER: usize = 0;
const FIRST_QUEUE: usize = 1;
const TAP: usize = 2;
const SECOND_QUEUE: usize = 3;
const RECEIVER: usize = 4;
const HOSTS: usize = 5;

/// Packets that one capture has room for: several times what a case sends.
const RING_PACKETS: usize = 160_000;
/// From the tap to the receiver and back: what overtakes skips one of the two delays.
const SHORTEST_NS: u64 = 10_000_000;
/// Longer than the queues need to run dry, under emulation too.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the design asks for: the right side for so many retransmissions of a thousand.
const RIGHT_PERMILLE: u32 = 995;
/// Fewer retransmissions than this would prove nothing.
const RETRANSMISSIONS_MIN: u32 = 2_000;

/// What counts packets that had reached the receiver's device and that its TCP threw away for want
/// of room, in /proc/net/netstat ...
const THROWN_AWAY: [&str; 7] = [
    "TCPRcvQDrop",
    "TCPOFODrop",
    "TCPZeroWindowDrop",
    "TCPBacklogDrop",
    "PruneCalled",
    "RcvPruned",
    "OfoPruned",
];
/// ... and those whose timestamp was too old for it (RFC 7323, 5.3): what a retransmission with a
/// newer one has overtaken.
const TOO_OLD: &str = "PAWSEstab";
/// How many of those may be others in one case: a packet that comes while the application holds the
/// socket is looked at later, which no capture shows.
const TOO_OLD_ERROR: u64 = 8;

/// A path of 40 ms and what is wrong with it. Each queue delays by a quarter of that, and what it
/// lets through at once overtakes all that it holds: reordering by a quarter of the RTT.
struct Case {
    name: &'static str,
    /// netem's words for the queue before the tap and the one behind it, toward the receiver.
    before: &'static str,
    behind: &'static str,
    /// And for the acknowledgements, behind the tap and before it.
    acks: &'static str,
    congestion_control: &'static str,
    sack: bool,
    timestamps: bool,
}

const PLAIN: Case = Case {
    name: "",
    before: "",
    behind: "",
    acks: "",
    congestion_control: "cubic",
    sack: true,
    timestamps: true,
};

const CASES: [Case; 9] = [
    Case {
        name: "random loss behind the tap",
        behind: "loss random 3%",
        ..PLAIN
    },
    Case {
        name: "random loss before the tap",
        before: "loss random 3%",
        ..PLAIN
    },
    Case {
        name: "random loss on both sides, acknowledgements lost too",
        before: "loss random 2%",
        behind: "loss random 2%",
        acks: "loss random 2%",
        ..PLAIN
    },
    Case {
        name: "bursts of loss on both sides",
        before: "loss gemodel 1% 30%",
        behind: "loss gemodel 1% 30%",
        ..PLAIN
    },
    Case {
        name: "bursts of loss on both sides, bbr",
        before: "loss gemodel 1% 30%",
        behind: "loss gemodel 1% 30%",
        congestion_control: "bbr",
        ..PLAIN
    },
    Case {
        name: "reordering before the tap, loss behind it",
        before: "reorder 3%",
        behind: "loss random 3%",
        ..PLAIN
    },
    Case {
        name: "reordering and loss on both sides, bbr",
        before: "reorder 3% loss random 2%",
        behind: "reorder 3% loss random 2%",
        congestion_control: "bbr",
        ..PLAIN
    },
    Case {
        name: "random loss on both sides, no SACK",
        before: "loss random 2%",
        behind: "loss random 2%",
        sack: false,
        ..PLAIN
    },
    Case {
        name: "random loss on both sides, no timestamps, bbr",
        before: "loss random 2%",
        behind: "loss random 2%",
        timestamps: false,
        congestion_control: "bbr",
        ..PLAIN
    },
];

/// What the tracker says of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Reordered,
    Upstream,
    Downstream,
    Spurious,
}

impl Said {
    /// By the counter that moved.
    fn between(before: &Half, after: &Half) -> Self {
        let moved = |count: fn(&Half) -> u32| count(after) != count(before);
        let said = [
            (moved(|half| half.spurious_segments), Self::Spurious),
            (moved(|half| half.lost_upstream_segments), Self::Upstream),
            (
                moved(|half| half.lost_downstream_segments),
                Self::Downstream,
            ),
            (moved(|half| half.reordered_segments), Self::Reordered),
        ];
        let mut said = said.iter().filter(|(moved, _)| *moved);
        match (said.next(), said.next()) {
            (None, _) => {
                assert!(
                    !moved(|half| half.retransmitted_segments),
                    "a retransmission without a class"
                );
                Self::Nothing
            }
            (Some((_, one)), None) => *one,
            _ => panic!("one wire segment of two classes: {before:?} {after:?}"),
        }
    }

    fn is_right(self, truth: Truth) -> bool {
        self == match truth {
            Truth::New | Truth::Unseen => Self::Nothing,
            Truth::Reordered => Self::Reordered,
            Truth::Upstream => Self::Upstream,
            Truth::Downstream => Self::Downstream,
            Truth::Spurious => Self::Spurious,
        }
    }
}

const TRUTHS: [Truth; 6] = [
    Truth::New,
    Truth::Unseen,
    Truth::Reordered,
    Truth::Upstream,
    Truth::Downstream,
    Truth::Spurious,
];
const SAID: [Said; 5] = [
    Said::Nothing,
    Said::Reordered,
    Said::Upstream,
    Said::Downstream,
    Said::Spurious,
];

/// How often what was true was said to be what.
#[derive(Default)]
struct Matrix(Vec<(Truth, Said)>);

impl Matrix {
    fn count(&self, wanted: impl Fn(Truth, Said) -> bool) -> u32 {
        let wanted = self.0.iter().filter(|&&(truth, said)| wanted(truth, said));
        wanted.count() as u32
    }

    /// What TCP sent again, as far as the tap can know.
    fn retransmissions(&self) -> u32 {
        self.count(|truth, _| is_retransmission(truth))
    }

    /// Wrong about the side that a retransmission was lost on, or that it was lost at all, or took
    /// something else for a retransmission.
    fn wrong(&self) -> u32 {
        let said_lost = |said| matches!(said, Said::Upstream | Said::Downstream | Said::Spurious);
        self.count(|truth, said| {
            !said.is_right(truth) && (is_retransmission(truth) || said_lost(said))
        })
    }

    /// Sent for nothing, and nobody said so: Linux's receiver holds acknowledgements back in a
    /// burst (SACK compression, 4.18) and keeps one DSACK of them. The sender does not know either.
    fn unnoticed(&self) -> u32 {
        self.count(|truth, said| (truth, said) == (Truth::Spurious, Said::Downstream))
    }

    fn false_upstream(&self) -> u32 {
        self.count(|truth, said| said == Said::Upstream && truth != Truth::Upstream)
    }

    fn show(&self) {
        println!(
            "    {:12}{:>10}{:>11}{:>10}{:>12}{:>10}",
            "truth", "nothing", "reordered", "upstream", "downstream", "spurious"
        );
        for truth in TRUTHS {
            let counts = SAID.map(|said| self.count(|t, s| (t, s) == (truth, said)));
            if counts.iter().any(|&count| count > 0) {
                let [nothing, reordered, upstream, downstream, spurious] = counts;
                println!(
                    "    {:12}{nothing:>10}{reordered:>11}{upstream:>10}{downstream:>12}\
                     {spurious:>10}",
                    format!("{truth:?}").to_lowercase()
                );
            }
        }
    }
}

fn is_retransmission(truth: Truth) -> bool {
    matches!(truth, Truth::Upstream | Truth::Downstream | Truth::Spurious)
}

#[test]
fn a_tap_knows_on_which_side_real_tcp_lost_its_segments() {
    if !support::root_or_skip("network namespaces and BPF programs") || !queue_or_skip("netem") {
        return;
    }
    let mut all = Matrix::default();
    for case in &CASES {
        let began = Instant::now();
        let matrix = play(case);
        println!(
            "{}: {} retransmissions, {} wrong, {} of these unnoticed, {} false upstream ({:.1} s)",
            case.name,
            matrix.retransmissions(),
            matrix.wrong(),
            matrix.unnoticed(),
            matrix.false_upstream(),
            began.elapsed().as_secs_f32()
        );
        matrix.show();
        all.0.extend(matrix.0);
    }
    let (total, wrong, unnoticed) = (all.retransmissions(), all.wrong(), all.unnoticed());
    let share = |count: u32| 100.0 * f64::from(count) / f64::from(total);
    println!(
        "all: {total} retransmissions, {wrong} wrong ({:.2} %), of these {unnoticed} sent for \
         nothing and taken for lost behind the tap ({:.2} %)",
        share(wrong),
        share(unnoticed)
    );
    all.show();
    assert!(total >= RETRANSMISSIONS_MIN, "only {total} retransmissions");
    assert_eq!(all.false_upstream(), 0, "false upstream");
    assert!(
        wrong * 1_000 <= total * (1_000 - RIGHT_PERMILLE),
        "{wrong} of {total} retransmissions wrong"
    );
}

/// Everything that was captured, and what the programs and the queues say.
struct Played {
    sent: Vec<Segment>,
    tap: Vec<Segment>,
    arrived: Vec<Segment>,
    /// Of what arrived, what the receiver's TCP did not discard.
    taken: Vec<Segment>,
    programs: Sight,
    /// Packets that the queue before the tap and the one behind it dropped, toward the receiver.
    dropped: [u64; 2],
}

fn play(case: &Case) -> Matrix {
    let played = traffic(case);
    let from_server = |segments: &[Segment]| {
        let count = segments
            .iter()
            .filter(|segment| segment.from_server)
            .count();
        count as u64
    };
    let [sent, tap, arrived] =
        [&played.sent, &played.tap, &played.arrived].map(|segments| from_server(segments));
    assert_eq!(
        [sent - tap, tap - arrived],
        played.dropped,
        "what was captured before a queue and not behind it is what the queue says it dropped"
    );
    let tables = HostTables::new(
        Settings {
            report_interval_ns: u64::MAX,
            epoch_ns: u64::MAX,
            epoch_offset_ns: 0,
            sample_threshold: u32::MAX,
            flags: settings_flags::PORTS,
            admission_key: 0,
            halvings: 0,
            halvings_before: 0,
        },
        &[PORT],
        &[],
    );
    let matrix = judge(&played, &tables);
    assert_same(&tables, &played.programs);
    matrix
}

fn traffic(case: &Case) -> Played {
    let chain = Chain::new(HOSTS);
    for host in 0..HOSTS {
        let devices: &[&str] = match host {
            SENDER => &[RIGHT],
            RECEIVER => &[LEFT],
            _ => &[LEFT, RIGHT],
        };
        chain.within(host, move || {
            for device in devices {
                // What is captured is what is on the wire.
                ethtool::set(device, &ethtool::SEGMENTATION, false).expect("no TSO");
                ethtool::set(device, &[ethtool::GENERIC_SEGMENTATION], false).expect("no GSO");
                ethtool::set(device, &[ethtool::GRO], false).expect("no GRO");
            }
        });
    }
    for host in [SENDER, RECEIVER] {
        let set = |key, on| {
            netns::set_sysctl(&chain.hosts[host], key, if on { "1" } else { "0" })
                .expect("TCP can be told");
        };
        set("net/ipv4/tcp_sack", case.sack);
        set("net/ipv4/tcp_timestamps", case.timestamps);
    }
    let netem = |what: &str| {
        format!("netem limit 20000 delay 10ms {what}")
            .trim_end()
            .to_owned()
    };
    chain.queue(FIRST_QUEUE, RIGHT, &netem(case.before));
    chain.queue(SECOND_QUEUE, RIGHT, &netem(case.behind));
    chain.queue(SECOND_QUEUE, LEFT, &netem(case.acks));
    chain.queue(FIRST_QUEUE, LEFT, &netem(case.acks));

    let observer = Observer::start(
        &chain.hosts[TAP],
        &[LEFT, RIGHT],
        Hook::of_this_kernel(),
        PORT,
    );
    let capture = |host, outgoing| {
        chain.within(host, move || {
            Ring::start(RING_PACKETS, outgoing).expect("packets can be captured")
        })
    };
    let at_sender = capture(SENDER, true);
    let at_tap = capture(TAP, false);
    let at_receiver = capture(RECEIVER, true);

    let downloads = Downloads {
        congestion_control: Some(case.congestion_control),
        clients: 16,
        each: 2,
        ..Downloads::new((Chain::right(SENDER), PORT).into(), 280_000)
    };
    downloads.run(&chain.hosts[SENDER], &chain.hosts[RECEIVER]);

    // Nothing more goes in, and what is under way arrives, so that all counts are of the same
    // packets.
    chain.ip(SENDER, &["link set right down"]);
    let before = drained(&chain, FIRST_QUEUE, RIGHT);
    let behind = drained(&chain, SECOND_QUEUE, RIGHT);
    chain.ip(RECEIVER, &["link set left down"]);
    drained(&chain, SECOND_QUEUE, LEFT);

    let segments = |ring: &Ring, outgoing: bool| {
        let packets = ring.packets().filter(|packet| packet.outgoing == outgoing);
        let segments: Vec<_> = packets
            .filter_map(|packet| Segment::read(&packet, PORT))
            .collect();
        segments
    };
    let counters = chain.within(RECEIVER, counters);
    let counter = |name: &str| *counters.get(name).expect("Linux has counted it since 4.15");
    for name in THROWN_AWAY {
        assert_eq!(counter(name), 0, "the receiver threw packets away: {name}");
    }
    let both_ways: Vec<_> = at_receiver
        .packets()
        .filter_map(|packet| Segment::read(&packet, PORT))
        .collect();
    let taken = receiver::taken(&both_ways);
    let too_old = taken.iter().filter(|&&(_, taken)| !taken).count();
    println!(
        "{}: {too_old} of the packets that arrived were too old for the receiver, which counts {}",
        case.name,
        counter(TOO_OLD)
    );
    assert!(
        counter(TOO_OLD).abs_diff(too_old as u64) <= TOO_OLD_ERROR,
        "it is known what the receiver discards"
    );
    Played {
        sent: segments(&at_sender, true),
        tap: segments(&at_tap, false),
        arrived: segments(&at_receiver, false),
        taken: taken
            .into_iter()
            .filter(|(_, taken)| *taken)
            .map(|(segment, _)| segment.clone())
            .collect(),
        programs: observer.look(),
        dropped: [before.dropped, behind.dropped],
    }
}

/// What this namespace's TCP counts.
fn counters() -> HashMap<String, u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").expect("Linux counts");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, counts) = (lines.next(), lines.next());
    names
        .zip(counts)
        .into_iter()
        .flat_map(|(names, counts)| names.split_whitespace().zip(counts.split_whitespace()))
        .filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?)))
        .collect()
}

/// The counters of a queue, once nothing waits in it.
fn drained(chain: &Chain, host: usize, device: &'static str) -> Queue {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let queue = chain.within(host, move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("an event loop starts");
            runtime.block_on(async {
                let netlink = Netlink::open().expect("netlink opens");
                let devices = netlink.devices().await.expect("devices are listed");
                let index = devices.iter().find(|found| &*found.name == device);
                let index = index.expect("the device is there").index;
                netlink.queues().await.expect("queues can be read")[&index]
            })
        });
        if queue.backlog_bytes == 0 {
            return queue;
        }
        assert!(Instant::now() < deadline, "a queue does not run dry");
        // The kernel tells nobody when a queue is empty.
        thread::sleep(Duration::from_millis(10));
    }
}

/// Feeds the tap's packets to the library one by one, and compares what it says of each with the
/// truth.
fn judge(played: &Played, tables: &HostTables) -> Matrix {
    let mut truths = truths(played);
    let mut judged: Vec<(Truth, Said)> = Vec::new();
    let mut places = Vec::new();
    // For DSACKs: where the copies of each segment were judged.
    let mut copies: HashMap<u16, BTreeMap<u32, Vec<usize>>> = HashMap::new();
    for (at, segment) in played.tap.iter().enumerate() {
        let before = state(tables, segment);
        let packet = Captured {
            bytes: &segment.bytes,
            frame_len: segment.wire_len,
            time_ns: segment.time_ns,
            gso_size: 0,
            gso_segs: 0,
        };
        observe(&packet, Link::Ethernet, tables).expect("the packet is understood");
        let after = state(tables, segment);
        let (Some(before), Some(after)) = (before, after) else {
            // Where the ACK of the SYN-ACK was lost the client's request is in its place, and the
            // flow begins with it.
            let is_request = !segment.from_server && after.is_some();
            assert!(
                segment.space() == 0 || is_request,
                "data only after the handshake"
            );
            continue;
        };
        let direction = key(segment).1;
        let (before, after) = (&before.halves[direction], &after.halves[direction]);
        if segment.from_server && segment.space() > 0 && !segment.has(SYN) {
            let truth = truths
                .get_mut(&segment.client_port)
                .and_then(Iterator::next)
                .expect("every packet has its truth");
            let flow = copies.entry(segment.client_port).or_default();
            flow.entry(segment.sequence).or_default().push(judged.len());
            judged.push((truth, Said::between(before, after)));
            places.push(at);
        } else if after.dsacks != before.dsacks {
            let (start, end) = segment.dsack.expect("the tracker read a DSACK");
            // The copy that came last is what arrived a second time.
            for (&sequence, copies) in copies.entry(segment.client_port).or_default() {
                let within = sequence.wrapping_sub(start) < end.wrapping_sub(start);
                let repeats = |said| matches!(said, Said::Downstream | Said::Spurious);
                let reported = copies.iter().rposition(|&at| repeats(judged[at].1));
                if let (true, Some(copy)) = (within, reported) {
                    judged[copies.remove(copy)].1 = Said::Spurious;
                }
            }
        }
    }
    let mut unnoticed: BTreeMap<Evidence, u32> = BTreeMap::new();
    for (&place, judgement) in places.iter().zip(&judged) {
        if *judgement == (Truth::Spurious, Said::Downstream) {
            let found = evidence(&played.tap, place, SHORTEST_NS);
            *unnoticed.entry(found).or_default() += 1;
        }
    }
    if !unnoticed.is_empty() {
        println!("sent for nothing without a DSACK, and what else told so: {unnoticed:?}");
    }
    Matrix(judged)
}

/// What passed the tap that could have told of a retransmission that it was for nothing, although
/// no DSACK did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// It had been acknowledged by SACK before it passed.
    SackedBefore,
    /// The first ACK of it echoes a timestamp that is older than its own (Eifel; RFC 3522).
    OlderEcho,
    /// The ACK of it comes sooner than anything can be answered.
    TooSoon,
    None,
}

/// What passed about the retransmission at `at`. `shortest_ns` is from the tap to the receiver and
/// back.
fn evidence(tap: &[Segment], at: usize, shortest_ns: u64) -> Evidence {
    let this = &tap[at];
    let end = this.sequence.wrapping_add(this.space());
    let not_after = |a: u32, b: u32| b.wrapping_sub(a) as i32 >= 0;
    let acknowledges = |segment: &Segment| {
        let sacks = |&(from, to): &(u32, u32)| not_after(from, this.sequence) && not_after(end, to);
        let by_sack = segment.sack.iter().any(sacks);
        by_sack || not_after(end, segment.acknowledgment)
    };
    let answers = |segments: &'_ [Segment]| -> Option<Segment> {
        segments
            .iter()
            .filter(|segment| segment.client_port == this.client_port && !segment.from_server)
            .find(|segment| acknowledges(segment))
            .cloned()
    };
    if answers(&tap[..at]).is_some() {
        return Evidence::SackedBefore;
    }
    let Some(answer) = answers(&tap[at..]) else {
        return Evidence::None;
    };
    let in_order = not_after(end, answer.acknowledgment);
    match (this.timestamps, answer.timestamps) {
        _ if answer.time_ns - this.time_ns < shortest_ns => Evidence::TooSoon,
        (Some((stamp, _)), Some((_, echo))) if in_order && !not_after(stamp, echo) => {
            Evidence::OlderEcho
        }
        _ => Evidence::None,
    }
}

/// The truth of each packet with data toward each client, in the tap's order.
fn truths(played: &Played) -> HashMap<u16, std::vec::IntoIter<Truth>> {
    let [mut sent, mut tap, mut arrived] =
        [&played.sent, &played.tap, &played.taken].map(|segments| {
            let mut flows: BTreeMap<u16, Vec<Segment>> = BTreeMap::new();
            for segment in segments {
                if segment.from_server && segment.space() > 0 && !segment.has(SYN) {
                    let flow = flows.entry(segment.client_port).or_default();
                    flow.push(segment.clone());
                }
            }
            flows
        });
    let ports: Vec<_> = sent.keys().copied().collect();
    ports
        .into_iter()
        .map(|port| {
            let take = |flows: &mut BTreeMap<_, _>| flows.remove(&port).unwrap_or_default();
            let (sent, tap, arrived) = (take(&mut sent), take(&mut tap), take(&mut arrived));
            (port, truth::of(&sent, &tap, &arrived).into_iter())
        })
        .collect()
}

/// The key of a segment's flow, and its direction.
fn key(segment: &Segment) -> (FlowKey, usize) {
    let server = (Address::v4(Chain::right(SENDER).octets()), PORT);
    let client = (
        Address::v4(Chain::left(RECEIVER).octets()),
        segment.client_port,
    );
    let (from, to) = if segment.from_server {
        (server, client)
    } else {
        (client, server)
    };
    FlowKey::new(from.0, from.1, to.0, to.1)
}

fn state(tables: &HostTables, segment: &Segment) -> Option<FlowState> {
    // SAFETY: valid until the next call that adds or removes a flow; copied at once.
    tables.flow(&key(segment).0).map(|state| unsafe { *state })
}

/// The programs, which saw the same packets at their hooks, counted the same in every flow.
fn assert_same(tables: &HostTables, programs: &Sight) {
    let library: HashMap<FlowKey, FlowState> = tables
        .flows()
        .into_iter()
        .map(|state| (state.key, state))
        .collect();
    assert_eq!(programs.flows.len(), library.len(), "the same flows");
    for state in &programs.flows {
        let other = library.get(&state.key).expect("the library knows the flow");
        for (one, other) in state.halves.iter().zip(&other.halves) {
            assert_eq!(counts(one), counts(other), "of {:?}", state.key);
        }
    }
}

fn counts(half: &Half) -> [(&'static str, u64); 10] {
    [
        ("bytes", half.bytes),
        ("segments", half.segments.into()),
        ("retransmitted", half.retransmitted_segments.into()),
        ("retransmitted bytes", half.retransmitted_bytes),
        ("spurious", half.spurious_segments.into()),
        ("upstream", half.lost_upstream_segments.into()),
        ("downstream", half.lost_downstream_segments.into()),
        ("reordered", half.reordered_segments.into()),
        ("DSACKs", half.dsacks.into()),
        ("acknowledged bytes", half.acked_bytes),
    ]
}
