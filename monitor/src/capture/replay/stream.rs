//! A stream of captured packets to records, without a file or a clock.

use std::sync::Arc;

use anyhow::Result;
use arc_swap::ArcSwap;
use monitor_ebpf::{
    chunk::ChunkReport,
    counters::{COUNTER_NAMES, Counter, Counters},
    flow::FlowState,
    observe::{Tables as _, observe},
    select::{Settings, settings_flags},
};

use super::{
    clock::CaptureClock,
    file::CapturedPacket,
    packet::Sighted,
    tables::{HostTables, Lifetimes, NO_REPORTS, News, Removed},
};
use crate::{
    capture::{ChunkNews, Snapshot},
    config::{Config, DEFAULT_PORTS, Video},
    daemon::{self, feeds},
    engine::{Missed, Pipeline, video::VideoFlows},
    export::{
        Record,
        record::{FlowEvent, StatusRecord},
        render::Context,
    },
    flow::{Closed, FlowTable},
    path::Routes,
};

/// Name of the host in the records: a capture does not say where it was made.
const HOST: &str = "replay";

const SECOND_NS: u64 = 1_000_000_000;

/// How many flows are held, 1.5 KiB each, so that a capture of any length and kind is read in
/// bounded memory.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Above it flows that have ended are only kept for [`LINGER_MANY_NS`].
    many: usize,
    /// Never more. Those that have ended are closed, then the longest silent ones ...
    max: usize,
    /// ... until this many are left: sorting them out takes some time, and is done once for many.
    kept: usize,
}

const LIMITS: Limits = Limits {
    many: 32_768,
    max: 262_144,
    kept: 131_072,
};

/// Longer than most paths take to deliver a late FIN or ACK.
const LINGER_MANY_NS: u64 = SECOND_NS;

/// Flows are looked through for ended ones after this time, and ...
const SWEEP_NS: u64 = 10 * SECOND_NS;
/// ... at least one packet for this many flows, so that it costs each packet little.
const SWEEP_FLOWS_A_PACKET: u64 = 4;

/// Without a configuration: what RFC 5382 (REQ-5) asks of a NAT, for the same reason. Keep-alives
/// come every two hours, and a connection that is opening or closing is silent for 4 minutes at
/// most. An endpoint of Linux remembers an ended one for 60 s (`TCP_TIMEWAIT_LEN`).
const LIFETIMES: Lifetimes = Lifetimes {
    ended_ns: 60 * SECOND_NS,
    transitory_ns: 240 * SECOND_NS,
    established_ns: 7_440 * SECOND_NS,
    strict: true,
};

/// With a configuration: how long the daemon keeps an ended flow (`daemon::LINGER_NS`).
const LINGER_NS: u64 = 10 * SECOND_NS;

/// Windows in a row without a flow that are judged one by one, as the daemon's are: in the first few
/// of them incidents end and clients' pasts are forgotten, and from then on nothing changes. Two
/// captures may be years apart; what is beyond is passed over, and counted.
const EMPTY_WINDOWS_MAX: u64 = 60;

/// What becomes of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// Every flow is read, and its `close` record is all that is said of it.
    Off,
    /// The configuration says what is watched; windows are judged in capture time.
    On,
}

/// Records handed on at once.
const RECORDS_AT_ONCE: usize = 256;

/// Packets in, records out, which are handed to `S` a few hundred at a time. What that fails with
/// ends the stream.
pub struct Stream<S> {
    sink: S,
    config: Config,
    tables: HostTables,
    clock: CaptureClock,
    purpose: Purpose,
    records: Vec<Record>,
    /// Time of the first packet, ns.
    start_ns: u64,
    next_sweep_ns: u64,
    packets_since_sweep: u64,
    limits: Limits,
    /// How many flows are too many next.
    many: usize,
    packets: u64,
    flows_closed: u64,
    flows_evicted: u64,
}

enum Purpose {
    Flows(Box<FlowTable>, Routes, Box<VideoFlows>),
    Windows(Box<Windows>),
}

struct Windows {
    pipeline: Pipeline,
    /// End of the running window, µs; 0 before the first packet.
    end_us: u64,
    counters_before: Counters,
    evicted_before: u64,
    /// Windows in a row that ended without a flow.
    empty: u64,
    /// Windows that were not judged, because too many before them had been empty.
    passed_over: u64,
}

impl<S: FnMut(&[Record]) -> Result<()>> Stream<S> {
    /// Nothing was read yet. Fails where a file that the configuration names cannot be read.
    pub fn new(mut config: Config, attribution: Attribution, sink: S) -> Result<Self> {
        // The capture holds them already.
        config.log.full_client_addresses = true;
        let purpose = match attribution {
            Attribution::Off => {
                config.watch = crate::config::Watch {
                    ports: Vec::new(),
                    ..Default::default()
                };
                // Nobody said what is video: names and behaviour may.
                config.video = Some(Video {
                    report_all: true,
                    ..Video::default()
                });
                let video = Box::new(VideoFlows::new(&config));
                let mut flows = FlowTable::default();
                flows.set_ladder(config.chunks.ladder());
                Purpose::Flows(Box::new(flows), Routes::default(), video)
            }
            Attribution::On => {
                let routes = Arc::new(ArcSwap::from_pointee(feeds::read_once(&config.path)?));
                let mut pipeline = Pipeline::new(&config, routes, HOST);
                pipeline.set_services(daemon::services(&config)?);
                Purpose::Windows(Box::new(Windows {
                    pipeline,
                    end_us: 0,
                    counters_before: Counters::default(),
                    evicted_before: 0,
                    empty: 0,
                    passed_over: 0,
                }))
            }
        };
        let tables = HostTables::new(
            settings(&config, attribution),
            &config.watch.ports,
            &config.watch.prefixes,
        )
        .with_lifetimes(lifetimes(&config, attribution));
        Ok(Self {
            sink,
            config,
            tables,
            clock: CaptureClock::default(),
            purpose,
            records: Vec::new(),
            start_ns: 0,
            next_sweep_ns: 0,
            packets_since_sweep: 0,
            limits: LIMITS,
            many: LIMITS.many,
            packets: 0,
            flows_closed: 0,
            flows_evicted: 0,
        })
    }

    /// Takes one packet into account.
    pub fn packet(&mut self, packet: &CapturedPacket<'_>) -> Result<()> {
        let (precise_ns, now_ns) = self.clock.advance(packet.packet.time_ns);
        if self.packets == 0 {
            self.start_ns = now_ns;
            self.next_sweep_ns = now_ns.saturating_add(SWEEP_NS);
        }
        self.packets += 1;
        self.packets_since_sweep += 1;
        self.end_windows(now_ns)?;
        self.tables.set_time(now_ns);
        let sighted = Sighted {
            packet: &packet.packet,
            hook: packet.hook,
            coarse_ns: now_ns,
            precise_ns,
        };
        let observed = packet
            .link
            .and_then(|link| observe(&sighted, link, &self.tables));
        if let Err(reason) = observed {
            self.tables.count(reason.into());
        }
        self.make_room(now_ns)?;
        if self.tables.has_news() {
            self.take_news()?;
        }
        Ok(())
    }

    /// Closes every flow; `passed_over` counts what the captures held besides.
    pub fn finish(&mut self, passed_over: &[(&'static str, u64)]) -> Result<()> {
        let now_ns = self.clock.now_ns();
        if let Purpose::Windows(windows) = &mut self.purpose
            && windows.end_us != 0
        {
            let end_us = windows.end_us;
            self.end_of_window(end_us, now_ns)?;
        }
        self.tables.set_time(now_ns);
        self.tables.remove_expired();
        self.tables.remove_all();
        self.take_news()?;
        self.status(now_ns / 1_000, passed_over);
        self.hand_on()
    }

    /// Hands on what is ready.
    fn hand_on(&mut self) -> Result<()> {
        for records in self.records.chunks(RECORDS_AT_ONCE) {
            (self.sink)(records)?;
        }
        self.records.clear();
        Ok(())
    }

    /// The time so far.
    pub fn clock(&self) -> &CaptureClock {
        &self.clock
    }

    /// What was counted so far, indexed by `Counter`.
    pub fn counters(&self) -> Counters {
        self.tables.counters()
    }

    /// How many `close` records there were.
    pub fn flows_closed(&self) -> u64 {
        self.flows_closed
    }

    /// How many flows were closed before they ended, because there were too many.
    pub fn flows_evicted(&self) -> u64 {
        self.flows_evicted
    }

    /// Removes flows that are over, and the longest silent ones where there are too many.
    fn make_room(&mut self, now_ns: u64) -> Result<()> {
        let count = self.tables.len();
        let due = now_ns >= self.next_sweep_ns
            && self.packets_since_sweep * SWEEP_FLOWS_A_PACKET >= count as u64;
        // With windows their ends do it.
        if due && matches!(self.purpose, Purpose::Flows(..)) {
            self.next_sweep_ns = now_ns.saturating_add(SWEEP_NS);
            self.packets_since_sweep = 0;
            self.tables.remove_expired();
            self.take_news()?;
            self.hand_on()?;
        }
        match self.purpose {
            Purpose::Flows(..) if count >= self.many => {
                self.tables.remove_ended(LINGER_MANY_NS);
                if self.tables.len() >= self.limits.kept {
                    self.tables.remove_expired();
                }
                if self.tables.len() >= self.limits.max {
                    self.flows_evicted += self.tables.remove_all_but(self.limits.kept);
                }
                // Looked at again when they have doubled, so that it costs each flow little.
                self.many = (2 * self.tables.len()).clamp(self.limits.many, self.limits.max);
            }
            // A flow is missing in its window's figures, whether it has ended or not.
            Purpose::Windows(_) if count >= self.limits.max => {
                self.tables.remove_all_but(self.limits.kept);
                self.flows_evicted += (count - self.tables.len()) as u64;
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes what the tables reported and removed.
    fn take_news(&mut self) -> Result<()> {
        for news in self.tables.take_news() {
            match news {
                News::Report(state) => self.read(&state, self.clock.now_ns()),
                News::Chunk(report) => self.chunk(*report),
                News::Removed(removed) => self.close(&removed),
                News::Hello(said) => match &mut self.purpose {
                    Purpose::Flows(_, _, video) => video.hear(&said, 0),
                    Purpose::Windows(windows) => {
                        let time_us = self.clock.now_ns() / 1_000;
                        windows.pipeline.hear(&said, time_us);
                    }
                },
            }
            if self.records.len() >= RECORDS_AT_ONCE {
                self.hand_on()?;
            }
        }
        Ok(())
    }

    fn read(&mut self, state: &FlowState, read_ns: u64) {
        let snapshot = snapshot(state, read_ns);
        match &mut self.purpose {
            Purpose::Flows(flows, routes, _) => {
                flows.update(&snapshot, u64::MAX, &DEFAULT_PORTS, routes);
            }
            Purpose::Windows(windows) => windows.pipeline.snapshot(&snapshot, &mut self.records),
        }
    }

    fn chunk(&mut self, report: ChunkReport) {
        let now_ns = self.clock.now_ns();
        let news = ChunkNews {
            report,
            time_us: now_ns / 1_000,
            read_ns: now_ns,
        };
        match &mut self.purpose {
            Purpose::Flows(flows, ..) => flows.chunk(&news),
            Purpose::Windows(windows) => windows.pipeline.chunk(&news),
        }
    }

    /// A flow is read when it was seen last, so that no silence before its removal is counted.
    fn close(&mut self, removed: &Removed) {
        let state = removed.state();
        self.read(&state, state.last_seen_ns());
        // The lines of a log follow each other in time: windows close flows at their ends.
        let time_ns = match self.purpose {
            Purpose::Flows(..) => removed.time_ns,
            Purpose::Windows(_) => removed.time_ns.max(self.tables.time_ns()),
        };
        let time_us = time_ns / 1_000;
        let before = self.records.len();
        match &mut self.purpose {
            Purpose::Flows(flows, _, video) => {
                if let Some(Closed { flow, reason }) = flows.remove(&state.key, removed.reason) {
                    let context = Context {
                        host: HOST,
                        time_us,
                        full_client_addresses: true,
                        ladder: &self.config.chunks.ladder(),
                        secret: flows.secret(),
                    };
                    let class = video.class(&flow);
                    let record = context.flow(&flow, &class, FlowEvent::Close, Some(reason), None);
                    self.records.push(record);
                }
                video.remove(&state.key, state.generation);
            }
            Purpose::Windows(windows) => {
                let key = &state.key;
                windows
                    .pipeline
                    .close_flow(key, time_us, removed.reason, &mut self.records);
            }
        }
        self.flows_closed += (self.records.len() - before) as u64;
    }

    /// Ends every window that is over at `now_ns`, also those in which no packet came: flows fall
    /// silent and incidents end in capture time as they do under the daemon.
    fn end_windows(&mut self, now_ns: u64) -> Result<()> {
        let now_us = now_ns / 1_000;
        let length_us = u64::from(self.config.window.length_s) * 1_000_000;
        let running_until_us = (now_us / length_us + 1) * length_us;
        while let Purpose::Windows(windows) = &mut self.purpose {
            let end_us = windows.end_us;
            if end_us == 0 {
                windows.end_us = running_until_us;
            }
            if end_us == 0 || now_us < end_us {
                break;
            }
            windows.end_us = if windows.empty < EMPTY_WINDOWS_MAX {
                end_us + length_us
            } else {
                windows.passed_over += (running_until_us - end_us) / length_us - 1;
                running_until_us
            };
            self.end_of_window(end_us, end_us * 1_000)?;
        }
        Ok(())
    }

    /// Judges the window that ends at `end_us`; flows are read at `read_ns`.
    fn end_of_window(&mut self, end_us: u64, read_ns: u64) -> Result<()> {
        self.take_news()?;
        let Purpose::Windows(windows) = &mut self.purpose else {
            return Ok(());
        };
        self.tables.for_each(|state| {
            let snapshot = snapshot(state, read_ns);
            windows.pipeline.snapshot(&snapshot, &mut self.records);
        });
        let idle_ns = u64::from(self.config.flows.idle_s) * SECOND_NS;
        windows.pipeline.quic(&self.tables.quic_flows(idle_ns));
        let counters = self.tables.counters();
        let since = |counter: Counter| {
            counters[counter as usize] - windows.counters_before[counter as usize]
        };
        let missed = Missed {
            reports_received: since(Counter::ReportsSent),
            flows_evicted: self.flows_evicted - windows.evicted_before,
            packets_unparsed: [Counter::Truncated, Counter::Malformed, Counter::Fragment]
                .map(since)
                .iter()
                .sum(),
            ..Missed::default()
        };
        windows.counters_before = counters;
        windows.evicted_before = self.flows_evicted;
        windows.empty = if self.tables.is_empty() {
            windows.empty + 1
        } else {
            0
        };
        let records = windows.pipeline.end_of_window(end_us, None, None, &missed);
        self.flows_closed += records.iter().filter(|record| is_close(record)).count() as u64;
        self.records.extend(records);
        self.status(end_us, &[]);
        self.tables.set_time(read_ns);
        self.tables.remove_expired();
        self.take_news()?;
        self.hand_on()
    }

    /// Every counter so far.
    fn status(&mut self, time_us: u64, passed_over: &[(&'static str, u64)]) {
        let windows_passed_over = match &self.purpose {
            Purpose::Flows(..) => None,
            Purpose::Windows(windows) => Some(("windows_passed_over", windows.passed_over)),
        };
        let counters = COUNTER_NAMES
            .iter()
            .copied()
            .zip(self.tables.counters())
            .chain([
                ("packets_read", self.packets),
                ("flows_live", self.tables.len() as u64),
                ("flows_closed", self.flows_closed),
                ("flows_evicted", self.flows_evicted),
                ("clock_steps_back", self.clock.steps_back),
            ])
            .chain(windows_passed_over)
            .chain(passed_over.iter().copied())
            .map(|(name, count)| (name.to_owned(), count));
        let status = StatusRecord::new(HOST, time_us, self.start_ns / 1_000, counters);
        self.records.push(Record::Status(Box::new(status)));
    }
}

fn settings(config: &Config, attribution: Attribution) -> Settings {
    let mut flags = 0;
    if !config.watch.ports.is_empty() {
        flags |= settings_flags::PORTS;
    }
    if !config.watch.prefixes.is_empty() {
        flags |= settings_flags::PREFIXES;
    }
    if config.hears_clients() {
        flags |= settings_flags::HELLOS;
    }
    let (report_interval_ns, epoch_ns) = match attribution {
        // One epoch, so that the extremes are those of a flow's life.
        Attribution::Off => (NO_REPORTS, u64::MAX),
        Attribution::On => (
            u64::from(config.flows.report_interval_ms) * 1_000_000,
            u64::from(config.window.length_s) * SECOND_NS,
        ),
    };
    Settings {
        report_interval_ns,
        epoch_ns,
        epoch_offset_ns: 0,
        sample_threshold: u32::MAX / config.watch.sample_one_in.max(1),
        flags,
        admission_key: 0,
        halvings: 0,
        halvings_before: 0,
    }
}

fn lifetimes(config: &Config, attribution: Attribution) -> Lifetimes {
    let idle_ns = u64::from(config.flows.idle_s) * SECOND_NS;
    match attribution {
        Attribution::Off => LIFETIMES,
        Attribution::On => Lifetimes {
            ended_ns: LINGER_NS.min(idle_ns),
            transitory_ns: idle_ns,
            established_ns: idle_ns,
            strict: false,
        },
    }
}

fn snapshot(state: &FlowState, read_ns: u64) -> Snapshot {
    Snapshot {
        state: *state,
        time_us: read_ns / 1_000,
        read_ns,
        interface: None,
    }
}

fn is_close(record: &Record) -> bool {
    matches!(record, Record::Flow(flow) if flow.event == FlowEvent::Close)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeMap};

    use monitor_ebpf::packet::Link;

    use super::*;
    use crate::capture::replay::packet::{Captured, Hook};

    const SMALL: Limits = Limits {
        many: 8,
        max: 64,
        kept: 32,
    };
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;

    /// A packet of a client's to or from its server, which has no payload.
    fn datagram(client: u32, from_client: bool, flags: u8) -> Vec<u8> {
        let ends = [
            (client.to_be_bytes(), [0x30, 0]),
            ([192, 0, 2, 1], [1, 187]),
        ];
        let [source, destination] = if from_client {
            ends
        } else {
            [ends[1], ends[0]]
        };
        let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
        bytes.extend(source.0);
        bytes.extend(destination.0);
        bytes.extend(source.1);
        bytes.extend(destination.1);
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 4, 0, 0, 0, 0, 0]);
        bytes
    }

    /// Replays such packets, a microsecond apart: why flows were closed, and how often, and how
    /// many were held at most.
    fn replay(
        attribution: Attribution,
        packets: impl Iterator<Item = (u32, bool, u8)>,
    ) -> (BTreeMap<String, usize>, u64, usize) {
        let closed = RefCell::new(BTreeMap::<String, usize>::new());
        let mut most = 0;
        let mut stream = Stream::new(Config::default(), attribution, |records: &[Record]| {
            for record in records {
                if let Record::Flow(flow) = record
                    && flow.event == FlowEvent::Close
                {
                    let reason = flow.close_reason.expect("with every close");
                    let reason = format!("{reason:?}");
                    *closed.borrow_mut().entry(reason).or_default() += 1;
                }
            }
            Ok(())
        })
        .expect("no file is named");
        (stream.limits, stream.many) = (SMALL, SMALL.many);
        for (number, (client, from_client, flags)) in (0u64..).zip(packets) {
            let bytes = datagram(client, from_client, flags);
            let packet = CapturedPacket {
                link: Ok(Link::RawIp),
                packet: Captured {
                    bytes: &bytes,
                    frame_len: 40,
                    time_ns: SECOND_NS * 1_000 + number * 1_000,
                    gso_size: 0,
                    gso_segs: 0,
                },
                hook: Hook::TAP,
            };
            stream.packet(&packet).expect("memory");
            most = most.max(stream.tables.len());
        }
        stream.finish(&[]).expect("memory");
        let evicted = stream.flows_evicted();
        drop(stream);
        (closed.into_inner(), evicted, most)
    }

    #[test]
    fn a_flood_of_flows_is_held_in_bounded_memory_and_each_has_its_record() {
        let flood = (0..10_000).map(|client| (client, true, SYN));
        let (closed, evicted, most) = replay(Attribution::Off, flood);
        assert_eq!(closed.values().sum::<usize>(), 10_000);
        assert_eq!(closed["Evicted"] as u64, evicted);
        assert!(most <= SMALL.max, "{most}");
        let flood = (0..10_000).map(|client| (client, true, SYN));
        let (closed, _, most) = replay(Attribution::On, flood);
        assert_eq!(closed.values().sum::<usize>(), 10_000);
        assert!(most <= SMALL.max, "{most}");
    }

    /// Times of the status records, and when each flow was closed, both in seconds since the first
    /// packet, of packets at the times given.
    fn windows(packets: &[(u64, u32)]) -> (Vec<u64>, Vec<u64>, u64) {
        let said = RefCell::new((Vec::new(), Vec::new()));
        let start_s = 60_000;
        let since_start = |time_us: u64| time_us / 1_000_000 - start_s;
        let mut config = Config::default();
        config.flows.idle_s = 120;
        config.window.length_s = 60;
        let mut stream = Stream::new(config, Attribution::On, |records: &[Record]| {
            for record in records {
                match record {
                    Record::Status(status) => said.borrow_mut().0.push(since_start(status.time.0)),
                    Record::Flow(flow) if flow.event == FlowEvent::Close => {
                        said.borrow_mut().1.push(since_start(flow.time.0));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .expect("no file is named");
        for &(at_s, client) in packets {
            for (from_client, flags) in [(true, SYN), (false, SYN | ACK)] {
                let bytes = datagram(client, from_client, flags);
                let packet = CapturedPacket {
                    link: Ok(Link::RawIp),
                    packet: Captured {
                        bytes: &bytes,
                        frame_len: 40,
                        time_ns: SECOND_NS * (start_s + at_s),
                        gso_size: 0,
                        gso_segs: 0,
                    },
                    hook: Hook::TAP,
                };
                stream.packet(&packet).expect("memory");
            }
        }
        let Purpose::Windows(windows) = &stream.purpose else {
            unreachable!("attribution is on");
        };
        let passed_over = windows.passed_over;
        stream.finish(&[]).expect("memory");
        drop(stream);
        let (statuses, closes) = said.into_inner();
        (statuses, closes, passed_over)
    }

    #[test]
    fn a_silent_flow_is_closed_by_the_window_that_ends_after_its_idle_time() {
        let (statuses, closes, passed_over) = windows(&[(10, 1), (590, 2)]);
        // Every window is judged, the last one at the end of the capture.
        let ends: Vec<_> = (1..=10).map(|window| window * 60).collect();
        assert_eq!(statuses[..10], ends);
        assert_eq!(closes[0], 180, "silent since 10 s");
        assert_eq!((closes.len(), passed_over), (2, 0));
    }

    #[test]
    fn captures_that_are_years_apart_do_not_make_a_window_of_every_minute() {
        let year_s = 365 * 86_400;
        let (statuses, closes, passed_over) = windows(&[(0, 1), (year_s, 2)]);
        assert_eq!(closes[0], 120);
        let judged = statuses.len() as u64 - 2;
        assert_eq!(judged + passed_over, year_s / 60);
        assert_eq!(judged, EMPTY_WINDOWS_MAX + 3);
    }

    #[test]
    fn flows_that_have_ended_make_room_first() {
        let ended = (0..10_000).flat_map(|client| {
            [
                (client, true, SYN),
                (client, false, SYN | ACK),
                (client, true, RST),
            ]
        });
        // Beside them one goes on.
        let long = [(u32::MAX, true, SYN), (u32::MAX, false, SYN | ACK)];
        let last = [(u32::MAX, true, ACK)];
        let packets = long.into_iter().chain(ended).chain(last);
        let (closed, evicted, most) = replay(Attribution::Off, packets);
        assert_eq!(closed["Rst"], 10_000);
        assert_eq!(closed["EndOfCapture"], 1);
        assert_eq!((closed.len(), evicted), (2, 0));
        assert!(most <= SMALL.max, "{most}");
    }
}
