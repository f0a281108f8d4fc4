//! Devices that come and go, devices on each other, and other people's programs beside ours.

mod support;

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    time::Instant,
};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
};
use lastmile::capture::live::{Hook, Live};
use lastmile_lab::netns;
use support::{
    bpf_folder::BpfFolder,
    daemon::{Daemon, Folder, config, last_records, lines},
    net::{Internet, PORT, TcpInfo, ip},
    tun::Tunnel,
};

const DOWNLOAD: usize = 1_000_000;
/// What an operator may count on.
const SOON_MS: u128 = 1_000;

#[test]
fn a_device_is_watched_within_a_second_of_its_coming_whatever_its_name_becomes() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("devices-come");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, None);
    let server = internet.server.clone();
    let mut daemon = Daemon::start(&internet, &folder, &config(&log));
    let mut took = |what: &str, message: &str| {
        let begin = Instant::now();
        ip(&format!("-n {server} {what}"));
        daemon.await_message(message);
        println!("{what}: {} ms", begin.elapsed().as_millis());
        assert!(begin.elapsed().as_millis() < SOON_MS, "{what}");
    };
    took("link add eth7 type veth peer name other7", "eth7: watched");
    took("link set eth7 name eth8", "eth7: is eth8 now");
    took("link set other7 name eth9", "eth9: watched");
    took("link set eth8 name wan8", "eth8: not watched any more");
    let elsewhere = format!("link set eth9 netns {}", internet.client);
    took(&elsewhere, "eth9: not watched any more");
    let back = format!("-n {} link set eth9 netns {server}", internet.client);
    ip(&back);
    daemon.await_message("eth9: watched");
    ip(&format!("-n {server} link del eth9"));
    daemon.await_message("eth9: not watched any more");

    // Down and up again, and everything is counted.
    ip(&format!("-n {server} link set eth0 down"));
    ip(&format!("-n {server} link set eth0 up"));
    ip(&format!("-n {server} route add default via 192.0.2.254"));
    let socket = internet.download(DOWNLOAD);
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
    let lines = lines(&log);
    let known = last_records(&lines);
    assert_eq!(known[0]["to_client"]["segments"], socket.data_segs_out);
}

#[test]
fn what_goes_through_a_tunnel_is_measured() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let internet = Internet::new(None, None);
    let _tunnel = Tunnel::new(&internet);
    assert_measured(&internet, "tun0");
}

#[test]
fn what_goes_through_an_ip_tunnel_is_measured() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let internet = Internet::new(None, None);
    let (server, client) = (&internet.server, &internet.client);
    let mut measured = Vec::new();
    for kind in ["ipip", "gre"] {
        let device = format!("{kind}7");
        let add = |host: &str, ends: [&str; 2]| {
            Command::new("ip")
                .args(["-n", host, "link", "add", &device, "type", kind])
                .args(["local", ends[0], "remote", ends[1]])
                .status()
                .is_ok_and(|status| status.success())
        };
        if !add(server, ["192.0.2.1", "198.51.100.1"]) {
            continue;
        }
        assert!(add(client, ["198.51.100.1", "192.0.2.1"]));
        for (number, host) in [(1, server), (2, client)] {
            ip(&format!(
                "-n {host} address add 10.7.0.{number}/24 dev {device}"
            ));
            ip(&format!("-n {host} link set {device} up"));
        }
        assert_measured(&internet, &device);
        ip(&format!("-n {server} link del {device}"));
        ip(&format!("-n {client} link del {device}"));
        measured.push(kind);
    }
    println!("{measured:?}");
    if measured.is_empty() {
        println!("SKIPPED: this kernel has no such tunnels");
    }
}

/// A download from the server's 10.7.0.1 is measured at `device`, as its socket says.
#[track_caller]
fn assert_measured(internet: &Internet, device: &str) {
    let folder = Folder::new(&format!("devices-{device}"));
    let log = folder.file("log.jsonl");
    let through = config(&log).replace("eth*", device);
    let mut daemon = Daemon::start(internet, &folder, &through);
    let (ready, listening) = mpsc::channel();
    let server = internet.on(&internet.server, move || {
        let listener = TcpListener::bind(("10.7.0.1", PORT)).expect("the port is free");
        ready.send(()).expect("the test listens");
        let (mut stream, _) = listener.accept().expect("the client comes");
        stream.write_all(&vec![0x5a; DOWNLOAD]).expect("connected");
        stream.shutdown(Shutdown::Write).expect("connected");
        let rest = stream.read(&mut [0; 1]).expect("the client closes");
        assert_eq!(rest, 0, "the client sends nothing");
        TcpInfo::of(&stream)
    });
    listening.recv().expect("the server listens");
    let client = internet.on(&internet.client, || {
        let mut stream = TcpStream::connect(("10.7.0.1", PORT)).expect("the server is there");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("the server sends");
        received.len()
    });
    assert_eq!(netns::join(client).expect("the client ends"), DOWNLOAD);
    let socket = netns::join(server).expect("the server ends");
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
    let lines = lines(&log);
    let known = last_records(&lines);
    assert_eq!(known.len(), 1);
    assert_eq!(known[0]["interface"], device);
    let to_client = &known[0]["to_client"];
    assert_eq!(to_client["segments"], socket.data_segs_out);
    assert_eq!(to_client["retransmitted_segments"], socket.total_retrans);
    assert!(to_client["rtt_samples"].as_u64() > Some(0));
}

#[test]
fn of_devices_on_each_other_a_pattern_watches_the_one_that_sees_every_packet() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("devices-on-each-other");
    let internet = Internet::new(None, None);
    let server = internet.server.clone();
    let added = Command::new("ip")
        .args(["-n", &server, "link", "add", "link", "eth0", "name"])
        .args(["eth0.7", "type", "vlan", "id", "7"])
        .status()
        .expect("ip runs");
    if !added.success() {
        println!("SKIPPED: this kernel has no VLAN devices");
        return;
    }
    let mut bond = vec!["eth0"];
    let added = Command::new("ip")
        .args(["-n", &server, "link", "add", "eth3", "type", "bond"])
        .status()
        .expect("ip runs");
    if added.success() {
        ip(&format!(
            "-n {server} link add eth4 type veth peer name other4"
        ));
        ip(&format!("-n {server} link set eth4 master eth3"));
        bond.push("eth3");
    } else {
        println!("this kernel has no bonds: VLANs only");
    }
    fs::write(
        folder.file("check.toml"),
        "[watch]\ninterfaces = [\"eth*\"]\nports = [80]\n",
    )
    .expect("written");
    let file = folder.file("check.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastmile"));
    command.args(["check", "--config"]).arg(file);
    let output = netns::join(internet.on(&server, move || command.output()))
        .expect("the namespace is there")
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let shown = said
        .lines()
        .find_map(|line| line.strip_prefix("interfaces"))
        .unwrap_or_else(|| panic!("{said}"));
    let mut shown: Vec<&str> = shown
        .split([' ', ','])
        .filter(|name| !name.is_empty())
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, bond);
}

/// A program of somebody else's at the egress of the server's device, before ours or after it.
struct Foreign {
    live: Live,
    _link: SchedClassifierLink,
}

impl Foreign {
    fn attach(internet: &Internet, first: bool) -> Self {
        let attach = move || {
            let mut live = Live::load(&support::small()).expect("it loads");
            // It takes Ethernet for IP and counts every packet as something else.
            let program: &mut SchedClassifier =
                live.program("lastmile_out_raw").expect("it is there");
            let options = match Hook::of_this_kernel() {
                Hook::Tcx => TcAttachOptions::TcxOrder(if first {
                    LinkOrder::first()
                } else {
                    LinkOrder::last()
                }),
                Hook::Clsact => TcAttachOptions::Netlink(NlOptions {
                    priority: if first { 1 } else { 7 },
                    handle: TcHandle::new(0, 7),
                    classid: None,
                }),
            };
            let id = program
                .attach_with_options("eth0", TcAttachType::Egress, options)
                .expect("it attaches");
            let link = program.take_link(id).expect("just attached");
            Self { live, _link: link }
        };
        netns::join(internet.on(&internet.server, attach)).expect("the namespace is there")
    }

    /// Packets that it saw.
    fn packets(&self) -> u64 {
        let counters = self.live.counters().expect("readable");
        counters.iter().sum()
    }
}

#[test]
fn somebody_elses_programs_before_and_after_ours_keep_working() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("devices-foreign");
    let log = folder.file("log.jsonl");
    let bpf = BpfFolder::new(&folder);
    let internet = Internet::new(None, None);
    if Hook::of_this_kernel() == Hook::Clsact {
        support::net::run(
            "tc",
            &format!("-n {} qdisc add dev eth0 clsact", internet.server),
        );
    }
    let others = [true, false].map(|first| Foreign::attach(&internet, first));
    let asked = bpf.keep(&config(&log), 4_096);
    let mut daemon = Daemon::start(&internet, &folder, &asked);
    let mut told = HashSet::new();
    for _ in 0..2 {
        let before = others.each_ref().map(Foreign::packets);
        let socket = internet.download(DOWNLOAD);
        for (other, before) in others.iter().zip(before) {
            assert!(other.packets() - before > 0, "it sees {socket:?}");
        }
        let seen = others.each_ref().map(Foreign::packets);
        assert_eq!(seen[0] - before[0], seen[1] - before[1], "both see all");
        daemon.signal(libc::SIGTERM);
        assert!(daemon.wait().success(), "a clean end");
        let lines = lines(&log);
        // What was kept over the restart is told of again.
        let flow = last_records(&lines)
            .into_iter()
            .find(|flow| told.insert(flow["flow_id"].to_string()))
            .expect("a flow that is new");
        assert_eq!(flow["to_client"]["segments"], socket.data_segs_out);
        daemon = Daemon::start(&internet, &folder, &asked);
    }
    // Ours go, theirs stay.
    daemon.signal(libc::SIGINT);
    assert!(daemon.wait().success(), "a clean end");
    let before = others.each_ref().map(Foreign::packets);
    internet.download(DOWNLOAD);
    for (other, before) in others.iter().zip(before) {
        assert!(other.packets() > before);
    }
}

#[test]
fn filters_of_other_kinds_are_in_nobodys_way() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("devices-kinds");
    let log = folder.file("log.jsonl");
    let bpf = BpfFolder::new(&folder);
    let internet = Internet::new(None, None);
    let server = &internet.server;
    // One that is watched, and one that is not.
    ip(&format!(
        "-n {server} link add wan7 type veth peer name other7"
    ));
    let tc = |arguments: &str| support::net::run("tc", &format!("-n {server} {arguments}"));
    let mut kinds = Vec::new();
    for device in ["eth0", "wan7"] {
        tc(&format!("qdisc add dev {device} clsact"));
        for kind in [
            "u32 match u32 0 0 action ok",
            "flower src_mac 02:00:00:00:00:01/ff:ff:ff:00:00:ff action ok",
            "matchall action ok",
        ] {
            let added = Command::new("tc")
                .args(["-n", server, "filter", "add", "dev", device, "ingress"])
                .args(["protocol", "all"])
                .args(kind.split(' '))
                .output()
                .expect("tc runs");
            if added.status.success() {
                kinds.push(kind);
            }
        }
    }
    println!("{kinds:?}");
    if kinds.is_empty() {
        println!("SKIPPED: this kernel has no such filters");
        return;
    }
    let asked = bpf.keep(&config(&log), 4_096);
    for _ in 0..2 {
        let mut daemon = Daemon::start(&internet, &folder, &asked);
        assert_eq!(internet.programs_at("eth0"), [1, 1]);
        daemon.signal(libc::SIGTERM);
        assert!(daemon.wait().success(), "a clean end");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastmile"));
    command
        .args(["detach", "--config"])
        .arg(folder.file("lastmile.toml"));
    let done = netns::join(internet.on(server, move || command.output()))
        .expect("the namespace is there")
        .expect("it runs");
    assert!(done.status.success(), "{done:?}");
    internet.await_no_programs("eth0");
    assert_eq!(bpf.filters_noted(), 0);
}

#[test]
fn a_qdisc_that_knows_no_egress_is_said_and_nothing_is_measured_wrongly() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let folder = Folder::new("devices-ingress");
    let log = folder.file("log.jsonl");
    let internet = Internet::new(None, None);
    let server = &internet.server;
    ip(&format!(
        "-n {server} link add eth7 type veth peer name other7"
    ));
    support::net::run("tc", &format!("-n {server} qdisc add dev eth7 ingress"));
    let mut daemon = Daemon::spawn(&internet, &folder, &config(&log));
    match Hook::of_this_kernel() {
        Hook::Tcx => {
            daemon.await_message("eth7: watched");
            daemon.await_notification("READY=1");
        }
        Hook::Clsact => {
            daemon.await_message("eth7: its ingress qdisc leaves no room for clsact");
            daemon.await_notification("READY=1");
            assert_eq!(internet.programs_at("eth7"), [0, 0]);
            support::net::run("tc", &format!("-n {server} qdisc del dev eth7 ingress"));
            support::net::run("tc", &format!("-n {server} qdisc add dev eth7 clsact"));
            daemon.signal(libc::SIGHUP);
            daemon.await_message("eth7: watched");
        }
    }
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
}
