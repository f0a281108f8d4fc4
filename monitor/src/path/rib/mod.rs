//! What every router's peers announce, and the best way to each prefix.
//!
//! Of one router the best table it sends is believed: its Loc-RIB is what it uses; else what its
//! peers announced after policy; else before. A prefix that is not in the better table is not
//! used by the router, whatever a peer announced. Between routers and peers decides
//! [`best::compare`]. Tables of VRFs are not mixed with the one that clients are in.
//!
//! A router that goes away leaves its routes: they are the best that is known. When it is back,
//! its peers' new routes replace the old ones one by one; what was not announced again goes at
//! the peer's End-of-RIB, or at [`Rib::sweep`].

mod best;
mod decide;
mod entries;
mod path;
mod purge;
mod slot;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use self::decide::Decided;
use self::entries::{Entries, Entry};
use self::slot::Slot;
use super::bmp::{Message, Peer, PeerIdentity, PeerType, PeerUp, RibView};
use super::{Family, Path, Paths, Update};

pub use self::best::{Candidate, compare};
pub use self::path::Teller;

/// Routes of one peer's table: three times today's IPv4 and IPv6 tables together (1.0 M and
/// 220,000), so that a leak of more-specifics does not end the session.
pub const MAX_ROUTES_PER_PEER: usize = 4_000_000;
/// Routes in all, 16 bytes each and about as much for their place in the tree.
pub const MAX_ROUTES: usize = 8_000_000;
/// Changes in one batch: a full table that comes or goes takes a second, and others' changes do not
/// wait for it.
pub const MAX_BATCH: usize = 20_000;
/// Memory for attributes: a full table needs about 70 MiB of it.
pub const MAX_ATTRIBUTE_BYTES: usize = 256 << 20;
/// Tables of peers.
pub const MAX_TABLES: usize = 65_536;
/// Routers that were ever heard of.
pub const MAX_ROUTERS: usize = 256;
/// Peers of a router whose OPEN messages are remembered; the largest route servers have about a
/// thousand.
const MAX_PEERS: usize = 16_384;

/// Why a router cannot be listened to any longer. What is known stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RibError {
    #[error("the peer {0} announces more than {MAX_ROUTES_PER_PEER} routes")]
    RoutesPerPeer(IpAddr),
    #[error("there are more than {MAX_ROUTES} routes")]
    Routes,
    #[error("the routes' attributes take more than {} MiB", MAX_ATTRIBUTE_BYTES >> 20)]
    Attributes,
    #[error("there are more than {MAX_TABLES} tables of peers")]
    Tables,
    #[error("there are more than {MAX_ROUTERS} routers")]
    Routers,
}

/// A router, for as long as the [`Rib`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(u32);

#[derive(Debug)]
struct Router {
    /// As the operator knows it: the BMP sysName, else its address.
    name: Arc<str>,
    local_asn: Option<u32>,
    /// The best table it sends, by family.
    view: [Option<RibView>; 2],
    /// What its peers' OPEN messages told.
    peers: HashMap<PeerIdentity, PeerFacts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct PeerFacts {
    local_asn: Option<u32>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub routers: usize,
    /// Tables of peers that have routes.
    pub tables: usize,
    pub routes: usize,
    pub prefixes: usize,
    /// Different sets of attributes.
    pub paths: usize,
    pub attribute_bytes: usize,
}

/// One way to a prefix, as shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub view: RibView,
    pub path: Arc<Path>,
    /// Told before its router or peer began anew, and not again since.
    pub is_old: bool,
    pub is_best: bool,
}

/// What became of a prefix: its best way now, if there is one.
pub type Change = (IpNet, Option<Arc<Path>>);

/// All routes of all routers.
#[derive(Debug, Default)]
pub struct Rib {
    routers: Vec<Router>,
    by_key: HashMap<Box<str>, RouterId>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    tables: HashMap<(u32, PeerIdentity, RibView), u32>,
    v4: PrefixMap<Ipv4Net, Entries>,
    v6: PrefixMap<Ipv6Net, Entries>,
    routes: usize,
    paths: Paths,
    touched: HashSet<IpNet, RandomState>,
    /// A better table of some router appeared, by family: every prefix may have changed.
    decide_again: [bool; 2],
    has_purge: bool,
    /// Routes of VRFs and of other instances, and what was announced *to* peers.
    not_used: u64,
}

impl Rib {
    /// The router that is known by `key` (its address), or a new one.
    pub fn router(&mut self, key: &str) -> Result<RouterId, RibError> {
        if let Some(id) = self.by_key.get(key) {
            return Ok(*id);
        }
        if self.routers.len() >= MAX_ROUTERS {
            return Err(RibError::Routers);
        }
        let id = RouterId(self.routers.len() as u32);
        self.routers.push(Router {
            name: key.into(),
            local_asn: None,
            view: [None; 2],
            peers: HashMap::new(),
        });
        self.by_key.insert(key.into(), id);
        Ok(id)
    }

    /// A session of the router begins. What it said before stays until it is replaced.
    pub fn connected(&mut self, id: RouterId) {
        self.routers[id.0 as usize].peers.clear();
        self.slots
            .iter_mut()
            .filter(|slot| slot.router == id.0)
            .for_each(Slot::begin_anew);
    }

    /// The router's name: what it calls itself, else its address.
    pub fn name(&self, id: RouterId) -> &Arc<str> {
        &self.routers[id.0 as usize].name
    }

    /// Takes one message of the router.
    pub fn apply(&mut self, id: RouterId, message: &Message) -> Result<(), RibError> {
        match message {
            Message::Initiation {
                name: Some(name), ..
            } => {
                let router = &mut self.routers[id.0 as usize];
                if *router.name != **name {
                    router.name = name.as_str().into();
                }
            }
            Message::PeerUp { peer, up } => self.peer_up(id, peer, up),
            Message::PeerDown { peer, .. } => self.peer_down(id, &peer.identity),
            Message::Routes { peer, update } => {
                if peer.view == RibView::AdjRibOut || peer.identity.distinguisher != 0 {
                    let announced = update.announced.iter().map(|some| some.nlri.len());
                    self.not_used += announced.sum::<usize>() as u64;
                    return Ok(());
                }
                let slot = self.slot(id, peer)?;
                self.update(slot, update)?;
            }
            Message::Initiation { .. }
            | Message::Termination { .. }
            | Message::Statistics { .. }
            | Message::RouteMirroring { .. } => {}
        }
        Ok(())
    }

    fn peer_up(&mut self, id: RouterId, peer: &Peer, up: &PeerUp) {
        let router = &mut self.routers[id.0 as usize];
        if up.local_asn.is_some() {
            router.local_asn = up.local_asn;
        }
        let facts = PeerFacts {
            local_asn: up.local_asn,
        };
        if router.peers.len() < MAX_PEERS {
            router.peers.insert(peer.identity, facts);
        }
        // A peer that begins again without having ended: what it told is replaced.
        for slot in self.tables_of(id, &peer.identity) {
            let slot = &mut self.slots[slot as usize];
            if slot.is_told {
                slot.begin_anew();
            }
        }
    }

    /// What the peer told goes; but not what is left of an earlier session of the router: FRR begins
    /// every session with a Peer Down of each neighbour that is not up, and right after a restart
    /// that is all of them.
    fn peer_down(&mut self, id: RouterId, identity: &PeerIdentity) {
        let known = self.routers[id.0 as usize].peers.remove(identity);
        for slot in self.tables_of(id, identity) {
            if known.is_some() || self.slots[slot as usize].is_told {
                self.down(slot);
            }
        }
    }

    fn tables_of(&self, id: RouterId, identity: &PeerIdentity) -> Vec<u32> {
        [
            RibView::LocRib,
            RibView::AdjRibInPostPolicy,
            RibView::AdjRibInPrePolicy,
        ]
        .iter()
        .filter_map(|view| self.tables.get(&(id.0, *identity, *view)).copied())
        .collect()
    }

    /// Takes out what the router said before it, or its peer, began anew and has not said again.
    pub fn sweep(&mut self, id: RouterId) {
        for slot in self.slots.iter_mut().filter(|slot| slot.router == id.0) {
            slot.purge();
            self.has_purge = true;
        }
    }

    /// Takes out all that the router ever said.
    pub fn forget(&mut self, id: RouterId) {
        self.connected(id);
        self.sweep(id);
        self.routers[id.0 as usize].view = [None; 2];
    }

    /// Whether routes are in use that the router has not said again since it began anew.
    pub fn has_old_routes(&self, id: RouterId) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.router == id.0 && slot.has_old != [false; 2])
    }

    /// The table of a peer whose routes come without BMP: `id` stands for the MRT files.
    pub fn table(
        &mut self,
        id: RouterId,
        peer_asn: u32,
        address: IpAddr,
        local_asn: Option<u32>,
    ) -> Result<u32, RibError> {
        let peer = PeerIdentity {
            peer_type: PeerType::Global,
            distinguisher: 0,
            address,
        };
        let router = &mut self.routers[id.0 as usize];
        router.local_asn = local_asn.or(router.local_asn);
        let view = RibView::AdjRibInPostPolicy;
        self.slot_of(id, peer, view, peer_asn)
    }

    /// The session with the peer of this table ended: all that it told is void.
    pub fn down(&mut self, slot: u32) {
        let slot = &mut self.slots[slot as usize];
        slot.begin_anew();
        slot.purge();
        self.has_purge = true;
    }

    fn slot(&mut self, id: RouterId, peer: &Peer) -> Result<u32, RibError> {
        self.slot_of(id, peer.identity, peer.view, peer.asn)
    }

    fn slot_of(
        &mut self,
        id: RouterId,
        identity: PeerIdentity,
        view: RibView,
        peer_asn: u32,
    ) -> Result<u32, RibError> {
        let known = self.tables.get(&(id.0, identity, view)).copied();
        if let Some(slot) = known
            && self.slots[slot as usize].is_told
        {
            return Ok(slot);
        }
        let router = &self.routers[id.0 as usize];
        let facts = router.peers.get(&identity).copied().unwrap_or_default();
        let is_loc_rib = view == RibView::LocRib;
        let teller = Teller {
            router: Some(Arc::clone(&router.name)),
            local_asn: if is_loc_rib {
                Some(peer_asn).filter(|&asn| asn != 0).or(router.local_asn)
            } else {
                facts.local_asn.or(router.local_asn)
            },
            peer_asn,
            peer_address: (!is_loc_rib).then_some(identity.address),
        };
        if let Some(known) = known {
            let slot = &mut self.slots[known as usize];
            slot.teller = teller;
            slot.is_told = true;
            return Ok(known);
        }
        let slot = Slot {
            router: id.0,
            identity,
            view,
            teller,
            generation: 0,
            is_told: true,
            routes: [0; 2],
            has_old: [false; 2],
            purge: [None; 2],
        };
        let at = match self.free.pop() {
            Some(free) => {
                self.slots[free as usize] = slot;
                free
            }
            None if self.slots.len() < MAX_TABLES => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
            None => return Err(RibError::Tables),
        };
        self.tables.insert((id.0, identity, view), at);
        Ok(at)
    }

    /// Takes an UPDATE of the peer whose table `slot` is.
    pub fn update(&mut self, slot: u32, update: &Update) -> Result<(), RibError> {
        for nlri in &update.withdrawn {
            self.remove(slot, nlri.prefix, nlri.path_id);
        }
        for announced in &update.announced {
            let path = self.slots[slot as usize]
                .teller
                .path(&update.told, announced.next_hop);
            let path = self.paths.intern(path);
            for nlri in &announced.nlri {
                self.insert(slot, nlri.prefix, nlri.path_id, Arc::clone(&path))?;
            }
        }
        if let Some(family) = update.end_of_rib {
            let slot = &mut self.slots[slot as usize];
            if slot.has_old[family.index()] {
                slot.purge[family.index()] = Some(slot.generation);
                self.has_purge = true;
            }
        }
        Ok(())
    }

    /// Who announces into this table.
    pub fn teller(&self, slot: u32) -> &Teller {
        &self.slots[slot as usize].teller
    }

    /// Sets one route; the attributes are shared with equal ones.
    pub fn announce(
        &mut self,
        slot: u32,
        prefix: IpNet,
        path_id: u32,
        path: Path,
    ) -> Result<(), RibError> {
        let path = self.paths.intern(path);
        self.insert(slot, prefix, path_id, path)
    }

    fn insert(
        &mut self,
        slot: u32,
        prefix: IpNet,
        path_id: u32,
        path: Arc<Path>,
    ) -> Result<(), RibError> {
        if self.paths.bytes() > MAX_ATTRIBUTE_BYTES {
            self.paths.sweep();
            if self.paths.bytes() > MAX_ATTRIBUTE_BYTES {
                return Err(RibError::Attributes);
            }
        }
        let at = Family::of(&prefix).index();
        let table = &self.slots[slot as usize];
        if table.routes.iter().sum::<usize>() >= MAX_ROUTES_PER_PEER {
            return Err(RibError::RoutesPerPeer(table.identity.address));
        }
        if self.routes >= MAX_ROUTES {
            return Err(RibError::Routes);
        }
        self.see_view(slot, at);
        let generation = self.slots[slot as usize].generation;
        let entry = Entry::new(slot, generation, path_id, path);
        let entries = match prefix {
            IpNet::V4(prefix) => match self.v4.get_mut(&prefix) {
                Some(entries) => Some(entries),
                None => {
                    self.v4.insert(prefix, Entries::One(entry.clone()));
                    None
                }
            },
            IpNet::V6(prefix) => match self.v6.get_mut(&prefix) {
                Some(entries) => Some(entries),
                None => {
                    self.v6.insert(prefix, Entries::One(entry.clone()));
                    None
                }
            },
        };
        if entries.is_none_or(|entries| entries.set(entry)) {
            self.slots[slot as usize].routes[at] += 1;
            self.routes += 1;
        }
        self.touched.insert(prefix);
        Ok(())
    }

    /// The first route of a table that is better than what the router sent so far.
    fn see_view(&mut self, slot: u32, family: usize) {
        let slot = &self.slots[slot as usize];
        let seen = &mut self.routers[slot.router as usize].view[family];
        if seen.is_none_or(|seen| slot.view < seen) {
            // Nothing to decide again where this is the router's first table.
            self.decide_again[family] |= seen.is_some();
            *seen = Some(slot.view);
        }
    }

    fn remove(&mut self, slot: u32, prefix: IpNet, path_id: u32) {
        let at = Family::of(&prefix).index();
        let entries = match prefix {
            IpNet::V4(prefix) => self.v4.get_mut(&prefix),
            IpNet::V6(prefix) => self.v6.get_mut(&prefix),
        };
        let Some(entries) = entries else { return };
        let before = entries.as_slice().len();
        let is_left = entries.retain(|known| known.slot() != slot || known.path_id != path_id);
        // One that is not left was the only one.
        let gone = if is_left {
            before - entries.as_slice().len()
        } else {
            before
        };
        if gone == 0 {
            return;
        }
        if !is_left {
            self.take_out(prefix);
        }
        self.slots[slot as usize].routes[at] -= gone;
        self.routes -= gone;
        self.touched.insert(prefix);
    }

    fn take_out(&mut self, prefix: IpNet) {
        match prefix {
            IpNet::V4(prefix) => {
                self.v4.remove(&prefix);
            }
            IpNet::V6(prefix) => {
                self.v6.remove(&prefix);
            }
        }
    }

    /// What changed since the last call: prefixes and their best way now. A prefix may be among
    /// them whose best way is the same as before. At most [`MAX_BATCH`] of them: while there are
    /// more, [`Rib::has_changes`].
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.bury();
        for (at, again) in std::mem::take(&mut self.decide_again)
            .into_iter()
            .enumerate()
        {
            if again && at == Family::V4.index() {
                self.touched.extend(self.v4.keys().map(IpNet::from));
            } else if again {
                self.touched.extend(self.v6.keys().map(IpNet::from));
            }
        }
        let touched: Vec<IpNet> = if self.touched.len() <= MAX_BATCH {
            std::mem::take(&mut self.touched).into_iter().collect()
        } else {
            let batch: Vec<IpNet> = self.touched.iter().take(MAX_BATCH).copied().collect();
            for prefix in &batch {
                self.touched.remove(prefix);
            }
            batch
        };
        let mut changes = Vec::with_capacity(touched.len());
        for prefix in touched {
            let best = match self.decide(&prefix) {
                None => None,
                Some(Decided::AsTold(path)) => Some(Arc::clone(path)),
                Some(Decided::Completed(path)) => Some(self.paths.intern(path)),
            };
            changes.push((prefix, best));
        }
        self.paths.tidy();
        changes
    }

    /// Whether anything changed since the last [`Rib::take_changes`].
    pub fn has_changes(&self) -> bool {
        self.has_purge || !self.touched.is_empty() || self.decide_again != [false; 2]
    }

    /// How much there is.
    pub fn size(&self) -> Size {
        let has_routes = |slot: &&Slot| slot.routes != [0; 2];
        Size {
            routers: self.routers.len(),
            tables: self.slots.iter().filter(has_routes).count(),
            routes: self.routes,
            prefixes: self.v4.len() + self.v6.len(),
            paths: self.paths.len(),
            attribute_bytes: self.paths.bytes(),
        }
    }

    /// Announcements that were not used: of VRFs and other instances, and to peers.
    pub fn not_used(&self) -> u64 {
        self.not_used
    }
}

#[cfg(test)]
mod tests;
