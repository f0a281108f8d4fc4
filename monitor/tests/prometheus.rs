//! What the daemon says at `/metrics` is what a real Prometheus wants, and finds.

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lastmile_lab::netns;
use serde_json::Value;
use support::{
    daemon::{Daemon, Folder, PATIENCE, config},
    net::Internet,
};

const DOWNLOAD: usize = 1_000_000;
const METRICS: &str = "127.0.0.1:9718";
const PROMETHEUS: &str = "127.0.0.1:9090";
/// It scrapes once a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A Prometheus in the server's namespace; ended when dropped.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The answer's body; `None` where nobody listens yet.
fn get(internet: &Internet, address: &'static str, path: &'static str) -> Option<String> {
    let asked = internet.on(&internet.server, move || {
        let mut stream = TcpStream::connect(address).ok()?;
        // Without chunks, which HTTP/1.1 may have.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some(body.to_owned())
    });
    netns::join(asked).expect("the namespace is there")
}

/// What Prometheus says of a series, if it knows it.
fn asked(internet: &Internet, path: &'static str) -> Option<f64> {
    let answer: Value = serde_json::from_str(&get(internet, PROMETHEUS, path)?).ok()?;
    answer["data"]["result"][0]["value"][1]
        .as_str()?
        .parse()
        .ok()
}

#[test]
fn a_real_prometheus_scrapes_the_daemon_and_promtool_finds_no_fault() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let is_there = |name| Command::new(name).arg("--version").output().is_ok();
    if !is_there("prometheus") || !is_there("promtool") {
        println!(
            "SKIPPED: prometheus is not there; `cargo xtask test` gets it for this machine, not for guests"
        );
        return;
    }
    let folder = Folder::new("prometheus");
    let internet = Internet::new(None, None);
    let log = folder.file("log.jsonl");
    let short = config(&log).replace("length_s = 3600", "length_s = 1");
    let mut daemon = Daemon::start(&internet, &folder, &short);
    let file = folder.file("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
         scrape_configs:\n\
         - job_name: lastmile\n\
         \x20 static_configs: [ {{ targets: [ '{METRICS}' ] }} ]\n"
    );
    fs::write(&file, text).expect("written");
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.file("tsdb").display()
        ))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let started = internet.on(&internet.server, move || command.spawn());
    let started = netns::join(started).expect("the namespace is there");
    let _prometheus = Prometheus(started.expect("it starts"));

    internet.download(DOWNLOAD);
    let begin = Instant::now();
    let watched = || {
        asked(
            &internet,
            "/api/v1/query?query=lastmile_packets_watched_total",
        )
    };
    while watched().is_none_or(|count| count == 0.0) {
        assert!(begin.elapsed() < PATIENCE, "it finds no packets");
        thread::sleep(LOOK_INTERVAL);
    }
    let up = asked(&internet, "/api/v1/query?query=up");
    assert_eq!(up, Some(1.0), "and says that the daemon is up");

    let metrics = get(&internet, METRICS, "/metrics").expect("the daemon answers");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let mut input = promtool.stdin.take().expect("its input is a pipe");
    input.write_all(metrics.as_bytes()).expect("it reads");
    drop(input);
    let checked = promtool.wait_with_output().expect("it ends");
    assert!(
        checked.status.success() && checked.stderr.is_empty(),
        "{checked:?}"
    );
    let series = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    println!("{series} series");
    assert!(series < 300, "as many with one client as with a million");
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success(), "a clean end");
}
