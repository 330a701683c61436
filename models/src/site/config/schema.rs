//! What a site's file may say, read section by section. A field is `None`
//! where it is absent or faulty; the fault is noted by then.

use super::partition::PartitionSection;
use super::power_contract::PowerContractSection;
use super::reader::{At, Field, Table};
use super::slot::Slot;
use super::store::StoreSection;
use crate::job::JobClass;
use crate::site::MeterRole;
use crate::site::power::PowerNodeKind;
use crate::site::trip::TripCurve;
use std::ops::RangeInclusive;

/// The whole file.
#[derive(Debug, Default)]
pub(crate) struct SiteFile {
    pub site: Option<SiteSection>,
    pub grid: Option<GridSection>,
    pub power: Vec<PowerSection>,
    pub halls: Vec<HallSection>,
    pub partitions: Vec<PartitionSection>,
    pub meters: Vec<MeterSection>,
    pub cooling: Option<CoolingSection>,
    pub contracts: Vec<ContractSection>,
    pub power_contracts: Vec<PowerContractSection>,
    pub classes: Vec<ClassSection>,
    pub control: Option<ControlSection>,
    pub store: Option<StoreSection>,
}

/// `[site]`
#[derive(Debug)]
pub(crate) struct SiteSection {
    pub id: Field<String>,
    pub name: Field<String>,
    pub country: Field<String>,
    pub place: Field<String>,
    pub latitude: Field<f64>,
    pub longitude: Field<f64>,
    pub languages: Field<Vec<At<String>>>,
    /// Power measured while a benchmark loaded the whole machine.
    pub benchmark_power: Field<f64>,
}

/// `[grid]`
#[derive(Debug)]
pub(crate) struct GridSection {
    pub zone: Field<String>,
    pub eic: Field<String>,
}

/// `[[power]]`, a node above the racks.
#[derive(Debug)]
pub(crate) struct PowerSection {
    pub at: usize,
    /// What stands before the names of its fields in faults, e.g. `power[2].`
    pub prefix: String,
    pub id: Field<String>,
    pub kind: Field<PowerNodeKind>,
    pub feeds: Field<Vec<At<String>>>,
    pub rating: Field<f64>,
    pub limit: Field<f64>,
    pub ramp: RampFields,
    /// Stated: larger than what feeds it, on purpose.
    pub oversized: bool,
    pub trip_curve: Field<TripCurve>,
}

/// `[[hall]]`
#[derive(Debug)]
pub(crate) struct HallSection {
    pub id: Field<String>,
    pub name: Field<String>,
}

/// `[[meter]]`
#[derive(Debug)]
pub(crate) struct MeterSection {
    pub id: Field<String>,
    pub role: Field<MeterRole>,
    pub place: Field<String>,
    pub pue_category: Field<u32>,
}

/// `[cooling]`
#[derive(Debug)]
pub(crate) struct CoolingSection {
    pub id: Field<String>,
    pub kind: Field<&'static str>,
    pub supply: Field<f64>,
    pub design_pue: Field<f64>,
    pub free_cooling_below: Field<f64>,
    pub fed_by: Field<String>,
}

/// `[[contract]]`
#[derive(Debug)]
pub(crate) struct ContractSection {
    pub id: Field<String>,
    pub kind: Field<&'static str>,
    pub renewable_share: Field<f64>,
}

/// `[class.NAME]`
#[derive(Debug)]
pub(crate) struct ClassSection {
    pub class: JobClass,
    pub weight: Field<f64>,
    pub floor_speed: Field<f64>,
    pub interruptible: Field<bool>,
    pub pause_minutes: Field<f64>,
}

/// `[control]`; durations in seconds.
#[derive(Debug)]
pub(crate) struct ControlSection {
    pub armed: Field<bool>,
    pub allocate_every: Field<f64>,
    pub lease: Field<f64>,
    pub plan_every: Field<f64>,
    pub sample_every: Field<f64>,
    pub margin: Field<f64>,
    pub carbon_weight: Field<f64>,
    pub keep_inputs_days: Field<u32>,
    pub keep_jobs_days: Field<u32>,
    pub keep_decisions_days: Field<u32>,
    pub ramp: RampFields,
    pub ramp_window: Field<f64>,
}

/// How fast caps may change, of `[control]` and `[[power]]`; watts a second.
#[derive(Debug)]
pub(crate) struct RampFields {
    pub up: Field<f64>,
    pub down: Field<f64>,
}

const POWER_KINDS: [(&str, PowerNodeKind); 6] = [
    ("utility_feed", PowerNodeKind::UtilityFeed),
    ("transformer", PowerNodeKind::Transformer),
    ("ups", PowerNodeKind::Ups),
    ("busway", PowerNodeKind::Busway),
    ("pdu", PowerNodeKind::Pdu),
    ("breaker", PowerNodeKind::Breaker),
];

const METER_ROLES: [(&str, MeterRole); 7] = [
    ("data_centre", MeterRole::DataCentre),
    ("it", MeterRole::It),
    ("cooling", MeterRole::Cooling),
    ("on_site_renewable", MeterRole::OnSiteRenewable),
    ("back_up", MeterRole::BackUp),
    ("reused_heat", MeterRole::ReusedHeat),
    ("other", MeterRole::Other),
];

const COOLING_KINDS: [(&str, &str); 3] = [
    ("direct-liquid", "direct-liquid"),
    ("rear-door", "rear-door"),
    ("air", "air"),
];

const CONTRACT_KINDS: [(&str, &str); 4] = [
    ("ppa", "ppa"),
    ("guarantee-of-origin", "guarantee-of-origin"),
    ("on-site", "on-site"),
    ("supplier", "supplier"),
];

/// From a tenth of a second to a day.
const SECONDS: RangeInclusive<f64> = 0.1..=86_400.0;
/// From a watt a second, a megawatt in eleven days, to more than any site has.
const RATE: RangeInclusive<f64> = 1.0..=1e9;
/// Control looks once a second: a shorter window would be one that nothing fits in.
const WINDOW: RangeInclusive<f64> = 1.0..=3_600.0;

impl SiteFile {
    /// Reads all sections; faults go to the table's sink.
    pub(crate) fn read(mut root: Table<'_>) -> Self {
        let file = Self {
            site: root.require("site").table().map(SiteSection::read),
            grid: root.require("grid").table().map(GridSection::read),
            power: each(root.tables("power"), PowerSection::read),
            halls: each(root.tables("hall"), HallSection::read),
            partitions: each(root.tables("partition"), PartitionSection::read),
            meters: each(root.tables("meter"), MeterSection::read),
            cooling: root.require("cooling").table().map(CoolingSection::read),
            contracts: each(root.tables("contract"), ContractSection::read),
            power_contracts: each(root.tables("power_contract"), PowerContractSection::read),
            classes: (root.require("class").table()).map_or_else(Vec::new, read_classes),
            control: root.require("control").table().map(ControlSection::read),
            store: (root.optional("store").table()).map(|t| StoreSection::read(t, root.sink())),
        };
        root.finish();
        file
    }
}

fn each<T>(tables: Vec<Table<'_>>, read: impl Fn(Table<'_>) -> T) -> Vec<T> {
    tables.into_iter().map(read).collect()
}

impl SiteSection {
    fn read(mut t: Table<'_>) -> Self {
        let read = Self {
            id: t.require("id").name(),
            name: t.require("name").text(),
            country: t.require("country").text(),
            place: t.require("place").text(),
            latitude: t.require("latitude").number(-90.0..=90.0),
            longitude: t.require("longitude").number(-180.0..=180.0),
            languages: t.require("languages").texts(),
            benchmark_power: t.optional("benchmark_power_watts").watts(),
        };
        t.finish();
        read
    }
}

impl GridSection {
    fn read(mut t: Table<'_>) -> Self {
        let read = Self {
            zone: t.require("zone").text(),
            eic: t.optional("eic").text(),
        };
        t.finish();
        read
    }
}

impl PowerSection {
    fn read(mut t: Table<'_>) -> Self {
        let read = Self {
            at: t.at(),
            id: t.require("id").name(),
            kind: t.require("kind").word(&POWER_KINDS),
            feeds: t.require("feeds").texts(),
            rating: t.require("rating_watts").watts(),
            limit: t.require("limit_watts").watts(),
            ramp: RampFields::read(&mut t),
            oversized: flag_or_false(t.optional("oversized")),
            trip_curve: t.optional("trip_curve").trip_curve(),
            prefix: t.path_of(""),
        };
        t.finish();
        read
    }
}

impl HallSection {
    fn read(mut t: Table<'_>) -> Self {
        let read = Self {
            id: t.require("id").name(),
            name: t.require("name").text(),
        };
        t.finish();
        read
    }
}

impl MeterSection {
    fn read(mut t: Table<'_>) -> Self {
        let read = Self {
            id: t.require("id").name(),
            role: t.require("role").word(&METER_ROLES),
            place: t.optional("at").text(),
            pue_category: t.optional("pue_category").count(1..=3),
        };
        t.finish();
        read
    }
}

impl CoolingSection {
    fn read(mut t: Table<'_>) -> Self {
        let read = Self {
            id: t.require("id").name(),
            kind: t.require("kind").word(&COOLING_KINDS),
            supply: t.require("supply_celsius").number(0.0..=60.0),
            // The check of meaning says more about a bad one than a range could.
            design_pue: t.require("design_pue").number(f64::MIN..=f64::MAX),
            free_cooling_below: t.require("free_cooling_below_celsius").number(-40.0..=60.0),
            fed_by: t.optional("fed_by").text(),
        };
        t.finish();
        read
    }
}

impl ContractSection {
    fn read(mut t: Table<'_>) -> Self {
        let read = Self {
            id: t.require("id").name(),
            kind: t.require("kind").word(&CONTRACT_KINDS),
            renewable_share: t.require("renewable_share").share(),
        };
        t.finish();
        read
    }
}

fn read_classes(mut t: Table<'_>) -> Vec<ClassSection> {
    let keys = ["training", "fine-tuning", "inference", "experiment"];
    let mut classes = Vec::new();
    for (key, class) in keys.into_iter().zip(JobClass::ALL) {
        if let Some(mut t) = t.require(key).table() {
            classes.push(ClassSection {
                class,
                weight: t.require("weight").number(0.001..=1_000.0),
                floor_speed: t.require("floor_speed").share(),
                interruptible: t.require("interruptible").flag(),
                pause_minutes: t.require("pause_minutes").number(0.0..=1_440.0),
            });
            t.finish();
        }
    }
    t.finish();
    classes
}

impl ControlSection {
    fn read(mut t: Table<'_>) -> Self {
        let read = Self {
            armed: t.optional("armed").flag(),
            allocate_every: t.require("allocate_every_seconds").number(SECONDS),
            lease: t.require("lease_seconds").number(SECONDS),
            plan_every: t.require("plan_every_seconds").number(SECONDS),
            sample_every: t.require("sample_every_seconds").number(SECONDS),
            margin: t.require("margin_ratio").number(0.0..=0.5),
            carbon_weight: t.require("carbon_weight").share(),
            keep_inputs_days: t.optional("keep_inputs_days").count(1..=36_500),
            keep_jobs_days: t.optional("keep_jobs_days").count(1..=36_500),
            keep_decisions_days: t.optional("keep_decisions_days").count(30..=36_500),
            ramp: RampFields::read(&mut t),
            ramp_window: t.optional("ramp_window_seconds").number(WINDOW),
        };
        t.finish();
        read
    }
}

impl RampFields {
    fn read(t: &mut Table<'_>) -> Self {
        Self {
            up: t.optional("ramp_up_watts_per_second").number(RATE),
            down: t.optional("ramp_down_watts_per_second").number(RATE),
        }
    }

    /// Whether neither is given.
    pub(crate) fn is_empty(&self) -> bool {
        self.up.is_none() && self.down.is_none()
    }
}

/// An optional statement; silence is no.
pub(super) fn flag_or_false(slot: Slot<'_>) -> bool {
    slot.flag().is_some_and(|flag| flag.value)
}
