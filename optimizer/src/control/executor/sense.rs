//! What an agent says is believed only where it can be true: one broken driver or
//! agent must not take the decision away from the whole site. A device of which
//! nonsense is said counts at the highest cap that it may have, and is not commanded.

use heliostat_models::Watts;
use heliostat_models::lease::CappableDevice;

/// Limits above this many times what the site file has as highest are no limits.
const BEYOND: f64 = 10.0;

/// What is wrong with what is said of a device; `highest`: by the site file.
pub(super) fn fault(said: &CappableDevice, highest: Watts) -> Option<String> {
    let figures = [
        ("lowest limit", said.min),
        ("highest limit", said.max),
        ("limit found", said.found),
        ("limit in force", said.current),
    ];
    let wrong = (figures.into_iter()).find(|(_, watts)| !is_sound(*watts, highest));
    if let Some((what, watts)) = wrong {
        return Some(format!(
            "its agent says that its {what} is {watts:.0}, which cannot be: 0 to {:.0} are allowed. See to the driver or the agent",
            highest * BEYOND
        ));
    }
    (said.min > said.max).then(|| {
        format!(
            "its agent says that it can be limited from {:.0} to {:.0}, which is no range. See to the driver or the agent",
            said.min, said.max
        )
    })
}

/// What an answer says that a device has, where that can be.
pub(super) fn believed(has: Option<Watts>, highest: Watts) -> Option<Watts> {
    has.filter(|watts| is_sound(*watts, highest))
}

fn is_sound(watts: Watts, highest: Watts) -> bool {
    (Watts::ZERO..=highest * BEYOND).contains(&watts)
}
