//! What service a flow belongs to, from the first bytes of its client: pure parsers of what
//! anybody may send.
//!
//! ```text
//! pieces   bytes in any order, with holes and copies  -> the beginning without a hole
//! tls      TLS records, or the CRYPTO stream of QUIC   -> server name of the ClientHello
//! http     an HTTP/1 request                          -> host and path
//! quic     datagrams with QUIC Initials               -> CRYPTO stream, decrypted
//! hello    the first bytes of one flow, whatever they are
//! services server name                                -> name of a video service
//! behaviour a flow's figures                          -> how much it looks like video
//! ```
//!
//! A server name tells what somebody watches: it is matched here and forgotten. Only the name of
//! the matched *service* leaves this module.

pub mod behaviour;
mod hello;
pub mod http;
mod pieces;
pub mod quic;
pub mod services;
pub mod tls;

pub use hello::{Finding, Hello, Transport};
pub use pieces::{Add, Pieces};

/// What was found in the first bytes of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// What was looked for.
    Found(T),
    /// It is this protocol, and says nothing about the server's name.
    Absent,
    /// Not all of it is here yet.
    NeedMore,
    /// Another protocol, or damaged.
    NotThis,
    /// Longer than anybody's: it is not kept.
    TooLong,
}

impl<T> Outcome<T> {
    /// The same outcome about another value.
    pub fn map<U>(self, with: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Found(value) => Outcome::Found(with(value)),
            Self::Absent => Outcome::Absent,
            Self::NeedMore => Outcome::NeedMore,
            Self::NotThis => Outcome::NotThis,
            Self::TooLong => Outcome::TooLong,
        }
    }

    /// Whether nothing that follows can change it.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::NeedMore)
    }
}

/// A server's name in lower case without the final dot; `None` where the bytes are no host name
/// (RFC 1123, 2.1, and underscores, which some use).
pub(crate) fn host_name(bytes: &[u8]) -> Option<String> {
    /// RFC 1035, 2.3.4.
    const NAME_MAX: usize = 253;
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if bytes.is_empty() || bytes.len() > NAME_MAX || !bytes.iter().all(allowed) {
        return None;
    }
    Some(String::from_utf8_lossy(bytes).to_ascii_lowercase())
}

#[cfg(test)]
pub(crate) mod tests;
