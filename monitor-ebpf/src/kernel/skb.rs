//! A `__sk_buff` as a [`Packet`].

use core::{
    arch::asm,
    mem::{MaybeUninit, offset_of},
};

use aya_ebpf::{
    Global,
    bindings::{__sk_buff, bpf_sock, bpf_tcp_sock},
    helpers::{
        self, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_sk_fullsock, bpf_skb_cgroup_id,
        bpf_skb_load_bytes,
    },
};
use monitor_ebpf::{
    flow::SocketFigures,
    hello::PIECE_MAX,
    observe::Packet,
    packet::{Frame, Header},
    tracker::Clock,
};

/// For tests: 1 takes both clocks from `skb->tstamp`. Frozen before the programs load, so that
/// the verifier removes what it switches off.
#[unsafe(no_mangle)]
static TEST_CLOCK: Global<u8> = Global::new(0);

/// 1 where control groups are asked for: a kernel without CONFIG_CGROUPS has no such helper.
/// Frozen before the programs load, as the above.
#[unsafe(no_mangle)]
static CGROUPS: Global<u8> = Global::new(0);

const SOCK_STREAM: u32 = 1;

/// A packet at a TC hook.
pub struct Skb {
    skb: *mut __sk_buff,
    egress: bool,
    /// Whether `skb->tstamp` may be TCP's.
    stamped: bool,
}

impl Skb {
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff, egress: bool) -> Self {
        Self {
            skb,
            egress,
            stamped: egress,
        }
    }

    /// For the bench, whose packets no socket sends: one that passes for a socket's.
    #[inline(always)]
    pub fn stamped(skb: *mut __sk_buff) -> Self {
        Self {
            skb,
            egress: false,
            stamped: true,
        }
    }

    /// Where what lies together of the packet begins and ends.
    ///
    /// The fields have 32 bits and stand for pointers: LLVM would go on with the lower half of a
    /// register, which to the verifier is no pointer.
    #[inline(always)]
    pub fn data(&self) -> (usize, usize) {
        const { assert!(offset_of!(__sk_buff, data) == 76) };
        const { assert!(offset_of!(__sk_buff, data_end) == 80) };
        let (start, end);
        // SAFETY: reads two fields of the context.
        unsafe {
            asm!(
                "{start} = *(u32 *)({skb} + 76)",
                "{end} = *(u32 *)({skb} + 80)",
                skb = in(reg) self.skb,
                start = out(reg) start,
                end = lateout(reg) end,
                options(pure, readonly, nostack),
            );
        }
        (start, end)
    }

    /// The TCP socket that sends this packet. Absent for forwarded packets, SYN-ACKs and
    /// time-wait; RSTs carry a raw control socket, on which `bpf_tcp_sock` returns garbage.
    #[inline(always)]
    fn socket(&self) -> Option<*mut bpf_sock> {
        if !self.egress {
            return None;
        }
        // SAFETY: a field of the context; the verifier knows it may be null.
        let sk = unsafe { (*self.skb).__bindgen_anon_2.sk };
        if sk.is_null() {
            return None;
        }
        // SAFETY: `sk` is not null.
        let sk = unsafe { bpf_sk_fullsock(sk) };
        // SAFETY: read only when not null.
        if sk.is_null() || unsafe { (*sk).type_ } != SOCK_STREAM {
            return None;
        }
        Some(sk)
    }

    #[inline(always)]
    fn tcp_socket(&self) -> Option<&bpf_tcp_sock> {
        self.tcp_of(self.socket()?)
    }

    #[inline(always)]
    fn tcp_of(&self, sk: *mut bpf_sock) -> Option<&bpf_tcp_sock> {
        // SAFETY: `sk` is a full socket.
        let tcp = unsafe { helpers::bpf_tcp_sock(sk) };
        if tcp.is_null() {
            return None;
        }
        // SAFETY: not null, and a stream socket (see `socket`); valid while the packet is.
        Some(unsafe { &*tcp })
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn load<H: Header>(&self, offset: usize) -> Option<H> {
        let (start, end) = self.data();
        let at = start + offset;
        if at + size_of::<H>() <= end {
            // SAFETY: inside the packet, as the verifier sees too; `H` may be any bytes.
            return Some(unsafe { *(at as *const H) });
        }
        // Headers that lie in a page fragment.
        let mut header = MaybeUninit::<H>::uninit();
        // SAFETY: the helper writes exactly the size of `H`, or fails.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                offset as u32,
                header.as_mut_ptr().cast(),
                size_of::<H>() as u32,
            )
        };
        if result == 0 {
            // SAFETY: all of it was written.
            Some(unsafe { header.assume_init() })
        } else {
            None
        }
    }

    #[inline(always)]
    fn load_options(&self, offset: usize, len: usize, options: &mut [u8; 64]) -> bool {
        let mut len = len as u64;
        // SAFETY: only narrows a register. LLVM knows the range of `len` and would drop a mask
        // written in Rust; the verifier does not know it, and 6.1 takes a lower bound only from
        // an addition.
        unsafe { asm!("{len} -= 1", "{len} &= 63", "{len} += 1", len = inout(reg) len) };
        // SAFETY: at most 64 bytes are written to a buffer of 64.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                offset as u32,
                options.as_mut_ptr().cast(),
                len as u32,
            )
        };
        result == 0
    }

    #[inline(always)]
    fn load_payload(&self, offset: usize, len: usize, payload: &mut [u8; PIECE_MAX]) -> bool {
        let len = below_piece_max(len as u64);
        // SAFETY: at most `PIECE_MAX` bytes are written to a buffer of that many.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                offset as u32,
                payload.as_mut_ptr().cast(),
                len as u32,
            )
        };
        result == 0
    }
}

/// `len`, from 1 to [`PIECE_MAX`] as the verifier sees too (as in `load_options`).
#[inline(always)]
pub fn below_piece_max(mut len: u64) -> u64 {
    const { assert!(PIECE_MAX == 4_096) };
    // SAFETY: only narrows a register.
    unsafe { asm!("{len} -= 1", "{len} &= 4095", "{len} += 1", len = inout(reg) len) };
    len
}

impl Clock for Skb {
    #[inline(always)]
    fn precise_ns(&self) -> u64 {
        if TEST_CLOCK.load() == 1 {
            // SAFETY: a field of the context.
            return unsafe { (*self.skb).tstamp };
        }
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn coarse_ns(&self) -> u64 {
        if TEST_CLOCK.load() == 1 {
            // SAFETY: a field of the context.
            return unsafe { (*self.skb).tstamp };
        }
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn frame_len(&self) -> u32 {
        // SAFETY: a field of the context. Read here and now: LLVM would make one read of both
        // fields at a computed offset, which the verifier refuses.
        let len = unsafe { (&raw const (*self.skb).len).read_volatile() };
        if TEST_CLOCK.load() == 1 {
            // Tests feed headers only.
            // SAFETY: a field of the context.
            return unsafe { (*self.skb).wire_len };
        }
        len
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).gso_size }
    }

    #[inline(always)]
    fn gso_segs(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).gso_segs }
    }

    #[inline(always)]
    fn hook(&self) -> u32 {
        // SAFETY: a field of the context.
        let ifindex = unsafe { (*self.skb).ifindex };
        ifindex << 1 | u32::from(self.egress)
    }

    #[inline(always)]
    fn departure_ns(&self) -> u64 {
        if !self.stamped || TEST_CLOCK.load() == 1 {
            return 0;
        }
        // SAFETY: a field of the context. At egress it is what TCP takes for the time of departure
        // itself, by CLOCK_MONOTONIC (`tcp_wstamp_ns`).
        unsafe { (*self.skb).tstamp }
    }

    #[inline(always)]
    fn sent_by_socket(&self) -> bool {
        // The bench's packets pass for such; for all others both are the same.
        (self.stamped && !self.egress) || self.socket().is_some()
    }

    #[inline(always)]
    fn socket_snd_nxt(&self) -> Option<u32> {
        Some(self.tcp_socket()?.snd_nxt)
    }

    /// Of an `Option` without a number LLVM compares the number all the same, which was never
    /// written: the verifier refuses that.
    #[inline(always)]
    fn socket_sends_next(&self, sequence: u32) -> bool {
        match self.tcp_socket() {
            Some(tcp) => tcp.snd_nxt == sequence,
            None => false,
        }
    }

    #[inline(always)]
    fn socket_figures(&self, figures: &mut SocketFigures) {
        let Some(sk) = self.socket() else {
            return;
        };
        // SAFETY: a full socket.
        let (mark, family) = unsafe { ((*sk).mark, (*sk).family) };
        let Some(tcp) = self.tcp_of(sk) else {
            return;
        };
        figures.mark = mark;
        figures.family = family;
        figures.srtt_us = tcp.srtt_us >> 3;
        figures.rtt_min_us = tcp.rtt_min;
        figures.total_retrans = tcp.total_retrans;
        figures.snd_cwnd = tcp.snd_cwnd;
        figures.packets_out = tcp.packets_out;
        figures.delivered = tcp.delivered;
        figures.delivered_ce = tcp.delivered_ce;
        figures.rate_delivered = tcp.rate_delivered;
        figures.rate_interval_us = tcp.rate_interval_us;
        figures.mss_cache = tcp.mss_cache;
        figures.dsack_dups = tcp.dsack_dups;
        figures.sightings = figures.sightings.wrapping_add(1);
        if CGROUPS.load() == 1 && figures.cgroup_id == 0 {
            // SAFETY: the context; there is a full socket (see `tcp_socket`).
            figures.cgroup_id = unsafe { bpf_skb_cgroup_id(self.skb) };
        }
    }
}
