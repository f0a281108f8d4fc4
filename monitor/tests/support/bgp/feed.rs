//! The routes of the tests, announced by exabgp to every daemon alike.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{Folder, Program};

/// One neighbour's announcement, in exabgp's words.
#[derive(Clone, Copy)]
pub struct Announcement {
    pub prefix: &'static str,
    pub next_hop: &'static str,
    /// With prepending; `( .. )` is an AS_SET.
    pub as_path: &'static str,
    pub communities: &'static str,
    pub large_communities: &'static str,
}

/// Who announces: a neighbour of every daemon under test.
pub struct Neighbour {
    pub address: Ipv4Addr,
    pub asn: u32,
    pub announces: Vec<Announcement>,
}

/// Where exabgp connects to.
#[derive(Clone, Copy)]
pub struct Listener {
    pub address: Ipv4Addr,
    pub port: u16,
}

pub const EAST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
pub const EAST_ASN: u32 = 64_501;
pub const WEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
pub const WEST_ASN: u32 = 64_502;
/// Far more than exabgp takes to read a small file.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The AS of every daemon under test.
pub const OUR_ASN: u32 = 64_500;

/// A route without communities.
pub const fn route(
    prefix: &'static str,
    next_hop: &'static str,
    as_path: &'static str,
) -> Announcement {
    Announcement {
        prefix,
        next_hop,
        as_path,
        communities: "",
        large_communities: "",
    }
}

/// The routes of every test: both families, all kinds of communities, prepending, an AS_SET, more
/// specifics, a prefix that both neighbours announce, next hops that are not the neighbour's
/// address, AS numbers beyond 16 bits.
pub fn two_neighbours() -> Vec<Neighbour> {
    let east = vec![
        Announcement {
            communities: "64501:100",
            large_communities: "64501:1:2 64501:3:4000000000",
            ..route("198.51.100.0/24", "192.0.2.1", "64501")
        },
        route(
            "198.51.100.128/25",
            "192.0.2.1",
            "64501 64501 64501 64510 64511",
        ),
        route(
            "203.0.113.0/24",
            "192.0.2.11",
            "64501 64510 ( 64512 64513 )",
        ),
        route(
            "192.0.2.128/27",
            "192.0.2.12",
            "64501 4200000001 4200000002 4200000002",
        ),
        Announcement {
            communities: "64501:100 64501:200 64501:300",
            ..route("2001:db8:100::/40", "2001:db8::1", "64501 64514")
        },
        route(
            "2001:db8:100:8000::/52",
            "2001:db8::11",
            "64501 64514 64515",
        ),
    ];
    let west = vec![
        route("198.51.100.0/24", "192.0.2.2", "64502 64501"),
        route("203.0.113.128/25", "192.0.2.2", "64502"),
        Announcement {
            large_communities: "64502:7:7",
            ..route("2001:db8:200::/40", "2001:db8::2", "64502 64502 64515")
        },
        route("2001:db8:100::/40", "2001:db8::2", "64502 64501 64514"),
    ];
    vec![
        Neighbour {
            address: EAST,
            asn: EAST_ASN,
            announces: east,
        },
        Neighbour {
            address: WEST,
            asn: WEST_ASN,
            announces: west,
        },
    ]
}

/// The same without what a neighbour says about some prefixes.
pub fn without(neighbour: Ipv4Addr, prefixes: &[&str]) -> Vec<Neighbour> {
    let mut all = two_neighbours();
    for some in &mut all {
        if some.address == neighbour {
            some.announces
                .retain(|route| !prefixes.contains(&route.prefix));
        }
    }
    all
}

/// exabgp, with a session from each neighbour to each daemon.
pub struct Exabgp {
    program: Program,
    folder: Folder,
    listeners: Vec<Listener>,
}

impl Exabgp {
    pub fn start(listeners: &[Listener], neighbours: &[Neighbour]) -> Self {
        let folder = Folder::new();
        folder.write("exabgp.conf", &configuration(listeners, neighbours));
        let program = Program::start_with(
            "python3-exabgp",
            &folder,
            &["exabgp.conf"],
            &[
                ("exabgp.tcp.bind", ""),
                ("exabgp.api.cli", "false"),
                ("exabgp.log.destination", "stdout"),
                // Else it becomes nobody, who may not read the folder.
                ("exabgp.daemon.user", &user()),
            ],
        );
        Self {
            program,
            folder,
            listeners: listeners.to_vec(),
        }
    }

    /// From now on announces this and nothing else; a neighbour that is not there any more closes
    /// its sessions.
    pub fn announce(&mut self, neighbours: &[Neighbour]) {
        let text = configuration(&self.listeners, neighbours);
        self.folder.write("exabgp.conf", &text);
        let log = self.folder.file("python3-exabgp.log");
        let loaded = || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.matches("loaded new configuration successfully")
                .count()
        };
        let before = loaded();
        // It forgets a signal that comes while it still tells a neighbour what it had.
        let pid = self.program.pid();
        let mut asked: Option<Instant> = None;
        self.program.wait_for("new configuration", || {
            if asked.is_none_or(|at| at.elapsed() > ASK_AGAIN_AFTER) {
                super::signal(pid, libc::SIGUSR1);
                asked = Some(Instant::now());
            }
            (loaded() > before).then_some(())
        });
    }
}

/// The name of whoever runs this.
fn user() -> String {
    // SAFETY: no arguments, no failure.
    let id = unsafe { libc::geteuid() };
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let own = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id.to_string()).then(|| name.to_owned())
    });
    own.unwrap_or_else(|| "root".to_owned())
}

fn configuration(listeners: &[Listener], neighbours: &[Neighbour]) -> String {
    let mut text = String::new();
    for Listener { address, port } in listeners {
        for neighbour in neighbours {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "neighbor {address} {{\n  \
                 router-id {own};\n  local-address {own};\n  local-as {asn};\n  \
                 peer-as {OUR_ASN};\n  connect {port};\n  \
                 family {{ ipv4 unicast; ipv6 unicast; }}\n  static {{\n",
                own = neighbour.address,
                asn = neighbour.asn,
            );
            for route in &neighbour.announces {
                let _ = write!(
                    text,
                    "    route {} next-hop {} as-path [ {} ]",
                    route.prefix, route.next_hop, route.as_path
                );
                for (key, list) in [
                    ("community", route.communities),
                    ("large-community", route.large_communities),
                ] {
                    if !list.is_empty() {
                        let _ = write!(text, " {key} [ {list} ]");
                    }
                }
                text += ";\n";
            }
            text += "  }\n}\n";
        }
    }
    text
}
