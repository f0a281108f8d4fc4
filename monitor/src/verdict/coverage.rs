//! Hypothesis 1, continued: how much of the video the evidence is about.
//!
//! Only TCP shows losses and queues to somebody in between. Where most of the video is QUIC, what
//! TCP says may be about other clients, other servers and another time of day.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::finding::{Evidence, Inconclusive, Place, Verdict, log_name};
use crate::cell::CellKey;
use crate::config::Thresholds;

/// Bytes toward the clients by cell: of TCP, and of QUIC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(CellKey, u64, u64)>", into = "Vec<(CellKey, u64, u64)>")]
pub struct Coverage {
    bytes: BTreeMap<CellKey, (u64, u64)>,
}

impl From<Vec<(CellKey, u64, u64)>> for Coverage {
    fn from(cells: Vec<(CellKey, u64, u64)>) -> Self {
        let mut coverage = Self::default();
        for (cell, tcp_bytes, quic_bytes) in &cells {
            coverage.add(cell, *tcp_bytes, *quic_bytes);
        }
        coverage
    }
}

impl From<Coverage> for Vec<(CellKey, u64, u64)> {
    fn from(coverage: Coverage) -> Self {
        let cells = coverage.bytes.into_iter();
        cells.map(|(cell, (tcp, quic))| (cell, tcp, quic)).collect()
    }
}

impl Coverage {
    pub fn add(&mut self, cell: &CellKey, tcp_bytes: u64, quic_bytes: u64) {
        let (tcp, quic) = self.bytes.entry(cell.clone()).or_default();
        *tcp += tcp_bytes;
        *quic += quic_bytes;
    }

    /// Share of the bytes at `place` that TCP carried; `None`: there were none.
    pub fn tcp_share(&self, place: &Place) -> Option<f64> {
        let at = self.near(place).filter(|(cell, _)| place.contains(cell));
        let (tcp, quic) = at.fold((0, 0), |(tcp, quic), (_, more)| {
            (tcp + more.0, quic + more.1)
        });
        share(tcp, quic)
    }

    /// The cells of the place's interconnect, and of its ISP if it has both: cells are in the order
    /// of these. All, where it has no interconnect.
    fn near<'s>(
        &'s self,
        place: &'s Place,
    ) -> impl Iterator<Item = (&'s CellKey, &'s (u64, u64))> + 's {
        let (interconnect, isp) = (place.interconnect(), place.isp());
        let first = CellKey {
            interconnect: interconnect.cloned().unwrap_or_default(),
            isp: interconnect.and(isp).cloned().unwrap_or_default(),
            origin_asn: 0,
            prefix: IpNet::default(),
            direct: false,
        };
        self.bytes.range(first..).take_while(move |(cell, _)| {
            let is_isp = || isp.is_none_or(|name| *name == cell.isp);
            interconnect.is_none_or(|name| *name == cell.interconnect && is_isp())
        })
    }

    /// What remains of a verdict: one about mostly unseen video says nothing.
    pub fn limit(&self, verdict: Verdict, at: &Thresholds) -> Verdict {
        let share = self.tcp_share(&verdict.place);
        let Some(share) = share.filter(|share| *share < at.min_tcp_share) else {
            return verdict;
        };
        if verdict.inconclusive.is_some() {
            return verdict;
        }
        let reason = Inconclusive::TcpShare;
        let mut evidence = verdict.evidence;
        evidence.push(Evidence {
            kind: log_name(reason),
            about: None,
            supports: "inconclusive".to_owned(),
            value: Some(share),
            threshold: Some(at.min_tcp_share),
            samples: verdict.observations,
        });
        Verdict {
            inconclusive: Some(reason),
            evidence,
            observations: verdict.observations,
            ..Verdict::about(verdict.place)
        }
    }
}

/// TCP's share of so many bytes.
pub fn share(tcp_bytes: u64, quic_bytes: u64) -> Option<f64> {
    let all = tcp_bytes + quic_bytes;
    (all > 0).then(|| tcp_bytes as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(interconnect: &str) -> CellKey {
        CellKey {
            interconnect: interconnect.into(),
            isp: "Northnet".into(),
            origin_asn: 64_501,
            prefix: "198.51.100.0/24".parse().expect("a prefix"),
            direct: true,
        }
    }

    #[test]
    fn a_verdict_about_mostly_unseen_video_says_nothing() {
        let mut coverage = Coverage::default();
        coverage.add(&cell("east"), 29, 71);
        coverage.add(&cell("west"), 1_000, 0);
        let at = Thresholds::default();
        let judged = |interconnect: &str| {
            let place = Place::Interconnect(interconnect.into());
            let verdict = Verdict {
                degraded: Some(true),
                ..Verdict::about(place)
            };
            coverage.limit(verdict, &at)
        };
        let east = judged("east");
        assert_eq!(east.inconclusive, Some(Inconclusive::TcpShare));
        assert_eq!((east.degraded, east.segments.len()), (None, 0));
        assert_eq!(east.evidence[0].value, Some(0.29));
        assert_eq!(judged("west").inconclusive, None);
        // Nothing is known about a place without traffic.
        assert_eq!(judged("south").inconclusive, None);
        assert_eq!(
            coverage.tcp_share(&Place::Everything),
            Some(1_029.0 / 1_100.0)
        );
    }
}
