//! Captures of every kind say the same.

use std::{fs::File, io::Write as _, path::PathBuf};

use monitor_ebpf::packet::Link;

use super::{
    Folder, START_NS,
    captures::{Block, Pcap, Pcapng, ethernet},
    finished, lastmile, replay, small_flow,
    support::packets::Frame,
    traffic,
};

#[test]
fn every_format_and_compression_says_the_same() {
    let folder = Folder::new("replay-formats");
    let (frames, _) = traffic(5);
    let plain = Pcap::MICROSECONDS.capture(&frames);
    let expected = replay(&[&folder.file("a", &plain)]).comparable();
    assert_eq!(expected.len(), 5);
    let mut gzip = Vec::new();
    // Two members, as `cat a.gz b.gz` makes them.
    for half in [&plain[..10_000], &plain[10_000..]] {
        let mut encoder = flate2::write::GzEncoder::new(&mut gzip, flate2::Compression::fast());
        encoder.write_all(half).expect("memory");
        encoder.finish().expect("memory");
    }
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).expect("memory");
    let captures = [
        ("big.pcap", Pcap::BIG_ENDIAN.capture(&frames)),
        ("ns.pcap", Pcap::NANOSECONDS.capture(&frames)),
        ("big-ns.pcap", Pcap::BIG_ENDIAN_NANOSECONDS.capture(&frames)),
        ("a.pcapng", Pcapng::LITTLE.capture(&frames)),
        ("big.pcapng", Pcapng::BIG.capture(&frames)),
        ("old.pcapng", Pcapng::OBSOLETE.capture(&frames)),
        ("a.pcap.gz", gzip),
        ("a.pcap.xz", xz.finish().expect("memory")),
        (
            "a.pcap.zst",
            zstd::stream::encode_all(&plain[..], 1).expect("memory"),
        ),
    ];
    for (name, capture) in captures {
        let replayed = replay(&[&folder.file(name, &capture)]);
        assert_eq!((replayed.code, &*replayed.stderr), (0, ""), "{name}");
        assert_eq!(replayed.comparable(), expected, "{name}");
    }
    let mut piped = lastmile();
    let path = folder.file("b.pcap", &plain);
    piped
        .arg("-")
        .stdin(File::open(path).expect("a temporary file"));
    assert_eq!(
        finished(&mut piped).comparable(),
        expected,
        "standard input"
    );
}

#[test]
fn every_link_type_says_the_same() {
    let folder = Folder::new("replay-links");
    let frames = small_flow();
    let plain = folder.file("a", &Pcap::MICROSECONDS.capture(&frames));
    let expected = replay(&[&plain]).comparable();
    let mut cooked2 = [0; 20];
    cooked2[..2].copy_from_slice(&[0x08, 0x00]);
    let links: [(u32, &[u8]); 12] = [
        (101, &[]),
        (12, &[]),
        (14, &[]),
        (228, &[]),
        (113, &[0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x00]),
        (276, &cooked2),
        (0, &[2, 0, 0, 0]),
        (108, &[0, 0, 0, 2]),
        (9, &[0xff, 0x03, 0x00, 0x21]),
        (50, &[0xff, 0x03, 0x00, 0x21]),
        (204, &[0, 0x00, 0x21]),
        (104, &[0x0f, 0x00, 0x08, 0x00]),
    ];
    for (link, before) in links {
        let frames: Vec<_> = frames
            .iter()
            .map(|(time_ns, frame)| {
                let ip = &frame.bytes[ethernet::LEN..];
                let added = before.len() as u32;
                let frame = Frame {
                    bytes: [before, ip].concat(),
                    frame_len: frame.frame_len - ethernet::LEN as u32 + added,
                    link: Link::RawIp,
                    ..*frame
                };
                (*time_ns, frame)
            })
            .collect();
        let pcap = Pcap {
            link,
            ..Pcap::MICROSECONDS
        };
        let replayed = replay(&[&folder.file("link", &pcap.capture(&frames))]);
        assert_eq!(replayed.comparable(), expected, "link type {link}");
    }
}

#[test]
fn a_rotated_capture_is_one_in_any_order_and_overlapping_ones_are_merged() {
    let folder = Folder::new("replay-rotated");
    let (frames, _) = traffic(10);
    let whole = folder.file("whole", &Pcap::MICROSECONDS.capture(&frames));
    let expected = replay(&[&whole]).comparable();
    let third = frames.len() / 3;
    let parts: Vec<_> = frames
        .chunks(third + 1)
        .zip(1..)
        .map(|(part, number)| {
            let capture = Pcap::MICROSECONDS.capture(part);
            folder.file(&format!("part{number}"), &capture)
        })
        .collect();
    let [first, second, last] = &parts[..] else {
        panic!("three parts");
    };
    for order in [[first, second, last], [last, first, second]] {
        assert_eq!(replay(&order.map(PathBuf::as_path)).comparable(), expected);
    }
    let (even, odd): (Vec<_>, Vec<_>) = (0..).zip(frames).partition(|(index, _)| index % 2 == 0);
    let stripped = |part: Vec<(i32, (u64, Frame))>| {
        let part: Vec<_> = part.into_iter().map(|(_, frame)| frame).collect();
        Pcap::MICROSECONDS.capture(&part)
    };
    let even = folder.file("even", &stripped(even));
    let odd = folder.file("odd", &stripped(odd));
    assert_eq!(replay(&[&odd, &even]).comparable(), expected);
}

#[test]
fn sections_and_interfaces_have_times_and_links_of_their_own() {
    let folder = Folder::new("replay-sections");
    let frames = small_flow();
    let plain = folder.file("plain", &Pcap::MICROSECONDS.capture(&frames));
    let expected = replay(&[&plain]).comparable();
    let raw = |frame: &Frame| frame.bytes[ethernet::LEN..].to_vec();
    let [syn, syn_ack, data] = [0, 1, 2].map(|index| &frames[index].1);
    let us = START_NS / 1_000;
    let capture = [
        Block::section(false),
        // Milliseconds, and an hour too early.
        Block::interface(false, 1, Some(3), Some(3_600)),
        Block::enhanced(false, 0, us / 1_000 - 3_600_000, &syn.bytes, syn.frame_len),
        Block::section(true),
        // Units of 2^-20 s: 10 ms are 10,485.76 of them.
        Block::interface(true, 101, Some(0x80 | 20), None),
        Block::interface(true, 1, None, None),
        Block::enhanced(true, 1, us + 5_000, &syn_ack.bytes, syn_ack.frame_len),
        Block::enhanced(
            true,
            0,
            ((u128::from(us) + 10_000) << 20).div_ceil(1_000_000) as u64,
            &raw(data),
            data.frame_len - ethernet::LEN as u32,
        ),
    ]
    .concat();
    let replayed = replay(&[&folder.file("sections", &capture)]);
    assert_eq!((replayed.code, &*replayed.stderr), (0, ""));
    let (found, expected) = (&replayed.comparable()[0], &expected[0]);
    for key in ["start_time", "duration_us", "to_client", "to_server"] {
        assert_eq!(found[key], expected[key], "{key}");
    }
}

#[test]
fn the_same_packet_on_two_interfaces_counts_once() {
    let folder = Folder::new("replay-twice");
    let mut capture = Block::section(false);
    capture.extend(Block::interface(false, 1, None, None));
    capture.extend(Block::interface(false, 1, None, None));
    for (time_ns, frame) in small_flow() {
        for (interface, later_us) in [(0, 0), (1, 20)] {
            let us = time_ns / 1_000 + later_us;
            let bytes = &frame.bytes;
            capture.extend(Block::enhanced(
                false,
                interface,
                us,
                bytes,
                frame.frame_len,
            ));
        }
    }
    let replayed = replay(&[&folder.file("a", &capture)]);
    let flows = replayed.flows();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0]["to_server"]["bytes"], 100);
    assert_eq!(flows[0]["to_server"]["retransmitted_segments"], 0);
}

#[test]
fn a_capture_that_says_what_its_host_sent_says_where_it_stands() {
    let folder = Folder::new("replay-vantage");
    let mut capture = Block::section(false);
    capture.extend(Block::interface(false, 1, None, None));
    for (time_ns, frame) in small_flow() {
        let from_server = frame.bytes[ethernet::LEN + 12..][..4] == [192, 0, 2, 1];
        let us = time_ns / 1_000;
        capture.extend(Block::flagged(
            us,
            &frame.bytes,
            frame.frame_len,
            if from_server { 2 } else { 1 },
        ));
    }
    let replayed = replay(&[&folder.file("a", &capture)]);
    assert_eq!(replayed.flows()[0]["vantage"], "sender");
}
