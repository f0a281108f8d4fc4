//! Programs for `cargo xtask bench`: ours, and what it is compared with. The daemon never loads
//! them.
//!
//! Each rewrites its packet first, the same way, so that sequence numbers, timestamps and flows
//! advance from one run of BPF_PROG_TEST_RUN to the next; the cost of that is the empty
//! program's, and is subtracted.

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    helpers::bpf_ktime_get_ns,
    macros::{classifier, map},
    maps::{Array, PerCpuArray},
    programs::TcContext,
};
use monitor_ebpf::{
    bench::{CLIENTS_PER_ADDRESS, Case, DATA_LEN, FIRST_CLIENT_PORT, Frame, kinds},
    observe::{Tables as _, observe, parse},
    packet::{Link, tcp_flags},
    select::Watch as _,
};

use super::{maps::Maps, skb::Skb};

/// How to rewrite; the bench sets it.
#[map]
static BENCH_CASE: Array<Case> = Array::with_max_entries(1, 0);

/// Packets so far.
#[map]
static BENCH_PACKETS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Rewrites and passes.
#[classifier]
#[inline(always)]
pub fn bench_empty(ctx: TcContext) -> i32 {
    rewrite(&ctx);
    TC_ACT_UNSPEC
}

/// Parses and selects.
#[classifier]
#[inline(always)]
pub fn bench_parse(ctx: TcContext) -> i32 {
    rewrite(&ctx);
    parse_only(&ctx);
    TC_ACT_UNSPEC
}

/// Parses, selects, looks the flow up in our own map and reads the clock: the least that any
/// monitor with a state per flow and a time must do.
#[classifier]
#[inline(always)]
pub fn bench_reference(ctx: TcContext) -> i32 {
    rewrite(&ctx);
    if parse_only(&ctx).is_some()
        && let Some(parsed) = Maps.parsed()
    {
        // SAFETY: this CPU's own.
        if let Some(state) = Maps.flow(unsafe { &(*parsed).key }) {
            // SAFETY: a map value; no arguments.
            // Not the time of the last report, which says whether the flow is wanted.
            unsafe { (*state).first_report_ns = bpf_ktime_get_ns() };
        }
    }
    TC_ACT_UNSPEC
}

/// All we do.
#[classifier]
#[inline(always)]
pub fn bench_lastmile(ctx: TcContext) -> i32 {
    rewrite(&ctx);
    if let Err(reason) = observe(&Skb::stamped(ctx.skb.skb), Link::Ethernet, &Maps) {
        Maps.count(reason.into());
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn parse_only(ctx: &TcContext) -> Option<()> {
    let packet = Skb::new(ctx.skb.skb, false);
    let parsed = Maps.parsed()?;
    let settings = Maps.settings()?;
    // SAFETY: this CPU's own.
    match parse(&packet, Link::Ethernet, &Maps, settings, unsafe {
        &mut *parsed
    }) {
        Ok(()) => Some(()),
        Err(reason) => {
            Maps.count(reason.into());
            None
        }
    }
}

/// Makes the packet the next one of its case.
#[inline(always)]
fn rewrite(ctx: &TcContext) -> Option<()> {
    let case = BENCH_CASE.get(0)?;
    let count = BENCH_PACKETS.get_ptr_mut(0)?;
    // SAFETY: this CPU's own.
    let packet = unsafe {
        let packet = *count;
        *count = packet.wrapping_add(1);
        packet
    };
    let flows = u64::from(case.flows).max(1);
    // Data of all flows and then their ACKs, so that an RTT is longer than a packet takes; but each
    // flow's handshake at once, because only so many wait for their second direction.
    let (flow, round, step) = match case.kind {
        kinds::HANDSHAKE => (packet / 3 % flows, 0, packet % 3),
        kinds::DATA_AND_ACK | kinds::SENT_AND_ACKED => {
            (packet % flows, packet / flows / 2, packet / flows & 1)
        }
        _ => (packet % flows, packet / flows, 0),
    };
    let (flow, round) = (flow as u32, round as u32);
    let sequence = round
        .wrapping_mul(DATA_LEN)
        .wrapping_add(case.first_sequence);
    let (start, end) = Skb::new(ctx.skb.skb, false).data();
    if start + size_of::<Frame>() > end {
        return None;
    }
    // SAFETY: inside the packet, as the verifier sees too.
    let frame = unsafe { &mut *(start as *mut Frame) };
    let client = (10 << 24 | (flow / CLIENTS_PER_ADDRESS)).to_be();
    let client_port = (FIRST_CLIENT_PORT + (flow % CLIENTS_PER_ADDRESS) as u16).to_be();
    let server = (192 << 24 | 2 << 8 | 1u32).to_be();
    let server_port = 443u16.to_be();
    let handshake = case.kind == kinds::HANDSHAKE;
    // Of a handshake the second packet is the server's, else the first.
    let from_client = case.kind == kinds::ACK || (step == 1) != handshake;
    if from_client {
        frame.source = halves(client);
        frame.source_port = client_port;
        frame.destination = halves(server);
        frame.destination_port = server_port;
        let syn = handshake && step == 0;
        set(&mut frame.sequence, u32::from(!syn));
        let acknowledged = match case.kind {
            kinds::HANDSHAKE => u32::from(!syn),
            kinds::DATA_AND_ACK | kinds::SENT_AND_ACKED => DATA_LEN,
            _ => 0,
        };
        set(
            &mut frame.acknowledgment,
            sequence.wrapping_add(acknowledged),
        );
        frame.offset_flags[1] = if syn { tcp_flags::SYN } else { tcp_flags::ACK };
    } else {
        frame.source = halves(server);
        frame.source_port = server_port;
        frame.destination = halves(client);
        frame.destination_port = client_port;
        set(&mut frame.sequence, sequence);
        set(&mut frame.acknowledgment, 1);
        let syn = if handshake { tcp_flags::SYN } else { 0 };
        frame.offset_flags[1] = tcp_flags::ACK | syn;
    }
    let is_data = !from_client && !handshake;
    let stamp = if is_data && case.kind == kinds::SENT_AND_ACKED {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_ns() }
    } else {
        0
    };
    // SAFETY: a field of the context.
    unsafe { (*ctx.skb.skb).tstamp = stamp };
    let len = if is_data { DATA_LEN as u16 } else { 0 };
    frame.total_len = (52 + len).to_be();
    set(&mut frame.tsval, packet as u32);
    Some(())
}

/// A word at an even address, in network byte order.
#[inline(always)]
fn set(field: &mut [u16; 2], value: u32) {
    *field = halves(value.to_be());
}

/// The two halves of a word, as they lie in memory.
#[inline(always)]
fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}
