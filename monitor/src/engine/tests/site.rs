//! A site as numbers: flow states that grow as the kernel would let them grow.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use monitor_ebpf::chunk::{Chunk, ChunkReport, Progress, progress};
use monitor_ebpf::flow::{Address, EpochRtt, FlowKey, FlowState, half_flags, rtt_bin};
use monitor_ebpf::sequence::{high, pack};

use crate::capture::Snapshot;
use crate::config::{Baseline, Config, Thresholds, Window};
use crate::engine::{Missed, Pipeline};
use crate::export::Record;
use crate::path::Routes;
use crate::path::followed::Affected;
use crate::path::ports::InterconnectPorts;
use crate::verdict::LocalCounters;

/// Windows before the baseline is known.
pub const LEAD_IN: u64 = 8;
const WINDOW_S: u32 = 5;
const MSS: u64 = 1_448;
/// The rate of a chunk on an idle access line, bit/s.
const RATE_BPS: f64 = 16e6;
pub const SERVER: [u8; 4] = [203, 0, 113, 9];

/// What one chunk of a player is.
pub const CHUNK_BYTES: u32 = 500_000;
const TRANSFER_US: u32 = 400_000;

/// How much a home fetches, and from how far.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub chunks: u32,
    pub chunk_bytes: f64,
    /// RTT samples a chunk.
    pub samples: u32,
    /// Smallest and largest RTT of the homes of each pair of interconnect and ISP, µs.
    pub rtt_us: (f64, f64),
}

/// HD video.
pub const HD: Scale = Scale {
    chunks: 2,
    chunk_bytes: 800_000.0,
    samples: 20,
    rtt_us: (40_000.0, 40_000.0),
};

/// Homes of one prefix that differ by more than what does harm.
pub const MIXED: Scale = Scale {
    rtt_us: (10_000.0, 94_000.0),
    ..HD
};

/// The lab's: small enough for an emulated processor.
pub const SMALL: Scale = Scale {
    chunks: 5,
    chunk_bytes: 31_000.0,
    samples: 4,
    rtt_us: (10_000.0, 40_000.0),
};

/// How one home is served in one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Life {
    /// Standing queue, µs.
    pub queue_us: u32,
    /// Share of the segments lost, over the usual.
    pub loss: f64,
    /// Of the usual rate.
    pub rate: f64,
    /// Share of segments sent into a full receive window.
    pub window_full: f64,
    /// Part of the window in which all this holds; before and after it is as usual.
    pub part: f64,
    /// Whether it fetches anything.
    pub watches: bool,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            queue_us: 0,
            loss: 0.0,
            rate: 1.0,
            window_full: 0.0,
            part: 1.0,
            watches: true,
        }
    }
}

impl Life {
    /// A full drop-tail queue: delay, losses, less rate.
    pub fn congested(queue_us: u32) -> Self {
        Self {
            queue_us,
            loss: 0.015,
            rate: 0.4,
            ..Self::default()
        }
    }

    /// Delay alone, as a queue on the way back makes it.
    pub fn queued(queue_us: u32) -> Self {
        Self {
            queue_us,
            ..Self::default()
        }
    }

    pub fn silent() -> Self {
        Self {
            watches: false,
            ..Self::default()
        }
    }
}

/// One home with one flow.
pub struct Home {
    pub index: usize,
    pub interconnect: &'static str,
    pub isp: &'static str,
    /// 0 to 15, also the third octet of its addresses.
    pub prefix: u8,
    /// 0 or 1 within the prefix.
    pub number: u8,
    state: FlowState,
    client_half: usize,
    scale: Scale,
    base_rtt_us: f64,
}

impl Home {
    pub fn key(&self) -> FlowKey {
        self.state.key
    }

    pub fn generation(&self) -> u64 {
        self.state.generation
    }

    /// What the kernel says of its `number`th chunk, which is over at `read_ns`.
    pub fn chunk(&self, number: u32, read_ns: u64) -> ChunkReport {
        get_chunk(&mut self.state.clone(), self.client_half, number, read_ns)
    }

    fn new(index: usize, scale: Scale) -> Self {
        let prefix = (index / 2) as u8;
        let number = (index % 2) as u8;
        let client = [10, 0, prefix, 1 + number];
        let (key, client_half) =
            FlowKey::new(Address::v4(client), 40_000, Address::v4(SERVER), 443);
        let mut state = FlowState::EMPTY;
        state.key = key;
        let mut home = Self {
            index,
            interconnect: if prefix < 8 { "ic-a" } else { "ic-b" },
            isp: if prefix % 8 < 4 { "isp-x" } else { "isp-y" },
            prefix,
            number,
            state,
            client_half,
            scale,
            base_rtt_us: scale.rtt_us.0
                + (scale.rtt_us.1 - scale.rtt_us.0) * (index % 8) as f64 / 7.0,
        };
        home.begin_anew(0);
        home
    }

    /// The same ports, another connection.
    pub fn begin_anew(&mut self, generation: u64) {
        let key = self.state.key;
        self.state = FlowState {
            key,
            generation: 1 + generation,
            ..FlowState::EMPTY
        };
        let server = &mut self.state.halves[self.client_half ^ 1];
        server.flags = half_flags::SEQUENCE_KNOWN | half_flags::SYN | half_flags::SYN_ACK;
        let client = &mut self.state.halves[self.client_half];
        client.flags = half_flags::ACK_KNOWN | half_flags::SYN;
        client.handshake_rtt_us = self.base_rtt_us as u32;
    }

    /// Fetches the window's chunks.
    fn live(&mut self, life: &Life, epoch: u32, now_ns: u64, random: &mut Random) {
        if !life.watches {
            return;
        }
        let client_half = self.client_half;
        let (mut min, mut max) = (u32::MAX, 0);
        let Scale {
            chunks,
            chunk_bytes,
            samples,
            ..
        } = self.scale;
        let base_rtt_us = self.base_rtt_us;
        for chunk in 0..chunks {
            let affected = f64::from(chunk) + random.unit() < f64::from(chunks) * life.part;
            let (queue_us, loss, rate) = if affected {
                (f64::from(life.queue_us), life.loss, life.rate)
            } else {
                (0.0, 0.0, 1.0)
            };
            let bytes = chunk_bytes * (0.8 + 0.4 * random.unit());
            let segments = bytes as u64 / MSS;
            let lost = random.count(segments, 0.0005 + loss);
            let server = &mut self.state.halves[client_half ^ 1];
            server.bytes += bytes as u64 + lost * MSS;
            server.segments += (segments + lost) as u32;
            server.frames += (segments / 10) as u32;
            server.retransmitted_segments += lost as u32;
            server.lost_downstream_segments += lost as u32;
            server.rwnd_limited_segments += (segments as f64 * life.window_full) as u32;
            server.last_seen_ns = now_ns;
            let client = &mut self.state.halves[client_half];
            client.last_seen_ns = now_ns;
            client.acked_bytes += bytes as u64;
            client.bursts += 1;
            client.busy_us +=
                (bytes * 8e6 / (RATE_BPS * rate * (0.9 + 0.2 * random.unit()))) as u64;
            for sample in 0..samples {
                // A chunk fills the home's own queue as it goes on.
                let own_us = f64::from(sample) * 8_000.0 / f64::from(samples);
                let noise_us = 800.0 * random.unit();
                let standing_us = queue_us * (0.7 + 0.6 * random.unit());
                let rtt_us = (base_rtt_us + own_us + noise_us + standing_us) as u32;
                (min, max) = (min.min(rtt_us), max.max(rtt_us));
                let bin = &mut client.rtt_bins[rtt_bin(rtt_us)];
                *bin = bin.wrapping_add(1);
                client.rtt_samples += 1;
                client.rtt_sum_us += u64::from(rtt_us);
            }
        }
        let client = &mut self.state.halves[client_half];
        client.rtt_previous = client.rtt_current;
        client.rtt_current = EpochRtt {
            epoch,
            rtt_min_us: min,
            rtt_max_us: max,
        };
    }
}

/// The flow's connection has got its `number`th chunk at `read_ns`: half a megabyte in 0.4 s.
pub fn get_chunk(
    state: &mut FlowState,
    client_half: usize,
    number: u32,
    read_ns: u64,
) -> ChunkReport {
    let now_us = (read_ns / 1_000) as u32;
    let server = &mut state.halves[client_half ^ 1];
    server.flags = half_flags::SEQUENCE_KNOWN | half_flags::SYN | half_flags::SYN_ACK;
    server.bytes = u64::from(number * CHUNK_BYTES);
    server.segments = number * 350;
    server.burst = pack(number * CHUNK_BYTES, now_us - TRANSFER_US);
    server.mss = MSS as u32;
    server.chunk = Chunk {
        number,
        start: (number - 1) * CHUNK_BYTES,
        request_us: now_us - TRANSFER_US - 5_000,
        first_us: now_us - TRANSFER_US,
        ..Chunk::EMPTY
    };
    let chunk = server.chunk;
    server.last_seen_ns = read_ns;
    let client = &mut state.halves[client_half];
    client.flags = half_flags::SYN | half_flags::ACK_KNOWN;
    client.acked = pack(number * CHUNK_BYTES, 60_000);
    client.acked_bytes = u64::from(number * CHUNK_BYTES);
    client.drained = pack(number * CHUNK_BYTES, now_us);
    client.handshake_rtt_us = 20_000;
    client.last_seen_ns = read_ns;
    let (server, client) = state.halves(client_half ^ 1);
    ChunkReport {
        key: state.key,
        generation: state.generation,
        time_ns: read_ns,
        chunk,
        progress: Progress {
            rtt_min_us: 20_000,
            ..progress(server, client, high(server.burst))
        },
        direction: (client_half ^ 1) as u32,
        reserved: 0,
    }
}

/// The site, its clock and its pipeline.
pub struct Site {
    pub homes: Vec<Home>,
    pub pipeline: Pipeline,
    pub now_us: u64,
    pub local: Option<LocalCounters>,
    pub ports: Option<InterconnectPorts>,
    pub missed: Missed,
    pub routes: Arc<ArcSwap<Routes>>,
    random: Random,
    window: u32,
}

impl Site {
    pub fn config(scale: Scale) -> Config {
        let small = scale.chunk_bytes < 100_000.0;
        Config {
            window: Window { length_s: WINDOW_S },
            baseline: Baseline {
                min_windows: LEAD_IN as u32,
                slot_windows: 1,
                best_slots: 16,
                span_slots: 10_000,
            },
            verdict: Thresholds {
                min_chunks_per_prefix: 2,
                min_rtt_samples: if small { 5 } else { 10 },
                min_segments: if small { 20 } else { 100 },
                ..Thresholds::default()
            },
            ..Config::default()
        }
    }

    pub fn new(seed: u64) -> Self {
        Self::scaled(seed, HD)
    }

    pub fn scaled(seed: u64, scale: Scale) -> Self {
        let mut csv = "prefix,origin_asn,isp,interconnect\n".to_owned();
        for prefix in 0..16 {
            let home = Home::new(prefix * 2, scale);
            let asn = if home.isp == "isp-x" { 64_501 } else { 64_502 };
            csv += &format!(
                "10.0.{prefix}.0/24,{asn},{},{}\n",
                home.isp, home.interconnect
            );
        }
        Self::with_routes(
            seed,
            scale,
            Routes::from_csv(&csv, Path::new("test")).expect("right"),
        )
    }

    pub fn without_routes(seed: u64) -> Self {
        Self::with_routes(seed, HD, Routes::default())
    }

    fn with_routes(seed: u64, scale: Scale, routes: Routes) -> Self {
        let routes = Arc::new(ArcSwap::from_pointee(routes));
        Self {
            homes: (0..32).map(|index| Home::new(index, scale)).collect(),
            pipeline: Pipeline::new(&Self::config(scale), Arc::clone(&routes), "test"),
            routes,
            now_us: 1_800_000_000_000_000,
            local: None,
            ports: None,
            missed: Missed {
                reports_received: 100,
                ..Missed::default()
            },
            random: Random(seed.wrapping_mul(2) + 1),
            window: 0,
        }
    }

    /// One window, lived by every home as `life` says.
    pub fn window(&mut self, life: impl Fn(&Home) -> Life) -> Vec<Record> {
        let mut records = Vec::new();
        self.begin_window();
        self.live(life, &mut records);
        records.extend(self.end_of_window());
        records
    }

    /// One window in whose middle the routes become what `change` makes of them.
    pub fn window_with_change(
        &mut self,
        before: impl Fn(&Home) -> Life,
        changed: &Affected,
        change: impl FnOnce(&mut Routes),
        after: impl Fn(&Home) -> Life,
    ) -> Vec<Record> {
        let mut records = Vec::new();
        self.begin_window();
        self.live(before, &mut records);
        let mut routes = Routes::clone(&self.routes.load());
        change(&mut routes);
        self.routes.store(Arc::new(routes));
        let middle_us = self.now_us - u64::from(WINDOW_S) * 500_000;
        self.pipeline
            .routes_changed(changed, middle_us, &mut records);
        self.live(after, &mut records);
        records.extend(self.end_of_window());
        records
    }

    fn begin_window(&mut self) {
        self.window += 1;
        self.now_us += u64::from(WINDOW_S) * 1_000_000;
    }

    fn live(&mut self, life: impl Fn(&Home) -> Life, records: &mut Vec<Record>) {
        let read_ns = self.now_us * 1_000;
        for home in &mut self.homes {
            let life = life(home);
            home.live(&life, self.window, read_ns - 1_000_000, &mut self.random);
            if home.state.halves[home.client_half].bursts > 0 {
                let snapshot = Snapshot {
                    state: home.state,
                    time_us: self.now_us,
                    read_ns,
                    interface: Some("eth0".into()),
                };
                self.pipeline.snapshot(&snapshot, records);
            }
        }
    }

    fn end_of_window(&mut self) -> Vec<Record> {
        self.pipeline.end_of_window(
            self.now_us,
            self.local.as_ref(),
            self.ports.as_ref(),
            &self.missed,
        )
    }
}

/// Numbers that look random and are the same every time (xorshift64*, Vigna 2016).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn count(&mut self, of: u64, share: f64) -> u64 {
        (0..of).filter(|_| self.unit() < share).count() as u64
    }
}
