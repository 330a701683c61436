//! Ramp limits: whether they can be meant. Most slips are of units, kilowatts
//! for watts or minutes for seconds, and show in how long a whole change takes.

use crate::site::config::fault::Sink;
use crate::site::config::reader::Field;
use crate::site::config::schema::{RampFields, SiteFile};
use crate::site::ramp::USUAL_WINDOW;

/// Least of a window's worth for each node, in watts: a job over all of them rises
/// together, and limits of nodes as a whole go in whole watts.
const SHARE: f64 = 2.0;
/// Seconds after which a change from nothing to the limit cannot be meant.
const TOO_SLOW: f64 = 3_600.0;

pub(super) fn check(file: &SiteFile, sink: &Sink) {
    let window = (file.control.as_ref())
        .and_then(|c| c.ramp_window.as_ref())
        .map_or(USUAL_WINDOW.as_secs_f64(), |w| w.value);
    let least = nodes(file) * SHARE / window;
    for section in &file.power {
        let limit = section.limit.as_ref().map(|l| l.value);
        let id = section.id.as_ref().map_or("?", |id| id.value.as_str());
        rates(
            &section.ramp,
            &section.prefix,
            &format!("`{id}`"),
            limit,
            least,
            sink,
        );
    }
    let Some(control) = &file.control else { return };
    rates(
        &control.ramp,
        "control.",
        "the site",
        site_limit(file),
        least,
        sink,
    );
    let anywhere = !control.ramp.is_empty() || file.power.iter().any(|p| !p.ramp.is_empty());
    if let Some(window) = &control.ramp_window
        && !anywhere
    {
        sink.warning(
            window.at,
            "control.ramp_window_seconds",
            "a window is given, but no ramp limit that it could belong to",
            "add ramp_up_watts_per_second or ramp_down_watts_per_second to [control] or a [[power]] section, or remove it",
        );
    }
}

/// What all utility feeds may draw; `None` where one does not say it.
fn site_limit(file: &SiteFile) -> Option<f64> {
    (file.power.iter())
        .filter(|p| p.feeds.as_ref().is_some_and(|f| f.value.is_empty()))
        .map(|p| p.limit.as_ref().map(|l| l.value))
        .sum()
}

/// Nodes that run accelerators.
fn nodes(file: &SiteFile) -> f64 {
    (file.partitions.iter())
        .filter(|p| p.is_running())
        .filter(|p| p.devices_per_node.as_ref().is_some_and(|d| d.value > 0))
        .filter_map(|p| p.node_count())
        .map(|nodes| nodes as f64)
        .sum()
}

fn rates(
    fields: &RampFields,
    prefix: &str,
    what: &str,
    limit: Option<f64>,
    least: f64,
    sink: &Sink,
) {
    let Some(limit) = limit.filter(|l| *l > 0.0) else {
        return;
    };
    let each: [(&str, &Field<f64>); 2] = [
        ("ramp_up_watts_per_second", &fields.up),
        ("ramp_down_watts_per_second", &fields.down),
    ];
    for (name, field) in each {
        let Some(rate) = field else { continue };
        let field = format!("{prefix}{name}");
        let takes = limit / rate.value;
        if rate.value < least {
            sink.error(
                rate.at,
                &field,
                format!(
                    "{} W/s is too little to be shared by the nodes of this site",
                    rate.value
                ),
                format!("give at least {least:.2} W/s, or a longer ramp_window_seconds"),
            );
        } else if takes > TOO_SLOW {
            sink.warning(
                rate.at,
                &field,
                format!(
                    "at {} W/s it takes {:.1} h to go through the {limit} W that {what} may draw",
                    rate.value,
                    takes / 3_600.0
                ),
                "the unit is watts a second: a kilowatt a second is 1000, a megawatt a minute 16667",
            );
        } else if takes < 1.0 {
            sink.warning(
                rate.at,
                &field,
                format!(
                    "{} W/s limits nothing: {what} may draw {limit} W, all of which may come within a second",
                    rate.value
                ),
                "remove it, or give the rate in watts a second",
            );
        }
    }
}
