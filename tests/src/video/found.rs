//! What the daemon found, from its log.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::video::player::seconds_since_1970;
use crate::video::served::Client;

/// One flow, as its records say together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flow {
    /// Port of the server.
    pub server_port: u16,
    /// Payload toward the client.
    pub bytes: u64,
    /// Whether the last record calls it video, and why.
    pub video: bool,
    /// The reason for that.
    pub reason: Option<String>,
    /// The service that it names.
    pub service: Option<String>,
    /// By their numbers.
    pub chunks: BTreeMap<u32, Chunk>,
    /// Chunks that are in no record.
    pub omitted: u64,
    /// Chunks able to test the rate of HD, and those that reached it.
    pub hd: [u64; 2],
}

/// One chunk of a record.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Chunk {
    pub(super) number: u32,
    pub(super) start_time: String,
    /// From the request to the first byte, µs.
    pub first_byte_us: Option<u64>,
    /// From there to the ACK of the last one, µs.
    pub duration_us: Option<u64>,
    /// Payload.
    pub bytes: u64,
    /// When it was asked for, seconds since 1970.
    #[serde(skip)]
    pub start: f64,
}

impl Chunk {
    /// From the request to the ACK of the last byte, seconds.
    #[must_use]
    pub fn duration_s(&self) -> Option<f64> {
        let whole_us = self.first_byte_us.unwrap_or(0) + self.duration_us?;
        Some(whole_us as f64 / 1e6)
    }
}

/// One playback.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// The client's address.
    pub client: Ipv4Addr,
    /// The service, where it is known.
    pub service: Option<String>,
    /// How many connections.
    pub flows: u64,
    /// Payload of all chunks.
    pub bytes: u64,
    /// How many.
    pub chunks: u64,
}

#[derive(Deserialize)]
struct FlowRecord {
    client_ip: Ipv4Addr,
    client_port: u16,
    server_port: u16,
    #[serde(default)]
    video: Option<bool>,
    #[serde(default)]
    video_reason: Option<String>,
    #[serde(default)]
    service: Option<String>,
    to_client: Direction,
    #[serde(default)]
    chunks: Option<Figures>,
    #[serde(default)]
    chunk_list: Vec<Chunk>,
    #[serde(default)]
    chunk_list_omitted: u64,
}

#[derive(Deserialize)]
struct Direction {
    bytes: u64,
}

#[derive(Deserialize)]
struct Figures {
    count: u64,
    bytes: u64,
    #[serde(default)]
    ladder: Vec<Rung>,
}

#[derive(Deserialize)]
struct Rung {
    able: u64,
    reached: u64,
}

#[derive(Deserialize)]
struct SessionRecord {
    client_ip: Ipv4Addr,
    #[serde(default)]
    service: Option<String>,
    flows: u64,
    chunks: Figures,
}

/// The flows of a log.
///
/// # Errors
/// If a `flow` record lacks what it should have.
pub fn flows(log: &[Value]) -> Result<BTreeMap<Client, Flow>> {
    let mut flows: BTreeMap<Client, Flow> = BTreeMap::new();
    for line in log.iter().filter(|line| line["type"] == "flow") {
        let record: FlowRecord =
            serde_json::from_value(line.clone()).with_context(|| line.to_string())?;
        let flow = flows
            .entry((record.client_ip, record.client_port))
            .or_default();
        flow.server_port = record.server_port;
        flow.bytes = record.to_client.bytes;
        flow.video = record.video == Some(true);
        flow.reason = record.video_reason;
        flow.service = record.service;
        flow.omitted = record.chunk_list_omitted;
        if let Some(rung) = record
            .chunks
            .and_then(|figures| figures.ladder.into_iter().next())
        {
            flow.hd = [rung.able, rung.reached];
        }
        for mut chunk in record.chunk_list {
            let start = humantime::parse_rfc3339(&chunk.start_time)
                .with_context(|| chunk.start_time.clone())?;
            chunk.start = seconds_since_1970(start);
            flow.chunks.insert(chunk.number, chunk);
        }
    }
    Ok(flows)
}

/// The sessions of a log.
///
/// # Errors
/// If a `session` record lacks what it should have.
pub fn sessions(log: &[Value]) -> Result<Vec<Session>> {
    log.iter()
        .filter(|line| line["type"] == "session")
        .map(|line| {
            let record: SessionRecord =
                serde_json::from_value(line.clone()).with_context(|| line.to_string())?;
            Ok(Session {
                client: record.client_ip,
                service: record.service,
                flows: record.flows,
                bytes: record.chunks.bytes,
                chunks: record.chunks.count,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_records_of_a_flow_add_up() {
        let record = |bytes: u64, number: u32, video: Value| {
            json!({"type": "flow", "client_ip": "198.18.0.10", "client_port": 40000,
                "server_port": 443, "video": video, "to_client": {"bytes": bytes},
                "chunks": {"count": number, "bytes": bytes, "ladder": [{"able": 2, "reached": 1}]},
                "chunk_list": [{"number": number, "start_time": "2026-11-22T02:00:00.500000Z",
                    "first_byte_us": 1000, "duration_us": 499_000, "bytes": 700}]})
        };
        let log = [record(700, 1, Value::Null), record(1_400, 2, json!(true))];
        let flows = flows(&log).unwrap();
        let flow = &flows[&(Ipv4Addr::new(198, 18, 0, 10), 40_000)];
        assert_eq!(
            (flow.bytes, flow.chunks.len(), flow.video),
            (1_400, 2, true)
        );
        assert_eq!(flow.hd, [2, 1]);
        assert_eq!(flow.chunks[&1].duration_s(), Some(0.5));
        assert!((flow.chunks[&1].start.fract() - 0.5).abs() < 1e-6);
    }
}
