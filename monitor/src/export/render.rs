//! From the pipeline's values to the log's records.

use std::net::IpAddr;

use super::Timestamp;
use super::record::{
    CellRecord, CellType, CellWayRecord, ClientAddress, ClientRecord, DirectionRecord, FlowEvent,
    FlowRecord, FlowType, IncidentEvent, IncidentRecord, IncidentType, MissedRecord, PathRecord,
    QuicRecord, QuicServiceRecord, Record, Recurrence, RttSource, ScopeRecord, SlowStart,
    VerdictRecord, VerdictType, Version,
};
use crate::cell::{Cell, CellKey, ClientTotals};
use crate::engine::WindowSpan;
use crate::engine::quic::QuicCell;
use crate::engine::verdicts::Beside;
use crate::engine::video::Class;
use crate::flow::baseline::{STANDING_QUANTILE, Usual};
use crate::flow::{CloseReason, Flow, Secret, Totals, Vantage};
use crate::path::{self, Location, Route};
use crate::verdict::coverage;
use crate::verdict::incident::{Incident, News, Scope};
use crate::verdict::{Client, Limit, Verdict, Window, receiver_limited};
use monitor_ebpf::flow::{Half, SlowStart as Features, half_flags};

/// What every record says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub host: &'a str,
    pub time_us: u64,
    pub full_client_addresses: bool,
    /// The rates that chunks are tested for, bit/s.
    pub ladder: &'a [u64],
    /// Keys the names of clients whose addresses are not logged.
    pub secret: Secret,
}

/// Part of its life that a flow has nothing outstanding when its sender is what limits it.
const MOSTLY_IDLE: f64 = 0.5;

impl Context<'_> {
    /// One flow's record; `class` says whether it is video, `usual` is its cell's.
    pub fn flow(
        &self,
        flow: &Flow,
        class: &Class,
        event: FlowEvent,
        close_reason: Option<CloseReason>,
        usual: Option<&Usual>,
    ) -> Record {
        let handshake_rtt_us = flow.handshake_rtt_us();
        let usual_handshake = usual
            .map(|usual| usual.handshake_rtt_us)
            .filter(|usual| usual.count > 0);
        let duration_us = flow.last_seen_us.saturating_sub(flow.start_us);
        // The socket belongs to whichever end we are.
        let retransmits = |vantage| {
            (flow.roles.vantage == vantage && flow.state().socket.sightings > 0)
                .then(|| u64::from(flow.state().socket.total_retrans))
        };
        let mut record = FlowRecord {
            schema: Version::One,
            r#type: FlowType::Name,
            time: Timestamp(self.time_us),
            host: self.host.to_owned(),
            event,
            flow_id: format!("{:016x}", flow.id),
            vantage: flow.roles.vantage,
            client_ip: self.client_address(flow.roles.client),
            client_port: flow.roles.client_port,
            server_ip: flow.roles.server,
            server_port: flow.roles.server_port,
            interface: flow.interface.as_deref().map(str::to_owned),
            start_time: Timestamp(flow.start_us),
            duration_us,
            close_reason,
            handshake_rtt_us,
            handshake_excess_us: handshake_rtt_us
                .zip(usual_handshake)
                .map(|(rtt_us, usual)| i64::from(rtt_us) - usual.mean as i64),
            slow_start: slow_start(&flow.client_half().slow_start),
            video: class.video,
            video_reason: class.reason,
            video_confidence: class.confidence,
            service: class.service.as_deref().map(str::to_owned),
            path: flow.location.as_ref().map(path_record),
            experiment: flow.arm(),
            limited_by: limited_by(&flow.to_client, duration_us),
            to_client: DirectionRecord {
                kernel_retransmits: retransmits(Vantage::Sender),
                ..one_flows(&flow.to_client, flow.server_half(), flow.client_half())
            },
            to_server: DirectionRecord {
                kernel_retransmits: retransmits(Vantage::Receiver),
                ..one_flows(&flow.to_server, flow.client_half(), flow.server_half())
            },
            stands_for: flow.stands_for(),
            chunks: None,
            chunk_list: Vec::new(),
            chunk_list_omitted: 0,
        };
        if event != FlowEvent::Open {
            self.add_chunks(flow, &mut record);
        }
        Record::Flow(Box::new(record))
    }

    /// One cell's record; `quic` is what it did beside TCP, `clients` are those of its clients that were judged.
    pub fn cell(
        &self,
        key: &CellKey,
        cell: &Cell,
        quic: &QuicCell,
        clients: &[Client],
        usual: Option<&Usual>,
        window: &WindowSpan,
    ) -> Record {
        let totals = cell.totals();
        let to_client = &totals.to_client;
        let usual_rtt = usual
            .map(|usual| usual.rtt_p10_us)
            .filter(|usual| usual.count > 0);
        let count = |holds: fn(&Client) -> bool| {
            clients.iter().filter(|client| holds(client)).count() as u64
        };
        Record::Cell(Box::new(CellRecord {
            schema: Version::One,
            r#type: CellType::Name,
            time: Timestamp(self.time_us),
            host: self.host.to_owned(),
            window_start: Timestamp(window.start_us),
            window_s: window.length_s,
            interconnect: key.interconnect.to_string(),
            isp: key.isp.to_string(),
            origin_asn: key.origin_asn,
            prefix: key.prefix,
            ip_version: if key.prefix.addr().is_ipv4() { 4 } else { 6 },
            direct: key.direct,
            observations: totals.observations,
            clients: cell.clients.len() as u64,
            clients_judged: clients.len() as u64,
            clients_bad: count(Client::is_bad),
            clients_good: count(Client::is_good),
            chunks: to_client.chunks(),
            busy_us: to_client.busy_us,
            acked_bytes: to_client.acked_bytes,
            delivered_bps: to_client.delivered_bps().map(|rate| rate as u64),
            handshake_rtt_min_us: totals.handshake_rtt_us,
            baseline_rtt_p10_us: usual_rtt.map(|usual| usual.mean as u32),
            rtt_p10_us: to_client.rtt_quantile_us(STANDING_QUANTILE),
            rtt_bins: to_client.rtt.bins().collect(),
            to_client: direction(to_client),
            chunk_figures: self.chunks(&totals.chunks),
            tcp_share: coverage::share(totals.estimate.bytes, quic.bytes),
            estimated_flows: totals.estimate.flows,
            estimated_bytes: totals.estimate.bytes,
            quic: (quic.flows > 0).then(|| quic_record(quic)),
            route_changed: cell.rerouted,
            route_stale: cell.is_stale(),
            way: cell.route.as_deref().map(way_record),
            client_list: self.client_list(cell),
        }))
    }

    /// Each client's part of a cell.
    fn client_list(&self, cell: &Cell) -> Vec<ClientRecord> {
        let record = |(address, client): (&IpAddr, &ClientTotals)| {
            let totals = &client.to_client;
            ClientRecord {
                client: if self.full_client_addresses {
                    address.to_string()
                } else {
                    format!("{:016x}", self.secret.pseudonym(*address))
                },
                observations: client.observations,
                arms: client.arms,
                segments: totals.segments,
                lost_segments: totals.lost_segments(),
                ce_marked_segments: totals.ce_marked_segments,
                rwnd_limited_segments: totals.rwnd_limited_segments,
                acked_bytes: totals.acked_bytes,
                busy_us: totals.busy_us,
                bursts: totals.bursts,
                handshake_rtt_min_us: client.handshake_rtt_us,
                rtt_min_us: totals.rtt_min_us,
                rtt_max_us: totals.rtt_max_us,
                rtt_sum_us: totals.rtt_sum_us,
                rtt_bins: totals.rtt.bins().collect(),
            }
        };
        let mut list: Vec<ClientRecord> = cell.clients.iter().map(record).collect();
        // The order of addresses would tell something about them.
        list.sort_by(|one, other| one.client.cmp(&other.client));
        list
    }

    /// The id of a window's verdict with this number, from 0 on.
    pub fn verdict_id(&self, number: usize, window: &WindowSpan) -> String {
        format!(
            "{}-{}-{}",
            self.host,
            window.start_us / 1_000_000,
            number + 1
        )
    }

    /// The record of a window's verdict with this number, from 0 on; the first one has what is
    /// known beside cells.
    pub fn verdict(
        &self,
        number: usize,
        verdict: &Verdict,
        judged: &Window,
        window: &WindowSpan,
        beside: &Beside<'_>,
    ) -> Record {
        let (place, missed) = (&verdict.place, beside.missed);
        let is_told = verdict.degraded != Some(false);
        Record::Verdict(Box::new(VerdictRecord {
            schema: Version::One,
            r#type: VerdictType::Name,
            time: Timestamp(self.time_us),
            host: self.host.to_owned(),
            window_start: Timestamp(window.start_us),
            window_s: window.length_s,
            interconnect: place.interconnect().map(|name| name.to_string()),
            isp: place.isp().map(|name| name.to_string()),
            origin_asn: place.origin_asn(),
            prefix: place.prefix(),
            degraded: verdict.degraded,
            inconclusive: verdict.inconclusive,
            segments: verdict.segments.iter().copied().collect(),
            mechanisms: verdict.mechanisms.iter().copied().collect(),
            limits: verdict.limits.iter().copied().collect(),
            partial: verdict.partial,
            confidence: verdict.confidence,
            evidence: verdict.evidence.clone(),
            rejected: verdict.rejected.clone(),
            open: verdict.open.clone(),
            observations: verdict.observations,
            tcp_share: beside.coverage.tcp_share(place),
            missed: MissedRecord {
                reports_lost: missed.reports_lost,
                flows_evicted: missed.flows_evicted,
                flows_refused: missed.flows_refused,
                packets_unparsed: missed.packets_unparsed,
                chunks_lost: missed.chunks_lost,
                flows_waiting_evicted: missed.flows_waiting_evicted,
                log_lines_dropped: missed.log_lines_dropped,
                admitted_one_in: missed.admitted_one_in.max(1),
                observations_unrouted: judged.unrouted,
                clients_without_baseline: judged.without_baseline,
                clients_thin: judged.thin,
                clients_route_changed: judged.route_changed,
                clients_route_stale: judged.route_stale,
            },
            verdict_id: is_told.then(|| self.verdict_id(number, window)),
            inputs: (number == 0).then(|| beside.record()),
        }))
    }

    /// What became of an incident; `first_window` is the process's.
    pub fn incident(&self, news: News, incident: &Incident, first_window: &WindowSpan) -> Record {
        let window_us = u64::from(first_window.length_s) * 1_000_000;
        let start = |number: u64| Timestamp(number * window_us);
        let id = |number: u64| format!("{}-{number}", start(first_window.number).0 / 1_000_000);
        let place = &incident.place;
        let Scope {
            prefixes,
            prefixes_bad,
            observations,
        } = incident.scope;
        Record::Incident(Box::new(IncidentRecord {
            schema: Version::One,
            r#type: IncidentType::Name,
            time: Timestamp(self.time_us),
            host: self.host.to_owned(),
            event: match news {
                News::Began => IncidentEvent::Open,
                News::Changed => IncidentEvent::Update,
                News::Ended => IncidentEvent::Close,
                News::Merged { .. } => IncidentEvent::Merge,
            },
            incident_id: id(incident.number),
            merged_into: match news {
                News::Merged { into } => Some(id(into)),
                _ => None,
            },
            onset: start(incident.onset),
            end: matches!(news, News::Ended | News::Merged { .. })
                .then(|| start(incident.last + 1)),
            window_s: first_window.length_s,
            windows: incident.windows,
            interconnect: place.interconnect().map(|name| name.to_string()),
            isp: place.isp().map(|name| name.to_string()),
            origin_asn: place.origin_asn(),
            prefix: place.prefix(),
            segments: incident.settled().into_iter().collect(),
            mechanisms: incident.mechanisms.iter().copied().collect(),
            confidence: incident.confidence,
            scope: ScopeRecord {
                prefixes,
                prefixes_bad,
                bad_share: (prefixes > 0).then(|| prefixes_bad as f64 / prefixes as f64),
                observations,
            },
            recurrence: if incident.recurrent {
                Recurrence::Recurrent
            } else {
                Recurrence::New
            },
            verdicts: incident.evidence().into_iter().map(start).collect(),
        }))
    }

    pub(super) fn client_address(&self, client: IpAddr) -> ClientAddress {
        if self.full_client_addresses {
            ClientAddress::Full(client)
        } else {
            ClientAddress::Truncated(path::unit(client))
        }
    }
}

pub(super) fn path_record(location: &Location) -> PathRecord {
    PathRecord {
        prefix: location.unit,
        origin_asn: location.route.origin_asn,
        isp: location.route.isp.to_string(),
        interconnect: location.route.interconnect.to_string(),
        next_hop: location.route.next_hop,
        peer_asn: location.route.peer_asn,
    }
}

fn way_record(route: &Route) -> CellWayRecord {
    CellWayRecord {
        peer_asn: route.peer_asn,
        next_hop: route.next_hop.or(route.peer_address),
        as_path_middle: route.as_path_middle.to_vec(),
        interface: route.interface.as_deref().map(str::to_owned),
        risk_groups: route.risk_groups.iter().map(|it| it.to_string()).collect(),
    }
}

fn quic_record(quic: &QuicCell) -> QuicRecord {
    let services = quic.services.iter().map(|(name, totals)| {
        let record = QuicServiceRecord {
            bytes: totals.bytes,
            flows: totals.flows,
        };
        (name.to_string(), record)
    });
    QuicRecord {
        bytes: quic.bytes,
        flows: quic.flows,
        services: services.collect(),
        spin_samples: quic.spin_samples,
        spin_rtt_mean_us: quic
            .spin_sum_us
            .checked_div(quic.spin_samples)
            .map(|mean_us| mean_us as u32),
        spin_rtt_min_us: quic.spin_min_us,
    }
}

/// One flow's direction, whose halves know more than sums.
fn one_flows(totals: &Totals, sender: &Half, receiver: &Half) -> DirectionRecord {
    let record = direction(totals);
    let acks_seen = receiver.has(half_flags::ACK_KNOWN);
    DirectionRecord {
        tail_loss_probes: record.tail_loss_probes.filter(|_| acks_seen),
        retransmission_timeouts: record.retransmission_timeouts.filter(|_| acks_seen),
        timestamp_granularity_us: sender.stamp_granularity_us(),
        ..record
    }
}

fn direction(totals: &Totals) -> DirectionRecord {
    DirectionRecord {
        bytes: totals.bytes,
        frames: totals.frames,
        segments: totals.segments,
        retransmitted_segments: totals.retransmitted_segments,
        kernel_retransmits: None,
        retransmitted_bytes: totals.retransmitted_bytes,
        spurious_segments: totals.spurious_segments,
        ce_marked_segments: totals.ce_marked_segments,
        lost_downstream_segments: totals.lost_segments(),
        lost_upstream_segments: totals.lost_upstream_segments,
        reordered_segments: totals.reordered_segments,
        tail_loss_probes: Some(totals.tail_loss_probes),
        retransmission_timeouts: Some(totals.retransmission_timeouts),
        syns_retransmitted: totals.syns_retransmitted,
        delayed_acks: totals.delayed_acks,
        timestamp_granularity_us: None,
        rtt_samples: totals.rtt_samples,
        rtt_min_us: totals.rtt_min_us,
        rtt_p50_us: totals.rtt_percentile_us(0.5),
        rtt_p95_us: totals.rtt_percentile_us(0.95),
        rtt_max_us: totals.rtt_max_us,
        rtt_source: (totals.rtt_samples > 0).then(|| {
            if 2 * totals.rtt_timestamp_samples > totals.rtt_samples {
                RttSource::Timestamp
            } else {
                RttSource::Sequence
            }
        }),
    }
}

fn slow_start(features: &Features) -> Option<SlowStart> {
    if features.samples == 0 {
        return None;
    }
    let samples = f64::from(features.samples);
    let mean = features.rtt_sum_us as f64 / samples;
    let variance = (features.rtt_square_sum as f64 / samples - mean * mean).max(0.0);
    let (min, max) = (
        f64::from(features.rtt_min_us),
        f64::from(features.rtt_max_us),
    );
    Some(SlowStart {
        samples: features.samples,
        rtt_min_us: features.rtt_min_us,
        rtt_max_us: features.rtt_max_us,
        norm_diff: (max > 0.0).then(|| (max - min) / max),
        cov: (features.samples > 1 && mean > 0.0).then(|| variance.sqrt() / mean),
    })
}

/// What held the flow back over its life, where that was not the network.
fn limited_by(to_client: &Totals, duration_us: u64) -> Option<Limit> {
    if to_client.segments == 0 || duration_us == 0 {
        return None;
    }
    let window_full = to_client.rwnd_limited_segments as f64 / to_client.segments as f64;
    let idle = 1.0 - to_client.busy_us as f64 / duration_us as f64;
    if window_full >= receiver_limited::WINDOW_FULL_SHARE {
        Some(Limit::ReceiverLimited)
    } else if idle >= MOSTLY_IDLE {
        Some(Limit::SenderLimited)
    } else {
        None
    }
}
