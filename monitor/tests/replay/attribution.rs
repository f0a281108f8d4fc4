//! With a configuration: verdicts, in capture time.

use super::{Folder, captures::Pcap, finished, lastmile};

/// A site of two interconnects that lead to both ISPs; one of them loses and delays from
/// `FAULT_WINDOW` on.
mod site {
    use crate::{
        SECOND_NS, conditions, framed,
        support::{
            packets::{Frame, v4},
            traffic::{Conditions, run},
        },
    };

    pub const WINDOW_S: u64 = 5;
    pub const WINDOWS: u64 = 16;
    pub const FAULT_WINDOW: u64 = 12;
    /// A window's start.
    pub const START_S: u64 = 1_700_000_000;

    pub const CONFIGURATION: &str = r#"
[path]
prefixes_csv = "prefixes.csv"
[window]
length_s = 5
[baseline]
min_windows = 8
slot_windows = 1
best_slots = 16
span_slots = 10000
[verdict]
min_chunks_per_prefix = 2
"#;

    pub fn prefixes() -> String {
        let mut csv = "prefix,origin_asn,isp,interconnect\n".to_owned();
        for prefix in 0..16 {
            let (isp, asn) = if prefix % 8 < 4 {
                ("Northnet", 64_501)
            } else {
                ("Southnet", 64_502)
            };
            let interconnect = if prefix < 8 { "ix-east" } else { "ix-west" };
            csv += &format!("10.0.{prefix}.0/24,{asn},{isp},{interconnect}\n");
        }
        csv
    }

    pub fn frames() -> Vec<(u64, Frame)> {
        let mut frames = Vec::new();
        for window in 0..WINDOWS {
            for home in 0..32u16 {
                for fetch in 0..3u16 {
                    let conditions = conditions_of(window, home, fetch);
                    frames.extend(framed(run(&conditions).0));
                }
            }
        }
        frames.sort_by_key(|&(time_ns, _)| time_ns);
        frames
    }

    fn conditions_of(window: u64, home: u16, fetch: u16) -> Conditions {
        let prefix = home / 2;
        let bad = window >= FAULT_WINDOW && prefix < 8;
        let number = window as u16 * 3 + fetch;
        let client = [10, 0, prefix as u8, 1 + (home % 2) as u8];
        Conditions {
            client: v4(client, 10_000 + number),
            start_ns: START_S * SECOND_NS
                + window * WINDOW_S * SECOND_NS
                + u64::from(fetch) * 1_300_000_000
                + u64::from(home) * 7_000_000,
            seed: u64::from(number) << 16 | u64::from(home),
            segments: 80,
            window: 16,
            downstream_us: 10_000 + if bad { 20_000 } else { 0 },
            lost_downstream: if bad { 40 } else { 0 },
            lost_upstream: 0,
            lost_acks: 0,
            ..conditions(0, 0)
        }
    }
}

#[test]
fn with_a_configuration_the_place_is_named_in_capture_time() {
    let folder = Folder::new("replay-attribution");
    let config = folder.file("lastmile.toml", site::CONFIGURATION.as_bytes());
    folder.file("prefixes.csv", site::prefixes().as_bytes());
    let path = folder.file("a.pcap", &Pcap::MICROSECONDS.capture(&site::frames()));
    let replayed = finished(lastmile().arg("--config").arg(&config).arg(&path));
    assert_eq!((replayed.code, &*replayed.stderr), (0, ""));
    let verdicts: Vec<_> = replayed
        .records
        .iter()
        .filter(|record| record["type"] == "verdict")
        .collect();
    let named: Vec<_> = verdicts
        .iter()
        .filter(|verdict| {
            verdict["segments"]
                .as_array()
                .is_some_and(|set| set.len() == 1)
        })
        .collect();
    assert!(!named.is_empty(), "{verdicts:#?}");
    let fault_s = site::START_S + site::FAULT_WINDOW * site::WINDOW_S;
    for verdict in named {
        assert_eq!(verdict["segments"][0], "interconnect", "{verdict:#}");
        assert_eq!(verdict["interconnect"], "ix-east", "{verdict:#}");
        let start = verdict["window_start"].as_str().expect("a time");
        assert!(start >= &*time_of(fault_s), "{start}: before the fault");
    }
    let closes = replayed.flows();
    let closes = closes.iter().filter(|flow| flow["event"] == "close");
    assert_eq!(closes.count() as u64, site::WINDOWS * 32 * 3);
    let of = |kind: &str| {
        replayed
            .records
            .iter()
            .filter(|record| record["type"] == kind)
            .count()
    };
    assert_eq!(
        of("status") as u64,
        site::WINDOWS + 1,
        "one a window, and the last"
    );
    assert!(of("cell") > 0);
}

/// As records write it. 1,700,000,000 is 2023-11-14 22:13:20 UTC.
fn time_of(unix_s: u64) -> String {
    let since_midnight = unix_s % 86_400;
    format!(
        "2023-11-14T{:02}:{:02}:{:02}",
        since_midnight / 3_600,
        since_midnight / 60 % 60,
        since_midnight % 60
    )
}
