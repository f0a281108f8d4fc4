//! How a run went: what was found of what was served, and what is not as good as promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use anyhow::Result;

use crate::video::compare::Comparison;
use crate::video::connection::Http;
use crate::video::found::{self, Flow, Session};
use crate::video::hd::{self, Ratio};
use crate::video::recognised::{Quality, Recognised};
use crate::video::run::{Played, SERVICE};
use crate::video::served::{Client, Served, served};

/// Share of the chunks that must be found, with exactly their bytes and their time.
const CHUNKS_SHARE: f64 = 0.99;
/// Difference in HDratio that is allowed.
const HD_DIFFERENCE: f64 = 0.02;
/// Precision and recall where clients name their servers.
const NAMED_SHARE: f64 = 0.98;

/// What one run showed.
#[derive(Debug)]
pub struct Report {
    /// The daemon's chunks against what was served.
    pub chunks: Comparison,
    /// HDratio by the access log's bytes and the players' times ...
    pub hd_served: Ratio,
    /// ... by the access log's own times, which stop at the socket ...
    pub hd_socket: Ratio,
    /// ... and by the daemon.
    pub hd_found: Ratio,
    /// What is not right about the viewers' sessions.
    pub sessions: Vec<String>,
    /// How many sessions should be there.
    pub viewers: usize,
    /// Which flows were called video.
    pub recognised: Recognised,
    /// Bytes of TCP that neither the access log nor TLS records account for: on HTTP/1.1's
    /// connections beyond their first answers, where there must be none, and elsewhere.
    pub unexplained_bytes: [u64; 2],
    /// Seconds that pictures stood still.
    pub stalled_s: f64,
}

impl Report {
    /// Holds the daemon's log against everybody else's.
    ///
    /// # Errors
    /// If the players and nginx do not agree on what was fetched, or a record is not readable.
    pub fn new(played: &Played) -> Result<Self> {
        let served = served(&played.entries, &played.files)?;
        let flows = found::flows(&played.log)?;
        let rtts: BTreeMap<Ipv4Addr, f64> = played.base_rtt_s.iter().copied().collect();
        let rtt_s = |client: Client| rtts.get(&client.0).copied().unwrap_or(0.0);
        let video: BTreeSet<Client> = served.iter().map(|one| one.client).collect();
        let mut hd_found = Ratio::default();
        for flow in video.iter().filter_map(|client| flows.get(client)) {
            hd_found.able += flow.hd[0];
            hd_found.reached += flow.hd[1];
        }
        let mut unexplained_bytes = [0; 2];
        for one in &served {
            let plain = one.http == Http::One && !one.first;
            unexplained_bytes[usize::from(!plain)] += one.unexplained_bytes();
        }
        Ok(Self {
            chunks: Comparison::new(&served, &flows, rtt_s),
            hd_served: hd::ratio(&served, rtt_s, |one| one.player_s),
            hd_socket: hd::ratio(&served, rtt_s, Served::server_s),
            hd_found,
            sessions: wrong_sessions(played, &served, &flows)?,
            viewers: played.viewers.len(),
            recognised: Recognised::new(&played.entries, &flows),
            unexplained_bytes,
            stalled_s: played.files.iter().map(|file| file.stalled_s).sum(),
        })
    }

    /// What of the chunks, HDratio and sessions is not as good as promised; nothing when all is.
    #[must_use]
    pub fn shortcomings(&self) -> Vec<String> {
        let mut all = self.sessions.clone();
        // To one RTT of the idle path is more than was promised.
        for (what, share, _) in &self.chunks.shares()[..3] {
            if *share < CHUNKS_SHARE {
                all.push(format!("chunks {what}: {:.2} %", 100.0 * share));
            }
        }
        match (self.hd_found.share(), self.hd_served.share()) {
            (Some(found), Some(served)) if (found - served).abs() <= HD_DIFFERENCE => {}
            _ => all.push("HDratio is not the access log's".to_owned()),
        }
        if self.unexplained_bytes[0] > 0 {
            let bytes = self.unexplained_bytes[0];
            all.push(format!("the lab cannot explain {bytes} bytes of HTTP/1.1"));
        }
        all
    }

    /// What of recognising video by name is not as good as promised.
    #[must_use]
    pub fn misnamed(&self) -> Vec<String> {
        let Quality { precision, recall } = self.recognised.by_flows();
        let enough = |share: Option<f64>| share.is_some_and(|share| share >= NAMED_SHARE);
        if enough(precision) && enough(recall) {
            return Vec::new();
        }
        vec![format!(
            "by name: precision {precision:?}, recall {recall:?}"
        )]
    }
}

/// Every viewer has one session, with all connections to the video server and all their chunks.
/// Where the daemon does not know services, what else a viewer fetched from that server is in it.
fn wrong_sessions(
    played: &Played,
    served: &[Served],
    flows: &BTreeMap<Client, Flow>,
) -> Result<Vec<String>> {
    let sessions = found::sessions(&played.log)?;
    let named = sessions.iter().any(|session| session.service.is_some());
    let wrong = played.viewers.iter().filter_map(|viewer| {
        let all: BTreeSet<Client> = if named {
            served.iter().map(|one| one.client).collect()
        } else {
            flows.keys().copied().collect()
        };
        let connections: Vec<Client> = all.into_iter().filter(|c| c.0 == *viewer).collect();
        let chunks = connections.iter().filter_map(|client| flows.get(client));
        let chunks = chunks.flat_map(|flow| flow.chunks.values());
        let bytes: u64 = chunks.map(|chunk| chunk.bytes).sum();
        let service = named.then_some(SERVICE);
        let own: Vec<&Session> = sessions
            .iter()
            .filter(|session| session.client == *viewer && session.service.as_deref() == service)
            .collect();
        match own.as_slice() {
            [one] if one.flows == connections.len() as u64 && one.bytes == bytes => None,
            [one] => Some(format!(
                "the session at {viewer} has {} flows and {} bytes, not {} and {bytes}",
                one.flows,
                one.bytes,
                connections.len()
            )),
            all => Some(format!("{viewer} has {} sessions, not 1", all.len())),
        }
    });
    Ok(wrong.collect())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "chunks, against nginx's access log and the players (picture stood still {:.1} s)",
            self.stalled_s
        )?;
        write!(f, "{}", self.chunks)?;
        let [plain, rest] = self.unexplained_bytes;
        writeln!(
            f,
            "  bytes of TCP besides answers and TLS records: {plain} in HTTP/1.1's answers, {rest} \
             in first answers (session tickets) and HTTP/2's (settings)"
        )?;
        let shown = |ratio: Ratio| {
            let share = ratio
                .share()
                .map_or("none".to_owned(), |s| format!("{s:.3}"));
            format!("{share} ({} of {})", ratio.reached, ratio.able)
        };
        writeln!(
            f,
            "HDratio (2.5 Mbit/s): {} found, {} by the access log with the players' times; by its \
             own, which stop at the socket, {}",
            shown(self.hd_found),
            shown(self.hd_served),
            shown(self.hd_socket)
        )?;
        writeln!(
            f,
            "sessions: {} of {} right",
            self.viewers - self.sessions.len().min(self.viewers),
            self.viewers
        )?;
        self.sessions
            .iter()
            .try_for_each(|wrong| writeln!(f, "    {wrong}"))
    }
}
