//! What goes wrong on a real host, done to a daemon under traffic: the flow that is watched is
//! measured exactly all the same, memory stays bounded, nothing is left behind, every line of the
//! log is whole, and what was missed is counted.

mod support;

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use lastmile::export::schema::validate_line;
use serde_json::Value;
use support::{
    daemon::{Daemon, Folder, PATIENCE, config, flows, lines},
    flood::{self, SHORT_PORT},
    holdings::{Holdings, memory_kib},
    net::{Internet, PORT, TcpInfo, ip},
    stream::Transfer,
};

/// A table as small as may be.
const FLOWS: u32 = 1_024;
/// Many times what it holds.
const SYNS: u32 = 50_000;
const CONNECTIONS: u32 = 3_000;
const FEW_CONNECTIONS: u32 = 400;
/// Losses at a queue, and a transfer that goes on for as long as it is wanted.
const QUEUE: &str = "tbf rate 20mbit burst 16kb limit 30kb";
/// What a process's memory may grow by for other reasons than a leak: its allocator's.
const SLACK_KIB: u64 = 16 << 10;
const RELOADS: u32 = 60;
const COMINGS: u32 = 10;
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// As many windows as an hour has of the usual ones, after as many as it takes to have seen
/// everything once.
const HOUR_WINDOWS: usize = 60;
const FIRST_WINDOWS: usize = 10;
const CONNECTIONS_A_WINDOW: u32 = 8;

/// The usual configuration with a small table, and the port of short connections watched.
fn small(log: &Path) -> String {
    let ports = format!("ports = [{PORT}, {SHORT_PORT}]");
    let usual = config(log).replace(&format!("ports = [{PORT}]"), &ports);
    assert!(usual.contains(&ports));
    format!("{usual}[flows]\nmax = {FLOWS}\n")
}

/// The last status record's counters.
fn counters(lines: &[Value]) -> &Value {
    let status = lines.iter().rfind(|line| line["type"] == "status");
    &status.expect("a status at the end")["counters"]
}

#[track_caller]
fn counter(lines: &[Value], name: &str) -> u64 {
    let counters = counters(lines);
    let count = counters[name].as_u64();
    count.unwrap_or_else(|| panic!("no {name} in {counters}"))
}

/// Ends the daemon; what it logged.
#[track_caller]
fn finish(daemon: &mut Daemon, log: &Path) -> Vec<Value> {
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
    lines(log)
}

/// The watched flow's record is what its socket says.
#[track_caller]
fn assert_whole(lines: &[Value], socket: &TcpInfo, received: u64) {
    // Its last record, whether a window ended in between or not.
    let long = lines
        .iter()
        .rfind(|line| {
            line["type"] == "flow" && line["event"] != "open" && line["server_port"] == PORT
        })
        .unwrap_or_else(|| panic!("the watched flow is in the log: {}", counters(lines)));
    let to_client = &long["to_client"];
    assert_eq!(to_client["segments"], socket.data_segs_out, "{long}");
    assert_eq!(to_client["retransmitted_segments"], socket.total_retrans);
    let sent = to_client["bytes"].as_u64().expect("a number");
    let again = to_client["retransmitted_bytes"].as_u64().expect("a number");
    assert_eq!(sent - again, received);
    // Of what was created, everything is accounted for.
    let of = |name| counter(lines, name);
    assert_eq!(
        of("flows_created"),
        of("flows_live") + of("flows_removed") + of("flows_reused") + of("flows_evicted"),
        "{}",
        counters(lines)
    );
}

/// Every connection of the server is in the log, with what the kernel itself counted of all of them.
#[track_caller]
fn assert_all_counted(lines: &[Value], internet: &Internet) {
    let nstat = internet.tcp_counters(&internet.server);
    let opened = flows(lines, "open").len() as u64;
    assert_eq!(opened, nstat["PassiveOpens"], "{nstat:?}");
    assert_eq!(opened, counter(lines, "flows_created"));
    let records = lines
        .iter()
        .filter(|line| line["type"] == "flow" && line["event"] != "open");
    let last: BTreeMap<_, _> = records
        .map(|line| {
            // The kernel counts SYN-ACKs that it sent again too (`tcp_rtx_synack`).
            let again = ["retransmitted_segments", "syns_retransmitted"]
                .map(|name| line["to_client"][name].as_u64().expect("a number"));
            (line["flow_id"].as_str(), again.iter().sum::<u64>())
        })
        .collect();
    assert_eq!(
        last.values().sum::<u64>(),
        nstat["RetransSegs"],
        "{nstat:?}"
    );
}

#[test]
fn forged_syns_push_no_flow_out() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("faults-syns");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, Some(QUEUE));
    let mut daemon = Daemon::start(&internet, &folder, &small(&log));
    let before_kib = memory_kib(&daemon);
    let transfer = Transfer::start(&internet);
    let sent = flood::syns(&internet, SYNS);
    let (socket, received) = transfer.end();
    let after_kib = memory_kib(&daemon);
    let lines = finish(&mut daemon, &log);
    println!(
        "{sent} SYNs, {} flows, {} evicted, {before_kib} -> {after_kib} KiB",
        counter(&lines, "flows_created"),
        counter(&lines, "flows_evicted"),
    );
    assert!(counter(&lines, "packets_watched") > u64::from(sent) / 2);
    assert!(counter(&lines, "flows_pending") > u64::from(FLOWS));
    assert_eq!(counter(&lines, "flows_created"), 1, "{}", counters(&lines));
    assert_eq!(counter(&lines, "flows_evicted"), 0);
    assert!(after_kib < before_kib + SLACK_KIB, "memory is bounded");
    assert_whole(&lines, &socket, received);
}

#[test]
fn of_more_short_flows_than_there_is_room_for_a_sample_is_measured_and_the_long_one_is_whole() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("faults-short");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, Some(QUEUE));
    let mut daemon = Daemon::start(&internet, &folder, &small(&log));
    let before_kib = memory_kib(&daemon);
    let transfer = Transfer::start(&internet);
    let began = Instant::now();
    flood::connections(&internet, CONNECTIONS / 2);
    daemon.await_message("one new flow in");
    flood::connections(&internet, CONNECTIONS / 2);
    let took_ms = began.elapsed().as_millis();
    let (socket, received) = transfer.end();
    let after_kib = memory_kib(&daemon);
    let lines = finish(&mut daemon, &log);
    println!(
        "{CONNECTIONS} connections in {took_ms} ms: {}; {before_kib} -> {after_kib} KiB",
        counters(&lines)
    );
    assert!(counter(&lines, "flows_live") <= u64::from(FLOWS));
    assert!(counter(&lines, "admitted_one_in") > 1, "and it is said");
    assert!(counter(&lines, "packets_not_admitted") > 0);
    assert!(counter(&lines, "flows_created") < u64::from(CONNECTIONS));
    // Every flow that was measured stands for those that were not.
    let short = flows(&lines, "open");
    let short = short
        .iter()
        .filter(|line| line["server_port"] == SHORT_PORT);
    let stand_for = |line: &&&Value| line["stands_for"].as_u64().unwrap_or(1);
    let estimate: u64 = short.map(|line| stand_for(&line)).sum();
    println!("estimated connections: {estimate}");
    let all = u64::from(CONNECTIONS);
    assert!(
        (all / 2..all * 2).contains(&estimate),
        "{estimate} of {all}"
    );
    assert!(after_kib < before_kib + 4 * SLACK_KIB, "memory is bounded");
    assert_whole(&lines, &socket, received);
}

#[test]
fn reports_that_nobody_reads_are_counted_and_cost_no_figure() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("faults-ring");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, Some(QUEUE));
    let mut daemon = Daemon::start(&internet, &folder, &small(&log));
    let transfer = Transfer::start(&internet);
    daemon.signal(libc::SIGSTOP);
    flood::connections(&internet, CONNECTIONS);
    daemon.signal(libc::SIGCONT);
    let (socket, received) = transfer.end();
    let lines = finish(&mut daemon, &log);
    println!("{}", counters(&lines));
    assert!(counter(&lines, "reports_lost") > 0, "the ring was full");
    assert_whole(&lines, &socket, received);
}

/// A file system of its own, as small as is said.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&path).expect("a folder");
        let disk = Self(path);
        disk.mount(size, 0);
        disk
    }

    fn grow(&self, size: &str) {
        self.mount(size, libc::MS_REMOUNT);
    }

    fn mount(&self, size: &str, flags: libc::c_ulong) {
        let path = CString::new(self.0.as_os_str().as_bytes()).expect("no zero byte");
        let size = CString::new(format!("size={size}")).expect("no zero byte");
        // SAFETY: C strings that live during the call.
        let result = unsafe {
            libc::mount(
                c"tmpfs".as_ptr(),
                path.as_ptr(),
                c"tmpfs".as_ptr(),
                flags,
                size.as_ptr().cast(),
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = CString::new(self.0.as_os_str().as_bytes()).expect("no zero byte");
        // SAFETY: a C string that lives during the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_full_disk_is_said_and_counted_and_written_again_once_there_is_room() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("faults-disk");
    let disk = SmallDisk::new(folder.file("disk"), "64k");
    let log = disk.0.join("log.jsonl");
    let internet = Internet::new(None, Some(QUEUE));
    let mut daemon = Daemon::start(&internet, &folder, &small(&log));
    let transfer = Transfer::start(&internet);
    flood::connections(&internet, FEW_CONNECTIONS);
    daemon.await_message("ERROR");
    // What was written before the disk was full is whole but for the last line.
    let text = fs::read_to_string(&log).expect("readable");
    let whole = &text[..text.rfind('\n').expect("a line was written")];
    for line in whole.lines() {
        validate_line(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    disk.grow("16m");
    // Whatever comes next has what waits written.
    flood::connections(&internet, FEW_CONNECTIONS);
    daemon.await_message("the log is written again");
    let (socket, received) = transfer.end();
    let lines = finish(&mut daemon, &log);
    println!("{}", counters(&lines));
    assert!(counter(&lines, "log_writes_failed") > 0);
    assert_whole(&lines, &socket, received);
    // Of every flow that was measured it is said that it opened, or that a line is missing.
    let said = flows(&lines, "open").len() as u64 + counter(&lines, "log_lines_dropped");
    assert!(said >= counter(&lines, "flows_created"), "{said}");
}

#[test]
fn a_reader_that_reads_nothing_holds_nobody_up() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("faults-reader");
    let log = folder.file("log.fifo");
    let name = CString::new(log.as_os_str().as_bytes()).expect("no zero byte");
    // SAFETY: a C string that lives during the call.
    let result = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // Open for writing as well, so that opening it waits for nobody.
    let mut reader = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&log)
        .expect("the pipe opens");
    let internet = Internet::new(None, Some(QUEUE));
    let mut daemon = Daemon::start(&internet, &folder, &small(&log));
    let transfer = Transfer::start(&internet);
    flood::connections(&internet, FEW_CONNECTIONS);
    // Its loop still turns, with more waiting than a pipe holds.
    daemon.await_notification("WATCHDOG=1");
    daemon.await_notification("WATCHDOG=1");
    let (socket, received) = transfer.end();
    daemon.signal(libc::SIGTERM);
    // The reader wakes up, and gets everything.
    let mut text = Vec::new();
    let begin = Instant::now();
    let mut ended = false;
    loop {
        let mut part = [0; 64 << 10];
        match reader.read(&mut part) {
            Ok(length) => text.extend_from_slice(&part[..length]),
            Err(_) if ended => break,
            Err(_) => {
                ended = daemon.has_ended();
                assert!(begin.elapsed() < PATIENCE, "it ends");
                thread::sleep(LOOK_INTERVAL);
            }
        }
    }
    assert!(daemon.wait().success(), "a clean end");
    let copy = folder.file("log.jsonl");
    fs::write(&copy, &text).expect("written");
    assert!(text.ends_with(b"}\n"), "the last line is whole");
    let lines = lines(&copy);
    assert_eq!(counter(&lines, "log_lines_dropped"), 0);
    assert_whole(&lines, &socket, received);
}

#[test]
fn reloads_and_devices_that_come_and_go_leave_nothing_behind() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("faults-reloads");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, Some(QUEUE));
    let server = internet.server.clone();
    let right = small(&log);
    let wrong = right.replace("interfaces", "interface");
    let file = folder.file("lastmile.toml");
    let mut daemon = Daemon::start(&internet, &folder, &right);
    let transfer = Transfer::start(&internet);
    let come_and_go = |daemon: &mut Daemon| {
        ip(&format!(
            "-n {server} link add eth7 type veth peer name other7"
        ));
        daemon.await_message("eth7: watched");
        ip(&format!("-n {server} link del eth7"));
        daemon.await_message("eth7: not watched any more");
    };
    let reload = |daemon: &mut Daemon, text: &str, answer: &str| {
        fs::write(&file, text).expect("written");
        daemon.signal(libc::SIGHUP);
        daemon.await_message(answer);
    };
    come_and_go(&mut daemon);
    reload(&mut daemon, &wrong, "the old configuration stays");
    reload(&mut daemon, &right, "reloaded");
    let before = Holdings::of(&daemon);
    for _ in 0..COMINGS {
        come_and_go(&mut daemon);
    }
    for number in 0..RELOADS {
        // The storm: only every tenth answer is waited for.
        let is_wrong = number % 2 == 1;
        let text = if is_wrong { &wrong } else { &right };
        fs::write(&file, text).expect("written");
        daemon.signal(libc::SIGHUP);
        if number % 10 == 9 {
            daemon.await_message("the old configuration stays");
        }
    }
    reload(&mut daemon, &right, "reloaded");
    come_and_go(&mut daemon);
    let after = Holdings::of(&daemon);
    println!(
        "{COMINGS} devices, {RELOADS} reloads: {} -> {} descriptors, {} programs, {} maps, {} -> \
         {} KiB",
        before.descriptors.len(),
        after.descriptors.len(),
        after.programs.len(),
        after.maps.len(),
        before.memory_kib,
        after.memory_kib
    );
    assert!(!before.programs.is_empty() && !before.maps.is_empty());
    assert_as_much(&before, &after);
    let (socket, received) = transfer.end();
    daemon.signal(libc::SIGINT);
    assert!(daemon.wait().success(), "a clean end");
    let lines = lines(&log);
    assert_whole(&lines, &socket, received);
    assert_all_counted(&lines, &internet);
    after.await_freed();
    internet.await_no_programs("eth0");
}

/// Nothing was left behind.
#[track_caller]
fn assert_as_much(before: &Holdings, after: &Holdings) {
    let what = |of: &Holdings| (of.descriptors.len(), of.programs.clone(), of.maps.clone());
    assert_eq!(
        what(before),
        what(after),
        "{:?} and then {:?}",
        before.descriptors,
        after.descriptors
    );
    assert!(
        after.memory_kib < before.memory_kib + SLACK_KIB,
        "memory: {after:?}"
    );
}

/// Windows that have ended: each has a status.
fn windows(log: &Path) -> usize {
    let text = fs::read_to_string(log).unwrap_or_default();
    let status = |line: &&str| line.contains(r#""type":"status""#);
    text.lines().filter(status).count()
}

#[test]
fn an_hours_windows_of_flows_that_come_and_go_leave_nothing_behind() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("faults-hour");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, Some(QUEUE));
    let short = small(&log).replace("length_s = 3600", "length_s = 1");
    let mut daemon = Daemon::start(&internet, &folder, &short);
    let transfer = Transfer::start(&internet);
    let pass = |wanted: usize| {
        let (mut seen, mut begin) = (windows(&log), Instant::now());
        while seen < wanted {
            let now = windows(&log);
            if now > seen {
                flood::connections(&internet, CONNECTIONS_A_WINDOW);
                (seen, begin) = (now, Instant::now());
            }
            assert!(begin.elapsed() < PATIENCE, "{seen} windows of {wanted}");
            thread::sleep(LOOK_INTERVAL);
        }
    };
    pass(FIRST_WINDOWS);
    let before = Holdings::of(&daemon);
    pass(FIRST_WINDOWS + HOUR_WINDOWS);
    let after = Holdings::of(&daemon);
    let (socket, received) = transfer.end();
    let lines = finish(&mut daemon, &log);
    println!(
        "{HOUR_WINDOWS} windows, {} flows, {} lines: {} -> {} KiB",
        counter(&lines, "flows_created"),
        lines.len(),
        before.memory_kib,
        after.memory_kib
    );
    assert_as_much(&before, &after);
    assert_whole(&lines, &socket, received);
    assert_all_counted(&lines, &internet);
}

/// Whether this is one of our own machines, whose clock is nobody else's.
fn in_machine_or_skip() -> bool {
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let ours = command_line.contains("rdinit=/init");
    if !ours {
        println!(
            "SKIPPED: sets the clock; `cargo xtask test faults` runs it in a machine of its own"
        );
    }
    ours
}

/// Sets the wall clock `seconds` forward, or back.
fn step_clock(seconds: i64) {
    // SAFETY: the structure lives during the calls.
    unsafe {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        assert_eq!(libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time), 0);
        time.tv_sec += seconds;
        let result = libc::clock_settime(libc::CLOCK_REALTIME, &raw const time);
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

#[test]
fn a_clock_that_is_set_forward_and_back_changes_no_count_and_ends_no_window_for_good() {
    if !support::root_or_skip("network namespaces and BPF programs") || !in_machine_or_skip() {
        return;
    }
    const HOUR_S: i64 = 3_600;
    let folder = Folder::new("faults-clock");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, Some(QUEUE));
    let short = small(&log).replace("length_s = 3600", "length_s = 2");
    let mut daemon = Daemon::start(&internet, &folder, &short);
    let transfer = Transfer::start(&internet);
    for seconds in [0, HOUR_S, -2 * HOUR_S, HOUR_S] {
        step_clock(seconds);
        let (before, begin) = (windows(&log), Instant::now());
        while windows(&log) < before + 2 {
            assert!(begin.elapsed() < PATIENCE, "windows end after {seconds} s");
            thread::sleep(LOOK_INTERVAL);
        }
    }
    let (socket, received) = transfer.end();
    let lines = finish(&mut daemon, &log);
    assert_whole(&lines, &socket, received);
    assert_all_counted(&lines, &internet);
}
