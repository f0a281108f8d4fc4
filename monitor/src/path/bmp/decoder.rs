//! A router's byte stream, cut into messages.

use std::collections::HashMap;

use super::super::update::Encoding;
use super::message::{BodyError, Message, Peer, PeerIdentity, PeerType, PeerUp, RibView};

/// Version, length, type (RFC 7854, 4.1).
const HEADER_LENGTH: usize = 6;
/// Version 3 is RFC 7854's; 1 and 2 were drafts with other headers.
const VERSION: u8 = 3;
/// The longest message that is waited for. Two OPEN messages or one UPDATE of at most 64 KiB each
/// (RFC 8654) fit many times; a Route Mirroring or a Statistics Report that is longer is not
/// worth its memory.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Peers whose encoding is remembered. The largest route servers have about a thousand sessions;
/// each of them may be there in several VRFs.
const MAX_PEERS: usize = 16_384;

/// Why nothing more can be read from this router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("this is no BMP: it begins with {0}, not with version 3")]
    Version(u8),
    #[error(
        "a message says that it is {0} bytes long: at least 6 and at most {MAX_MESSAGE} make sense"
    )]
    Length(u32),
}

/// What a decoder has seen since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub messages: u64,
    /// Messages stepped over because they cannot be read.
    pub not_understood: u64,
    /// UPDATEs whose attributes cannot be read; their prefixes count as withdrawn.
    pub malformed_updates: u64,
    /// UPDATEs about address families that tell no ways to clients.
    pub other_families: u64,
    pub statistics_reports: u64,
    pub mirrored: u64,
}

/// Cuts one session's bytes into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Read already.
    start: usize,
    peers: HashMap<PeerIdentity, PeerUp>,
    counters: Counters,
}

impl Decoder {
    /// Takes bytes as they came. Ask [`Decoder::next`] until it has none before pushing more:
    /// then at most one message and what was pushed is held.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message; `None`: more bytes are needed. A message that cannot be read is an
    /// inner error and stepped over; an outer one ends the session.
    #[expect(
        clippy::should_implement_trait,
        reason = "it yields again after `None`"
    )]
    pub fn next(&mut self) -> Option<Result<Result<Message, BodyError>, FramingError>> {
        let rest = self.bytes.get(self.start..)?;
        // The version tells before the rest of the header is there.
        let version = *rest.first()?;
        if version != VERSION {
            return Some(Err(FramingError::Version(version)));
        }
        let (header, body) = rest.split_first_chunk::<HEADER_LENGTH>()?;
        let [_, l0, l1, l2, l3, kind] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let Some(body_length) = usize::try_from(length)
            .ok()
            .filter(|&length| length <= MAX_MESSAGE)
            .and_then(|length| length.checked_sub(HEADER_LENGTH))
        else {
            return Some(Err(FramingError::Length(length)));
        };
        let body = body.get(..body_length)?;
        let read = Message::read(kind, body, |peer| encoding(&self.peers, peer));
        self.start += HEADER_LENGTH + body_length;
        self.remember(&read);
        Some(Ok(read))
    }

    /// What was seen so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of a message that is not whole yet.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn remember(&mut self, read: &Result<Message, BodyError>) {
        let counters = &mut self.counters;
        counters.messages += 1;
        match read {
            Err(_) => counters.not_understood += 1,
            Ok(Message::PeerUp { peer, up }) => {
                if self.peers.len() < MAX_PEERS || self.peers.contains_key(&peer.identity) {
                    self.peers.insert(peer.identity, up.clone());
                }
            }
            Ok(Message::PeerDown { peer, .. }) => {
                self.peers.remove(&peer.identity);
            }
            Ok(Message::Routes { update, .. }) => {
                counters.malformed_updates += u64::from(update.is_malformed);
                counters.other_families += u64::from(update.other_family);
            }
            Ok(Message::Statistics { .. }) => counters.statistics_reports += 1,
            Ok(Message::RouteMirroring { .. }) => counters.mirrored += 1,
            Ok(Message::Initiation { .. } | Message::Termination { .. }) => {}
        }
    }
}

/// A peer that never came up has no options: some routers announce their Loc-RIB so.
fn encoding(peers: &HashMap<PeerIdentity, PeerUp>, peer: &Peer) -> Encoding {
    let add_path = peers.get(&peer.identity).map_or([false; 2], |up| {
        match (peer.identity.peer_type, peer.view) {
            (_, RibView::AdjRibOut) => up.add_path_out,
            // Both OPEN messages are made up by the router (RFC 9069, 4.4): either may say it.
            (PeerType::LocRib, _) => [0, 1].map(|at| up.add_path_in[at] || up.add_path_out[at]),
            _ => up.add_path_in,
        }
    });
    Encoding {
        width: peer.width,
        add_path,
    }
}
