//! `/metrics` in the Prometheus text format 0.0.4, and `/healthz`.

use crate::control_metrics;
use crate::figure::Figure;
use crate::server::Shared;
use crate::snapshot::Snapshot;
use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use heliostat_collector::open::Tally;
use heliostat_models::metrics::MetricKind;
use heliostat_models::site::Site;
use heliostat_models::{Catalogue, JobState};
use heliostat_optimizer::view::ControlMode;
use heliostat_store::query::StoreStats;
use std::fmt::Write as _;
use std::sync::Arc;

/// Accelerators whose readings are shown one by one; a larger site's are in
/// the store, and here only its nodes.
const MAX_DEVICES: usize = 4_096;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let stats = shared.app.store.stats();
    let text = format!(
        "ok\nsite time {}\nframes stored {}\n",
        shared.app.clock.now(),
        stats.frames
    );
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut text = exposition(&shared.now(), &shared.app.site);
    open_ingest(&mut text, &shared.open.totals());
    late_frames(&mut text, &shared.app.store.stats());
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}

/// Writes one metric: head, then samples.
pub(crate) struct Family<'a> {
    out: &'a mut String,
    name: String,
}

impl<'a> Family<'a> {
    pub(crate) fn new(out: &'a mut String, name: &str, help: &str, is_counter: bool) -> Self {
        let name = sanitise(name);
        let kind = if is_counter { "counter" } else { "gauge" };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Self { out, name }
    }
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.out.push_str(&self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.out.push(if index == 0 { '{' } else { ',' });
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.out, "{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
    fn figure(&mut self, labels: &[(&str, &str)], figure: Figure) {
        // A missing reading has no sample: no sentinel becomes a value, no
        // partial sum the whole.
        if let Some(value) = figure.whole().value {
            self.sample(labels, value);
        }
    }
}

/// Letters, digits, `_` and `:`; the program's prefix in front.
fn sanitise(name: &str) -> String {
    let clean: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '_'
            }
        })
        .collect();
    if clean.starts_with("heliostat_") {
        clean
    } else {
        format!("heliostat_{clean}")
    }
}

pub(crate) fn exposition(snapshot: &Snapshot, site: &Site) -> String {
    let mut out = String::with_capacity(64 << 10);
    readings(&mut out, snapshot, site);
    totals(&mut out, snapshot);
    control(&mut out, snapshot);
    control_metrics::write(&mut out, &snapshot.view, snapshot.at);
    let mut seen = std::collections::HashSet::new();
    for counter in &snapshot.health.counters {
        // A name that comes twice would make the whole page unreadable to Prometheus.
        if seen.insert(sanitise(&counter.name)) {
            Family::new(
                &mut out,
                &counter.name,
                &counter.help,
                counter.name.ends_with("_total"),
            )
            .sample(&[], counter.value);
        }
    }
    out
}

/// What became of the samples that came by remote write and line protocol.
fn open_ingest(out: &mut String, tally: &Tally) {
    let mut family = Family::new(
        out,
        "open_ingest_samples_total",
        "Samples that came by remote write and line protocol, by outcome",
        true,
    );
    for (outcome, count) in [
        ("stored", tally.stored),
        ("duplicate", tally.duplicates),
        ("unknown_metric", tally.unknown),
        ("unplaced", tally.unplaced.values().sum()),
        ("refused", tally.refused.values().sum()),
        ("text", tally.texts),
    ] {
        family.sample(&[("outcome", outcome)], count as f64);
    }
}

/// Frames that did not come in their turn.
fn late_frames(out: &mut String, stats: &StoreStats) {
    let mut family = Family::new(
        out,
        "store_frames_out_of_turn_total",
        "Frames that came twice, late, in disorder, or with an instant that cannot be",
        true,
    );
    for (outcome, count) in [
        ("duplicate", stats.duplicates),
        ("late", stats.late),
        ("out_of_order", stats.out_of_order),
        ("refused", stats.refused),
    ] {
        family.sample(&[("outcome", outcome)], count as f64);
    }
}

/// The latest readings of every catalogue metric that some device has.
fn readings(out: &mut String, snapshot: &Snapshot, site: &Site) {
    let with_devices = site.devices.len() <= MAX_DEVICES;
    let mut devices: Vec<_> = snapshot.latest.keys().collect();
    devices.sort();
    let labelled: Vec<_> = devices
        .into_iter()
        .filter_map(|id| Some((id, site.labels(id)?)))
        .filter(|(_, labels)| with_devices || labels.kind != "gpu")
        .collect();
    for (metric, about) in Catalogue::builtin().iter() {
        let values: Vec<_> = labelled
            .iter()
            .map(|(id, labels)| {
                let value = if labels.kind == "grid" {
                    snapshot.latest.get(*id).and_then(|f| f.get(metric)).into()
                } else {
                    snapshot.figure(id, metric)
                };
                (*id, labels, value)
            })
            .filter(|(_, _, value)| value.value.is_some())
            .collect();
        if values.is_empty() {
            continue;
        }
        let is_counter = about.kind != MetricKind::Gauge;
        let mut family = Family::new(out, &about.name, &about.description, is_counter);
        for (id, labels, value) in values {
            let all = [
                ("device", id.as_str()),
                ("kind", labels.kind),
                ("rack", labels.rack.as_str()),
                ("node", labels.node.as_str()),
            ];
            let set: Vec<_> = all.into_iter().filter(|(_, v)| !v.is_empty()).collect();
            family.figure(&set, value);
        }
    }
}

fn totals(out: &mut String, snapshot: &Snapshot) {
    let parts = snapshot.parts;
    let mut family = Family::new(
        out,
        "site_power_watts",
        "Power of the site by part; estimates included, absent while readings of it are missing",
        false,
    );
    for (part, figure) in [
        ("total", parts.total),
        ("gpu", parts.gpu),
        ("other_it", parts.other_it),
        ("cooling_and_losses", parts.cooling),
        ("unknown", parts.unassigned),
    ] {
        family.figure(&[("part", part)], figure);
    }
    let mut family = Family::new(
        out,
        "power_node_power_watts",
        "Power below a power node; estimates included, absent while readings of it are missing",
        false,
    );
    for bar in snapshot.upper.iter().chain(&snapshot.racks) {
        family.figure(&[("power_node", &bar.id)], bar.power);
    }
    let mut family = Family::new(
        out,
        "power_node_limit_watts",
        "Limit of a power node in force, grid events included",
        false,
    );
    for bar in snapshot.upper.iter().chain(&snapshot.racks) {
        family.sample(&[("power_node", &bar.id)], bar.limit.0);
    }
    let contracts = &snapshot.view.contracts;
    if !contracts.is_empty() {
        let help = "Caps decided for the members of a power contract, and what no cap controls; while control only observes, nobody has set these caps";
        let mut family = Family::new(out, "power_contract_load_watts", help, false);
        for contract in contracts.iter() {
            let most = contract.capped + contract.uncontrolled;
            family.sample(&[("contract", &contract.id)], most.0);
        }
        let help = "Limit of a power contract in force, the margin taken off";
        let mut family = Family::new(out, "power_contract_limit_watts", help, false);
        for contract in contracts.iter() {
            family.sample(&[("contract", &contract.id)], contract.limit.0);
        }
    }
    let mut family = Family::new(
        out,
        "interim_pue_ratio",
        "Power usage effectiveness of a window, ratio of energies",
        false,
    );
    family.figure(&[("window", "1h")], snapshot.pue_hour.value);
    family.figure(&[("window", "24h")], snapshot.pue_day.value);
    let mut family = Family::new(out, "jobs", "Jobs by state", false);
    for state in [JobState::Queued, JobState::Running, JobState::Paused] {
        let (_, word) = crate::text::job_state(state);
        family.sample(&[("state", word)], snapshot.jobs_in(state) as f64);
    }
}

fn control(out: &mut String, snapshot: &Snapshot) {
    let view = &snapshot.view;
    let armed = f64::from(u8::from(view.mode == ControlMode::Armed));
    for (name, help, is_counter, value) in [
        (
            "control_armed",
            "1 while control sends caps, 0 while it only observes",
            false,
            armed,
        ),
        (
            "control_certificate_max_gap_ratio",
            "Largest gap of any certificate so far",
            false,
            view.max_gap,
        ),
        (
            "control_allocations_total",
            "Allocations made",
            true,
            view.allocations as f64,
        ),
        (
            "control_energy_price",
            "Price of energy in use, work per hour and watt",
            false,
            view.price_of_energy,
        ),
        (
            "control_grid_events",
            "Grid events running or to come",
            false,
            view.grid_events.len() as f64,
        ),
        (
            "site_time_seconds",
            "Time of the site's clock since 1970",
            false,
            snapshot.at.seconds(),
        ),
    ] {
        Family::new(out, name, help, is_counter).sample(&[], value);
    }
    if let Some(certificate) = &view.allocation {
        Family::new(
            out,
            "control_certificate_gap_ratio",
            "Gap of the allocation in force",
            false,
        )
        .sample(&[], certificate.gap);
    }
}
