//! Hypothesis 3: our own machine, or our own network up to the edge.
//!
//! Everything we serve crosses both, so nearly everything must be bad, across every interconnect
//! and ISP seen and at least two of either (BlameIt's "cloud" segment, SIGCOMM 2019, with its 80
//! %). What our own devices count tells the two apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::{Evidence, Finding, Place};
use super::forward;
use super::interconnect;
use super::ports;
use super::scene::{Scene, Tally};
use super::transit;
use crate::config::Thresholds;

/// Packets from which a share of drops says something about a device.
const OFFERED_MIN: u64 = 1_000;

/// How drops of ours are called.
const DROP_SHARE: &str = "local_drop_share";
/// Part of all votes that must be bad for a full queue of ours to be why.
const FEW_BAD: f64 = 0.2;
/// Drops below this part of the threshold are none.
const CLEAN: f64 = 0.1;

/// What our devices counted in one window. Differences, not totals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LocalCounters {
    pub devices: Vec<DeviceCounters>,
    pub window_us: u64,
}

/// One device through which watched traffic leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceCounters {
    #[schemars(with = "String")]
    pub interface: Arc<str>,
    pub sent_bytes: u64,
    pub sent_packets: u64,
    pub qdisc_dropped: u64,
    /// Smallest backlog that was read during the window, bytes: what stood there all the time. A
    /// pacing queue (fq) holds packets at every single moment, and is not full.
    pub qdisc_backlog_min_bytes: u64,
    pub nic_tx_dropped: u64,
}

impl LocalCounters {
    /// Whether every device was busy enough to tell, and lost and held next to nothing.
    fn is_clean(&self, at: &Thresholds) -> bool {
        let few = |device: &DeviceCounters| {
            let dropped = device.qdisc_dropped + device.nic_tx_dropped;
            let offered = device.sent_packets + dropped;
            offered >= OFFERED_MIN && (dropped as f64) < at.host_drop_share * CLEAN * offered as f64
        };
        !self.devices.is_empty() && self.devices.iter().all(few) && self.full(at).is_none()
    }

    /// What shows that a queue of ours is full, if one is.
    pub fn full(&self, at: &Thresholds) -> Option<Evidence> {
        let sent_bytes: u64 = self.devices.iter().map(|device| device.sent_bytes).sum();
        let carries_most = |device: &&DeviceCounters| 2 * device.sent_bytes >= sent_bytes;
        self.devices.iter().filter(carries_most).find_map(|device| {
            let dropped = device.qdisc_dropped + device.nic_tx_dropped;
            let offered = device.sent_packets + dropped;
            let drop_share = dropped as f64 / offered.max(1) as f64;
            let drain_ms = device.qdisc_backlog_min_bytes as f64 * self.window_us as f64
                / (device.sent_bytes.max(1) as f64 * 1_000.0);
            let evidence = |kind: &str, value: f64, threshold: f64| Evidence {
                kind: kind.to_owned(),
                about: Some(device.interface.to_string()),
                supports: "host".to_owned(),
                value: Some(value),
                threshold: Some(threshold),
                samples: offered,
            };
            if offered < OFFERED_MIN {
                None
            } else if drop_share >= at.host_drop_share {
                Some(evidence(DROP_SHARE, drop_share, at.host_drop_share))
            } else if drain_ms >= at.host_backlog_ms {
                Some(evidence("local_backlog_ms", drain_ms, at.host_backlog_ms))
            } else {
                None
            }
        })
    }
}

/// Nearly everything is bad: every interconnect and every ISP that has enough votes to say.
pub fn everything_is_bad(scene: &Scene<'_>) -> bool {
    let at = scene.at;
    let totals = scene.totals;
    let bad = |tallies: &BTreeMap<Arc<str>, Tally>| {
        let counted: Vec<&Tally> = tallies
            .values()
            .filter(|tally| tally.prefixes >= u64::from(at.min_prefixes_per_isp))
            .collect();
        (counted.len(), counted.iter().all(|tally| tally.is_bad(at)))
    };
    let ((interconnects, all_interconnects), (isps, all_isps)) =
        (bad(&totals.interconnects), bad(&totals.isps));
    totals.all.is_bad(at) && all_interconnects && all_isps && (interconnects >= 2 || isps >= 2)
}

/// What shows that a queue of our own is full and nearly everybody feels it, also those whom it does not
/// harm yet: data to the clients of three of four prefixes is lost, through each interconnect.
pub fn full_and_felt(scene: &Scene<'_>) -> Option<Evidence> {
    let full = scene.local?.full(scene.at)?;
    let dropped = full.value.filter(|_| full.kind == DROP_SHARE)?;
    let totals = scene.totals;
    if totals.interconnects.len().max(totals.isps.len()) < 2 || totals.all.bad() < FEW_BAD {
        return None;
    }
    // Those that are bad lose no more than such drops explain: a class may have many times the mean.
    let bad = forward::losses(scene.bad_clients(&Place::Everything), "host")?;
    if dropped * ports::CLASS_FACTOR < bad.value.unwrap_or_default() {
        return None;
    }
    let mut names = totals.interconnects.keys();
    let everywhere = names.all(|name| {
        let place = Place::Interconnect(Arc::clone(name));
        felt(scene, &place).is_some()
    });
    let all = felt(scene, &Place::Everything)?;
    everywhere.then_some(all)
}

fn felt(scene: &Scene<'_>, place: &Place) -> Option<Evidence> {
    let votes = scene.all.at(place);
    forward::losses(votes.flat_map(|vote| vote.clients.iter()), "host")
}

/// Whom we serve well through the same machine and network, if anybody.
fn served_well(scene: &Scene<'_>) -> Option<String> {
    let totals = scene.totals;
    let groups = totals
        .interconnects
        .iter()
        .map(|group| ("through", group))
        .chain(totals.isps.iter().map(|group| ("of", group)));
    groups
        .filter(|(_, (_, tally))| tally.is_good(scene.at))
        .max_by(|(_, (_, a)), (_, (_, b))| a.prefixes.cmp(&b.prefixes))
        .map(|(how, (name, tally))| {
            format!(
                "{:.0} % of {} prefixes {how} {name} are good, and we serve them too",
                tally.good() * 100.0,
                tally.prefixes
            )
        })
}

/// Our own machine.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    if *place == Place::Everything
        && let Some(felt) = full_and_felt(scene)
        && let Some(full) = scene.local.and_then(|local| local.full(scene.at))
    {
        return Finding::Supported(vec![felt, full]);
    }
    if let Some(why) = served_well(scene) {
        return Finding::Rejected(why);
    }
    if *place != Place::Everything {
        return Finding::Open("nobody else is clearly good".to_owned());
    }
    match scene.local.map(|local| local.full(scene.at)) {
        Some(Some(full)) => Finding::Supported(vec![share_of_bad(scene, "host"), full]),
        Some(None) => after_our_devices(scene, place),
        None => Finding::Open("our queues and devices were not read".to_owned()),
    }
}

/// Our queues are not full: what is lost toward the clients is lost after them. A delay may still be
/// ours: of a card's ring, of a processor that comes late to what it receives.
fn after_our_devices(scene: &Scene<'_>, place: &Place) -> Finding {
    let losses = forward::losses(scene.bad_clients(place), "own_network");
    match losses {
        Some(losses) if scene.local.is_some_and(|local| local.is_clean(scene.at)) => {
            Finding::Rejected(format!(
                "our queues and devices drop nothing, and the clients lost {:.2} % more than usual",
                losses.value.unwrap_or_default() * 100.0
            ))
        }
        _ => Finding::Open(
            "our queues and devices drop nothing, but they are not all of it".to_owned(),
        ),
    }
}

/// Between our machine and our ports at the edge.
pub fn examine_own_network(scene: &Scene<'_>, place: &Place) -> Finding {
    let bundle = interconnect::maybe_bundle(scene, place);
    if let Some(why) = bundle.or_else(|| interconnect::part_of_pair(scene, place)) {
        return Finding::Open(why);
    }
    if let Place::Interconnect(interconnect) = place
        && interconnect::is_contested(scene, interconnect)
    {
        return Finding::Open(format!(
            "only what leads to {interconnect} is bad, and its port may not be why"
        ));
    }
    if let Place::Interconnect(interconnect) = place
        && let Some(why) = interconnect::part_of_bundle(scene, interconnect)
    {
        return Finding::Open(why);
    }
    if let Place::Interconnect(interconnect) = place
        && let Some(why) = transit::or_what_leads_there(scene, interconnect)
    {
        return Finding::Open(why);
    }
    if let Some(why) = served_well(scene) {
        return Finding::Rejected(why);
    }
    let full = scene.local.and_then(|local| local.full(scene.at));
    match full {
        Some(full) if *place == Place::Everything => Finding::Rejected(format!(
            "a queue of this machine is full ({}), which explains everything",
            full.kind
        )),
        _ if *place == Place::Everything => {
            Finding::Open("everything that we send is bad".to_owned())
        }
        _ => Finding::Open("nobody else is clearly good".to_owned()),
    }
}

fn share_of_bad(scene: &Scene<'_>, supports: &str) -> Evidence {
    let tally = &scene.totals.all;
    Evidence {
        kind: "bad_prefix_share".to_owned(),
        about: None,
        supports: supports.to_owned(),
        value: Some(tally.bad()),
        threshold: Some(scene.at.bad_share),
        samples: tally.prefixes,
    }
}
