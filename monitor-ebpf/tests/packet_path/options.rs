//! TCP options, byte for byte, and any bytes in their place.

use monitor_ebpf::{
    options::{SACK_FIRST, SACK_PERMITTED, SACK_SECOND, TIMESTAMPS, WINDOW_SCALE, scan},
    packet::{SackBlock, Segment},
};
use proptest::prelude::*;

use crate::support::packets::hex;

/// What the options say, with `rest` in the buffer after them, as the packet before may have
/// left it.
fn scanned(options: &[u8], rest: u8) -> Segment {
    let mut bytes = [rest; 64];
    bytes[..options.len()].copy_from_slice(options);
    let mut segment = Segment::EMPTY;
    scan(&bytes, options.len() as u32, &mut segment);
    segment
}

fn read(text: &str) -> Segment {
    scanned(&hex(text), 0xff)
}

#[test]
fn the_options_of_a_syn() {
    let segment = read("02 04 05b4  04 02  08 0a 0000000b 0000000c  01  03 03 07");
    assert_eq!(segment.options, TIMESTAMPS | WINDOW_SCALE | SACK_PERMITTED);
    assert_eq!((segment.tsval, segment.tsecr), (11, 12));
    assert_eq!(segment.window_scale, 7);
}

#[test]
fn sack_with_one_to_four_blocks() {
    let block = |start, end| SackBlock { start, end };
    let one = read("01 01 05 0a 00000001 00000002");
    assert_eq!((one.options, one.sack[0]), (SACK_FIRST, block(1, 2)));
    let blocks = "00000001 00000002 00000003 00000004";
    let two = read(&format!("01 01 05 12 {blocks}"));
    assert_eq!(two.options, SACK_FIRST | SACK_SECOND);
    assert_eq!(two.sack, [block(1, 2), block(3, 4)]);
    let four = read(&format!("01 01 05 22 {blocks} {blocks}"));
    assert_eq!((four.options, four.sack), (two.options, two.sack));
}

#[test]
fn sack_after_timestamps() {
    let segment = read("01 01 08 0a 0000000b 0000000c 01 01 05 0a 00000001 00000002");
    assert_eq!(segment.options, TIMESTAMPS | SACK_FIRST);
    assert_eq!(segment.sack[0], SackBlock { start: 1, end: 2 });
}

#[test]
fn a_window_scale_above_14_is_14() {
    assert_eq!(read("03 03 0e 00").window_scale, 14);
    assert_eq!(read("03 03 0f 00").window_scale, 14);
    assert_eq!(read("03 03 ff 00").window_scale, 14);
}

#[test]
fn options_of_a_length_of_their_own_are_passed_over() {
    // Timestamps of 9 and 11 bytes, a window scale of 4, a SACK of 2 and of 9; then a good one.
    for broken in [
        "08 09 00000000000000",
        "08 0b 000000000000000000",
        "03 04 0000",
        "05 02",
        "05 09 00000000000000",
        // Fast Open, an experiment, multipath TCP.
        "22 0a 0000000000000000",
        "fd 06 00000000",
        "1e 0c 00000000000000000000",
    ] {
        let segment = read(&format!("{broken} 03 03 05"));
        assert_eq!(segment.options, WINDOW_SCALE, "{broken}");
    }
}

#[test]
fn nothing_is_believed_after_a_broken_length() {
    for broken in [
        // Shorter than its own header; longer than what is left; cut before its length.
        "08 00 03 03 05",
        "08 01 03 03 05",
        "08 0a 00000000",
        "05 ff 03 03 05",
        "01 01 01 08",
        // END.
        "00 03 03 05",
    ] {
        assert_eq!(read(broken).options, 0, "{broken}");
    }
}

#[test]
fn forty_nops() {
    assert_eq!(read(&"01".repeat(40)), Segment::EMPTY);
}

#[test]
fn no_options_at_all() {
    assert_eq!(scanned(&[], 8), Segment::EMPTY);
}

/// The same, as one would write it without a verifier in mind.
fn reference(mut options: &[u8]) -> Segment {
    let mut segment = Segment::EMPTY;
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
    for _ in 0..16 {
        match *options {
            [1, ref rest @ ..] => options = rest,
            [0, ..] | [] | [_] => break,
            [kind, len, ..] => {
                let Some((option, rest)) = options.split_at_checked(usize::from(len)) else {
                    break;
                };
                if len < 2 {
                    break;
                }
                match (kind, &option[2..]) {
                    (8, stamps) if stamps.len() == 8 => {
                        segment.options |= TIMESTAMPS;
                        segment.tsval = word(&stamps[..4]);
                        segment.tsecr = word(&stamps[4..]);
                    }
                    (3, &[shift]) => {
                        segment.options |= WINDOW_SCALE;
                        segment.window_scale = shift.min(14);
                    }
                    (4, []) => segment.options |= SACK_PERMITTED,
                    (5, blocks) => {
                        for (index, block) in blocks.chunks_exact(8).take(2).enumerate() {
                            segment.options |= [SACK_FIRST, SACK_SECOND][index];
                            segment.sack[index] = SackBlock {
                                start: word(&block[..4]),
                                end: word(&block[4..]),
                            };
                        }
                    }
                    _ => {}
                }
                options = rest;
            }
        }
    }
    segment
}

/// Bytes that are often the start of an option.
fn option_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        Just(0u8),
        Just(1),
        Just(3),
        Just(4),
        Just(5),
        Just(8),
        Just(10),
        Just(18),
        2u8..12,
        any::<u8>()
    ];
    prop::collection::vec(byte, 0..=40)
}

proptest! {
    #[test]
    fn any_bytes_read_as_the_reference_reads_them(options in option_bytes(), rest: u8) {
        prop_assert_eq!(scanned(&options, rest), reference(&options));
    }
}
