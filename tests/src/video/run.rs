//! Plays video and everything else in the lab's network, with the daemon beside it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::addresses::VIDEO_ADDRESS;
use crate::daemon::{Daemon, check_log};
use crate::netns;
use crate::plan::{Home, Plan};
use crate::rerouting::Rerouting;
use crate::scenario::Scenario;
use crate::video::connection::Http;
use crate::video::others::{self, SSH_PORT, Ssh};
use crate::video::player::{self, FileReport, Viewer};
use crate::video::server::{Entry, NAMES, PORT, Server, VIDEO_NAME};
use crate::video::tls::Certificates;

/// The network.
const HOMES: &str = include_str!("homes.toml");

/// What the daemon's list calls the service, and the list.
pub const SERVICE: &str = "Lab Video";
const SERVICES: &str = "suffix,service\nvideo.example,Lab Video\n";

/// The daemon's configuration with which it looks at the names that clients ask for, and at nothing
/// else ...
pub const BY_NAME: &str =
    "[video]\nservices_csv = \"services.csv\"\nbehaviour = false\nreport_all = true\n";
/// ... and at how flows behave, and at nothing else.
pub const BY_BEHAVIOUR: &str = "[video]\nnames = false\nbehaviour = true\nreport_all = true\n";

/// What to play, and where results go.
#[derive(Debug)]
pub struct Options {
    /// The HLS ladder, with its `master.m3u8`.
    pub ladder: PathBuf,
    /// The daemon.
    pub program: PathBuf,
    /// Laid over the daemon's configuration, TOML.
    pub daemon: String,
    /// Whether someone types into SSH; needs a machine of the lab's own, because root's keys are
    /// written.
    pub ssh: bool,
    /// Where the results go: `lastmile.jsonl`, `player.jsonl`, `access.jsonl`.
    pub out: PathBuf,
}

/// What happened, by everyone's own account.
#[derive(Debug)]
pub struct Played {
    /// The viewers' homes.
    pub viewers: Vec<Ipv4Addr>,
    /// What the players fetched, in the order of ends.
    pub files: Vec<FileReport>,
    /// nginx's access log.
    pub entries: Vec<Entry>,
    /// The daemon's log.
    pub log: Vec<serde_json::Value>,
    /// Base round trip of each home, seconds.
    pub base_rtt_s: Vec<(Ipv4Addr, f64)>,
}

/// What is on at a home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Watch(Http),
    Browse(Http),
    Download,
    Ssh,
}

/// What the homes do, in the plan's order: two in each prefix, a prefix on each pair of
/// interconnect and ISP. The last one both watches and reads, behind one address.
const ACTIVITIES: [&[Activity]; 8] = [
    &[Activity::Watch(Http::One)],
    &[Activity::Browse(Http::Two)],
    &[Activity::Watch(Http::Two)],
    &[Activity::Ssh],
    &[Activity::Watch(Http::Two)],
    &[Activity::Download],
    &[Activity::Watch(Http::One)],
    &[Activity::Watch(Http::Two), Activity::Browse(Http::One)],
];

/// Builds the network, plays until the scenario's end, and takes everything down again.
///
/// # Errors
/// If anything of that fails, or the daemon's log is not as its schema says.
pub fn play(options: &Options) -> Result<Played> {
    let mut scenario = Scenario::parse(HOMES, "the video lab's network")?;
    let over: Table = options
        .daemon
        .parse()
        .context("the daemon's configuration")?;
    crate::daemon::lay_over(&mut scenario.daemon, &watch(options.ssh));
    crate::daemon::lay_over(&mut scenario.daemon, &over);
    let plan = Plan::new(&scenario)?;
    let work = options.out.join("work");
    fs::create_dir_all(&work)
        .and_then(|()| fs::write(work.join("services.csv"), SERVICES))
        .with_context(|| format!("cannot write into {}", work.display()))?;

    let network = Network::build(plan)?;
    let certificates = Arc::new(Certificates::make(&NAMES)?);
    let server = Server::start(&options.ladder, &work, &certificates)?;
    let ssh = options.ssh.then(|| Ssh::start(&work)).transpose()?;
    let log = options.out.join("lastmile.jsonl");
    let plan = &network.plan;
    let rerouting = Rerouting::start(plan, &work, &options.out)?;
    let (daemon, events) = Daemon::start(&options.program, &scenario, plan, &work, &log)?;

    let until = Instant::now() + scenario.duration();
    let (reports, files) = channel();
    let mut residents = Vec::new();
    for (home, activities) in plan.homes.iter().zip(ACTIVITIES) {
        for &activity in activities
            .iter()
            .filter(|a| options.ssh || **a != Activity::Ssh)
        {
            let resident = Resident {
                home: home.clone(),
                activity,
                until,
                certificates: Arc::clone(&certificates),
                reports: reports.clone(),
                work: work.clone(),
            };
            residents.push(resident.begin()?);
        }
    }
    drop(reports);
    let ends: Vec<Result<()>> = residents.into_iter().map(netns::join).collect();
    daemon.stop(&events, |_| ())?;
    rerouting.stop()?;
    if let Some(ssh) = ssh {
        ssh.stop()?;
    }
    let access_log = server.access_log();
    server.stop()?;
    let copy = options.out.join("access.jsonl");
    fs::copy(&access_log, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    for end in ends {
        end?;
    }
    check_log(&options.program, &log)?;
    let files: Vec<FileReport> = files.iter().collect();
    write_lines(&options.out.join("player.jsonl"), &files)?;
    load(&options.out)
}

/// Reads what a run left in its folder.
///
/// # Errors
/// If a file is missing or is not what the run writes.
pub fn load(out: &Path) -> Result<Played> {
    let plan = Plan::new(&Scenario::parse(HOMES, "the video lab's network")?)?;
    let watches = |activities: &[Activity]| {
        let mut activities = activities.iter();
        activities.any(|activity| matches!(activity, Activity::Watch(_)))
    };
    let viewers = plan.homes.iter().zip(ACTIVITIES);
    let viewers = viewers.filter(|(_, activities)| watches(activities));
    let base_rtt_s = |home: &Home| (home.address, f64::from(home.base_rtt_ms) / 1000.0);
    Ok(Played {
        viewers: viewers.map(|(home, _)| home.address).collect(),
        files: read_lines(&out.join("player.jsonl"))?,
        entries: read_lines(&out.join("access.jsonl"))?,
        log: read_lines(&out.join("lastmile.jsonl"))?,
        base_rtt_s: plan.homes.iter().map(base_rtt_s).collect(),
    })
}

/// The ports of everything, so that a port tells nothing.
fn watch(ssh: bool) -> Table {
    let mut ports = vec![i64::from(PORT)];
    if ssh {
        ports.push(i64::from(SSH_PORT));
    }
    let watch = Table::from_iter([("ports".to_owned(), Value::from(ports))]);
    Table::from_iter([("watch".to_owned(), watch.into())])
}

/// The namespaces; gone when dropped.
struct Network {
    plan: Plan,
}

impl Network {
    fn build(plan: Plan) -> Result<Self> {
        let network = Self { plan };
        netns::build(&network.plan)?;
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = netns::remove(&self.plan) {
            eprintln!("the lab's network could not be removed: {error:#}");
        }
    }
}

/// Someone at home.
struct Resident {
    home: Home,
    activity: Activity,
    until: Instant,
    certificates: Arc<Certificates>,
    reports: Sender<FileReport>,
    work: PathBuf,
}

impl Resident {
    fn begin(self) -> Result<JoinHandle<Result<()>>> {
        netns::enter(&self.home.namespace.clone(), move || {
            let Self { home, activity, .. } = &self;
            self.live()
                .with_context(|| format!("{activity:?} at {}", home.address))
        })
    }

    fn live(&self) -> Result<()> {
        if self.activity == Activity::Ssh {
            return Ssh::type_until(&self.work, VIDEO_ADDRESS, self.until);
        }
        // Its sockets are made in this thread, and so in this namespace.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        let server = SocketAddr::from((VIDEO_ADDRESS, PORT));
        runtime.block_on(async {
            match self.activity {
                Activity::Watch(http) => {
                    let viewer = Viewer {
                        home: self.home.address,
                        server,
                        name: VIDEO_NAME.to_owned(),
                        http,
                        until: self.until,
                    };
                    player::play(&viewer, &self.certificates, &self.reports).await
                }
                Activity::Browse(http) => {
                    others::browse(server, http, self.until, &self.certificates).await
                }
                Activity::Download => {
                    others::download(server, self.until, &self.certificates).await
                }
                Activity::Ssh => bail!("SSH is no task"),
            }
        })
    }
}

fn write_lines(path: &Path, items: &[impl serde::Serialize]) -> Result<()> {
    let mut text = String::new();
    for item in items {
        text += &serde_json::to_string(item)?;
        text.push('\n');
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let read = |(index, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), index + 1))
    };
    text.lines().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_home_has_something_to_do() {
        let scenario = Scenario::parse(HOMES, "homes.toml").unwrap();
        assert_eq!(Plan::new(&scenario).unwrap().homes.len(), ACTIVITIES.len());
    }
}
