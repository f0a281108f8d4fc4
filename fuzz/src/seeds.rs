//! Frames and captures to begin with.

const CLIENT: [u8; 4] = [10, 1, 2, 3];
const SERVER: [u8; 4] = [192, 0, 2, 1];
const CLIENT_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 443;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Which of two hosts sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum From {
    Client,
    Server,
}

/// TCP in IPv4, with room for what the checksums would say.
#[derive(Clone, Copy)]
pub struct Tcp {
    pub from: From,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: u8,
    pub payload_len: u16,
}

impl Tcp {
    /// An IPv4 datagram with timestamps and SACK among its options; its payload is left out, as
    /// in a snapped capture.
    pub fn ipv4(&self) -> Vec<u8> {
        let options = [
            1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 5, 1, 1, 5, 10, 0, 0, 1, 0, 0, 0, 2, 0,
        ];
        let total_len = 20 + 20 + options.len() as u16 + self.payload_len;
        let mut datagram = vec![0x45, 0];
        datagram.extend(total_len.to_be_bytes());
        datagram.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
        let ends = [(CLIENT, CLIENT_PORT), (SERVER, SERVER_PORT)];
        let [(source, source_port), (destination, destination_port)] = match self.from {
            From::Client => ends,
            From::Server => [ends[1], ends[0]],
        };
        datagram.extend(source);
        datagram.extend(destination);
        datagram.extend(source_port.to_be_bytes());
        datagram.extend(destination_port.to_be_bytes());
        datagram.extend(self.sequence.to_be_bytes());
        datagram.extend(self.acknowledgment.to_be_bytes());
        datagram.extend([
            (5 + options.len() as u8 / 4) << 4,
            self.flags,
            4,
            0,
            0,
            0,
            0,
            0,
        ]);
        datagram.extend(options);
        datagram
    }

    pub fn ethernet(&self) -> Vec<u8> {
        [&[2; 12][..], &[0x08, 0x00], &self.ipv4()].concat()
    }
}

/// A handshake, a request, an answer of which a part is lost and sent again, and the end.
pub fn conversation() -> Vec<Tcp> {
    let tcp = |from, sequence, acknowledgment, flags, payload_len| Tcp {
        from,
        sequence,
        acknowledgment,
        flags,
        payload_len,
    };
    vec![
        tcp(From::Client, 100, 0, SYN, 0),
        tcp(From::Server, 500, 101, SYN | ACK, 0),
        tcp(From::Client, 101, 501, ACK, 200),
        tcp(From::Server, 501, 301, ACK, 1_000),
        tcp(From::Server, 2_501, 301, ACK, 1_000),
        tcp(From::Client, 301, 1_501, ACK, 0),
        tcp(From::Server, 1_501, 301, ACK, 1_000),
        tcp(From::Client, 301, 3_501, ACK, 0),
        tcp(From::Server, 3_501, 301, FIN | ACK, 0),
        tcp(From::Client, 301, 3_502, FIN | ACK, 0),
        tcp(From::Server, 3_502, 302, RST, 0),
    ]
}

/// A pcap capture of these frames, 10 ms apart.
pub fn pcap(magic: [u8; 4], link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let big = magic[0] == 0xa1;
    let put = |capture: &mut Vec<u8>, number: u32| {
        capture.extend(if big {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        });
    };
    let mut capture = magic.to_vec();
    capture.extend(if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] });
    for number in [0, 0, 65_535, link] {
        put(&mut capture, number);
    }
    for (frame, index) in frames.iter().zip(0u32..) {
        for number in [1_700_000_000, index * 10_000, frame.len() as u32, 1_514] {
            put(&mut capture, number);
        }
        capture.extend(frame);
    }
    capture
}

/// A pcapng capture of these frames, with every kind of packet block and two interfaces.
pub fn pcapng(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut section = 0x1a2b_3c4du32.to_le_bytes().to_vec();
    section.extend([1, 0, 0, 0]);
    section.extend(u64::MAX.to_le_bytes());
    let mut capture = block(0x0a0d_0d0a, &section);
    // Ethernet, in nanoseconds and an hour late; raw IP in 2^-10 s.
    let late = 3_600u64.to_le_bytes();
    let nanoseconds = [&[9, 0, 1, 0, 9, 0, 0, 0, 14, 0, 8, 0][..], &late, &[0; 4]].concat();
    capture.extend(block(
        1,
        &[&[1, 0, 0, 0, 0, 0, 4, 0][..], &nanoseconds].concat(),
    ));
    let binary = [9, 0, 1, 0, 0x8a, 0, 0, 0, 0, 0, 0, 0];
    capture.extend(block(
        1,
        &[&[101, 0, 0, 0, 0, 0, 4, 0][..], &binary].concat(),
    ));
    for (frame, index) in frames.iter().zip(0u32..) {
        let len = frame.len() as u32;
        let ticks = 1_700_000_000_000_000_000 + u64::from(index) * 10_000_000;
        let (high, low) = ((ticks >> 32) as u32, ticks as u32);
        let mut body = Vec::new();
        for number in [index % 2 * (index / 8), high, low, len, 1_514] {
            body.extend(number.to_le_bytes());
        }
        body.extend(frame);
        body.resize(body.len().next_multiple_of(4), 0);
        if index == 3 {
            body.extend([2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        }
        let kind = if index == 5 { 2 } else { 6 };
        capture.extend(block(kind, &body));
    }
    capture.extend(block(3, &[4, 0, 0, 0, 1, 2, 3, 4]));
    let dropped = 7u64.to_le_bytes();
    let statistics = [&[0; 12][..], &[5, 0, 8, 0], &dropped, &[0; 4]].concat();
    capture.extend(block(5, &statistics));
    capture.extend(block(0x1234_5678, &[]));
    capture
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = 12 + body.len() as u32;
    [
        &kind.to_le_bytes(),
        &len.to_le_bytes(),
        body,
        &len.to_le_bytes(),
    ]
    .concat()
}
