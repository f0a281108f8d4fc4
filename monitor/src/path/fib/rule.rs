//! Policy rules (`ip rule`).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::answer::{Need, Refusal};
use super::{Fib, Query};

/// TCP's number (RFC 9293): the only protocol that is asked about.
const TCP: u8 = 6;
/// Locally sent packets have this incoming interface.
const LOOPBACK: &str = "lo";

/// One policy rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub ipv6: bool,
    pub priority: u32,
    pub action: Action,
    /// Applies where the selectors do not (`ip rule not ...`).
    pub invert: bool,
    pub from: Option<IpNet>,
    pub to: Option<IpNet>,
    /// Value and mask.
    pub mark: Option<(u32, u32)>,
    pub tos: u8,
    pub incoming: Option<Arc<str>>,
    pub outgoing: Option<Arc<str>>,
    pub protocol: Option<u8>,
    /// First and last.
    pub source_ports: Option<(u16, u16)>,
    pub destination_ports: Option<(u16, u16)>,
    /// Asks who owns the socket.
    pub user: bool,
    /// Applies to what belongs to a VRF.
    pub vrf: bool,
    /// Has a selector that is not known here.
    pub unknown_selector: bool,
    /// Routes of this prefix length or shorter are passed over.
    pub suppress_length: Option<u32>,
    /// Routes by a device of this group are passed over.
    pub suppress_group: Option<u32>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Table(u32),
    /// The table of the VRF in question.
    VrfTable,
    /// On with the rule of this priority.
    Goto(u32),
    Nop,
    Refuse(Refusal),
    Unknown,
}

/// Whether a rule's selectors hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applies {
    Yes,
    No,
    /// It depends.
    Perhaps(Need),
}

impl Rule {
    /// A rule for everything.
    pub fn all(ipv6: bool, priority: u32, action: Action) -> Self {
        Self {
            ipv6,
            priority,
            action,
            invert: false,
            from: None,
            to: None,
            mark: None,
            tos: 0,
            incoming: None,
            outgoing: None,
            protocol: None,
            source_ports: None,
            destination_ports: None,
            user: false,
            vrf: false,
            unknown_selector: false,
            suppress_length: None,
            suppress_group: None,
        }
    }

    pub(super) fn suppresses_length(&self, length: u8) -> bool {
        self.suppress_length
            .is_some_and(|suppressed| u32::from(length) <= suppressed)
    }

    pub(super) fn applies(&self, query: &Query, fib: &Fib) -> Applies {
        let mut perhaps = None;
        for selector in self.selectors(query, fib) {
            match selector {
                Applies::Yes => {}
                Applies::No if self.invert => return Applies::Yes,
                Applies::No => return Applies::No,
                Applies::Perhaps(need) => perhaps = perhaps.or(Some(need)),
            }
        }
        match perhaps {
            Some(need) => Applies::Perhaps(need),
            None if self.invert => Applies::No,
            None => Applies::Yes,
        }
    }

    fn selectors(&self, query: &Query, fib: &Fib) -> [Applies; 11] {
        let ports = query.ports;
        [
            known(self.to, Some(query.destination), Need::Source, |net, at| {
                contains(net, at)
            }),
            known(self.from, query.source, Need::Source, |net, at| {
                contains(net, at)
            }),
            known(self.mark, query.mark, Need::Mark, |(value, mask), is| {
                (value ^ is) & mask == 0
            }),
            known(self.protocol, Some(TCP), Need::Ports, |wanted, is| {
                wanted == is
            }),
            known(self.source_ports, ports, Need::Ports, |range, is| {
                (range.0..=range.1).contains(&is.0)
            }),
            known(self.destination_ports, ports, Need::Ports, |range, is| {
                (range.0..=range.1).contains(&is.1)
            }),
            match (&self.incoming, query.local) {
                (None, _) => Applies::Yes,
                (Some(name), Some(true)) => yes(&**name == LOOPBACK),
                (Some(name), Some(false)) if &**name == LOOPBACK => Applies::No,
                (Some(_), _) => Applies::Perhaps(Need::IncomingInterface),
            },
            perhaps(self.outgoing.is_some(), Need::BoundInterface),
            perhaps(self.tos != 0, Need::Tos),
            perhaps(self.user, Need::User),
            if self.unknown_selector {
                Applies::Perhaps(Need::Selector)
            } else if self.vrf && fib.links.values().all(|link| link.vrf_table.is_none()) {
                Applies::No
            } else {
                perhaps(self.vrf, Need::Vrf)
            },
        ]
    }
}

fn yes(holds: bool) -> Applies {
    if holds { Applies::Yes } else { Applies::No }
}

fn perhaps(asked: bool, need: Need) -> Applies {
    if asked {
        Applies::Perhaps(need)
    } else {
        Applies::Yes
    }
}

/// A selector that is absent always holds; one about something that was not told may.
fn known<S, V>(
    selector: Option<S>,
    value: Option<V>,
    need: Need,
    holds: impl Fn(S, V) -> bool,
) -> Applies {
    match (selector, value) {
        (None, _) => Applies::Yes,
        (Some(_), None) => Applies::Perhaps(need),
        (Some(selector), Some(value)) => yes(holds(selector, value)),
    }
}

fn contains(net: IpNet, address: IpAddr) -> bool {
    net.contains(&address)
}
