//! What the counters of our own ports say (rules 4 and 6).
//!
//! A port that is full or drops packets on their way to the clients is the best evidence for its
//! interconnect there is, and a port that is neither is the best against it; but only where its
//! figures are about this window, and where they are of the size of what the clients suffer. A
//! counter says nothing about anybody who is served well.
//!
//! TSLP (Luckie et al., IMC 2014) and its validation with link utilisation (Dhamdhere et al.,
//! SIGCOMM 2018) for the rule that a standing queue at a link needs a link that is busy.

use super::finding::Evidence;
use super::forward::LOSS_SHARE;
use super::scene::{Client, Scene};
use crate::config::Thresholds;
use crate::flow::baseline::Moments;
use crate::path::ports::PortWindow;

/// Drops of a port are shared by all that crosses it, and those of the class or queue that the
/// video is in may be this many times the mean.
pub const CLASS_FACTOR: f64 = 10.0;
/// Drops below this part of the threshold are none.
const CLEAN_DROPS: f64 = 0.1;
/// Part of the bad clients that must show a queue for it to be what ails them.
const MOSTLY: f64 = 0.5;

/// What a port's counters say about one window.
#[derive(Clone, Copy, Debug)]
pub enum Says<'a> {
    /// No port is configured, or its figures are not about this window.
    Nothing,
    /// It is full, or drops packets toward the clients.
    Full(&'a PortWindow),
    /// Neither full nor clean.
    Neither(&'a PortWindow),
    /// It has room and drops nothing.
    Clean(&'a PortWindow),
}

/// What the port of `interconnect` says.
pub fn says<'a>(scene: &Scene<'a>, interconnect: &str) -> Says<'a> {
    match scene.ports.and_then(|ports| ports.fresh(interconnect)) {
        None => Says::Nothing,
        Some(port) if is_full(port, scene.at) => Says::Full(port),
        Some(port) if is_clean(port, scene.at) => Says::Clean(port),
        Some(port) => Says::Neither(port),
    }
}

fn is_full(port: &PortWindow, at: &Thresholds) -> bool {
    port.utilisation
        .is_some_and(|share| share >= at.port_full_share)
        || port
            .drop_share
            .is_some_and(|share| share >= at.port_drop_share)
}

/// All of it must have been measured.
fn is_clean(port: &PortWindow, at: &Thresholds) -> bool {
    let few = |share: Option<f64>| share.is_some_and(|it| it < at.port_drop_share * CLEAN_DROPS);
    let errors = port.error_share.unwrap_or(0.0) < at.port_drop_share * CLEAN_DROPS;
    port.resets == 0
        && port
            .utilisation
            .is_some_and(|share| share < at.port_busy_share)
        && few(port.drop_share)
        && errors
}

impl Says<'_> {
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Clean(_))
    }
}

/// In words, for why something is open or rejected.
pub fn in_words(port: &PortWindow) -> String {
    let mut words = Vec::new();
    if let Some(share) = port.utilisation {
        words.push(format!("{:.0} % full", share * 100.0));
    }
    if let Some(share) = port.drop_share {
        words.push(format!("dropping {:.2} %", share * 100.0));
    }
    words.join(" and ")
}

/// The figures, as evidence for `supports` where they reach their thresholds.
pub fn evidence(
    port: &PortWindow,
    interconnect: &str,
    supports: &str,
    at: &Thresholds,
) -> Vec<Evidence> {
    let figures = [
        ("port_utilisation", port.utilisation, at.port_full_share),
        ("port_drop_share", port.drop_share, at.port_drop_share),
        ("port_error_share", port.error_share, at.port_drop_share),
    ];
    figures
        .into_iter()
        .filter_map(|(kind, value, threshold)| {
            let value = value?;
            let reached = value >= threshold && kind != "port_error_share";
            Some(Evidence {
                kind: kind.to_owned(),
                about: Some(interconnect.to_owned()),
                supports: if reached { supports } else { "none" }.to_owned(),
                value: Some(value),
                threshold: Some(threshold),
                samples: port.samples,
            })
        })
        .collect()
}

/// Whether a full or dropping port is enough for what `clients` suffer: a standing queue needs a
/// busy port, losses need drops.
///
/// # Errors
/// What it does not explain.
pub fn explains(port: &PortWindow, clients: &[&Client], at: &Thresholds) -> Result<(), String> {
    let queued = clients.iter().filter(|client| client.signs.queue).count();
    let has_queue = queued as f64 >= MOSTLY * clients.len().max(1) as f64;
    let is_busy = port
        .utilisation
        .is_some_and(|share| share >= at.port_busy_share);
    if has_queue && !is_busy {
        return Err(match port.utilisation {
            Some(share) => format!(
                "the clients wait in a queue, and its port was {:.0} % full",
                share * 100.0
            ),
            None => "the clients wait in a queue, and its port's speed is not known".to_owned(),
        });
    }
    let mut losses = Moments::default();
    for sign in clients.iter().filter_map(|client| client.comparison.loss) {
        losses.push(Some(sign.excess));
    }
    if losses.count > 0 && losses.mean >= LOSS_SHARE {
        // A port that does not count its drops is taken at its fullness.
        if let Some(dropped) = port.drop_share
            && dropped * CLASS_FACTOR < losses.mean
        {
            return Err(format!(
                "the clients lost {:.2} %, and its port dropped {:.3} %",
                losses.mean * 100.0,
                dropped * 100.0
            ));
        }
    }
    let suffers_either = has_queue || (losses.count > 0 && losses.mean >= LOSS_SHARE);
    if !suffers_either && !port.utilisation.is_some_and(|it| it >= at.port_full_share) {
        return Err("the clients neither wait nor lose".to_owned());
    }
    Ok(())
}

/// Why the port of `interconnect` cannot be what makes `clients` wait: it had room all the time.
/// It clears nobody of losses, because a damaged link loses packets that its port has sent.
pub fn clears(scene: &Scene<'_>, interconnect: &str, clients: &[&Client]) -> Option<String> {
    let Says::Clean(port) = says(scene, interconnect) else {
        return None;
    };
    let queued = clients.iter().filter(|client| client.signs.queue).count();
    // Those that were bad before, and are only a little better in this window, show no sign.
    let shows = |client: &&&Client| client.signs.queue || client.signs.loss || client.signs.ce;
    let showing = clients.iter().filter(shows).count();
    (showing > 0 && queued as f64 >= scene.at.bad_share * showing as f64).then(|| {
        format!(
            "{queued} of {showing} bad clients wait in a queue, and the port of {interconnect} was {}",
            in_words(port)
        )
    })
}
