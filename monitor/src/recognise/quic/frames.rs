//! The frames that an Initial may hold (RFC 9000, 12.4 and 17.2.2).

use super::Reader;
use crate::recognise::{Add, Pieces};

const PADDING: u64 = 0x00;
const PING: u64 = 0x01;
const ACK: u64 = 0x02;
const ACK_WITH_ECN: u64 = 0x03;
const CRYPTO: u64 = 0x06;
/// Of the transport (0x1c); an application's (0x1d) is in no Initial.
const CONNECTION_CLOSE: u64 = 0x1c;

/// The payload of an Initial is not what one may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the frames of a QUIC Initial")]
pub struct Damaged;

/// Adds the CRYPTO frames of an opened Initial to `crypto`.
///
/// # Errors
/// When a frame is cut, of a kind that no Initial holds, or beyond what is kept. Those before it
/// were taken.
pub fn crypto_frames(payload: &[u8], crypto: &mut Pieces) -> Result<(), Damaged> {
    let mut reader = Reader {
        bytes: payload,
        at: 0,
    };
    while !reader.is_at_end() {
        frame(&mut reader, crypto).ok_or(Damaged)?;
    }
    Ok(())
}

fn frame(reader: &mut Reader<'_>, crypto: &mut Pieces) -> Option<()> {
    match reader.varint()? {
        PADDING | PING => {}
        kind @ (ACK | ACK_WITH_ECN) => {
            // Largest, delay; the number of ranges; the first range.
            reader.varint()?;
            reader.varint()?;
            let ranges = reader.varint()?;
            reader.varint()?;
            for _ in 0..ranges {
                reader.varint()?;
                reader.varint()?;
            }
            if kind == ACK_WITH_ECN {
                for _ in 0..3 {
                    reader.varint()?;
                }
            }
        }
        CRYPTO => {
            let offset = reader.varint()?;
            let len = usize::try_from(reader.varint()?).ok()?;
            if crypto.add(offset, reader.take(len)?) == Add::Refused {
                return None;
            }
        }
        CONNECTION_CLOSE => {
            reader.varint()?;
            reader.varint()?;
            let len = usize::try_from(reader.varint()?).ok()?;
            reader.take(len)?;
        }
        _ => return None,
    }
    Some(())
}
