//! The unit of `packaging/` under a real systemd: its user, its capabilities and its sandbox are
//! enough, and systemd's ways of starting, watching, reloading and stopping a service work.

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use lastmile::export::schema::validate_line;
use serde_json::Value;
use support::{
    daemon::{flows, last_records},
    net::{Internet, PORT, SERVER},
};

const UNIT: &str = include_str!("../../packaging/lastmile.service");
const UNIT_FILE: &str = "/etc/systemd/system/lastmile.service";
const BPF_UNIT: &str = include_str!("../../packaging/lastmile-bpf.service");
const BPF_UNIT_FILE: &str = "/etc/systemd/system/lastmile-bpf.service";
const CONFIG: &str = "/etc/lastmile/lastmile.toml";
const DOWNLOAD: usize = 1_000_000;
/// Records of so many are more than wait in the journal's socket.
const CONNECTIONS: usize = 300;
const SMALL_DOWNLOAD: usize = 20_000;
/// Longer than systemd takes for anything here, under emulation too.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Whether systemd is the first process here; says so when not.
fn systemd_or_skip() -> bool {
    if !support::root_or_skip("a service of the system") {
        return false;
    }
    let first = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    // A developer's own machine may run systemd: its services are none of our business.
    if first.trim() == "systemd" && Path::new("/run-command").exists() {
        return true;
    }
    println!("SKIPPED: this needs a virtual machine with systemd as its first process");
    false
}

fn systemctl(arguments: &[&str]) -> Output {
    Command::new("systemctl")
        .args(arguments)
        .output()
        .expect("systemctl runs")
}

#[track_caller]
fn succeed(arguments: &[&str]) {
    let output = systemctl(arguments);
    assert!(
        output.status.success(),
        "systemctl {}: {}\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr),
        journal(&["-u", "lastmile", "-n", "50", "--no-pager"])
    );
}

/// A property of the service.
fn property(name: &str) -> String {
    property_of("lastmile", name)
}

fn property_of(unit: &str, name: &str) -> String {
    let output = systemctl(&["show", "--value", "-p", name, unit]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Waits until a property has this value: systemd tells nobody whom it does not manage.
#[track_caller]
fn await_property(unit: &str, name: &str, wanted: &str) {
    let begin = Instant::now();
    loop {
        let value = property_of(unit, name);
        if value == wanted {
            return;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "{name} of {unit} stays {value}\n{}",
            journal(&["-n", "50", "--no-pager"])
        );
        thread::sleep(LOOK_INTERVAL);
    }
}

fn journal(arguments: &[&str]) -> String {
    let output = Command::new("journalctl")
        .args(arguments)
        .output()
        .expect("journalctl runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The service's messages and systemd's about it, as they come.
struct Messages {
    journal: Child,
    lines: BufReader<ChildStdout>,
}

impl Messages {
    fn follow() -> Self {
        let mut journal = Command::new("journalctl")
            .args(["--follow", "--no-tail", "--output=cat", "--boot"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("journalctl runs");
        let lines = BufReader::new(journal.stdout.take().expect("its output is a pipe"));
        Self { journal, lines }
    }

    /// Reads on until a line holds `wanted`.
    fn await_line(&mut self, wanted: &str) {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.lines.read_until(b'\n', &mut line);
            assert!(read.expect("the journal is read") > 0, "no {wanted:?}");
            if String::from_utf8_lossy(&line).contains(wanted) {
                return;
            }
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        let _ = self.journal.kill();
        let _ = self.journal.wait();
    }
}

/// The service, installed as the README says, in the network of one of the hosts.
struct Service {
    internet: Internet,
    messages: Messages,
}

impl Service {
    fn install(extra: &str) -> Self {
        let internet = Internet::new(None, None);
        for folder in ["/usr/bin", "/etc/lastmile"] {
            fs::create_dir_all(folder).expect("a folder");
        }
        fs::copy(env!("CARGO_BIN_EXE_lastmile"), "/usr/bin/lastmile").expect("installed");
        fs::set_permissions("/usr/bin/lastmile", fs::Permissions::from_mode(0o755))
            .expect("may be run");
        add_line("/etc/passwd", "lastmile:x:900:900::/:/bin/false");
        add_line("/etc/group", "lastmile:x:900:");
        configure("stdout");
        for (file, unit) in [(UNIT_FILE, UNIT), (BPF_UNIT_FILE, BPF_UNIT)] {
            fs::write(file, unit).expect("the unit is written");
        }
        // The unit of the BPF file system stays in the first namespace, as a user would have it.
        let drop_in = format!("{UNIT_FILE}.d");
        fs::create_dir_all(&drop_in).expect("a folder");
        let text = format!(
            "[Service]\nNetworkNamespacePath=/run/netns/{}\n{extra}",
            internet.server
        );
        fs::write(format!("{drop_in}/test.conf"), text).expect("the drop-in is written");
        succeed(&["daemon-reload"]);
        Self {
            internet,
            messages: Messages::follow(),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        systemctl(&["stop", "lastmile"]);
        systemctl(&["reset-failed", "lastmile"]);
    }
}

fn add_line(file: &str, line: &str) {
    let text = fs::read_to_string(file).expect("the file is there");
    if !text.lines().any(|there| there == line) {
        fs::write(file, format!("{text}{line}\n")).expect("the file is written");
    }
}

fn configure(destination: &str) {
    let text = format!(
        "[watch]\ninterfaces = [\"eth0\"]\nports = [{PORT}]\n[window]\nlength_s = 3600\n\
         [log]\ndestination = \"{destination}\"\n"
    );
    fs::write(CONFIG, text).expect("the configuration is written");
}

/// The records among the service's lines in the journal, each held to the schema.
fn records() -> Vec<Value> {
    succeed_sync();
    journal(&["-u", "lastmile", "--output=cat", "--no-pager", "--all"])
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| {
            validate_line(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            serde_json::from_str(line).expect("valid lines are JSON")
        })
        .collect()
}

/// Waits until journald has written what it was given.
fn succeed_sync() {
    let done = Command::new("journalctl").arg("--sync").status();
    assert!(done.expect("journalctl runs").success(), "journald writes");
}

#[test]
fn it_starts_measures_reloads_and_stops_as_its_own_user() {
    if !systemd_or_skip() {
        return;
    }
    let mut service = Service::install("");
    succeed(&["start", "lastmile"]);
    assert_eq!(property("ActiveState"), "active", "ready was said");
    let status = fs::read_to_string(format!("/proc/{}/status", property("MainPID")))
        .expect("the process is there");
    assert!(status.contains("\nUid:\t900\t900\t900\t900\n"), "{status}");
    // CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39: these and no others.
    assert!(status.contains("\nCapEff:\t000000c000001000\n"), "{status}");

    let socket = service.internet.download(DOWNLOAD);
    configure("stdout");
    succeed(&["reload", "lastmile"]);
    service.messages.await_line("reloaded");
    succeed(&["stop", "lastmile"]);
    assert_eq!(property("Result"), "success");
    await_property("lastmile-bpf", "ActiveState", "inactive");
    service.internet.await_no_programs("eth0");

    let records = records();
    let flow = records
        .iter()
        .rfind(|record| record["type"] == "flow" && record["event"] != "open")
        .expect("the flow is in the journal, written at the end");
    assert_eq!(flow["to_client"]["segments"], socket.data_segs_out);
}

#[test]
fn a_restart_and_a_kill_miss_no_packet_and_a_stop_leaves_nothing() {
    if !systemd_or_skip() {
        return;
    }
    let service = Service::install("RestartSec=100ms\n");
    succeed(&["start", "lastmile"]);
    let socket = service.internet.download_while(DOWNLOAD, || {
        // While it restarts the transfer goes on.
        succeed(&["restart", "lastmile"]);
        let pid: libc::pid_t = property("MainPID").parse().expect("a process number");
        // SAFETY: the process that systemd says is the service this test started.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
        await_property("lastmile", "NRestarts", "1");
        await_property("lastmile", "ActiveState", "active");
    });
    assert!(Path::new("/run/lastmile/bpf/links").exists());
    // What it was told first is what counts when it is gone.
    fs::write(CONFIG, "[watch]\nprots = [80]\n").expect("the configuration is written");
    succeed(&["stop", "lastmile"]);
    // systemd stops the file system's unit once it has seen that nobody needs it.
    await_property("lastmile-bpf", "ActiveState", "inactive");
    assert!(!Path::new("/run/lastmile/bpf/links").exists());
    service.internet.await_no_programs("eth0");

    let records = records();
    let flow = records
        .iter()
        .rfind(|record| record["type"] == "flow" && record["event"] != "open")
        .expect("the flow is in the journal, written at the end");
    assert_eq!(flow["to_client"]["segments"], socket.data_segs_out);
    let id = &flow["flow_id"];
    let opened = |record: &&Value| record["event"] == "open" && record["flow_id"] == *id;
    assert_eq!(records.iter().filter(opened).count(), 1, "told once");
}

/// A video server of the operator's as a unit of its own, gone when dropped.
struct VideoServer;

impl VideoServer {
    const UNIT: &str = "video-edge.service";
    const PORT: u16 = 8080;
    const FILE_BYTES: usize = 300_000;

    /// nginx, in the network of the service. It goes to the background once it listens.
    fn start(internet: &Internet) -> Self {
        fs::create_dir_all("/srv/video").expect("a folder");
        fs::write("/srv/video/part", vec![0x5a; Self::FILE_BYTES]).expect("the file is written");
        let port = Self::PORT;
        let text = format!(
            "user root; pid /srv/video/pid; error_log /srv/video/log;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path /srv/video/body;\n\
             proxy_temp_path /srv/video/proxy; fastcgi_temp_path /srv/video/fastcgi;\n\
             uwsgi_temp_path /srv/video/uwsgi; scgi_temp_path /srv/video/scgi;\n\
             server {{ listen {SERVER}:{port}; root /srv/video; }} }}\n"
        );
        fs::write("/etc/video-edge.conf", text).expect("the configuration is written");
        let unit = format!(
            "[Service]\nType=forking\nPIDFile=/srv/video/pid\n\
             NetworkNamespacePath=/run/netns/{}\n\
             ExecStart=/bin/nginx -e /srv/video/log -c /etc/video-edge.conf\n",
            internet.server
        );
        fs::write(format!("/etc/systemd/system/{}", Self::UNIT), unit).expect("written");
        succeed(&["daemon-reload"]);
        succeed(&["start", Self::UNIT]);
        Self
    }

    /// The client gets the file.
    fn download(&self, internet: &Internet) {
        let client = internet.on(&internet.client, || {
            let mut stream = TcpStream::connect((SERVER, Self::PORT)).expect("nginx listens");
            let request = b"GET /part HTTP/1.0\r\n\r\n";
            stream.write_all(request).expect("connected");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("nginx sends");
            answer.len()
        });
        let received = lastmile_lab::netns::join(client).expect("the client ends");
        assert!(received > Self::FILE_BYTES, "only {received} bytes");
    }
}

impl Drop for VideoServer {
    fn drop(&mut self) {
        systemctl(&["stop", Self::UNIT]);
        systemctl(&["reset-failed", Self::UNIT]);
    }
}

#[test]
fn what_a_unit_of_the_operators_sends_is_video_and_what_others_send_is_not_known_to_be() {
    if !systemd_or_skip() {
        return;
    }
    let service = Service::install("");
    let text = format!(
        "[watch]\ninterfaces = [\"eth0\"]\nports = [{PORT}, {}]\n[window]\nlength_s = 3600\n\
         [video]\nunits = [\"{}\"]\nnames = false\nbehaviour = false\nreport_all = true\n",
        VideoServer::PORT,
        VideoServer::UNIT,
    );
    fs::write(CONFIG, text).expect("the configuration is written");
    let server = VideoServer::start(&service.internet);
    succeed(&["start", "lastmile"]);
    server.download(&service.internet);
    service.internet.download(DOWNLOAD);
    succeed(&["stop", "lastmile"]);

    let records = records();
    let of = |port: u16| {
        let flow = records.iter().rfind(|record| {
            record["type"] == "flow" && record["event"] != "open" && record["server_port"] == port
        });
        flow.unwrap_or_else(|| panic!("no flow of port {port}"))
    };
    let video = of(VideoServer::PORT);
    assert_eq!(video["video"], true, "{video}");
    assert_eq!(video["video_reason"], "cgroup");
    assert_eq!(of(PORT)["video"], Value::Null);
}

/// A process that takes no time until this is dropped.
struct Stopped(libc::pid_t);

impl Stopped {
    fn stop(pid: &str) -> Self {
        let pid = pid.parse().expect("a process number");
        // SAFETY: a service of the machine that this test runs in.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}

/// Whether the thread that writes the log waits for the journal's socket.
fn held_up(pid: &str) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads can be listed");
    let mut paths = tasks.map(|task| task.expect("readable").path());
    let log = paths
        .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "log"))
        .expect("the log has a thread");
    // The number of the call that it is in comes first (proc_pid_syscall(5)).
    let call = fs::read_to_string(log.join("syscall")).expect("readable");
    let sends = [libc::SYS_sendto, libc::SYS_sendmsg];
    sends
        .map(|number| number.to_string())
        .contains(&call.split(' ').next().unwrap_or_default().to_owned())
}

#[test]
fn a_journal_that_takes_nothing_holds_nobody_up_and_gets_everything_later() {
    if !systemd_or_skip() {
        return;
    }
    let service = Service::install("WatchdogSec=10\n");
    configure("journald");
    succeed(&["start", "lastmile"]);
    let stopped = Stopped::stop(&property_of("systemd-journald", "MainPID"));
    let mut segments = 0;
    for _ in 0..CONNECTIONS {
        segments += u64::from(service.internet.download(SMALL_DOWNLOAD).data_segs_out);
    }
    let writer = held_up(&property("MainPID"));
    assert!(writer, "more waits than the journal's socket holds");
    // Its loop still turns.
    for _ in 0..2 {
        let before = property("WatchdogTimestampMonotonic");
        let begin = Instant::now();
        while property("WatchdogTimestampMonotonic") == before {
            assert!(begin.elapsed() < PATIENCE, "it says no more that it lives");
            thread::sleep(LOOK_INTERVAL);
        }
    }
    drop(stopped);
    succeed(&["stop", "lastmile"]);
    assert_eq!(property("Result"), "success");

    let records = records();
    assert_eq!(flows(&records, "open").len(), CONNECTIONS, "each is told");
    let known = last_records(&records).into_iter();
    let counted = known.filter_map(|flow| flow["to_client"]["segments"].as_u64());
    assert_eq!(counted.sum::<u64>(), segments, "and measured whole");
}

#[test]
fn one_that_hangs_is_killed_and_started_again() {
    if !systemd_or_skip() {
        return;
    }
    let mut service = Service::install("WatchdogSec=5\nRestartSec=100ms\n");
    succeed(&["start", "lastmile"]);
    let first = property("MainPID");
    let pid: libc::pid_t = first.parse().expect("a process number");
    // SAFETY: the process that systemd says is the service this test started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
    service.messages.await_line("Watchdog timeout");
    service.messages.await_line("Scheduled restart job");
    service.messages.await_line("Started");
    assert_eq!(property("ActiveState"), "active");
    assert_ne!(property("MainPID"), first);

    service.internet.download(DOWNLOAD);
    succeed(&["stop", "lastmile"]);
    let known = records();
    assert!(
        known.iter().any(|record| record["type"] == "flow"),
        "the second one measures"
    );
}

#[test]
fn a_wrong_configuration_fails_once_and_is_not_tried_again() {
    if !systemd_or_skip() {
        return;
    }
    let mut service = Service::install("RestartSec=100ms\n");
    fs::write(CONFIG, "[watch]\nprots = [80]\n").expect("the configuration is written");
    assert!(!systemctl(&["start", "lastmile"]).status.success());
    service.messages.await_line("lastmile.toml:2");
    assert_eq!(property("ActiveState"), "failed");
    assert_eq!(property("ExecMainStatus"), "2");
    assert_eq!(property("NRestarts"), "0");
}

#[test]
fn its_sandbox_is_as_tight_as_the_documentation_says() {
    if !systemd_or_skip() {
        return;
    }
    fs::write(UNIT_FILE, UNIT).expect("the unit is written");
    // Tenths: 2.0 on systemd's scale of exposure, 0 the best.
    let output = Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true", "--threshold=20"])
        .arg(UNIT_FILE)
        .output()
        .expect("systemd-analyze runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().unwrap_or_default();
    println!("{last}");
    assert!(output.status.success(), "{said}");
}
