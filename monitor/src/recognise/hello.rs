//! The first bytes of one flow's client, whatever they are.

use super::http;
use super::quic::Initials;
use super::tls;
use super::{Add, Outcome, Pieces};

/// How the bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Pieces of a stream: TLS or HTTP/1.
    Tcp,
    /// Datagrams: QUIC.
    Quic,
}

/// What the client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// By the server name of a TLS or QUIC hello.
    Name(tls::ServerName),
    /// In clear text.
    Request(http::Request),
}

/// What one client said so far. Bounded: a stream's beginning of 16 KiB, or six datagrams.
#[derive(Clone, Debug)]
pub enum Hello {
    Tcp(Pieces),
    Quic(Box<Initials>),
}

impl Hello {
    pub fn new(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp(Pieces::default()),
            Transport::Quic => Self::Quic(Box::default()),
        }
    }

    /// Takes what the client sent: bytes from number `offset` of its stream, or a datagram.
    pub fn add(&mut self, offset: u64, bytes: &[u8]) -> Outcome<Finding> {
        match self {
            Self::Quic(initials) => initials.add(bytes).map(Finding::Name),
            Self::Tcp(pieces) => {
                let added = pieces.add(offset, bytes);
                let stream = pieces.beginning();
                let outcome = match tls::client_hello(stream) {
                    Outcome::NotThis => http::request(stream).map(Finding::Request),
                    outcome => outcome.map(Finding::Name),
                };
                match outcome {
                    Outcome::NeedMore if added == Add::Refused => Outcome::TooLong,
                    outcome => outcome,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ClientHello, records};
    use super::*;

    #[test]
    fn a_hello_over_two_segments_in_any_order_is_one() {
        let stream = records(&ClientHello::to("a.example").post_quantum().bytes(), 16_384);
        let (first, second) = stream.split_at(1_000);
        let name = Outcome::Found(Finding::Name(tls::ServerName {
            name: "a.example".to_owned(),
            may_be_outer: false,
        }));
        let mut hello = Hello::new(Transport::Tcp);
        assert_eq!(hello.add(1_000, second), Outcome::NeedMore);
        assert_eq!(hello.add(0, first), name);
        assert_eq!(hello.add(0, first), name);
    }

    #[test]
    fn other_protocols_end_the_search() {
        let mut hello = Hello::new(Transport::Tcp);
        assert_eq!(hello.add(0, b"SSH-2.0-OpenSSH\r\n"), Outcome::NotThis);
    }
}
