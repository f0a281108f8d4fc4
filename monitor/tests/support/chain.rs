//! Hosts in a row as network namespaces: every one but the ends forwards.
//!
//! ```text
//! host 0 right -- left host 1 right -- left host 2 ...
//! ```

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
};

use lastmile_lab::netns;

use super::net::run;

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// The devices of a host, by the neighbour they lead to.
pub const LEFT: &str = "left";
pub const RIGHT: &str = "right";

/// Gone when dropped.
pub struct Chain {
    /// Names of the namespaces, from left to right.
    pub hosts: Vec<String>,
}

impl Chain {
    /// At least two hosts, connected and with routes between the two ends.
    pub fn new(hosts: usize) -> Self {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let chain = Self {
            hosts: (0..hosts)
                .map(|host| format!("lm-{}-{serial}-{host}", std::process::id()))
                .collect(),
        };
        let names: Vec<_> = chain
            .hosts
            .iter()
            .map(|host| format!("netns add {host}"))
            .collect();
        netns::batch("ip", None, &names).expect("hosts are made");
        for host in &chain.hosts {
            // Nothing but what a test sends, so that its queues count nothing else.
            if Path::new("/proc/sys/net/ipv6").exists() {
                netns::set_sysctl(host, "net/ipv6/conf/default/disable_ipv6", "1")
                    .expect("IPv6 can be left out");
            }
        }
        let links: Vec<_> = chain
            .hosts
            .windows(2)
            .enumerate()
            .map(|(link, pair)| {
                format!(
                    "link add name {RIGHT} netns {} address {} type veth peer name {LEFT} \
                     netns {} address {}",
                    pair[0],
                    mac(link, 1),
                    pair[1],
                    mac(link, 2)
                )
            })
            .collect();
        netns::batch("ip", None, &links).expect("links are made");
        let last = hosts - 1;
        for (at, host) in chain.hosts.iter().enumerate() {
            let mut lines = vec!["link set lo up".to_owned()];
            if at > 0 {
                lines.push(format!("address add {}/24 dev {LEFT}", Self::left(at)));
                lines.push(format!("link set {LEFT} up"));
                lines.push(neighbour(LEFT, Self::right(at - 1), &mac(at - 1, 1)));
            }
            if at < last {
                lines.push(format!("address add {}/24 dev {RIGHT}", Self::right(at)));
                lines.push(format!("link set {RIGHT} up"));
                lines.push(neighbour(RIGHT, Self::left(at + 1), &mac(at, 2)));
            }
            // The ends' subnets; an end's own is connected.
            if at > 1 {
                lines.push(format!("route add 10.0.0.0/24 via {}", Self::right(at - 1)));
            }
            if at + 1 < last {
                lines.push(format!(
                    "route add 10.0.{}.0/24 via {}",
                    last - 1,
                    Self::left(at + 1)
                ));
            }
            netns::batch("ip", Some(host), &lines).expect("a host is set up");
            if at > 0 && at < last {
                netns::set_sysctl(host, "net/ipv4/ip_forward", "1").expect("it forwards");
            }
        }
        chain
    }

    /// Gives the first two hosts IPv6 addresses on the link between them.
    pub fn with_ipv6(&self) -> (Ipv6Addr, Ipv6Addr) {
        let addresses = [1, 2].map(|end| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, end));
        for ((host, device), address) in [RIGHT, LEFT].into_iter().enumerate().zip(addresses) {
            let key = format!("net/ipv6/conf/{device}/disable_ipv6");
            netns::set_sysctl(&self.hosts[host], &key, "0").expect("IPv6 can be had");
            let line = format!("address add {address}/64 dev {device} nodad");
            self.ip(host, &[line.as_str()]);
        }
        (addresses[0], addresses[1])
    }

    /// The address of host `at` toward its right neighbour.
    pub fn right(at: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, at as u8, 1)
    }

    /// The address of host `at` toward its left neighbour.
    pub fn left(at: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, at as u8 - 1, 2)
    }

    /// Gives a device its root queue, in `tc`'s words.
    pub fn queue(&self, host: usize, device: &str, queue: &str) {
        let name = &self.hosts[host];
        run(
            "tc",
            &format!("-n {name} qdisc replace dev {device} root {queue}"),
        );
    }

    /// Runs lines of `ip` in a host.
    pub fn ip(&self, host: usize, lines: &[&str]) {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        netns::batch("ip", Some(&self.hosts[host]), &lines).expect("ip does it");
    }

    /// Runs `work` in a thread inside a host.
    pub fn on<T: Send + 'static>(
        &self,
        host: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<anyhow::Result<T>> {
        netns::enter(&self.hosts[host], move || Ok(work())).expect("the namespace can be entered")
    }

    /// Runs `work` inside a host, and waits for it.
    pub fn within<T: Send + 'static>(
        &self,
        host: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        netns::join(self.on(host, work)).expect("it ends well")
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for name in &self.hosts {
            let status = Command::new("ip").args(["netns", "del", name]).status();
            if !thread::panicking() {
                assert!(status.is_ok_and(|status| status.success()), "{name} goes");
            }
        }
    }
}

/// The address of one end of a link.
fn mac(link: usize, end: u8) -> String {
    format!("02:00:00:00:{link:02x}:{end:02x}")
}

/// Known once and for all: no queue may lose the question.
fn neighbour(device: &str, address: Ipv4Addr, mac: &str) -> String {
    format!("neighbour add {address} lladdr {mac} dev {device} nud permanent")
}

/// Whether this kernel has a queueing discipline; says visibly when it does not.
pub fn queue_or_skip(queue: &str) -> bool {
    let chain = Chain::new(2);
    let status = Command::new("tc")
        .args(["-n", &chain.hosts[0], "qdisc", "add", "dev", RIGHT, "root"])
        .arg(queue)
        .output()
        .expect("tc runs (Debian package iproute2)");
    if !status.status.success() {
        println!("SKIPPED: this kernel has no {queue}; `cargo xtask test` boots ones that have it");
    }
    status.status.success()
}
