//! Brings the readings of a period together into sums.

use super::ReportError;
use heliostat_models::indicators::{
    Carbon, Energy, EnergyRules, Placed, Profile, RatioSums, carbon,
};
use heliostat_models::site::MeterRole;
use heliostat_models::{Catalogue, DeviceId, MetricId, Quality, Reading, Site, Timestamp, Watts};
use heliostat_store::query::{OverTime, Selector, Series};
use heliostat_store::{Query, TimeSeriesStore};
use std::collections::HashMap;
use std::time::Duration;

/// A long period is worked through in parts of this length, so that memory stays
/// bounded; sums of parts equal the sum of the whole.
const PART: Duration = Duration::from_secs(7 * 86_400);
/// How far beyond a part a register's readings are looked for: gaps up to here
/// are bridged by the register also across the border of two parts.
const REGISTER_REACH: Duration = Duration::from_secs(6 * 3_600);

/// An hour in milliseconds.
const HOUR_MS: i64 = 3_600_000;

/// Sums over a period.
#[derive(Debug, Default)]
pub struct Books {
    roles: HashMap<MeterRole, Energy>,
    /// All accelerators.
    pub gpu: Energy,
    /// EDC over EIT.
    pub pue: RatioSums,
    /// On-site generation over EDC, where metered.
    pub on_site: Option<RatioSums>,
    /// Re-used heat over EDC, where metered.
    pub reused: Option<RatioSums>,
    /// Carbon of EDC with direct intensities.
    pub direct: Carbon,
    /// Carbon of EDC with life-cycle intensities.
    pub life_cycle: Carbon,
    /// Width of the coarsest rollup that stood in for readings no longer kept.
    pub condensed: Option<Duration>,
}

impl Books {
    /// Energy of all meters of a role.
    pub fn energy(&self, role: MeterRole) -> Energy {
        self.roles.get(&role).copied().unwrap_or_default()
    }

    fn told<T>(&mut self, (found, rollup): (T, Option<Duration>)) -> T {
        self.condensed = self.condensed.max(rollup);
        found
    }
}

/// Reads what the sums need.
pub struct Loader<'a> {
    /// Whose report it is.
    pub site: &'a Site,
    /// Where the readings are.
    pub store: &'a dyn TimeSeriesStore,
    /// Longest gap that power is integrated over.
    pub max_gap: Duration,
    /// Longest time that an intensity holds.
    pub hold: Duration,
}

impl Loader<'_> {
    /// The sums over `[from, to)`.
    pub async fn books(&self, from: Timestamp, to: Timestamp) -> Result<Books, ReportError> {
        let mut books = Books::default();
        let mut begin = from;
        while begin < to {
            let end = (begin + PART).min(to);
            self.add_part(&mut books, begin, end).await?;
            begin = end;
        }
        Ok(books)
    }

    async fn add_part(
        &self,
        books: &mut Books,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<(), ReportError> {
        let mut roles: HashMap<MeterRole, Profile> = HashMap::new();
        for meter in &self.site.meters {
            let (register, power) = (Catalogue::meter_energy(), Catalogue::meter_power());
            let found = self.profile(&meter.id, register, power, from, to).await?;
            let profile = books.told(found);
            *books.roles.entry(meter.role).or_default() += profile.energy();
            let together = match roles.get(&meter.role) {
                Some(others) => others.plus(&profile),
                None => profile,
            };
            roles.insert(meter.role, together);
        }
        for device in &self.site.devices {
            let (register, power) = (Catalogue::gpu_energy(), Catalogue::gpu_power());
            let found = self.profile(&device.id, register, power, from, to).await?;
            books.gpu += books.told(found).energy();
        }
        let nothing = || {
            let rules = self.rules(Catalogue::meter_power());
            Profile::new(from, to, &[], &[], &rules)
        };
        let edc = roles.remove(&MeterRole::DataCentre).unwrap_or_else(nothing);
        let eit = roles.remove(&MeterRole::It).unwrap_or_else(nothing);
        books.pue += RatioSums::of(&edc, &eit);
        for (role, sums) in [
            (MeterRole::OnSiteRenewable, &mut books.on_site),
            (MeterRole::ReusedHeat, &mut books.reused),
        ] {
            if let Some(profile) = roles.get(&role) {
                *sums.get_or_insert_default() += RatioSums::of(profile, &edc);
            }
        }
        let grid = self.site.grid_device();
        for (metric, sum) in [
            (Catalogue::grid_carbon_direct(), &mut books.direct),
            (Catalogue::grid_carbon(), &mut books.life_cycle),
        ] {
            let (intensity, rollup) = self.intensity(&grid, metric, from - self.hold, to).await?;
            books.condensed = books.condensed.max(rollup);
            *sum += carbon(&edc, &intensity, self.hold);
        }
        Ok(())
    }

    /// What is believed of a device with this power metric.
    fn rules(&self, power: MetricId) -> EnergyRules {
        EnergyRules {
            max_power: Watts(Catalogue::builtin().metric(power).range.1),
            max_gap: self.max_gap,
            // Drivers of the supported devices count in 64 bits; a fall is a restart.
            register_span: None,
        }
    }

    async fn profile(
        &self,
        device: &DeviceId,
        register: MetricId,
        power: MetricId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<(Profile, Option<Duration>), ReportError> {
        let whole = |profile: &Profile| profile.energy().coverage.unknown_seconds <= 0.0;
        let rules = self.rules(power);
        let (begin, end) = (from - REGISTER_REACH, to + REGISTER_REACH);
        let readings = self.readings(device, register, begin, end).await?;
        let by_register = Profile::new(from, to, &readings, &[], &rules);
        if whole(&by_register) {
            return Ok((by_register, None));
        }
        let reach = self.max_gap;
        let powers = self
            .readings(device, power, from - reach, to + reach)
            .await?;
        let mut profile = Profile::new(from, to, &readings, &powers, &rules);
        let mut rollup = None;
        // What is not kept as readings may be kept as energy; a register before a power.
        for metric in [register, power] {
            if whole(&profile) {
                break;
            }
            let name = &Catalogue::builtin().metric(metric).name;
            let left = self.store.condensed(name, device, begin, end).await?;
            let before = profile.energy();
            profile = profile.filled(&left.stretches, &rules);
            if profile.energy() != before {
                rollup = rollup.max(left.rollup_ms.map(Duration::from_millis));
            }
        }
        Ok((profile, rollup))
    }

    /// The intensity of the grid; where its readings are no longer kept, the
    /// means of hours.
    async fn intensity(
        &self,
        grid: &DeviceId,
        metric: MetricId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<(Vec<Placed>, Option<Duration>), ReportError> {
        let readings = self.readings(grid, metric, from, to).await?;
        if !readings.is_empty() {
            return Ok((readings, None));
        }
        let begin = from.0.div_euclid(HOUR_MS).saturating_mul(HOUR_MS);
        let query = Query::Aggregate {
            metric: Catalogue::builtin().metric(metric).name.clone(),
            select: of(grid),
            from: Timestamp(begin),
            to,
            step_ms: HOUR_MS as u64,
            over_time: OverTime::Avg,
            across: None,
            group_by: Vec::new(),
        };
        let (answer, source) = self.store.query_with_source(&query).await?;
        let rollup = source.rollup_ms.map(Duration::from_millis);
        Ok((placed(answer.series()), rollup))
    }

    async fn readings(
        &self,
        device: &DeviceId,
        metric: MetricId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Placed>, ReportError> {
        let query = Query::Range {
            metric: Catalogue::builtin().metric(metric).name.clone(),
            select: of(device),
            from,
            to,
        };
        let series = self.store.query(&query).await?.series();
        Ok(placed(series))
    }
}

fn of(device: &DeviceId) -> Selector {
    Selector {
        devices: vec![device.clone()],
        labels: Vec::new(),
    }
}

/// Points as readings.
fn placed(series: Vec<Series>) -> Vec<Placed> {
    (series.into_iter())
        .flat_map(|s| s.points)
        .map(|p| {
            let reading = match (p.value, p.quality) {
                (Some(value), Quality::Measured) => Reading::Measured(value),
                (Some(value), Quality::Estimated) => Reading::Estimated(value),
                _ => Reading::Missing,
            };
            (p.at, reading)
        })
        .collect()
}
