//! Conversations that may say anything, at any time, to the library's tables.

use lastmile::capture::replay::{HostTables, News};
use monitor_ebpf::{
    counters::{Counter, Reason},
    flow::{FlowState, Half, SocketFigures},
    hello::PIECE_MAX,
    observe::{Packet, Tables as _, observe},
    packet::{Frame, Header, Link},
    select::Settings,
    tracker::Clock,
};

use super::seeds::{self, From};

/// Bytes that one step takes.
const STEP: usize = 12;

/// Steps of one conversation: a histogram's bins hold 65,535 samples.
const STEPS_MAX: usize = 1_000;

const SETTINGS: Settings = Settings {
    report_interval_ns: 1_000_000_000,
    epoch_ns: 5_000_000_000,
    epoch_offset_ns: 0,
    sample_threshold: u32::MAX,
    flags: 0,
    admission_key: 0,
    halvings: 0,
    halvings_before: 0,
};

/// When it begins, ns.
const START_NS: u64 = 1_700_000_000_000_000_000;

/// Times by which the clock goes on, ns.
const PAUSES_NS: [u64; 8] = [
    0,
    1_000,
    150_000,
    5_000_000,
    40_000_000,
    300_000_000,
    6_000_000_000,
    // Wrapping microseconds are ambiguous from here on.
    2_200_000_000_000,
];

const PAYLOADS: [u32; 8] = [0, 0, 1, 1_448, 1_448, 2_896, 64_000, 300_000];

/// One packet at one hook.
struct Seen {
    frame: Vec<u8>,
    frame_len: u32,
    gso_size: u32,
    gso_segs: u32,
    hook: u32,
    coarse_ns: u64,
    precise_ns: u64,
    departure_ns: u64,
    socket_snd_nxt: Option<u32>,
}

impl Frame for Seen {
    fn load<H: Header>(&self, offset: usize) -> Option<H> {
        self.frame[..].load(offset)
    }

    fn load_options(&self, offset: usize, len: usize, options: &mut [u8; 64]) -> bool {
        self.frame[..].load_options(offset, len, options)
    }

    fn load_payload(&self, offset: usize, len: usize, payload: &mut [u8; PIECE_MAX]) -> bool {
        self.frame[..].load_payload(offset, len, payload)
    }
}

impl Clock for Seen {
    fn precise_ns(&self) -> u64 {
        self.precise_ns
    }

    fn coarse_ns(&self) -> u64 {
        self.coarse_ns
    }
}

impl Packet for Seen {
    fn frame_len(&self) -> u32 {
        self.frame_len
    }

    fn gso_size(&self) -> u32 {
        self.gso_size
    }

    fn gso_segs(&self) -> u32 {
        self.gso_segs
    }

    fn hook(&self) -> u32 {
        self.hook
    }

    fn departure_ns(&self) -> u64 {
        self.departure_ns
    }

    fn sent_by_socket(&self) -> bool {
        self.socket_snd_nxt.is_some()
    }

    fn socket_snd_nxt(&self) -> Option<u32> {
        self.socket_snd_nxt
    }

    fn socket_figures(&self, figures: &mut SocketFigures) {
        figures.sightings = figures.sightings.wrapping_add(1);
    }
}

/// The first four bytes choose the initial sequence numbers; each further [`STEP`] bytes are a
/// packet of one of three flows, or a frame as it stands.
pub fn run(data: &[u8]) {
    let Some((isn, steps)) = data.split_first_chunk() else {
        return;
    };
    let isn = u32::from_le_bytes(*isn);
    let tables = HostTables::new(SETTINGS, &[], &[]);
    let mut now_ns = START_NS;
    let (mut count, mut ended) = (0u64, 0u64);
    for step in steps.chunks_exact(STEP).take(STEPS_MAX) {
        let step: &[u8; STEP] = step.try_into().expect("as long as a step");
        now_ns += PAUSES_NS[usize::from(step[8] & 7)] + u64::from(step[9]) * 1_000;
        tables.set_time(now_ns);
        let seen = seen(step, isn, now_ns);
        let link = if step[0] & 0x40 == 0 {
            Link::Ethernet
        } else {
            Link::RawIp
        };
        match observe(&seen, link, &tables) {
            Ok(()) => {}
            Err(Reason::Port | Reason::Prefix | Reason::Sample | Reason::NotAdmitted) => {
                panic!("all is watched")
            }
            Err(reason) => tables.count(reason.into()),
        }
        count += 1;
        for news in tables.take_news() {
            ended += take(news);
        }
    }
    let counters = tables.counters();
    let counted: u64 = counters[..=Counter::Watched as usize].iter().sum();
    assert_eq!(counted, count, "each packet is counted once");
    assert_eq!(counters[Counter::FlowsRefused as usize], 0);
    let created = counters[Counter::FlowsCreated as usize];
    let reused = counters[Counter::FlowsReused as usize];
    assert_eq!(created - reused, tables.keys().len() as u64);
    tables.for_each(check);
    tables.remove_all();
    ended += tables.take_news().into_iter().map(take).sum::<u64>();
    assert!(ended >= created, "{ended} of {created} flows ended");
}

/// How many flows ended.
fn take(news: News) -> u64 {
    match news {
        News::Report(state) => {
            check(&state);
            0
        }
        News::Chunk(report) => {
            assert_ne!(
                report.chunk.number, 0,
                "a chunk that never began is reported"
            );
            0
        }
        News::Removed(removed) => {
            check(&removed.state());
            1
        }
        News::Hello(piece) => {
            assert!((1..=PIECE_MAX).contains(&piece.bytes.len()));
            0
        }
    }
}

fn seen(step: &[u8; STEP], isn: u32, now_ns: u64) -> Seen {
    let [
        what,
        _,
        seq_low,
        seq_high,
        _,
        _,
        size,
        options,
        _,
        _,
        gso,
        sighting,
    ] = *step;
    let frame = if what & 0x80 != 0 {
        // Bytes that are no packet, or nearly one.
        let mut frame = headers(step, isn);
        let at = usize::from(size) % frame.len();
        frame[at] = options;
        frame.truncate(frame.len().min(usize::from(gso) + 1));
        frame
    } else {
        headers(step, isn)
    };
    let payload = PAYLOADS[usize::from(size & 7)];
    let sequence = u16::from_le_bytes([seq_low, seq_high]);
    let own = isn_of(what, isn).wrapping_add(scaled(sequence));
    Seen {
        frame_len: frame.len() as u32 + payload,
        frame,
        gso_size: [0, 1_448, 1, 536][usize::from(gso & 3)],
        gso_segs: u32::from(gso >> 2) * u32::from(gso & 4),
        hook: [2, 2, 3, 4][usize::from(sighting & 3)],
        coarse_ns: now_ns,
        // Within a tick of the coarse one, and in replay a little before it.
        precise_ns: now_ns - u64::from(sighting >> 4) * 1_000_000,
        departure_ns: if sighting & 4 == 0 {
            0
        } else {
            now_ns + 3_000_000
        },
        socket_snd_nxt: (sighting & 8 != 0).then_some(own),
    }
}

/// Of the sender: the two directions of a flow begin elsewhere.
fn isn_of(what: u8, isn: u32) -> u32 {
    if what & 1 == 0 {
        isn
    } else {
        isn.wrapping_mul(3).wrapping_add(77)
    }
}

/// Sequence numbers near each other, and some that are not.
fn scaled(offset: u16) -> u32 {
    let offset = offset.cast_signed();
    if offset == i16::MIN {
        0x8000_0000
    } else {
        i32::from(offset).wrapping_mul(181).cast_unsigned()
    }
}

fn headers(step: &[u8; STEP], isn: u32) -> Vec<u8> {
    let [
        what,
        flags,
        seq_low,
        seq_high,
        ack_low,
        ack_high,
        size,
        options,
        _,
        tsval,
        ..,
    ] = *step;
    let port = 40_000 + u16::from(what >> 1 & 3);
    let (source, destination) = if what & 1 == 0 {
        (([10, 1, 2, 3], port), ([192, 0, 2, 1], 443))
    } else {
        (([192, 0, 2, 1], 443), ([10, 1, 2, 3], port))
    };
    let sequence = isn_of(what, isn).wrapping_add(scaled(u16::from_le_bytes([seq_low, seq_high])));
    let acknowledgment =
        isn_of(what ^ 1, isn).wrapping_add(scaled(u16::from_le_bytes([ack_low, ack_high])));
    let mut raw_options = Vec::new();
    if options & 1 != 0 {
        raw_options.extend([1, 1, 8, 10]);
        raw_options.extend(u32::from(tsval).wrapping_sub(7).to_be_bytes());
        raw_options.extend(u32::from(options >> 4).wrapping_sub(7).to_be_bytes());
    }
    if options & 2 != 0 {
        raw_options.extend([1, 1, 5, 18]);
        let start = acknowledgment.wrapping_add(u32::from(size) * 100);
        for edge in [
            start,
            start.wrapping_add(1_448),
            start,
            start.wrapping_add(5_000),
        ] {
            let edge = if options & 8 == 0 {
                edge
            } else {
                edge.wrapping_sub(20_000)
            };
            raw_options.extend(edge.to_be_bytes());
        }
    }
    if options & 4 != 0 && raw_options.len() < 36 {
        raw_options.extend([1, 3, 3, options >> 4]);
    }
    let payload = PAYLOADS[usize::from(size & 7)];
    let total = 40 + raw_options.len() as u32 + payload;
    let mut frame = Vec::with_capacity(94);
    if what & 0x40 == 0 {
        frame.extend([2; 12]);
        frame.extend([0x08, 0x00]);
    }
    // BIG TCP: what does not fit is said as 0.
    let total = u16::try_from(total).unwrap_or(0);
    frame.extend([0x45, size >> 6]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(source.0);
    frame.extend(destination.0);
    frame.extend(source.1.to_be_bytes());
    frame.extend(destination.1.to_be_bytes());
    frame.extend(sequence.to_be_bytes());
    frame.extend(acknowledgment.to_be_bytes());
    frame.extend([(5 + raw_options.len() as u8 / 4) << 4, flags]);
    frame.extend([size >> 3, 0, 0, 0, 0, 0]);
    frame.extend(raw_options);
    frame
}

/// What holds of every state.
fn check(state: &FlowState) {
    let ends = [
        (state.key.low_address, state.key.low_port),
        (state.key.high_address, state.key.high_port),
    ];
    assert_ne!(ends[0], ends[1], "{state:?}");
    assert_eq!(state.key.reserved, 0);
    for half in &state.halves {
        check_half(half);
    }
}

fn check_half(half: &Half) {
    let samples: u32 = half.rtt_bins.iter().map(|&count| u32::from(count)).sum();
    assert_eq!(samples, half.rtt_samples, "{half:?}");
    assert!(half.rtt_timestamp_samples <= half.rtt_samples, "{half:?}");
    assert_eq!(
        half.retransmitted_segments,
        half.spurious_segments + half.lost_downstream_segments + half.lost_upstream_segments,
        "every retransmission has a class: {half:?}"
    );
    let slow_start = &half.slow_start;
    assert!(slow_start.samples <= half.rtt_samples, "{half:?}");
    if slow_start.samples > 0 {
        let range = slow_start.rtt_min_us..=slow_start.rtt_max_us;
        assert!(range.contains(&slow_start.rtt_first_us), "{half:?}");
    }
    for epoch in [half.rtt_current, half.rtt_previous] {
        assert!(epoch.rtt_min_us <= epoch.rtt_max_us, "{half:?}");
    }
    for gap in &half.gaps {
        assert!(
            gap.end.wrapping_sub(gap.start).cast_signed() >= 0,
            "{half:?}"
        );
    }
    let seen = half.owner != 0 || half.flags != 0;
    assert!(
        seen || *half == Half::EMPTY,
        "nothing from nothing: {half:?}"
    );
}

pub fn seeds() -> Vec<Vec<u8>> {
    let offset = |number: u32, isn: u32| (((number.wrapping_sub(isn)) / 181) as u16).to_le_bytes();
    let mut plain = vec![0, 0, 0, 0];
    let mut dressed = 0xffff_f000u32.to_le_bytes().to_vec();
    for (index, tcp) in seeds::conversation().into_iter().enumerate() {
        let from = u8::from(tcp.from == From::Server);
        let (own, peer) = if from == 0 { (100, 500) } else { (500, 100) };
        let [seq_low, seq_high] = offset(tcp.sequence, own);
        let [ack_low, ack_high] = offset(tcp.acknowledgment, peer);
        let size = u8::from(tcp.payload_len > 0) * 3;
        for (seed, options, gso, hook) in [
            (&mut plain, 0, 0, 0),
            (&mut dressed, 0x33, 5, (from * 2) | (from << 3)),
        ] {
            seed.extend([
                from,
                tcp.flags,
                seq_low,
                seq_high,
                ack_low,
                ack_high,
                size,
                options,
                4,
                index as u8,
                gso,
                hook,
            ]);
        }
    }
    vec![plain, dressed]
}
