//! What records say, one after the other.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::super::Path;
use super::super::attributes::{AsWidth, Attributes, ReachForm};
use super::super::cursor::{Cursor, Truncated};
use super::super::nlri::{Family, Labels, NlriError, family, read_prefix};
use super::super::rib::{Candidate, Rib, RibError, RouterId, Teller, compare};
use super::super::update::{Encoding, Told, Update, UpdateError};
use super::records::{Header, kind};

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub records: u64,
    /// Entries of table dumps: one peer's way to one prefix.
    pub entries: u64,
    /// UPDATE messages.
    pub updates: u64,
    /// Prefixes in them.
    pub announced: u64,
    pub withdrawn: u64,
    /// Records that tell nothing about routes: other types, other messages.
    pub other: u64,
    /// Records that cannot be read.
    pub not_understood: u64,
    /// Entries and UPDATEs whose attributes cannot be read.
    pub malformed: u64,
}

/// Which of a dump's ways are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The best one to each prefix: nothing follows that could withdraw it.
    Best,
    /// Every peer's: updates follow.
    All,
}

/// Why a record, or all of them, cannot be used.
#[derive(Debug)]
enum Trouble {
    Unreadable,
    Rib(RibError),
}

impl From<Truncated> for Trouble {
    fn from(_: Truncated) -> Self {
        Self::Unreadable
    }
}

impl From<NlriError> for Trouble {
    fn from(_: NlriError) -> Self {
        Self::Unreadable
    }
}

impl From<UpdateError> for Trouble {
    fn from(_: UpdateError) -> Self {
        Self::Unreadable
    }
}

impl From<RibError> for Trouble {
    fn from(error: RibError) -> Self {
        Self::Rib(error)
    }
}

/// A peer of a TABLE_DUMP_V2 (RFC 6396, 4.3.1).
#[derive(Clone, Copy, Debug)]
struct Peer {
    asn: u32,
    address: IpAddr,
}

impl Peer {
    /// A router's own routes: BIRD writes them with this peer.
    fn is_nobody(self) -> bool {
        self.asn == 0 && self.address.is_unspecified()
    }
}

/// Whether the entries of a RIB record have path identifiers (RFC 8050, 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathIds {
    None,
    InEntries,
}

/// Whether prefix and entries end where the record does.
fn fills(mut cursor: Cursor<'_>, family: Family, path_ids: PathIds) -> bool {
    let mut walk = || -> Result<bool, Trouble> {
        let length = cursor.u8()?;
        read_prefix(&mut cursor, family, length)?;
        for _ in 0..cursor.u16()? {
            // Peer, time.
            cursor.take(2 + 4)?;
            if path_ids == PathIds::InEntries {
                cursor.u32()?;
            }
            let length = cursor.u16()?;
            cursor.take(usize::from(length))?;
        }
        Ok(cursor.is_empty())
    };
    walk().unwrap_or(false)
}

/// Takes records in their order.
#[derive(Debug)]
pub struct Loader {
    rib: Rib,
    router: RouterId,
    keep: Keep,
    peers: Vec<Peer>,
    pub counters: Counters,
    /// Whether a table dump was among the records of this file.
    pub has_dump: bool,
}

impl Loader {
    pub fn new(keep: Keep) -> Result<Self, RibError> {
        let mut rib = Rib::default();
        let router = rib.router("mrt")?;
        Ok(Self {
            rib,
            router,
            keep,
            peers: Vec::new(),
            counters: Counters::default(),
            has_dump: false,
        })
    }

    /// The routes that the records left.
    pub fn into_rib(self) -> Rib {
        self.rib
    }

    /// Takes one record; an error where there are more routes than can be held.
    pub fn take(&mut self, header: Header, body: &[u8]) -> Result<(), RibError> {
        self.counters.records += 1;
        let mut cursor = Cursor::new(body);
        let taken = match header.kind {
            kind::TABLE_DUMP_V2 => self.table_dump_v2(header.subtype, &mut cursor),
            kind::TABLE_DUMP => self.table_dump(header.subtype, &mut cursor),
            kind::BGP4MP => self.bgp4mp(header.subtype, &mut cursor),
            kind::BGP4MP_ET => cursor
                .u32()
                .map_err(Trouble::from)
                .and_then(|_micros| self.bgp4mp(header.subtype, &mut cursor)),
            kind::BGP => self.bgp(header.subtype, &mut cursor),
            _ => self.step_over(),
        };
        match taken {
            Ok(()) => Ok(()),
            Err(Trouble::Rib(error)) => Err(error),
            Err(Trouble::Unreadable) => {
                self.counters.not_understood += 1;
                Ok(())
            }
        }
    }

    fn step_over(&mut self) -> Result<(), Trouble> {
        self.counters.other += 1;
        Ok(())
    }

    /// RFC 6396, 4.2; several entries in one record until 2000.
    fn table_dump(&mut self, subtype: u16, cursor: &mut Cursor<'_>) -> Result<(), Trouble> {
        let family = match subtype {
            1 => Family::V4,
            2 => Family::V6,
            _ => return self.step_over(),
        };
        self.has_dump = true;
        cursor.take(super::records::TABLE_DUMP_PREAMBLE)?;
        while !cursor.is_empty() {
            let address = read_address(cursor, family)?;
            let length = cursor.u8()?;
            let prefix = IpNet::new(address, length).map_err(|_| Trouble::Unreadable)?;
            cursor.take(1 + 4)?; // status, time
            let peer = Peer {
                address: read_address(cursor, family)?,
                asn: u32::from(cursor.u16()?),
            };
            let length = cursor.u16()?;
            let block = cursor.take(usize::from(length))?;
            self.counters.entries += 1;
            let Some((told, next_hop)) = read_entry(block, AsWidth::Two, family) else {
                self.counters.malformed += 1;
                continue;
            };
            if !peer.is_nobody() {
                let slot = self.rib.table(self.router, peer.asn, peer.address, None)?;
                let path = self.rib.teller(slot).path(&told, next_hop);
                self.rib.announce(slot, prefix.trunc(), 0, path)?;
            }
        }
        Ok(())
    }

    /// RFC 6396, 4.3, and RFC 8050, 4.
    fn table_dump_v2(&mut self, subtype: u16, cursor: &mut Cursor<'_>) -> Result<(), Trouble> {
        let (known, mut path_ids) = match subtype {
            1 => return self.peer_index_table(cursor),
            2 => (Some(Family::V4), PathIds::None),
            4 => (Some(Family::V6), PathIds::None),
            6 => (None, PathIds::None),
            8 => (Some(Family::V4), PathIds::InEntries),
            10 => (Some(Family::V6), PathIds::InEntries),
            12 => (None, PathIds::InEntries),
            _ => return self.step_over(),
        };
        self.has_dump = true;
        cursor.u32()?; // sequence number
        let family = match known {
            Some(family) => family,
            None => {
                let (afi, safi) = (cursor.u16()?, cursor.u8()?);
                match family(afi, safi) {
                    Some((family, Labels::None)) => family,
                    _ => return self.step_over(),
                }
            }
        };
        // RFC 8050, 4.2, puts it in front of a generic record's prefix; GoBGP and OpenBGPD, which
        // write such records, put it where the other kinds have it. One of them fills the record.
        let mut of_prefix = 0;
        if subtype == 12 && !fills(*cursor, family, path_ids) {
            path_ids = PathIds::None;
            of_prefix = cursor.u32()?;
        }
        let length = cursor.u8()?;
        let prefix = read_prefix(cursor, family, length)?;
        let count = cursor.u16()?;
        let mut best: Option<(Peer, u32, Path)> = None;
        for _ in 0..count {
            let peer = usize::from(cursor.u16()?);
            cursor.u32()?; // time
            let path_id = match path_ids {
                PathIds::None => of_prefix,
                PathIds::InEntries => cursor.u32()?,
            };
            let length = cursor.u16()?;
            let block = cursor.take(usize::from(length))?;
            let peer = *self.peers.get(peer).ok_or(Trouble::Unreadable)?;
            self.counters.entries += 1;
            let Some((told, next_hop)) = read_entry(block, AsWidth::Four, family) else {
                self.counters.malformed += 1;
                continue;
            };
            if peer.is_nobody() {
                continue;
            }
            if self.keep == Keep::All {
                let slot = self.rib.table(self.router, peer.asn, peer.address, None)?;
                let path = self.rib.teller(slot).path(&told, next_hop);
                self.rib.announce(slot, prefix, path_id, path)?;
                continue;
            }
            let teller = Teller {
                router: None,
                local_asn: None,
                peer_asn: peer.asn,
                peer_address: Some(peer.address),
            };
            let path = teller.path(&told, next_hop);
            let is_better = best.as_ref().is_none_or(|(other, other_id, other_path)| {
                let candidate = |path, peer: &Peer, path_id| Candidate {
                    path,
                    peer_address: peer.address,
                    path_id,
                };
                compare(
                    &candidate(&path, &peer, path_id),
                    &candidate(other_path, other, *other_id),
                )
                .is_gt()
            });
            if is_better {
                best = Some((peer, path_id, path));
            }
        }
        if let Some((_, _, path)) = best {
            // One table for all: each prefix, or each way to it, comes once.
            let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let slot = self.rib.table(self.router, 0, nobody, None)?;
            self.rib.announce(slot, prefix, of_prefix, path)?;
        }
        Ok(())
    }

    fn peer_index_table(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Trouble> {
        const IPV6: u8 = 0x01;
        const AS4: u8 = 0x02;
        self.has_dump = true;
        cursor.take(4)?; // collector
        let length = cursor.u16()?;
        cursor.take(usize::from(length))?; // view name
        let count = cursor.u16()?;
        self.peers.clear();
        for _ in 0..count {
            let kind = cursor.u8()?;
            cursor.take(4)?; // BGP identifier
            let family = if kind & IPV6 != 0 {
                Family::V6
            } else {
                Family::V4
            };
            self.peers.push(Peer {
                address: read_address(cursor, family)?,
                asn: if kind & AS4 != 0 {
                    cursor.u32()?
                } else {
                    u32::from(cursor.u16()?)
                },
            });
        }
        Ok(())
    }

    /// RFC 6396, 4.4, and RFC 8050, 3.
    fn bgp4mp(&mut self, subtype: u16, cursor: &mut Cursor<'_>) -> Result<(), Trouble> {
        let (is_message, width, has_path_id) = match subtype {
            0 => (false, AsWidth::Two, false),
            1 => (true, AsWidth::Two, false),
            4 => (true, AsWidth::Four, false),
            5 => (false, AsWidth::Four, false),
            8 => (true, AsWidth::Two, true),
            9 => (true, AsWidth::Four, true),
            // What the collector itself said, and dead types.
            _ => return self.step_over(),
        };
        let asn = |cursor: &mut Cursor<'_>| match width {
            AsWidth::Two => cursor.u16().map(u32::from),
            AsWidth::Four => cursor.u32(),
        };
        let (peer_asn, local_asn) = (asn(cursor)?, asn(cursor)?);
        cursor.u16()?; // interface
        let family = match cursor.u16()? {
            1 => Family::V4,
            2 => Family::V6,
            _ => return Err(Trouble::Unreadable),
        };
        let peer = Peer {
            address: read_address(cursor, family)?,
            asn: peer_asn,
        };
        read_address(cursor, family)?; // local
        if is_message {
            let encoding = Encoding {
                width,
                add_path: [has_path_id; 2],
            };
            match Update::read_message(cursor.rest(), encoding) {
                Ok(update) => self.update(peer, local_asn, &update),
                Err(UpdateError::Type(_)) => self.step_over(),
                Err(error) => Err(error.into()),
            }
        } else {
            self.state_change(peer, local_asn, cursor)
        }
    }

    /// The first type, of the routing daemon MRTd (RFC 6396, B.2).
    fn bgp(&mut self, subtype: u16, cursor: &mut Cursor<'_>) -> Result<(), Trouble> {
        const UPDATE: u16 = 1;
        const STATE_CHANGE: u16 = 3;
        if subtype != UPDATE && subtype != STATE_CHANGE {
            return self.step_over();
        }
        let peer = Peer {
            asn: u32::from(cursor.u16()?),
            address: cursor.ipv4()?.into(),
        };
        if subtype == STATE_CHANGE {
            return self.state_change(peer, 0, cursor);
        }
        let local_asn = u32::from(cursor.u16()?);
        cursor.ipv4()?;
        let encoding = Encoding {
            width: AsWidth::Two,
            ..Encoding::default()
        };
        let update = Update::read(cursor.rest(), encoding)?;
        self.update(peer, local_asn, &update)
    }

    fn update(&mut self, peer: Peer, local_asn: u32, update: &Update) -> Result<(), Trouble> {
        let announced: usize = update.announced.iter().map(|some| some.nlri.len()).sum();
        self.counters.updates += 1;
        self.counters.announced += announced as u64;
        self.counters.withdrawn += update.withdrawn.len() as u64;
        self.counters.malformed += u64::from(update.is_malformed);
        let local_asn = Some(local_asn).filter(|&asn| asn != 0);
        let slot = self
            .rib
            .table(self.router, peer.asn, peer.address, local_asn)?;
        Ok(self.rib.update(slot, update)?)
    }

    fn state_change(
        &mut self,
        peer: Peer,
        local_asn: u32,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), Trouble> {
        const ESTABLISHED: u16 = 6;
        let (before, after) = (cursor.u16()?, cursor.u16()?);
        self.counters.other += 1;
        if before == ESTABLISHED && after != ESTABLISHED {
            let local_asn = Some(local_asn).filter(|&asn| asn != 0);
            let slot = self
                .rib
                .table(self.router, peer.asn, peer.address, local_asn)?;
            self.rib.down(slot);
        }
        Ok(())
    }
}

/// Attributes and next hop of a dump's entry; `None`: they cannot be read.
fn read_entry(block: &[u8], width: AsWidth, family: Family) -> Option<(Told, Option<IpAddr>)> {
    let attributes = Attributes::read(block, width, ReachForm::NextHopOnly).ok()?;
    let reach = attributes.reach.and_then(|reach| reach.next_hop);
    let next_hop = match family {
        Family::V4 => attributes.next_hop.or(reach),
        Family::V6 => reach.or(attributes.next_hop),
    };
    Some((Told::new(attributes)?, next_hop))
}

fn read_address(cursor: &mut Cursor<'_>, family: Family) -> Result<IpAddr, Truncated> {
    match family {
        Family::V4 => cursor.ipv4().map(IpAddr::from),
        Family::V6 => cursor.ipv6().map(IpAddr::from),
    }
}
