//! BGP path attributes (RFC 4271 5, and the RFCs named below): what says whose a prefix is and
//! which way is the better one. Everything else is stepped over.

use std::net::IpAddr;

use super::Community;
use super::cursor::{Cursor, Truncated};

/// Attribute type codes (IANA, BGP Path Attributes).
mod code {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MULTI_EXIT_DISC: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const COMMUNITIES: u8 = 8;
    pub const MP_REACH_NLRI: u8 = 14;
    pub const MP_UNREACH_NLRI: u8 = 15;
    pub const AS4_PATH: u8 = 17;
    pub const LARGE_COMMUNITY: u8 = 32;
}

/// The attribute's length has two bytes.
const EXTENDED_LENGTH: u8 = 0x10;
/// A communities attribute that is longer says nothing that a rule could want: the largest seen
/// in RIPE RIS tables have about a hundred.
const MAX_COMMUNITIES: usize = 256;
/// Stands for a 4-byte AS number where only two bytes fit (RFC 6793).
pub const AS_TRANS: u32 = 23_456;

/// Bytes of an AS number in AS_PATH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsWidth {
    Two,
    Four,
}

impl AsWidth {
    fn other(self) -> Self {
        match self {
            Self::Two => Self::Four,
            Self::Four => Self::Two,
        }
    }
}

/// An AS_PATH without confederation segments (RFC 5065, 5.3: they are not counted and not shown
/// outside).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsPath {
    /// The ASes of all sequences, nearest first, prepending included.
    pub sequence: Vec<u32>,
    /// Members of an AS_SET at the end: who of them is the origin is not known.
    pub last_set: Vec<u32>,
    /// AS_SETs, each of which counts as one hop (RFC 4271, 9.1.2.2).
    pub sets: u16,
}

impl AsPath {
    /// Reads segments to the end; `None` where they do not fill it exactly.
    fn read(bytes: &[u8], width: AsWidth) -> Option<Self> {
        const AS_SET: u8 = 1;
        const AS_SEQUENCE: u8 = 2;
        const AS_CONFED_SEQUENCE: u8 = 3;
        const AS_CONFED_SET: u8 = 4;
        let mut path = Self::default();
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_empty() {
            let kind = cursor.u8().ok()?;
            let count = usize::from(cursor.u8().ok()?);
            let size = match width {
                AsWidth::Two => 2,
                AsWidth::Four => 4,
            };
            let members = cursor.take(count * size).ok()?;
            let members = members.chunks_exact(size).map(|member| {
                let wide = |value, byte: &u8| (value << 8) | u32::from(*byte);
                member.iter().fold(0u32, wide)
            });
            match kind {
                AS_SET => {
                    path.sets = path.sets.saturating_add(1);
                    path.last_set = members.collect();
                }
                AS_SEQUENCE => {
                    path.sequence.extend(members);
                    path.last_set.clear();
                }
                AS_CONFED_SEQUENCE | AS_CONFED_SET => {}
                _ => return None,
            }
        }
        Some(path)
    }

    /// Hops as the decision process counts them.
    pub fn hops(&self) -> u16 {
        u16::try_from(self.sequence.len())
            .unwrap_or(u16::MAX)
            .saturating_add(self.sets)
    }

    /// The path with 4-byte numbers restored (RFC 6793, 4.2.3): what AS4_PATH says is its end.
    fn restored(mut self, with: Self) -> Self {
        if self.hops() < with.hops() {
            return self;
        }
        let keep = usize::from(self.hops() - with.hops()).min(self.sequence.len());
        self.sequence.truncate(keep);
        self.sequence.extend(with.sequence);
        Self {
            sequence: self.sequence,
            last_set: with.last_set,
            sets: with.sets,
        }
    }
}

/// A multiprotocol attribute's prefixes, not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiprotocol<'a> {
    pub afi: u16,
    pub safi: u8,
    /// MP_REACH_NLRI only.
    pub next_hop: Option<IpAddr>,
    pub nlri: &'a [u8],
}

/// The attributes that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// 0 IGP, 1 EGP, 2 incomplete.
    pub origin: Option<u8>,
    pub as_path: Option<AsPath>,
    pub next_hop: Option<IpAddr>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    /// Sorted, without duplicates.
    pub communities: Vec<Community>,
    pub reach: Option<Multiprotocol<'a>>,
    pub unreach: Option<Multiprotocol<'a>>,
    /// How many attributes there were, those stepped over included.
    pub count: usize,
    /// An attribute that matters cannot be read: the prefixes count as withdrawn (RFC 7606).
    pub is_malformed: bool,
}

/// How MP_REACH_NLRI is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachForm {
    /// As in an UPDATE (RFC 4760).
    Whole,
    /// In a table dump the prefix stands elsewhere: only the next hop is certain to be there
    /// (RFC 6396, 4.3.4), though some writers leave the whole attribute.
    NextHopOnly,
}

impl<'a> Attributes<'a> {
    /// Reads a block of attributes. `width` is what was negotiated; where AS_PATH fits the other
    /// width only, that is taken: routers exist whose BMP flag says the wrong one.
    pub fn read(bytes: &'a [u8], width: AsWidth, form: ReachForm) -> Result<Self, Truncated> {
        let mut attributes = Self::default();
        let mut as_path_width = width;
        let mut as4_path = None;
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_empty() {
            let flags = cursor.u8()?;
            let code = cursor.u8()?;
            let length = if flags & EXTENDED_LENGTH != 0 {
                cursor.u16()?
            } else {
                u16::from(cursor.u8()?)
            };
            let value = cursor.take(usize::from(length))?;
            attributes.count += 1;
            let read = match code {
                code::AS_PATH => match AsPath::read(value, width) {
                    Some(path) => {
                        attributes.as_path = Some(path);
                        Some(())
                    }
                    None => {
                        as_path_width = width.other();
                        attributes.as_path = AsPath::read(value, as_path_width);
                        attributes.as_path.as_ref().map(|_| ())
                    }
                },
                code::AS4_PATH => {
                    // RFC 6793, 6: a malformed AS4_PATH is ignored.
                    as4_path = AsPath::read(value, AsWidth::Four);
                    Some(())
                }
                _ => attributes.take(code, value, form),
            };
            attributes.is_malformed |= read.is_none();
        }
        if as_path_width == AsWidth::Two
            && let Some(with) = as4_path
        {
            attributes.as_path = attributes.as_path.map(|path| path.restored(with));
        }
        attributes.communities.sort_unstable();
        attributes.communities.dedup();
        Ok(attributes)
    }

    /// `None`: the value cannot be read.
    fn take(&mut self, code: u8, value: &'a [u8], form: ReachForm) -> Option<()> {
        let mut cursor = Cursor::new(value);
        match code {
            code::ORIGIN => self.origin = Some(cursor.u8().ok()?),
            code::NEXT_HOP => self.next_hop = Some(next_hop(value)?),
            code::MULTI_EXIT_DISC => self.med = Some(cursor.u32().ok()?),
            code::LOCAL_PREF => self.local_pref = Some(cursor.u32().ok()?),
            code::COMMUNITIES => {
                let communities = value.chunks_exact(4).take(MAX_COMMUNITIES);
                self.communities.extend(communities.map(|community| {
                    let [a, b, c, d] = *community else {
                        return Community::Standard(0, 0);
                    };
                    Community::Standard(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
                }));
            }
            code::LARGE_COMMUNITY => {
                for _ in 0..(value.len() / 12).min(MAX_COMMUNITIES) {
                    self.communities.push(Community::Large(
                        cursor.u32().ok()?,
                        cursor.u32().ok()?,
                        cursor.u32().ok()?,
                    ));
                }
            }
            code::MP_REACH_NLRI => self.reach = Some(reach(value, form)?),
            code::MP_UNREACH_NLRI => {
                self.unreach = Some(Multiprotocol {
                    afi: cursor.u16().ok()?,
                    safi: cursor.u8().ok()?,
                    next_hop: None,
                    nlri: cursor.rest(),
                });
            }
            _ => {}
        }
        Some(())
    }
}

fn reach(value: &[u8], form: ReachForm) -> Option<Multiprotocol<'_>> {
    if form == ReachForm::NextHopOnly
        && let Some((&length, address)) = value.split_first()
        && usize::from(length) == address.len()
    {
        return Some(Multiprotocol {
            afi: 0,
            safi: 0,
            next_hop: Some(next_hop(address)?),
            nlri: &[],
        });
    }
    let mut cursor = Cursor::new(value);
    let afi = cursor.u16().ok()?;
    let safi = cursor.u8().ok()?;
    let length = cursor.u8().ok()?;
    let address = cursor.take(usize::from(length)).ok()?;
    // One reserved byte, once a count of SNPAs (RFC 2858).
    cursor.u8().ok()?;
    Some(Multiprotocol {
        afi,
        safi,
        next_hop: next_hop(address),
        nlri: cursor.rest(),
    })
}

/// A next hop by its length: one address, or a global and a link-local one (RFC 2545), each after
/// a route distinguisher in VPNs (RFC 4364, RFC 4659).
fn next_hop(bytes: &[u8]) -> Option<IpAddr> {
    let mut cursor = Cursor::new(bytes);
    match bytes.len() {
        4 => Some(cursor.ipv4().ok()?.into()),
        12 => {
            cursor.take(8).ok()?;
            Some(cursor.ipv4().ok()?.into())
        }
        16 => Some(IpAddr::from(cursor.ipv6().ok()?).to_canonical()),
        32 => {
            let (first, second) = (cursor.ipv6().ok()?, cursor.ipv6().ok()?);
            let global = if first.is_unicast_link_local() || first.is_unspecified() {
                second
            } else {
                first
            };
            Some(IpAddr::from(global).to_canonical())
        }
        24 | 48 => {
            cursor.take(8).ok()?;
            Some(IpAddr::from(cursor.ipv6().ok()?).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], width: AsWidth) -> Attributes<'_> {
        Attributes::read(bytes, width, ReachForm::Whole).expect("whole")
    }

    /// ORIGIN IGP, AS_PATH 64999 64501, NEXT_HOP 192.0.2.1.
    const TYPICAL: [u8; 25] = [
        0x40, 1, 1, 0, 0x40, 2, 10, 2, 2, 0, 0, 0xfd, 0xe7, 0, 0, 0xfb, 0xf5, 0x40, 3, 4, 192, 0,
        2, 1, 0x40,
    ];

    #[test]
    fn what_an_update_usually_carries() {
        let attributes = read(&TYPICAL[..24], AsWidth::Four);
        assert_eq!(attributes.origin, Some(0));
        let path = attributes.as_path.as_ref().expect("there");
        assert_eq!(path.sequence, [64_999, 64_501]);
        assert_eq!(
            attributes.next_hop,
            Some("192.0.2.1".parse().expect("right"))
        );
        assert_eq!((attributes.count, attributes.is_malformed), (3, false));
    }

    #[test]
    fn the_width_that_fits_is_taken() {
        let attributes = read(&TYPICAL[..24], AsWidth::Two);
        let path = attributes.as_path.expect("there");
        assert_eq!(path.sequence, [64_999, 64_501]);
        assert!(!attributes.is_malformed);
    }

    #[test]
    fn a_length_beyond_the_end_is_an_error_not_a_panic() {
        for end in 0..TYPICAL.len() {
            let _ = Attributes::read(&TYPICAL[..end], AsWidth::Four, ReachForm::Whole);
        }
        let cut = Attributes::read(&TYPICAL, AsWidth::Four, ReachForm::Whole);
        assert_eq!(cut, Err(Truncated));
    }

    #[test]
    fn four_byte_numbers_are_restored_at_the_end_of_the_path() {
        // AS_PATH 64999 23456 23456, AS4_PATH 4200000001 4200000002.
        let bytes = [
            0x40, 2, 8, 2, 3, 0xfd, 0xe7, 0x5b, 0xa0, 0x5b, 0xa0, 0xc0, 17, 10, 2, 2, 0xfa, 0x56,
            0xea, 0x01, 0xfa, 0x56, 0xea, 0x02,
        ];
        let path = read(&bytes, AsWidth::Two).as_path.expect("there");
        assert_eq!(path.sequence, [64_999, 4_200_000_001, 4_200_000_002]);
    }

    #[test]
    fn sets_count_as_one_hop_and_confederations_as_none() {
        // CONFED_SEQUENCE 65001; SEQUENCE 64999 64999; SET 1 2.
        let bytes = [
            0x40, 2, 18, 3, 1, 0xfd, 0xe9, 2, 2, 0xfd, 0xe7, 0xfd, 0xe7, 1, 2, 0, 1, 0, 2, 2, 0,
        ];
        let path = read(&bytes, AsWidth::Two).as_path.expect("there");
        assert_eq!(path.sequence, [64_999, 64_999]);
        // The empty sequence after it ends what the set says.
        assert_eq!((path.sets, path.hops(), path.last_set.len()), (1, 3, 0));
    }

    #[test]
    fn communities_are_sorted_and_unique() {
        let bytes = [
            0xc0, 8, 12, 0xfb, 0xf4, 0, 100, 0, 1, 0, 2, 0xfb, 0xf4, 0, 100, 0xc0, 32, 12, 0, 0,
            0xfb, 0xf4, 0, 0, 0, 1, 0, 0, 0, 2,
        ];
        let written: Vec<String> = read(&bytes, AsWidth::Four)
            .communities
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(written, ["1:2", "64500:100", "64500:1:2"]);
    }

    #[test]
    fn a_dump_may_leave_only_the_next_hop() {
        let mut bytes = vec![0x80, 14, 17, 16];
        bytes.extend(
            "2001:db8::1"
                .parse::<std::net::Ipv6Addr>()
                .expect("right")
                .octets(),
        );
        let attributes = Attributes::read(&bytes, AsWidth::Four, ReachForm::NextHopOnly);
        let reach = attributes.expect("whole").reach.expect("there");
        assert_eq!(reach.next_hop, Some("2001:db8::1".parse().expect("right")));
        // The same bytes are no attribute of an UPDATE.
        assert!(
            read(&bytes, AsWidth::Four)
                .reach
                .is_none_or(|reach| reach.afi != 2)
        );
    }
}
