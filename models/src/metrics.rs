//! The metric catalogue: `metrics.toml`, read once and checked.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::LazyLock;

/// A metric's place in the catalogue. Small and cheap; on the wire and on disk
/// metrics go by name, so catalogues of different versions can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricId(pub u16);

/// How a metric's values follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// Goes up and down.
    Gauge,
    /// Only grows, until it restarts at zero.
    Counter,
    /// Joules that only grow, until the register wraps or restarts.
    EnergyCounter,
}

/// What the catalogue says of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// `<thing>_<what>_<unit>[_total]`.
    pub name: String,
    /// Symbol of the unit; `1` for ratios.
    pub unit: String,
    /// How values follow each other.
    pub kind: MetricKind,
    /// Lowest and highest valid value.
    pub range: (f64, f64),
    /// Smallest difference worth keeping, in the unit.
    pub precision: f64,
    /// Short name for pages.
    pub label: String,
    /// One sentence, with its source where there is one.
    pub description: String,
}

/// What is wrong with a catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It is not TOML, or not of this shape.
    #[error("the metric catalogue cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// An entry contradicts itself or another.
    #[error("metric `{name}`: {fault}")]
    Entry {
        /// Which.
        name: String,
        /// What is wrong and what is allowed.
        fault: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueFile {
    metric: Vec<Metric>,
}

/// All metrics there are.
#[derive(Clone, Debug)]
pub struct Catalogue {
    metrics: Vec<Metric>,
    by_name: HashMap<String, MetricId>,
}

impl Catalogue {
    /// Reads and checks a catalogue.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let file: CatalogueFile = toml::from_str(text)?;
        let mut by_name = HashMap::new();
        for (index, metric) in file.metric.iter().enumerate() {
            let fault = |fault: &str| CatalogueError::Entry {
                name: metric.name.clone(),
                fault: fault.to_owned(),
            };
            let (low, high) = metric.range;
            if !(low.is_finite() && high.is_finite() && low < high) {
                return Err(fault("`range` must be [low, high] with low < high"));
            }
            if !(metric.precision > 0.0 && metric.precision < high - low) {
                return Err(fault(
                    "`precision` must be above 0 and below the range's width",
                ));
            }
            let is_counter = metric.kind != MetricKind::Gauge;
            if metric.name.ends_with("_total") != is_counter {
                return Err(fault("counters, and only counters, end in `_total`"));
            }
            if !metric
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            {
                return Err(fault("names consist of a-z, 0-9 and _"));
            }
            let id = u16::try_from(index).map_err(|_| fault("more than 65,536 metrics"))?;
            if by_name.insert(metric.name.clone(), MetricId(id)).is_some() {
                return Err(fault("declared twice"));
            }
        }
        Ok(Self {
            metrics: file.metric,
            by_name,
        })
    }

    /// The catalogue this program was built with. Its validity is checked at
    /// start through [`Catalogue::check_builtin`] and by a test.
    pub fn builtin() -> &'static Self {
        &BUILTIN
    }

    /// Whether the built-in catalogue is sound; called once at start.
    pub fn check_builtin() -> Result<(), CatalogueError> {
        Self::parse(BUILTIN_TEXT).map(|_| ())
    }

    /// Looks a metric up by its name.
    pub fn id(&self, name: &str) -> Option<MetricId> {
        self.by_name.get(name).copied()
    }

    /// What is declared of a metric.
    pub fn metric(&self, id: MetricId) -> &Metric {
        &self.metrics[usize::from(id.0)]
    }

    /// How many there are; their ids are below this.
    pub fn len(&self) -> usize {
        self.metrics.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.metrics.is_empty()
    }

    /// All of them, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (MetricId, &Metric)> {
        self.metrics
            .iter()
            .enumerate()
            .map(|(i, m)| (MetricId(i as u16), m))
    }
}

const BUILTIN_TEXT: &str = include_str!("../metrics.toml");

static BUILTIN: LazyLock<Catalogue> = LazyLock::new(|| {
    // An unsound catalogue ends the program in `check_builtin`, before this
    // is first used; the empty one is never seen.
    Catalogue::parse(BUILTIN_TEXT).unwrap_or_else(|_| Catalogue {
        metrics: Vec::new(),
        by_name: HashMap::new(),
    })
});

/// The metrics that the code itself speaks of, by name. A test holds each
/// against the catalogue.
macro_rules! well_known {
    ($($(#[$doc:meta])* $function:ident => $name:literal;)*) => {
        impl Catalogue {
            $( $(#[$doc])* pub fn $function() -> MetricId {
                static ID: LazyLock<MetricId> = LazyLock::new(|| Catalogue::builtin().id($name).unwrap_or(MetricId(u16::MAX)));
                *ID
            } )*
        }
        #[cfg(test)]
        const WELL_KNOWN: &[&str] = &[$($name),*];
    };
}

well_known! {
    /// Power drawn by one accelerator.
    gpu_power => "gpu_power_watts";
    /// Power limit the driver enforces.
    gpu_power_limit => "gpu_power_limit_watts";
    /// Energy register of an accelerator.
    gpu_energy => "gpu_energy_joules_total";
    /// Temperature of the die.
    gpu_temperature => "gpu_temperature_celsius";
    /// Share of time a kernel ran.
    gpu_utilization => "gpu_utilization_ratio";
    /// Share of time memory was busy.
    gpu_memory_utilization => "gpu_memory_utilization_ratio";
    /// Device memory in use.
    gpu_memory_used => "gpu_memory_used_bytes";
    /// SM clock.
    gpu_sm_clock => "gpu_sm_clock_hertz";
    /// Memory clock.
    gpu_memory_clock => "gpu_memory_clock_hertz";
    /// Power of a whole node.
    node_power => "node_power_watts";
    /// Share of CPU time not idle.
    node_cpu_utilization => "node_cpu_utilization_ratio";
    /// Main memory in use.
    node_memory_used => "node_memory_used_bytes";
    /// Main memory installed.
    node_memory_size => "node_memory_size_bytes";
    /// Bytes received.
    node_network_receive => "node_network_receive_bytes_total";
    /// Bytes sent.
    node_network_transmit => "node_network_transmit_bytes_total";
    /// Highest of the node's sensors.
    node_temperature => "node_temperature_celsius";
    /// What enters the node.
    node_inlet_temperature => "node_inlet_temperature_celsius";
    /// Energy of the CPU packages.
    node_cpu_energy => "node_cpu_energy_joules_total";
    /// Power at a meter.
    meter_power => "meter_power_watts";
    /// Energy register of a meter.
    meter_energy => "meter_energy_joules_total";
    /// Coolant into the room.
    cooling_supply => "cooling_supply_celsius";
    /// Coolant out of the room.
    cooling_return => "cooling_return_celsius";
    /// Dry bulb outside.
    outdoor_temperature => "outdoor_temperature_celsius";
    /// Life-cycle intensity of the zone.
    grid_carbon => "grid_carbon_intensity_grams_per_kilowatt_hour";
    /// Direct intensity of the zone.
    grid_carbon_direct => "grid_carbon_intensity_direct_grams_per_kilowatt_hour";
    /// Renewable share of the zone.
    grid_renewable => "grid_renewable_share_ratio";
    /// Value of a series that is in no catalogue; see [`crate::foreign`].
    unknown_value => "unknown_value";
    /// Day-ahead price.
    grid_price => "grid_price_euros_per_megawatt_hour";
    /// Work of a job per second, by its own count.
    job_throughput => "job_throughput_per_second";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_catalogue_is_sound_and_knows_what_the_code_speaks_of() {
        Catalogue::check_builtin().unwrap();
        for name in WELL_KNOWN {
            assert!(
                Catalogue::builtin().id(name).is_some(),
                "{name} is not in metrics.toml"
            );
        }
    }

    #[test]
    fn refuses_contradictions() {
        let good = r#"[[metric]]
name = "a_watts"
unit = "W"
kind = "gauge"
range = [0.0, 1.0]
precision = 0.1
label = "a"
description = "a"
"#;
        assert!(Catalogue::parse(good).is_ok());
        for (from, to) in [
            ("[0.0, 1.0]", "[1.0, 0.0]"),
            ("0.1", "0.0"),
            ("a_watts", "a_watts_total"),
            ("a_watts", "A-watts"),
            ("label", "lable"),
        ] {
            assert!(
                Catalogue::parse(&good.replacen(from, to, 1)).is_err(),
                "{to}"
            );
        }
        assert!(Catalogue::parse(&format!("{good}{good}")).is_err());
    }
}
