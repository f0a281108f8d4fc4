//! The daemons under test: GoBGP and FRR with BMP, BIRD with MRT.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use super::feed::{EAST, EAST_ASN, Listener, OUR_ASN, WEST, WEST_ASN};
use super::{Folder, Program, free_port};

const NEIGHBOURS: [(Ipv4Addr, u32); 2] = [(EAST, EAST_ASN), (WEST, WEST_ASN)];

const GOBGPD: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const FRR: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 2);
const BIRD: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 3);

/// Where a daemon will listen for its neighbours.
fn listener(address: Ipv4Addr) -> Listener {
    Listener {
        address,
        port: free_port(address),
    }
}

/// A router that speaks BMP.
pub struct Router {
    /// Stopped and started again by dropping and [`Router::start`].
    program: Option<Program>,
    folder: Folder,
    pub listener: Listener,
    kind: Kind,
    station: SocketAddr,
}

/// Which daemon, and what it is to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// With its `route-monitoring-policy`.
    Gobgpd(&'static str),
    /// With its `bmp monitor` policies.
    Frr(&'static [&'static str]),
}

impl Router {
    /// Starts it; it connects to the station by itself.
    pub fn start(kind: Kind, station: SocketAddr) -> Self {
        let address = match kind {
            Kind::Gobgpd(_) => GOBGPD,
            Kind::Frr(_) => FRR,
        };
        let mut router = Self {
            program: None,
            folder: Folder::new(),
            listener: listener(address),
            kind,
            station,
        };
        router.begin();
        router
    }

    /// Ends it at once, as a crash would.
    pub fn crash(&mut self) {
        self.program = None;
    }

    /// Starts it again, on the same port.
    pub fn begin(&mut self) {
        let (listener, folder) = (self.listener, &self.folder);
        let port = listener.port.to_string();
        self.program = Some(match self.kind {
            Kind::Gobgpd(policy) => {
                folder.write("gobgpd.toml", &gobgpd(listener, policy, self.station));
                let api = format!("127.0.0.1:{}", free_port(Ipv4Addr::LOCALHOST));
                let words = [
                    "-f",
                    "gobgpd.toml",
                    "--api-hosts",
                    &api,
                    "--pprof-disable",
                    "-p",
                ];
                Program::start("gobgpd", folder, &words)
            }
            Kind::Frr(policies) => {
                let file = folder.write("bgpd.conf", &frr(policies, self.station));
                let text = |path: PathBuf| path.to_string_lossy().into_owned();
                let (file, pid) = (text(file), text(folder.file("bgpd.pid")));
                let terminals = text(folder.path().to_owned());
                let address = listener.address.to_string();
                let words = [
                    // No zebra, no kernel, no change of user; terminals on no port.
                    "-Z",
                    "-n",
                    "-S",
                    "-P",
                    "0",
                    "-M",
                    "bmp",
                    "-f",
                    &file,
                    "-i",
                    &pid,
                    "--vty_socket",
                    &terminals,
                    "-p",
                    &port,
                    "-l",
                    &address,
                    "--log",
                    "stdout",
                ];
                Program::start("bgpd", folder, &words)
            }
        });
    }
}

fn gobgpd(listener: Listener, policy: &str, station: SocketAddr) -> String {
    let Listener { address, port } = listener;
    let mut text = format!(
        "[global.config]\nas = {OUR_ASN}\nrouter-id = \"192.0.2.251\"\nport = {port}\n\
         local-address-list = [\"{address}\"]\n\
         [[bmp-servers]]\n[bmp-servers.config]\naddress = \"{}\"\nport = {}\n\
         route-monitoring-policy = \"{policy}\"\nstatistics-timeout = 15\n",
        station.ip(),
        station.port()
    );
    for (neighbour, asn) in NEIGHBOURS {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{neighbour}\"\n\
             peer-as = {asn}\n\
             [neighbors.transport.config]\npassive-mode = true\nlocal-address = \"{address}\"\n\
             [neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = 2\n"
        );
        for family in ["ipv4-unicast", "ipv6-unicast"] {
            let _ = write!(
                text,
                "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n\
                 afi-safi-name = \"{family}\"\n"
            );
        }
    }
    text
}

fn frr(policies: &[&str], station: SocketAddr) -> String {
    let mut text = format!(
        "log stdout informational\nrouter bgp {OUR_ASN}\n bgp router-id 192.0.2.252\n \
         no bgp ebgp-requires-policy\n"
    );
    for (neighbour, asn) in NEIGHBOURS {
        let _ = write!(
            text,
            " neighbor {neighbour} remote-as {asn}\n neighbor {neighbour} ebgp-multihop 2\n \
             neighbor {neighbour} passive\n neighbor {neighbour} update-source {FRR}\n"
        );
    }
    for family in ["ipv4", "ipv6"] {
        let _ = writeln!(text, " address-family {family} unicast");
        for (neighbour, _) in NEIGHBOURS {
            // What came before policy is kept for who asks.
            let _ = write!(
                text,
                "  neighbor {neighbour} activate\n  \
                 neighbor {neighbour} soft-reconfiguration inbound\n"
            );
        }
        text += " exit-address-family\n";
    }
    text += " bmp targets lastmile\n  bmp stats interval 5000\n";
    for policy in policies {
        for family in ["ipv4", "ipv6"] {
            let _ = writeln!(text, "  bmp monitor {family} unicast {policy}");
        }
    }
    let _ = write!(
        text,
        "  bmp connect {} port {} min-retry 200 max-retry 1000\n exit\nexit\n",
        station.ip(),
        station.port()
    );
    text
}

/// BIRD, which writes its routes to files.
pub struct Bird {
    program: Program,
    folder: Folder,
    pub listener: Listener,
}

impl Bird {
    pub fn start() -> Self {
        let folder = Folder::new();
        let listener = listener(BIRD);
        folder.write("bird.conf", &bird(listener));
        let words = ["-f", "-c", "bird.conf", "-s", "bird.ctl"];
        let program = Program::start("bird", &folder, &words);
        Self {
            program,
            folder,
            listener,
        }
    }

    /// Waits until it has so many routes in all, then has it dump both tables into one file.
    pub fn dump(&mut self, routes: usize, name: &str) -> PathBuf {
        let socket = self.folder.file("bird.ctl");
        let ask = |question: &str| {
            let output = Command::new("birdc")
                .arg("-s")
                .arg(&socket)
                .arg(question)
                .output()
                .expect("birdc runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let count = || {
            let answer = ask("show route count");
            let total = answer.lines().find_map(|line| line.strip_prefix("Total: "));
            total?.split(' ').next()?.parse::<usize>().ok()
        };
        let wanted = format!("{routes} routes");
        self.program
            .wait_for(&wanted, || (count() == Some(routes)).then_some(()));
        let file = self.folder.file(name);
        ask(&format!(
            "mrt dump table \"master*\" to \"{}\"",
            file.display()
        ));
        let mut size = 0;
        self.program.wait_for("whole MRT file", || {
            // Its dump is over when its file grows no more and has more than the peer index.
            let before = std::mem::replace(&mut size, fs::metadata(&file).map_or(0, |m| m.len()));
            (size > 0 && size == before).then_some(())
        });
        file
    }

    /// Everything its neighbours sent since it started, as MRT updates.
    pub fn updates(&self) -> PathBuf {
        self.folder.file("updates.mrt")
    }
}

fn bird(listener: Listener) -> String {
    let Listener { address, port } = listener;
    let mut text = "log stderr all;\nrouter id 192.0.2.253;\nmrtdump \"updates.mrt\";\n\
         mrtdump protocols { messages };\n\
         ipv4 table master4;\nipv6 table master6;\nprotocol device { }\n"
        .to_owned();
    for (neighbour, asn) in NEIGHBOURS {
        let _ = write!(
            text,
            "protocol bgp as{asn} {{\n  local {address} port {port} as {OUR_ASN};\n  \
             neighbor {neighbour} as {asn};\n  multihop 2; passive on; strict bind on;\n  \
             ipv4 {{ import all; export none; }};\n  \
             ipv6 {{ import all; export none; next hop address 2001:db8::53; }};\n}}\n"
        );
    }
    text
}
