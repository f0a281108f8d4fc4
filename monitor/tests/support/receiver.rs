//! What a receiver's TCP makes of what reaches its device.

use std::collections::HashMap;

use super::segment::{ACK, SYN, Segment};

/// A timestamp that is older by this much is not too old (Linux, `TCP_PAWS_WINDOW`).
const WINDOW: u32 = 1;

/// What one connection's receiver knows.
#[derive(Default)]
struct Receiver {
    /// The newest timestamp of what arrived in order (`TS.Recent`).
    recent: Option<u32>,
    /// The ACK it sent last.
    acked: u32,
}

/// Every packet with data toward a client, and whether the client's TCP takes it: not when its
/// timestamp is older than that of what arrived in order (PAWS; RFC 7323, 5.3), as late packets'
/// are where a retransmission overtakes them. `packets` are both directions at the client's device.
pub fn taken(packets: &[Segment]) -> Vec<(&Segment, bool)> {
    let mut receivers: HashMap<u16, Receiver> = HashMap::new();
    let mut taken = Vec::new();
    for packet in packets {
        let receiver = receivers.entry(packet.client_port).or_default();
        if !packet.from_server {
            if packet.has(ACK) {
                receiver.acked = packet.acknowledgment;
                if let Some((_, echo)) = packet.timestamps {
                    receiver.recent = Some(echo);
                }
            }
            continue;
        }
        let not_before = |a: u32, b: u32| a.wrapping_sub(b) as i32 >= 0;
        let (Some((stamp, _)), false) = (packet.timestamps, packet.has(SYN)) else {
            if let Some((stamp, _)) = packet.timestamps {
                receiver.recent = Some(stamp);
            }
            if packet.space() > 0 && !packet.has(SYN) {
                taken.push((packet, true));
            }
            continue;
        };
        let is_new_enough = |window: u32| {
            receiver
                .recent
                .is_none_or(|recent| not_before(stamp.wrapping_add(window), recent))
        };
        let is_taken = is_new_enough(WINDOW);
        // What lies wholly below the ACK is discarded before its timestamp is looked at.
        let end = packet.sequence.wrapping_add(packet.space());
        let in_order = not_before(receiver.acked, packet.sequence);
        if is_new_enough(0) && in_order && not_before(end, receiver.acked) {
            receiver.recent = Some(stamp);
        }
        if packet.space() > 0 {
            taken.push((packet, is_taken));
        }
    }
    taken
}
