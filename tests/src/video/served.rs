//! What must be found: every answer that the access log has, and exactly how many bytes of TCP it
//! was by the client's own count.
//!
//! nginx counts what it wrote into TLS. What TCP carried is more by 22 bytes a record (RFC 8446,
//! 5.2: five of header, one of type, sixteen of AES-GCM's tag), and by what belongs to no request:
//! session tickets after the handshake, HTTP/2's SETTINGS and other frames of stream 0. The
//! client counts the bytes and the records that came, so that nothing of this is assumed:
//! [`Served::unexplained_bytes`] is what remains.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};

use crate::video::connection::Http;
use crate::video::player::FileReport;
use crate::video::server::Entry;

/// Header, type and tag of one record.
const RECORD_OVERHEAD: u64 = 22;

/// A client's end of a connection.
pub type Client = (Ipv4Addr, u16);

/// One answer, or several on one connection that overlap.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// Whose.
    pub client: Client,
    /// By which HTTP.
    pub http: Http,
    /// When the first request came, seconds since 1970, to a millisecond.
    pub begin: f64,
    /// When the last byte was handed to the socket, likewise.
    pub end: f64,
    /// From asking to having, as the player measured it, seconds.
    pub player_s: f64,
    /// Payload of TCP.
    pub bytes: u64,
    /// What the access log says of it, and its share of TLS records.
    pub logged_bytes: u64,
    /// How many answers.
    pub answers: usize,
    /// Whether it is the connection's first, with which come tickets and settings.
    pub first: bool,
    /// The longest RTT that nginx saw on the connection, seconds.
    pub rtt_max_s: f64,
    /// The shortest.
    pub rtt_min_s: f64,
}

impl Served {
    /// From the first request until the last byte was handed to the socket, seconds.
    #[must_use]
    pub fn server_s(&self) -> f64 {
        self.end - self.begin
    }

    /// Bytes of TCP that neither the access log nor TLS accounts for.
    #[must_use]
    pub fn unexplained_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.logged_bytes)
    }
}

/// Joins the access log's entries for the players' connections with the players' reports.
///
/// # Errors
/// If one has an answer that the other has not.
pub fn served(entries: &[Entry], files: &[FileReport]) -> Result<Vec<Served>> {
    let mut reports: HashMap<Client, Vec<&FileReport>> = HashMap::new();
    for file in files {
        let IpAddr::V4(address) = file.client.ip() else {
            continue;
        };
        let client = (address, file.client.port());
        reports.entry(client).or_default().push(file);
    }
    let mut all = Vec::new();
    for (client, mut reports) in reports {
        reports.sort_by(|a, b| a.asked.total_cmp(&b.asked));
        let own = entries.iter().filter(|e| (e.client, e.port) == client);
        let own: Vec<&Entry> = own.collect();
        ensure!(
            own.len() == reports.len(),
            "{client:?} fetched {} files, nginx sent {}",
            reports.len(),
            own.len()
        );
        all.extend(connection(client, &own, &reports)?);
    }
    all.sort_by(|a, b| a.begin.total_cmp(&b.begin));
    Ok(all)
}

fn connection(client: Client, entries: &[&Entry], reports: &[&FileReport]) -> Result<Vec<Served>> {
    let mut left = entries.to_vec();
    let mut groups: Vec<Vec<(&FileReport, &Entry)>> = Vec::new();
    let mut busy_until = 0.0;
    for report in reports {
        let at = left.iter().position(|entry| entry.path() == report.path);
        let at = at.with_context(|| format!("nginx sent no {} to {client:?}", report.path))?;
        let pair = (*report, left.remove(at));
        let end = report.asked + report.duration_s;
        match groups.last_mut() {
            Some(group) if report.asked < busy_until => group.push(pair),
            _ => groups.push(vec![pair]),
        }
        busy_until = end.max(busy_until);
    }
    let rtts = || entries.iter().map(|entry| entry.rtt_us as f64 / 1e6);
    let (rtt_max_s, rtt_min_s) = (rtts().fold(0.0, f64::max), rtts().fold(1.0, f64::min));
    let one = |(index, group): (usize, &Vec<(&FileReport, &Entry)>)| {
        let least = |of: &dyn Fn(&FileReport, &Entry) -> f64| {
            group
                .iter()
                .map(|(r, e)| of(r, e))
                .fold(f64::INFINITY, f64::min)
        };
        let most = |of: &dyn Fn(&FileReport, &Entry) -> f64| {
            group.iter().map(|(r, e)| of(r, e)).fold(0.0, f64::max)
        };
        let before = group.iter().map(|(r, _)| r.before);
        let after = group.iter().map(|(r, _)| r.after);
        let before = before
            .min_by_key(|received| received.bytes)
            .unwrap_or_default();
        let after = after
            .max_by_key(|received| received.bytes)
            .unwrap_or_default();
        let sent: u64 = group.iter().map(|(_, e)| e.bytes_sent).sum();
        Served {
            client,
            http: group[0].0.http,
            begin: least(&|_, e| e.begin()),
            end: most(&|_, e| e.end),
            player_s: most(&|r, _| r.asked + r.duration_s) - least(&|r, _| r.asked),
            bytes: after.bytes - before.bytes,
            logged_bytes: sent + RECORD_OVERHEAD * (after.records - before.records),
            answers: group.len(),
            first: index == 0,
            rtt_max_s,
            rtt_min_s,
        }
    };
    Ok(groups.iter().enumerate().map(one).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::video::connection::Received;

    pub(crate) fn entry(uri: &str, begin: f64, request_time: f64, bytes_sent: u64) -> Entry {
        Entry {
            end: begin + request_time,
            request_time,
            client: Ipv4Addr::new(198, 18, 0, 10),
            port: 40_000,
            connection: 1,
            name: "edge-1.video.example".to_owned(),
            protocol: "HTTP/2.0".to_owned(),
            uri: uri.to_owned(),
            status: 200,
            bytes_sent,
            body_bytes: bytes_sent - 100,
            rtt_us: 20_000,
        }
    }

    fn report(path: &str, asked: f64, duration_s: f64, bytes: [u64; 2]) -> FileReport {
        let received = |bytes| Received {
            bytes,
            records: bytes / 1_000,
            plain_bytes: 0,
        };
        FileReport {
            asked,
            client: "198.18.0.10:40000".parse().unwrap(),
            http: Http::Two,
            path: path.to_owned(),
            rendition: None,
            body_bytes: 0,
            first_byte_s: 0.0,
            duration_s,
            read_s: duration_s,
            before: received(bytes[0]),
            after: received(bytes[1]),
            buffer_s: 0.0,
            stalled_s: 0.0,
        }
    }

    #[test]
    fn answers_that_overlap_are_one() {
        let entries = [
            entry("/sound", 1.01, 0.1, 2_000),
            entry("/picture", 1.0, 0.5, 10_000),
            entry("/later", 3.0, 0.1, 1_000),
        ];
        let files = [
            report("/picture", 0.99, 0.6, [0, 12_000]),
            report("/sound", 0.99, 0.2, [0, 4_000]),
            report("/later", 2.9, 0.2, [12_000, 13_050]),
        ];
        let served = served(&entries, &files).unwrap();
        assert_eq!(served.len(), 2);
        assert_eq!((served[0].answers, served[0].bytes), (2, 12_000));
        assert!((served[0].server_s() - 0.5).abs() < 1e-6);
        assert!((served[0].player_s - 0.6).abs() < 1e-6);
        assert_eq!(served[1].logged_bytes, 1_022);
        assert_eq!(served[1].unexplained_bytes(), 28);
        assert!(served[0].first && !served[1].first);
    }

    #[test]
    fn an_answer_that_only_one_of_them_knows_is_an_error() {
        let files = [report("/picture", 0.99, 0.6, [0, 12_000])];
        assert!(served(&[], &files).is_err());
        assert!(served(&[entry("/other", 1.0, 0.5, 10_000)], &files).is_err());
    }
}
