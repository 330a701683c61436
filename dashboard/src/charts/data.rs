//! What each chart shows: its lines, from the store, the site and the plan.

use super::Size;
use super::ink::Ink;
use super::series::{self, Sum};
use crate::format;
use crate::params::ApiError;
use crate::server::Shared;
use heliostat_models::site::MeterRole;
use heliostat_models::{BudgetSlot, Catalogue, DeviceId, Quality, Timestamp};
use heliostat_store::query::Point;

/// A chart of lines over time.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    /// As the catalogue has it.
    pub(super) unit: String,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) now: Timestamp,
    pub(super) lines: Vec<Line>,
    /// Whether the axis begins at zero.
    pub(super) from_zero: bool,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) label: String,
    pub(super) ink: Ink,
    pub(super) points: Vec<Point>,
    /// Each value holds until the next.
    pub(super) is_step: bool,
    /// From the site file as it is today, not from what was recorded.
    pub(super) is_configured: bool,
}

impl Line {
    fn new(label: &str, ink: Ink, points: Vec<Point>) -> Self {
        Self {
            label: label.to_owned(),
            ink,
            points,
            is_step: false,
            is_configured: false,
        }
    }
    fn step(label: &str, ink: Ink, points: Vec<Point>) -> Self {
        Self {
            is_step: true,
            ..Self::new(label, ink, points)
        }
    }
}

impl Chart {
    /// The chart in words, for those who cannot see it.
    pub(super) fn description(&self) -> String {
        let unit = format::unit_label(&self.unit);
        let mut words = format!(
            "{} to {}.",
            format::day_clock(self.from),
            format::day_clock(self.to)
        );
        for line in &self.lines {
            let values = || line.points.iter().filter_map(|p| p.value);
            let text = match (values().reduce(f64::min), values().reduce(f64::max)) {
                (Some(low), Some(high)) => format!(
                    " {}: from {} to {}.",
                    line.label,
                    format::in_unit(low, &self.unit),
                    format::in_unit(high, &self.unit)
                ),
                _ => format!(" {}: no readings ({unit}).", line.label),
            };
            words.push_str(&text);
        }
        words
    }
}

/// What every chart is asked with.
#[derive(Clone, Copy)]
struct Ask<'a> {
    shared: &'a Shared,
    from: Timestamp,
    to: Timestamp,
    pixels: u32,
}

impl Ask<'_> {
    async fn one(&self, metric: &str, device: &DeviceId) -> Result<Vec<Point>, ApiError> {
        series::one(self.shared, metric, device, self.from, self.to, self.pixels).await
    }
    async fn sum(&self, metric: &str, devices: &[DeviceId]) -> Result<Sum, ApiError> {
        series::sum(
            self.shared,
            metric,
            devices,
            self.from,
            self.to,
            self.pixels,
        )
        .await
    }
    /// A sum as a line, which says where it is not of all devices.
    async fn sum_line(
        &self,
        label: &str,
        ink: Ink,
        metric: &str,
        devices: &[DeviceId],
    ) -> Result<Line, ApiError> {
        let sum = self.sum(metric, devices).await?;
        let label = match sum.coverage() {
            None => label.to_owned(),
            Some(of) => format!("{label} (in part: at least {} of {})", of.known, of.all),
        };
        Ok(Line::new(&label, ink, sum.points))
    }
    fn meters(&self, role: MeterRole) -> Vec<DeviceId> {
        let meters = self.shared.app.site.meters.iter();
        meters
            .filter(|m| m.role == role)
            .map(|m| m.id.clone())
            .collect()
    }
    fn nodes(&self) -> Vec<DeviceId> {
        let nodes = self.shared.app.site.nodes.iter();
        nodes.map(|n| DeviceId::from(n.id.as_str())).collect()
    }
    /// The power of all meters of a role; empty where there is none.
    async fn metered(&self, role: MeterRole) -> Result<Vec<Point>, ApiError> {
        let ids = self.meters(role);
        match ids.as_slice() {
            [] => Ok(Vec::new()),
            [only] => self.one("meter_power_watts", only).await,
            _ => Ok(self.sum("meter_power_watts", &ids).await?.whole()),
        }
    }
    fn chart(&self, title: impl Into<String>, unit: &str, lines: Vec<Line>) -> Chart {
        Chart {
            title: title.into(),
            unit: unit.to_owned(),
            from: self.from,
            to: self.to,
            now: self.shared.now().at,
            lines,
            from_zero: true,
        }
    }
}

/// The limit that the site file sets today, over the stretches in which one of
/// `lines` has readings: of other times the site's own record does not know it.
/// `events` are limits that held from one instant to another.
fn configured_limit(
    lines: &[Line],
    limit: f64,
    events: &[(Timestamp, Timestamp, f64)],
) -> Option<Line> {
    let mut stretches: Vec<(Timestamp, Timestamp)> = lines
        .iter()
        .flat_map(|line| series::stretches(&line.points))
        .filter_map(|stretch| Some((stretch.first()?.at, stretch.last()?.at)))
        .collect();
    stretches.sort_unstable();
    let mut whole: Vec<(Timestamp, Timestamp)> = Vec::new();
    for (from, to) in stretches {
        match whole.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => whole.push((from, to)),
        }
    }
    let limit_at = |at: Timestamp| {
        let running = events
            .iter()
            .filter(|(from, to, _)| *from <= at && at < *to);
        running.fold(limit, |least, event| least.min(event.2))
    };
    let mut points = Vec::new();
    for (from, to) in whole {
        let mut instants = vec![from, to];
        instants.extend(events.iter().flat_map(|e| [e.0, e.1]));
        instants.retain(|at| from <= *at && *at <= to);
        instants.sort_unstable();
        instants.dedup();
        points.extend(instants.into_iter().map(|at| Point {
            at,
            value: Some(limit_at(at)),
            quality: Quality::Measured,
        }));
        points.push(Point {
            at: to,
            value: None,
            quality: Quality::Missing,
        });
    }
    let label = match events {
        [] => "limit as configured today",
        _ => "limit as configured today, grid events taken off",
    };
    (!points.is_empty()).then(|| Line {
        is_configured: true,
        ..Line::step(label, Ink::Limit, points)
    })
}

pub(super) async fn chart(
    shared: &Shared,
    name: &str,
    from: Timestamp,
    to: Timestamp,
    size: Size,
) -> Result<Chart, ApiError> {
    let ask = Ask {
        shared,
        from,
        to,
        pixels: size.width.saturating_sub(80).max(100),
    };
    match name {
        "site-power" => return site_power(ask).await,
        "pue" => return pue(ask).await,
        "carbon" => {
            return grid(ask, Catalogue::grid_carbon(), |s| s.carbon.map(|c| c.0)).await;
        }
        "renewable" => return grid(ask, Catalogue::grid_renewable(), |s| s.renewable).await,
        "price" => return grid(ask, Catalogue::grid_price(), |s| s.price.map(|p| p.0)).await,
        "cooling" => return cooling(ask).await,
        "plan" => return Ok(plan(ask)),
        _ => {}
    }
    if let Some(id) = name.strip_prefix("rack-") {
        return rack(ask, id).await;
    }
    if let Some(id) = name.strip_prefix("node-") {
        return node(ask, id).await;
    }
    if let Some((id, what)) = name.strip_prefix("gpu-").and_then(|r| r.rsplit_once('-')) {
        return gpu(ask, id, what).await;
    }
    Err(ApiError::unknown(
        "chart",
        name,
        "take a name from the list at /charts",
    ))
}

async fn site_power(ask: Ask<'_>) -> Result<Chart, ApiError> {
    let site = &ask.shared.app.site;
    let total = ask.metered(MeterRole::DataCentre).await?;
    let it = match ask.metered(MeterRole::It).await? {
        points if !points.is_empty() => Line::new("IT", Ink::Second, points),
        _ => {
            ask.sum_line("IT", Ink::Second, "node_power_watts", &ask.nodes())
                .await?
        }
    };
    let gpus: Vec<DeviceId> = site.devices.iter().map(|d| d.id.clone()).collect();
    let gpu = ask
        .sum_line("GPUs", Ink::Third, "gpu_power_watts", &gpus)
        .await?;
    let (_, configured) = ask.shared.now().site_limits();
    let mut lines = vec![Line::new("site", Ink::First, total), it, gpu];
    lines.retain(|l| !l.points.is_empty());
    let snapshot = ask.shared.now();
    // The limit that an event set is known only while it is in force.
    let events: Vec<(Timestamp, Timestamp, f64)> = (snapshot.view.grid_events.iter())
        .filter(|event| event.from < ask.to && event.to > ask.from)
        .filter_map(|event| Some((event.from, event.to, event_limit(ask.shared, event)?)))
        .collect();
    lines.extend(configured_limit(&lines, configured, &events));
    Ok(ask.chart("Power of the site", "W", lines))
}

fn event_limit(shared: &Shared, event: &heliostat_optimizer::grid_event::GridEvent) -> Option<f64> {
    use heliostat_optimizer::grid_event::Ask as Asked;
    match event.ask {
        Asked::Limit(watts) => Some(watts.0),
        Asked::ReduceBy(_) => {
            let snapshot = shared.now();
            let is_now = event.from <= snapshot.at && snapshot.at < event.to;
            is_now.then(|| snapshot.site_limits().0)
        }
    }
}

async fn pue(ask: Ask<'_>) -> Result<Chart, ApiError> {
    // Both sums stand on the same steps, so that a ratio compares the same minutes.
    let whole = ask.meters(MeterRole::DataCentre);
    // A part of the IT below the whole site would be no PUE at all.
    let total = ask.sum("meter_power_watts", &whole).await?.whole();
    let it = match ask.meters(MeterRole::It).as_slice() {
        [] => ask.sum("node_power_watts", &ask.nodes()).await?,
        meters => ask.sum("meter_power_watts", meters).await?,
    }
    .whole();
    let ratio = total
        .iter()
        .filter_map(|t| {
            let at = it.binary_search_by_key(&t.at, |p| p.at).ok()?;
            let (a, b) = (t.value, it[at].value);
            let value = a.zip(b).filter(|(_, b)| *b > 0.0).map(|(a, b)| a / b);
            let quality = match value {
                Some(_) => t.quality.max(it[at].quality),
                None => Quality::Missing,
            };
            Some(Point {
                at: t.at,
                value,
                quality,
            })
        })
        .collect();
    let lines = vec![Line::new("site power by IT power", Ink::First, ratio)];
    let mut chart = ask.chart("Power usage effectiveness", "ratio", lines);
    chart.from_zero = false;
    Ok(chart)
}

/// A figure of the grid zone: recorded, then as the plan's forecast has it.
async fn grid(
    ask: Ask<'_>,
    metric: heliostat_models::MetricId,
    forecast: impl Fn(&BudgetSlot) -> Option<f64>,
) -> Result<Chart, ApiError> {
    let about = Catalogue::builtin().metric(metric);
    let zone = ask.shared.app.site.grid_device();
    let recorded = ask.one(&about.name, &zone).await?;
    let snapshot = ask.shared.now();
    let begin = recorded.last().map_or(ask.from, |p| p.at);
    let slots = snapshot.view.plan.iter().flat_map(|p| &p.slots);
    let ahead: Vec<Point> = slots
        .filter(|s| s.start > begin && s.start < ask.to)
        .filter_map(|s| {
            Some(Point {
                at: s.start,
                value: Some(forecast(s)?),
                quality: Quality::Estimated,
            })
        })
        .collect();
    let mut lines = vec![Line::step("recorded", Ink::First, recorded)];
    if !ahead.is_empty() {
        lines.push(Line::step("forecast", Ink::Second, ahead));
    }
    let title = format!("{}, zone {}", about.label, ask.shared.app.site.zone);
    Ok(ask.chart(title, &about.unit, lines))
}

async fn cooling(ask: Ask<'_>) -> Result<Chart, ApiError> {
    let plant = &ask.shared.app.site.cooling.id;
    let mut lines = Vec::new();
    for (label, ink, metric) in [
        ("outdoor", Ink::Third, "outdoor_temperature_celsius"),
        ("supply", Ink::Second, "cooling_supply_celsius"),
        ("return", Ink::First, "cooling_return_celsius"),
    ] {
        lines.push(Line::new(label, ink, ask.one(metric, plant).await?));
    }
    let mut chart = ask.chart("Cooling", "°C", lines);
    chart.from_zero = false;
    Ok(chart)
}

fn plan(ask: Ask<'_>) -> Chart {
    let snapshot = ask.shared.now();
    let slots = || {
        let all = snapshot.view.plan.iter().flat_map(|p| &p.slots);
        all.filter(|s| s.end > ask.from && s.start < ask.to)
    };
    let points = |value: fn(&BudgetSlot) -> f64| {
        slots()
            .map(|s| Point {
                at: s.start.max(ask.from),
                value: Some(value(s)),
                quality: s.quality,
            })
            .collect::<Vec<_>>()
    };
    let lines = vec![
        Line::step("planned", Ink::First, points(|s| s.planned.0)),
        Line::step("may be drawn", Ink::Limit, points(|s| s.power.0)),
    ];
    ask.chart("Plan", "W", lines)
}

async fn rack(ask: Ask<'_>, id: &str) -> Result<Chart, ApiError> {
    let site = &ask.shared.app.site;
    let Some((index, rack)) = site.racks.iter().enumerate().find(|(_, r)| r.id == id) else {
        return Err(ApiError::unknown(
            "rack",
            id,
            "see /api/v1/site for the racks",
        ));
    };
    let nodes: Vec<_> = site.nodes.iter().filter(|n| n.rack == index).collect();
    let names: Vec<DeviceId> = nodes
        .iter()
        .map(|n| DeviceId::from(n.id.as_str()))
        .collect();
    let gpus: Vec<DeviceId> = nodes
        .iter()
        .flat_map(|n| &site.devices[n.devices.clone()])
        .map(|d| d.id.clone())
        .collect();
    let limit = site.power.nodes()[rack.power_node].limit.0;
    let mut lines = vec![
        ask.sum_line("nodes", Ink::First, "node_power_watts", &names)
            .await?,
        ask.sum_line("GPUs", Ink::Third, "gpu_power_watts", &gpus)
            .await?,
    ];
    lines.extend(configured_limit(&lines, limit, &[]));
    Ok(ask.chart(format!("Power of rack {id}"), "W", lines))
}

async fn node(ask: Ask<'_>, id: &str) -> Result<Chart, ApiError> {
    let site = &ask.shared.app.site;
    let Some((_, node)) = site.node(id) else {
        return Err(ApiError::unknown(
            "node",
            id,
            "see /api/v1/site for the nodes",
        ));
    };
    let gpus: Vec<DeviceId> = site.devices[node.devices.clone()]
        .iter()
        .map(|d| d.id.clone())
        .collect();
    let own = ask
        .one("node_power_watts", &DeviceId::from(node.id.as_str()))
        .await?;
    let limit = site.power.nodes()[node.power_node].limit.0;
    let mut lines = vec![
        Line::new("node", Ink::First, own),
        ask.sum_line("GPUs", Ink::Third, "gpu_power_watts", &gpus)
            .await?,
    ];
    lines.extend(configured_limit(&lines, limit, &[]));
    Ok(ask.chart(format!("Power of node {id}"), "W", lines))
}

async fn gpu(ask: Ask<'_>, id: &str, what: &str) -> Result<Chart, ApiError> {
    let id = DeviceId::from(id);
    if ask.shared.app.site.device(&id).is_none() {
        return Err(ApiError::unknown(
            "GPU",
            id.as_str(),
            "see /api/v1/site for the names",
        ));
    }
    type Shown = &'static [(&'static str, Ink, &'static str)];
    let (title, unit, shown): (&str, &str, Shown) = match what {
        "power" => (
            "Power",
            "W",
            &[
                ("power", Ink::First, "gpu_power_watts"),
                ("limit in force", Ink::Limit, "gpu_power_limit_watts"),
            ],
        ),
        "temperature" => (
            "Temperature",
            "°C",
            &[("die", Ink::First, "gpu_temperature_celsius")],
        ),
        "utilization" => (
            "Utilisation",
            "1",
            &[
                ("kernels", Ink::First, "gpu_utilization_ratio"),
                ("memory", Ink::Third, "gpu_memory_utilization_ratio"),
            ],
        ),
        "clock" => (
            "Clocks",
            "Hz",
            &[
                ("SM", Ink::First, "gpu_sm_clock_hertz"),
                ("memory", Ink::Third, "gpu_memory_clock_hertz"),
            ],
        ),
        _ => {
            return Err(ApiError::unknown(
                "chart of a GPU",
                what,
                "take one of power, temperature, utilization, clock",
            ));
        }
    };
    let mut lines = Vec::new();
    for (label, ink, metric) in shown {
        let points = ask.one(metric, &id).await?;
        lines.push(if *ink == Ink::Limit {
            Line::step(label, *ink, points)
        } else {
            Line::new(label, *ink, points)
        });
    }
    Ok(ask.chart(format!("{title} of {id}"), unit, lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[(i64, Option<f64>)]) -> Line {
        let points = points.iter().map(|(at, value)| Point {
            at: Timestamp(*at),
            value: *value,
            quality: Quality::Measured,
        });
        Line::new("power", Ink::First, points.collect())
    }

    fn limits(line: &Line) -> Vec<(i64, Option<f64>)> {
        line.points.iter().map(|p| (p.at.0, p.value)).collect()
    }

    #[test]
    fn a_configured_limit_is_drawn_only_where_there_are_readings() {
        let power = line(&[
            (0, Some(1.0)),
            (10, Some(1.0)),
            (20, Some(1.0)),
            (30, None),
            (500, Some(1.0)),
            (510, Some(1.0)),
        ]);
        let limit = configured_limit(
            &[power.clone(), line(&[(15, Some(1.0)), (25, Some(1.0))])],
            9.0,
            &[],
        );
        let limit = limit.unwrap();
        assert!(limit.is_configured && limit.label.contains("configured today"));
        let expected = [
            (0, Some(9.0)),
            (25, Some(9.0)),
            (25, None),
            (500, Some(9.0)),
            (510, Some(9.0)),
            (510, None),
        ];
        assert_eq!(limits(&limit), expected);
        let event = (Timestamp(10), Timestamp(505), 4.0);
        let lower = configured_limit(&[power], 9.0, &[event]).unwrap();
        let expected = [
            (0, Some(9.0)),
            (10, Some(4.0)),
            (20, Some(4.0)),
            (20, None),
            (500, Some(4.0)),
            (505, Some(9.0)),
            (510, Some(9.0)),
            (510, None),
        ];
        assert_eq!(limits(&lower), expected);
        assert!(configured_limit(&[line(&[])], 9.0, &[]).is_none());
    }
}
