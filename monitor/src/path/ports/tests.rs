//! Readings as numbers: wraps, resets, gaps, clocks; answers and files as text.

use proptest::prelude::*;

use super::csv::Reader;
use super::prometheus::{BadAnswer, Gathered, Port, parse_time, queries};
use super::*;

const SECOND: u64 = 1_000_000;
const GIGABIT: u64 = 1_000_000_000;

/// A reading of a port of 1 Gbit/s at `second`.
fn at(second: u64, out_octets: u64, out_drops: u64) -> PortReading {
    PortReading {
        time_us: second * SECOND,
        out_octets: Some(out_octets),
        out_packets: Some(out_octets / 1_000),
        out_drops: Some(out_drops),
        out_errors: Some(0),
        speed_bps: Some(GIGABIT),
        ..PortReading::default()
    }
}

fn history(readings: impl IntoIterator<Item = PortReading>) -> PortHistory {
    let mut history = PortHistory::default();
    for reading in readings {
        history.push(reading).expect("newer");
    }
    history
}

fn close(value: Option<f64>, expected: f64) -> bool {
    value.is_some_and(|value| (value - expected).abs() < 1e-6 * expected.max(1e-3))
}

#[test]
fn a_window_takes_what_falls_into_it() {
    // 125 MB/s is full; 1,000 packets of 1,000 bytes and 10 drops each s.
    let readings = (0..=8).map(|n| at(n * 15, n * 15 * 62_500_000, n * 150));
    let window = history(readings).window(60 * SECOND, 120 * SECOND, None);
    assert_eq!((window.covered, window.samples, window.resets), (1.0, 4, 0));
    assert!(close(window.utilisation, 0.5));
    assert!(close(window.drop_share, 10.0 / 62_510.0), "{window:?}");
    assert_eq!(window.drops, Some(600));
    assert_eq!(window.age_us, Some(0));
    assert!(!window.is_stale());
}

#[test]
fn a_contract_below_the_ports_speed_is_what_fills() {
    let readings = (0..=4).map(|n| at(n * 15, n * 15 * 62_500_000, 0));
    let history = history(readings);
    let window = history.window(0, 60 * SECOND, Some(GIGABIT / 2));
    assert!(close(window.utilisation, 1.0));
    let window = history.window(0, 60 * SECOND, Some(10 * GIGABIT));
    assert!(close(window.utilisation, 0.5));
}

#[test]
fn readings_are_shared_by_the_windows_that_they_span() {
    let history = history([at(50, 0, 0), at(70, 20_000_000, 20)]);
    for (start, end) in [(0, 60), (60, 120)] {
        let window = history.window(start * SECOND, end * SECOND, None);
        assert!((window.covered - 1.0 / 6.0).abs() < 1e-9);
        assert_eq!(window.drops, Some(10));
        assert!(window.is_stale());
    }
}

#[test]
fn a_missing_scrape_leaves_no_hole_and_a_silent_poller_does() {
    let missing_one = history([at(0, 0, 0), at(15, 15, 0), at(45, 45, 0), at(60, 60, 0)]);
    let window = missing_one.window(0, 60 * SECOND, None);
    assert_eq!((window.covered, window.samples), (1.0, 3));
    // The last reading was 20 s before the window's end.
    let silent = history([at(0, 0, 0), at(15, 15, 0), at(40, 40, 0)]);
    let window = silent.window(0, 60 * SECOND, None);
    assert!(window.is_stale());
    assert_eq!(window.age_us, Some(20 * SECOND));
    // Two hours without a reading say nothing about a minute in them.
    let apart = history([at(0, 0, 0), at(7_200, 1_000, 0)]);
    assert_eq!(apart.window(60 * SECOND, 120 * SECOND, None).covered, 0.0);
    assert_eq!(PortHistory::default().window(0, SECOND, None).age_us, None);
}

#[test]
fn counters_that_were_set_back_leave_a_hole_and_no_drops() {
    let readings = [
        at(0, 4_000_000_000, 900_000),
        at(15, 4_000_100_000, 900_000),
        at(30, 5_000, 3),
        at(45, 105_000, 3),
        at(60, 205_000, 3),
    ];
    let window = history(readings).window(0, 60 * SECOND, None);
    assert_eq!((window.resets, window.samples), (1, 3));
    assert_eq!(window.covered, 0.75);
    assert_eq!(window.drops, Some(0));
}

#[test]
fn a_32_bit_counter_that_came_around_goes_on() {
    let top = u64::from(u32::MAX);
    let readings = [
        at(0, 1_000_000, top - 4),
        at(30, 2_000_000, 5),
        at(60, 3_000_000, 5),
    ];
    let window = history(readings).window(0, 60 * SECOND, None);
    assert_eq!((window.resets, window.drops), (0, Some(10)));
}

#[test]
fn what_looks_like_a_wrap_but_cannot_be_one_is_a_reset() {
    let top = u64::from(u32::MAX);
    for (what, before, after) in [
        (
            "two thousand million drops in 30 s on 1 Gbit/s",
            at(0, 1_000, top / 2 + 10),
            at(30, 2_000, 5),
        ),
        (
            "64-bit octets went back with it",
            at(0, 1 << 40, top - 4),
            at(30, 2_000, 5),
        ),
        ("from its lower half", at(0, 1_000, 1_000), at(30, 2_000, 5)),
        (
            "the speed is not known",
            PortReading {
                speed_bps: None,
                ..at(0, 1_000, top - 4)
            },
            PortReading {
                speed_bps: None,
                ..at(30, 2_000, 5)
            },
        ),
    ] {
        let window = history([before, after]).window(0, 30 * SECOND, None);
        assert_eq!((window.resets, window.drops), (1, None), "{what}");
        assert!(window.is_stale(), "{what}");
    }
}

#[test]
fn more_than_the_port_can_send_is_not_believed() {
    let window = history([at(0, 0, 0), at(30, 10_000_000_000, 0)]).window(0, 30 * SECOND, None);
    assert_eq!((window.resets, window.utilisation), (1, None));
}

#[test]
fn without_packets_drops_are_compared_with_small_ones() {
    let without = |reading: PortReading| PortReading {
        out_packets: None,
        ..reading
    };
    let readings = [without(at(0, 0, 0)), without(at(30, 999_500, 1))];
    let window = history(readings).window(0, 30 * SECOND, None);
    assert!(close(window.drop_share, 1.0 / 2_000.0), "{window:?}");
}

#[test]
fn what_is_not_told_in_every_reading_is_not_known() {
    let mut second = at(30, 1_000_000, 10);
    second.out_drops = None;
    let window = history([at(0, 0, 0), second, at(60, 2_000_000, 20)]);
    let window = window.window(0, 60 * SECOND, None);
    assert_eq!((window.drop_share, window.drops), (None, None));
    assert!(window.utilisation.is_some());
}

#[test]
fn only_what_is_newer_is_taken() {
    let mut history = history([at(30, 1, 0)]);
    assert_eq!(history.push(at(30, 2, 0)), Err(NotTaken::Repeated));
    assert_eq!(history.push(at(29, 0, 0)), Err(NotTaken::Older));
    assert_eq!(history.last_us(), Some(30 * SECOND));
    for second in 31..2_000 {
        history.push(at(second, second, 0)).expect("newer");
    }
    assert_eq!(history.readings.len(), MAX_READINGS);
}

fn any_reading() -> impl Strategy<Value = PortReading> {
    let value = || {
        prop::option::of(prop_oneof![
            any::<u64>(),
            0u64..1_000_000,
            (0u64..10).prop_map(|n| u64::from(u32::MAX) - n)
        ])
    };
    (0u64..400, value(), value(), value(), value()).prop_map(
        |(second, out_octets, out_packets, out_drops, speed_bps)| PortReading {
            time_us: second * SECOND,
            out_octets,
            out_packets,
            out_drops,
            speed_bps,
            ..PortReading::default()
        },
    )
}

proptest! {
    #[test]
    fn figures_are_finite_and_in_range_whatever_is_read(
        readings in prop::collection::vec(any_reading(), 0..20),
        start in 0u64..300,
        length in 1u64..100,
        capacity in prop::option::of(any::<u64>()),
    ) {
        let mut history = PortHistory::default();
        for reading in readings {
            let _ = history.push(reading);
        }
        let window = history.window(start * SECOND, (start + length) * SECOND, capacity);
        prop_assert!((0.0..=1.0 + 1e-9).contains(&window.covered));
        for share in [window.drop_share, window.error_share].into_iter().flatten() {
            prop_assert!((0.0..=1.0).contains(&share));
        }
        prop_assert!(window.utilisation.is_none_or(|it| it.is_finite() && it >= 0.0));
    }

    /// Steady traffic is read alike wherever the window lies and however the readings do.
    #[test]
    fn steady_traffic_has_one_utilisation(
        gaps in prop::collection::vec(1u64..20, 5..40),
        start in 0u64..30,
        rate in 1u64..125_000_000,
    ) {
        let mut second = 0;
        let mut readings = vec![at(0, 0, 0)];
        for gap in gaps {
            second += gap;
            readings.push(at(second, rate * second, second));
        }
        let window = history(readings).window(start * SECOND, (start + 30) * SECOND, None);
        if window.covered > 0.0 {
            let expected = rate as f64 * 8.0 / GIGABIT as f64;
            prop_assert!((window.utilisation.expect("known") - expected).abs() < 1e-6);
        }
    }
}

const SNMP: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[
  {"metric":{"__name__":"ifHCOutOctets","ifDescr":"et-0/0/1","ifName":"et-0/0/1","instance":"r1","job":"snmp"},
   "values":[[1763700000.5,"1000"],[1763700015.5,"2000"]]},
  {"metric":{"__name__":"ifHCOutOctets","ifDescr":"et-0/0/1","ifName":"et-0/0/1","instance":"r2","job":"snmp"},
   "values":[[1763700000.5,"7"]]},
  {"metric":{"__name__":"ifHCOutOctets","ifName":"et-0/0/10","instance":"r1"},"values":[[1763700000.5,"9"]]},
  {"metric":{"__name__":"ifOutDiscards","ifName":"et-0/0/1","instance":"r1"},
   "values":[[1763700000.5,"3"],[1763700015.5,"NaN"]]},
  {"metric":{"__name__":"ifHighSpeed","ifName":"et-0/0/1","instance":"r1"},"values":[[1763699990,"10000"]]},
  {"metric":{"__name__":"ifInErrors","ifName":"et-0/0/1","instance":"r1"},"values":[[1763700000.5,"5"]]}
]}}"#;

const ROUTER: Port<'_> = Port {
    device: "r1",
    interface: "et-0/0/1",
};

#[test]
fn snmp_exporters_series_become_readings_of_the_right_port() {
    let mut gathered = Gathered::default();
    // The queries by ifName and by ifDescr bring the same series.
    gathered.add(SNMP).expect("right");
    gathered.add(SNMP).expect("right");
    let found = gathered.of(&ROUTER);
    assert!(found.ambiguous.is_empty(), "{:?}", found.ambiguous);
    assert_eq!(
        found.readings,
        [
            PortReading {
                time_us: 1_763_700_000_500_000,
                out_octets: Some(1_000),
                out_drops: Some(3),
                in_errors: Some(5),
                speed_bps: Some(10_000_000_000),
                ..PortReading::default()
            },
            PortReading {
                time_us: 1_763_700_015_500_000,
                out_octets: Some(2_000),
                speed_bps: Some(10_000_000_000),
                ..PortReading::default()
            },
        ]
    );
    let unknown = Port {
        device: "r3",
        interface: "et-0/0/1",
    };
    assert!(gathered.of(&unknown).readings.is_empty());
}

#[test]
fn a_port_that_two_series_may_be_is_nobodys() {
    let twice = SNMP.replace("\"instance\":\"r2\"", "\"instance\":\"r1:9116\"");
    let mut gathered = Gathered::default();
    gathered.add(&twice).expect("right");
    let found = gathered.of(&ROUTER);
    assert!(found.readings.is_empty());
    assert!(found.ambiguous.contains("ifHCOutOctets"));
}

#[test]
fn node_exporters_names_and_units() {
    let answer = r#"{"status":"success","data":{"resultType":"matrix","result":[
      {"metric":{"__name__":"node_network_transmit_bytes_total","device":"eth1","instance":"[2001:db8::5]:9100"},"values":[[10,"1e3"]]},
      {"metric":{"__name__":"node_network_speed_bytes","device":"eth1","instance":"[2001:db8::5]:9100"},"values":[[10,"1.25e+09"]]},
      {"metric":{"__name__":"node_network_speed_bytes","device":"eth2","instance":"[2001:db8::5]:9100"},"values":[[10,"-125000"]]},
      {"metric":{"__name__":"node_network_transmit_bytes_total","device":"eth2","instance":"[2001:db8::5]:9100"},"values":[[10,"1"]]}
    ]}}"#;
    let mut gathered = Gathered::default();
    gathered.add(answer).expect("right");
    let speed = |interface| {
        let found = gathered.of(&Port {
            device: "2001:db8::5",
            interface,
        });
        (found.readings[0].out_octets, found.readings[0].speed_bps)
    };
    assert_eq!(speed("eth1"), (Some(1_000), Some(10_000_000_000)));
    assert_eq!(speed("eth2"), (Some(1), None));
}

#[test]
fn queries_name_each_port_once_and_cannot_be_broken_out_of() {
    let ports = [
        ROUTER,
        Port {
            device: "r2",
            interface: "et-0/0/1",
        },
        Port {
            device: "r2",
            interface: "a\"}.b",
        },
    ];
    let queries = queries(&ports, 90);
    assert_eq!(queries.len(), 4);
    assert!(
        queries[0].ends_with(r#",ifName=~"a\\x{22}\\x{7d}\\x{2e}b|et-0/0/1"}[90s]"#),
        "{}",
        queries[0]
    );
    assert!(queries[3].contains(",device=~"));
    assert!(super::prometheus::queries(&[], 90).is_empty());
}

#[test]
fn answers_of_no_use_say_why() {
    let mut gathered = Gathered::default();
    let error = gathered
        .add(r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#)
        .expect_err("an error");
    assert_eq!(error.to_string(), "it says bad_data: parse error");
    for (answer, wanted) in [
        ("<html>", "it is not Prometheus's JSON"),
        ("{}", "it is not Prometheus's JSON"),
        (r#"{"status":"success"}"#, "it says"),
        (
            r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#,
            "it holds a vector where a matrix was asked for",
        ),
        (
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":1}]}}"#,
            "it is not Prometheus's JSON",
        ),
    ] {
        let error = gathered.add(answer).expect_err("of no use").to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
    let time = r#"{"status":"success","data":{"resultType":"scalar","result":[17.5,"17.25"]}}"#;
    assert_eq!(parse_time(time).ok(), Some(17_250_000));
    assert!(matches!(parse_time(SNMP), Err(BadAnswer::WrongType(..))));
}

#[test]
fn a_file_is_read_as_it_grows() {
    let mut reader = Reader::default();
    let rows = reader.read(b"# by snmpget\ntime,interconnect,out_octets,speed_bps,out_drops\n17");
    assert!(rows.readings.is_empty() && rows.wrong == 0);
    let rows = reader.read(
        b"63700000.5,ic-a,1000,10000000000,\n2025-11-21T04:40:15Z,ic-a, 2000 ,,7\n1763700015,ic-b,5,,0\n1763700030,ic-a,3",
    );
    assert_eq!(rows.mistakes, Vec::<String>::new());
    let ic_a = &rows.readings["ic-a"];
    assert_eq!(ic_a[0].time_us, 1_763_700_000_500_000);
    assert_eq!(
        (ic_a[0].out_drops, ic_a[0].speed_bps),
        (None, Some(10_000_000_000))
    );
    assert_eq!(ic_a[1].time_us, 1_763_700_015_000_000);
    assert_eq!(
        (ic_a[1].out_octets, ic_a[1].out_drops),
        (Some(2_000), Some(7))
    );
    assert_eq!(rows.readings["ic-b"].len(), 1);
    let rows = reader.read(b"000,,9\n");
    assert_eq!(rows.readings["ic-a"][0].out_octets, Some(3_000));
}

#[test]
fn a_line_that_is_wrong_is_named_and_the_others_are_taken() {
    let mut reader = Reader::default();
    let rows = reader.read(
        b"time,interconnect,out_octets\n1,ic-a,ten\n2,ic-a,20\nyesterday,ic-a,30\n4,,40\n5,ic-a\n6,ic-a,60,7\n\xff\n",
    );
    assert_eq!(rows.readings["ic-a"].len(), 1);
    assert_eq!(rows.wrong, 6);
    assert_eq!(
        rows.mistakes,
        [
            "line 2: `ten` is no out_octets: write a whole number",
            "line 4: `yesterday` is no time: write seconds since 1970 or 2026-01-31T12:00:00Z",
            "line 5: no interconnect",
        ]
    );
    let rows = Reader::default().read(b"time,interconnect,octets\n1,ic-a,10\n");
    assert_eq!(rows.wrong, 2, "without a header no line means anything");
    assert!(
        rows.mistakes[0].starts_with("line 1: unknown column `octets`: the first line must be")
    );
}

#[test]
fn an_endless_line_takes_no_memory() {
    let mut reader = Reader::default();
    reader.read(b"time,interconnect,out_octets\n");
    for _ in 0..1_000 {
        assert_eq!(reader.read(&[b'7'; 1_000]).wrong, 0);
    }
    let rows = reader.read(b"\n1,ic-a,10\n");
    assert_eq!((rows.wrong, rows.readings.len()), (1, 1));
}
