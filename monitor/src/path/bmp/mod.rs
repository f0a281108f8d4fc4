//! BMP (RFC 7854, with Adj-RIB-Out of RFC 8671 and Loc-RIB of RFC 9069): a router's bytes to
//! [`Message`]s.
//!
//! [`Decoder`] cuts the stream into messages and remembers of each peer what its OPEN messages
//! negotiated. Routers are believed in what they mean, not in every detail: what is not
//! understood is counted and stepped over. Only a stream that is no BMP ends the session, because
//! nobody knows where its next message begins.

mod decoder;
mod message;

pub use decoder::{Counters, Decoder, FramingError, MAX_MESSAGE};
pub use message::{BodyError, Message, Peer, PeerIdentity, PeerType, PeerUp, RibView};
