//! `lastmile route ADDRESS`: what is known about the way to a client, from where, and when.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::config::Config;
use crate::daemon::feeds;
use crate::daemon::fib_feed::LiveFib;
use crate::export::Timestamp;
use crate::export::record::WayRecord;
use crate::path::Source;
use crate::path::history::{Answer, Known, Store};

/// A run whose last entry is older than this is over: the daemon notes once a second that it is
/// there.
const LIVE_US: u64 = 30_000_000;

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub address: IpAddr,
    /// `None`: now.
    pub at: Option<Timestamp>,
}

/// Everything that is known.
#[derive(Debug, Serialize)]
pub struct Report {
    pub address: IpAddr,
    pub time: Timestamp,
    /// What the daemon recorded; absent where no history is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Recorded>,
    /// What the configured files and this host's own routes say now, merged as the daemon merges
    /// them, without BMP. Only when asked about now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<Sources>,
}

/// The history's answer.
#[derive(Debug, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Recorded {
    Known(Box<RecordedWay>),
    /// The daemon ran and had seen no client of this prefix.
    NotFollowed {
        file: String,
        run_start: Timestamp,
    },
    /// The daemon did not run, or could not write.
    NotRecorded {
        file: String,
        recorded_before: Option<Timestamp>,
        recorded_after: Option<Timestamp>,
    },
}

/// The way of a prefix, and over which time.
#[derive(Debug, Serialize)]
pub struct RecordedWay {
    file: String,
    prefix: String,
    /// `null`: no route was known.
    way: Option<WayRecord>,
    since: Timestamp,
    /// The way before, where it changed at `since`; absent: it was first seen then.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_from: Option<Option<WayRecord>>,
    until: Option<Timestamp>,
    recorded_until: Timestamp,
}

/// What the sources say, one by one.
#[derive(Debug, Serialize)]
pub struct Sources {
    /// The merged way; `null`: the network or the way is not known.
    pub way: Option<WayRecord>,
    pub prefix: Option<String>,
    /// In the order of precedence.
    pub sources: Vec<Said>,
}

/// What one source says about the address.
#[derive(Debug, Serialize)]
pub struct Said {
    pub source: Source,
    /// The longest prefix it knows around the address; `null`: it knows none.
    pub prefix: Option<String>,
    pub says: Option<String>,
}

/// Answers on standard output.
pub fn run(config: &Config, question: Question, json: bool) -> Result<()> {
    let report = look_up(config, question)?;
    let text = if json {
        let mut text = serde_json::to_string(&report)?;
        text.push('\n');
        text
    } else {
        shown(&report)
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn look_up(config: &Config, question: Question) -> Result<Report> {
    let Question { address, at } = question;
    let now = now();
    let time = at.unwrap_or(now);
    let history = match &config.path.history.file {
        Some(file) => {
            let store = Store::open_to_read(file)?;
            let name = file.display().to_string();
            Some(recorded(&store, name, address, at, now)?)
        }
        None if at.is_some() => {
            bail!(
                "nothing was recorded: write path.history.file, and the daemon records from then on"
            )
        }
        None => None,
    };
    let now = match at {
        Some(_) => None,
        None => Some(said_now(config, address)?),
    };
    Ok(Report {
        address,
        time,
        history,
        now,
    })
}

/// The history's answer; about now it is that of the last moment that was recorded, if the daemon
/// still runs.
fn recorded(
    store: &Store,
    file: String,
    address: IpAddr,
    at: Option<Timestamp>,
    now: Timestamp,
) -> Result<Recorded> {
    let time_us = match (at, store.recorded_until()?) {
        (Some(at), _) => at.0,
        (None, Some(last_us)) if now.0.saturating_sub(last_us) <= LIVE_US => last_us,
        (None, _) => now.0,
    };
    Ok(match store.at(address, time_us)? {
        Answer::Known(known) => {
            let Known {
                prefix,
                way,
                since_us,
                moved_from,
                until_us,
                recorded_until_us,
            } = *known;
            Recorded::Known(Box::new(RecordedWay {
                file,
                prefix: prefix.to_string(),
                way,
                since: Timestamp(since_us),
                moved_from,
                until: until_us.map(Timestamp),
                recorded_until: Timestamp(recorded_until_us),
            }))
        }
        Answer::NotFollowed { run_start_us } => Recorded::NotFollowed {
            file,
            run_start: Timestamp(run_start_us),
        },
        Answer::NotRecorded {
            before_us,
            after_us,
        } => Recorded::NotRecorded {
            file,
            recorded_before: before_us.map(Timestamp),
            recorded_after: after_us.map(Timestamp),
        },
    })
}

fn said_now(config: &Config, address: IpAddr) -> Result<Sources> {
    let mut routes = feeds::read_once(&config.path)?;
    if config.path.kernel_routes {
        routes.kernel = Some(Arc::new(LiveFib::once()?));
    }
    let location = routes.locate(address);
    let tables = [
        (Source::File, &routes.file),
        (Source::Bmp, &routes.bmp),
        (Source::Mrt, &routes.mrt),
    ];
    let asked = |source: Source| match source {
        Source::File => config.path.prefixes_csv.is_some() || config.path.prefixes_toml.is_some(),
        // Only the daemon has the sessions; its history tells what they said.
        Source::Bmp => false,
        Source::Mrt => !config.path.mrt.is_empty(),
        Source::Kernel => config.path.kernel_routes,
    };
    let mut sources: Vec<Said> = tables
        .into_iter()
        .filter(|(source, _)| asked(*source))
        .map(|(source, table)| {
            let found = table.lookup(address);
            Said {
                source,
                prefix: found.map(|(prefix, _)| prefix.to_string()),
                says: found.map(|(_, path)| described_path(path)),
            }
        })
        .collect();
    if let Some(kernel) = routes.kernel.as_ref() {
        let way = kernel.way(address, None, None);
        sources.push(Said {
            source: Source::Kernel,
            prefix: way.as_ref().map(|way| way.prefix.to_string()),
            says: way.map(|way| {
                let hops = way.hops.iter().map(|(interface, next_hop)| {
                    let interface = interface.as_deref().unwrap_or("an unknown interface");
                    match next_hop {
                        Some(next_hop) => format!("{interface} via {next_hop}"),
                        None => interface.to_owned(),
                    }
                });
                hops.collect::<Vec<_>>().join(", or ")
            }),
        });
    }
    Ok(Sources {
        prefix: location.as_ref().map(|location| location.unit.to_string()),
        way: location.map(|location| (&*location.route).into()),
        sources,
    })
}

/// What a source's attributes say, in words.
fn described_path(path: &crate::path::Path) -> String {
    let mut parts = Vec::new();
    if let Some(asn) = path.origin_asn {
        parts.push(match &path.isp {
            Some(isp) => format!("{isp} (AS{asn})"),
            None => format!("AS{asn}"),
        });
    }
    if let Some(interconnect) = &path.interconnect {
        parts.push(format!("through {interconnect}"));
    }
    parts.extend(neighbour(path.peer_asn, path.peer_address));
    parts.extend(path.next_hop.map(|next_hop| format!("next hop {next_hop}")));
    parts.extend(across(&path.as_path_middle));
    parts.extend(
        path.router
            .as_ref()
            .map(|router| format!("told by {router}")),
    );
    if !path.communities.is_empty() {
        let all: Vec<String> = path.communities.iter().map(|one| one.to_string()).collect();
        parts.push(format!("communities {}", all.join(" ")));
    }
    parts.join(", ")
}

fn neighbour(asn: Option<u32>, address: Option<IpAddr>) -> Option<String> {
    match (asn, address) {
        (Some(asn), Some(address)) => Some(format!("neighbour AS{asn} at {address}")),
        (Some(asn), None) => Some(format!("neighbour AS{asn}")),
        (None, Some(address)) => Some(format!("neighbour {address}")),
        (None, None) => None,
    }
}

fn across(middle: &[u32]) -> Option<String> {
    let asns: Vec<String> = middle.iter().map(|asn| format!("AS{asn}")).collect();
    (!asns.is_empty()).then(|| format!("across {}", asns.join(" ")))
}

/// The report for a reader.
fn shown(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |subject: &str, what: &str| {
        let _ = writeln!(text, "{subject:<14} {what}");
    };
    line("address", &report.address.to_string());
    line("time", &report.time.to_string());
    match &report.history {
        None => {}
        Some(Recorded::Known(known)) => {
            let RecordedWay {
                file,
                prefix,
                way,
                since,
                moved_from,
                until,
                recorded_until,
            } = &**known;
            show_way(&mut line, prefix, way.as_ref());
            match moved_from {
                None => line("since", &format!("{since} (first seen)")),
                Some(before) => {
                    let before = before
                        .as_ref()
                        .map_or("no known route", |way| &way.interconnect);
                    line("since", &format!("{since} (before: {before})"));
                }
            }
            match until {
                Some(until) => line("until", &until.to_string()),
                None => line("until", &format!("{recorded_until} or later")),
            }
            line("history", file);
        }
        Some(Recorded::NotFollowed { file, run_start }) => {
            line(
                "way",
                &format!("unknown: no client of this prefix had been seen since {run_start}"),
            );
            line("history", file);
        }
        Some(Recorded::NotRecorded {
            file,
            recorded_before,
            recorded_after,
        }) => {
            let edge = |edge: &Option<Timestamp>| {
                edge.map_or("nothing".to_owned(), |time| time.to_string())
            };
            line("way", "unknown: nothing was recorded then");
            line(
                "before that",
                &format!("{} was the last", edge(recorded_before)),
            );
            line(
                "after that",
                &format!("{} was the first", edge(recorded_after)),
            );
            line("history", file);
        }
    }
    if let Some(now) = &report.now {
        if report.history.is_none() {
            match &now.prefix {
                Some(prefix) => show_way(&mut line, prefix, now.way.as_ref()),
                None => line(
                    "way",
                    "unknown: no source knows its network and the way to it",
                ),
            }
        }
        for said in &now.sources {
            let subject = format!("{} says", said.source);
            match (&said.prefix, &said.says) {
                (Some(prefix), Some(says)) => line(&subject, &format!("{prefix}: {says}")),
                _ => line(&subject, "nothing about it"),
            }
        }
    }
    text
}

fn show_way(line: &mut impl FnMut(&str, &str), prefix: &str, way: Option<&WayRecord>) {
    let Some(way) = way else {
        line("prefix", prefix);
        line("way", "no route was known");
        return;
    };
    match way.announced {
        Some(announced) if announced.to_string() != prefix => {
            line("prefix", &format!("{prefix}, announced {announced}"));
        }
        _ => line("prefix", prefix),
    }
    line(
        "ISP",
        &format!(
            "{} (AS{}), from {}",
            way.isp, way.origin_asn, way.source_of_origin
        ),
    );
    line(
        "interconnect",
        &format!("{}, from {}", way.interconnect, way.source_of_way),
    );
    let mut parts: Vec<String> = Vec::new();
    parts.extend(neighbour(way.peer_asn, way.peer_address));
    parts.extend(way.next_hop.map(|next_hop| format!("next hop {next_hop}")));
    parts.extend(
        way.interface
            .as_ref()
            .map(|name| format!("interface {name}")),
    );
    parts.extend(across(&way.as_path_middle));
    parts.extend(
        way.router
            .as_ref()
            .map(|router| format!("told by {router}")),
    );
    if !parts.is_empty() {
        line("way", &parts.join(", "));
    }
    if way.stale {
        line("stale", "a source of this has gone silent");
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |time| {
        u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
    }))
}
