//! Two simpler methods on the same input, to be held beside ours.
//!
//! Both are given the benefit of every doubt: BlameIt's "middle" is taken for whichever of
//! interconnect and transit is at fault, its "client" for whatever is at or behind the ISP, and
//! the signature's "external" likewise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use lastmile::flow::Observation;
use lastmile::verdict::Segment;

/// Whom somebody names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub segment: Segment,
    pub interconnect: Option<Arc<str>>,
    pub isp: Option<Arc<str>>,
    pub prefix: Option<IpNet>,
}

/// Share of the quartets that must be bad.
const TAU: f64 = 0.8;
/// Quartets without which a group is not judged.
const MIN_QUARTETS: usize = 5;
/// RTT over the learned one that is bad, µs: our own threshold, so that both ask the same.
const BAD_US: f64 = 5_000.0;
/// Means kept of a prefix.
const LEARNED: usize = 64;

/// BlameIt's passive rules (Jin et al., "Zooming in on Wide-area Latencies to a Global Cloud
/// Provider", SIGCOMM 2019, algorithm 1): cloud, then middle, then client, each by 80 % of the
/// quartets (here: prefix, interconnect, window) whose mean RTT is over what was learned.
#[derive(Default)]
pub struct BlameIt {
    learned: BTreeMap<(Arc<str>, IpNet), Vec<f64>>,
}

/// One prefix through one interconnect.
struct Quartet {
    interconnect: Arc<str>,
    isp: Arc<str>,
    prefix: IpNet,
    bad: bool,
}

/// The RTT samples of one prefix through one interconnect.
struct Sum {
    isp: Arc<str>,
    rtt_us: f64,
    samples: f64,
}

impl BlameIt {
    /// Whom it blames for one window; `learning`: what is usual is learned from it.
    pub fn window(&mut self, observations: &[Observation], learning: bool) -> Vec<Name> {
        let mut sums: BTreeMap<(Arc<str>, IpNet), Sum> = BTreeMap::new();
        for observation in observations {
            let Some(location) = &observation.location else {
                continue;
            };
            let key = (Arc::clone(&location.route.interconnect), location.unit);
            let sum = sums.entry(key).or_insert_with(|| Sum {
                isp: Arc::clone(&location.route.isp),
                rtt_us: 0.0,
                samples: 0.0,
            });
            sum.rtt_us += observation.to_client.rtt_sum_us as f64;
            sum.samples += observation.to_client.rtt_samples as f64;
        }
        let mut quartets = Vec::new();
        for (key, sum) in sums {
            let mean = sum.rtt_us / f64::max(sum.samples, 1.0);
            let past = self.learned.entry(key.clone()).or_default();
            if learning && past.len() < LEARNED {
                past.push(mean);
            }
            let Some(usual) = median(past) else {
                continue;
            };
            quartets.push(Quartet {
                interconnect: key.0,
                isp: sum.isp,
                prefix: key.1,
                bad: mean - usual >= f64::max(BAD_US, 0.1 * usual),
            });
        }
        blame(&quartets)
    }
}

fn blame(quartets: &[Quartet]) -> Vec<Name> {
    let name = |segment, interconnect, isp| Name {
        segment,
        interconnect,
        isp,
        prefix: None,
    };
    if quartets.iter().all(|quartet| !quartet.bad) {
        return Vec::new();
    }
    if is_bad(quartets.iter()) {
        return vec![name(Segment::Host, None, None)];
    }
    let mut names = BTreeSet::new();
    for quartet in quartets.iter().filter(|quartet| quartet.bad) {
        let middle = quartets
            .iter()
            .filter(|other| other.interconnect == quartet.interconnect);
        let good_elsewhere = quartets.iter().any(|other| {
            other.prefix == quartet.prefix
                && other.interconnect != quartet.interconnect
                && !other.bad
        });
        if middle.clone().count() < MIN_QUARTETS {
            continue;
        }
        if is_bad(middle) {
            let interconnect = Some(Arc::clone(&quartet.interconnect));
            names.insert(name(Segment::Interconnect, interconnect, None));
        } else if !good_elsewhere {
            names.insert(name(Segment::Isp, None, Some(Arc::clone(&quartet.isp))));
        }
    }
    names.into_iter().collect()
}

fn is_bad<'a>(quartets: impl Iterator<Item = &'a Quartet> + Clone) -> bool {
    let all = quartets.clone().count();
    let bad = quartets.filter(|quartet| quartet.bad).count();
    all >= MIN_QUARTETS && bad as f64 >= TAU * all as f64
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// "TCP Congestion Signatures" (Sundaresan et al., IMC 2017) alone: of the flows that are slow,
/// those whose RTT hardly varied found a queue that was full already ("external"), the others
/// filled it themselves ("self").
pub struct Signature;

/// (max - min) / max below which congestion is external.
const NORM_DIFF: f64 = 0.5;
/// A flow is slow below this rate, bit/s: the threshold of HD video.
const SLOW_BPS: f64 = 2.5e6;

impl Signature {
    /// Whom it blames for one window.
    pub fn window(observations: &[Observation]) -> Vec<Name> {
        let mut names = BTreeSet::new();
        for observation in observations {
            let totals = &observation.to_client;
            let slow = totals.delivered_bps().is_some_and(|bps| bps < SLOW_BPS);
            let (Some(location), Some(min), Some(max), true) = (
                &observation.location,
                totals.rtt_min_us,
                totals.rtt_max_us,
                slow,
            ) else {
                continue;
            };
            let norm_diff = f64::from(max - min) / f64::from(max);
            names.insert(if norm_diff < NORM_DIFF {
                Name {
                    segment: Segment::Interconnect,
                    interconnect: Some(Arc::clone(&location.route.interconnect)),
                    isp: None,
                    prefix: None,
                }
            } else {
                Name {
                    segment: Segment::LastMile,
                    interconnect: None,
                    isp: None,
                    prefix: Some(location.unit),
                }
            });
        }
        names.into_iter().collect()
    }
}
