//! Captures of real routers, where there are any: the folder in `LASTMILE_CAPTURES`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The files below a folder of the captures; says visibly when there are none.
pub fn files_or_skip(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let Some(root) = env::var_os("LASTMILE_CAPTURES") else {
        println!("SKIPPED: LASTMILE_CAPTURES names no folder of captures");
        return Vec::new();
    };
    let folder = Path::new(&root).join(folder);
    let entries = fs::read_dir(&folder).expect("the folder of captures");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            ending.is_some_and(|ending| endings.contains(&ending))
        })
        .collect();
    files.sort();
    files
}

/// What one side sent on the TCP connection with the most payload, in a classic pcap of Ethernet
/// frames with IPv4. A segment that was sent twice counts once.
pub fn tcp_payload(file: &Path) -> Vec<u8> {
    let bytes = fs::read(file).expect("a capture");
    let is_swapped = bytes.starts_with(&[0xa1, 0xb2, 0xc3, 0xd4]);
    let word = |at: usize| {
        let word: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        if is_swapped {
            u32::from_be_bytes(word)
        } else {
            u32::from_le_bytes(word)
        }
    };
    assert!(
        [0xa1b2_c3d4, 0xa1b2_3c4d].contains(&word(0)),
        "a classic pcap"
    );
    assert_eq!(word(20), 1, "Ethernet");
    // By addresses and ports, what is at each sequence number.
    let mut streams: BTreeMap<Vec<u8>, BTreeMap<u32, &[u8]>> = BTreeMap::new();
    let mut at = 24;
    while at + 16 <= bytes.len() {
        let length = word(at + 8) as usize;
        let frame = &bytes[at + 16..at + 16 + length];
        at += 16 + length;
        let network = match frame.get(12..14) {
            Some([0x08, 0x00]) => &frame[14..],
            Some([0x81, 0x00]) => &frame[18..],
            _ => continue,
        };
        if network[0] >> 4 != 4 || network[9] != 6 {
            continue;
        }
        let header = usize::from(network[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([network[2], network[3]]));
        let tcp = &network[header..total];
        let sequence = u32::from_be_bytes(tcp[4..8].try_into().expect("four bytes"));
        let payload = &tcp[usize::from(tcp[12] >> 4) * 4..];
        if !payload.is_empty() {
            let key = [&network[12..20], &tcp[..4]].concat();
            let longest = streams.entry(key).or_default().entry(sequence).or_default();
            if payload.len() > longest.len() {
                *longest = payload;
            }
        }
    }
    let size = |segments: &BTreeMap<u32, &[u8]>| segments.values().map(|s| s.len()).sum::<usize>();
    let stream = streams.into_values().max_by_key(size).unwrap_or_default();
    let mut whole = Vec::new();
    let mut next = stream.keys().next().copied().unwrap_or_default();
    for (sequence, payload) in stream {
        assert!(sequence <= next, "a segment is missing before {sequence}");
        let known = (next - sequence) as usize;
        if let Some(new) = payload.get(known..) {
            whole.extend_from_slice(new);
            next += new.len() as u32;
        }
    }
    whole
}
