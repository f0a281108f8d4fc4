//! From a packet to its flow's state: parse, select, find or admit the flow, track, report.

use crate::{
    admit::{Pending, admit},
    chunk,
    counters::{Counter, Reason},
    flow::{FlowKey, FlowState, SocketFigures, half_flags as is},
    hello::{self, Piece, Place},
    packet::{self, Frame, Link, Parsed, Segment},
    prediction::{self, Expected},
    quic::{self, QuicFlow},
    select::{self, Settings, Watch},
    sequence::high,
    tracker::{self, Clock, Sighting, Time},
    verifier::forget,
};

/// One packet at one hook.
pub trait Packet: Frame + Clock {
    /// Bytes of the frame, which may exceed what can be loaded.
    fn frame_len(&self) -> u32;
    /// Payload of each wire segment; 0 where the packet is one segment.
    fn gso_size(&self) -> u32;
    /// Wire segments; 0 where not known.
    fn gso_segs(&self) -> u32;
    /// ifindex << 1 | 1 for egress.
    fn hook(&self) -> u32;
    /// The time of departure that TCP gave it, monotonic ns; 0: none.
    fn departure_ns(&self) -> u64;
    /// Whether one of our own TCP sockets sends it.
    fn sent_by_socket(&self) -> bool;
    /// The next sequence number that socket has not sent yet (`tcp_sock.snd_nxt`): it advances
    /// after the packet has passed this hook.
    fn socket_snd_nxt(&self) -> Option<u32>;
    /// Whether that is `sequence`.
    #[inline(always)]
    fn socket_sends_next(&self, sequence: u32) -> bool {
        self.socket_snd_nxt() == Some(sequence)
    }
    /// The figures of that socket.
    fn socket_figures(&self, figures: &mut SocketFigures);
}

/// Where flows live: maps in the kernel, hash maps in `replay`.
pub trait Tables: Watch {
    /// The state of a flow. The pointer is valid until the next call that adds or removes one;
    /// in the kernel an evicted entry's memory stays valid, but may become another flow's.
    fn flow(&self, key: &FlowKey) -> Option<*mut FlowState>;
    /// Adds a flow with [`FlowState::EMPTY`]. `None`: no room.
    fn create(&self, key: &FlowKey) -> Option<*mut FlowState>;
    fn remove(&self, key: &FlowKey);
    fn pending(&self, key: &FlowKey) -> Option<*mut Pending>;
    fn put_pending(&self, key: &FlowKey, pending: &Pending);
    fn remove_pending(&self, key: &FlowKey);
    /// The figures of a QUIC flow, as [`Self::flow`] has those of TCP.
    fn quic_flow(&self, key: &FlowKey) -> Option<*mut QuicFlow>;
    fn create_quic_flow(&self, key: &FlowKey) -> Option<*mut QuicFlow>;
    /// Room for one piece of what a client says first, this CPU's own.
    fn piece(&self) -> Option<*mut Piece>;
    /// Hands the piece and `len` (1 to `PIECE_MAX`) of its bytes to the daemon. `false`: no room.
    fn hand_on(&self, piece: &Piece, len: u32) -> bool;
    /// Room for one parsed packet, this CPU's own.
    fn parsed(&self) -> Option<*mut Parsed>;
    /// Hands a copy to the daemon. `false`: no room.
    fn report(&self, state: &FlowState) -> bool;
    /// Tells the daemon of the chunk that `direction`'s data was in up to `end`, which is over
    /// (see [`chunk::describe`]). `false`: no room.
    fn chunk(&self, state: &FlowState, direction: usize, end: u32, time_ns: u64) -> bool;
    fn count(&self, counter: Counter);
}

/// Takes one packet into account, or says why it is not tracked.
#[inline(always)]
pub fn observe<P: Packet, T: Tables>(packet: &P, link: Link, tables: &T) -> Result<(), Reason> {
    // `None` cannot happen: an array has its one entry. The verifier wants the path.
    let parsed = tables.parsed().ok_or(Reason::Truncated)?;
    let settings = tables.settings().ok_or(Reason::Sample)?;
    // SAFETY: this CPU's own, and no other reference to it lives.
    let result = parse(packet, link, tables, settings, unsafe { &mut *parsed });
    // SAFETY: as above.
    let parsed = unsafe { &*forget(parsed) };
    if let Err(reason) = result {
        return Err(match reason {
            Reason::Quic => quic::observe(packet, tables, settings, parsed),
            other => other,
        });
    }
    let Parsed {
        key,
        segment,
        direction,
        ..
    } = parsed;
    let direction = *direction as usize;

    let mut found = tables.flow(key);
    if let Some(state) = found {
        // SAFETY: valid until the next call that adds or removes a flow (see `Tables::flow`).
        let state = unsafe { &mut *state };
        if tracker::begins_anew(state, direction, segment, packet) {
            if !state.is_unwanted() {
                state.halves[0].flags |= is::REPLACED;
                report(tables, state);
            }
            tables.remove(key);
            tables.count(Counter::FlowsReused);
            found = None;
        } else if state.is_unwanted() {
            tracker::pass_over(state, direction, segment, packet.coarse_ns());
            tables.count(Counter::Watched);
            tables.count(Counter::PassedOver);
            return Ok(());
        }
    }
    let state = match found {
        Some(state) => Some(state),
        None => admit(packet, tables, key, direction, segment, settings)?,
    };
    tables.count(Counter::Watched);
    let Some(state) = state else {
        return Ok(());
    };
    // SAFETY: as above; nothing adds or removes a flow from here on. Another CPU may write the
    // same state: the halves' ownership keeps that to counts that may be lost.
    let state = unsafe { &mut *forget(state) };
    update(packet, tables, state, parsed, settings);
    Ok(())
}

/// Headers to `parsed`, if the packet is watched.
#[inline(always)]
pub fn parse<P: Packet, T: Tables>(
    packet: &P,
    link: Link,
    tables: &T,
    settings: &Settings,
    parsed: &mut Parsed,
) -> Result<(), Reason> {
    let network = packet::network(packet, link, packet.frame_len())?;
    if network.is_quic {
        return Err(quic::parse(packet, &network, parsed));
    }
    let header = packet::tcp_header(packet, &network)?;
    let (source_port, destination_port) = (header.source_port(), header.destination_port());
    select::ports(tables, settings, source_port, destination_port)?;
    let (key, direction) = FlowKey::new(
        network.source,
        source_port,
        network.destination,
        destination_port,
    );
    parsed.key = key;
    parsed.direction = direction as u32;
    select::flow(tables, settings, &parsed.key)?;
    packet::segment(
        packet,
        &network,
        header,
        packet.gso_size(),
        packet.gso_segs(),
        parsed,
    )
}

/// The packet's effect on its flow, the cheap way where its header was to be expected.
#[inline(always)]
fn update<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    state: &mut FlowState,
    parsed: &Parsed,
    settings: &Settings,
) {
    let (direction, segment) = (parsed.direction as usize, &parsed.segment);
    let (own, peer) = state.halves_mut(direction);
    let expected = prediction::expected(own, peer, segment, packet.hook());
    let (departure_ns, local_sender) = (packet.departure_ns(), own.has(is::LOCAL_SENDER));
    // Where the clock has to be read anyhow, the coarse one is not; it may say less than that,
    // and a flow's time does not run backwards.
    let (coarse_ns, now_ns) = if expected.needs_clock(departure_ns != 0 && local_sender) {
        let now_ns = packet.precise_ns();
        (now_ns, now_ns)
    } else {
        let seen_ns = own.last_seen_ns.max(peer.last_seen_ns);
        (packet.coarse_ns().max(seen_ns), 0)
    };
    let mut sighting = Sighting {
        hook: packet.hook(),
        coarse_ns,
        now_ns,
        departure_ns,
        local_sender,
        first_transmission: false,
    };
    let waited_ns = coarse_ns.wrapping_sub(state.last_report_ns);
    if expected != Expected::Nothing
        && waited_ns < settings.report_interval_ns
        && (sighting.local_sender || !packet.sent_by_socket())
    {
        #[cfg(all(debug_assertions, not(target_arch = "bpf")))]
        let before = *state;
        let (own, peer) = state.halves_mut(direction);
        let mut time = Time::new(packet, &sighting, settings);
        if prediction::take(expected, own, peer, segment, &mut time) {
            #[cfg(all(debug_assertions, not(target_arch = "bpf")))]
            {
                let mut tracked = before;
                track(packet, tables, &mut tracked, parsed, settings, sighting);
                debug_assert_eq!(*state, tracked, "after {segment:?}");
            }
            return;
        }
    }
    sighting.local_sender = sighting.local_sender || packet.sent_by_socket();
    track(packet, tables, state, parsed, settings, sighting);
}

/// The packet's effect on its flow, and what is to be told of it.
#[inline(always)]
fn track<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    state: &mut FlowState,
    parsed: &Parsed,
    settings: &Settings,
    mut sighting: Sighting,
) {
    let (direction, segment) = (parsed.direction as usize, &parsed.segment);
    let Sighting {
        coarse_ns,
        local_sender,
        ..
    } = sighting;
    let (own, _) = state.halves_mut(direction);
    let retransmitted_before = own.retransmitted_segments;
    let ended_before = own.flags & (is::FIN | is::RST);
    let (burst_before, acked_before) = (own.burst, own.acked);
    sighting.first_transmission = local_sender
        && tracker::repeats(own, segment)
        && packet.socket_sends_next(segment.sequence);
    if !tracker::track(state, direction, segment, &sighting, packet, settings) {
        return;
    }
    let waited_ns = coarse_ns.wrapping_sub(state.last_report_ns);
    let generation = state.generation;
    let (own, peer) = state.halves_mut(direction);
    if let Some(offset) = hello::piece_of(own, peer, segment, settings) {
        let place = Place {
            generation,
            offset,
            transport: hello::TCP,
        };
        hello::hand_on(packet, tables, parsed, &place, segment.payload_len);
    }
    let ended = own.flags & (is::FIN | is::RST) & !ended_before != 0;
    let due = ended || waited_ns >= settings.report_interval_ns;
    chunk::reopens(own, peer, acked_before, coarse_ns);
    let begins =
        segment.payload_len > 0 && chunk::data(own, peer, segment, burst_before, coarse_ns, packet);
    if local_sender && (due || begins || own.retransmitted_segments != retransmitted_before) {
        packet.socket_figures(&mut state.socket);
    }
    if begins {
        next_chunk(packet, tables, state, direction, segment, burst_before);
    }
    if due {
        state.last_report_ns = coarse_ns;
        let is_first = state.first_report_ns == 0;
        if is_first {
            state.first_report_ns = coarse_ns;
        }
        if !report(tables, state) && is_first {
            state.first_report_ns = 0;
        }
    }
}

/// The chunk that ended with `burst` goes to the daemon, and one begins with this packet.
#[inline(always)]
fn next_chunk<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    state: &mut FlowState,
    direction: usize,
    segment: &Segment,
    burst: u64,
) {
    let start = if burst == 0 {
        segment.sequence
    } else {
        high(burst)
    };
    let (own, _) = state.halves_mut(direction);
    if own.chunk.number != 0 {
        let counter = if tables.chunk(state, direction, start, packet.precise_ns()) {
            Counter::ChunksSent
        } else {
            Counter::ChunksLost
        };
        tables.count(counter);
    }
    let socket = &state.socket;
    let cwnd = socket.snd_cwnd.wrapping_mul(socket.mss_cache);
    let (own, peer) = state.halves_mut(direction);
    let cwnd = if own.has(is::LOCAL_SENDER) { cwnd } else { 0 };
    chunk::begin(own, peer, start, cwnd);
}

#[inline(always)]
fn report<T: Tables>(tables: &T, state: &FlowState) -> bool {
    let sent = tables.report(state);
    tables.count(if sent {
        Counter::ReportsSent
    } else {
        Counter::ReportsLost
    });
    sent
}
