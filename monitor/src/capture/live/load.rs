//! Loading the programs, their maps and their settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, PerCpuValues, RingBuf, lpm_trie::Key,
    },
    programs::{ProgramError, SchedClassifier},
};
use aya_obj::EbpfSectionKind;
use ipnet::IpNet;
use monitor_ebpf::{
    admit::Pending,
    bench::Case,
    counters::{COUNTERS, Counters},
    flow::{Address, FlowKey, FlowState},
    quic::QuicFlow,
    select::{PORT_WORDS, Settings, settings_flags},
};

use super::{
    batch,
    experiment::Route,
    hellos::Hellos,
    keep::{Expected, Memory, Pins},
    messages::KernelMessages,
    reports::Reports,
};
use crate::capture::QuicSnapshot;
use crate::config::{Config, KernelLog};

/// The object that `build.rs` compiled from `monitor-ebpf`.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lastmile-ebpf"));

/// Bytes of the ring buffer: 5,700 reports, what as many flows say in one interval while the
/// daemon does something else.
const REPORT_BYTES: u32 = 8 << 20;

/// Flows that wait for their second direction, as a share of the flow table: enough for the
/// handshakes of a second, little enough that a flood costs little.
const PENDING_SHARE: u32 = 4;

/// Bytes of the ring buffer of what clients say first: 500 hellos of 1.9 KiB with their headers,
/// what 5,000 new connections a second say in 100 ms.
const HELLO_BYTES: u32 = 1 << 20;

/// QUIC flows, as a share of the flow table.
const QUIC_SHARE: u32 = 4;

/// A TC program, by where it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    pub egress: bool,
    /// For devices whose frames begin with IP.
    pub raw_ip: bool,
}

/// The programs of the object.
pub const PROGRAMS: [Program; 4] = [
    Program {
        name: "lastmile_in",
        egress: false,
        raw_ip: false,
    },
    Program {
        name: "lastmile_out",
        egress: true,
        raw_ip: false,
    },
    Program {
        name: "lastmile_in_raw",
        egress: false,
        raw_ip: true,
    },
    Program {
        name: "lastmile_out_raw",
        egress: true,
        raw_ip: true,
    },
];

/// The programs that log, for Ethernet and raw-IP devices: loaded and attached only when asked.
pub(super) const LOG_PROGRAMS: [&str; 2] = ["lastmile_log", "lastmile_log_raw"];

/// What the programs are loaded with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Flows in the table.
    pub max_flows: u32,
    /// Messages of the programs.
    pub kernel_log: KernelLog,
    /// Whether the control groups of our sockets are read.
    pub cgroups: bool,
    /// For tests: both clocks from `skb->tstamp`.
    pub test_clock: bool,
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            max_flows: config.flows.max,
            kernel_log: config.debug.kernel_log,
            cgroups: config.video.as_ref().is_some_and(|of| !of.units.is_empty()),
            test_clock: false,
        }
    }
}

/// A flow key as aya passes it to the kernel.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct PodKey(FlowKey);
// SAFETY: plain integers without padding (asserted where it is defined).
unsafe impl Pod for PodKey {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct PodState(FlowState);
// SAFETY: as above.
unsafe impl Pod for PodState {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct PodQuic(QuicFlow);
// SAFETY: as above.
unsafe impl Pod for PodQuic {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct PodSettings(Settings);
// SAFETY: as above.
unsafe impl Pod for PodSettings {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct PodCounters(Counters);
// SAFETY: an array of integers.
unsafe impl Pod for PodCounters {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct PodMemory(Memory);
// SAFETY: integers without padding.
unsafe impl Pod for PodMemory {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct PodCase(Case);
// SAFETY: integers without padding.
unsafe impl Pod for PodCase {}

/// The loaded programs and their maps.
pub struct Live {
    pub(super) ebpf: Ebpf,
    flows: Map,
    quic_flows: Map,
    pending: Map,
    counts: PerCpuArray<MapData, PodCounters>,
    settings: Array<MapData, PodSettings>,
    ports: Array<MapData, u64>,
    prefixes: LpmTrie<MapData, [u8; 16], u8>,
    pub(super) logs: bool,
    /// Where maps and links stay when this process has gone.
    pub(super) pins: Option<Pins>,
    memory: Option<Array<MapData, PodMemory>>,
    pub(super) route: Route,
    /// Which flows are admitted while not all are: a secret, the same as long as the maps are.
    admission_key: u64,
    admission: Admission,
    max_flows: u32,
}

/// How many of the new flows are admitted (see `select::admitted`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Of the flows that begin now, one in two to this power.
    pub halvings: u32,
    /// ... and of those that may have begun before.
    pub halvings_before: u32,
}

impl Live {
    /// Loads every program into the running kernel. Nothing is attached yet.
    pub fn load(options: &Options) -> Result<Self> {
        Self::load_with(options, None)
    }

    /// The same, with the maps that `pins` holds, or with new ones that it holds from now on.
    pub fn load_kept(options: &Options, pins: Pins) -> Result<Self> {
        Self::load_with(options, Some(pins))
    }

    fn load_with(options: &Options, mut pins: Option<Pins>) -> Result<Self> {
        let log_level: u8 = match options.kernel_log {
            KernelLog::Off => 0,
            KernelLog::Warn => aya_log::Level::Warn as u8,
            KernelLog::Info => aya_log::Level::Info as u8,
            KernelLog::Debug => aya_log::Level::Debug as u8,
        };
        let test_clock = u8::from(options.test_clock);
        let sizes = [
            ("FLOWS", options.max_flows),
            ("PENDING", options.max_flows / PENDING_SHARE),
            ("REPORTS", REPORT_BYTES),
            ("HELLOS", HELLO_BYTES),
            ("QUIC_FLOWS", options.max_flows / QUIC_SHARE),
        ];
        let cgroups = u8::from(options.cgroups);
        let mut loader = EbpfLoader::new();
        loader
            .override_global(aya_log::LEVEL, &log_level, true)
            .override_global("TEST_CLOCK", &test_clock, true)
            .override_global("CGROUPS", &cgroups, true);
        for (name, entries) in sizes {
            loader.map_max_entries(name, entries);
        }
        let mut memory = None;
        let expected = expected_maps(&sizes)?;
        if let Some(pins) = &mut pins {
            pins.use_layout(&expected)?;
            for map in expected.keys() {
                loader.map_pin_path(map.as_str(), pins.map(map));
            }
            memory = Some(memory_map(pins)?);
        }
        let mut ebpf = loader.load(OBJECT).context(
            "cannot create the BPF maps (this needs CAP_BPF and CAP_NET_ADMIN, or root; \
                 `lastmile check` says what is missing)",
        )?;
        let logs = options.kernel_log != KernelLog::Off;
        let log_programs = LOG_PROGRAMS.into_iter().filter(|_| logs);
        // Few hosts have devices without Ethernet headers: those programs wait for the first one.
        let at_once = PROGRAMS
            .iter()
            .filter(|program| !program.raw_ip)
            .map(|program| program.name);
        for name in at_once.chain(log_programs) {
            loaded(&mut ebpf, name)?;
        }
        let flows = take(&mut ebpf, "FLOWS")?;
        let quic_flows = take(&mut ebpf, "QUIC_FLOWS")?;
        let pending = take(&mut ebpf, "PENDING")?;
        let counts = PerCpuArray::try_from(take(&mut ebpf, "COUNTS")?)?;
        let settings: Array<_, PodSettings> = Array::try_from(take(&mut ebpf, "SETTINGS")?)?;
        // Whoever was turned away by an earlier run is not admitted in its midst by this one.
        let kept = if pins.as_ref().is_some_and(Pins::resumed) {
            let PodSettings(kept) = settings.get(&0, 0).context("cannot read the settings")?;
            Some(kept)
        } else {
            None
        };
        let route = Route::new(
            take(&mut ebpf, "EXPERIMENT")?,
            kept.is_some(),
            RandomState::new().hash_one(0),
        )?;
        let ports = Array::try_from(take(&mut ebpf, "PORTS")?)?;
        let prefixes = LpmTrie::try_from(take(&mut ebpf, "PREFIXES")?)?;
        Ok(Self {
            ebpf,
            flows,
            quic_flows,
            pending,
            counts,
            settings,
            ports,
            prefixes,
            logs,
            pins,
            memory,
            route,
            admission_key: kept
                .map_or_else(|| RandomState::new().hash_one(0), |kept| kept.admission_key),
            admission: kept.map_or_else(Admission::default, |kept| Admission {
                halvings: kept.halvings,
                halvings_before: kept.halvings_before,
            }),
            max_flows: options.max_flows,
        })
    }

    /// What the last run left for this one to know. `None`: nothing is kept.
    pub fn memory(&self) -> Result<Option<Memory>> {
        let Some(memory) = &self.memory else {
            return Ok(None);
        };
        let PodMemory(memory) = memory
            .get(&0, 0)
            .context("cannot read what the last run left")?;
        Ok(Some(memory))
    }

    /// Whether this goes on with the maps of an earlier run.
    pub fn resumed(&self) -> bool {
        self.pins.as_ref().is_some_and(Pins::resumed)
    }

    /// Whether anything stays when this process has gone.
    pub fn keeps(&self) -> bool {
        self.pins.is_some()
    }

    /// Removes what earlier runs left, once every device in `watched` has these programs.
    pub fn forget_others(&self, watched: &BTreeSet<u32>) -> Result<()> {
        match &self.pins {
            Some(pins) => pins.forget_others(watched),
            None => Ok(()),
        }
    }

    /// Nothing stays when this process has gone.
    pub fn keep_nothing(&mut self) -> Result<()> {
        match self.pins.take() {
            Some(pins) => pins.remove_here().map(|_| ()),
            None => Ok(()),
        }
    }

    /// Leaves this for the next run, where anything is kept.
    pub fn remember(&mut self, memory: &Memory) -> Result<()> {
        match &mut self.memory {
            None => Ok(()),
            Some(map) => map
                .set(0, PodMemory(*memory), 0)
                .context("cannot write what the next run must know"),
        }
    }

    /// The reports of the programs. Once.
    pub fn take_reports(&mut self) -> Result<Reports> {
        Reports::new(RingBuf::try_from(take(&mut self.ebpf, "REPORTS")?)?)
    }

    /// What clients say first. Once.
    pub fn take_hellos(&mut self) -> Result<Hellos> {
        Hellos::new(RingBuf::try_from(take(&mut self.ebpf, "HELLOS")?)?)
    }

    /// The messages of the programs that log. Once.
    pub fn take_kernel_log(&mut self) -> Result<KernelMessages> {
        if self.logs {
            KernelMessages::new(&mut self.ebpf)
        } else {
            Ok(KernelMessages::none())
        }
    }

    /// Instructions the kernel's verifier walked for a program.
    pub fn verified_instructions(&mut self, name: &str) -> Result<Option<u32>> {
        Ok(loaded(&mut self.ebpf, name)?
            .info()
            .with_context(|| format!("no information about the program {name}"))?
            .verified_instruction_count())
    }

    /// A program, loaded by now: to be attached, or for BPF_PROG_TEST_RUN.
    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        loaded(&mut self.ebpf, name)
    }

    /// What the bench's programs make of their packet, from its first one on.
    pub fn start_bench_case(&mut self, case: &Case) -> Result<()> {
        let cases = self
            .ebpf
            .map_mut("BENCH_CASE")
            .context("the BPF object has no map BENCH_CASE")?;
        Array::<_, PodCase>::try_from(cases)?.set(0, PodCase(*case), 0)?;
        let packets = self
            .ebpf
            .map_mut("BENCH_PACKETS")
            .context("the BPF object has no map BENCH_PACKETS")?;
        let none = PerCpuValues::try_from(vec![
            0u64;
            aya::util::nr_cpus().map_err(|(_, error)| error)?
        ])?;
        PerCpuArray::try_from(packets)?.set(0, none, 0)?;
        Ok(())
    }

    /// What is watched from now on: ports, prefixes, sample and times.
    /// `epoch_offset_ns` is what makes the monotonic clock the one that windows are cut by.
    pub fn watch(&mut self, config: &Config, epoch_offset_ns: u64) -> Result<()> {
        for index in 0..PORT_WORDS {
            let word = config
                .watch
                .ports
                .iter()
                .filter(|&&port| usize::from(port) / 64 == index)
                .fold(0u64, |word, &port| word | 1 << (port % 64));
            self.ports
                .set(index as u32, word, 0)
                .context("cannot set the watched ports")?;
        }
        let wanted: Vec<_> = config.watch.prefixes.iter().map(trie_key).collect();
        let present: Vec<_> = self.prefixes.keys().collect::<Result<_, _>>()?;
        for key in &wanted {
            self.prefixes
                .insert(key, 1, 0)
                .context("cannot set the watched prefixes (there is room for 65536 of them)")?;
        }
        for key in present {
            let still_wanted = wanted
                .iter()
                .any(|other| other.prefix_len() == key.prefix_len() && other.data() == key.data());
            if !still_wanted {
                self.prefixes.remove(&key)?;
            }
        }
        self.set_times(config, epoch_offset_ns)
    }

    /// How many flows the table holds.
    pub fn max_flows(&self) -> u32 {
        self.max_flows
    }

    /// How many new flows are admitted; after a restart, as many as before it.
    pub fn admission(&self) -> Admission {
        self.admission
    }

    /// From the next [`Self::set_times`] or [`Self::watch`] on, so many new flows are admitted.
    pub fn set_admission(&mut self, admission: Admission) {
        self.admission = admission;
    }

    /// The part of [`Self::watch`] that changes when the wall clock was set.
    pub fn set_times(&mut self, config: &Config, epoch_offset_ns: u64) -> Result<()> {
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
        let settings = Settings {
            report_interval_ns: u64::from(config.flows.report_interval_ms) * 1_000_000,
            epoch_ns: u64::from(config.window.length_s) * 1_000_000_000,
            epoch_offset_ns,
            sample_threshold: u32::MAX / config.watch.sample_one_in.max(1),
            flags,
            admission_key: self.admission_key,
            halvings: self.admission.halvings,
            halvings_before: self.admission.halvings_before,
        };
        self.settings
            .set(0, PodSettings(settings), 0)
            .context("cannot set what is watched")
    }

    /// The state of every flow in the table, a batch at a time.
    pub fn flows(&self, mut each: impl FnMut(&FlowState)) -> Result<()> {
        let Map::LruHashMap(table) = &self.flows else {
            bail!("the BPF object's map FLOWS is no LRU hash map");
        };
        // SAFETY: the object defines FLOWS with these types, which are plain integers.
        unsafe { batch::read(table, FlowState::EMPTY, |_, state| each(state)) }
            .context("cannot read the flow table")
    }

    /// How many flows wait for a state.
    pub fn pending(&self) -> Result<u64> {
        let Map::LruHashMap(table) = &self.pending else {
            bail!("the BPF object's map PENDING is no LRU hash map");
        };
        let mut count = 0;
        // SAFETY: as above.
        unsafe { batch::read(table, Pending::EMPTY, |_, _| count += 1) }
            .context("cannot read the table of flows that wait")?;
        Ok(count)
    }

    /// The state of every QUIC flow.
    pub fn quic_flows(&self) -> Result<Vec<QuicSnapshot>> {
        let Map::LruHashMap(table) = &self.quic_flows else {
            bail!("the BPF object's map QUIC_FLOWS is no LRU hash map");
        };
        let mut all = Vec::new();
        // SAFETY: as above.
        unsafe {
            batch::read(table, QuicFlow::EMPTY, |key, state| {
                all.push(QuicSnapshot {
                    key: *key,
                    state: *state,
                });
            })
        }
        .context("cannot read the table of QUIC flows")?;
        Ok(all)
    }

    /// Removes a QUIC flow, or nothing where it has gone already.
    pub fn remove_quic(&mut self, key: &FlowKey) -> Result<()> {
        let flows: HashMap<_, PodKey, PodQuic> = HashMap::try_from(&mut self.quic_flows)?;
        remove(flows, key)
    }

    /// Removes a flow. One that has gone already is no error: the table makes room by itself.
    pub fn remove(&mut self, key: &FlowKey) -> Result<()> {
        let flows: HashMap<_, PodKey, PodState> = HashMap::try_from(&mut self.flows)?;
        remove(flows, key)
    }

    /// From now on the packets of this flow are passed over, until its 5-tuple begins anew. One
    /// that has gone already, or is another connection by now, is no error.
    pub fn pass_over(&mut self, key: &FlowKey, generation: u64) -> Result<()> {
        let mut flows: HashMap<_, PodKey, PodState> = HashMap::try_from(&mut self.flows)?;
        let Some(PodState(mut state)) = found(flows.get(&PodKey(*key), 0))? else {
            return Ok(());
        };
        if state.generation == generation {
            state.last_report_ns = FlowState::UNWANTED;
            found(flows.insert(PodKey(*key), PodState(state), BPF_EXIST))?;
        }
        Ok(())
    }

    /// The counters of the packet path, summed over the CPUs, indexed by `Counter`.
    pub fn counters(&self) -> Result<Counters> {
        let per_cpu = self
            .counts
            .get(&0, 0)
            .context("cannot read the counters of the packet path")?;
        let mut sum = [0u64; COUNTERS];
        for PodCounters(counters) in per_cpu.iter() {
            for (total, count) in sum.iter_mut().zip(counters) {
                *total = total.wrapping_add(*count);
            }
        }
        Ok(sum)
    }
}

/// Maps that begin anew with every load: scratch space, constants, what is for tests.
const NOT_KEPT: [&str; 4] = ["PARSED", "EMPTY", "BENCH_CASE", "BENCH_PACKETS"];

/// What the object's maps are like, those that are kept.
fn expected_maps(sizes: &[(&str, u32)]) -> Result<BTreeMap<String, Expected>> {
    let object = aya_obj::Object::parse(OBJECT).context("the BPF object cannot be read")?;
    let kept = object.maps.into_iter().filter(|(name, map)| {
        let kind = map.section_kind();
        let is_map = matches!(kind, EbpfSectionKind::Maps | EbpfSectionKind::BtfMaps);
        is_map && !NOT_KEPT.contains(&name.as_str()) && !name.starts_with("AYA_LOG")
    });
    Ok(kept
        .map(|(name, map)| {
            let size = sizes.iter().find(|(of, _)| *of == name);
            let expected = Expected {
                map_type: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: size.map_or(map.max_entries(), |(_, entries)| *entries),
                flags: map.map_flags(),
            };
            (name, expected)
        })
        .collect())
}

/// The map of one [`Memory`], which no program reads.
fn memory_map(pins: &Pins) -> Result<Array<MapData, PodMemory>> {
    const NAME: &str = "MEMORY";
    let path = pins.map(NAME);
    if path.exists() {
        let data = MapData::from_pin(&path).with_context(|| format!("{}", path.display()))?;
        return Ok(Array::try_from(Map::Array(data))?);
    }
    let map: Array<_, PodMemory> = Array::create(1, 0).context("cannot create a BPF map")?;
    map.pin(&path)
        .with_context(|| format!("cannot pin a map as {}", path.display()))?;
    // The pin took it.
    let data = MapData::from_pin(&path).with_context(|| format!("{}", path.display()))?;
    Ok(Array::try_from(Map::Array(data))?)
}

/// An entry that is there is replaced, none is made (linux/bpf.h).
const BPF_EXIST: u64 = 2;

fn remove<V: Pod>(mut flows: HashMap<&mut MapData, PodKey, V>, key: &FlowKey) -> Result<()> {
    found(flows.remove(&PodKey(*key))).map(|_| ())
}

/// `None`: there is no such flow.
fn found<T>(result: Result<T, aya::maps::MapError>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(aya::maps::MapError::KeyNotFound) => Ok(None),
        Err(aya::maps::MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error).context("cannot reach into the flow table"),
    }
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name)
        .ok_or_else(|| anyhow!("the BPF object has no map {name}, or it was taken already"))
}

/// A program, which the kernel verifies when it is first asked for.
fn loaded<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = program(ebpf, name)?;
    if program.fd().is_err() {
        program.load().map_err(|error| explain(name, error))?;
    }
    Ok(program)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the BPF object has no program {name}"))?
        .try_into()?)
}

/// Why a program was refused: the end of the verifier's log says it, the rest is how it came
/// there.
pub(super) fn explain(name: &str, error: ProgramError) -> anyhow::Error {
    const LINES: usize = 12;
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let lines: Vec<_> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
            anyhow!("the kernel refuses the program {name}: {io_error}\n{end}")
        }
        other => anyhow!(other).context(format!("cannot load the program {name}")),
    }
}

/// IPv4 prefixes live under `::ffff:0:0/96`, as the packet path looks addresses up.
fn trie_key(prefix: &IpNet) -> Key<[u8; 16]> {
    match prefix.addr() {
        IpAddr::V4(address) => Key::new(
            96 + u32::from(prefix.prefix_len()),
            Address::v4(address.octets()).octets(),
        ),
        IpAddr::V6(address) => Key::new(u32::from(prefix.prefix_len()), address.octets()),
    }
}
