//! Whether the daemon knew through which interconnect each client was reached, at every moment.
//!
//! Each flow in the log names the interconnect it crosses, and each change of a way is a `route`
//! record. Both are held against the plan and its moves: with live routes nothing but BGP or the
//! kernel told the daemon, so this is what shows that it listened well.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::judge::Answer;
use crate::plan::Plan;
use crate::routes::{Made, Ways};

/// The daemon follows the network within this, in seconds: it looks at a file each second, and
/// takes what BGP says in batches.
const NOTICED_WITHIN_S: f64 = 3.0;
/// So many wrong flows are listed; more say nothing new.
const LISTED_MAX: usize = 5;

/// What a line of the log says about a way.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// Seconds after the start.
    pub at_s: f64,
    /// The client's /24.
    pub prefix: String,
    /// What was seen.
    pub seen: Seen,
}

/// What was seen of a way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A flow on it; `None`: its way is not known.
    Flow(Option<String>),
    /// It changed.
    Change {
        /// The interconnect before; `None`: no way was known.
        before: Option<String>,
        /// The interconnect from then on; `None`: no way is known.
        after: Option<String>,
    },
}

#[derive(Deserialize)]
struct Line {
    r#type: String,
    time: String,
    client_ip: Option<String>,
    path: Option<Way>,
    prefix: Option<String>,
    before: Option<Way>,
    after: Option<Way>,
}

#[derive(Deserialize)]
struct Way {
    interconnect: Option<String>,
}

impl Sighting {
    /// Reads a line of the log; `None` if it says nothing about a way. `seconds_at` makes seconds
    /// after the start of a time.
    ///
    /// # Errors
    /// If the line is no JSON object with `type` and `time`.
    pub fn from_line(line: &str, seconds_at: impl Fn(SystemTime) -> f64) -> Result<Option<Self>> {
        let line: Line = serde_json::from_str(line)
            .with_context(|| format!("not a line of lastmile's log: {line}"))?;
        let through = |way: Option<Way>| way.and_then(|way| way.interconnect);
        let (prefix, seen) = match (line.r#type.as_str(), line.client_ip, line.prefix) {
            ("flow", Some(client), _) => (unit_of(&client), Seen::Flow(through(line.path))),
            ("route", _, Some(prefix)) => {
                let (before, after) = (through(line.before), through(line.after));
                (Some(prefix), Seen::Change { before, after })
            }
            _ => return Ok(None),
        };
        let time = humantime::parse_rfc3339(&line.time)
            .with_context(|| format!("time {:?} is no RFC 3339 time", line.time))?;
        Ok(prefix.map(|prefix| Self {
            at_s: seconds_at(time),
            prefix,
            seen,
        }))
    }
}

/// The /24 of a client's address, which is cut to that already unless the scenario asks otherwise.
fn unit_of(client: &str) -> Option<String> {
    let address = client.split('/').next()?;
    let [a, b, c, _] = address.parse::<Ipv4Addr>().ok()?.octets();
    Some(format!("{a}.{b}.{c}.0/24"))
}

/// How well the daemon knew the ways.
#[derive(Debug, Clone, PartialEq)]
pub struct Reached {
    /// One a move.
    pub answers: Vec<Answer>,
    /// Every flow and every change that was told wrong, in words; a few of them when they are many.
    pub wrong: Vec<String>,
    /// Flow records that named the right interconnect.
    pub right: usize,
}

impl Reached {
    /// Whether every move was noticed and nothing was told wrong.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.wrong.is_empty() && self.answers.iter().all(|answer| answer.right)
    }
}

/// A stretch of time in which a prefix is reached through one interconnect.
struct Stay<'a> {
    from_s: f64,
    to_s: f64,
    interconnect: &'a str,
}

/// Holds all sightings against the plan and the moves as they were made, each at its time.
#[must_use]
pub fn judge(plan: &Plan, moves: &[Made], sightings: &[Sighting]) -> Reached {
    let mut wrong = BTreeSet::new();
    let mut right = 0;
    for sighting in sightings {
        let stays = stays(plan, moves, &sighting.prefix);
        if stays.is_empty() {
            continue; // Not a home's.
        }
        let possible = |name: &Option<String>| {
            stays.iter().any(|stay| {
                name.as_deref() == Some(stay.interconnect)
                    && (stay.from_s..stay.to_s + NOTICED_WITHIN_S).contains(&sighting.at_s)
            })
        };
        let (prefix, words) = (&sighting.prefix, |name: &Option<String>| {
            name.clone()
                .unwrap_or_else(|| "nobody knows what".to_owned())
        });
        match &sighting.seen {
            Seen::Flow(through) if possible(through) => right += 1,
            // The first ones may be quicker than the first batch of routes.
            Seen::Flow(None) if sighting.at_s < NOTICED_WITHIN_S => {}
            Seen::Flow(through) => {
                wrong.insert(format!("flows to {prefix} through {}", words(through)));
            }
            Seen::Change { after, .. } if possible(after) => {}
            Seen::Change { after, .. } => {
                wrong.insert(format!("{prefix} moved to {}", words(after)));
            }
        }
    }
    let answers = moves.iter().map(|made| {
        let (prefix, to) = (made.moved.prefix.get_ref(), made.moved.to.get_ref());
        let (began_s, done_s) = (made.began_s, made.done_s);
        let stays = stays(plan, moves, prefix);
        let from = stays.iter().find(|stay| stay.to_s == done_s);
        let from = from.map(|stay| stay.interconnect);
        let noticed = sightings.iter().find(|sighting| {
            let Seen::Change { before, after } = &sighting.seen else {
                return false;
            };
            sighting.prefix == *prefix
                && (began_s..done_s + NOTICED_WITHIN_S).contains(&sighting.at_s)
                && before.as_deref() == from
                && after.as_deref() == Some(to)
        });
        Answer {
            truth: format!("{prefix} moved to {to} by {done_s:.1} s"),
            said: noticed.map_or_else(
                || "nothing".to_owned(),
                |seen| format!("{prefix} moved to {to} at {:.1} s", seen.at_s),
            ),
            right: noticed.is_some(),
        }
    });
    Reached {
        answers: answers.collect(),
        wrong: wrong.into_iter().take(LISTED_MAX).collect(),
        right,
    }
}

/// Where a prefix was, in the order of time; nothing for one that is not in the plan.
fn stays<'a>(plan: &'a Plan, moves: &'a [Made], prefix: &str) -> Vec<Stay<'a>> {
    let first = Ways::at_first(plan).0;
    let Some(way) = first.iter().find(|way| way.prefix == prefix) else {
        return Vec::new();
    };
    let mut stays = vec![Stay {
        from_s: f64::NEG_INFINITY,
        to_s: f64::INFINITY,
        interconnect: &plan.interconnects[way.interconnect],
    }];
    for made in moves {
        if made.moved.prefix.get_ref() == prefix {
            if let Some(last) = stays.last_mut() {
                last.to_s = made.done_s;
            }
            stays.push(Stay {
                from_s: made.began_s,
                to_s: f64::INFINITY,
                interconnect: made.moved.to.get_ref(),
            });
        }
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn plan() -> Plan {
        Plan::new(&Scenario::load("healthy").unwrap()).unwrap()
    }

    fn moved() -> Vec<Made> {
        let text = "prefix = \"198.18.1.0/24\"\nto = \"ix-west\"\nat_s = 30.0";
        vec![Made {
            began_s: 30.1,
            done_s: 30.3,
            moved: toml::from_str(text).unwrap(),
        }]
    }

    fn flow(at_s: f64, prefix: &str, through: &str) -> Sighting {
        Sighting {
            at_s,
            prefix: prefix.to_owned(),
            seen: Seen::Flow((!through.is_empty()).then(|| through.to_owned())),
        }
    }

    fn change(at_s: f64, prefix: &str, before: &str, after: &str) -> Sighting {
        let name = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Sighting {
            at_s,
            prefix: prefix.to_owned(),
            seen: Seen::Change {
                before: name(before),
                after: name(after),
            },
        }
    }

    #[test]
    fn a_move_that_a_route_record_names_is_noticed() {
        let seen = [
            flow(29.0, "198.18.1.0/24", "ix-east"),
            change(30.4, "198.18.1.0/24", "ix-east", "ix-west"),
            flow(30.3, "198.18.1.0/24", "ix-east"),
            flow(31.0, "198.18.1.0/24", "ix-west"),
            flow(31.0, "198.18.2.0/24", "ix-east"),
        ];
        let reached = judge(&plan(), &moved(), &seen);
        assert!(reached.passed(), "{reached:?}");
        assert_eq!(reached.right, 4);
    }

    #[test]
    fn a_move_that_nobody_names_is_not_noticed() {
        let seen = [flow(31.0, "198.18.1.0/24", "ix-west")];
        assert!(!judge(&plan(), &moved(), &seen).passed());
    }

    #[test]
    fn a_flow_that_stays_behind_is_wrong() {
        let seen = [
            change(30.4, "198.18.1.0/24", "ix-east", "ix-west"),
            flow(40.0, "198.18.1.0/24", "ix-east"),
        ];
        let reached = judge(&plan(), &moved(), &seen);
        assert_eq!(reached.wrong, ["flows to 198.18.1.0/24 through ix-east"]);
    }

    #[test]
    fn a_flow_whose_way_is_not_known_and_a_change_that_never_was_are_wrong() {
        let seen = [
            flow(10.0, "198.18.9.0/24", ""),
            change(10.0, "198.18.10.0/24", "ix-west", "ix-east"),
            // Before the first routes came nothing was known, and that they came is no move.
            flow(0.1, "198.18.11.0/24", ""),
            change(0.1, "198.18.11.0/24", "", "ix-west"),
        ];
        let reached = judge(&plan(), &[], &seen);
        assert_eq!(
            reached.wrong,
            [
                "198.18.10.0/24 moved to ix-east",
                "flows to 198.18.9.0/24 through nobody knows what"
            ]
        );
    }

    #[test]
    fn lines_of_the_log_are_read_whole_or_cut() {
        let start = SystemTime::UNIX_EPOCH;
        let seconds = |time: SystemTime| time.duration_since(start).unwrap().as_secs_f64();
        let line = r#"{"type":"flow","time":"1970-01-01T00:00:05Z","client_ip":"198.18.9.10",
            "path":{"interconnect":"ix-west"}}"#;
        let read = Sighting::from_line(line, seconds).unwrap().unwrap();
        assert_eq!(read, flow(5.0, "198.18.9.0/24", "ix-west"));
        let line = r#"{"type":"route","time":"1970-01-01T00:00:06Z","prefix":"198.18.9.0/24",
            "before":{"interconnect":"ix-west"},"after":null}"#;
        let read = Sighting::from_line(line, seconds).unwrap().unwrap();
        assert_eq!(read, change(6.0, "198.18.9.0/24", "ix-west", ""));
        let line = r#"{"type":"status","time":"1970-01-01T00:00:06Z"}"#;
        assert_eq!(Sighting::from_line(line, seconds).unwrap(), None);
    }
}
