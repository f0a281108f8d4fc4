//! The counters of ports as they are read: from a Prometheus, a real one and bad ones, and from a
//! file that grows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lastmile::config::Ports;
use lastmile::daemon::port_feed::PortFeed;
use lastmile::path::Interconnect;
use lastmile::path::ports::PortWindow;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const SECOND_US: u64 = 1_000_000;

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A folder of its own, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("lastmile-ports-{}-{serial}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_micros() as u64
}

fn interconnect(name: &str, interface: &str) -> Arc<Interconnect> {
    Arc::new(Interconnect {
        name: name.into(),
        connectivity: None,
        site: None,
        capacity_mbit_s: None,
        risk_groups: Arc::from([]),
        port: Some(("r1".into(), interface.into())),
    })
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("an event loop")
        .block_on(async { tokio::time::timeout(PATIENCE, work).await })
        .expect("it ends in time")
}

fn prometheus(address: SocketAddr) -> Ports {
    Ports {
        csv: None,
        prometheus: Some(format!("http://{address}/")),
        interval_s: 1,
    }
}

/// What one request of HTTP asks: its first line and its body.
fn request(stream: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).expect("a request");
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    (first, String::from_utf8_lossy(&body).into_owned())
}

fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// A server on loopback that does `serve` with each connection, until the test ends.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// As Prometheus answers: to `time()` its clock, to anything else `matrix`.
fn answer_as_prometheus(stream: &mut TcpStream, ahead_us: i64, matrix: &dyn Fn(u64) -> String) {
    let (_, body) = request(stream);
    let now_us = now_us().saturating_add_signed(ahead_us);
    let seconds = now_us as f64 / 1e6;
    let data = if body == "query=time%28%29" || body == "query=time()" {
        format!(r#"{{"resultType":"scalar","result":[{seconds},"{seconds}"]}}"#)
    } else if body.contains("ifName") {
        format!(r#"{{"resultType":"matrix","result":[{}]}}"#, matrix(now_us))
    } else {
        r#"{"resultType":"matrix","result":[]}"#.to_owned()
    };
    answer(
        stream,
        "200 OK",
        &format!(r#"{{"status":"success","data":{data}}}"#),
    );
}

/// A port of 1 Gbit/s, half full, that drops one packet in a hundred: scraped each second of the
/// last 20.
fn half_full(now_us: u64) -> String {
    let series = |metric: &str, value: &dyn Fn(u64) -> u64| {
        let now = now_us / SECOND_US;
        let values: Vec<String> = (now - 20..=now)
            .map(|second| format!("[{second},\"{}\"]", value(second % 1_000_000)))
            .collect();
        format!(
            r#"{{"metric":{{"__name__":"{metric}","instance":"r1","ifName":"et-0/0/1"}},"values":[{}]}}"#,
            values.join(",")
        )
    };
    [
        series("ifHCOutOctets", &|second| second * 62_500_000),
        series("ifHCOutUcastPkts", &|second| second * 99_000),
        series("ifOutDiscards", &|second| second * 1_000),
        series("ifHighSpeed", &|_| 1_000),
    ]
    .join(",")
}

fn is_half_full(window: &PortWindow) {
    let near = |value: Option<f64>, wanted: f64| {
        value.is_some_and(|value| (value - wanted).abs() < 0.1 * wanted)
    };
    assert!(!window.is_stale(), "{window:?}");
    assert!(near(window.utilisation, 0.5), "{window:?}");
    assert!(near(window.drop_share, 0.01), "{window:?}");
}

#[test]
fn a_clock_that_is_off_is_seen_and_corrected() {
    for ahead_s in [0, 3_600, -3_600] {
        let address = server(move |mut stream| {
            answer_as_prometheus(&mut stream, ahead_s * SECOND_US as i64, &half_full);
        });
        run(async {
            let ports = [
                interconnect("ic-a", "et-0/0/1"),
                interconnect("ic-b", "xe-9"),
            ];
            let feed = PortFeed::start(&prometheus(address), &ports).expect("configured");
            feed.polled().await;
            let end_us = now_us();
            let windows = feed.window(end_us - 10 * SECOND_US, end_us).0;
            is_half_full(&windows["ic-a"]);
            assert!(windows["ic-b"].is_stale(), "no counters of that port");
            let counters = feed.counters();
            assert_eq!((counters.polls_failed, counters.readings), (0, 21));
        });
    }
}

#[test]
fn what_a_bad_server_does_is_bounded_and_passes() {
    type Behaviour = fn(&mut TcpStream);
    let behaviours: [(&str, Behaviour); 6] = [
        ("an error page", |stream| {
            request(stream);
            answer(stream, "500 Oh no", "<html>");
        }),
        ("no HTTP", |stream| {
            request(stream);
            let _ = stream.write_all(b"hello?\r\n\r\n");
        }),
        ("a body that ends early", |stream| {
            request(stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{");
        }),
        ("an endless body", |stream| {
            request(stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let block = [b' '; 1 << 16];
            while stream.write_all(&block).is_ok() {}
        }),
        ("another address", |stream| {
            request(stream);
            let _ = stream.write_all(
                b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
            );
        }),
        ("silence", |stream| {
            request(stream);
            // Until the other side gives up.
            let _ = stream.read(&mut [0]);
        }),
    ];
    for (what, behave) in behaviours {
        let polls = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&polls);
        let address = server(move |mut stream| {
            if seen.fetch_add(1, Ordering::Relaxed) == 0 {
                behave(&mut stream);
            } else {
                answer_as_prometheus(&mut stream, 0, &half_full);
            }
        });
        let start = Instant::now();
        run(async {
            let ports = [interconnect("ic-a", "et-0/0/1")];
            let feed = PortFeed::start(&prometheus(address), &ports).expect("configured");
            feed.polled().await;
            assert_eq!(feed.counters().polls_failed, 1, "{what}");
            let end_us = now_us();
            let windows = feed.window(end_us - 10 * SECOND_US, end_us).0;
            assert!(windows.is_empty(), "{what}");
            feed.polled().await;
            assert_eq!(feed.counters().polls_failed, 1, "{what}: it passes");
            let end_us = now_us();
            is_half_full(&feed.window(end_us - 10 * SECOND_US, end_us).0["ic-a"]);
        });
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
    }
}

#[test]
fn a_file_is_followed_while_a_poller_appends_and_replaces_it() {
    let folder = Folder::new();
    let file = folder.0.join("ports.csv");
    let settings = Ports {
        csv: Some(file.clone()),
        prometheus: None,
        interval_s: 1,
    };
    let header = "time,interconnect,out_octets,out_packets,out_drops,speed_bps\n";
    let row = |second: u64| {
        format!(
            "{second},ic-a,{},{},{},1000000000\n",
            second % 1_000_000 * 62_500_000,
            second % 1_000_000 * 99_000,
            second % 1_000_000 * 1_000
        )
    };
    run(async {
        let feed = PortFeed::start(&settings, []).expect("configured");
        feed.polled().await;
        assert_eq!(feed.counters().polls_failed, 1, "no such file yet");
        let now = now_us() / SECOND_US;
        let mut text = header.to_owned();
        (now - 20..now - 10).for_each(|second| text.push_str(&row(second)));
        fs::write(&file, &text).expect("written");
        while feed.counters().readings < 10 {
            feed.polled().await;
        }
        let mut appended = fs::OpenOptions::new()
            .append(true)
            .open(&file)
            .expect("there");
        for second in now - 10..=now {
            appended.write_all(row(second).as_bytes()).expect("written");
        }
        appended.write_all(b"soon,ic-a,1,,,\n").expect("written");
        while feed.counters().readings < 21 {
            feed.polled().await;
        }
        let end_us = now * SECOND_US;
        is_half_full(&feed.window(end_us - 10 * SECOND_US, end_us).0["ic-a"]);
        assert_eq!(feed.counters().lines_wrong, 1);
        // Rotated: another file, with its own header.
        let next = folder.0.join("next.csv");
        fs::write(&next, header.to_owned() + &row(now + 1)).expect("written");
        fs::rename(&next, &file).expect("renamed");
        while feed.counters().readings < 22 {
            feed.polled().await;
        }
        assert_eq!(feed.counters().lines_wrong, 1);
    });
}

#[test]
fn nothing_configured_is_no_feed() {
    run(async {
        assert!(PortFeed::start(&Ports::default(), []).is_none());
    });
}

/// A Prometheus of the test's own; ended when dropped.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As snmp_exporter says it: et-0/0/1 of r1 is 97 % full and drops, et-0/0/2 is idle.
fn snmp_text(seconds: f64) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, values: BTreeMap<&str, f64>| {
        let _ = writeln!(text, "# HELP {name} as in IF-MIB\n# TYPE {name} {kind}");
        for (port, value) in values {
            let _ = writeln!(
                text,
                "{name}{{ifAlias=\"\",ifDescr=\"{port}\",ifIndex=\"{}\",ifName=\"{port}\"}} {value}",
                port.len()
            );
        }
    };
    let ports = |full: f64, idle: f64| BTreeMap::from([("et-0/0/1", full), ("et-0/0/2", idle)]);
    let octets = |share: f64| (share * 125e6 * seconds).floor();
    metric("ifHCOutOctets", "counter", ports(octets(0.97), octets(0.1)));
    metric("ifHCInOctets", "counter", ports(octets(0.1), octets(0.97)));
    metric(
        "ifOutDiscards",
        "counter",
        ports((seconds * 1_000.0).floor(), 0.0),
    );
    metric("ifOutErrors", "counter", ports(0.0, 0.0));
    metric(
        "ifInErrors",
        "counter",
        ports(0.0, (seconds * 500.0).floor()),
    );
    metric("ifHighSpeed", "gauge", ports(1_000.0, 1_000.0));
    text
}

#[test]
fn a_real_prometheus_that_scrapes_an_exporter_like_snmps() {
    if Command::new("prometheus")
        .arg("--version")
        .output()
        .is_err()
    {
        println!(
            "SKIPPED: prometheus is not there; `cargo xtask test` gets it for this machine, not for guests"
        );
        return;
    }
    let folder = Folder::new();
    let start = Instant::now();
    let exporter = server(move |mut stream| {
        request(&stream);
        let text = snmp_text(1_000.0 + start.elapsed().as_secs_f64());
        answer(&mut stream, "200 OK", &text);
    });
    let config = folder.0.join("prometheus.yml");
    // As in snmp_exporter's manual: the device is the target, the exporter the address.
    fs::write(
        &config,
        format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs:\n\
             - job_name: snmp\n\
             \x20 static_configs: [ {{ targets: [ r1 ] }} ]\n\
             \x20 metrics_path: /snmp\n\
             \x20 relabel_configs:\n\
             \x20 - {{ source_labels: [ __address__ ], target_label: __param_target }}\n\
             \x20 - {{ source_labels: [ __param_target ], target_label: instance }}\n\
             \x20 - {{ target_label: __address__, replacement: '{exporter}' }}\n"
        ),
    )
    .expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let _prometheus = Prometheus(
        Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.0.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts"),
    );
    let [full, idle] = run(async {
        let ports = [
            interconnect("full", "et-0/0/1"),
            interconnect("idle", "et-0/0/2"),
        ];
        let feed = PortFeed::start(&prometheus(address), &ports).expect("configured");
        // It is not there at once, and it needs some scrapes.
        loop {
            feed.polled().await;
            let end_us = now_us();
            let windows = feed.window(end_us - 6 * SECOND_US, end_us).0;
            let both = [windows.get("full"), windows.get("idle")];
            if let [Some(full), Some(idle)] = both
                && !full.is_stale()
                && !idle.is_stale()
            {
                return [full.clone(), idle.clone()];
            }
        }
    });
    let near = |value: Option<f64>, wanted: f64| {
        value.is_some_and(|value| (value - wanted).abs() < 0.05 * wanted)
    };
    assert!(near(full.utilisation, 0.97), "{full:?}");
    assert!(
        full.drop_share.is_some_and(|share| share > 0.003),
        "{full:?}"
    );
    assert!(near(idle.utilisation, 0.1), "{idle:?}");
    assert_eq!(idle.drop_share, Some(0.0), "{idle:?}");
    assert_eq!(full.speed_bps, Some(1_000_000_000));
}
