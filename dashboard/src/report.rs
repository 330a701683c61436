//! The report of a period: energy, PUE, REF and carbon, each with the shares of
//! it that are measured, estimated and missing.
//!
//! Where nothing is known a value is null with a missing share of 1, never 0.
//! The formulas are those of [`heliostat_models::indicators`].

mod energy;
mod render;

use energy::{Books, Loader};
use heliostat_models::indicators::{
    Carbon, Coverage, Energy, MeterErrors, Pue, PueCategory, RatioSums, Shares, cue,
    renewable_factor,
};
use heliostat_models::site::MeterRole;
use heliostat_models::{Site, Timestamp, Watts};
use heliostat_store::{StoreError, TimeSeriesStore};
use serde::Serialize;
use std::time::Duration;

/// What the report assumes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReportOptions {
    /// Longest time between power readings over which power is integrated;
    /// `None`: five sample periods of the site, at least five minutes.
    pub max_gap: Option<Duration>,
    /// How long a carbon intensity holds at most: the resolution of the grid's record.
    pub hold: Duration,
    /// Largest relative error of the meters, e.g. 0.01 for accuracy class 1; 0: not stated.
    pub meter_error: f64,
}

impl Default for ReportOptions {
    fn default() -> Self {
        Self {
            max_gap: None,
            hold: Duration::from_secs(3_600),
            meter_error: 0.0,
        }
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportValue {
    /// Stable name.
    #[serde(skip)]
    pub key: &'static str,
    /// Name for people.
    pub label: String,
    /// The figure; none when nothing is known.
    pub value: Option<f64>,
    /// Its unit; `1` for ratios.
    pub unit: &'static str,
    /// How it is computed.
    pub formula: &'static str,
    /// Share of the time that was measured.
    pub measured_share: f64,
    /// Share of the time that was estimated.
    pub estimated_share: f64,
    /// Share of the time of which nothing is known.
    pub missing_share: f64,
    /// What a reader must know.
    pub note: String,
}

/// The report.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Name of the site.
    pub site: String,
    /// Begin, inclusive.
    pub from: Timestamp,
    /// End, exclusive.
    pub to: Timestamp,
    /// The figures, in the order of the pages.
    pub values: Vec<ReportValue>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The period is empty.
    #[error("the period from {from} to {to} is empty; `from` must be before `to`")]
    EmptyPeriod {
        /// Begin.
        from: Timestamp,
        /// End.
        to: Timestamp,
    },
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Report {
    /// Whether nothing at all could be computed.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|v| v.value.is_none())
    }

    /// A figure by its key.
    pub fn get(&self, key: &str) -> Option<&ReportValue> {
        self.values.iter().find(|v| v.key == key)
    }
}

/// Computes the report of a site over `[from, to)` from what the store holds.
pub async fn report(
    site: &Site,
    store: &dyn TimeSeriesStore,
    from: Timestamp,
    to: Timestamp,
    options: ReportOptions,
) -> Result<Report, ReportError> {
    if from >= to {
        return Err(ReportError::EmptyPeriod { from, to });
    }
    let max_gap = options
        .max_gap
        .unwrap_or_else(|| (site.control.sample_every * 5).max(Duration::from_secs(300)));
    let loader = Loader {
        site,
        store,
        max_gap,
        hold: options.hold,
    };
    let books = loader.books(from, to).await?;
    let mut values = Vec::new();
    push_energy(&mut values, site, &books, max_gap);
    push_ratios(&mut values, site, &books, &options);
    push_carbon(&mut values, site, &books);
    Ok(Report {
        site: site.id.to_string(),
        from,
        to,
        values,
    })
}

/// A figure from its shares; without a value everything is missing.
fn figure(
    key: &'static str,
    label: impl Into<String>,
    value: Option<f64>,
    unit: &'static str,
    formula: &'static str,
    shares: Shares,
) -> ReportValue {
    let value = value.filter(|v| v.is_finite());
    let shares = if value.is_some() {
        shares
    } else {
        Shares::NONE
    };
    ReportValue {
        key,
        label: label.into(),
        value,
        unit,
        formula,
        measured_share: shares.measured,
        estimated_share: shares.estimated,
        missing_share: shares.missing,
        note: String::new(),
    }
}

impl ReportValue {
    fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// Key, label and formula of each role that is reported.
const ROLES: [(MeterRole, &str, &str, &str); 6] = [
    (
        MeterRole::DataCentre,
        "energy_data_centre",
        "Energy of the data centre (EDC)",
        "sum of the data_centre meters",
    ),
    (
        MeterRole::It,
        "energy_it",
        "Energy of the IT equipment (EIT)",
        "sum of the it meters",
    ),
    (
        MeterRole::Cooling,
        "energy_cooling",
        "Energy of the cooling plant",
        "sum of the cooling meters",
    ),
    (
        MeterRole::OnSiteRenewable,
        "energy_on_site_renewable",
        "On-site renewable generation (ERES-OS)",
        "sum of the on_site_renewable meters",
    ),
    (
        MeterRole::BackUp,
        "energy_back_up",
        "Energy from back-up generators (EDC-BG)",
        "sum of the back_up meters",
    ),
    (
        MeterRole::ReusedHeat,
        "energy_reused_heat",
        "Heat re-used outside (EREUSE)",
        "sum of the reused_heat meters",
    ),
];

fn push_energy(values: &mut Vec<ReportValue>, site: &Site, books: &Books, max_gap: Duration) {
    let kilowatt_hours = |e: &Energy| e.known().map(|j| j.kilowatt_hours());
    for (role, key, label, formula) in ROLES {
        let count = site.meters.iter().filter(|m| m.role == role).count();
        let always = matches!(
            role,
            MeterRole::DataCentre | MeterRole::It | MeterRole::Cooling
        );
        if count == 0 && !always {
            continue;
        }
        let energy = books.energy(role);
        let note = match (count, kilowatt_hours(&energy)) {
            (0, _) => "the site file names no meter of this role".to_owned(),
            (_, None) => "no usable reading in this period".to_owned(),
            _ => energy_note(&energy, max_gap, books.condensed),
        };
        let shares = energy.coverage.shares();
        values.push(figure(key, label, kilowatt_hours(&energy), "kWh", formula, shares).note(note));
    }
    values.push(
        figure(
            "energy_gpu",
            format!("Energy of {} accelerators", site.devices.len()),
            kilowatt_hours(&books.gpu),
            "kWh",
            "sum over the accelerators' energy registers",
            books.gpu.coverage.shares(),
        )
        .note(match books.gpu.known() {
            None => "no usable reading in this period".to_owned(),
            Some(_) => energy_note(&books.gpu, max_gap, books.condensed),
        }),
    );
    let edc = books.energy(MeterRole::DataCentre);
    let eit = books.energy(MeterRole::It);
    let cooling = books.energy(MeterRole::Cooling);
    values.push(difference(
        "energy_it_other",
        "Energy of IT besides the accelerators",
        "EIT - accelerators",
        &[&eit, &books.gpu],
    ));
    values.push(difference(
        "energy_other",
        "Other energy: power losses, lighting",
        "EDC - EIT - cooling",
        &[&edc, &eit, &cooling],
    ));
}

fn energy_note(energy: &Energy, max_gap: Duration, condensed: Option<Duration>) -> String {
    let mut notes = Vec::new();
    if let Some(width) = condensed {
        notes.push(format!(
            "for part of the period the readings are no longer kept: there it is summed from rollups of {} min, within one reading at each end",
            width.as_secs() / 60
        ));
    }
    if energy.coverage.estimated_seconds > 0.0 {
        notes.push(format!(
            "the estimated part is power integrated over gaps of at most {} s, or comes from estimated readings",
            max_gap.as_secs()
        ));
    }
    if energy.coverage.unknown_seconds > 0.0 {
        notes.push("a lower bound: the missing part of the time is not filled in".to_owned());
    }
    notes.join("; ")
}

/// Most that the missing shares of sums may differ for their difference to mean something.
const SAME_COVERAGE: f64 = 0.01;

/// The first less the others.
fn difference(
    key: &'static str,
    label: &'static str,
    formula: &'static str,
    of: &[&Energy],
) -> ReportValue {
    let shares: Vec<Shares> = of.iter().map(|e| e.coverage.shares()).collect();
    let least = |f: fn(&Shares) -> f64| shares.iter().map(f).fold(1.0, f64::min);
    let most = |f: fn(&Shares) -> f64| shares.iter().map(f).fold(0.0, f64::max);
    let missing = most(|s| s.missing);
    let measured = least(|s| s.measured).min(1.0 - missing);
    let all = Shares {
        measured,
        estimated: 1.0 - missing - measured,
        missing,
    };
    let known: Option<Vec<f64>> = of
        .iter()
        .map(|e| e.known().map(|j| j.kilowatt_hours()))
        .collect();
    let apart = missing - least(|s| s.missing) > SAME_COVERAGE;
    let value = known
        .filter(|_| !apart)
        .map(|k| k[0] - k[1..].iter().sum::<f64>());
    let note = match (value, apart) {
        (Some(v), _) if v < 0.0 => "negative: the meters contradict each other",
        (Some(_), _) => "",
        (None, true) => "not given: its parts are known for different times",
        (None, false) => "not given: a part of it is not known",
    };
    figure(key, label, value, "kWh", formula, all).note(note)
}

fn push_ratios(values: &mut Vec<ReportValue>, site: &Site, books: &Books, options: &ReportOptions) {
    let category = (site.meters.iter())
        .filter(|m| m.role == MeterRole::It)
        .filter_map(|m| m.pue_category.and_then(PueCategory::from_number))
        .min();
    let roots: Watts = (site.power.nodes().iter())
        .filter(|n| n.parents.is_empty())
        .map(|n| n.limit)
        .sum();
    let limit = (roots.0 > 0.0).then_some(roots);
    let errors = MeterErrors {
        relative: options.meter_error,
        max_data_centre: limit,
        max_it: limit,
    };
    let pue = Pue::new(&books.pue, category, &errors);
    let mut note = vec![match category {
        Some(category) => format!("category {}", category.number()),
        None => "category not stated".to_owned(),
    }];
    if pue.label == "iPUE" {
        note.push("interim: the period is shorter than twelve months".to_owned());
    }
    note.push("ratio of sums over the time in which both are known".to_owned());
    if let (Some(low), Some(high)) = (pue.low, pue.high) {
        note.push(format!(
            "the true value lies between {low:.3} and {high:.3}, given the missing time at most at the feeds' limit{}",
            if options.meter_error > 0.0 { " and the meters' class" } else { "; the meters' own error is not stated" }
        ));
    }
    values.push(
        figure(
            "pue",
            pue.label,
            pue.value,
            "1",
            "EDC / EIT (EN 50600-4-2)",
            pue.shares,
        )
        .note(note.join("; ")),
    );
    for (key, label, bound) in [
        ("pue_low", "lowest", pue.low),
        ("pue_high", "highest", pue.high),
    ] {
        values.push(figure(
            key,
            format!("{}, {label} possible", pue.label),
            bound,
            "1",
            "bound from missing time and meter class",
            pue.shares,
        ));
    }

    // Guarantees and power purchase agreements state shares of the consumption.
    let contracts: Vec<_> = (site.contracts.iter())
        .filter(|c| {
            matches!(c.kind.as_str(), "ppa" | "guarantee-of-origin") && c.renewable_share > 0.0
        })
        .collect();
    let contracted =
        (!contracts.is_empty()).then(|| contracts.iter().map(|c| c.renewable_share).sum::<f64>());
    let has_edc = books.energy(MeterRole::DataCentre).known().is_some();
    let on_site = books.on_site.as_ref().and_then(RatioSums::ratio);
    let renewable = renewable_factor(on_site, contracted).filter(|_| has_edc);
    let mut shares = match &books.on_site {
        Some(sums) => sums.coverage.shares(),
        None => books.energy(MeterRole::DataCentre).coverage.shares(),
    };
    if contracted.is_some() {
        // What a contract states is no measurement.
        shares.estimated += shares.measured;
        shares.measured = 0.0;
    }
    let note = match (books.on_site.is_some(), contracted) {
        (_, Some(_)) => format!(
            "contract shares as the site file states them ({}); whether the guarantees are retired is not checked",
            contracts
                .iter()
                .map(|c| c.id.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ),
        (true, None) => "on-site generation alone; no contract states a renewable share".to_owned(),
        (false, None) => {
            "not known: no meter of on-site generation and no contract with a renewable share"
                .to_owned()
        }
    };
    values.push(
        figure(
            "ref",
            "Renewable energy factor (REF)",
            renewable,
            "1",
            "(ERES-OS + ERES-PPA + ERES-GOO) / EDC (EN 50600-4-3)",
            shares,
        )
        .note(note),
    );
    if let Some(reused) = &books.reused {
        values.push(figure(
            "erf",
            "Energy reuse factor (ERF)",
            reused.ratio(),
            "1",
            "EREUSE / EDC (EN 50600-4-6)",
            reused.coverage.shares(),
        ));
    }
}

fn push_carbon(values: &mut Vec<ReportValue>, site: &Site, books: &Books) {
    let zone = &site.zone;
    let kilograms = |c: &Carbon| c.grams().map(|g| g / 1_000.0);
    let shares = |c: &Carbon| c.coverage.shares();
    let partial = |c: &Carbon| {
        if c.coverage.unknown_seconds > 0.0 && c.grams().is_some() {
            "; a lower bound: the missing part of the time is not filled in"
        } else {
            ""
        }
    };
    values.push(
        figure(
            "carbon_location_based_direct",
            "Carbon, location-based, direct (Scope 2)",
            kilograms(&books.direct),
            "kgCO2e",
            "sum over time of EDC x direct intensity of the grid zone (GHG Protocol Scope 2)",
            shares(&books.direct),
        )
        .note(format!(
            "generation-stage emissions of zone {zone}; imports not traced{}",
            partial(&books.direct)
        )),
    );
    values.push(
        figure(
            "carbon_location_based_life_cycle",
            "Carbon, location-based, life-cycle",
            kilograms(&books.life_cycle),
            "kgCO2e",
            "sum over time of EDC x life-cycle intensity of the grid zone",
            shares(&books.life_cycle),
        )
        .note(format!(
            "with upstream emissions (Scope 3, category 3) of zone {zone}; not for Scope 2{}",
            partial(&books.life_cycle)
        )),
    );
    let mut coverage: Coverage = books.direct.coverage;
    coverage.unknown_seconds = coverage
        .unknown_seconds
        .max(books.pue.coverage.unknown_seconds);
    values.push(
        figure(
            "cue",
            "Carbon usage effectiveness (CUE)",
            cue(&books.direct, books.direct.energy, &books.pue),
            "kgCO2e/kWh",
            "carbon per EIT (EN 50600-4-8)",
            coverage.shares(),
        )
        .note("direct emissions; carbon per kWh of EDC times PUE"),
    );
}

#[cfg(test)]
mod tests;
