//! Frames of every link type through the parsers of the packet path.

use lastmile::capture::replay::{Capture, CapturedPacket, LinkType};
use monitor_ebpf::{
    counters::Reason,
    flow::{FlowKey, HIGH_TO_LOW, LOW_TO_HIGH},
    options,
    packet::{self, Parsed, Segment},
};

use super::seeds::{self, conversation};

/// The link type is chosen by the first byte; the rest is the frame.
const LINK_TYPES: [LinkType; 15] = [
    LinkType::ETHERNET,
    LinkType::RAW,
    LinkType::LINUX_SLL,
    LinkType::LINUX_SLL2,
    LinkType::NULL,
    LinkType::LOOP,
    LinkType::PPP,
    LinkType::PPP_HDLC,
    LinkType::PPP_WITH_DIRECTION,
    LinkType::CISCO_HDLC,
    LinkType::FDDI,
    LinkType::RAW_OF_BSD,
    LinkType::RAW_OF_OPENBSD,
    LinkType::IPV4,
    LinkType::IPV6,
];

/// What a frame says.
type Said = (FlowKey, usize, Segment);

/// Second byte: how much of the frame was kept. Third and fourth: wire segments.
pub fn run(data: &[u8]) {
    let Some((&[link, kept, gso_size, gso_segs], frame)) = data.split_first_chunk() else {
        return;
    };
    let link = LINK_TYPES[usize::from(link) % LINK_TYPES.len()];
    // Large sizes matter too.
    let gso = (u32::from(gso_size) * 17, u32::from(gso_segs));
    let whole = parse(link, frame, frame.len(), gso);
    if let Ok((key, direction, segment)) = &whole {
        check(key, *direction, segment, frame.len());
    }
    let kept = usize::from(kept).min(frame.len());
    let cut = parse(link, &frame[..kept], frame.len(), gso);
    // Less of a frame says less, and nothing else.
    match (whole, cut) {
        (Ok(whole), Ok(cut)) => assert_eq!(whole, cut),
        (Err(_), Ok(cut)) => panic!("only without its end it is {cut:?}"),
        (Ok(_), Err(reason)) => assert_eq!(reason, Reason::Truncated),
        (Err(_), Err(_)) => {}
    }
}

fn parse(
    link: LinkType,
    kept: &[u8],
    frame_len: usize,
    (gso_size, gso_segs): (u32, u32),
) -> Result<Said, Reason> {
    let mut capture = seeds::pcap([0xd4, 0xc3, 0xb2, 0xa1], link.0, &[kept.to_vec()]);
    // The seeds' frames are snapped; this one says its length.
    capture[36..40].copy_from_slice(&(frame_len as u32).to_le_bytes());
    let mut capture = Capture::from_bytes(capture, "memory".as_ref(), 256).expect("a capture");
    assert!(capture.advance().expect("one packet"), "one packet");
    let CapturedPacket { link, packet, .. } = capture.packet().expect("it is at hand");
    let network = packet::network(&packet, link?, packet.frame_len)?;
    let header = packet::tcp_header(&packet, &network)?;
    let (key, direction) = FlowKey::new(
        network.source,
        header.source_port(),
        network.destination,
        header.destination_port(),
    );
    let mut parsed = Parsed::EMPTY;
    packet::segment(&packet, &network, header, gso_size, gso_segs, &mut parsed)?;
    Ok((key, direction, parsed.segment))
}

fn check(key: &FlowKey, direction: usize, segment: &Segment, frame_len: usize) {
    assert!(matches!(direction, LOW_TO_HIGH | HIGH_TO_LOW));
    let (low, high) = (
        (key.low_address, key.low_port),
        (key.high_address, key.high_port),
    );
    let (again, _) = FlowKey::new(high.0, high.1, low.0, low.1);
    assert_eq!(again, *key, "both directions find the same flow");
    // A cut packet is as long as its IP header says.
    assert!(segment.payload_len as usize <= frame_len.max(65_535));
    assert!(segment.segment_len <= segment.payload_len);
    assert_eq!(segment.payload_len == 0, segment.segment_len == 0);
    assert!(segment.ecn < 4 && segment.window_scale <= 14);
    if segment.options & options::TIMESTAMPS == 0 {
        assert_eq!((segment.tsval, segment.tsecr), (0, 0));
    }
    if segment.options & options::SACK_FIRST == 0 {
        assert_eq!(segment.options & options::SACK_SECOND, 0);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let request = conversation()[2];
    let (ip, ethernet) = (request.ipv4(), request.ethernet());
    let behind = |before: &[u8]| [before, &ip].concat();
    let tagged = [
        &ethernet[..12],
        &[0x81, 0, 0, 5, 0x88, 0xa8, 0, 6, 0x08, 0],
        &ip,
    ]
    .concat();
    let pppoe = [
        &ethernet[..12],
        &[0x88, 0x64, 0x11, 0, 0, 7, 0, 70, 0, 0x21],
        &ip,
    ]
    .concat();
    let mpls = [
        &ethernet[..12],
        &[0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64],
        &ip,
    ]
    .concat();
    let mut ipv6 = vec![0x60, 0, 0, 0, 0, 72, 0, 64];
    ipv6.extend([0x20; 32]);
    ipv6.extend([60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]);
    ipv6.extend(&ip[20..]);
    let mut cooked2 = [0; 20];
    cooked2[..2].copy_from_slice(&[0x81, 0]);
    let frames: [(u8, Vec<u8>); 12] = [
        (0, ethernet),
        (0, tagged),
        (0, pppoe),
        (0, mpls),
        (1, ipv6),
        (2, behind(&[0, 4, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0])),
        (3, [&cooked2[..], &[0, 5, 8, 0], &ip].concat()),
        (4, behind(&[2, 0, 0, 0])),
        (6, behind(&[0, 0x21])),
        (7, behind(&[0xff, 3, 0, 0x21])),
        (9, behind(&[0x0f, 0, 8, 0])),
        (
            10,
            behind(&[&[0x50; 13][..], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat()),
        ),
    ];
    frames
        .into_iter()
        .map(|(link, frame)| [&[link, 60, 0, 0][..], &frame].concat())
        .collect()
}
