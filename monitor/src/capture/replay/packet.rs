//! A captured packet as the packet path's [`Packet`].

use monitor_ebpf::{
    flow::SocketFigures,
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

impl Frame for Captured<'_> {
    fn load<H: Header>(&self, offset: usize) -> Option<H> {
        self.bytes.load(offset)
    }

    fn load_options(&self, offset: usize, len: usize, options: &mut [u8; 64]) -> bool {
        self.bytes.load_options(offset, len, options)
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

    /// One tap sees both directions once: the same hook for all. Ingress of the first device, as
    /// BPF_PROG_TEST_RUN has it, so that states are the same to the byte.
    fn hook(&self) -> u32 {
        1 << 1
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
