//! Where a route experiment sends what it marks.

use std::sync::Arc;

use super::{Interconnect, Route, Rules, Source, SourceSet};
use crate::config::{Experiment, PathSources};

/// A route experiment, with what the same configuration says of the interconnect that it sends to.
#[derive(Clone, Debug, PartialEq)]
pub struct OtherWay {
    /// What `SO_MARK` marked flows have.
    pub mark: u32,
    /// Whether new connections are still chosen.
    pub chooses: bool,
    /// Whether routers beyond this host may decide.
    pub has_dscp: bool,
    pub interconnect: Arc<Interconnect>,
    peer_asn: Option<u32>,
    /// Devices of this host that lead to it; none: any may.
    devices: Vec<String>,
}

impl OtherWay {
    /// The experiment of a configuration that was found right.
    pub fn new(sources: &PathSources) -> Option<Self> {
        let experiment = sources.experiment.as_ref()?;
        let rules = Rules::new(&sources.interconnect);
        let interconnect = Arc::clone(rules.named(&experiment.interconnect)?);
        let devices = described(sources, experiment).flat_map(|rule| rule.interface.clone());
        Some(Self {
            mark: experiment.mark,
            chooses: experiment.share > 0.0,
            has_dscp: experiment.dscp.is_some(),
            interconnect,
            peer_asn: neighbour(sources, experiment),
            devices: devices.collect(),
        })
    }

    /// Whether a flow that leaves by this device can go there.
    pub fn leaves_by(&self, device: &str) -> bool {
        self.devices.is_empty() || self.devices.iter().any(|known| known == device)
    }

    /// The way that marked connections are sent, of the one that the others take.
    pub fn route(&self, default: Route) -> Route {
        let other = &self.interconnect;
        Route {
            interconnect: Arc::clone(&other.name),
            peer_asn: self.peer_asn,
            peer_address: None,
            next_hop: None,
            router: None,
            interface: None,
            as_path_middle: [].into(),
            connectivity: other.connectivity,
            site: other.site.clone(),
            risk_groups: Arc::clone(&other.risk_groups),
            // The operator's word, as one in a file of prefixes.
            sources: SourceSet {
                way: Source::File,
                ..default.sources
            },
            ..default
        }
    }
}

/// Everything that the configuration says of the interconnect.
fn described<'a>(
    sources: &'a PathSources,
    experiment: &'a Experiment,
) -> impl Iterator<Item = &'a crate::config::InterconnectRule> {
    let rules = sources.interconnect.iter();
    rules.filter(|rule| rule.name == experiment.interconnect)
}

/// The neighbour's AS there: what the experiment says, else the only one of the rules.
pub fn neighbour(sources: &PathSources, experiment: &Experiment) -> Option<u32> {
    let mut known: Vec<u32> = described(sources, experiment)
        .flat_map(|rule| rule.peer_asn.iter().copied())
        .collect();
    known.sort_unstable();
    known.dedup();
    experiment.peer_asn.or(match known.as_slice() {
        [one] => Some(*one),
        _ => None,
    })
}
