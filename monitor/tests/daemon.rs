//! The real daemon on real devices: what it logs, and that its end disturbs nobody.

mod support;

use std::{
    fs,
    io::{BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use lastmile::export::schema::validate_line;
use serde_json::Value;
use support::{
    daemon::{Daemon, Folder, config, last_records, lines},
    net::{Internet, PORT},
    stream::Transfer,
};

const DOWNLOAD: usize = 4_000_000;
const SMALL_DOWNLOAD: usize = 20_000;
/// Longer than anything here takes, under emulation too.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_flow_goes_through_the_interconnect_of_the_kernels_route_and_its_port_is_read() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("kernel-route");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, None);
    // Beside the default route: other clients take another way.
    support::net::ip(&format!(
        "-n {} route add 198.51.0.0/16 via 192.0.2.99",
        internet.server
    ));
    support::net::ip(&format!(
        "-n {} route add 198.51.100.0/24 via 192.0.2.254",
        internet.server
    ));
    let prefixes = folder.file("prefixes.csv");
    fs::write(
        &prefixes,
        "prefix,origin_asn,isp,interconnect\n198.51.0.0/16,64501,Northnet,\n",
    )
    .expect("written");
    let ports = folder.file("ports.csv");
    fs::write(&ports, "time,interconnect,out_octets\n1,ic-right,1\n").expect("written");
    let config = format!(
        "{}[path]\nprefixes_csv = \"{}\"\nkernel_routes = true\n\
         [path.ports]\ncsv = \"{}\"\ninterval_s = 1\n\
         [[path.interconnect]]\nname = \"ic-wrong\"\nnext_hop = \"192.0.2.99\"\n\
         [[path.interconnect]]\nname = \"ic-right\"\ninterface = \"eth0\"\nnext_hop = \"192.0.2.254\"\n",
        config(&log),
        prefixes.display(),
        ports.display()
    );
    let mut daemon = Daemon::start(&internet, &folder, &config);
    internet.download(DOWNLOAD);
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");

    let lines = lines(&log);
    let known = last_records(&lines);
    assert_eq!(known.len(), 1, "one flow, written at the end: {lines:?}");
    let path = &known[0]["path"];
    assert_eq!(path["interconnect"], "ic-right", "{path}");
    assert_eq!(path["next_hop"], "192.0.2.254");
    let status = lines
        .iter()
        .rfind(|line| line["type"] == "status")
        .expect("a status at the end");
    assert!(status["counters"]["fib_routes"].as_u64() > Some(3));
    assert_eq!(status["counters"]["port_readings"], 1);
}

#[test]
fn sigterm_writes_what_is_known_and_every_line_is_of_the_schema() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("sigterm");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, Some("tbf rate 40mbit burst 16kb limit 30kb"));
    let mut daemon = Daemon::start(&internet, &folder, &config(&log));
    let socket = internet.download(DOWNLOAD);
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");

    let lines = lines(&log);
    let known = last_records(&lines);
    assert_eq!(known.len(), 1, "one flow, written at the end: {lines:?}");
    let flow = known[0];
    assert_eq!(flow["vantage"], "sender");
    assert_eq!(flow["client_ip"], "198.51.100.0/24", "truncated");
    assert_eq!(flow["server_port"], PORT);
    assert_eq!(flow["interface"], "eth0");
    let to_client = &flow["to_client"];
    assert_eq!(to_client["retransmitted_segments"], socket.total_retrans);
    assert_eq!(to_client["kernel_retransmits"], socket.total_retrans);
    assert!(to_client["rtt_samples"].as_u64() > Some(0));
    let status = lines
        .iter()
        .rfind(|line| line["type"] == "status")
        .expect("a status at the end");
    assert_eq!(status["counters"]["reports_lost"], 0);
    assert_eq!(status["counters"]["flows_evicted"], 0);
    internet.await_no_programs("eth0");
}

#[test]
fn a_kill_disturbs_no_traffic_and_the_next_start_works() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("kill");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, Some("tbf rate 40mbit burst 16kb limit 100kb"));
    for _ in 0..3 {
        let mut daemon = Daemon::start(&internet, &folder, &config(&log));
        let while_killed = internet.download_while(DOWNLOAD, || {
            daemon.signal(libc::SIGKILL);
            daemon.wait();
        });
        assert!(while_killed.data_segs_out > 0, "the transfer went on");
    }
    // What a killed daemon left sees nothing twice in the next one.
    let mut daemon = Daemon::start(&internet, &folder, &config(&log));
    let socket = internet.download(DOWNLOAD);
    daemon.signal(libc::SIGINT);
    assert!(daemon.wait().success(), "a clean end");
    let lines = lines(&log);
    let known = last_records(&lines);
    let last = known.last().expect("the last flow is written at the end");
    assert_eq!(last["to_client"]["segments"], socket.data_segs_out);
}

#[test]
fn sighup_reopens_the_log_and_keeps_the_old_configuration_when_the_new_one_is_wrong() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("sighup");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, None);
    let mut daemon = Daemon::start(&internet, &folder, &config(&log));
    let rotated = folder.file("log.jsonl.1");
    fs::rename(&log, &rotated).expect("logrotate moves it");
    daemon.signal(libc::SIGHUP);
    daemon.await_message("reloaded");

    fs::write(folder.file("lastmile.toml"), "[watch]\nprots = [1]\n").expect("written");
    daemon.signal(libc::SIGHUP);
    let said = daemon.await_message("ERROR");
    assert!(said.contains("lastmile.toml"), "names the file: {said}");
    daemon.await_message("old configuration stays");

    internet.download(DOWNLOAD);
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
    assert_eq!(last_records(&lines(&log)).len(), 1, "in the new file");
    assert!(
        last_records(&lines(&rotated)).is_empty(),
        "nothing in the old one"
    );
}

#[test]
fn sighup_applies_ports_prefixes_and_the_logs_place_at_once() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("sighup-applies");
    let [first, second] = ["first.jsonl", "second.jsonl"].map(|name| folder.file(name));
    let internet = Internet::new(None, None);
    let watched = format!("ports = [{PORT}]");
    let other = |log: &Path| config(log).replace(&watched, "ports = [81]");
    let mut daemon = Daemon::start(&internet, &folder, &other(&first));
    internet.download(DOWNLOAD);
    let mut reload = |to: String| {
        fs::write(folder.file("lastmile.toml"), to).expect("written");
        daemon.signal(libc::SIGHUP);
        daemon.await_message("reloaded");
    };
    reload(config(&second) + "level = \"debug\"\n");
    let by_port = internet.download(DOWNLOAD);
    let of = |prefix: &str| {
        let prefixes = format!("{watched}\nprefixes = [\"{prefix}\"]");
        config(&second).replace(&watched, &prefixes)
    };
    reload(of("203.0.113.0/24"));
    internet.download(DOWNLOAD);
    reload(of("198.51.100.0/24"));
    let by_prefix = internet.download(DOWNLOAD);
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");

    assert!(
        last_records(&lines(&first)).is_empty(),
        "nothing was watched"
    );
    let lines = lines(&second);
    let known = last_records(&lines);
    let segments: Vec<_> = known
        .iter()
        .map(|flow| flow["to_client"]["segments"].as_u64())
        .collect();
    let wanted = [by_port, by_prefix].map(|of| Some(u64::from(of.data_segs_out)));
    assert_eq!(segments.len(), 2, "of four transfers: {known:?}");
    assert!(
        wanted.iter().all(|of| segments.contains(of)),
        "{segments:?}"
    );
}

#[test]
fn sigusr1_tells_of_the_playbacks_that_are_not_over() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("sigusr1");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, None);
    let mut daemon = Daemon::start(&internet, &folder, &config(&log));
    internet.download_while(DOWNLOAD, || {
        daemon.signal(libc::SIGUSR1);
        daemon.await_message("1 session(s) are not over");
    });
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");

    let lines = lines(&log);
    let sessions: Vec<&Value> = lines
        .iter()
        .filter(|line| line["type"] == "session")
        .collect();
    let [asked, over] = sessions[..] else {
        panic!("one on request and one at the end: {sessions:?}");
    };
    assert_eq!(asked["session_id"], over["session_id"]);
    assert_eq!(asked["end_reason"], Value::Null);
    assert_eq!(over["end_reason"], "shutdown");
    let chunks = |session: &Value| session["chunks"]["count"].as_u64();
    assert!(chunks(asked) > Some(0) && chunks(over) > chunks(asked));
}

#[test]
fn a_device_that_appears_is_watched_and_one_that_vanishes_is_let_go() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("devices");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, None);
    let mut daemon = Daemon::start(&internet, &folder, &config(&log));
    let server = &internet.server;
    support::net::ip(&format!(
        "-n {server} link add eth7 type veth peer name other7"
    ));
    daemon.await_message("eth7: watched");
    support::net::ip(&format!("-n {server} link del eth7"));
    daemon.await_message("eth7: not watched any more");
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
}

/// A pipe with a name, whose lines can be waited for.
fn pipe(path: &Path) -> BufReader<fs::File> {
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("no zero byte");
    // SAFETY: the name is a C string that lives during the call.
    let result = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // Open for writing as well: a writer that closes is not the end.
    let open = fs::OpenOptions::new().read(true).write(true).open(path);
    BufReader::new(open.expect("the pipe opens"))
}

/// The next line of the log for which `wanted` holds; every line on the way is of the schema.
fn await_line(log: &mut impl std::io::BufRead, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let mut line = String::new();
        log.read_line(&mut line).expect("the log is read");
        validate_line(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let value: Value = serde_json::from_str(&line).expect("valid lines are JSON");
        if wanted(&value) {
            return value;
        }
    }
}

/// BMP (RFC 7854): a header before `body`.
fn bmp(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = 6 + body.len() as u32;
    [&[3][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// The client's prefix, of AS64501, through AS64999 and this next hop.
fn announcement(next_hop: [u8; 4]) -> Vec<u8> {
    let mut per_peer = vec![0, 0x40];
    per_peer.extend([0; 20]);
    per_peer.extend([192, 0, 2, 254]);
    per_peer.extend(64_999u32.to_be_bytes());
    per_peer.extend([0; 12]);
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 10, 2, 2];
    attributes.extend(64_999u32.to_be_bytes());
    attributes.extend(64_501u32.to_be_bytes());
    attributes.extend([0x40, 3, 4]);
    attributes.extend(next_hop);
    let mut update = vec![0xff; 16];
    update.extend((23 + attributes.len() as u16 + 4).to_be_bytes());
    update.extend([2, 0, 0]);
    update.extend((attributes.len() as u16).to_be_bytes());
    update.extend(attributes);
    update.extend([24, 198, 51, 100]);
    bmp(0, &[per_peer, update].concat())
}

#[test]
fn a_route_that_moves_while_a_flow_is_open_is_logged_and_remembered() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("routes");
    let log = folder.file("log.jsonl");
    let mut lines = pipe(&log);
    let internet = Internet::new(None, Some("tbf rate 8mbit burst 16kb limit 100kb"));
    let asked = config(&log)
        + "[path.bmp]\nlisten = \"127.0.0.1:11019\"\n[path.history]\nfile = \"history.sqlite\"\n";
    let mut daemon = Daemon::start(&internet, &folder, &asked);
    let connected = internet.on(&internet.server, || {
        std::net::TcpStream::connect("127.0.0.1:11019")
    });
    let mut router = lastmile_lab::netns::join(connected)
        .expect("the namespace is there")
        .expect("the daemon listens");
    let first = [bmp(4, b"\0\x02\0\x02r1"), announcement([192, 0, 2, 1])].concat();
    router.write_all(&first).expect("sent");
    daemon.await_message("r1 is connected");
    // The route is in use once a flow opens with it.
    loop {
        internet.download(SMALL_DOWNLOAD);
        let open = await_line(&mut lines, |line| line["event"] == "open");
        if !open["path"]["interconnect"].is_null() {
            break;
        }
    }

    let mut flow_id = Value::Null;
    internet.download_while(DOWNLOAD, || {
        let open = await_line(&mut lines, |line| line["event"] == "open");
        flow_id = open["flow_id"].clone();
        assert_eq!(open["path"]["interconnect"], "AS64999 via 192.0.2.1");
        assert_eq!(open["path"]["origin_asn"], 64_501);
        let moves = announcement([192, 0, 2, 2]);
        router.write_all(&moves).expect("sent");
        let route = await_line(&mut lines, |line| {
            line["type"] == "route" && line["after"]["interconnect"] == "AS64999 via 192.0.2.2"
        });
        assert_eq!(route["prefix"], "198.51.100.0/24");
        assert_eq!(route["prefixes"], 1);
        assert!(route["flows"].as_u64() >= Some(1), "{route}");
        assert_eq!(route["before"]["interconnect"], "AS64999 via 192.0.2.1");
        assert_eq!(route["after"]["router"], "r1");
    });
    daemon.signal(libc::SIGTERM);
    let last = await_line(&mut lines, |line| {
        line["event"] != "open" && line["flow_id"] == flow_id
    });
    assert_eq!(last["path"]["interconnect"], "AS64999 via 192.0.2.2");
    let status = await_line(&mut lines, |line| line["type"] == "status");
    assert_eq!(status["counters"]["route_prefixes_followed"], 1);
    assert_eq!(status["counters"]["history_entries_lost"], 0);
    assert!(daemon.wait().success(), "a clean end");

    let said = Command::new(env!("CARGO_BIN_EXE_lastmile"))
        .args(["route", "198.51.100.1", "--json", "--config"])
        .arg(folder.file("lastmile.toml"))
        .output()
        .expect("it runs");
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let history = &said["history"];
    assert_eq!(history["answer"], "known", "{history}");
    assert_eq!(history["way"]["interconnect"], "AS64999 via 192.0.2.2");
    assert_eq!(
        history["moved_from"]["interconnect"],
        "AS64999 via 192.0.2.1"
    );
}

#[test]
fn what_is_certainly_no_video_is_passed_over_and_video_is_not() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("passed-over");
    let log = folder.file("log.jsonl");
    let mut lines = pipe(&log);
    let services = folder.file("services.csv");
    fs::write(&services, "suffix,service\ncdn.example,Films\n").expect("written");
    let config = format!(
        "{}[video]\nservices_csv = \"{}\"\nbehaviour = false\n",
        config(&log).replace("length_s = 3600", "length_s = 1"),
        services.display()
    );
    let internet = Internet::new(None, Some("tbf rate 40mbit burst 16kb limit 30kb"));
    let mut daemon = Daemon::start(&internet, &folder, &config);
    let page = Transfer::asking(&internet, "GET / HTTP/1.1\r\nHost: www.example\r\n\r\n");
    await_line(&mut lines, |line| {
        assert_ne!(line["type"], "flow", "{line}");
        line["counters"]["packets_passed_over"].as_u64() > Some(1_000)
    });
    page.end();

    let film = Transfer::asking(&internet, "GET / HTTP/1.1\r\nHost: a.cdn.example\r\n\r\n");
    await_line(&mut lines, |line| {
        line["event"] != "open" && line["service"] == "Films"
    });
    let (socket, _) = film.end();
    let close = await_line(&mut lines, |line| line["event"] == "close");
    assert_eq!(close["service"], "Films");
    assert_eq!(close["to_client"]["segments"], socket.data_segs_out);
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
}

#[test]
fn a_broken_configuration_is_exit_code_2_with_file_and_line() {
    let folder = Folder::new("broken");
    let file = folder.file("lastmile.toml");
    fs::write(&file, "[watch]\nports = [80]\n[window]\nlength_s = 0\n").expect("written");
    for command in ["run", "check"] {
        let output = Command::new(env!("CARGO_BIN_EXE_lastmile"))
            .args([command, "--config"])
            .arg(&file)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("lastmile.toml:4"), "file and line: {said}");
    }
}

#[test]
fn prometheus_finds_the_counters_on_loopback() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("metrics");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, None);
    let short = config(&log).replace("length_s = 3600", "length_s = 1");
    let mut daemon = Daemon::start(&internet, &folder, &short);
    let get = |path: &'static str| {
        let answer = internet.on(&internet.server, move || {
            let mut stream = TcpStream::connect("127.0.0.1:9718").expect("somebody listens");
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            .expect("the question is sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("it answers");
            answer
        });
        lastmile_lab::netns::join(answer).expect("the namespace is there")
    };
    internet.download(DOWNLOAD);
    let watched = |answer: &str| {
        answer
            .lines()
            .filter_map(|line| line.strip_prefix("lastmile_packets_watched_total "))
            .any(|count| count != "0")
    };
    // The counters are those of the last status record: once a window.
    let begin = Instant::now();
    while !watched(&get("/metrics")) {
        assert!(begin.elapsed() < PATIENCE, "{}", get("/metrics"));
    }
    // Routes, peers, churn and staleness are there, whatever the sources are.
    let metrics = get("/metrics");
    for name in [
        "route_prefixes_file",
        "route_prefixes_bmp",
        "route_prefixes_mrt",
        "bmp_routers_connected",
        "bmp_peers",
        "bmp_routes",
        "route_prefixes_changed_total",
        "bmp_announcements_total",
        "bmp_withdrawals_total",
        "route_sources_stale",
        "bmp_routers_stale",
    ] {
        let line = format!("lastmile_{name} ");
        assert!(
            metrics.lines().any(|there| there.starts_with(&line)),
            "{name}\n{metrics}"
        );
    }
    let health = get("/healthz");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
}

#[test]
fn messages_of_the_kernel_side_arrive_when_asked_for() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("messages");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, None);
    let asked = config(&log) + "level = \"debug\"\n[debug]\nkernel_log = \"info\"\n";
    let mut daemon = Daemon::start(&internet, &folder, &asked);
    internet.download(DOWNLOAD);
    daemon.await_message("TCP flags");
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
}
