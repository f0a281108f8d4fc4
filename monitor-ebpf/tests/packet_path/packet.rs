//! Headers, byte for byte, and for each a case that is malformed or cut short.

use monitor_ebpf::{
    counters::Reason,
    flow::{Address, FlowKey},
    observe,
    packet::{Link, Segment, tcp_flags},
};

use crate::support::{
    packets::{CLIENT, CLIENT_V6, Frame, SERVER, SERVER_V6, hex, tcp},
    tables::{SETTINGS, Seen, Tables},
    wire::address,
};

/// An ACK with 5 bytes from 10.1.2.3:40000 to 192.0.2.1:443, its payload not kept.
const IPV4: &str = "
    45 00 002d 0000 4000 40 06 0000  # version 4, 20 bytes; 45 in all; DF; TTL 64; TCP
    0a010203 c0000201
    9c40 01bb                        # ports
    00000001 00000002                # sequence, acknowledgment
    50 10 03e8 0000 0000             # 20 bytes; ACK; window 1000
";

/// The same over IPv6, between 2001:db8::3 and 2001:db8::1, without its IPv6 header.
const TCP: &str = "
    9c40 01bb 00000001 00000002 50 10 03e8 0000 0000
";
const IPV6_ADDRESSES: &str = "
    20010db8000000000000000000000003
    20010db8000000000000000000000001
";

const MAC: &str = "020000000001 020000000002";

struct Read {
    key: FlowKey,
    source_is_low: bool,
    segment: Segment,
}

fn read_frame(frame: Frame) -> Result<Read, Reason> {
    let link = frame.link;
    let mut parsed = monitor_ebpf::packet::Parsed::EMPTY;
    let seen = Seen::new(0, frame);
    observe::parse(&seen, link, &Tables::default(), &SETTINGS, &mut parsed)?;
    Ok(Read {
        key: parsed.key,
        source_is_low: parsed.direction == 0,
        segment: parsed.segment,
    })
}

/// Reads bytes whose `payload_len` more bytes were on the wire.
fn read(link: Link, bytes: &[u8], payload_len: u32) -> Result<Read, Reason> {
    read_frame(Frame {
        link,
        bytes: bytes.to_vec(),
        frame_len: bytes.len() as u32 + payload_len,
        gso_size: 0,
        gso_segs: 0,
    })
}

fn ethernet(text: &str) -> Result<Read, Reason> {
    read(Link::Ethernet, &hex(text), 5)
}

fn raw_ip(text: &str) -> Result<Read, Reason> {
    read(Link::RawIp, &hex(text), 5)
}

/// Reads it, and asserts that it says what [`IPV4`] or its IPv6 twin says.
fn assert_five_bytes(read: Result<Read, Reason>, source: Address, destination: Address) {
    let read = read.expect("a packet that can be read");
    let (key, direction) = FlowKey::new(source, CLIENT.port(), destination, SERVER.port());
    assert_eq!(read.key, key);
    assert_eq!(read.source_is_low, direction == 0);
    let expected = Segment {
        sequence: 1,
        acknowledgment: 2,
        payload_len: 5,
        segments: 1,
        segment_len: 5,
        window: 1_000,
        flags: tcp_flags::ACK,
        ..Segment::EMPTY
    };
    assert_eq!(read.segment, expected);
}

fn assert_ipv4(read: Result<Read, Reason>) {
    assert_five_bytes(read, address(CLIENT), address(SERVER));
}

fn assert_ipv6(read: Result<Read, Reason>) {
    assert_five_bytes(read, address(CLIENT_V6), address(SERVER_V6));
}

#[track_caller]
fn assert_refused(read: Result<Read, Reason>, reason: Reason) {
    assert_eq!(read.map(|read| read.segment).err(), Some(reason));
}

/// An IPv6 packet with `extensions` (hexadecimal) of which `next` is the first's kind.
fn ipv6(next: u8, extensions: &str) -> String {
    let payload_len = hex(extensions).len() + 25;
    format!("60000000 {payload_len:04x} {next:02x} 40 {IPV6_ADDRESSES} {extensions} {TCP}")
}

#[test]
fn ethernet_with_ipv4() {
    assert_ipv4(ethernet(&format!("{MAC} 0800 {IPV4}")));
}

#[test]
fn raw_ip_of_either_version() {
    assert_ipv4(raw_ip(IPV4));
    assert_ipv6(raw_ip(&ipv6(6, "")));
    assert_refused(raw_ip(&IPV4.replacen("45", "55", 1)), Reason::NotIp);
    assert_refused(raw_ip(""), Reason::Truncated);
}

#[test]
fn the_language_for_packets_writes_the_same_bytes() {
    let packet = tcp(CLIENT, SERVER).sequence(1).acknowledgment(2).payload(5);
    let frame = packet.clone().raw_ip().frame();
    assert_eq!(frame.bytes, hex(IPV4));
    assert_eq!(frame.frame_len, 45);
    let tagged = packet.qinq(7, 42).frame();
    assert_eq!(
        tagged.bytes,
        hex(&format!("{MAC} 88a8 0007 8100 002a 0800 {IPV4}"))
    );
    let six = tcp(CLIENT_V6, SERVER_V6).sequence(1).acknowledgment(2);
    let six = six.extension(60, &hex("00 00 01 04 00000000"));
    assert_eq!(
        six.payload(5).raw_ip().frame().bytes,
        hex(&ipv6(60, "06 00 01 04 00000000"))
    );
}

#[test]
fn vlan_and_qinq_by_each_of_their_numbers() {
    for tags in ["8100 0005", "88a8 0007 8100 002a", "9100 0007 8100 002a"] {
        assert_ipv4(ethernet(&format!("{MAC} {tags} 0800 {IPV4}")));
        assert_ipv6(ethernet(&format!("{MAC} {tags} 86dd {}", ipv6(6, ""))));
    }
    let tag = "8100 0001";
    assert_ipv4(ethernet(&format!("{MAC} {tag} {tag} {tag} 0800 {IPV4}")));
    assert_refused(
        ethernet(&format!("{MAC} {tag} {tag} {tag} {tag} 0800 {IPV4}")),
        Reason::NotIp,
    );
    assert_refused(ethernet(&format!("{MAC} 8100 00")), Reason::Truncated);
}

#[test]
fn other_protocols_are_not_looked_into() {
    // ARP; PPPoE discovery.
    for ethertype in ["0806", "8863"] {
        assert_refused(
            ethernet(&format!("{MAC} {ethertype} {IPV4}")),
            Reason::NotIp,
        );
    }
    // UDP to port 443; ICMP.
    for (protocol, reason) in [("40 11", Reason::Quic), ("40 01", Reason::NotTcp)] {
        assert_refused(raw_ip(&IPV4.replace("40 06", protocol)), reason);
    }
}

#[test]
fn tunnels_are_recognised_and_not_looked_into() {
    // IP in IP, IPv6 in IP, GRE.
    for protocol in ["40 04", "40 29", "40 2f"] {
        assert_refused(raw_ip(&IPV4.replace("40 06", protocol)), Reason::Tunnel);
    }
    assert_refused(raw_ip(&ipv6(0x2f, "")), Reason::Tunnel);
    // GTP-U, VXLAN, GENEVE.
    for port in ["0868", "12b5", "17c1"] {
        let udp = IPV4.replace("40 06", "40 11");
        assert_refused(
            raw_ip(&udp.replace("9c40 01bb", &format!("9c40 {port}"))),
            Reason::Tunnel,
        );
        // A later fragment has no ports.
        let fragment = udp.replace("4000 40 11", "0001 40 11");
        assert_refused(
            raw_ip(&fragment.replace("9c40 01bb", &format!("9c40 {port}"))),
            Reason::NotTcp,
        );
    }
}

#[test]
fn pppoe_sessions_of_both_versions() {
    let session = "11 00 0007 0000";
    assert_ipv4(ethernet(&format!("{MAC} 8864 {session} 0021 {IPV4}")));
    assert_ipv4(ethernet(&format!(
        "{MAC} 8100 0005 8864 {session} 0021 {IPV4}"
    )));
    let six = ipv6(6, "");
    assert_ipv6(ethernet(&format!("{MAC} 8864 {session} 0057 {six}")));
    // LCP.
    assert_refused(
        ethernet(&format!("{MAC} 8864 {session} c021 {IPV4}")),
        Reason::NotIp,
    );
    assert_refused(
        ethernet(&format!("{MAC} 8864 {session} 00")),
        Reason::Truncated,
    );
}

#[test]
fn mpls_label_stacks_up_to_four() {
    let (label, bottom) = ("00010 0 40", "00020 1 40");
    for depth in 0..4 {
        let stack = format!("{} {bottom}", label.repeat(depth)).replace(' ', "");
        assert_ipv4(ethernet(&format!("{MAC} 8847 {stack} {IPV4}")));
        assert_ipv6(ethernet(&format!("{MAC} 8848 {stack} {}", ipv6(6, ""))));
    }
    let deep = format!("{} {bottom}", label.repeat(4)).replace(' ', "");
    assert_refused(
        ethernet(&format!("{MAC} 8847 {deep} {IPV4}")),
        Reason::NotIp,
    );
    // A pseudowire's control word; a stack without an end.
    let stack = bottom.replace(' ', "");
    assert_refused(
        ethernet(&format!("{MAC} 8847 {stack} 00000000 {IPV4}")),
        Reason::NotIp,
    );
    assert_refused(ethernet(&format!("{MAC} 8847 0001")), Reason::Truncated);
}

#[test]
fn ipv4_options_of_every_length() {
    for words in 1..=10 {
        let options = "01".repeat(words * 4);
        let start = format!("4{:x} 00 {:04x}", 5 + words, 45 + words * 4);
        let packet = IPV4
            .replace("45 00 002d", &start)
            .replace("c0000201", &format!("c0000201 {options}"));
        assert_ipv4(raw_ip(&packet));
    }
}

#[test]
fn ipv4_lengths_and_versions_that_contradict_each_other() {
    let with = |start: &str| raw_ip(&IPV4.replace("45 00 002d", start));
    // A header of 16 bytes; of none.
    assert_refused(with("44 00 002d"), Reason::Malformed);
    assert_refused(with("40 00 002d"), Reason::Malformed);
    // One byte more than the frame has; fewer than the IP header; fewer than the TCP header.
    assert_refused(with("45 00 002e"), Reason::Malformed);
    assert_refused(with("45 00 0013"), Reason::Malformed);
    assert_refused(with("45 00 0027"), Reason::Malformed);
    // The ethertype says IPv4, the header does not.
    assert_refused(
        ethernet(&format!("{MAC} 0800 {}", ipv6(6, ""))),
        Reason::Malformed,
    );
    assert_refused(ethernet(&format!("{MAC} 86dd {IPV4}")), Reason::Malformed);
}

#[test]
fn ethernet_padding_is_no_payload() {
    let ack = IPV4.replace("002d", "0028");
    let padded = hex(&format!("{MAC} 0800 {ack} 000000000000"));
    assert_eq!(padded.len(), 60);
    let read = read(Link::Ethernet, &padded, 0).expect("an ACK");
    assert_eq!((read.segment.payload_len, read.segment.segments), (0, 0));
}

#[test]
fn fragments_are_counted_and_not_tracked() {
    let with = |fragment: &str| raw_ip(&IPV4.replace("0000 4000", &format!("0000 {fragment}")));
    assert_ipv4(with("0000"));
    assert_refused(with("2000"), Reason::Fragment);
    assert_refused(with("00b9"), Reason::Fragment);
    // The first, and a later one.
    assert_refused(raw_ip(&ipv6(44, "06 00 0001 00000007")), Reason::Fragment);
    assert_refused(raw_ip(&ipv6(44, "06 00 0008 00000007")), Reason::Fragment);
}

#[test]
fn a_fragment_that_is_the_whole_datagram_is_none() {
    // RFC 6946; the two reserved bits say nothing.
    for header in ["06 00 0000 00000007", "06 00 0006 00000007"] {
        assert_ipv6(raw_ip(&ipv6(44, header)));
    }
}

#[test]
fn every_ipv6_extension_header() {
    assert_ipv6(ethernet(&format!("{MAC} 86dd {}", ipv6(6, ""))));
    // Hop-by-hop and destination options, routing: length in 8 bytes, the first not counted.
    for kind in [0, 60, 43] {
        assert_ipv6(raw_ip(&ipv6(kind, "06 00 0104 00000000")));
        assert_ipv6(raw_ip(&ipv6(kind, &format!("06 02 {}", "00".repeat(22)))));
    }
    // Authentication: length in 4 bytes, less 2.
    assert_ipv6(raw_ip(&ipv6(51, &format!("06 04 {}", "00".repeat(22)))));
    let chain = "2b 00 000000000000  3c 00 000000000000  06 00 000000000000";
    assert_ipv6(raw_ip(&ipv6(0, chain)));
    // None of them, and nothing after them.
    assert_refused(raw_ip(&ipv6(59, "")), Reason::NotTcp);
}

#[test]
fn more_ipv6_extension_headers_than_anyone_sends() {
    let one = "3c 00 000000000000";
    let last = "06 00 000000000000";
    assert_ipv6(raw_ip(&ipv6(60, &format!("{}{last}", one.repeat(5)))));
    assert_refused(
        raw_ip(&ipv6(60, &format!("{}{last}", one.repeat(6)))),
        Reason::NotTcp,
    );
}

#[test]
fn ipv6_lengths_that_contradict_each_other() {
    let with = |len: &str| raw_ip(&ipv6(6, "").replacen("0019", len, 1));
    assert_ipv6(with("0019"));
    assert_refused(with("001a"), Reason::Malformed);
    assert_refused(with("0013"), Reason::Malformed);
    // An extension that is longer than what the header says follows.
    let packet = ipv6(60, &format!("06 03 {}", "00".repeat(30))).replacen("0039", "001f", 1);
    assert_refused(raw_ip(&packet), Reason::Malformed);
    // One that goes on beyond the frame.
    assert_refused(raw_ip(&ipv6(60, "06 ff 000000000000")), Reason::Malformed);
}

#[test]
fn big_tcp_has_no_length_in_its_ip_header() {
    let tall = 100_000;
    let four = read(Link::RawIp, &hex(&IPV4.replace("002d", "0000")), tall).expect("BIG TCP");
    assert_eq!(four.segment.payload_len, tall);
    let six = hex(&ipv6(6, "").replacen("0019", "0000", 1));
    let six = read(Link::RawIp, &six, tall).expect("BIG TCP");
    assert_eq!(six.segment.payload_len, tall);
    // With the jumbo payload option of RFC 2675, as a hop-by-hop option.
    let jumbo = hex(&ipv6(0, "06 00 c2 04 000186c0").replacen("0021", "0000", 1));
    let jumbo = read(Link::RawIp, &jumbo, tall).expect("BIG TCP");
    assert_eq!(jumbo.segment.payload_len, tall);
}

#[test]
fn tcp_lengths_that_contradict_each_other() {
    let with = |start: &str| raw_ip(&IPV4.replace("50 10", start));
    assert_refused(with("40 10"), Reason::Malformed);
    assert_refused(with("00 10"), Reason::Malformed);
    // 28 bytes of header, where IP says 25 follow.
    assert_refused(with("70 10"), Reason::Malformed);
    // 24 bytes of header: the options lie in what was not kept.
    assert_refused(with("60 10"), Reason::Truncated);
}

#[test]
fn frames_cut_at_every_byte_of_their_headers() {
    let timestamps = tcp(CLIENT, SERVER).timestamps(1, 2).payload(1_000);
    let sack = tcp(CLIENT_V6, SERVER_V6).timestamps(1, 2).sack(&[(1, 2)]);
    let syn = tcp(CLIENT, SERVER).syn().mss(1_460).window_scale(7);
    for packet in [
        timestamps.vlan(1),
        sack.extension(60, &[0; 8]).qinq(1, 2),
        syn.ip_options(&[1; 8]),
    ] {
        for packet in [packet.clone(), packet.raw_ip()] {
            let frame = packet.frame();
            read_frame(frame.clone()).expect("whole headers");
            for len in 0..frame.bytes.len() {
                let mut cut = frame.clone();
                cut.bytes.truncate(len);
                assert_refused(read_frame(cut), Reason::Truncated);
            }
        }
    }
}

#[test]
fn the_ecn_field_of_either_version() {
    for ecn in 0..4 {
        let four = read_frame(tcp(CLIENT, SERVER).ecn(ecn).frame()).expect("a packet");
        let six = read_frame(tcp(CLIENT_V6, SERVER_V6).ecn(ecn).frame()).expect("a packet");
        assert_eq!((four.segment.ecn, six.segment.ecn), (ecn, ecn));
    }
    // Bits of the differentiated services are no ECN.
    let read = raw_ip(&IPV4.replace("45 00", "45 fc")).expect("a packet");
    assert_eq!(read.segment.ecn, 0);
}

#[test]
fn wire_segments_of_super_packets() {
    let segments = |payload, size, count| {
        let packet = tcp(SERVER, CLIENT).payload(payload).gso(size, count);
        let segment = read_frame(packet.frame()).expect("a packet").segment;
        (segment.segments, segment.segment_len)
    };
    assert_eq!(segments(0, 0, 0), (0, 0));
    assert_eq!(segments(1_448, 0, 0), (1, 1_448));
    assert_eq!(segments(2_896, 1_448, 2), (2, 1_448));
    // A short last segment, and the count is not known.
    assert_eq!(segments(2_897, 1_448, 0), (3, 1_448));
    assert_eq!(segments(2_896, 1_448, 0), (2, 1_448));
    // A super-packet that is none.
    assert_eq!(segments(100, 1_448, 1), (1, 100));
    // No payload has no segments, whatever the packet says of itself.
    assert_eq!(segments(0, 1_448, 1), (0, 0));
}
