//! What cannot be read: named with its place, counted, and everything before it reported.

use std::{io::Write as _, path::Path};

use super::{
    Folder, START_NS,
    captures::{Block, Pcap, Pcapng},
    replay, small_flow, traffic,
};

#[test]
fn what_is_passed_over_is_counted_and_said() {
    let folder = Folder::new("replay-passed");
    let frames = small_flow();
    let mut capture = Pcapng::LITTLE.capture(&frames);
    let frame = &frames[0].1;
    capture.extend(Block::simple(&frame.bytes));
    capture.extend(Block::simple(&frame.bytes));
    capture.extend(Block::of(false, 0x7777, &[1, 2, 3, 4]));
    // A bluetooth adapter beside Ethernet.
    capture.extend(Block::interface(false, 201, None, None));
    capture.extend(Block::enhanced(false, 1, START_NS / 1_000, &[1; 30], 30));
    capture.extend(Block::statistics(0, 41, 1));
    let replayed = replay(&[&folder.file("a.pcapng", &capture)]);
    assert_eq!(replayed.code, 0);
    assert_eq!(replayed.flows().len(), 1);
    for (name, count) in [
        ("packets_without_time", 2),
        ("capture_blocks_unknown", 1),
        ("packets_link_not_understood", 1),
        ("packets_dropped_by_capture", 42),
        ("packets_read", 3),
    ] {
        assert_eq!(replayed.counter(name), count, "{name}");
    }
    for what in [
        "1 packets of link type 201 were passed over",
        "2 packets without a time (simple packet blocks) were passed over",
        "1 blocks of unknown types were passed over",
        "42 packets were lost by whoever captured",
    ] {
        assert!(replayed.stderr.contains(what), "{}", replayed.stderr);
    }
}

/// What comes before the damage is reported; the message names the file and the place.
#[test]
fn damage_is_named_with_its_place_and_what_was_before_is_reported() {
    let folder = Folder::new("replay-damage");
    let frames = small_flow();
    let pcap = Pcap::MICROSECONDS.capture(&frames);
    let pcapng = Pcapng::LITTLE.capture(&frames);
    let changed = |capture: &[u8], at: usize, bytes: &[u8]| {
        let mut capture = capture.to_vec();
        capture[at..at + bytes.len()].copy_from_slice(bytes);
        capture
    };
    // Where the third packet's record begins.
    let third = pcap.len() - 16 - frames[2].1.bytes.len();
    let third_block = pcapng.len() - Block::enhanced_len(&frames[2].1.bytes);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(&pcap).expect("memory");
    let gzip = gzip.finish().expect("memory");
    let at_third = format!("damaged behind packet 2, at byte {third}: ");
    let at_third_block = format!("damaged behind packet 2, at byte {third_block}: ");
    let behind = |place: &str, what: &str| format!("{place}{what}; everything before was read\n");
    let last_len = frames[2].1.bytes.len();
    let cases = [
        (
            "cut in a header",
            pcap[..third + 5].to_vec(),
            behind(
                &at_third,
                "the capture ends inside a packet's header: 5 of 16 bytes are there",
            ),
        ),
        (
            "cut in a packet",
            pcap[..pcap.len() - 1].to_vec(),
            behind(
                &at_third,
                &format!(
                    "the capture ends inside a packet: {} of {} bytes are there",
                    15 + last_len,
                    16 + last_len
                ),
            ),
        ),
        (
            "huge length",
            changed(&pcap, third + 8, &[0xff, 0xff, 0xff, 0x7f]),
            behind(
                &at_third,
                "a packet of 2147483647 bytes, and 262144 is the most there can be",
            ),
        ),
        (
            "cut in a block",
            pcapng[..pcapng.len() - 3].to_vec(),
            behind(
                &at_third_block,
                &format!(
                    "the capture ends inside a block: {} of {} bytes are there",
                    pcapng.len() - third_block - 3,
                    pcapng.len() - third_block
                ),
            ),
        ),
        (
            "a block's length that is none",
            changed(&pcapng, third_block + 4, &[7, 0, 0, 0]),
            behind(
                &at_third_block,
                "a block says it is 7 bytes long, which no block is",
            ),
        ),
        (
            "a block's length that is too large",
            changed(&pcapng, third_block + 4, &[0, 0, 0, 0x7f]),
            behind(
                &at_third_block,
                "a block says it is 2130706432 bytes long, which no block is",
            ),
        ),
        (
            "two lengths of a block",
            changed(&pcapng, pcapng.len() - 4, &[16, 0, 0, 0]),
            behind(
                &at_third_block,
                &format!(
                    "a block says it is {} bytes long, and at its end 16",
                    pcapng.len() - third_block
                ),
            ),
        ),
        (
            "a packet larger than its block",
            changed(&pcapng, third_block + 20, &[0, 8, 0, 0]),
            behind(
                &at_third_block,
                &format!(
                    "a packet of 2048 bytes in a block with room for {}",
                    last_len.next_multiple_of(4)
                ),
            ),
        ),
        (
            "an interface that was not described",
            changed(&pcapng, third_block + 8, &[9, 0, 0, 0]),
            behind(
                &at_third_block,
                "a packet of interface 9, and 1 were described",
            ),
        ),
        (
            "a compressed file that was cut",
            gzip[..gzip.len() - 20].to_vec(),
            "it is compressed, and cut off or damaged".to_owned(),
        ),
    ];
    for (what, capture, message) in cases {
        let path = folder.file("damaged", &capture);
        let replayed = replay(&[&path]);
        let start = format!("lastmile: {}: damaged behind packet 2", path.display());
        assert_eq!(replayed.code, 1, "{what}");
        assert!(
            replayed.stderr.starts_with(&start),
            "{what}: {}",
            replayed.stderr
        );
        assert!(
            replayed.stderr.contains(&message),
            "{what}: {}",
            replayed.stderr
        );
        assert_eq!(replayed.counter("packets_read"), 2, "{what}");
        assert_eq!(replayed.flows().len(), 1, "{what}");
    }
}

#[test]
fn what_is_no_capture_is_said() {
    let folder = Folder::new("replay-none");
    let header = &Pcap::MICROSECONDS.capture(&[])[..];
    let wifi = Pcap {
        link: 105,
        ..Pcap::MICROSECONDS
    };
    let cases = [
        (&b""[..], "not a pcap or pcapng capture: it is empty"),
        (b"GET", "not a pcap or pcapng capture: it has 3 bytes"),
        (
            b"GET / HTTP/1.1",
            "not a pcap or pcapng capture: it begins with 47 45 54 20",
        ),
        (
            &header[..10],
            "it ends inside its header: 10 of 24 bytes are there",
        ),
        (
            &wifi.capture(&small_flow()),
            "none of its 3 packets was read: their link type is 105",
        ),
        (
            &Block::enhanced(false, 0, 0, &[1; 60], 60),
            "not a pcap or pcapng capture: it begins with 06 00 00 00",
        ),
        (
            &[&[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0][..], &[9; 20]].concat(),
            "damaged behind packet 0, at byte 0: a section header without its byte-order magic",
        ),
    ];
    for (capture, message) in cases {
        let path = folder.file("none", capture);
        let replayed = replay(&[&path]);
        let start = format!("lastmile: {}: ", path.display());
        assert_eq!(replayed.code, 1, "{message}");
        assert!(replayed.stderr.starts_with(&start), "{}", replayed.stderr);
        assert!(replayed.stderr.contains(message), "{}", replayed.stderr);
        assert!(replayed.flows().is_empty());
    }
    let missing = replay(&[Path::new("/nonexistent.pcap")]);
    assert_eq!(missing.code, 1);
    assert!(
        missing
            .stderr
            .starts_with("lastmile: /nonexistent.pcap: No such file"),
        "{}",
        missing.stderr
    );
    let empty = replay(&[&folder.file("header only", header)]);
    assert_eq!((empty.code, &*empty.stderr), (0, ""));
    assert_eq!(empty.records.len(), 1, "the status");
}

#[test]
fn one_damaged_file_of_several_does_not_stop_the_others() {
    let folder = Folder::new("replay-one-damaged");
    let (frames, _) = traffic(3);
    let damaged = Pcap::MICROSECONDS.capture(&small_flow());
    let damaged = folder.file("damaged", &damaged[..damaged.len() - 7]);
    let none = folder.file("none", b"no capture");
    let whole = folder.file("whole", &Pcap::MICROSECONDS.capture(&frames));
    let replayed = replay(&[&damaged, &none, &whole]);
    assert_eq!(replayed.code, 1);
    assert_eq!(replayed.flows().len(), 4);
    let messages: Vec<_> = replayed.stderr.lines().collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(
        replayed
            .stderr
            .contains(&format!("{}: not a pcap", none.display()))
    );
    assert!(
        replayed
            .stderr
            .contains(&format!("{}: damaged behind packet 2", damaged.display()))
    );
}

#[test]
fn a_record_that_kept_more_than_was_on_the_wire_is_read_with_what_it_kept() {
    let folder = Folder::new("replay-caplen");
    let mut frames = small_flow();
    for (_, frame) in &mut frames {
        frame.bytes.resize(frame.frame_len as usize, 0);
        frame.frame_len = 20;
    }
    let replayed = replay(&[&folder.file("a", &Pcap::MICROSECONDS.capture(&frames))]);
    assert_eq!((replayed.code, &*replayed.stderr), (0, ""));
    assert_eq!(replayed.flows()[0]["to_server"]["bytes"], 100);
}

#[test]
fn a_record_that_lost_the_length_on_the_wire_counts_with_its_ip_header() {
    let folder = Folder::new("replay-snapped");
    let mut frames = small_flow();
    for (_, frame) in &mut frames {
        frame.frame_len = frame.bytes.len() as u32;
    }
    let replayed = replay(&[&folder.file("a", &Pcap::MICROSECONDS.capture(&frames))]);
    assert_eq!(replayed.flows()[0]["to_server"]["bytes"], 100);
    assert_eq!(replayed.counter("packets_malformed"), 0);
}
