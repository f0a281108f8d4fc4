//! A daemon that is restarted, killed or replaced misses no packet: the programs stay attached and
//! the flow table stays in the kernel, and whoever comes next goes on with both.

mod support;

use std::{
    collections::BTreeSet,
    fs,
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

use lastmile::capture::live::Hook;
use lastmile_lab::netns;
use support::{
    bpf_folder::BpfFolder,
    daemon::{Daemon, Folder, config, flows, last_records, lines},
    net::{Internet, ip},
    stream::Transfer,
};

/// Restarts under one transfer, where [`KILLS_VARIABLE`] does not say how many.
const KILLS: u32 = 100;
const KILLS_VARIABLE: &str = "LASTMILE_KILLS";
/// A transfer that outlasts them, with losses at its queue.
const QUEUE: &str = "tbf rate 20mbit burst 16kb limit 30kb";
/// Both hooks are looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Looks at the hooks until it is told to stop: how often, and every count that it saw.
fn watch_hooks(
    internet: &Arc<Internet>,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<(u32, BTreeSet<[usize; 2]>)> {
    let (internet, stop) = (Arc::clone(internet), Arc::clone(stop));
    thread::spawn(move || {
        let (mut looks, mut seen) = (0, BTreeSet::new());
        while !stop.load(Ordering::Relaxed) {
            seen.insert(internet.programs_at("eth0"));
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
    // The first one was waited for.
    let mut ready = 1;
    for _ in 0..kills {
        // Two in three while they start, if that takes them as long as it took the first.
        thread::sleep(moments.next(start * 3 / 2));
        daemon.signal(libc::SIGKILL);
        daemon.wait();
        ready += u32::from(daemon.has_notified("READY=1"));
        daemon = Daemon::spawn(&internet, &folder, &asked);
    }
    daemon.signal(libc::SIGKILL);
    daemon.wait();
    // Nobody is there at the end of the transfer, and at the beginning and end of the next one.
    let (socket, received) = transfer.end();
    let second = Transfer::start(&internet).end();
    let mut daemon = Daemon::start(&internet, &folder, &asked);
    stop.store(true, Ordering::Relaxed);
    let (looks, seen) = hooks.join().expect("it looks until the end");
    let nstat = internet.tcp_counters(&internet.server);
    println!(
        "{looks} looks at the hooks during {kills} kills, {ready} of them of daemons that were ready, \
         {} segments, {} sent again: {seen:?}; a start takes {} ms",
        socket.data_segs_out,
        socket.total_retrans,
        start.as_millis()
    );
    assert!(kills < KILLS || ready > 1, "some are killed at work");
    assert_eq!(seen, BTreeSet::from([[1, 1]]), "always one, never two");
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
    assert_eq!(internet.programs_at("eth0"), [1, 1], "they stay");

    let lines = lines(&log);
    let opened = flows(&lines, "open");
    let ids: BTreeSet<_> = opened.iter().map(|line| line["flow_id"].as_str()).collect();
    assert_eq!((opened.len(), ids.len()), (2, 2), "each opens once");
    let known = last_records(&lines);
    assert!(socket.total_retrans > 0, "the queue drops");
    let both = [(socket, received), second];
    let sent_again: u32 = both.iter().map(|(socket, _)| socket.total_retrans).sum();
    assert_eq!(u64::from(sent_again), nstat["RetransSegs"]);
    for (socket, received) in both {
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
    assert_eq!(internet.programs_at("eth7"), [1, 1]);
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
    assert_eq!(internet.programs_at("eth0"), [1, 1]);

    daemon.signal(libc::SIGKILL);
    daemon.wait();
    let one = asked.replace("eth*", "eth0");
    let mut daemon = Daemon::start(&internet, &folder, &one);
    internet.await_no_programs("eth7");
    assert_eq!(bpf.filters_noted(), noted(1));
    assert_eq!(internet.programs_at("eth0"), [1, 1]);
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");

    assert!(!bpf.pins().is_empty());
    let done = detach(&file);
    assert!(done.status.success(), "{done:?}");
    internet.await_no_programs("eth0");
    assert_eq!(bpf.pins(), Vec::<PathBuf>::new());
    assert_eq!(bpf.filters_noted(), 0);

    let mut daemon = Daemon::start(&internet, &folder, &asked);
    daemon.signal(libc::SIGINT);
    assert!(daemon.wait().success(), "a clean end");
    internet.await_no_programs("eth0");
    assert_eq!(bpf.pins(), Vec::<PathBuf>::new());
    assert_eq!(bpf.filters_noted(), 0);
}
