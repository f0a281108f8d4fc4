//! Whether something slows the data *toward* the clients, or only their answers.
//!
//! An RTT that grew says nothing about the direction. Losses, CE marks and a delivered rate that
//! dropped do (TSLP, Luckie et al., IMC 2014, has the same caveat about the way back).

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::degraded::{Comparison, SLOWING_SHARE};
use super::finding::Evidence;
use super::scene::Client;
use crate::flow::baseline::Moments;

/// Standard errors that the clients' mean excess must exceed: 1 in 700 by chance.
const DEVIATIONS: f64 = 3.0;
const DEVIATIONS_OF_EACH: f64 = 2.0;
/// Additional losses that matter once they are established over many clients.
pub const LOSS_SHARE: f64 = SLOWING_SHARE;
/// Part of a threshold that the clients of three of four prefixes must reach on the average: what some
/// of them suffer says nothing about the others, whose answers alone may be late.
const QUARTILE_SHARE: f64 = 0.5;
/// Part of the usual rate that must be missing on the average.
const RATE_DROP: f64 = 0.2;

/// What shows that data toward `clients` is slowed, if anything does. `supports` is the name the
/// evidence will carry.
pub fn evidence<'a>(
    clients: impl Iterator<Item = &'a Client> + Clone,
    supports: &str,
) -> Option<Evidence> {
    beyond(clients, supports, DEVIATIONS)
}

/// The same for each of several ways, all of which must show it: 1 in 44 by chance for one, 1 in 1,900
/// for two.
pub fn evidence_of_each<'a>(
    clients: impl Iterator<Item = &'a Client> + Clone,
    supports: &str,
) -> Option<Evidence> {
    beyond(clients, supports, DEVIATIONS_OF_EACH)
}

fn beyond<'a>(
    clients: impl Iterator<Item = &'a Client> + Clone,
    supports: &str,
    deviations: f64,
) -> Option<Evidence> {
    let item =
        |kind: &str, mean: &Mean, threshold: f64| mean.item(kind, threshold, supports, deviations);
    let loss = Mean::of(clients.clone(), loss_excess);
    let ce = Mean::of(clients.clone(), |it| it.ce.map(|sign| sign.excess));
    // A short transfer is slower in proportion to its RTT, whichever direction that grew in.
    let rate = Mean::of(clients.clone(), |it| it.rate_beyond_rtt);
    item("loss_excess_share", &loss, LOSS_SHARE)
        .or_else(|| item("ce_excess_share", &ce, LOSS_SHARE))
        .or_else(|| item("rate_drop_share", &rate, RATE_DROP))
        .or_else(|| single(clients, supports))
}

/// What shows that data toward `clients` is lost, if it is.
pub fn losses<'a>(clients: impl Iterator<Item = &'a Client>, supports: &str) -> Option<Evidence> {
    Mean::of(clients, loss_excess).item("loss_excess_share", LOSS_SHARE, supports, DEVIATIONS)
}

fn loss_excess(comparison: &Comparison) -> Option<f64> {
    comparison.loss.map(|sign| sign.excess)
}

/// A single client has no mean; then its own significant signs must do.
fn single<'a>(mut clients: impl Iterator<Item = &'a Client>, supports: &str) -> Option<Evidence> {
    let client = clients.next()?;
    let (signs, comparison) = (client.signs, &client.comparison);
    let (kind, sign) = if signs.loss {
        ("loss_excess_share", comparison.loss?)
    } else if signs.ce {
        ("ce_excess_share", comparison.ce?)
    } else if signs.rate && comparison.rate_beyond_rtt.is_some_and(|it| it >= RATE_DROP) {
        ("rate_drop_share", comparison.rate?)
    } else {
        return None;
    };
    clients.next().is_none().then(|| Evidence {
        kind: kind.to_owned(),
        about: None,
        supports: supports.to_owned(),
        value: Some(sign.excess),
        threshold: Some(sign.threshold),
        samples: 1,
    })
}

/// The mean excess over many clients, its standard error, and the lower quartile of the
/// means of their prefixes.
struct Mean {
    count: u64,
    mean: f64,
    error: f64,
    quartile: f64,
}

impl Mean {
    fn of<'a>(
        clients: impl Iterator<Item = &'a Client>,
        pick: impl Fn(&Comparison) -> Option<f64>,
    ) -> Self {
        let mut moments = Moments::default();
        let mut prefixes: BTreeMap<IpNet, Moments> = BTreeMap::new();
        for client in clients {
            let Some(value) = pick(&client.comparison) else {
                continue;
            };
            moments.push(Some(value));
            let prefix = prefixes.entry(client.prefix).or_default();
            prefix.push(Some(value));
        }
        let mut sorted: Vec<f64> = prefixes.values().map(|prefix| prefix.mean).collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            count: moments.count,
            mean: moments.mean,
            error: moments.deviation() / (moments.count.max(1) as f64).sqrt(),
            quartile: sorted.get(sorted.len() / 4).copied().unwrap_or_default(),
        }
    }

    fn item(
        &self,
        kind: &str,
        threshold: f64,
        supports: &str,
        deviations: f64,
    ) -> Option<Evidence> {
        let is_certain = self.mean >= deviations * self.error;
        let is_common = self.quartile >= QUARTILE_SHARE * threshold;
        (self.count > 1 && self.mean >= threshold && is_certain && is_common).then(|| Evidence {
            kind: kind.to_owned(),
            about: None,
            supports: supports.to_owned(),
            value: Some(self.mean),
            threshold: Some(threshold),
            samples: self.count,
        })
    }
}
