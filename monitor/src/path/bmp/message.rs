//! One BMP message.

use std::net::IpAddr;

use super::super::attributes::AsWidth;
use super::super::cursor::{Cursor, Truncated};
use super::super::nlri::Family;
use super::super::update::{self, Encoding, Update, UpdateError};

/// Message types (RFC 7854, 4.1).
pub(super) mod kind {
    pub const ROUTE_MONITORING: u8 = 0;
    pub const STATISTICS_REPORT: u8 = 1;
    pub const PEER_DOWN: u8 = 2;
    pub const PEER_UP: u8 = 3;
    pub const INITIATION: u8 = 4;
    pub const TERMINATION: u8 = 5;
    pub const ROUTE_MIRRORING: u8 = 6;
}

/// What is behind a per-peer header (RFC 7854, 4.2; RFC 9069, 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerType {
    Global,
    /// Peers of a VRF, told apart by the route distinguisher.
    RouteDistinguisher,
    /// Peers of another local instance.
    Local,
    /// The router's own table.
    LocRib,
}

/// Which of a peer's tables a route is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RibView {
    LocRib,
    AdjRibInPostPolicy,
    AdjRibInPrePolicy,
    /// What the router told the peer: no way of ours.
    AdjRibOut,
}

/// What tells one peer of a router from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIdentity {
    pub peer_type: PeerType,
    /// Of the VRF or instance; 0: the global one.
    pub distinguisher: u64,
    /// Unspecified for a Loc-RIB.
    pub address: IpAddr,
}

/// The per-peer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub identity: PeerIdentity,
    pub view: RibView,
    /// The peer's AS; a Loc-RIB's is the router's own.
    pub asn: u32,
    /// AS_PATH has 2-byte numbers (the A flag).
    pub width: AsWidth,
    /// When the router learned it, µs since 1970; `None`: not told.
    pub time_us: Option<u64>,
}

/// What a Peer Up notification tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUp {
    /// The router's own AS on this session.
    pub local_asn: Option<u32>,
    /// The VRF's or table's name (RFC 9069, 4.4).
    pub table_name: Option<String>,
    /// ADD-PATH from the peer to the router, by [`Family::index`].
    pub add_path_in: [bool; 2],
    /// ... and from the router to the peer.
    pub add_path_out: [bool; 2],
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Initiation {
        /// sysName, where it is told and not empty.
        name: Option<String>,
        /// sysDescr.
        description: Option<String>,
    },
    Termination {
        /// RFC 7854, 4.5.
        reason: Option<u16>,
    },
    PeerUp {
        peer: Peer,
        up: PeerUp,
    },
    PeerDown {
        peer: Peer,
        /// RFC 7854, 4.9.
        reason: u8,
    },
    Routes {
        peer: Peer,
        update: Update,
    },
    Statistics {
        peer: Peer,
        /// Type (RFC 7854, 4.8) and value of those that are plain numbers.
        values: Vec<(u16, u64)>,
    },
    /// A copy of what a peer sent. Route Monitoring tells what became of it.
    RouteMirroring {
        peer: Peer,
    },
}

/// Why a message inside an intact stream was stepped over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("unknown message type {0}")]
    MessageType(u8),
    #[error("unknown peer type {0}")]
    PeerType(u8),
    #[error("cut short")]
    Truncated,
    #[error("{0}")]
    Update(#[from] UpdateError),
    #[error("no OPEN messages in a Peer Up")]
    Open,
}

impl From<Truncated> for BodyError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// Longest name or description that is kept; RFC 9069, 4.4, allows table names of 255 bytes.
const MAX_TEXT: usize = 255;

impl Peer {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, BodyError> {
        const V_IPV6: u8 = 0x80;
        const L_POST_POLICY: u8 = 0x40;
        const A_TWO_BYTE_AS: u8 = 0x20;
        const O_ADJ_RIB_OUT: u8 = 0x10;
        let peer_type = match cursor.u8()? {
            0 => PeerType::Global,
            1 => PeerType::RouteDistinguisher,
            2 => PeerType::Local,
            3 => PeerType::LocRib,
            other => return Err(BodyError::PeerType(other)),
        };
        let flags = cursor.u8()?;
        let distinguisher = cursor.u64()?;
        let address = cursor.take(16)?;
        let asn = cursor.u32()?;
        cursor.take(4)?; // BGP identifier
        let (seconds, micros) = (cursor.u32()?, cursor.u32()?);

        // The flags of a Loc-RIB mean other things (RFC 9069, 4.2).
        let is_loc_rib = peer_type == PeerType::LocRib;
        let has = |flag| !is_loc_rib && flags & flag != 0;
        let mut address = Cursor::new(address);
        let address = if has(V_IPV6) {
            address.ipv6()?.into()
        } else {
            address.take(12)?;
            address.ipv4()?.into()
        };
        let view = if is_loc_rib {
            RibView::LocRib
        } else if has(O_ADJ_RIB_OUT) {
            RibView::AdjRibOut
        } else if has(L_POST_POLICY) {
            RibView::AdjRibInPostPolicy
        } else {
            RibView::AdjRibInPrePolicy
        };
        Ok(Self {
            identity: PeerIdentity {
                peer_type,
                distinguisher,
                address,
            },
            view,
            asn,
            width: if has(A_TWO_BYTE_AS) {
                AsWidth::Two
            } else {
                AsWidth::Four
            },
            time_us: (seconds != 0)
                .then(|| u64::from(seconds) * 1_000_000 + u64::from(micros.min(999_999))),
        })
    }
}

impl Message {
    /// Reads a message of type `kind` behind the common header. `encoding` says what a peer's
    /// OPEN messages negotiated.
    pub(super) fn read(
        kind: u8,
        body: &[u8],
        encoding: impl FnOnce(&Peer) -> Encoding,
    ) -> Result<Self, BodyError> {
        let mut cursor = Cursor::new(body);
        match kind {
            kind::INITIATION => Ok(initiation(&mut cursor)?),
            kind::TERMINATION => Ok(termination(&mut cursor)?),
            kind::ROUTE_MONITORING => {
                let peer = Peer::read(&mut cursor)?;
                let update = Update::read_message(cursor.rest(), encoding(&peer))?;
                Ok(Self::Routes { peer, update })
            }
            kind::PEER_UP => {
                let peer = Peer::read(&mut cursor)?;
                let up = PeerUp::read(&mut cursor)?;
                Ok(Self::PeerUp { peer, up })
            }
            kind::PEER_DOWN => {
                let peer = Peer::read(&mut cursor)?;
                let reason = cursor.u8()?;
                Ok(Self::PeerDown { peer, reason })
            }
            kind::STATISTICS_REPORT => {
                let peer = Peer::read(&mut cursor)?;
                let values = statistics(&mut cursor)?;
                Ok(Self::Statistics { peer, values })
            }
            kind::ROUTE_MIRRORING => Ok(Self::RouteMirroring {
                peer: Peer::read(&mut cursor)?,
            }),
            other => Err(BodyError::MessageType(other)),
        }
    }
}

fn initiation(cursor: &mut Cursor<'_>) -> Result<Message, Truncated> {
    const SYS_DESCR: u16 = 1;
    const SYS_NAME: u16 = 2;
    let (mut name, mut description) = (None, None);
    while !cursor.is_empty() {
        let (kind, value) = tlv(cursor)?;
        match kind {
            SYS_DESCR => description = text(value),
            SYS_NAME => name = text(value),
            _ => {}
        }
    }
    Ok(Message::Initiation { name, description })
}

fn termination(cursor: &mut Cursor<'_>) -> Result<Message, Truncated> {
    const REASON: u16 = 1;
    let mut reason = None;
    while !cursor.is_empty() {
        let (kind, value) = tlv(cursor)?;
        if kind == REASON {
            reason = Cursor::new(value).u16().ok();
        }
    }
    Ok(Message::Termination { reason })
}

fn statistics(cursor: &mut Cursor<'_>) -> Result<Vec<(u16, u64)>, Truncated> {
    /// IANA lists some forty types; a report with far more is padding.
    const MAX_VALUES: usize = 256;
    let count = cursor.u32()?;
    let mut values = Vec::new();
    for _ in 0..count {
        if cursor.is_empty() || values.len() == MAX_VALUES {
            break;
        }
        let (kind, value) = tlv(cursor)?;
        let mut value = Cursor::new(value);
        // A counter has four bytes, a gauge eight; others are kept per address family.
        let number = match value.rest().len() {
            4 => u64::from(value.u32()?),
            8 => value.u64()?,
            _ => continue,
        };
        values.push((kind, number));
    }
    Ok(values)
}

fn tlv<'a>(cursor: &mut Cursor<'a>) -> Result<(u16, &'a [u8]), Truncated> {
    let kind = cursor.u16()?;
    let length = cursor.u16()?;
    Ok((kind, cursor.take(usize::from(length))?))
}

/// Text as far as it is one: control characters would be played back in a terminal.
fn text(value: &[u8]) -> Option<String> {
    let value = value.get(..MAX_TEXT).unwrap_or(value);
    let text: String = String::from_utf8_lossy(value)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

impl PeerUp {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, BodyError> {
        cursor.take(16 + 2 + 2)?; // local address, ports
        let sent = open(cursor)?;
        let received = open(cursor)?;
        let mut table_name = None;
        // What follows is optional, and some routers leave rubbish there.
        while let Ok((kind, value)) = tlv(cursor) {
            const VRF_TABLE_NAME: u16 = 3;
            if kind == VRF_TABLE_NAME {
                table_name = text(value);
            }
        }
        let both = |receives: &Open, sends: &Open| {
            [Family::V4, Family::V6].map(|family| {
                let at = family.index();
                receives.add_path_receive[at] && sends.add_path_send[at]
            })
        };
        Ok(Self {
            local_asn: Some(sent.asn).filter(|&asn| asn != 0),
            table_name,
            add_path_in: both(&sent, &received),
            add_path_out: both(&received, &sent),
        })
    }
}

/// What an OPEN message says that matters here.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    asn: u32,
    add_path_send: [bool; 2],
    add_path_receive: [bool; 2],
}

fn open(cursor: &mut Cursor<'_>) -> Result<Open, BodyError> {
    const CAPABILITIES: u8 = 2;
    /// RFC 9072: lengths of two bytes follow.
    const EXTENDED: u8 = 255;
    let (kind, body) = update::message(cursor)?;
    if kind != update::OPEN {
        return Err(BodyError::Open);
    }
    let mut cursor = Cursor::new(body);
    cursor.u8()?; // version
    let mut open = Open {
        asn: u32::from(cursor.u16()?),
        ..Open::default()
    };
    cursor.take(2 + 4)?; // hold time, BGP identifier
    let length = cursor.u8()?;
    let is_extended = length == EXTENDED && cursor.rest().first() == Some(&EXTENDED);
    let parameters = if is_extended {
        cursor.u8()?;
        let length = cursor.u16()?;
        cursor.take(usize::from(length))?
    } else {
        cursor.take(usize::from(length))?
    };
    let mut parameters = Cursor::new(parameters);
    while !parameters.is_empty() {
        let kind = parameters.u8()?;
        let length = if is_extended {
            parameters.u16()?
        } else {
            u16::from(parameters.u8()?)
        };
        let value = parameters.take(usize::from(length))?;
        if kind == CAPABILITIES {
            // One that is wrong says nothing; the session stands nonetheless.
            let _ = open.take_capabilities(&mut Cursor::new(value));
        }
    }
    Ok(open)
}

impl Open {
    fn take_capabilities(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Truncated> {
        const FOUR_OCTET_AS: u8 = 65;
        const ADD_PATH: u8 = 69;
        const RECEIVE: u8 = 1;
        const SEND: u8 = 2;
        while !cursor.is_empty() {
            let code = cursor.u8()?;
            let length = cursor.u8()?;
            let mut value = Cursor::new(cursor.take(usize::from(length))?);
            match code {
                FOUR_OCTET_AS => self.asn = value.u32()?,
                ADD_PATH => {
                    while !value.is_empty() {
                        let family = (value.u16()?, value.u8()?);
                        let way = value.u8()?;
                        let at = match family {
                            (1, 1) => Family::V4.index(),
                            (2, 1) => Family::V6.index(),
                            _ => continue,
                        };
                        self.add_path_receive[at] = way & RECEIVE != 0;
                        self.add_path_send[at] = way & SEND != 0;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
