//! A daemon that is restarted, killed or replaced misses no packet: the programs stay attached and
//! the flow table stays in the kernel, and whoever comes next goes on with both.

mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use lastmile::capture::live::Hook;
use lastmile_lab::netns;
use support::{
    bpf_folder::BpfFolder,
    daemon::{Daemon, Folder, PATIENCE, config, flows, lines},
    net::{Internet, ip},
    stream::Transfer,
};

/// Restarts under one transfer, where [`KILLS_VARIABLE`] does not say how many: as many as there is
/// time for whenever everything is tested.
const KILLS: u32 = 10;
const KILLS_VARIABLE: &str = "LASTMILE_KILLS";
/// A transfer that outlasts them, with losses at its queue.
const QUEUE: &str = "tbf rate 20mbit burst 16kb limit 30kb";
/// Both hooks are looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Programs of ours at both hooks of the server's first device.
fn attached(internet: &Internet, device: &'static str) -> [usize; 2] {
    let server = internet.server.clone();
    let look = move || {
        [(false, "ingress"), (true, "egress")].map(|(egress, side)| match Hook::of_this_kernel() {
            Hook::Tcx => {
                let side = if egress {
                    TcAttachType::Egress
                } else {
                    TcAttachType::Ingress
                };
                // Between the list and a look at a program another one may take its place.
                let programs = loop {
                    match SchedClassifier::query_tcx(device, side) {
                        Ok((_, programs)) => break programs,
                        Err(error) if has_gone(&error) => (),
                        Err(error) => panic!("programs can be listed: {error}"),
                    }
                };
                programs
                    .iter()
                    .filter(|program| program.name().starts_with(b"lastmile"))
                    .count()
            }
            Hook::Clsact => {
                let shown = Command::new("tc")
                    .args(["-n", &server, "filter", "show", "dev", device, side])
                    .output()
                    .expect("tc runs");
                let shown = String::from_utf8_lossy(&shown.stdout);
                shown.matches("handle 0x6c6d").count()
            }
        })
    };
    netns::join(internet.on(&internet.server, look)).expect("the namespace is there")
}

/// Whether an error says that there is no program with some number any more.
fn has_gone(error: &ProgramError) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == ErrorKind::NotFound;
        }
        source = error.source();
    }
    false
}

/// Waits until no program of ours is at the hooks: the kernel takes a link off in a task of its own
/// once nothing holds it, and tells nobody.
#[track_caller]
fn await_none(internet: &Internet, device: &'static str) {
    let begin = Instant::now();
    while attached(internet, device) != [0, 0] {
        assert!(begin.elapsed() < PATIENCE, "still at {device}");
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Looks at the hooks until it is told to stop: how often, and every count that it saw.
fn watch_hooks(
    internet: &Arc<Internet>,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<(u32, BTreeSet<[usize; 2]>)> {
    let (internet, stop) = (Arc::clone(internet), Arc::clone(stop));
    thread::spawn(move || {
        let (mut looks, mut seen) = (0, BTreeSet::new());
        while !stop.load(Ordering::Relaxed) {
            seen.insert(attached(&internet, "eth0"));
            looks += 1;
            thread::sleep(LOOK_INTERVAL);
        }
        (looks, seen)
    })
}

fn kills() -> u32 {
    std::env::var(KILLS_VARIABLE).map_or(KILLS, |number| number.parse().expect("a number"))
}

/// Moments that differ from run to run.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_nanos() as u64;
        println!("seed {seed}");
        Self(seed | 1)
    }

    /// At most `limit` from now (xorshift, Marsaglia).
    fn next(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % limit.as_micros().max(1) as u64)
    }
}

#[test]
fn killed_at_any_moment_it_misses_no_packet_and_no_flow_begins_twice() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("restart-kill");
    let log = folder.file("log.jsonl");
    let bpf = BpfFolder::new(&folder);
    let internet = Arc::new(Internet::new(None, Some(QUEUE)));
    let asked = bpf.keep(&config(&log), 4_096);

    let began = Instant::now();
    let mut daemon = Daemon::start(&internet, &folder, &asked);
    let start = began.elapsed();
    let transfer = Transfer::start(&internet);
    let stop = Arc::new(AtomicBool::new(false));
    let hooks = watch_hooks(&internet, &stop);
    let mut moments = Moments::new();
    let kills = kills();
    for number in 0..kills {
        // Every other one is killed while it starts.
        let limit = if number % 2 == 0 { start } else { start * 2 };
        thread::sleep(moments.next(limit));
        daemon.signal(libc::SIGKILL);
        daemon.wait();
        daemon = Daemon::spawn(&internet, &folder, &asked);
        if number % 2 == 1 {
            daemon.await_notification("READY=1");
        }
    }
    daemon.signal(libc::SIGKILL);
    daemon.wait();
    // Nobody is there at the end of the transfer, and at the beginning and end of the next one.
    let (socket, received) = transfer.end();
    let second = Transfer::start(&internet).end();
    let mut daemon = Daemon::start(&internet, &folder, &asked);
    stop.store(true, Ordering::Relaxed);
    let (looks, seen) = hooks.join().expect("it looks until the end");
    println!(
        "{looks} looks at the hooks during {kills} kills, {} segments, {} sent again: {seen:?}; \
         a start takes {} ms",
        socket.data_segs_out,
        socket.total_retrans,
        start.as_millis()
    );
    assert_eq!(seen, BTreeSet::from([[1, 1]]), "always one, never two");
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
    assert_eq!(attached(&internet, "eth0"), [1, 1], "they stay");

    let lines = lines(&log);
    let opened = flows(&lines, "open");
    let ids: BTreeSet<_> = opened.iter().map(|line| line["flow_id"].as_str()).collect();
    assert_eq!((opened.len(), ids.len()), (2, 2), "each opens once");
    let known = flows(&lines, "update");
    assert!(socket.total_retrans > 0, "the queue drops");
    for (socket, received) in [(socket, received), second] {
        let flow = known
            .iter()
            .rfind(|line| line["to_client"]["segments"] == socket.data_segs_out)
            .unwrap_or_else(|| panic!("{socket:?} is none of {known:#?}"));
        let to_client = &flow["to_client"];
        assert_eq!(to_client["retransmitted_segments"], socket.total_retrans);
        let sent = to_client["bytes"].as_u64().expect("a number");
        let again = to_client["retransmitted_bytes"].as_u64().expect("a number");
        assert_eq!(sent - again, received, "every byte is counted");
        assert!(
            ids.contains(&flow["flow_id"].as_str()),
            "its id is the same"
        );
    }
    let status = lines
        .iter()
        .rfind(|line| line["type"] == "status")
        .expect("a status at the end");
    assert_eq!(status["counters"]["flows_created"], 2);
    assert_eq!(status["counters"]["flows_evicted"], 0);
}

#[test]
fn another_layout_begins_anew_in_one_swap_and_says_so() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("restart-layout");
    let log = folder.file("log.jsonl");
    let bpf = BpfFolder::new(&folder);
    let internet = Arc::new(Internet::new(None, Some(QUEUE)));
    let daemon = Daemon::start(&internet, &folder, &bpf.keep(&config(&log), 4_096));
    let stop = Arc::new(AtomicBool::new(false));
    let hooks = watch_hooks(&internet, &stop);
    let transfer = Transfer::start(&internet);
    daemon.signal(libc::SIGTERM);
    drop(daemon);
    let mut daemon = Daemon::start(&internet, &folder, &bpf.keep(&config(&log), 8_192));
    daemon.await_message("another layout");
    stop.store(true, Ordering::Relaxed);
    let (looks, seen) = hooks.join().expect("it looks until the end");
    println!("{looks} looks at the hooks: {seen:?}");
    assert_eq!(seen, BTreeSet::from([[1, 1]]), "always one, never two");
    transfer.end();
    let folders = fs::read_dir(bpf.path()).expect("readable");
    let names: Vec<_> = folders
        .map(|entry| entry.expect("readable").file_name())
        .filter(|name| name.as_bytes().starts_with(b"maps-"))
        .collect();
    assert_eq!(names.len(), 1, "the old maps have gone: {names:?}");
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
}

#[test]
fn what_stays_is_removed_by_detach_by_ctrl_c_and_when_a_device_is_no_longer_wanted() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("restart-detach");
    let log = folder.file("log.jsonl");
    let bpf = BpfFolder::new(&folder);
    let internet = Internet::new(None, None);
    let server = &internet.server;
    ip(&format!(
        "-n {server} link add eth7 type veth peer name other7"
    ));
    let asked = bpf.keep(&config(&log), 4_096);
    let mut daemon = Daemon::start(&internet, &folder, &asked);
    assert_eq!(attached(&internet, "eth7"), [1, 1]);
    let noted = |devices| match Hook::of_this_kernel() {
        Hook::Tcx => 0,
        Hook::Clsact => devices,
    };
    assert_eq!(bpf.filters_noted(), noted(2));

    // A second one does not touch what the first one uses.
    let file = folder.file("lastmile.toml");
    let detach = |config: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastmile"));
        command.args(["detach", "--config"]).arg(config);
        let run = internet.on(server, move || command.output());
        netns::join(run)
            .expect("the namespace is there")
            .expect("it runs")
    };
    let refused = detach(&file);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("another lastmile uses"), "{said}");
    assert_eq!(attached(&internet, "eth0"), [1, 1]);

    daemon.signal(libc::SIGKILL);
    daemon.wait();
    let one = asked.replace("eth*", "eth0");
    let mut daemon = Daemon::start(&internet, &folder, &one);
    await_none(&internet, "eth7");
    assert_eq!(bpf.filters_noted(), noted(1));
    assert_eq!(attached(&internet, "eth0"), [1, 1]);
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");

    assert!(!bpf.pins().is_empty());
    let done = detach(&file);
    assert!(done.status.success(), "{done:?}");
    await_none(&internet, "eth0");
    assert_eq!(bpf.pins(), Vec::<PathBuf>::new());
    assert_eq!(bpf.filters_noted(), 0);

    let mut daemon = Daemon::start(&internet, &folder, &asked);
    daemon.signal(libc::SIGINT);
    assert!(daemon.wait().success(), "a clean end");
    await_none(&internet, "eth0");
    assert_eq!(bpf.pins(), Vec::<PathBuf>::new());
    assert_eq!(bpf.filters_noted(), 0);
}
