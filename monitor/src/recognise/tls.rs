//! The server name of a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3).

use tls_parser::{
    SNIType, TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_extension_sni_content,
    parse_tls_message_handshake,
};

use super::pieces::MAX_BYTES;
use super::{Outcome, host_name};

/// `ContentType.handshake`.
const HANDSHAKE: u8 = 22;
/// `HandshakeType.client_hello`.
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
/// A record holds at most this (RFC 8446, 5.1).
const RECORD_MAX: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
/// RFC 9849, and its predecessor, which Firefox and Cloudflare ran from 2018 to 2021.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const ENCRYPTED_SERVER_NAME: u16 = 0xffce;

/// Whom a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    pub name: String,
    /// The hello has another one inside, encrypted: this may be the name of the provider in
    /// front of the service. Browsers send the extension with random content too (GREASE ECH),
    /// and nobody can tell which it is.
    pub may_be_outer: bool,
}

/// The ClientHello at the beginning of a TCP connection: in one record or cut over several.
pub fn client_hello(stream: &[u8]) -> Outcome<ServerName> {
    let mut message = Vec::new();
    let mut rest = stream;
    loop {
        let header = &rest[..rest.len().min(RECORD_HEADER)];
        // Each byte is looked at as it comes, so that another protocol is known by its first one.
        let [kind, major, minor, ..] = *header else {
            return match *header {
                [] => Outcome::NeedMore,
                [HANDSHAKE] | [HANDSHAKE, 3] => Outcome::NeedMore,
                _ => Outcome::NotThis,
            };
        };
        if kind != HANDSHAKE || major != 3 || minor > 4 {
            return Outcome::NotThis;
        }
        let [_, _, _, high, low] = *header else {
            return Outcome::NeedMore;
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len == 0 || len > RECORD_MAX {
            return Outcome::NotThis;
        }
        let body = &rest[RECORD_HEADER..];
        message.extend_from_slice(&body[..body.len().min(len)]);
        match handshake(&message) {
            Outcome::NeedMore if body.len() >= len => rest = &body[len..],
            outcome => return outcome,
        }
    }
}

/// The ClientHello at the beginning of a handshake stream: that of QUIC, or what TLS records hold.
pub fn handshake(stream: &[u8]) -> Outcome<ServerName> {
    let [kind, length @ ..] = stream else {
        return Outcome::NeedMore;
    };
    if *kind != CLIENT_HELLO {
        return Outcome::NotThis;
    }
    let [high, middle, low, ..] = *length else {
        return Outcome::NeedMore;
    };
    let len = u32::from_be_bytes([0, high, middle, low]) as usize;
    if len > MAX_BYTES - HANDSHAKE_HEADER {
        return Outcome::TooLong;
    }
    let Some(message) = stream.get(..HANDSHAKE_HEADER + len) else {
        return Outcome::NeedMore;
    };
    let Ok((_, TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)))) =
        parse_tls_message_handshake(message)
    else {
        return Outcome::NotThis;
    };
    server_name(hello.ext.unwrap_or(&[]))
}

/// Every extension stands for itself: one that is damaged hides no other.
fn server_name(mut extensions: &[u8]) -> Outcome<ServerName> {
    let mut name = None;
    let mut may_be_outer = false;
    while let [a, b, c, d, rest @ ..] = extensions {
        let len = usize::from(u16::from_be_bytes([*c, *d]));
        let Some((content, next)) = rest.split_at_checked(len) else {
            break;
        };
        match u16::from_be_bytes([*a, *b]) {
            SERVER_NAME if name.is_none() => name = first_host_name(content),
            ENCRYPTED_CLIENT_HELLO | ENCRYPTED_SERVER_NAME => may_be_outer = true,
            _ => {}
        }
        extensions = next;
    }
    match name {
        Some(name) => Outcome::Found(ServerName { name, may_be_outer }),
        None => Outcome::Absent,
    }
}

fn first_host_name(content: &[u8]) -> Option<String> {
    let Ok((_, TlsExtension::SNI(names))) = parse_tls_extension_sni_content(content) else {
        return None;
    };
    names
        .iter()
        .find(|(kind, _)| *kind == SNIType::HostName)
        .and_then(|(_, name)| host_name(name))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ClientHello, records};
    use super::*;

    fn found(name: &str) -> Outcome<ServerName> {
        Outcome::Found(ServerName {
            name: name.to_owned(),
            may_be_outer: false,
        })
    }

    #[test]
    fn a_name_is_found_however_the_hello_is_cut_into_records() {
        let hello = ClientHello::to("Video.Example.COM.").post_quantum().bytes();
        assert!(hello.len() > 1_448, "spans two segments");
        for len in [1, 2, 7, 100, 1_000, 16_384] {
            let stream = records(&hello, len);
            assert_eq!(client_hello(&stream), found("video.example.com"), "{len}");
        }
    }

    #[test]
    fn every_beginning_asks_for_more() {
        let stream = records(&ClientHello::to("a.example").bytes(), 60);
        for len in 0..stream.len() {
            assert_eq!(client_hello(&stream[..len]), Outcome::NeedMore, "{len}");
        }
    }

    #[test]
    fn grease_hides_nothing_and_an_encrypted_hello_may_hide_all() {
        let grease = ClientHello::to("a.example").extension(0x2a2a, &[0]);
        assert_eq!(handshake(&grease.bytes()), found("a.example"));
        let encrypted = ClientHello::to("outer.example").extension(ENCRYPTED_CLIENT_HELLO, &[0; 9]);
        let outer = ServerName {
            name: "outer.example".to_owned(),
            may_be_outer: true,
        };
        assert_eq!(handshake(&encrypted.bytes()), Outcome::Found(outer));
    }

    #[test]
    fn a_hello_without_a_name_says_so() {
        assert_eq!(handshake(&ClientHello::nameless().bytes()), Outcome::Absent);
        let address = ClientHello::to("not a name");
        assert_eq!(handshake(&address.bytes()), Outcome::Absent);
        let empty = ClientHello::nameless().extension(SERVER_NAME, &[]);
        assert_eq!(handshake(&empty.bytes()), Outcome::Absent);
    }

    #[test]
    fn other_protocols_are_known_by_their_first_bytes() {
        for other in [
            &b"G"[..],
            b"SSH-2.0-x\r\n",
            &[22, 2],
            &[22, 3, 9],
            &[23, 3, 3],
        ] {
            assert_eq!(client_hello(other), Outcome::NotThis, "{other:02x?}");
        }
        // A ServerHello, and a record without a byte.
        assert_eq!(
            client_hello(&[22, 3, 3, 0, 4, 2, 0, 0, 0]),
            Outcome::NotThis
        );
        assert_eq!(client_hello(&[22, 3, 3, 0, 0]), Outcome::NotThis);
    }

    #[test]
    fn a_length_nobody_needs_is_not_waited_for() {
        assert_eq!(handshake(&[1, 0, 0x40, 0]), Outcome::TooLong);
        assert_eq!(handshake(&[1, 0, 0x3f, 0xfc]), Outcome::NeedMore);
    }
}
