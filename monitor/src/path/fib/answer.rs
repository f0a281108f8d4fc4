//! What a lookup answers.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Fib;

/// A device and the next hop behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// The device's index.
    pub device: u32,
    pub interface: Arc<str>,
    /// `None`: the destination itself is on that link.
    pub next_hop: Option<IpAddr>,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.next_hop {
            Some(next_hop) => write!(f, "{next_hop} by {}", self.interface),
            None => write!(f, "{} directly", self.interface),
        }
    }
}

/// Why a packet would not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// No rule or table knows the destination.
    NoRoute,
    Blackhole,
    Unreachable,
    Prohibited,
    /// It is an address of this host.
    Local,
    Multicast,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRoute => "no route",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibited => "prohibited",
            Self::Local => "an address of this host",
            Self::Multicast => "broadcast or multicast",
        })
    }
}

/// What a rule asks that was not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    Source,
    Mark,
    IncomingInterface,
    BoundInterface,
    Ports,
    Tos,
    User,
    Vrf,
    /// Which hop the kernel's hash chose.
    ChosenHop,
    /// The rule has a selector that this program does not know.
    Selector,
    /// The rule does something that this program does not know.
    Action,
}

/// Why an answer is uncertain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// A policy rule needs something that was not told.
    Rule {
        priority: u32,
        needs: Need,
    },
    /// A route for one source prefix or one type of service.
    RouteNeeds(Need),
    /// Equal IPv6 routes: the kernel prefers one whose neighbour answers.
    Neighbours,
    /// A device without a carrier: it depends on `ignore_routes_with_linkdown`.
    Carrier,
    TooManyForks,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "the source address",
            Self::Mark => "the firewall mark",
            Self::IncomingInterface => "the incoming interface",
            Self::BoundInterface => "the interface that the socket is bound to",
            Self::Ports => "the ports",
            Self::Tos => "the type of service",
            Self::User => "the user",
            Self::Vrf => "the VRF",
            Self::ChosenHop => "which hop the hash chose",
            Self::Selector => "a selector unknown here",
            Self::Action => "an action unknown here",
        })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { priority, needs } => write!(f, "rule {priority} depends on {needs}"),
            Self::RouteNeeds(need) => write!(f, "a route depends on {need}"),
            Self::Neighbours => f.write_str("equal routes: the kernel asks the neighbours"),
            Self::Carrier => f.write_str("a device has no carrier"),
            Self::TooManyForks => f.write_str("too many rules jump on something unknown"),
        }
    }
}

/// Every way that is possible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// In order, without repetition. More than one: ECMP, or a doubt.
    pub ways: Vec<Way>,
    /// With a doubt both ways and refusals are possible.
    pub refused: BTreeSet<Refusal>,
    pub doubts: BTreeSet<Doubt>,
    /// The longest prefix of a route that was used.
    pub prefix: Option<IpNet>,
}

impl Answer {
    pub(super) fn note_prefix(&mut self, prefix: IpNet) {
        let longest = self.prefix.map_or(prefix, |other| {
            if prefix.prefix_len() > other.prefix_len() {
                prefix
            } else {
                other
            }
        });
        self.prefix = Some(longest);
    }

    /// What is left when a packet of the flow was seen at the device of this index, on its way
    /// out. Nothing, where the flow does not go the way that the routes say: then they say nothing
    /// about it.
    pub fn seen_at(mut self, device: u32, fib: &Fib) -> Self {
        self.ways.retain(|way| fib.is_seen_at(way.device, device));
        self
    }

    /// The device that all ways have in common.
    pub fn interface(&self) -> Option<&Arc<str>> {
        self.common(|way| Some(&way.interface))
    }

    /// The next hop that all ways have in common.
    pub fn next_hop(&self) -> Option<IpAddr> {
        self.common(|way| way.next_hop.as_ref()).copied()
    }

    fn common<'a, T: PartialEq>(&'a self, of: impl Fn(&'a Way) -> Option<&'a T>) -> Option<&'a T> {
        let first = of(self.ways.first()?)?;
        self.ways
            .iter()
            .all(|way| of(way) == Some(first))
            .then_some(first)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ways = self.ways.iter().map(ToString::to_string);
        let refused = self.refused.iter().map(ToString::to_string);
        let outcomes: Vec<String> = ways.chain(refused).collect();
        f.write_str(&outcomes.join(" or "))?;
        if let Some(prefix) = self.prefix {
            write!(f, " ({prefix})")?;
        }
        for doubt in &self.doubts {
            write!(f, "; {doubt}")?;
        }
        Ok(())
    }
}
