//! Playbacks: the flows of one client and one service, joined.
//!
//! A player opens several connections, closes them and opens others; what it did as a whole is
//! what a viewer noticed. The client's address (its IPv4 address, where the IPv6 one holds it), the port of the server and the service that the
//! client named keep clients apart; two players of the same service behind one address are one
//! session, and `flows` says how many connections it had.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use super::chunk::Figures;
use super::chunk::figures::Pace;
use super::transition::{SixRd, joined};
use super::{Flow, Vantage};
use crate::cell::CellKey;
use crate::path::Location;
use crate::verdict::playback::Playback;

/// Flows that a session names.
const FLOW_IDS_MAX: usize = 16;

/// Places that a session remembers: with two it is not alone, and older ones are forgotten.
const PLACES_MAX: usize = 8;

/// Sessions that are remembered; more are counted and have no record. Four times as many as the
/// kernel holds flows by default, at some 500 bytes each.
const SESSIONS_MAX: usize = 262_144;

/// Which flows belong together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    pub client: IpAddr,
    /// `None` where the service is known, which may have several.
    pub server: Option<IpAddr>,
    pub server_port: u16,
    pub service: Option<Arc<str>>,
}

impl SessionKey {
    /// The session that a flow belongs to, whose client named `service`.
    fn of(flow: &Flow, service: Option<&str>, six_rd: &[SixRd]) -> Self {
        let client = flow.roles.client;
        Self {
            // Of a service both protocols of a client are one playback; servers have one each.
            client: match service {
                Some(_) => joined(client, six_rd),
                None => client,
            },
            server: match service {
                Some(_) => None,
                None => Some(flow.roles.server),
            },
            server_port: flow.roles.server_port,
            service: service.map(Arc::from),
        }
    }
}

/// Why a session is over.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All of its connections were closed or silent for `flows.idle_s`.
    Idle,
    /// The daemon stopped, or the capture ended.
    Shutdown,
}

/// One playback.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: u64,
    pub key: SessionKey,
    pub vantage: Vantage,
    /// µs since 1970 UTC.
    pub start_us: u64,
    pub last_seen_us: u64,
    /// How many there were, and the first ones.
    pub flows: u64,
    pub flow_ids: Vec<u64>,
    /// Where its last packets went.
    pub client: IpAddr,
    pub location: Option<Location>,
    /// Every client's address and cell that it had lately, and when last, µs since 1970.
    places: BTreeMap<(IpAddr, Option<CellKey>), u64>,
    pub chunks: Figures,
    pub playback: Playback,
}

impl Session {
    /// Whether what its verdicts name is all that slowed it; `None`: nothing did, as far as was
    /// seen.
    pub fn is_sole(&self) -> Option<bool> {
        let sole = self.playback.is_sole()?;
        // What our own server took is in no comparison of RTT and losses, nor are chunks of which
        // nothing is known.
        let chunks = &self.chunks;
        let by_us = chunks.stalls > 0 || chunks.paced_by() == Some(Pace::Server);
        Some(sole && !by_us && chunks.lost == 0)
    }

    fn note_place(&mut self, flow: &Flow) {
        let place = (flow.roles.client, flow.location.as_ref().map(CellKey::from));
        if self.places.len() < PLACES_MAX || self.places.contains_key(&place) {
            let last_us = self.places.entry(place).or_default();
            *last_us = flow.last_seen_us.max(*last_us);
        }
    }

    fn order(&self) -> (u64, &SessionKey) {
        (self.start_us, &self.key)
    }
}

/// The sessions that are not over.
#[derive(Debug, Default)]
pub struct Sessions {
    sessions: HashMap<SessionKey, Session>,
    refused: u64,
    six_rd: Vec<SixRd>,
    secret: RandomState,
}

impl Sessions {
    /// From now on joins clients of these ISPs over IPv4 and IPv6.
    pub fn set_six_rd(&mut self, six_rd: &[SixRd]) {
        self.six_rd = six_rd.to_vec();
    }

    /// Takes what is new of a flow. One that has had no chunk yet belongs to no session, nor does
    /// our own download.
    pub fn take(&mut self, flow: &mut Flow, service: Option<&str>) {
        let new = flow.chunks.take_for_session();
        if flow.roles.vantage == Vantage::Receiver || (new.is_empty() && flow.session.is_none()) {
            return;
        }
        let key = SessionKey::of(flow, service, &self.six_rd);
        if !self.sessions.contains_key(&key) {
            if new.is_empty() {
                // The session is over, and a flow of it only went silent later.
                return;
            }
            if self.sessions.len() >= SESSIONS_MAX {
                self.refused += 1;
                return;
            }
        }
        let secret = &self.secret;
        let session = self.sessions.entry(key).or_insert_with_key(|key| Session {
            id: secret.hash_one((key, flow.id)),
            key: key.clone(),
            vantage: flow.roles.vantage,
            start_us: flow.start_us,
            last_seen_us: flow.last_seen_us,
            flows: 0,
            flow_ids: Vec::new(),
            client: flow.roles.client,
            location: None,
            places: BTreeMap::new(),
            chunks: Figures::default(),
            playback: Playback::default(),
        });
        session.chunks.add(&new);
        if flow.last_seen_us >= session.last_seen_us {
            session.last_seen_us = flow.last_seen_us;
            session.client = flow.roles.client;
            session.location.clone_from(&flow.location);
        }
        session.note_place(flow);
        if flow.session != Some(session.id) {
            flow.session = Some(session.id);
            session.start_us = session.start_us.min(flow.start_us);
            session.flows += 1;
            if session.flow_ids.len() < FLOW_IDS_MAX {
                session.flow_ids.push(flow.id);
            }
        }
    }

    /// The sessions that were silent for `idle_us` at `now_us`, the oldest first.
    pub fn take_idle(&mut self, now_us: u64, idle_us: u64) -> Vec<Session> {
        self.take_where(|session| now_us.saturating_sub(session.last_seen_us) >= idle_us)
    }

    /// Those that did something since `since_us`, and whether each was alone: at one client's
    /// address that had no other session, on one way. What they did before is forgotten.
    pub fn active_mut(&mut self, since_us: u64) -> impl Iterator<Item = (&mut Session, bool)> {
        let mut of_client: HashMap<IpAddr, u32> = HashMap::new();
        for session in self.sessions.values_mut() {
            session.places.retain(|_, last_us| *last_us >= since_us);
            let clients: BTreeSet<IpAddr> = session.places.keys().map(|place| place.0).collect();
            for client in clients {
                *of_client.entry(client).or_default() += 1;
            }
        }
        let active = self.sessions.values_mut();
        active
            .filter(|session| !session.places.is_empty())
            .map(move |session| {
                let alone = session.places.len() == 1 && of_client.get(&session.client) == Some(&1);
                (session, alone)
            })
    }

    /// Those that are not over, the oldest first.
    pub fn current(&self) -> Vec<&Session> {
        let mut current: Vec<&Session> = self.sessions.values().collect();
        current.sort_by(|a, b| a.order().cmp(&b.order()));
        current
    }

    /// All that are left, the oldest first.
    pub fn take_all(&mut self) -> Vec<Session> {
        self.take_where(|_| true)
    }

    fn take_where(&mut self, mut is_over: impl FnMut(&Session) -> bool) -> Vec<Session> {
        let over = self.sessions.extract_if(|_, session| is_over(session));
        let mut over: Vec<Session> = over.map(|(_, session)| session).collect();
        over.sort_by(|a, b| a.order().cmp(&b.order()));
        over
    }

    /// Chunks of how many flows were in no session, because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
