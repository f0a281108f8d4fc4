//! What clients say first: TLS, HTTP/1 and QUIC.

use lastmile::recognise::{
    Finding, Hello, Outcome, Pieces, Transport, http,
    quic::{Initials, crypto_frames},
    tls,
};

/// Datagrams and segments that one input is cut into.
const PARTS_MAX: usize = 8;

/// TLS records, whole and cut anywhere: what a beginning says for good, the whole says too.
pub fn client_hello(input: &[u8]) {
    let whole = tls::client_hello(input);
    if let Outcome::Found(found) = &whole {
        is_a_name(&found.name);
    }
    let cut = usize::from(input.first().copied().unwrap_or(0)) * 8;
    let cut = input.get(..cut.min(input.len())).unwrap_or(input);
    let beginning = tls::client_hello(cut);
    if beginning.is_final() {
        assert_eq!(beginning, whole);
    }
    let _ = tls::handshake(input);
    in_pieces(input);
}

/// A request, whole and cut anywhere.
pub fn http(input: &[u8]) {
    if let Outcome::Found(found) = http::request(input) {
        assert!(found.host.is_some() || found.is_media);
        if let Some(host) = &found.host {
            is_a_name(host);
        }
    }
    in_pieces(input);
}

/// Datagrams as they come, and the frames of one that was opened.
pub fn quic(input: &[u8]) {
    let mut client = Initials::default();
    for datagram in input.chunks(1 + input.len() / 2) {
        if let Outcome::Found(found) = client.add(datagram) {
            is_a_name(&found.name);
        }
    }
    let mut crypto = Pieces::default();
    let _ = crypto_frames(input, &mut crypto);
    assert!(crypto.beginning().len() <= 16_384);
    if let Outcome::Found(found) = tls::handshake(crypto.beginning()) {
        is_a_name(&found.name);
    }
}

/// The first two bytes choose how the rest is cut and in which order it comes.
fn in_pieces(input: &[u8]) {
    let [order, len, stream @ ..] = input else {
        return;
    };
    let len = usize::from(*len).max(1).max(stream.len() / PARTS_MAX);
    let mut parts: Vec<(usize, &[u8])> = stream
        .chunks(len)
        .enumerate()
        .map(|(number, part)| (number * len, part))
        .collect();
    let turn = usize::from(*order) % parts.len().max(1);
    parts.rotate_left(turn);
    let mut hello = Hello::new(Transport::Tcp);
    for (offset, part) in parts {
        match hello.add(offset as u64, part) {
            Outcome::Found(Finding::Name(found)) => is_a_name(&found.name),
            Outcome::Found(Finding::Request(found)) => {
                found.host.iter().for_each(|host| is_a_name(host));
            }
            _ => {}
        }
    }
}

fn is_a_name(name: &str) {
    assert!(!name.is_empty() && name.len() <= 253);
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_')
    };
    assert!(name.bytes().all(allowed), "{name:?}");
}

/// A ClientHello with a name, GREASE, and room for a long key share.
fn message(name: &str, share: usize) -> Vec<u8> {
    let mut extensions = vec![0x2a, 0x2a, 0, 0];
    let mut extension = |kind: u16, content: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend((content.len() as u16).to_be_bytes());
        extensions.extend(content);
    };
    let mut names = (name.len() as u16 + 3).to_be_bytes().to_vec();
    names.push(0);
    names.extend((name.len() as u16).to_be_bytes());
    names.extend(name.as_bytes());
    extension(51, &vec![5; share]);
    extension(0, &names);
    extension(0xfe0d, &[0; 12]);
    let mut body = vec![3, 3];
    body.extend([1; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    message
}

pub fn client_hello_seeds() -> Vec<Vec<u8>> {
    [(20, 16_384), (20, 40), (300, 100)]
        .into_iter()
        .flat_map(|(share, record)| {
            let mut stream = Vec::new();
            for part in message("video.example", share).chunks(record) {
                stream.extend([22, 3, 1]);
                stream.extend((part.len() as u16).to_be_bytes());
                stream.extend(part);
            }
            let cut = [&[1, 50][..], &stream].concat();
            [stream, cut]
        })
        .collect()
}

pub fn http_seeds() -> Vec<Vec<u8>> {
    [
        "GET /a.m3u8?b HTTP/1.1\r\nHost: cdn.example:80\r\n\r\n",
        "GET http://cdn.example/a.ts HTTP/1.0\r\n\r\n",
        "\x01\x10POST / HTTP/1.1\r\nAccept: */*\r\nHOST:x\r\n\r\n",
    ]
    .map(|seed| seed.as_bytes().to_vec())
    .into()
}

pub fn quic_seeds() -> Vec<Vec<u8>> {
    let hello = message("video.example", 20);
    let frame = |offset: usize, bytes: &[u8]| {
        let mut frame = vec![6];
        frame.extend((0x4000 | offset as u16).to_be_bytes());
        frame.extend((0x4000 | bytes.len() as u16).to_be_bytes());
        frame.extend(bytes);
        frame
    };
    let frames = [
        frame(60, &hello[60..]),
        vec![1, 0, 2, 0, 0, 0, 0],
        frame(0, &hello[..60]),
    ];
    let initial = |version: [u8; 4], first: u8| {
        let mut packet = vec![first];
        packet.extend(version);
        packet.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x40, 80]);
        packet.extend([0x55; 80]);
        packet
    };
    vec![
        frames.concat(),
        initial([0, 0, 0, 1], 0xc3),
        initial([0x6b, 0x33, 0x43, 0xcf], 0xd1),
    ]
}
