//! What the bench and its programs share.

/// What packets to make of one template.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// Flows, taken in turn.
    pub flows: u32,
    /// One of [`kinds`].
    pub kind: u32,
    /// The server's next sequence number in every flow; at the handshake that of its SYN-ACK.
    pub first_sequence: u32,
    pub reserved: u32,
}

/// [`Case::kind`]: what each flow's turn is.
pub mod kinds {
    /// SYN, SYN-ACK and ACK.
    pub const HANDSHAKE: u32 = 0;
    /// An ACK of all that was sent so far.
    pub const ACK: u32 = 1;
    /// Data of the server.
    pub const DATA: u32 = 2;
    /// The same and its ACK.
    pub const DATA_AND_ACK: u32 = 3;
    /// The same, and the data has the stamp that TCP gives what it sends.
    pub const SENT_AND_ACKED: u32 = 4;
}

/// Payload of a data packet, bytes.
pub const DATA_LEN: u32 = 1_448;
/// Client ports used of each client address.
pub const CLIENTS_PER_ADDRESS: u32 = 16_384;
pub const FIRST_CLIENT_PORT: u16 = 1_024;

/// Ethernet, IPv4, TCP with timestamps; words are pairs because they lie at odd multiples of
/// two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    pub addresses: [u16; 6],
    pub ethertype: u16,
    pub version_tos: [u8; 2],
    pub total_len: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl_protocol: [u8; 2],
    pub checksum: u16,
    pub source: [u16; 2],
    pub destination: [u16; 2],
    pub source_port: u16,
    pub destination_port: u16,
    pub sequence: [u16; 2],
    pub acknowledgment: [u16; 2],
    pub offset_flags: [u8; 2],
    pub window: u16,
    pub tcp_checksum: u16,
    pub urgent: u16,
    pub option_kinds: [u8; 4],
    pub tsval: [u16; 2],
    pub tsecr: [u16; 2],
}

impl Frame {
    /// A template with what never changes.
    pub fn template() -> Self {
        Self {
            ethertype: 0x0800u16.to_be(),
            version_tos: [0x45, 0],
            ttl_protocol: [64, 6],
            offset_flags: [8 << 4, crate::packet::tcp_flags::ACK],
            window: u16::MAX,
            option_kinds: [1, 1, 8, 10],
            ..Self::default()
        }
    }

    /// Its bytes on the wire.
    pub fn bytes(&self) -> [u8; size_of::<Self>()] {
        // SAFETY: integers without padding: 66 bytes, all initialised.
        unsafe { core::mem::transmute_copy(self) }
    }
}

const _: () = assert!(size_of::<Frame>() == 66);
