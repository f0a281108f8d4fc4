//! What a full Internet table costs: time to load it by BMP, memory, lookups, updates; and the
//! same routes as this host's own.
//!
//! The example prints one figure a line, and what it may be at most where that was promised; it
//! fails where a promise is not kept. Times are what the thread ran. `cargo xtask bench routes`
//! runs it.

mod internet;
mod speaker;

use std::{
    env, fs,
    hint::black_box,
    io::{BufReader, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use ipnet::IpNet;
use lastmile::path::{
    Publisher, Routes,
    bmp::Decoder,
    fib::{
        Action, Change, Fib, Hop, KernelRoute, Kind, Link, Placement, Query, Rule, TABLE_MAIN,
        Target,
    },
    rib::{Rib, RouterId},
};

use self::internet::{Attributes, IPV4_PREFIXES, IPV6_PREFIXES, mix};
use self::speaker::{BATCH, BATCHES, LOAD_BATCH, Part};

/// Bytes that the station reads from a socket at once.
const READ_BYTES: usize = 64 << 10;
const LOOKUPS: usize = 5_000_000;
/// Clients that are asked for, in no order: far more than caches hold.
const CLIENTS: usize = 1 << 18;

/// What was promised.
const MAX_MEMORY_MIB: f64 = 250.0;
const MAX_LOOKUP_NS: f64 = 1_000.0;
const MAX_BATCH_MS: f64 = 10.0;

/// Loads a full table, prints what it costs.
#[derive(Parser)]
struct Arguments {
    /// Only write a router's BMP stream
    #[arg(long)]
    speak: Option<Part>,
    /// Only this host's own routes
    #[arg(long)]
    kernel: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.speak {
        Some(part) => speaker::speak(part).context("cannot write").map(|()| true),
        None if arguments.kernel => kernel_table(),
        None => bgp_tables().and_then(|kept| {
            // Memory that was in use once cannot be told from memory in use: a new process.
            let status = Command::new(env::current_exe()?).arg("--kernel").status()?;
            Ok(kept && status.success())
        }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            println!("NOT KEPT");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `name` of /proc/self/status, in MiB.
fn memory_mib(name: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("no procfs")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib: f64 = line
        .and_then(|line| line.trim_start_matches(':').split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no {name}"))?;
    Ok(kib / 1_024.0)
}

/// Time that this thread ran: what else the machine does is not measured.
struct Clock(Duration);

impl Clock {
    fn start() -> Self {
        Self(Self::now())
    }

    fn elapsed(&self) -> Duration {
        Self::now() - self.0
    }

    fn now() -> Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the pointer is to a live value of the type asked for.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        assert_eq!(failed, 0, "every kernel has this clock");
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A router that speaks from another process.
struct Speaker {
    child: Child,
    stream: BufReader<std::process::ChildStdout>,
}

impl Speaker {
    fn start(part: &str) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["--speak", part])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the speaker")?;
        let stream = child.stdout.take().context("no standard output")?;
        Ok(Self {
            child,
            stream: BufReader::with_capacity(1 << 20, stream),
        })
    }

    /// The next batch; whether there is one.
    fn batch(&mut self, bytes: &mut Vec<u8>) -> Result<bool> {
        let mut length = [0; 4];
        if self.stream.read(&mut length[..1])? == 0 {
            let status = self.child.wait()?;
            ensure!(status.success(), "the speaker failed: {status}");
            return Ok(false);
        }
        self.stream.read_exact(&mut length[1..])?;
        bytes.resize(u32::from_be_bytes(length) as usize, 0);
        self.stream.read_exact(bytes)?;
        Ok(true)
    }
}

/// What the daemon does with BMP, without its tasks.
struct Station {
    decoder: Decoder,
    rib: Rib,
    router: RouterId,
    publisher: Publisher,
}

/// How long a batch took.
#[derive(Clone, Copy, Default)]
struct Took {
    /// Until readers had the new table.
    published: Duration,
    whole: Duration,
    changed: usize,
}

impl Station {
    fn new() -> Result<Self> {
        let mut rib = Rib::default();
        let router = rib.router("192.0.2.100")?;
        Ok(Self {
            decoder: Decoder::default(),
            rib,
            router,
            publisher: Publisher::default(),
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<Took> {
        let start = Clock::start();
        for piece in bytes.chunks(READ_BYTES) {
            self.decoder.push(piece);
            while let Some(read) = self.decoder.next() {
                self.rib.apply(self.router, &read??)?;
            }
        }
        let mut took = self.publish()?;
        took.published += start.elapsed() - took.whole;
        took.whole = start.elapsed();
        Ok(took)
    }

    fn publish(&mut self) -> Result<Took> {
        let start = Clock::start();
        let changes = self.rib.take_changes();
        let changed = self.publisher.publish(changes);
        let changed = changed.ok().context("nobody holds a table")?.len();
        let published = start.elapsed();
        self.publisher.catch_up();
        Ok(Took {
            published,
            whole: start.elapsed(),
            changed,
        })
    }

    /// Takes all that the speaker says: how long each batch took.
    fn listen(&mut self, part: &str) -> Result<Vec<Took>> {
        let mut speaker = Speaker::start(part)?;
        let (mut bytes, mut all) = (Vec::new(), Vec::new());
        while speaker.batch(&mut bytes)? {
            all.push(self.take(&bytes)?);
        }
        Ok(all)
    }
}

fn total(all: &[Took]) -> Duration {
    all.iter().map(|took| took.whole).sum()
}

fn longest(all: &[Took]) -> Duration {
    all.iter()
        .map(|took| took.published)
        .max()
        .unwrap_or_default()
}

fn bgp_tables() -> Result<bool> {
    let before_mib = memory_mib("VmRSS")?;
    let mut station = Station::new()?;
    let load = station.listen("table")?;
    let size = station.rib.size();
    ensure!(
        size.prefixes == IPV4_PREFIXES + IPV6_PREFIXES,
        "{size:?} instead of a full table"
    );
    let loaded_mib = memory_mib("VmRSS")? - before_mib;
    let peak_mib = memory_mib("VmHWM")? - before_mib;
    println!("a full table by BMP: {IPV4_PREFIXES} IPv4 and {IPV6_PREFIXES} IPv6 prefixes");
    println!("  peers                  {:>10}", size.tables);
    println!("  sets of attributes     {:>10}", size.paths);
    println!(
        "  loaded in              {:>10.2} s, longest batch of {LOAD_BATCH} {:.0} ms",
        total(&load).as_secs_f64(),
        ms(longest(&load))
    );
    println!("  memory, RSS            {loaded_mib:>10.0} MiB, at most {MAX_MEMORY_MIB}");
    println!("    at its highest       {peak_mib:>10.0} MiB");
    println!(
        "    of it attributes     {:>10.0} MiB by the table's own count",
        size.attribute_bytes as f64 / f64::from(1 << 20)
    );

    let routes = Routes {
        bmp: station.publisher.current(),
        ..Routes::default()
    };
    let clients = clients(routes.bmp.iter().map(|(prefix, _)| prefix));
    let table_ns = look_up(&clients, |client| routes.bmp.lookup(client).is_some())?;
    let locate_ns = look_up(&clients, |client| routes.locate(client).is_some())?;
    println!("  lookup                 {table_ns:>10.0} ns, at most {MAX_LOOKUP_NS}");
    println!("    merged and named     {locate_ns:>10.0} ns, once a flow");
    drop((routes, clients));

    let churn = station.listen("churn")?;
    let changed: usize = churn.iter().map(|took| took.changed).sum();
    let rate = (BATCH * BATCHES) as f64 / total(&churn).as_secs_f64();
    let mut published: Vec<Duration> = churn.iter().map(|took| took.published).collect();
    published.sort();
    let median = published[published.len() / 2];
    println!(
        "  updates a second       {rate:>10.0}, {changed} of {} changed the best way",
        BATCH * BATCHES
    );
    println!(
        "  batch of {BATCH} until read {:>8.2} ms, longest {:.2} ms, at most {MAX_BATCH_MS}",
        ms(median),
        ms(longest(&churn))
    );
    let size = station.rib.size();
    let churned_mib = memory_mib("VmRSS")? - before_mib;
    println!(
        "  memory after all these {churned_mib:>10.0} MiB, {} sets of attributes",
        size.paths
    );

    let before_second = memory_mib("VmRSS")?;
    let second = station.listen("second-table")?;
    let size = station.rib.size();
    println!(
        "one more full table, of a transit: {} routes, {} sets of attributes",
        size.routes, size.paths
    );
    println!(
        "  loaded in              {:>10.2} s, longest batch of {LOAD_BATCH} {:.0} ms",
        total(&second).as_secs_f64(),
        ms(longest(&second))
    );
    println!(
        "  memory for it, RSS     {:>10.0} MiB",
        memory_mib("VmRSS")? - before_second
    );

    station.rib.forget(station.router);
    let mut gone = Vec::new();
    while station.rib.has_changes() {
        gone.push(station.publish()?);
    }
    ensure!(station.publisher.current().is_empty(), "something is left");
    println!(
        "the router is forgotten: all of it gone in {:.2} s, longest batch {:.0} ms",
        total(&gone).as_secs_f64(),
        ms(longest(&gone))
    );
    Ok(loaded_mib <= MAX_MEMORY_MIB && table_ns <= MAX_LOOKUP_NS && ms(median) <= MAX_BATCH_MS)
}

/// Addresses in some of the prefixes, in no order.
fn clients(prefixes: impl Iterator<Item = IpNet>) -> Vec<IpAddr> {
    const HOST: u32 = 77;
    let every = (IPV4_PREFIXES + IPV6_PREFIXES).div_ceil(CLIENTS);
    let mut clients: Vec<IpAddr> = prefixes
        .step_by(every)
        .map(|prefix| match prefix {
            IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) + HOST).into(),
            IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) + u128::from(HOST)).into(),
        })
        .collect();
    for at in (1..clients.len()).rev() {
        clients.swap(at, mix(at as u64) as usize % (at + 1));
    }
    clients
}

/// ns a lookup.
fn look_up(clients: &[IpAddr], find: impl Fn(IpAddr) -> bool) -> Result<f64> {
    let start = Clock::start();
    let found = (0..LOOKUPS)
        .filter(|at| black_box(find(black_box(clients[at % clients.len()]))))
        .count();
    let took = start.elapsed();
    ensure!(found == LOOKUPS, "{found} of {LOOKUPS} clients were found");
    Ok(took.as_nanos() as f64 / LOOKUPS as f64)
}

/// The same table as the kernel of a router would have it: a few neighbours, one route a prefix.
fn kernel_table() -> Result<bool> {
    let prefixes = internet::prefixes();
    let mut changes = Vec::with_capacity(prefixes.len());
    for prefix in &prefixes {
        let told = Attributes::of(*prefix, None, 0);
        let gateway = match prefix.net {
            IpNet::V4(_) => IpAddr::from([198, 51, 100, told.next_hop]),
            IpNet::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(told.next_hop)]),
        };
        changes.push((prefix.net, told.peer.asn, gateway));
    }
    drop(prefixes);
    let mut fib = Fib::default();
    for device in 0..u32::from(internet::PEERS) {
        fib.apply(&Change::Link(Link {
            index: 1 + device,
            name: format!("eth{device}").into(),
            up: true,
            carrier: true,
            master: None,
            below: None,
            group: 0,
            vrf_table: None,
        }));
    }
    for ipv6 in [false, true] {
        fib.apply(&Change::Rule(Rule::all(
            ipv6,
            32_766,
            Action::Table(TABLE_MAIN),
        )));
    }
    let before_mib = memory_mib("VmRSS")?;
    let start = Clock::start();
    for (prefix, asn, gateway) in &changes {
        let hop = Hop {
            device: asn - 64_499,
            gateway: Some(*gateway),
            weight: 1,
            dead: false,
        };
        fib.apply(&Change::Route(
            KernelRoute {
                table: TABLE_MAIN,
                prefix: *prefix,
                from: None,
                tos: 0,
                metric: 20,
                kind: Kind::Unicast,
                target: Target {
                    object: None,
                    hops: Arc::new([hop]),
                },
            },
            Placement::Last,
        ));
    }
    let took = start.elapsed();
    let memory = memory_mib("VmRSS")? - before_mib;
    println!("the same as this host's own routes: {}", fib.routes());
    println!("  loaded in              {:>10.2} s", took.as_secs_f64());
    println!("  memory, RSS            {memory:>10.0} MiB");
    let clients = clients(changes.iter().map(|(prefix, _, _)| *prefix));
    let lookup_ns = look_up(&clients, |client| {
        !fib.lookup(&Query::to(client)).ways.is_empty()
    })?;
    println!("  lookup                 {lookup_ns:>10.0} ns, at most {MAX_LOOKUP_NS}");
    Ok(lookup_ns <= MAX_LOOKUP_NS)
}
