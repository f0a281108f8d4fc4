//! What routers say over BMP, put into one [`Rib`]; and which of them say nothing any more.
//!
//! No socket and no clock: bytes and times come in as arguments. A session ends for a reason that
//! is said in one line, with the router, the offset in its stream and what is wrong there; what
//! the router said before stays, and counts as stale after a while.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::bmp_station::Socket;
use crate::path::bmp::{Decoder, FramingError, Message};
use crate::path::rib::{Rib, RibError, RouterId};

/// A router begins with an Initiation message (RFC 7854, 4.3), at once.
const FIRST_MESSAGE_WITHIN: Duration = Duration::from_secs(30);
/// A message that has begun is whole within this, even of 1 MiB over a slow line.
const MESSAGE_WITHIN: Duration = Duration::from_secs(60);
/// Messages in a row that cannot be read: whatever this is, it tells no routes.
const MAX_NOT_UNDERSTOOD: u32 = 1_000;
/// Who was thrown out waits this long: a router that reconnects at once and does the same again
/// must not keep us busy.
const THROWN_OUT_FOR: Duration = Duration::from_secs(10);
/// A router that reports statistics periodically and then leaves out this many is silent.
const MISSED_REPORTS: u32 = 3;
/// Reports closer to each other than this came together.
const BETWEEN_REPORTS: Duration = Duration::from_secs(1);
/// After this the routes of a router that never came back are forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub sessions: u64,
    /// Sessions that were ended by us, for what they sent.
    pub thrown_out: u64,
    /// Connections of those that had been thrown out just before.
    pub turned_away: u64,
    pub bytes: u64,
    pub messages: u64,
    pub not_understood: u64,
    pub malformed_updates: u64,
    pub other_families: u64,
    pub announcements: u64,
    pub withdrawals: u64,
}

/// One session.
#[derive(Debug)]
struct Session {
    peer: SocketAddr,
    /// Ends the session when dropped; `None` in tests.
    _socket: Option<Socket>,
    decoder: Decoder,
    began: Duration,
    router: Option<RouterId>,
    received: u64,
    /// Since when a message is not whole.
    partial_since: Option<Duration>,
    last_bytes: Duration,
    not_understood: u32,
    said_not_understood: bool,
    reports: Reports,
}

/// How regularly a router reports statistics.
#[derive(Clone, Copy, Debug, Default)]
struct Reports {
    last: Option<Duration>,
    interval: Option<Duration>,
}

/// What is known of a router besides its routes.
#[derive(Debug)]
struct Router {
    address: IpAddr,
    session: Option<u64>,
    /// Beginning of the session, or when the last one ended.
    since: Duration,
    is_stale: bool,
    peers: HashSet<crate::path::bmp::PeerIdentity>,
}

/// A router, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterState {
    pub name: Arc<str>,
    pub address: IpAddr,
    pub is_connected: bool,
    pub is_stale: bool,
    pub peers: u64,
}

/// All sessions, and all that they ever said.
#[derive(Debug)]
pub struct Sessions {
    rib: Rib,
    stale_after: Duration,
    sessions: HashMap<u64, Session>,
    routers: BTreeMap<RouterId, Router>,
    thrown_out: HashMap<IpAddr, Duration>,
    totals: Totals,
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("{0}")]
    Framing(#[from] FramingError),
    #[error("{0}")]
    Rib(#[from] RibError),
    #[error("{MAX_NOT_UNDERSTOOD} messages in a row cannot be read, the last one because: {0}")]
    NotUnderstood(crate::path::bmp::BodyError),
    #[error("no whole message within {} s", FIRST_MESSAGE_WITHIN.as_secs())]
    Mute,
    #[error("a message that is not whole after {} s", MESSAGE_WITHIN.as_secs())]
    Slow,
}

impl Sessions {
    /// Times are since any fixed moment. The routes of a router that is away, or silent, for
    /// `stale_after` are stale.
    pub fn new(stale_after: Duration) -> Self {
        Self {
            rib: Rib::default(),
            stale_after,
            sessions: HashMap::new(),
            routers: BTreeMap::new(),
            thrown_out: HashMap::new(),
            totals: Totals::default(),
        }
    }

    pub fn set_stale_after(&mut self, stale_after: Duration) {
        self.stale_after = stale_after;
    }

    /// The routes.
    pub fn rib(&mut self) -> &mut Rib {
        &mut self.rib
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// A router is there.
    pub fn connected(&mut self, id: u64, peer: SocketAddr, socket: Option<Socket>, now: Duration) {
        if self
            .thrown_out
            .get(&peer.ip())
            .is_some_and(|until| now < *until)
        {
            self.totals.turned_away += 1;
            return;
        }
        self.totals.sessions += 1;
        let session = Session {
            peer,
            _socket: socket,
            decoder: Decoder::default(),
            began: now,
            router: None,
            received: 0,
            partial_since: None,
            last_bytes: now,
            not_understood: 0,
            said_not_understood: false,
            reports: Reports::default(),
        };
        self.sessions.insert(id, session);
    }

    /// Takes what a router sent.
    pub fn bytes(&mut self, id: u64, bytes: &[u8], now: Duration) {
        // What was on its way when the session was ended is nobody's any more.
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.last_bytes = now;
        session.received += bytes.len() as u64;
        self.totals.bytes += bytes.len() as u64;
        session.decoder.push(bytes);
        if let Err(reason) = self.messages(id, now) {
            self.throw_out(id, &reason, now);
        }
    }

    fn messages(&mut self, id: u64, now: Duration) -> Result<(), Reason> {
        loop {
            let Some(session) = self.sessions.get_mut(&id) else {
                return Ok(());
            };
            let before = session.decoder.counters();
            let read = session.decoder.next();
            let counters = session.decoder.counters();
            let totals = &mut self.totals;
            totals.messages += counters.messages - before.messages;
            totals.not_understood += counters.not_understood - before.not_understood;
            totals.malformed_updates += counters.malformed_updates - before.malformed_updates;
            totals.other_families += counters.other_families - before.other_families;
            match read {
                None => {
                    session.partial_since = match session.decoder.pending() {
                        0 => None,
                        _ => session.partial_since.or(Some(now)),
                    };
                    return Ok(());
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(Err(error))) => {
                    session.partial_since = None;
                    session.not_understood += 1;
                    if !std::mem::replace(&mut session.said_not_understood, true) {
                        let (who, at) = (session.peer, session.offset());
                        tracing::warn!(
                            "BMP from {who}: the message before byte {at} is stepped over: {error}; more of them are only counted"
                        );
                    }
                    if session.not_understood >= MAX_NOT_UNDERSTOOD {
                        return Err(Reason::NotUnderstood(error));
                    }
                }
                Some(Ok(Ok(message))) => {
                    session.partial_since = None;
                    session.not_understood = 0;
                    self.message(id, &message, now)?;
                }
            }
        }
    }

    fn message(&mut self, id: u64, message: &Message, now: Duration) -> Result<(), Reason> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if matches!(message, Message::Statistics { .. }) {
            session.reports.note(now);
        }
        let router = match session.router {
            Some(router) => router,
            None => self.begin(id, message, now)?,
        };
        match message {
            Message::PeerUp { peer, .. } => {
                if let Some(router) = self.routers.get_mut(&router) {
                    router.peers.insert(peer.identity);
                }
            }
            Message::PeerDown { peer, .. } => {
                if let Some(router) = self.routers.get_mut(&router) {
                    router.peers.remove(&peer.identity);
                }
            }
            Message::Routes { update, .. } => {
                let announced = update.announced.iter().map(|some| some.nlri.len() as u64);
                self.totals.announcements += announced.sum::<u64>();
                self.totals.withdrawals += update.withdrawn.len() as u64;
            }
            Message::Termination { reason } => {
                let name = self.rib.name(router);
                let reason = reason.map_or("no reason".to_owned(), termination);
                tracing::info!("BMP from {name}: it ends the session and gives {reason}");
            }
            Message::Initiation { .. }
            | Message::Statistics { .. }
            | Message::RouteMirroring { .. } => {}
        }
        Ok(self.rib.apply(router, message)?)
    }

    /// The first message tells which router it is. Several may share an address (VRFs, routers
    /// behind one NAT), and then their names tell them apart.
    fn begin(&mut self, id: u64, first: &Message, now: Duration) -> Result<RouterId, Reason> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Err(Reason::Mute);
        };
        let address = session.peer.ip();
        let key = match first {
            Message::Initiation {
                name: Some(name), ..
            } => format!("{address} {name}"),
            _ => address.to_string(),
        };
        let router = self.rib.router(&key)?;
        session.router = Some(router);
        let peer = session.peer;
        if let Some(known) = self.routers.get(&router)
            && let Some(old) = known.session
            && self.sessions.remove(&old).is_some()
        {
            tracing::info!("BMP from {peer}: a new session replaces the one that was there");
        }
        self.rib.connected(router);
        let known = self.routers.entry(router).or_insert(Router {
            address,
            session: None,
            since: now,
            is_stale: false,
            peers: HashSet::new(),
        });
        (known.session, known.since) = (Some(id), now);
        known.peers.clear();
        let name = match first {
            Message::Initiation {
                name: Some(name), ..
            } => name.as_str(),
            _ => "a router without a name",
        };
        tracing::info!("BMP from {peer}: {name} is connected");
        Ok(router)
    }

    /// A router closed the connection, or it broke.
    pub fn closed(&mut self, id: u64, why: Option<&std::io::Error>, now: Duration) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        let (who, at) = (session.peer, session.received);
        let partial = match session.decoder.pending() {
            0 => String::new(),
            pending => format!(", {pending} bytes into a message"),
        };
        match why {
            Some(error) => {
                tracing::warn!("BMP from {who}: broken after {at} bytes{partial}: {error}")
            }
            None => tracing::info!("BMP from {who}: closed after {at} bytes{partial}"),
        }
        self.gone(id, session.router, now);
    }

    fn throw_out(&mut self, id: u64, reason: &Reason, now: Duration) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.totals.thrown_out += 1;
        let who = match session.router {
            Some(router) => format!("{} ({})", self.rib.name(router), session.peer),
            None => session.peer.to_string(),
        };
        tracing::warn!(
            "BMP from {who}: the session is ended at byte {} of its stream: {reason}; what it said before is kept",
            session.offset()
        );
        self.thrown_out.retain(|_, until| now < *until);
        self.thrown_out
            .insert(session.peer.ip(), now + THROWN_OUT_FOR);
        self.gone(id, session.router, now);
    }

    fn gone(&mut self, id: u64, router: Option<RouterId>, now: Duration) {
        if let Some(router) = router.and_then(|router| self.routers.get_mut(&router))
            && router.session == Some(id)
        {
            router.session = None;
            router.since = now;
            router.peers.clear();
        }
    }

    /// Looks at the time, once a second: who is too slow, who is silent, whose old routes go.
    /// Whether other routers are stale than before.
    pub fn look(&mut self, now: Duration) -> bool {
        let late = |session: &Session| {
            let since = |start: Duration| now.saturating_sub(start);
            if session.router.is_none() && since(session.began) >= FIRST_MESSAGE_WITHIN {
                return Some(Reason::Mute);
            }
            let partial = session.partial_since?;
            (since(partial) >= MESSAGE_WITHIN).then_some(Reason::Slow)
        };
        let late: Vec<(u64, Reason)> = self
            .sessions
            .iter()
            .filter_map(|(id, session)| Some((*id, late(session)?)))
            .collect();
        for (id, reason) in late {
            self.throw_out(id, &reason, now);
        }

        let mut changed = false;
        let mut forgotten = Vec::new();
        for (&id, router) in &mut self.routers {
            let lasting = now.saturating_sub(router.since);
            let session = router.session.and_then(|id| self.sessions.get(&id));
            let is_stale = match session {
                None => router.is_stale || lasting >= self.stale_after,
                Some(session) => {
                    let silent = session.is_silent(now, self.stale_after);
                    if !silent && lasting >= self.stale_after && self.rib.has_old_routes(id) {
                        // The end of its table was never said: what is not there by now is gone.
                        self.rib.sweep(id);
                    }
                    silent || (router.is_stale && self.rib.has_old_routes(id))
                }
            };
            if is_stale != router.is_stale {
                let name = self.rib.name(id);
                if is_stale {
                    let how = if session.is_some() { "silent" } else { "away" };
                    tracing::warn!(
                        "BMP router {name}: {how} for {} s; what it said is stale",
                        self.stale_after.as_secs()
                    );
                } else {
                    tracing::info!("BMP router {name}: what it says is up to date again");
                }
                router.is_stale = is_stale;
                changed = true;
            }
            if session.is_none() && lasting >= FORGOTTEN_AFTER {
                forgotten.push(id);
            }
        }
        for id in forgotten {
            tracing::warn!(
                "BMP router {}: away for a day; its routes are forgotten",
                self.rib.name(id)
            );
            self.rib.forget(id);
            self.routers.remove(&id);
            changed = true;
        }
        changed
    }

    /// The names of the routers that are stale.
    pub fn stale(&self) -> HashSet<Arc<str>> {
        self.routers
            .iter()
            .filter(|(_, router)| router.is_stale)
            .map(|(id, _)| Arc::clone(self.rib.name(*id)))
            .collect()
    }

    /// Every router that was heard of.
    pub fn routers(&self) -> Vec<RouterState> {
        self.routers
            .iter()
            .map(|(id, router)| RouterState {
                name: Arc::clone(self.rib.name(*id)),
                address: router.address,
                is_connected: router.session.is_some(),
                is_stale: router.is_stale,
                peers: router.peers.len() as u64,
            })
            .collect()
    }
}

impl Session {
    /// Bytes of the stream that were read.
    fn offset(&self) -> u64 {
        self.received - self.decoder.pending() as u64
    }

    /// A session without news is alive as long as TCP is, unless its router had told of itself
    /// periodically and does not any more.
    fn is_silent(&self, now: Duration, stale_after: Duration) -> bool {
        self.reports.interval.is_some_and(|interval| {
            let allowed = stale_after.max(interval * MISSED_REPORTS);
            now.saturating_sub(self.last_bytes) >= allowed
        })
    }
}

impl Reports {
    /// Reports about several peers come together: the longest pause is the interval.
    fn note(&mut self, now: Duration) {
        if let Some(last) = self.last {
            let pause = now.saturating_sub(last);
            self.interval = self
                .interval
                .max(Some(pause).filter(|pause| *pause >= BETWEEN_REPORTS));
        }
        self.last = Some(now);
    }
}

/// RFC 7854, 4.5.
fn termination(reason: u16) -> String {
    match reason {
        0 => "administratively closed".to_owned(),
        1 => "an unspecified reason".to_owned(),
        2 => "out of resources".to_owned(),
        3 => "a redundant connection".to_owned(),
        4 => "permanently administratively closed".to_owned(),
        other => format!("reason {other}"),
    }
}

#[cfg(test)]
#[path = "bmp_sessions_tests.rs"]
mod tests;
