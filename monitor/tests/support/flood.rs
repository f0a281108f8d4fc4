//! What floods a server: SYNs that nobody stands behind, and connections that end as soon as they
//! have begun.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::mpsc,
    thread,
};

use lastmile_lab::netns;

use super::net::{Internet, PORT, SERVER};

/// Where short connections go.
pub const SHORT_PORT: u16 = 8_080;
/// Sockets of short connections, one after the other on this many threads.
const CLIENTS: u32 = 4;
/// Addresses that SYNs claim to come from: TEST-NET-3 (RFC 5737), which nobody here has.
const FORGED_NETWORK: [u8; 3] = [203, 0, 113];
const FORGED_ADDRESSES: u32 = 250;

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let [high, low] = [pair[0], pair.get(1).copied().unwrap_or(0)];
        u32::from(u16::from_be_bytes([high, low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A SYN to the server's port as it looks from `source`, right enough to be answered.
fn syn(source: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(port.to_be_bytes());
    tcp.extend(PORT.to_be_bytes());
    tcp.extend([0, 0, 1, 0, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [
        &source.octets()[..],
        &SERVER.octets(),
        &[0, 6, 0, tcp.len() as u8],
        &tcp,
    ]
    .concat();
    let sum = checksum(&pseudo).to_be_bytes();
    tcp[16..18].copy_from_slice(&sum);
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(source.octets());
    packet.extend(SERVER.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(tcp);
    packet
}

/// Sends SYNs from addresses that nobody has to [`PORT`], each from a port of its own; how many
/// the kernel took.
pub fn syns(internet: &Internet, count: u32) -> u32 {
    let send = move || {
        // SAFETY: plain arguments; the descriptor is new and ours.
        let socket = unsafe {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW);
            assert!(socket >= 0, "{}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(socket)
        };
        let to = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(SERVER.octets()),
            },
            sin_zero: [0; 8],
        };
        let mut sent = 0;
        for number in 0..count {
            let [a, b, c] = FORGED_NETWORK;
            let host = (number % FORGED_ADDRESSES + 1) as u8;
            let port = 1_024 + (number / FORGED_ADDRESSES) as u16;
            let packet = syn(Ipv4Addr::new(a, b, c, host), port);
            // SAFETY: buffer and address live during the call.
            let result = unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    packet.as_ptr().cast(),
                    packet.len(),
                    0,
                    (&raw const to).cast(),
                    size_of_val(&to) as u32,
                )
            };
            sent += u32::from(result >= 0);
        }
        sent
    };
    netns::join(internet.on(&internet.client, send)).expect("the client's namespace is there")
}

/// Connections to [`SHORT_PORT`] that end as soon as they have begun; `count` must be a multiple
/// of four.
pub fn connections(internet: &Internet, count: u32) {
    const TO: SocketAddr = SocketAddr::new(IpAddr::V4(SERVER), SHORT_PORT);
    assert_eq!(count % CLIENTS, 0, "every thread makes as many");
    let (ready, listening) = mpsc::channel();
    let server = internet.on(&internet.server, move || {
        let listener = TcpListener::bind(TO).expect("the port is free");
        ready.send(()).expect("the test listens");
        for _ in 0..count {
            let (mut stream, _) = listener.accept().expect("a client comes");
            // The client closes first, and has the time-wait.
            let _ = stream.write_all(b"short");
            let _ = stream.read(&mut [0; 1]);
        }
    });
    listening.recv().expect("the server listens");
    let client = internet.on(&internet.client, move || {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                thread::spawn(move || {
                    for _ in 0..count / CLIENTS {
                        let mut stream = TcpStream::connect(TO).expect("the server is there");
                        stream.read_exact(&mut [0; 5]).expect("it sends");
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().expect("all of them");
        }
    });
    netns::join(client).expect("the clients end");
    netns::join(server).expect("the server ends");
}
