//! The daemon under test: its configuration, its start, its log and its end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use toml::{Table, Value};

use crate::addresses::VIDEO;
use crate::netns;
use crate::plan::Plan;
use crate::routes;
use crate::scenario::Scenario;
use crate::web;

/// How long the daemon may take until it is ready: loading the programs takes seconds when the
/// verifier is emulated.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to flush and detach after SIGTERM; systemd's own limit is 90 s.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// What the daemon does, as it happens.
#[derive(Debug)]
pub enum Event {
    /// It said READY=1.
    Ready,
    /// A line of its log, without the newline.
    Line(String),
    /// It closed its log: it is gone, or about to be.
    Ended,
    /// The log could not be copied.
    Failed(anyhow::Error),
}

/// The running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Writes its configuration below `folder`, beside the files about routes, starts `program run`
    /// in the video host's namespace and waits until it is ready. From then on the log goes to `log` and,
    /// line by line, to the returned channel.
    ///
    /// # Errors
    /// If a file cannot be written, or the daemon is missing or does not get ready.
    pub fn start(
        program: &Path,
        scenario: &Scenario,
        plan: &Plan,
        folder: &Path,
        log: &Path,
    ) -> Result<(Self, Receiver<Event>)> {
        let path = folder.join("lastmile.toml");
        let text = toml::to_string(&configuration(scenario, plan))
            .context("the daemon's configuration cannot be written as TOML")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;

        let notify_path = folder.join("notify");
        let notify = UnixDatagram::bind(&notify_path)
            .with_context(|| format!("cannot listen on {}", notify_path.display()))?;
        let program = program.to_owned();
        let start = netns::enter(VIDEO, move || {
            Command::new(&program)
                .args(["run", "--config"])
                .arg(&path)
                .env("NOTIFY_SOCKET", &notify_path)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot run {}", program.display()))
        })?;
        let mut child = netns::join(start)?;
        let stdout = child
            .stdout
            .take()
            .context("the daemon was started without a pipe")?;
        let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;

        let (sender, events) = channel();
        let log_sender = sender.clone();
        thread::spawn(move || {
            let ended = match copy_log(BufReader::new(stdout), BufWriter::new(file), &log_sender) {
                Ok(()) => Event::Ended,
                Err(error) => Event::Failed(error),
            };
            // Nobody listens any more once the lab gave up.
            let _ = log_sender.send(ended);
        });
        thread::spawn(move || await_ready(&notify, &sender));

        let mut daemon = Self { child };
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Ready) => return Ok((daemon, events)),
                // No window ends before the daemon is ready: this is about its start.
                Ok(Event::Line(_)) => {}
                Ok(Event::Ended) => {
                    let status = daemon.wait()?;
                    bail!("the daemon ended before it was ready: {status}");
                }
                Ok(Event::Failed(error)) => return Err(error),
                Err(_) => {
                    daemon.child.kill().context("cannot kill the daemon")?;
                    bail!("the daemon was not ready within {READY_WITHIN:?}");
                }
            }
        }
    }

    /// Asks the daemon to end and waits until it has; hands every line that still comes to
    /// `line`.
    ///
    /// # Errors
    /// If it does not end in time or not well.
    pub fn stop(mut self, events: &Receiver<Event>, mut line: impl FnMut(&str)) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, Signal::SIGTERM).context("cannot signal the daemon")?;
        let deadline = Instant::now() + STOP_WITHIN;
        loop {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Line(text)) => line(&text),
                Ok(Event::Ready) => {}
                Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(Event::Failed(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {
                    self.child.kill().context("cannot kill the daemon")?;
                    bail!("the daemon did not end within {STOP_WITHIN:?} after SIGTERM");
                }
            }
        }
        let status = self.wait()?;
        ensure!(status.success(), "the daemon ended badly: {status}");
        Ok(())
    }

    fn wait(mut self) -> Result<std::process::ExitStatus> {
        self.child.wait().context("cannot await the daemon")
    }
}

/// Found through `PATH`.
pub const PROGRAM: &str = "lastmile";

/// Has the program itself hold every line of its log to its schema.
///
/// # Errors
/// If it cannot be run, or refuses a line: it says on stderr which one and why.
pub fn check_log(program: &Path, log: &Path) -> Result<()> {
    let status = Command::new(program)
        .args(["schema", "--check"])
        .arg(log)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(
        status.success(),
        "a line of {} is not as the log's schema says",
        log.display()
    );
    Ok(())
}

/// The configuration the daemon gets: what the lab's network requires, and over it whatever the
/// scenario says.
fn configuration(scenario: &Scenario, plan: &Plan) -> Table {
    let mut table = Table::new();
    let watch = Table::from_iter([
        ("interfaces".to_owned(), Value::from(vec!["eth0"])),
        ("ports".to_owned(), Value::from(vec![i64::from(web::PORT)])),
    ]);
    let log = Table::from_iter([
        ("destination".to_owned(), Value::from("stdout")),
        ("level".to_owned(), Value::from("warn")),
    ]);
    table.insert("watch".to_owned(), watch.into());
    table.insert("path".to_owned(), routes::configuration(plan).into());
    table.insert("log".to_owned(), log.into());
    lay_over(&mut table, &scenario.daemon);
    table
}

/// Lays one table over another, key by key.
pub fn lay_over(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

fn copy_log(reader: impl BufRead, mut file: impl Write, events: &Sender<Event>) -> Result<()> {
    for line in reader.lines() {
        let line = line.context("cannot read the daemon's log")?;
        writeln!(file, "{line}").context("cannot write the daemon's log")?;
        file.flush().context("cannot write the daemon's log")?;
        if events.send(Event::Line(line)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Waits for sd_notify's READY=1; further messages (watchdog, status) are for systemd.
fn await_ready(notify: &UnixDatagram, events: &Sender<Event>) {
    let mut buffer = [0; 4096];
    while let Ok(size) = notify.recv(&mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..size]);
        if message.lines().any(|line| line == "READY=1") && events.send(Event::Ready).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scenario_says_is_laid_over_what_the_lab_needs() {
        let mut scenario = Scenario::load("healthy").unwrap();
        scenario.daemon = "[watch]\nsample_one_in = 2\n[window]\nlength_s = 5"
            .parse()
            .unwrap();
        let plan = Plan::new(&scenario).unwrap();
        let table = configuration(&scenario, &plan);
        assert_eq!(table["watch"]["sample_one_in"].as_integer(), Some(2));
        assert_eq!(table["watch"]["ports"][0].as_integer(), Some(80));
        assert_eq!(table["window"]["length_s"].as_integer(), Some(5));
        assert_eq!(
            table["path"]["prefixes_csv"].as_str(),
            Some(routes::PREFIXES_FILE)
        );
    }
}
