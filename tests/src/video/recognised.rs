//! How well video was told from everything else: precision and recall, by flows and by bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::Ipv4Addr;

use crate::video::found::Flow;
use crate::video::others::SSH_PORT;
use crate::video::served::Client;
use crate::video::server::{BULK_NAME, Entry, VIDEO_NAME};

/// What a flow truly was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A player's.
    Video,
    /// A browser's.
    Web,
    /// A download.
    Bulk,
    /// Someone typed.
    Ssh,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Video => "video",
            Self::Web => "web",
            Self::Bulk => "bulk",
            Self::Ssh => "ssh",
        })
    }
}

/// Flows of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many, and their bytes toward the client.
    pub flows: u64,
    pub bytes: u64,
    /// Of these, those that were called video.
    pub called_flows: u64,
    pub called_bytes: u64,
}

/// What was said of flows of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recognised {
    /// By kind.
    pub counts: BTreeMap<Kind, Count>,
}

/// Two shares; `None` where there was nothing to share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Of what was called video, what is.
    pub precision: Option<f64>,
    /// Of what is video, what was called so.
    pub recall: Option<f64>,
}

impl Recognised {
    /// Holds what was said of every flow against what the servers know: the name that the client
    /// asked for, and the port of SSH. A flow that was not logged was not called video.
    #[must_use]
    pub fn new(entries: &[Entry], flows: &BTreeMap<Client, Flow>) -> Self {
        let mut kinds: HashMap<(Ipv4Addr, u16), (Kind, u64)> = HashMap::new();
        for entry in entries {
            let kind = match entry.name.as_str() {
                VIDEO_NAME => Kind::Video,
                BULK_NAME => Kind::Bulk,
                _ => Kind::Web,
            };
            let client = kinds.entry((entry.client, entry.port)).or_insert((kind, 0));
            client.1 += entry.bytes_sent;
        }
        for (client, flow) in flows
            .iter()
            .filter(|(_, flow)| flow.server_port == SSH_PORT)
        {
            kinds.insert(*client, (Kind::Ssh, flow.bytes));
        }
        let mut counts: BTreeMap<Kind, Count> = BTreeMap::new();
        for (client, (kind, bytes)) in kinds {
            let count = counts.entry(kind).or_default();
            let called = flows.get(&client).is_some_and(|flow| flow.video);
            count.flows += 1;
            count.bytes += bytes;
            count.called_flows += u64::from(called);
            count.called_bytes += bytes * u64::from(called);
        }
        Self { counts }
    }

    /// By flows.
    #[must_use]
    pub fn by_flows(&self) -> Quality {
        self.quality(|count| [count.flows, count.called_flows])
    }

    /// By bytes toward the clients.
    #[must_use]
    pub fn by_bytes(&self) -> Quality {
        self.quality(|count| [count.bytes, count.called_bytes])
    }

    fn quality(&self, of: impl Fn(&Count) -> [u64; 2]) -> Quality {
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let called: u64 = self.counts.values().map(|count| of(count)[1]).sum();
        let [video, right] = self.counts.get(&Kind::Video).map_or([0, 0], &of);
        Quality {
            precision: share(right, called),
            recall: share(right, video),
        }
    }
}

impl fmt::Display for Recognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, count) in &self.counts {
            writeln!(
                f,
                "  {:<6} {:>4} flows, {:>6.1} MB: {:>4} called video ({:.1} MB)",
                kind.to_string(),
                count.flows,
                count.bytes as f64 / 1e6,
                count.called_flows,
                count.called_bytes as f64 / 1e6
            )?;
        }
        let shown = |share: Option<f64>| share.map_or("none".to_owned(), |s| format!("{s:.3}"));
        for (what, quality) in [("flows", self.by_flows()), ("bytes", self.by_bytes())] {
            writeln!(
                f,
                "  by {what}: precision {}, recall {}",
                shown(quality.precision),
                shown(quality.recall)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::served::tests::entry;

    #[test]
    fn a_flow_that_was_not_logged_was_not_called_video() {
        let video = entry("/0/0000.m4s", 1.0, 0.5, 1_000);
        let mut missed = entry("/0/0000.m4s", 1.0, 0.5, 3_000);
        missed.port += 1;
        let mut web = entry("/index.html", 1.0, 0.5, 500);
        (web.port, web.name) = (web.port + 2, "www.news.example".to_owned());
        let called = Flow {
            video: true,
            server_port: 443,
            ..Flow::default()
        };
        let flows = BTreeMap::from([
            ((video.client, video.port), called.clone()),
            ((web.client, web.port), called),
        ]);
        let recognised = Recognised::new(&[video, missed, web], &flows);
        let (flows, bytes) = (recognised.by_flows(), recognised.by_bytes());
        assert_eq!((flows.precision, flows.recall), (Some(0.5), Some(0.5)));
        assert_eq!(bytes.recall, Some(0.25));
    }
}
