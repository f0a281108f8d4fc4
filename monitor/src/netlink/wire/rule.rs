//! Policy rules, from `RTM_NEWRULE` and `RTM_DELRULE`.

use super::{
    AF_INET, AF_INET6, FIB_RULE_IIF_DETACHED, FIB_RULE_INVERT, FIB_RULE_OIF_DETACHED,
    FIB_RULE_UNRESOLVED, Malformed, Reader, address, attributes, name, number, prefix,
};
use crate::path::fib::{Action, Refusal, Rule};

/// `struct fib_rule_hdr` and its attributes; `None` where it can never apply.
pub(super) fn rule(body: &[u8]) -> Result<Option<Rule>, Malformed> {
    const WHAT: &str = "a rule";
    const FRA_DST: u16 = 1;
    const FRA_SRC: u16 = 2;
    const FRA_IIFNAME: u16 = 3;
    const FRA_GOTO: u16 = 4;
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_SUPPRESS_IFGROUP: u16 = 13;
    const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
    const FRA_TABLE: u16 = 15;
    const FRA_FWMASK: u16 = 16;
    const FRA_OIFNAME: u16 = 17;
    const FRA_L3MDEV: u16 = 19;
    const FRA_UID_RANGE: u16 = 20;
    const FRA_IP_PROTO: u16 = 22;
    const FRA_SPORT_RANGE: u16 = 23;
    const FRA_DPORT_RANGE: u16 = 24;
    /// These say nothing about which packets the rule applies to: padding, realms, who made it.
    const SILENT: [u16; 3] = [11, 18, 21];
    /// "None", of a suppressor.
    const UNSET: u32 = u32::MAX;

    let mut header = Reader::new(body, WHAT);
    let [family, to_length, from_length, tos] = header.take()?;
    let [table, _, _, action] = header.take()?;
    let flags = header.u32()?;
    let ipv6 = match family {
        AF_INET => false,
        AF_INET6 => true,
        _ => return Ok(None),
    };
    let mut rule = Rule::all(ipv6, 0, Action::Nop);
    rule.tos = tos;
    rule.invert = flags & FIB_RULE_INVERT != 0;
    let (mut to, mut from, mut table, mut goto) = (None, None, u32::from(table), None);
    let (mut mark, mut mask) = (None, None);
    for attribute in attributes(header.rest, WHAT) {
        let (kind, value) = attribute?;
        match kind {
            FRA_DST => to = Some(address(value, WHAT)?),
            FRA_SRC => from = Some(address(value, WHAT)?),
            FRA_IIFNAME => rule.incoming = Some(name(value)),
            FRA_OIFNAME => rule.outgoing = Some(name(value)),
            FRA_GOTO => goto = Some(number(value, WHAT)?),
            FRA_PRIORITY => rule.priority = number(value, WHAT)?,
            FRA_FWMARK => mark = Some(number(value, WHAT)?),
            FRA_FWMASK => mask = Some(number(value, WHAT)?),
            FRA_TABLE => table = number(value, WHAT)?,
            FRA_SUPPRESS_PREFIXLEN => {
                rule.suppress_length = Some(number(value, WHAT)?).filter(|&it| it != UNSET);
            }
            FRA_SUPPRESS_IFGROUP => {
                rule.suppress_group = Some(number(value, WHAT)?).filter(|&it| it != UNSET);
            }
            FRA_L3MDEV => rule.vrf = Reader::new(value, WHAT).u8()? != 0,
            FRA_UID_RANGE => rule.user = true,
            FRA_IP_PROTO => rule.protocol = Some(Reader::new(value, WHAT).u8()?),
            FRA_SPORT_RANGE => rule.source_ports = Some(range(value)?),
            FRA_DPORT_RANGE => rule.destination_ports = Some(range(value)?),
            other if SILENT.contains(&other) => {}
            _ => rule.unknown_selector = true,
        }
    }
    if to_length > 0 {
        rule.to = Some(prefix(to, to_length, ipv6, WHAT)?);
    }
    if from_length > 0 {
        rule.from = Some(prefix(from, from_length, ipv6, WHAT)?);
    }
    rule.mark = match (mark, mask) {
        (None, None) => None,
        (mark, mask) => Some((mark.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    rule.action = match (action, goto) {
        (1, _) if rule.vrf => Action::VrfTable,
        (1, _) => Action::Table(table),
        (2, Some(priority)) if flags & FIB_RULE_UNRESOLVED == 0 => Action::Goto(priority),
        (2 | 3, _) => Action::Nop,
        (6, _) => Action::Refuse(Refusal::Blackhole),
        (7, _) => Action::Refuse(Refusal::Unreachable),
        (8, _) => Action::Refuse(Refusal::Prohibited),
        _ => Action::Unknown,
    };
    if flags & (FIB_RULE_IIF_DETACHED | FIB_RULE_OIF_DETACHED) != 0 && !rule.invert {
        // Its device is not there: it applies to nothing until that appears, which is told by a
        // message about the device, and a dump follows.
        rule.action = Action::Nop;
    }
    Ok(Some(rule))
}

/// `struct fib_rule_port_range`.
fn range(value: &[u8]) -> Result<(u16, u16), Malformed> {
    let mut numbers = Reader::new(value, "a range of ports");
    Ok((numbers.u16()?, numbers.u16()?))
}
