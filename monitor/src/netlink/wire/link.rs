//! Devices, from `RTM_NEWLINK` and `RTM_DELLINK`.

use std::sync::Arc;

use super::{IFF_LOWER_UP, IFF_UP, Malformed, Reader, attributes, name, number};
use crate::path::fib::Link;

/// `struct ifinfomsg` and its attributes; `None` for what bridges say about their ports.
pub(super) fn link(body: &[u8]) -> Result<Option<Link>, Malformed> {
    const WHAT: &str = "a device";
    const AF_UNSPEC: u8 = 0;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINK: u16 = 5;
    const IFLA_MASTER: u16 = 10;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_GROUP: u16 = 27;
    const IFLA_LINK_NETNSID: u16 = 37;

    let mut header = Reader::new(body, WHAT);
    let [family, _, _, _] = header.take()?;
    let index = header.u32()?;
    let flags = header.u32()?;
    let _change = header.u32()?;
    if family != AF_UNSPEC {
        return Ok(None);
    }
    let mut link = Link {
        index,
        name: "".into(),
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        master: None,
        below: None,
        group: 0,
        vrf_table: None,
    };
    let mut has_other_end = false;
    for attribute in attributes(header.rest, WHAT) {
        let (kind, value) = attribute?;
        match kind {
            IFLA_IFNAME => link.name = name(value),
            IFLA_LINK => link.below = Some(number(value, WHAT)?).filter(|&below| below != index),
            IFLA_MASTER => link.master = Some(number(value, WHAT)?).filter(|&it| it != index),
            IFLA_GROUP => link.group = number(value, WHAT)?,
            IFLA_LINKINFO => {
                let (kind, table) = kind_of_link(value)?;
                link.vrf_table = table;
                has_other_end |= &*kind == "veth";
            }
            IFLA_LINK_NETNSID => has_other_end = true,
            _ => {}
        }
    }
    if has_other_end {
        // IFLA_LINK is no device below it, but its other end or a device of another namespace.
        link.below = None;
    }
    Ok(Some(link))
}

/// The kind of a device and, of a VRF, its table, from `IFLA_LINKINFO`.
fn kind_of_link(value: &[u8]) -> Result<(Arc<str>, Option<u32>), Malformed> {
    const WHAT: &str = "IFLA_LINKINFO";
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_VRF_TABLE: u16 = 1;
    let (mut kind, mut table): (Arc<str>, _) = ("".into(), None);
    for attribute in attributes(value, WHAT) {
        match attribute? {
            (IFLA_INFO_KIND, value) => kind = name(value),
            (IFLA_INFO_DATA, data) if &*kind == "vrf" => {
                for attribute in attributes(data, WHAT) {
                    if let (IFLA_VRF_TABLE, value) = attribute? {
                        table = Some(number(value, WHAT)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok((kind, table))
}
