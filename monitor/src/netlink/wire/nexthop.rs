//! Nexthop objects, from `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP`.

use super::{Malformed, RTNH_F_DEAD, Reader, address, attributes, number};
use crate::path::fib::{Hop, Leads, Nexthop};

/// `struct nhmsg` and its attributes.
pub(super) fn nexthop(body: &[u8]) -> Result<Nexthop, Malformed> {
    const WHAT: &str = "a nexthop object";
    const NHA_ID: u16 = 1;
    const NHA_GROUP: u16 = 2;
    const NHA_BLACKHOLE: u16 = 4;
    const NHA_OIF: u16 = 5;
    const NHA_GATEWAY: u16 = 6;

    let mut header = Reader::new(body, WHAT);
    let [_family, _scope, _protocol, _] = header.take()?;
    let flags = header.u32()?;
    let (mut id, mut device, mut gateway) = (0, None, None);
    let (mut group, mut nowhere) = (None, false);
    for attribute in attributes(header.rest, WHAT) {
        let (kind, value) = attribute?;
        match kind {
            NHA_ID => id = number(value, WHAT)?,
            NHA_GROUP => group = Some(members(value)?),
            NHA_BLACKHOLE => nowhere = true,
            NHA_OIF => device = Some(number(value, WHAT)?),
            NHA_GATEWAY => gateway = Some(address(value, WHAT)?),
            _ => {}
        }
    }
    let leads = match (group, device) {
        (Some(members), _) => Leads::Group(members),
        (None, Some(device)) if !nowhere => Leads::To(Hop {
            device,
            gateway,
            weight: 1,
            dead: flags & u32::from(RTNH_F_DEAD) != 0,
        }),
        _ => Leads::Nowhere,
    };
    Ok(Nexthop { id, leads })
}

/// `struct nexthop_grp`, one after the other.
fn members(value: &[u8]) -> Result<Vec<(u32, u16)>, Malformed> {
    let (entries, _) = value.as_chunks::<8>();
    entries
        .iter()
        .map(|entry| {
            let mut entry = Reader::new(entry, "NHA_GROUP");
            let id = entry.u32()?;
            Ok((id, u16::from(entry.u8()?) + 1))
        })
        .collect()
}
