//! One run of one scenario, inside the machine that is its network.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::addresses::VIDEO;
use crate::cross::{self, Running};
use crate::daemon::{Daemon, Event, PROGRAM, check_log};
use crate::judge::{Outcome, Said, Tally, judge, tally};
use crate::netns;
use crate::plan::Plan;
use crate::player::{ChunkReport, play};
use crate::proof;
use crate::queues::{self, Sample};
use crate::reached::{self, Reached, Sighting};
use crate::rerouting::Rerouting;
use crate::scenario::Scenario;
use crate::show::Show;
use crate::stage::Stage;
use crate::verdict::Verdict;
use crate::web::Server;

/// Where the lab keeps what it needs while it runs.
const WORK: &str = "/run/lab";

/// The fraction of the golden ratio.
const GOLDEN_FRACTION: f64 = 0.618_033_988_749_895;

/// What to run, and what to leave out.
#[derive(Debug)]
pub struct Options {
    /// Where the results go: `lastmile.jsonl`, `truth.json`, `player.jsonl`, `queues.jsonl`,
    /// `outcome.json`.
    pub out: PathBuf,
    /// Whether the daemon runs; without it only the network's own proof is made.
    pub daemon: bool,
}

/// Builds the scenario's network, runs it and holds what the daemon said against the truth.
/// Returns whether the final verdict was the truth and nobody else was blamed.
///
/// # Errors
/// If anything of the lab fails, the daemon does not start or end well, or the network did not
/// do what the truth says.
pub fn run(scenario: &Scenario, options: &Options) -> Result<bool> {
    let mut show = Show::new();
    let plan = Plan::new(scenario)?;
    show.opening(scenario, plan.homes.len(), plan.prefixes().len());
    let work = Path::new(WORK);
    for folder in [work, &options.out] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }

    let setting_up = Instant::now();
    netns::build(&plan)?;
    netns::set_sysctl(
        VIDEO,
        "net/ipv4/tcp_congestion_control",
        &scenario.video_host.congestion_control,
    )?;
    let mut rerouting = Rerouting::start(&plan, work, &options.out)?;
    let server = Server::start(&scenario.video, work)?;
    let log_file = options.out.join("lastmile.jsonl");
    let daemon = if options.daemon {
        Some(Daemon::start(
            Path::new(PROGRAM),
            scenario,
            &plan,
            work,
            &log_file,
        )?)
    } else {
        None
    };
    if options.daemon {
        rerouting.await_told()?;
    }
    println!("ready after {:.1} s", setting_up.elapsed().as_secs_f64());

    let clock = Clock {
        start: Instant::now(),
        wall: SystemTime::now(),
    };
    write_truth(scenario, &clock, &options.out)?;
    let observers = Observers::start(scenario, &plan, &clock, &options.out)?;

    let mut log = Log {
        clock: &clock,
        show: &mut show,
        said: Vec::new(),
        sightings: Vec::new(),
        lines: 0,
        broken: None,
    };
    // Without a daemon nobody ever sends, and only time passes.
    let (silence, silent) = channel();
    let events = daemon.as_ref().map_or(&silent, |(_, events)| events);
    play_timeline(scenario, &plan, &mut rerouting, events, &mut log)?;
    drop(silence);
    if let Some((daemon, events)) = daemon {
        daemon.stop(&events, |line| log.line(line))?;
        check_log(Path::new(PROGRAM), &log_file)?;
    }
    if let Some(error) = log.broken {
        return Err(error);
    }
    let (said, sightings, lines) = (log.said, log.sightings, log.lines);
    let moves = rerouting.stop()?;
    let (reports, samples) = observers.stop()?;
    server.stop()?;

    let phases = proof::phases(scenario, &plan, &samples);
    show.proof(&phases, &proof::viewers(scenario, &plan, &reports));
    let contradictions: Vec<String> = phases
        .iter()
        .flat_map(|phase| phase.contradictions())
        .chain(proof::slow_others(scenario, &plan, &reports))
        .chain(proof::short_detours(scenario, &plan, &reports))
        .collect();
    if !options.daemon {
        ensure_true(&contradictions)?;
        return Ok(true);
    }
    let outcome = judge(&said, &scenario.truths, *scenario.duration_s.get_ref());
    let reached = reached::judge(&plan, &moves, &sightings);
    show.outcome(&outcome, &reached);
    println!(
        "{lines} lines in lastmile.jsonl, all as the schema says, {} of them verdicts",
        said.len()
    );
    let tally = tally(&said, &scenario.truths);
    write_outcome(&outcome, &tally, &reached, &contradictions, &options.out)?;
    ensure_true(&contradictions)?;
    Ok(outcome.passed() && reached.passed())
}

/// The network did not do what the scenario's truth says.
#[derive(Debug)]
pub struct ProvesNothing(Vec<String>);

impl fmt::Display for ProvesNothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the network did not do what the scenario's truth says, so this run proves nothing:\n  {}",
            self.0.join("\n  ")
        )
    }
}

impl std::error::Error for ProvesNothing {}

fn ensure_true(contradictions: &[String]) -> Result<()> {
    if contradictions.is_empty() {
        Ok(())
    } else {
        Err(ProvesNothing(contradictions.to_vec()).into())
    }
}

/// The scenario's zero, on both clocks.
struct Clock {
    start: Instant,
    wall: SystemTime,
}

impl Clock {
    fn elapsed_s(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Seconds after the start; negative before.
    fn seconds_at(&self, time: SystemTime) -> f64 {
        match time.duration_since(self.wall) {
            Ok(after) => after.as_secs_f64(),
            Err(before) => -before.duration().as_secs_f64(),
        }
    }

    fn rfc3339(&self, at_s: f64) -> String {
        humantime::format_rfc3339_micros(self.wall + Duration::from_secs_f64(at_s)).to_string()
    }
}

/// What comes from the daemon.
struct Log<'a> {
    clock: &'a Clock,
    show: &'a mut Show,
    said: Vec<Said>,
    sightings: Vec<Sighting>,
    lines: usize,
    /// The first line that could not be read.
    broken: Option<anyhow::Error>,
}

impl Log<'_> {
    fn line(&mut self, line: &str) {
        self.lines += 1;
        match self.read(line) {
            Ok(Some(said)) => {
                self.show.verdict(self.clock.elapsed_s(), &said);
                self.said.push(said);
            }
            Ok(None) => {}
            Err(error) => {
                self.broken.get_or_insert(error);
            }
        }
    }

    fn read(&mut self, line: &str) -> Result<Option<Said>> {
        let clock = self.clock;
        let sighting = Sighting::from_line(line, |time| clock.seconds_at(time))?;
        self.sightings.extend(sighting);
        let Some(verdict) = Verdict::from_line(line)? else {
            return Ok(None);
        };
        let at_s = self.clock.seconds_at(verdict.window_begin()?);
        Ok(Some(Said { at_s, verdict }))
    }
}

/// What happens at a time.
enum Due {
    FaultBegins(usize),
    FaultEnds(usize),
    Move(usize),
}

/// Lets time pass: starts and ends each fault and makes each move when it is due, and hands on
/// what the daemon says.
fn play_timeline(
    scenario: &Scenario,
    plan: &Plan,
    rerouting: &mut Rerouting,
    events: &Receiver<Event>,
    log: &mut Log<'_>,
) -> Result<()> {
    let mut due: Vec<(f64, Due)> = Vec::new();
    for (index, fault) in scenario.faults.iter().enumerate() {
        due.push((fault.from_s, Due::FaultBegins(index)));
        due.push((*fault.to_s.get_ref(), Due::FaultEnds(index)));
    }
    for (index, moved) in scenario.moves.iter().enumerate() {
        due.push((*moved.at_s.get_ref(), Due::Move(index)));
    }
    due.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut running: Vec<Option<Running>> = scenario.faults.iter().map(|_| None).collect();
    for (at_s, due) in due {
        pass_until(at_s, events, log)?;
        let now_s = log.clock.elapsed_s();
        match due {
            Due::FaultBegins(index) => {
                log.show.fault(now_s, scenario, index, true);
                running[index] = Some(cross::start(plan, &scenario.faults[index])?);
            }
            Due::FaultEnds(index) => {
                log.show.fault(now_s, scenario, index, false);
                if let Some(traffic) = running[index].take() {
                    traffic.stop()?;
                }
            }
            Due::Move(index) => {
                let moved = &scenario.moves[index];
                let (prefix, to) = (moved.prefix.get_ref(), moved.to.get_ref());
                log.show.rerouted(now_s, &format!("{prefix} moves to {to}"));
                rerouting.apply(moved, log.clock.start)?;
            }
        }
    }
    pass_until(*scenario.duration_s.get_ref(), events, log)
}

fn pass_until(at_s: f64, events: &Receiver<Event>, log: &mut Log<'_>) -> Result<()> {
    let then = log.clock.start + Duration::from_secs_f64(at_s);
    loop {
        match events.recv_timeout(then.saturating_duration_since(Instant::now())) {
            Ok(Event::Line(line)) => log.line(&line),
            Ok(Event::Ready) => {}
            Ok(Event::Failed(error)) => return Err(error),
            Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => {
                bail!(
                    "the daemon ended by itself after {:.1} s",
                    log.clock.elapsed_s()
                )
            }
            Err(RecvTimeoutError::Timeout) => return Ok(()),
        }
    }
}

/// The players and the queues' watcher.
struct Observers {
    stage: Arc<Stage>,
    players: Vec<JoinHandle<Result<()>>>,
    reports: JoinHandle<Result<Vec<ChunkReport>>>,
    watcher: JoinHandle<Result<Vec<Sample>>>,
    stop_watcher: Sender<()>,
}

impl Observers {
    fn start(scenario: &Scenario, plan: &Plan, clock: &Clock, out: &Path) -> Result<Self> {
        let stage = Arc::new(Stage::default());
        let (sender, receiver) = channel();
        let start = clock.start;
        let mut players = Vec::new();
        for (index, home) in plan.homes.iter().enumerate() {
            let (video, stage, sender) =
                (scenario.video.clone(), Arc::clone(&stage), sender.clone());
            // Multiples of the golden ratio's fraction are spread evenly however many there are, and
            // keep neighbours apart: the links fill alike from the first second.
            let share = (index as f64 * GOLDEN_FRACTION).fract();
            let begin = start + Duration::from_secs_f64(video.start_within_s * share);
            let address = home.address;
            players.push(netns::enter(&home.namespace, move || {
                play(address, &video, start, begin, &stage, &sender)
            })?);
        }
        drop(sender);
        let path = out.join("player.jsonl");
        let reports = thread::spawn(move || collect_reports(&receiver, &path));
        let (stop_watcher, stopped) = channel();
        let (plan, path) = (plan.clone(), out.join("queues.jsonl"));
        let watcher = thread::spawn(move || queues::watch(&plan, start, &path, &stopped));
        Ok(Self {
            stage,
            players,
            reports,
            watcher,
            stop_watcher,
        })
    }

    fn stop(self) -> Result<(Vec<ChunkReport>, Vec<Sample>)> {
        drop(self.stop_watcher);
        let samples = netns::join(self.watcher).context("the queues were not watched")?;
        self.stage.end();
        for player in self.players {
            netns::join(player).context("a player failed")?;
        }
        Ok((netns::join(self.reports)?, samples))
    }
}

fn collect_reports(reports: &Receiver<ChunkReport>, path: &Path) -> Result<Vec<ChunkReport>> {
    let all: Vec<ChunkReport> = reports.iter().collect();
    let mut text = String::new();
    for report in &all {
        text.push_str(&serde_json::to_string(report)?);
        text.push('\n');
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(all)
}

fn write_truth(scenario: &Scenario, clock: &Clock, out: &Path) -> Result<()> {
    let truths: Vec<serde_json::Value> = scenario
        .truths
        .iter()
        .map(|truth| {
            json!({
                "segments": truth.segments.all(),
                "interconnect": truth.interconnect.as_ref().map(toml::Spanned::get_ref),
                "isp": truth.isp.as_ref().map(toml::Spanned::get_ref),
                "prefix": truth.prefix.as_ref().map(toml::Spanned::get_ref),
                "from": clock.rfc3339(truth.from_s),
                "to": clock.rfc3339(*truth.to_s.get_ref()),
            })
        })
        .collect();
    write_json(
        &out.join("truth.json"),
        &json!({
            "scenario": scenario.name.get_ref(),
            "start": clock.rfc3339(0.0),
            "end": clock.rfc3339(*scenario.duration_s.get_ref()),
            "truths": truths,
        }),
    )
}

fn write_outcome(
    outcome: &Outcome,
    tally: &Tally,
    reached: &Reached,
    contradictions: &[String],
    out: &Path,
) -> Result<()> {
    let answers =
        outcome.answers.iter().chain(&reached.answers).map(
            |answer| json!({"true": answer.truth, "said": answer.said, "right": answer.right}),
        );
    write_json(
        &out.join("outcome.json"),
        &json!({
            "passed": outcome.passed() && reached.passed() && contradictions.is_empty(),
            "answers": answers.collect::<Vec<_>>(),
            "wrongly_blamed": outcome.wrong,
            "tally": tally,
            "wrong_routes": reached.wrong,
            "truth_contradicted_by": contradictions,
        }),
    )
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
