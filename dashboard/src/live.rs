//! The values of the overview that change in place: one function makes them
//! for the server-rendered page and for the event stream, so that both say
//! the same.

use crate::figure::Figure;
use crate::format;
use crate::snapshot::{PowerBar, Snapshot};
use crate::text;
use heliostat_models::site::Site;
use heliostat_models::{Catalogue, DeviceId, Quality};
use heliostat_optimizer::view::{ControlState, PowerNodeView};
use serde::Serialize;
use std::collections::BTreeMap;

/// Up to this many accelerators the heat-map has a cell for each; beyond, for
/// each node.
const MAX_GPU_CELLS: usize = 2_048;

/// Live values by key.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Live {
    /// Site time, for people.
    pub(crate) at: String,
    /// Sequence number of the latest decision; a change means the list is old.
    pub(crate) decision: Option<u64>,
    /// Texts.
    pub(crate) text: BTreeMap<String, String>,
    /// Bars: begin and width in per cent.
    pub(crate) bar: BTreeMap<String, (f64, f64)>,
    /// States, as CSS classes: `ok`, `est`, `none`, `over`.
    pub(crate) state: BTreeMap<String, &'static str>,
    /// Heat-map cells: class and words.
    pub(crate) cell: BTreeMap<String, (String, String)>,
}

impl Live {
    pub(crate) fn text(&self, key: &str) -> &str {
        self.text.get(key).map_or("", String::as_str)
    }
    pub(crate) fn bar(&self, key: &str) -> (f64, f64) {
        self.bar.get(key).copied().unwrap_or_default()
    }
    pub(crate) fn state(&self, key: &str) -> &'static str {
        self.state.get(key).copied().unwrap_or("ok")
    }
    fn figure(&mut self, key: &str, figure: Figure, words: impl Fn(f64) -> String) {
        self.text
            .insert(key.to_owned(), format::figure(figure, words));
        self.state.insert(key.to_owned(), class_of(figure));
    }
    fn say(&mut self, key: &str, words: impl Into<String>) {
        self.text.insert(key.to_owned(), words.into());
    }
}

/// How a figure is known, as a CSS class.
pub(crate) fn class_of(figure: Figure) -> &'static str {
    match figure.quality {
        Quality::Measured => "ok",
        Quality::Estimated => "est",
        Quality::Missing => "none",
    }
}

/// Whether the heat-map shows accelerators (else nodes).
pub(crate) fn shows_gpus(site: &Site) -> bool {
    site.devices.len() <= MAX_GPU_CELLS
}

/// The JSON of a snapshot for the event stream.
pub(crate) fn wire(snapshot: &Snapshot, site: &Site) -> String {
    // A map of strings and numbers always serialises.
    serde_json::to_string(&live(snapshot, site)).unwrap_or_default()
}

/// All live values.
pub(crate) fn live(snapshot: &Snapshot, site: &Site) -> Live {
    let mut live = Live {
        at: format::full(snapshot.at),
        decision: snapshot.decision,
        ..Live::default()
    };
    live.say("trouble", trouble(snapshot));
    live.state
        .insert("trouble".to_owned(), trouble_state(snapshot));
    power(&mut live, snapshot);
    indicators(&mut live, snapshot);
    control(&mut live, snapshot);
    for bar in snapshot.upper.iter().chain(&snapshot.racks) {
        power_bar(&mut live, bar);
    }
    for contract in snapshot.view.contracts.iter() {
        power_contract(&mut live, contract);
    }
    cells(&mut live, snapshot, site);
    live
}

/// What is wrong with breakers, and with the parts behind the pages.
pub(crate) fn trouble(snapshot: &Snapshot) -> String {
    troubles(snapshot).cloned().collect::<Vec<_>>().join(" ")
}

fn troubles(snapshot: &Snapshot) -> impl Iterator<Item = &String> {
    snapshot
        .view
        .troubles
        .iter()
        .chain(&snapshot.health.troubles)
}

/// Shown while there is something to say.
pub(crate) fn trouble_state(snapshot: &Snapshot) -> &'static str {
    if troubles(snapshot).next().is_none() {
        "hidden"
    } else {
        "over"
    }
}

fn power(live: &mut Live, snapshot: &Snapshot) {
    let parts = snapshot.parts;
    let (limit, configured) = snapshot.site_limits();
    let scale = configured * 1.06;
    let mut begin = 0.0;
    for (key, figure) in [
        ("part.gpu", parts.gpu),
        ("part.it", parts.other_it),
        ("part.cooling", parts.cooling),
        ("part.unknown", parts.unassigned),
    ] {
        live.figure(key, figure, format::watts);
        if figure.value.is_none() && parts.unassigned.value.is_some() {
            live.say(key, text::NOT_KNOWN);
        }
        let share = match figure.partial {
            Some(of) => format::coverage(of),
            None => {
                let share = figure.with(parts.total, |p, t| p / t);
                share.value.map_or(String::new(), format::percent)
            }
        };
        live.say(&format!("{key}.share"), share);
        let width = percent_of(figure.value.unwrap_or(0.0), scale).min(100.0 - begin);
        live.bar.insert(key.to_owned(), (begin, width));
        begin += width;
    }
    let is_split = parts.unassigned.value.is_none();
    live.state.insert(
        "part.unknown.row".to_owned(),
        if is_split { "hidden" } else { "ok" },
    );
    live.figure("site.power", parts.total, format::watts);
    live.bar
        .insert("site.limit".to_owned(), (percent_of(limit, scale), 0.0));
    live.bar.insert(
        "site.configured".to_owned(),
        (percent_of(configured, scale), 0.0),
    );
    live.say("site.limit", format!("limit {}", format::watts(limit)));
    let left = parts.total.map(|p| limit - p);
    let words = match left.value {
        // What is free cannot be told where only a part of the power is known.
        Some(l) if l >= 0.0 && left.partial.is_some() => {
            left.partial.map_or(String::new(), format::coverage)
        }
        Some(l) if l >= 0.0 => format!("{} free", format::figure(left, format::watts)),
        Some(l) => format!("{} over the limit", format::watts(-l)),
        None => String::new(),
    };
    live.say("site.left", words);
    if snapshot.upper.iter().any(|b| b.depth == 0 && b.is_over()) {
        live.state.insert("site.power".to_owned(), "over");
    }
    let event = match snapshot.running_event() {
        Some(e) => format!(
            "Grid event {} until {}: {}",
            e.id,
            format::day_clock(e.to),
            e.reason
        ),
        None => String::new(),
    };
    live.state.insert(
        "event".to_owned(),
        if event.is_empty() { "hidden" } else { "ok" },
    );
    live.say("event", event);
}

fn indicators(live: &mut Live, snapshot: &Snapshot) {
    for (key, pue) in [
        ("pue.hour", &snapshot.pue_hour),
        ("pue.day", &snapshot.pue_day),
    ] {
        live.figure(key, pue.value, |v| format::number(v, 3));
        let shares = [
            (pue.measured_share, "measured"),
            (pue.estimated_share, "estimated"),
            (pue.missing_share, "unknown"),
        ]
        .iter()
        .filter(|(share, _)| *share > 0.0)
        .map(|(share, word)| format!("{} {word}", format::percent(*share)))
        .collect::<Vec<_>>()
        .join(", ");
        live.say(&format!("{key}.shares"), shares);
    }
    live.say("pue.source", snapshot.pue_hour.source.clone());
    let grid = snapshot.grid;
    live.figure("grid.carbon", grid.carbon, |v| format::number(v, 0));
    live.figure("grid.renewable", grid.renewable, format::percent);
    live.figure("grid.price", grid.price, |v| format::number(v, 2));
    live.bar.insert(
        "grid.renewable".to_owned(),
        (0.0, percent_of(grid.renewable.value.unwrap_or(0.0), 1.0)),
    );
}

fn control(live: &mut Live, snapshot: &Snapshot) {
    let view = &snapshot.view;
    let (mode, note) = match view.state {
        ControlState::Observe => (text::OBSERVING, text::OBSERVING_NOTE),
        ControlState::StandingBy => (text::STANDING_BY, text::STANDING_BY_NOTE),
        ControlState::Armed => (text::ARMED, text::ARMED_NOTE),
        ControlState::Degraded => (text::DEGRADED, text::DEGRADED_NOTE),
        ControlState::Safe => (text::SAFE, text::SAFE_NOTE),
    };
    live.say("control.mode", mode);
    live.say("control.note", note);
    let gap = match &view.allocation {
        Some(certificate) => format::gap(certificate.gap),
        None => "no allocation yet".to_owned(),
    };
    live.say("control.gap", gap);
    live.say("control.max-gap", format::gap(view.max_gap));
    live.say(
        "control.allocations",
        format::number(view.allocations as f64, 0),
    );
    let capped = view.caps.values().filter(|c| c.acknowledged.is_some());
    live.say(
        "control.caps",
        format!("{} of {}", capped.count(), view.caps.len()),
    );
    let plan = match &view.plan {
        Some(plan) => format!(
            "{}, gap {}",
            format::clock(plan.issued),
            format::gap(plan.certificate.gap)
        ),
        None => "no plan yet".to_owned(),
    };
    live.say("control.plan", plan);
    for (key, state) in [
        ("jobs.running", heliostat_models::JobState::Running),
        ("jobs.paused", heliostat_models::JobState::Paused),
        ("jobs.queued", heliostat_models::JobState::Queued),
    ] {
        live.say(key, snapshot.jobs_in(state).to_string());
    }
}

fn power_bar(live: &mut Live, bar: &PowerBar) {
    let key = format!("pn.{}", bar.id);
    let scale = bar.configured.0 * 1.06;
    let power = bar.power.value.unwrap_or(0.0);
    live.bar
        .insert(key.clone(), (0.0, percent_of(power, scale)));
    live.bar.insert(
        format!("{key}.limit"),
        (percent_of(bar.limit.0, scale), 0.0),
    );
    live.figure(&key, bar.power, format::watts);
    live.say(&format!("{key}.limit"), format::watts(bar.limit.0));
    let share = bar.power.map(|p| p / bar.limit.0);
    live.say(&format!("{key}.share"), format::share_or_coverage(share));
    if bar.is_over() {
        live.state.insert(key, "over");
    }
}

/// A power contract: caps decided and what no cap controls, against its limit.
fn power_contract(live: &mut Live, contract: &PowerNodeView) {
    let key = format!("pc.{}", contract.id);
    let most = (contract.capped + contract.uncontrolled).0;
    live.bar
        .insert(key.clone(), (0.0, percent_of(most, contract.limit.0)));
    live.say(&key, format::watts(most));
    live.say(&format!("{key}.limit"), format::watts(contract.limit.0));
    live.say(
        &format!("{key}.share"),
        format::percent(most / contract.limit.0),
    );
    if most > contract.limit.0 {
        live.state.insert(key, "over");
    }
}

fn cells(live: &mut Live, snapshot: &Snapshot, site: &Site) {
    if shows_gpus(site) {
        for device in &site.devices {
            let power = snapshot.figure(&device.id, Catalogue::gpu_power());
            let reported = snapshot.figure(&device.id, Catalogue::gpu_power_limit());
            let limit = reported.value.unwrap_or(device.max_cap.0);
            let is_capped = limit < device.max_cap.0 * 0.99;
            let words = format!(
                "{}: {} of {}{}",
                device.id,
                format::figure(power, format::watts),
                format::watts(limit),
                if is_capped { ", capped" } else { "" }
            );
            let mut class = cell_class(power, limit);
            if is_capped && power.value.is_some() {
                class.push_str(" capped");
            }
            live.cell.insert(device.id.to_string(), (class, words));
        }
    } else {
        for (index, node) in site.nodes.iter().enumerate() {
            let power = snapshot.node_power(site, index);
            let limit = site.power.nodes()[node.power_node].limit.0;
            let words = format!(
                "{}: {} of {}",
                node.id,
                format::figure(power, format::watts),
                format::watts(limit)
            );
            live.cell.insert(
                DeviceId::from(node.id.as_str()).to_string(),
                (cell_class(power, limit), words),
            );
        }
    }
}

/// Eleven greys by share of the limit; hatched without reading; marked when
/// above the limit by more than 5 % (a GPU's draw overshoots its cap for moments).
fn cell_class(power: Figure, limit: f64) -> String {
    match power.value {
        None => "none".to_owned(),
        Some(p) if p > limit * 1.05 => "over".to_owned(),
        Some(p) => {
            let level = (p / limit * 10.0).round().clamp(0.0, 10.0) as u8;
            if power.quality == Quality::Measured {
                format!("l{level}")
            } else {
                format!("l{level} est")
            }
        }
    }
}

fn percent_of(part: f64, whole: f64) -> f64 {
    if whole > 0.0 {
        // Hundredths of a per cent are finer than a pixel.
        ((part / whole * 1e4).round() / 100.0).clamp(0.0, 100.0)
    } else {
        0.0
    }
}
