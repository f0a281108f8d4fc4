//! Whole windows through the whole pipeline: a site with two interconnects, two ISPs reached
//! through both, four prefixes on each pair and two homes a prefix, and faults put into it.

mod faults;
mod routes;
mod sessions;
pub mod site;
mod video;

use std::collections::BTreeSet;

use crate::export::Record;
use crate::export::record::{FlowEvent, FlowRecord, VerdictRecord};
use crate::export::schema::validate_line;
use crate::flow::CloseReason;
use crate::verdict::{Inconclusive, Limit, Mechanism, Segment};
use site::{HD, Home, LEAD_IN, Life, Site};

fn verdicts(records: &[Record]) -> Vec<VerdictRecord> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Verdict(verdict) => Some((**verdict).clone()),
            _ => None,
        })
        .collect()
}

fn flows(records: &[Record]) -> Vec<FlowRecord> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Flow(flow) => Some((**flow).clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn every_record_of_every_kind_fits_the_schema() {
    let mut site = Site::new(1);
    let schema = serde_json::to_value(crate::export::schema::schema()).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let mut kinds = BTreeSet::new();
    for window in 0..LEAD_IN + 12 {
        let mut records = site.window(|home| match home.isp {
            "isp-x" if (LEAD_IN + 1..LEAD_IN + 5).contains(&window) => Life::queued(30_000),
            _ => Life::default(),
        });
        if window == LEAD_IN + 11 {
            records.extend(site.pipeline.finish(site.now_us, None));
            records.extend(
                site.pipeline
                    .finish(site.now_us, Some(CloseReason::EndOfCapture)),
            );
        }
        for record in &records {
            let line = serde_json::to_string(record).expect("JSON");
            validate_line(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if let Err(error) = schema.validate(&value) {
                panic!("{error}: {line}");
            }
            let event = value
                .get("event")
                .map(ToString::to_string)
                .unwrap_or_default();
            kinds.insert(format!("{}{event}", value["type"]));
        }
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    assert!(!schema.is_valid(&serde_json::json!({"type": "flow"})));
}

#[test]
fn without_a_baseline_nothing_is_said() {
    let mut site = Site::new(2);
    for _ in 0..LEAD_IN {
        let said = verdicts(&site.window(|_| Life::queued(50_000)));
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].inconclusive, Some(Inconclusive::NoBaseline));
        assert_eq!(said[0].degraded, None);
        assert!(said[0].segments.is_empty());
    }
}

#[test]
fn a_healthy_site_is_said_to_be_healthy_once_a_window() {
    for seed in 0..8 {
        let mut site = Site::new(seed);
        for window in 0..60 {
            let said = verdicts(&site.window(|_| Life::default()));
            if window >= LEAD_IN {
                assert_eq!(said.len(), 1);
                assert_eq!(said[0].degraded, Some(false), "{said:?}");
                assert!(said[0].segments.is_empty() && said[0].limits.is_empty());
                assert!(said[0].confidence > 0.8);
            }
        }
    }
}

#[test]
fn nobody_served_and_nobody_known_are_told_apart() {
    let mut site = Site::new(3);
    let said = verdicts(&site.window(|_| Life::silent()));
    assert_eq!(said[0].inconclusive, Some(Inconclusive::NoTraffic));
    let mut site = Site::without_routes(3);
    let said = verdicts(&site.window(|_| Life::default()));
    assert_eq!(said[0].inconclusive, Some(Inconclusive::NoRoute));
    assert_eq!(said[0].missed.observations_unrouted, 32);
}

#[test]
fn a_window_of_which_much_was_missed_is_not_judged() {
    let mut site = Site::new(4);
    for _ in 0..LEAD_IN + 3 {
        site.window(|_| Life::default());
    }
    site.missed.reports_lost = 10;
    site.missed.reports_received = 90;
    let said = verdicts(&site.window(|_| Life::queued(50_000)));
    assert_eq!(said[0].inconclusive, Some(Inconclusive::MissedReports));
    assert_eq!(said[0].missed.reports_lost, 10);
}

#[test]
fn slow_sending_is_the_senders_and_a_full_window_the_receivers() {
    for (life, limit) in [
        (
            Life {
                rate: 0.2,
                ..Life::default()
            },
            Limit::SenderLimited,
        ),
        (
            Life {
                rate: 0.2,
                window_full: 0.9,
                ..Life::default()
            },
            Limit::ReceiverLimited,
        ),
    ] {
        let mut site = Site::new(5);
        let mut last = Vec::new();
        for window in 0..LEAD_IN + 6 {
            last = verdicts(&site.window(|home| {
                if window >= LEAD_IN && home.isp == "isp-x" {
                    life
                } else {
                    Life::default()
                }
            }));
        }
        assert_eq!(last.len(), 1, "{last:?}");
        assert_eq!(last[0].limits, [limit]);
        assert!(last[0].segments.is_empty());
        assert_eq!(last[0].degraded, Some(true));
    }
}

#[test]
fn a_verdict_carries_evidence_and_says_why_each_alternative_is_rejected() {
    let mut site = Site::new(6);
    let mut last = Vec::new();
    for window in 0..LEAD_IN + 8 {
        last = verdicts(&site.window(|home| {
            if window >= LEAD_IN && home.interconnect == "ic-a" {
                Life::congested(40_000)
            } else {
                Life::default()
            }
        }));
    }
    let [verdict] = last.as_slice() else {
        panic!("{last:?}")
    };
    assert_eq!(
        verdict.segments,
        [Segment::Interconnect],
        "{:?}",
        verdict.open
    );
    assert_eq!(verdict.interconnect.as_deref(), Some("ic-a"));
    assert_eq!((&verdict.isp, &verdict.prefix), (&None, &None));
    assert_eq!(verdict.mechanisms, [Mechanism::Queue]);
    assert!(verdict.confidence > 0.8, "{}", verdict.confidence);
    let rejected: BTreeSet<Segment> = verdict
        .rejected
        .iter()
        .filter_map(|other| other.segment)
        .collect();
    assert_eq!(rejected.len(), 8, "every other segment: {rejected:?}");
    assert_eq!(
        verdict
            .rejected
            .iter()
            .filter(|other| other.limit.is_some())
            .count(),
        2
    );
    for (kind, about) in [
        ("queue_excess_us", None),
        ("bad_prefix_share", Some("isp-x")),
        ("bad_prefix_share", Some("isp-y")),
    ] {
        assert!(
            verdict
                .evidence
                .iter()
                .any(|item| item.kind == kind && item.about.as_deref() == about),
            "{kind} of {about:?}"
        );
    }
    assert!(
        verdict
            .evidence
            .iter()
            .any(|item| item.supports == "interconnect")
    );
}

#[test]
fn two_faults_give_two_verdicts() {
    let mut site = Site::new(7);
    let mut last = Vec::new();
    // A line that was never seen good is not blamed for being slow.
    let onset = LEAD_IN + 3;
    for window in 0..onset + 8 {
        last = verdicts(&site.window(|home| {
            let overloaded = home.interconnect == "ic-b" && home.prefix == 9 && home.number == 0;
            match home.interconnect {
                "ic-a" if window >= onset => Life::congested(40_000),
                _ if window >= onset && overloaded => Life::congested(80_000),
                _ => Life::default(),
            }
        }));
    }
    let named: Vec<_> = last
        .iter()
        .map(|verdict| verdict.segments.as_slice())
        .collect();
    assert_eq!(
        named,
        [&[Segment::Interconnect][..], &[Segment::LastMile]],
        "{last:#?}"
    );
    assert_eq!(
        last[1].prefix.map(|prefix| prefix.to_string()).as_deref(),
        Some("10.0.9.0/24")
    );
}

#[test]
fn clients_are_truncated_unless_asked_otherwise() {
    let mut site = Site::new(8);
    let records = site.window(|_| Life::default());
    let line = serde_json::to_string(&flows(&records)[0]).expect("JSON");
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert!(
        value["client_ip"]
            .as_str()
            .is_some_and(|text| text.ends_with(".0/24")),
        "{line}"
    );
    let mut config = Site::config(HD);
    config.log.full_client_addresses = true;
    let mut site = Site::new(8);
    site.pipeline.reconfigure(&config);
    let records = site.window(|_| Life::default());
    let line = serde_json::to_string(&flows(&records)[0]).expect("JSON");
    assert!(!line.contains("/24\",\"client_port"), "{line}");
}

#[test]
fn a_flow_opens_updates_while_it_does_something_and_closes() {
    let mut site = Site::new(9);
    let events = |records: &[Record]| -> Vec<FlowEvent> {
        flows(records).iter().map(|flow| flow.event).collect()
    };
    let only = |home: &Home| {
        if home.index == 0 {
            Life::default()
        } else {
            Life::silent()
        }
    };
    assert_eq!(
        events(&site.window(only)),
        [FlowEvent::Open, FlowEvent::Update]
    );
    assert_eq!(events(&site.window(only)), [FlowEvent::Update]);
    assert_eq!(events(&site.window(|_| Life::silent())), []);
    let config = Site::config(HD);
    let windows = u64::from(config.flows.idle_s / config.window.length_s) + 1;
    let closed: Vec<FlowRecord> = (0..windows)
        .flat_map(|_| flows(&site.window(|_| Life::silent())))
        .collect();
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].close_reason, Some(CloseReason::Idle));
    assert_eq!(site.pipeline.flows(), 0);
}

#[test]
fn another_flow_on_the_same_ports_is_another_flow() {
    let mut site = Site::new(10);
    let only = |home: &Home| {
        if home.index == 0 {
            Life::default()
        } else {
            Life::silent()
        }
    };
    let first = flows(&site.window(only));
    site.homes[0].begin_anew(1);
    let second = flows(&site.window(only));
    let events: Vec<FlowEvent> = second.iter().map(|flow| flow.event).collect();
    assert_eq!(
        events,
        [FlowEvent::Close, FlowEvent::Open, FlowEvent::Update]
    );
    assert_eq!(second[0].close_reason, Some(CloseReason::Evicted));
    assert_eq!(second[0].flow_id, first[0].flow_id);
    assert_ne!(second[1].flow_id, first[0].flow_id);
    // Its counters begin at zero: nothing of the first flow's is counted again.
    assert!(second[2].to_client.bytes <= first[1].to_client.bytes * 11 / 10);
}
