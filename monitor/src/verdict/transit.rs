//! Hypothesis 5: other networks between our neighbour and the ISP.
//!
//! Not named yet: that needs AS paths. It is excluded where the interconnect hands over to the
//! ISP itself, and where others on the same way are good.

use super::finding::{Finding, Place};
use super::interconnect;
use super::last_mile;
use super::scene::Scene;

/// Networks between the neighbour and the ISP.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    let mut bad = scene.at_place(place).filter(|vote| vote.has_bad());
    if interconnect::maybe_bundle(scene, place).is_none()
        && last_mile::has_good_neighbour(scene, place)
    {
        return Finding::Rejected("neighbours in the same prefix are good".to_owned());
    }
    match bad.find(|vote| !vote.cell.direct) {
        None => Finding::Rejected("every bad path is direct".to_owned()),
        Some(vote) => Finding::Open(format!(
            "{} reaches {} through another network",
            vote.cell.interconnect, vote.cell.isp
        )),
    }
}
