//! Whom the clients of real captures ask for is what tshark says.
//!
//! The names are those of tshark 4.0.17:
//! `tshark -r FILE -Y 'tls.handshake.type==1 || http.request' -T fields -e tcp.srcport
//! -e tls.handshake.extensions_server_name -e http.host`, the first of each connection that the
//! capture has the SYN of.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    path::Path,
};

use lastmile::{
    capture::replay::{HostTables, News, read},
    recognise::{Finding, Hello, Outcome},
};
use monitor_ebpf::{
    observe::{Tables as _, observe},
    select::{Settings, settings_flags},
};

const SETTINGS: Settings = Settings {
    report_interval_ns: u64::MAX,
    epoch_ns: u64::MAX,
    epoch_offset_ns: 0,
    sample_threshold: u32::MAX,
    admission_key: 0,
    halvings: 0,
    halvings_before: 0,
    flags: settings_flags::HELLOS,
};

/// What the clients of a capture ask for, by their ports; `-`: a hello without a name.
fn asked(path: &Path) -> BTreeMap<u16, String> {
    let tables = HostTables::new(SETTINGS, &[], &[]);
    let mut hellos = HashMap::new();
    let mut asked = BTreeMap::new();
    read(path, |link, packet| {
        let Ok(link) = link else {
            return;
        };
        tables.set_time(packet.time_ns);
        if let Err(reason) = observe(packet, link, &tables) {
            tables.count(reason.into());
        }
        for news in tables.take_news() {
            let News::Hello(piece) = news else {
                continue;
            };
            let hello = hellos
                .entry((piece.key, piece.generation))
                .or_insert_with(|| Hello::new(piece.transport));
            let name = match hello.add(piece.offset.into(), &piece.bytes) {
                Outcome::Found(Finding::Name(server)) => server.name,
                Outcome::Found(Finding::Request(request)) => request.host.unwrap_or_default(),
                Outcome::Absent => "-".to_owned(),
                Outcome::NeedMore | Outcome::NotThis | Outcome::TooLong => continue,
            };
            // The client's port is the higher one in all of these.
            let port = piece.key.low_port.max(piece.key.high_port);
            asked.entry(port).or_insert(name);
        }
    })
    .expect("a capture");
    asked
}

#[test]
fn clients_of_captures_ask_for_what_tshark_says() {
    let Some(folder) = env::var_os("LASTMILE_CAPTURES") else {
        println!("SKIPPED: LASTMILE_CAPTURES does not say where captures are");
        return;
    };
    let folder = Path::new(&folder);
    for (file, expected) in [
        // Post-quantum, over two segments, and with an encrypted hello that may be GREASE.
        (
            "sni/chrome-1250-tls-x25519-kyber.pcap",
            &[(13_783, "lh3.google.com")][..],
        ),
        ("sni/chrome-34-google.pcap", &[(55_881, "google.de")]),
        // The extension is not there.
        ("sni/tls13_psk_succesfull.pcap", &[(54_220, "-")]),
        // The handshake out of order.
        ("tcp/handshake-reorder.pcap", &[(59_856, "bro.org")]),
        (
            "tcp/miss_end_data.pcap",
            &[(60_648, "farm7.static.flickr.com")],
        ),
        ("tcp/options.pcap", &[(36_861, "db.local.clamav.net")]),
        // Joined in the middle: no beginning was seen, and nothing is said.
        ("tcp/no-handshake.pcap", &[]),
        ("tcp/missing-syn.pcap", &[]),
    ] {
        let expected: BTreeMap<u16, String> = expected
            .iter()
            .map(|(port, name)| (*port, (*name).to_owned()))
            .collect();
        let asked = asked(&folder.join(file));
        println!("{file}: {asked:?}");
        assert_eq!(asked, expected, "{file}");
    }
}
