//! A route experiment of the real daemon: which connections the kernel sends another way, and what the
//! log says of them.

mod support;

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lastmile_lab::netns;
use serde_json::Value;

use support::{
    chain::queue_or_skip,
    daemon::{self, Daemon, Folder},
    net::{CLIENT, Internet, PORT, SERVER, ip, run},
    root_or_skip,
    transfer::Downloads,
};

/// What the server's routing goes by, and what a router's could.
const MARK: u32 = 7;
const DSCP: u32 = 10;
const SHARE: f64 = 0.1;
const CLIENTS: usize = 4;
const EACH: usize = 60;
/// A few segments, so that there is something to measure.
const BYTES: usize = 20_000;

/// A cgroup2 file system: a host with systemd has one, a bare container may not. One test at a time:
/// the other would take this one's for the host's.
struct ControlGroups(
    Option<PathBuf>,
    #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>,
);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl ControlGroups {
    fn find_or_mount(folder: &Folder) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mounts = fs::read_to_string("/proc/self/mounts").expect("there are mounts");
        let is_one = |mount: &str| mount.split(' ').nth(2) == Some("cgroup2");
        if mounts.lines().any(is_one) {
            return Self(None, turn);
        }
        let at = folder.file("cgroup2");
        fs::create_dir(&at).expect("a folder");
        run("mount", &format!("-t cgroup2 none {}", at.display()));
        Self(Some(at), turn)
    }
}

impl Drop for ControlGroups {
    fn drop(&mut self) {
        if let Some(at) = &self.0 {
            let _ = Command::new("umount").arg("-l").arg(at).status();
        }
    }
}

/// The server reaches the router by a second link, which marked packets take.
fn internet() -> Internet {
    // With a round trip that is longer than it takes the daemon to hear of a handshake.
    let internet = Internet::new(None, Some("netem delay 10ms"));
    let (server, router, client) = (&internet.server, &internet.router, &internet.client);
    ip(&format!(
        "link add eth1 netns {server} type veth peer name eth2 netns {router}"
    ));
    for (name, device, address) in [
        (server, "eth1", "203.0.113.1/24"),
        (router, "eth2", "203.0.113.254/24"),
        (server, "eth0", "2001:db8:a::1/64 nodad"),
        (router, "eth0", "2001:db8:a::fe/64 nodad"),
        (server, "eth1", "2001:db8:b::1/64 nodad"),
        (router, "eth2", "2001:db8:b::fe/64 nodad"),
        (router, "eth1", "2001:db8:c::fe/64 nodad"),
        (client, "eth0", "2001:db8:c::1/64 nodad"),
    ] {
        ip(&format!("-n {name} address add {address} dev {device}"));
        ip(&format!("-n {name} link set {device} up"));
    }
    netns::set_sysctl(router, "net/ipv6/conf/all/forwarding", "1").expect("it forwards");
    for of in ["all", "eth0", "eth2"] {
        let key = format!("net/ipv4/conf/{of}/rp_filter");
        // What the server sends through its second link comes from its first one's address.
        netns::set_sysctl(router, &key, "0").expect("the router takes what comes");
    }
    for line in [
        format!("-n {server} rule add fwmark {MARK} lookup 100"),
        format!("-n {server} route add default via 203.0.113.254 table 100"),
        format!("-n {server} -6 rule add fwmark {MARK} lookup 100"),
        format!("-n {server} -6 route add default via 2001:db8:a::fe"),
        format!("-n {server} -6 route add default via 2001:db8:b::fe table 100"),
        format!("-n {client} -6 route add default via 2001:db8:c::fe"),
    ] {
        ip(&line);
    }
    internet
}

fn config(folder: &Folder, experiment: &str) -> String {
    let prefixes = folder.file("prefixes.csv");
    let text = format!(
        "prefix,origin_asn,isp,interconnect\n{CLIENT}/32,64501,Northnet,ix-a\n\
         2001:db8:c::/48,64501,Northnet,ix-a\n"
    );
    fs::write(&prefixes, text).expect("prefixes");
    format!(
        "{}[path]\nprefixes_csv = \"{}\"\n{experiment}",
        daemon::config(&folder.file("log.jsonl")),
        prefixes.display()
    )
}

fn experiment(share: f64) -> String {
    format!(
        "[path.experiment]\nshare = {share}\nmark = {MARK}\ndscp = {DSCP}\ninterconnect = \"ix-b\"\n\
         [[path.interconnect]]\nname = \"ix-b\"\npeer_asn = 64501\ninterface = \"eth1\"\n"
    )
}

fn download(internet: &Internet, server: IpAddr) {
    let downloads = Downloads {
        clients: CLIENTS,
        each: EACH,
        ..Downloads::new(SocketAddr::from((server, PORT)), BYTES)
    };
    downloads.run(&internet.server, &internet.client);
}

/// How many connections the kernel says it has marked; each could be.
fn marked(lines: &[Value]) -> u64 {
    let last = lines.iter().rfind(|line| line["type"] == "status");
    let last = last.expect("a status at the end");
    let count = |name: &str| last["counters"][name].as_u64().expect("a count");
    assert_eq!(count("experiment_flows_not_marked"), 0);
    count("experiment_flows_sent_another_way")
}

fn stop(mut daemon: Daemon, folder: &Folder) -> Vec<Value> {
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success());
    daemon::lines(&folder.file("log.jsonl"))
}

fn arm<'a>(flows: &[&'a Value], arm: &str) -> Vec<&'a Value> {
    let of = |flow: &&Value| flow["experiment"] == arm;
    flows.iter().copied().filter(of).collect()
}

#[test]
fn the_share_of_an_experiment_takes_the_other_way_and_the_log_says_which_flows_did() {
    if !root_or_skip("marking the sockets of a daemon's host") || !queue_or_skip("netem") {
        return;
    }
    for server in [
        IpAddr::from(SERVER),
        IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1)),
    ] {
        let folder = Folder::new("experiment");
        let _groups = ControlGroups::find_or_mount(&folder);
        let internet = internet();
        let running = Daemon::start(&internet, &folder, &config(&folder, &experiment(SHARE)));
        download(&internet, server);
        let lines = stop(running, &folder);
        let flows = daemon::last_records(&lines);
        let (others, rest) = (arm(&flows, "other_way"), arm(&flows, "default_way"));
        assert_eq!(others.len() + rest.len(), CLIENTS * EACH, "{server}");
        assert!(!others.is_empty(), "none of {}", flows.len());
        // Six standard deviations of a binomial share.
        let expected = SHARE * flows.len() as f64;
        let off = (others.len() as f64 - expected).abs();
        assert!(
            off < 6.0 * (expected * (1.0 - SHARE)).sqrt(),
            "{} of {}",
            others.len(),
            flows.len()
        );
        for (flows, device, interconnect) in [(&others, "eth1", "ix-b"), (&rest, "eth0", "ix-a")] {
            for flow in flows {
                assert_eq!(flow["interface"], device, "{flow}");
                assert_eq!(flow["path"]["interconnect"], interconnect, "{flow}");
                assert_eq!(flow["path"]["isp"], "Northnet");
                let sent = |name: &str| flow["to_client"][name].as_u64().expect("a count");
                // From the first byte on, whatever was sent again.
                let new = sent("bytes") - sent("retransmitted_bytes");
                assert_eq!(new, BYTES as u64, "{flow}");
            }
        }
        assert_eq!(marked(&lines), others.len() as u64);
    }
}

#[test]
fn an_experiment_ends_with_a_reload_and_others_sockets_are_left_alone() {
    if !root_or_skip("marking the sockets of a daemon's host") || !queue_or_skip("netem") {
        return;
    }
    let folder = Folder::new("experiment-ends");
    let _groups = ControlGroups::find_or_mount(&folder);
    let (internet, other) = (internet(), internet());
    let running = Daemon::start(&internet, &folder, &config(&folder, &experiment(SHARE)));
    // The program sees the sockets of every network namespace: nothing of theirs is marked, and
    // nothing goes through the link that marked packets take.
    download(&other, SERVER.into());
    let sent = netns::join(other.on(&other.server, || {
        fs::read_to_string("/proc/thread-self/net/dev").expect("devices are counted")
    }));
    let sent = sent.expect("the namespace is there");
    let eth1 = sent.lines().find(|line| line.contains("eth1:"));
    let packets = eth1.and_then(|line| line.split_whitespace().nth(10)?.parse::<u64>().ok());
    let packets = packets.expect("packets sent through it");
    assert!(packets < CLIENTS as u64 * EACH as u64 / 4, "{packets}");

    download(&internet, SERVER.into());
    fs::write(
        folder.file("lastmile.toml"),
        config(&folder, &experiment(0.0)),
    )
    .expect("written");
    let mut running = running;
    running.signal(libc::SIGHUP);
    running.await_message("reloaded");
    download(&internet, SERVER.into());
    let lines = stop(running, &folder);
    let flows = daemon::last_records(&lines);
    let others = arm(&flows, "other_way");
    assert!(!others.is_empty() && others.len() < CLIENTS * EACH / 3);
    assert_eq!(
        others.len() as u64,
        marked(&lines),
        "by their marks, to the end"
    );
    // Of the second half at most the first ones began before the end was heard of.
    let none = flows.iter().filter(|flow| flow["experiment"].is_null());
    assert!(none.count() > CLIENTS * (EACH - 1));
}
