//! The inputs of one window.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::{Config, Thresholds};
use crate::engine::verdicts::{Beside, Conclusions, render};
use crate::engine::{Missed, WindowSpan};
use crate::export::Record;
use crate::export::record::VerdictRecord;
use crate::export::render::Context;
use crate::flow::Secret;
use crate::path::ports::InterconnectPorts;
use crate::verdict::coverage::Coverage;
use crate::verdict::{self, LocalCounters, Window};

/// What decided: the program, and a hash of its rules, which differ between two builds of a version.
pub const ENGINE: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("LASTMILE_RULES"));

/// Everything that the verdicts of one window were made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    pub host: String,
    pub time_us: u64,
    pub span: WindowSpan,
    pub engine: String,
    /// SHA-256 of the whole configuration, 64 hexadecimal digits.
    pub config_hash: String,
    thresholds: Thresholds,
    window: Window,
    missed: Missed,
    local: Option<LocalCounters>,
    ports: Option<InterconnectPorts>,
    coverage: Coverage,
}

/// A verdict as it was logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptVerdict {
    pub id: String,
    /// The log's line, without its end.
    pub line: String,
}

/// A window with its verdicts.
#[derive(Clone, Debug, PartialEq)]
pub struct Unkept {
    pub kept: Kept,
    pub verdicts: Vec<KeptVerdict>,
}

impl Unkept {
    /// What is to be kept of a window; `None`: nothing, because nothing is wrong in it.
    pub fn of(
        concluded: &Conclusions,
        records: &[Record],
        span: &WindowSpan,
        beside: &Beside<'_>,
        context: &Context<'_>,
        config: &Config,
    ) -> Option<Self> {
        let verdicts: Vec<KeptVerdict> = records.iter().filter_map(kept_verdict).collect();
        if verdicts.is_empty() {
            return None;
        }
        let mut window = concluded.judgement.window.clone();
        if !context.full_client_addresses {
            for vote in &mut window.votes {
                for client in Arc::make_mut(&mut vote.clients) {
                    client.address = pseudonym(&context.secret, client.address);
                }
            }
        }
        let kept = Kept {
            host: context.host.to_owned(),
            time_us: context.time_us,
            span: *span,
            engine: ENGINE.to_owned(),
            config_hash: config_hash(config),
            thresholds: config.verdict.clone(),
            window,
            missed: *beside.missed,
            local: beside.local.cloned(),
            ports: beside.ports.cloned(),
            coverage: beside.coverage.clone(),
        };
        Some(Self { kept, verdicts })
    }
}

fn kept_verdict(record: &Record) -> Option<KeptVerdict> {
    let Record::Verdict(verdict) = record else {
        return None;
    };
    let id = verdict.verdict_id.clone()?;
    Some(KeptVerdict {
        id,
        line: line(record),
    })
}

/// An address that stands for a client's, and tells nothing about it.
fn pseudonym(secret: &Secret, client: IpAddr) -> IpAddr {
    crate::judge::stand_in(secret.pseudonym(client))
}

fn line(record: &Record) -> String {
    serde_json::to_string(record).expect("records have string keys and memory takes every byte")
}

/// What tells one configuration from another: SHA-256 of all of it, defaults included.
pub fn config_hash(config: &Config) -> String {
    let text = serde_json::to_string(config).expect("a configuration has string keys");
    let digest = Sha256::digest(text);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Kept {
    /// Decides again, from what was kept alone. The lines of the verdicts, in order.
    pub fn verdicts(&self) -> Vec<KeptVerdict> {
        let beside = Beside {
            missed: &self.missed,
            local: self.local.as_ref(),
            ports: self.ports.as_ref(),
            coverage: &self.coverage,
        };
        let context = Context {
            host: &self.host,
            time_us: self.time_us,
            full_client_addresses: false,
            ladder: &[],
            // Verdicts name no clients.
            secret: Secret([0; 2]),
        };
        let at = &self.thresholds;
        let verdicts: Vec<_> = verdict::decide(&self.window, beside.local, beside.ports, at)
            .into_iter()
            .map(|verdict| self.coverage.limit(verdict, at))
            .collect();
        let records = render(&verdicts, &self.window, &context, &self.span, &beside);
        records.filter_map(|record| kept_verdict(&record)).collect()
    }
}

/// Where two lines of JSON differ, for people: the fields, and both values.
pub fn differences(logged: &str, recomputed: &str) -> Vec<String> {
    let parse = |text: &str| serde_json::from_str::<VerdictRecord>(text).is_ok();
    let values = (
        serde_json::from_str::<serde_json::Value>(logged),
        serde_json::from_str::<serde_json::Value>(recomputed),
    );
    let (Ok(serde_json::Value::Object(one)), Ok(serde_json::Value::Object(other))) = values else {
        return vec!["what was logged is no record".to_owned()];
    };
    let mut differences = Vec::new();
    if !parse(logged) {
        differences.push("what was logged is no verdict of this version".to_owned());
    }
    let null = serde_json::Value::Null;
    let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for name in names {
        let (was, is) = (
            one.get(name).unwrap_or(&null),
            other.get(name).unwrap_or(&null),
        );
        if was != is {
            differences.push(format!("{name}: {was} was logged, {is} is recomputed"));
        }
    }
    if differences.is_empty() {
        differences.push("the same values, written in another way".to_owned());
    }
    differences
}
