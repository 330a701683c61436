//! The way from the old caps to the new ones.

use super::seen::{known_or, ranges};
use super::terms::Above;
use super::{Broken, Facts, Findings, Rule, TOLERANCE};
use heliostat_models::{DeviceId, Watts};
use std::collections::BTreeMap;

/// Whether, with every device at the larger of what it may have now (`worst`)
/// and what it is about to be sent (`sent`), every limit holds, contracts included.
///
/// A limit that `worst` alone already exceeds was exceeded before this
/// controller acted; below it no device may be sent more than it has.
pub fn check_transition(
    facts: &Facts<'_>,
    worst: &BTreeMap<DeviceId, Watts>,
    sent: &BTreeMap<DeviceId, Watts>,
) -> Vec<Broken> {
    let mut findings = Findings::default();
    let above = Above::new(facts);
    let mut during = vec![Watts::ZERO; above.count];
    let mut raised: Vec<Option<&DeviceId>> = vec![None; above.count];
    let range = ranges(facts);
    let worst = known_or(facts, worst, |place| range[place].1);
    let sent = known_or(facts, sent, |place| worst[place]);
    for (place, device) in facts.site.devices.iter().enumerate() {
        let (now, then) = (worst[place], sent[place]);
        if !(now.is_finite() && then.is_finite()) {
            findings.add(
                Rule::Finite,
                format!("`{}` is to go from {now} to {then}", device.id),
            );
        }
        for row in above.rows(place) {
            during[row] += now.max(then);
            if then > now + TOLERANCE {
                raised[row] = Some(&device.id);
            }
        }
    }
    for row in 0..above.count {
        let room = facts.room(row);
        if during[row] <= room + TOLERANCE {
            continue;
        }
        if let Some(device) = raised[row] {
            findings.add(
                Rule::Transition,
                format!(
                    "`{}`: while caps change they add up to {:.3}, there is room for {:.3}, and `{device}` is to be raised",
                    facts.row_name(row), during[row], room
                ),
            );
        }
    }
    findings.0
}
