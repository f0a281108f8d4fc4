//! A captured packet as the packet path's [`Packet`].

use monitor_ebpf::{
    flow::SocketFigures,
    hello::PIECE_MAX,
    observe::Packet,
    packet::{Frame, Header},
    tracker::Clock,
};

/// One packet of a capture.
pub struct Captured<'a> {
    /// The bytes that were kept.
    pub bytes: &'a [u8],
    /// Length of the frame on the wire.
    pub frame_len: u32,
    /// Capture time, ns since 1970 UTC.
    pub time_ns: u64,
    /// Payload of each wire segment, where the frame stands for several; 0: it does not.
    pub gso_size: u32,
    pub gso_segs: u32,
}

/// Where a packet was captured, as the packet path numbers its hooks: ifindex << 1 | 1 for what
/// the host sent.
///
/// A packet that a capture of several interfaces holds twice (a forwarder's two devices, a bond
/// and its slaves) is counted once, as in the kernel, and a capture that says which packets its
/// host sent says where it stands on a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook(u32);

impl Hook {
    /// What is taken for a capture that says nothing: one tap that sees both directions once.
    /// Ingress of the first device, as BPF_PROG_TEST_RUN has it.
    pub const TAP: Self = Self(1 << 1);

    pub fn new(interface: u32, outgoing: bool) -> Self {
        // 0 would be nobody's.
        Self(interface.max(1) << 1 | u32::from(outgoing))
    }
}

/// A packet with everything that the packet path asks for.
pub struct Sighted<'a> {
    pub packet: &'a Captured<'a>,
    pub hook: Hook,
    /// Time that never steps back, for ageing; the packet's own may, a little.
    pub coarse_ns: u64,
    pub precise_ns: u64,
}

impl Frame for Captured<'_> {
    fn load<H: Header>(&self, offset: usize) -> Option<H> {
        self.bytes.load(offset)
    }

    fn load_options(&self, offset: usize, len: usize, options: &mut [u8; 64]) -> bool {
        self.bytes.load_options(offset, len, options)
    }

    fn load_payload(&self, offset: usize, len: usize, payload: &mut [u8; PIECE_MAX]) -> bool {
        self.bytes.load_payload(offset, len, payload)
    }
}

impl Clock for Captured<'_> {
    fn precise_ns(&self) -> u64 {
        self.time_ns
    }

    fn coarse_ns(&self) -> u64 {
        self.time_ns
    }
}

impl Packet for Captured<'_> {
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
        Hook::TAP.0
    }

    fn departure_ns(&self) -> u64 {
        0
    }

    fn sent_by_socket(&self) -> bool {
        false
    }

    fn socket_snd_nxt(&self) -> Option<u32> {
        None
    }

    fn socket_figures(&self, _figures: &mut SocketFigures) {}
}

impl Frame for Sighted<'_> {
    fn load<H: Header>(&self, offset: usize) -> Option<H> {
        self.packet.load(offset)
    }

    fn load_options(&self, offset: usize, len: usize, options: &mut [u8; 64]) -> bool {
        self.packet.load_options(offset, len, options)
    }

    fn load_payload(&self, offset: usize, len: usize, payload: &mut [u8; PIECE_MAX]) -> bool {
        self.packet.load_payload(offset, len, payload)
    }
}

impl Clock for Sighted<'_> {
    fn precise_ns(&self) -> u64 {
        self.precise_ns
    }

    fn coarse_ns(&self) -> u64 {
        self.coarse_ns
    }
}

impl Packet for Sighted<'_> {
    fn frame_len(&self) -> u32 {
        self.packet.frame_len
    }

    fn gso_size(&self) -> u32 {
        self.packet.gso_size
    }

    fn gso_segs(&self) -> u32 {
        self.packet.gso_segs
    }

    fn hook(&self) -> u32 {
        self.hook.0
    }

    fn departure_ns(&self) -> u64 {
        0
    }

    fn sent_by_socket(&self) -> bool {
        false
    }

    fn socket_snd_nxt(&self) -> Option<u32> {
        None
    }

    fn socket_figures(&self, _figures: &mut SocketFigures) {}
}
