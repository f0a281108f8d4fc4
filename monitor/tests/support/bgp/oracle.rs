//! Other readers of the same bytes: pmacct's `pmbmpd` for BMP, `bgpdump` for MRT.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;

use lastmile::path::bmp::{Decoder, Message, Peer, RibView};
use lastmile::path::{Told, Update};
use serde_json::Value;

use super::station::messages;
use super::{Folder, Program, free_port};

/// What one message said about one prefix, in pmbmpd's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `None`: withdrawn.
    pub route: Option<SaidRoute>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaidRoute {
    pub next_hop: String,
    pub as_path: String,
    /// Sorted.
    pub communities: Vec<String>,
}

/// A neighbour's address and whether it is after policy, and a prefix.
pub type Key = (String, bool, String);

/// A whole session: for each table and prefix everything said about it, in order; and the peers
/// that came up and went down, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Session {
    pub routes: BTreeMap<Key, Vec<Said>>,
    pub peers: Vec<(String, String, u64)>,
}

/// What lastmile's decoder makes of it.
pub fn ours(bytes: &[u8]) -> Session {
    let mut session = Session::default();
    let mut up = Vec::new();
    for message in messages(&mut Decoder::default(), bytes) {
        match message.expect("a real daemon's message") {
            Message::PeerUp { peer, .. } => {
                session.peer("peer_up", &peer);
                up.push(peer.identity.address);
            }
            Message::PeerDown { peer, .. } => {
                session.peer("peer_down", &peer);
                up.retain(|known| *known != peer.identity.address);
            }
            // pmbmpd wants a Peer Up of this address first; GoBGP sends none for its Loc-RIB.
            Message::Routes { peer, update } if up.contains(&peer.identity.address) => {
                session.update(&peer, &update);
            }
            _ => {}
        }
    }
    session
}

impl Session {
    fn peer(&mut self, kind: &str, peer: &Peer) {
        let address = peer.identity.address.to_string();
        self.peers.push((kind.to_owned(), address, peer.asn.into()));
    }

    fn update(&mut self, peer: &Peer, update: &Update) {
        let is_post = peer.view == RibView::AdjRibInPostPolicy;
        let key = |prefix: &ipnet::IpNet| {
            (
                peer.identity.address.to_string(),
                is_post,
                prefix.to_string(),
            )
        };
        for gone in &update.withdrawn {
            self.say(key(&gone.prefix), Said { route: None });
        }
        for announced in &update.announced {
            let next_hop = announced.next_hop.filter(|hop| !hop.is_unspecified());
            let next_hop = next_hop.map(|hop| hop.to_string());
            let route = said(&update.told, next_hop.unwrap_or_default());
            for nlri in &announced.nlri {
                let route = Some(route.clone());
                self.say(key(&nlri.prefix), Said { route });
            }
        }
    }

    fn say(&mut self, key: Key, said: Said) {
        self.routes.entry(key).or_default().push(said);
    }
}

fn said(told: &Told, next_hop: String) -> SaidRoute {
    let mut as_path: Vec<String> = told.as_path.sequence.iter().map(u32::to_string).collect();
    let set: Vec<String> = told.as_path.last_set.iter().map(u32::to_string).collect();
    if !set.is_empty() {
        as_path.push(format!("{{{}}}", set.join(",")));
    }
    let mut communities: Vec<String> = told.communities.iter().map(ToString::to_string).collect();
    communities.sort();
    SaidRoute {
        next_hop,
        as_path: as_path.join(" "),
        communities,
    }
}

/// What pmbmpd makes of the same bytes.
pub fn pmbmpd(bytes: &[u8]) -> Session {
    let folder = Folder::new();
    let (port, log) = (free_port(Ipv4Addr::LOCALHOST), folder.file("messages.json"));
    let text = format!(
        "daemonize: false\nbmp_daemon_ip: 127.0.0.1\nbmp_daemon_port: {port}\n\
         bmp_daemon_msglog_file: {}\nbmp_daemon_msglog_output: json\n",
        log.display()
    );
    folder.write("pmbmpd.conf", &text);
    let mut program = Program::start("pmbmpd", &folder, &["-f", "pmbmpd.conf"]);
    let mut stream = program.wait_for("port", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
    });
    stream.write_all(bytes).expect("pmbmpd reads");
    drop(stream);
    let text = program.wait_for("end of the session's log", || {
        let text = fs::read_to_string(&log).ok()?;
        text.contains("\"log_close\"").then_some(text)
    });
    let mut session = Session::default();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("pmbmpd prints JSON");
        session.read(&line);
    }
    session
}

impl Session {
    fn read(&mut self, line: &Value) {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        match line["bmp_msg_type"].as_str() {
            Some(kind @ ("peer_up" | "peer_down")) => {
                let asn = line["peer_asn"].as_u64().expect("a peer's AS");
                self.peers.push((kind.to_owned(), text("peer_ip"), asn));
            }
            // VPN's (SAFI 128) are nobody's way to clients: lastmile steps over them.
            Some("route_monitor") if line["safi"] != 128 => {
                let key = (text("peer_ip"), line["is_post"] == 1, text("ip_prefix"));
                let mut communities: Vec<String> = [text("comms"), text("lcomms")]
                    .iter()
                    .flat_map(|list| list.split_whitespace().map(str::to_owned))
                    .collect();
                communities.sort();
                // Printed where there is none, and where the router says that it is itself.
                let next_hop = text("bgp_nexthop");
                let route = SaidRoute {
                    next_hop: if next_hop == "0.0.0.0" {
                        String::new()
                    } else {
                        next_hop
                    },
                    as_path: text("as_path"),
                    communities,
                };
                match line["log_type"].as_str() {
                    Some("update") => self.say(key, Said { route: Some(route) }),
                    Some("withdraw") => self.say(key, Said { route: None }),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// What a line of `bgpdump -m` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// As `bgpdump` writes it: bits behind the prefix's length are not masked.
    pub prefix: String,
    pub peer_address: IpAddr,
    /// `None`: withdrawn.
    pub way: Option<Way>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub as_path: String,
    pub next_hop: IpAddr,
}

/// What `bgpdump` reads, in the file's order.
pub fn bgpdump(file: &Path) -> Vec<Line> {
    let output = Command::new("bgpdump")
        .args(["-m", "-v"])
        .arg(file)
        .output()
        .expect("bgpdump runs");
    let line = |line: &str| {
        // TABLE_DUMP2|time|B|peer|peer AS|prefix|AS path|origin|next hop|preference|..
        // A in place of B: announced by an UPDATE. W, without what is behind the prefix: withdrawn.
        let fields: Vec<&str> = line.split('|').collect();
        let way = match *fields.get(2)? {
            "W" => None,
            _ => Some(Way {
                as_path: (*fields.get(6)?).to_owned(),
                next_hop: fields.get(8)?.parse().ok()?,
            }),
        };
        Some(Line {
            prefix: (*fields.get(5)?).to_owned(),
            peer_address: fields.get(3)?.parse().ok()?,
            way,
        })
    };
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(line).collect()
}
