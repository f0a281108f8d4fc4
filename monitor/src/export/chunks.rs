//! Chunks and sessions in the log.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::record::{ClientAddress, FlowRecord, PathRecord, Record, SessionType, Version};
use super::render::{Context, path_record};
use crate::flow::chunk::figures::{Figures, Judged, Pace};
use crate::flow::session::{Ended, Session};
use crate::flow::{Flow, Vantage};
use crate::verdict::{Limit, Segment};

/// What any number of chunks (a request's response, or several that overlap) say together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChunksRecord {
    pub count: u64,
    /// Of these, chunks below 16 KiB: handshakes, playlists. They are in no rate and in no time to
    /// the first byte.
    pub small: u64,
    /// Of these, chunks that were not over at the end of the window: judged by what they had done.
    pub unfinished: u64,
    /// Chunks whose reports were lost: in no other figure.
    pub lost: u64,
    pub bytes: u64,
    /// Share of the chunks that could have shown the rate of HD (Schlinker et al., IMC 2019).
    pub able_share: Option<f64>,
    /// Share of those that reached it; `null`: none could have.
    pub hd_ratio: Option<f64>,
    /// The rates that are tested, that of HD first.
    pub ladder: Vec<RungRecord>,
    /// Delivered rate, from the first byte to the ACK of the last one; within 1 %.
    pub rate_p10_bps: Option<u64>,
    pub rate_p50_bps: Option<u64>,
    pub rate_p90_bps: Option<u64>,
    /// From the request to the first byte; within 1 %.
    pub first_byte_p50_us: Option<u64>,
    pub first_byte_p95_us: Option<u64>,
    /// Time in which the player wanted nothing ...
    pub player_us: u64,
    /// ... in which the server had nothing to send ...
    pub server_us: u64,
    /// ... and in which data was under way.
    pub network_us: u64,
    /// `player_us`, as a share of all three.
    pub off_time_share: Option<f64>,
    /// Whose time is the most.
    pub paced_by: Option<Pace>,
    /// Gaps in the middle of a chunk with nothing left to send, and how long they were.
    pub stalls: u64,
    pub stalled_us: u64,
    /// How long the player held chunks up that had begun.
    pub paused_us: u64,
    pub retransmitted_segments: u64,
    pub lost_segments: u64,
}

/// One rate of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RungRecord {
    pub bps: u64,
    /// Chunks that could have shown it, and those that did.
    pub able: u64,
    pub reached: u64,
}

/// One chunk that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChunkRecord {
    /// The connection's first is 1.
    pub number: u32,
    /// When it was asked for; when it began, where that was not seen.
    pub start_time: Timestamp,
    /// From the request to the first byte.
    pub first_byte_us: Option<u64>,
    /// From the first byte to the last ACK; `null`: that was not seen.
    pub duration_us: Option<u64>,
    /// Payload without repetitions.
    pub bytes: u64,
    /// Fewer where the connection or the capture ended before it.
    pub acked_bytes: u64,
    pub rate_bps: Option<u64>,
    /// The highest rate that it could have shown; `null`: it shows none.
    pub testable_bps: Option<u64>,
    /// Whether it reached the rate of HD; `null`: it could not have shown it.
    pub hd: Option<bool>,
    /// Silence before the request, since the end of the chunk before.
    pub idle_us: Option<u64>,
    pub rtt_min_us: Option<u32>,
    pub rtt_mean_us: Option<u32>,
    pub retransmitted_segments: u32,
    pub lost_segments: u32,
    /// Gaps with nothing left to send, and the player's.
    pub stalls: u32,
    pub stalled_us: u64,
    pub pauses: u32,
    pub paused_us: u64,
    /// The socket's congestion window at the first byte.
    pub cwnd_bytes: Option<u32>,
}

/// One playback: the connections of a client to one service, until they were silent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionRecord {
    pub schema: Version,
    pub r#type: SessionType,
    pub time: Timestamp,
    pub host: String,
    /// 16 hexadecimal digits, keyed by a secret of the process.
    pub session_id: String,
    pub vantage: Vantage,
    /// An address, or the /24 or /48 around it.
    #[schemars(with = "String")]
    pub client_ip: ClientAddress,
    /// `null` where the service is known, which may have several.
    #[schemars(with = "Option<String>")]
    pub server_ip: Option<IpAddr>,
    pub server_port: u16,
    /// The video service, where the client named one that is known.
    pub service: Option<String>,
    pub start_time: Timestamp,
    /// To the last packet.
    pub duration_us: u64,
    /// `null`: it was not over when somebody asked (SIGUSR1).
    pub end_reason: Option<Ended>,
    /// Connections.
    pub flows: u64,
    /// The first 16 of them, as in `flow` records.
    pub flow_ids: Vec<String>,
    /// The way to the client, the last one where it changed.
    pub path: Option<PathRecord>,
    pub chunks: ChunksRecord,
    pub verdict: PlaybackRecord,
}

/// What the verdicts of its windows say of one playback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaybackRecord {
    /// Windows that ended while it did something.
    pub windows: u32,
    /// Of these, windows in which its client was compared with what is usual, and settled.
    pub windows_judged: u32,
    /// Of these, windows in which it was worse.
    pub windows_degraded: u32,
    /// `null`: nothing was compared.
    pub degraded: Option<bool>,
    /// What the verdicts on its place left in the windows in which it was worse itself, all sets
    /// together.
    pub segments: Vec<Segment>,
    /// What held it back where it was not the network.
    pub limits: Vec<Limit>,
    /// `true`: one segment explains each of these windows, and all of its excess. `false`: it is
    /// consistent with the segments, and something else may have slowed it too.
    pub sole: Option<bool>,
    /// The first 16 verdicts.
    pub verdict_ids: Vec<String>,
}

fn playback_record(session: &Session) -> PlaybackRecord {
    let playback = &session.playback;
    PlaybackRecord {
        windows: playback.windows,
        windows_judged: playback.judged,
        windows_degraded: playback.degraded,
        degraded: playback.is_degraded(),
        segments: playback.segments.iter().copied().collect(),
        limits: playback.limits.iter().copied().collect(),
        sole: session.is_sole(),
        verdict_ids: playback.verdict_ids.clone(),
    }
}

impl Context<'_> {
    /// `None`: there were no chunks.
    pub fn chunks(&self, figures: &Figures) -> Option<ChunksRecord> {
        (!figures.is_empty()).then(|| self.all_chunks(figures))
    }

    fn all_chunks(&self, figures: &Figures) -> ChunksRecord {
        let rungs = figures.rungs.iter().zip(self.ladder);
        ChunksRecord {
            count: figures.chunks,
            small: figures.small,
            unfinished: figures.unfinished,
            lost: figures.lost,
            bytes: figures.bytes,
            able_share: figures.able_share(),
            hd_ratio: figures.hd_ratio(),
            ladder: rungs
                .map(|(rung, &bps)| RungRecord {
                    bps,
                    able: rung.able,
                    reached: rung.reached,
                })
                .collect(),
            rate_p10_bps: figures.rates.quantile(0.1),
            rate_p50_bps: figures.rates.quantile(0.5),
            rate_p90_bps: figures.rates.quantile(0.9),
            first_byte_p50_us: figures.first_bytes.quantile(0.5),
            first_byte_p95_us: figures.first_bytes.quantile(0.95),
            player_us: figures.player_us,
            server_us: figures.server_us,
            network_us: figures.network_us,
            off_time_share: figures.off_time_share(),
            paced_by: figures.paced_by(),
            stalls: figures.stalls,
            stalled_us: figures.stalled_us,
            paused_us: figures.paused_us,
            retransmitted_segments: figures.retransmitted_segments,
            lost_segments: figures.lost_segments,
        }
    }

    fn chunk(&self, judged: &Judged) -> ChunkRecord {
        let chunk = &judged.chunk;
        let hd = self.ladder.first().copied();
        ChunkRecord {
            number: chunk.number,
            start_time: Timestamp(chunk.start_us()),
            first_byte_us: chunk.first_byte_us(),
            duration_us: chunk.transfer_us(),
            bytes: chunk.bytes,
            acked_bytes: chunk.acked_bytes,
            rate_bps: chunk.rate_bps(),
            testable_bps: judged.test.map(|test| test.testable_bps as u64),
            hd: hd
                .filter(|&bps| judged.is_able(bps))
                .map(|bps| judged.reached(bps)),
            idle_us: chunk.idle_us,
            rtt_min_us: chunk.rtt_min_us,
            rtt_mean_us: chunk.rtt_mean_us(),
            retransmitted_segments: chunk.retransmitted_segments,
            lost_segments: chunk.lost_segments,
            stalls: chunk.stalls,
            stalled_us: chunk.stalled_us,
            pauses: chunk.pauses,
            paused_us: chunk.paused_us,
            cwnd_bytes: chunk.cwnd,
        }
    }

    /// Puts what is known of a flow's chunks in its record.
    pub fn add_chunks(&self, flow: &Flow, record: &mut FlowRecord) {
        record.chunks = self.chunks(flow.chunks.life());
        record.chunk_list = flow.chunks.recent().map(|one| self.chunk(one)).collect();
        record.chunk_list_omitted = flow.chunks.unlisted();
    }

    /// One session's record; `None`: it is not over.
    pub fn session(&self, session: &Session, end_reason: Option<Ended>) -> Record {
        let key = &session.key;
        Record::Session(Box::new(SessionRecord {
            schema: Version::One,
            r#type: SessionType::Name,
            time: Timestamp(self.time_us),
            host: self.host.to_owned(),
            session_id: format!("{:016x}", session.id),
            vantage: session.vantage,
            client_ip: self.client_address(key.client),
            server_ip: key.server,
            server_port: key.server_port,
            service: key.service.as_deref().map(str::to_owned),
            start_time: Timestamp(session.start_us),
            duration_us: session.last_seen_us.saturating_sub(session.start_us),
            end_reason,
            flows: session.flows,
            flow_ids: session
                .flow_ids
                .iter()
                .map(|id| format!("{id:016x}"))
                .collect(),
            path: session.location.as_ref().map(path_record),
            chunks: self.all_chunks(&session.chunks),
            verdict: playback_record(session),
        }))
    }
}
