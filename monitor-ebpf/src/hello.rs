//! What a client says first, handed on once a flow: by the server's name in it userspace knows
//! which service this is.
//!
//! A ClientHello with post-quantum keys takes two segments, and four where segments are small:
//! so the pieces of a client's beginning are handed on until the server has answered, which it
//! does when it has all of it. That is at most eight pieces of a flow, and no copy after that.

use crate::{
    counters::Counter,
    flow::{FlowKey, Half, half_flags as is},
    observe::{Packet, Tables},
    packet::{Parsed, Segment},
    select::{Settings, settings_flags},
};

/// The longest piece, bytes: of a super-packet that is larger the rest is left out. No
/// ClientHello in use is longer. A power of two, because the verifier wants a mask.
pub const PIECE_MAX: usize = 4_096;

/// Where pieces end to matter, in bytes of the client's stream.
const STREAM_MAX: u32 = 16_384;

/// Pieces of one flow are counted in three bits of [`Half::flags`], 28 to 30; the eighth
/// carries over into [`is::HELLO_DONE`].
const ONE_PIECE: u32 = 1 << 28;

/// [`Piece::transport`].
pub const TCP: u32 = 0;
pub const QUIC: u32 = 1;

/// A piece of what a client sent first.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Piece {
    pub key: FlowKey,
    /// As in the flow's state.
    pub generation: u64,
    /// Of the first byte, from the beginning of the client's stream; 0 for a datagram.
    pub offset: u32,
    /// How many of `bytes` are the piece's.
    pub len: u32,
    /// [`TCP`] or [`QUIC`].
    pub transport: u32,
    /// [`crate::flow::LOW_TO_HIGH`] or [`crate::flow::HIGH_TO_LOW`]: the client's direction.
    pub direction: u32,
    pub bytes: [u8; PIECE_MAX],
}

/// Bytes of a [`Piece`] before its payload.
pub const HEADER_LEN: usize = size_of::<Piece>() - PIECE_MAX;

const _: () = assert!(HEADER_LEN == 64);

impl Piece {
    /// All zero.
    pub const EMPTY: Self = Self {
        key: FlowKey::EMPTY,
        generation: 0,
        offset: 0,
        len: 0,
        transport: TCP,
        direction: 0,
        bytes: [0; PIECE_MAX],
    };
}

/// The offset of a segment that is a piece of what the client says first, where that is asked
/// for; counts it. One comparison for data of a server.
#[inline(always)]
pub fn piece_of(
    own: &mut Half,
    peer: &Half,
    segment: &Segment,
    settings: &Settings,
) -> Option<u32> {
    const OPENED: u32 = is::SYN | is::SYN_ACK | is::HELLO_DONE;
    if own.flags & OPENED != is::SYN || segment.payload_len == 0 || peer.frames != 0 {
        return None;
    }
    if settings.flags & settings_flags::HELLOS == 0 {
        return None;
    }
    let offset = segment.sequence.wrapping_sub(own.isn).wrapping_sub(1);
    if offset >= STREAM_MAX {
        return None;
    }
    own.flags = own.flags.wrapping_add(ONE_PIECE);
    Some(offset)
}

/// Whose piece it is.
pub(crate) struct Place {
    pub generation: u64,
    pub offset: u32,
    pub transport: u32,
}

/// Hands on the first bytes of a packet's payload, at most [`PIECE_MAX`]. What could not be is
/// counted.
#[inline(always)]
pub(crate) fn hand_on<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    parsed: &Parsed,
    place: &Place,
    payload_len: u32,
) {
    // `None` cannot happen: an array has its one entry.
    let Some(piece) = tables.piece() else {
        return;
    };
    let len = if payload_len < PIECE_MAX as u32 {
        payload_len
    } else {
        PIECE_MAX as u32
    };
    // SAFETY: this CPU's own, and no other reference to it lives.
    let piece = unsafe { &mut *piece };
    piece.key = parsed.key;
    piece.generation = place.generation;
    piece.offset = place.offset;
    piece.len = len;
    piece.transport = place.transport;
    piece.direction = parsed.direction;
    let counter = if packet.load_payload(parsed.payload_at as usize, len as usize, &mut piece.bytes)
        && tables.hand_on(piece, len)
    {
        Counter::HellosSent
    } else {
        Counter::HellosLost
    };
    tables.count(counter);
}
