//! The table of other programs' names: `data/names.toml`, read once and checked.

use heliostat_models::{Catalogue, MetricId};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

/// What is wrong with a table.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// It is not TOML, or not of this shape.
    #[error("the table of names cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A rule leads nowhere.
    #[error("`{from}` of `{origin}`: {fault}")]
    Rule {
        /// The source.
        origin: String,
        /// The metric.
        from: String,
        /// What is wrong.
        fault: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    personal: Personal,
    source: Vec<SourceEntry>,
}

/// What may tell who somebody is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Personal {
    /// Labels, in lower case.
    labels: Vec<String>,
    /// Beginnings of values of any label, in lower case.
    values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceEntry {
    name: String,
    speaks_of: About,
    host: Vec<String>,
    #[serde(default)]
    gpu: Vec<String>,
    #[serde(default)]
    uuid: Vec<String>,
    #[serde(default)]
    unless: Vec<String>,
    #[serde(default)]
    missing: Vec<f64>,
    metric: Vec<RuleEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    from: String,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    teaches: Option<Lesson>,
    #[serde(default = "one")]
    factor: f64,
    #[serde(default)]
    offset: f64,
    #[serde(default)]
    when: BTreeMap<String, Vec<String>>,
}

fn one() -> f64 {
    1.0
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Lesson {
    Index,
}

/// What a sample is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// One accelerator.
    Gpu,
    /// A whole node.
    Node,
}

/// A program, and how its labels name things.
#[derive(Debug)]
pub struct Origin {
    /// Its name, for people.
    pub name: String,
    /// What its samples are about.
    pub about: About,
    /// Labels that may name the node; the first present decides.
    pub host: Vec<String>,
    /// Labels that may hold the accelerator's index.
    pub gpu: Vec<String>,
    /// Labels that may hold its UUID.
    pub uuid: Vec<String>,
    /// Labels of what is only a part of the device.
    pub unless: Vec<String>,
    /// Values that mean "not known".
    pub missing: Vec<f64>,
    /// None of them is nearer to zero than this.
    pub missing_from: f64,
}

/// What a metric becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning {
    /// A metric of the catalogue: value times factor plus offset.
    Metric {
        /// Which.
        to: MetricId,
        /// Multiplied first.
        factor: f64,
        /// Added then.
        offset: f64,
    },
    /// The index of the accelerator with the sample's UUID.
    Index,
}

/// One rule of the table.
#[derive(Debug)]
pub struct Rule {
    /// Index into [`Names::origins`].
    pub origin: usize,
    /// What the metric becomes.
    pub meaning: Meaning,
    /// The name is this one, and each of these labels has one of these values (lower case).
    when: BTreeMap<String, Vec<String>>,
}

impl Rule {
    fn holds(&self, label: impl Fn(&str) -> Option<String>) -> bool {
        self.when
            .iter()
            .all(|(name, values)| label(name).is_some_and(|v| values.contains(&v)))
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Names {
    /// The programs.
    pub origins: Vec<Origin>,
    rules: HashMap<String, Vec<Rule>>,
    personal: Personal,
}

impl Names {
    /// Reads and checks a table.
    pub fn parse(text: &str) -> Result<Self, NamesError> {
        let file: File = toml::from_str(text)?;
        let mut names = Self {
            personal: file.personal,
            ..Self::default()
        };
        for entry in file.source {
            let origin = names.origins.len();
            for rule in &entry.metric {
                let fault = |fault: String| NamesError::Rule {
                    origin: entry.name.clone(),
                    from: rule.from.clone(),
                    fault,
                };
                let meaning = match (&rule.to, &rule.teaches) {
                    (Some(to), None) => Meaning::Metric {
                        to: Catalogue::builtin()
                            .id(to)
                            .ok_or_else(|| fault(format!("`{to}` is not in the catalogue")))?,
                        factor: rule.factor,
                        offset: rule.offset,
                    },
                    (None, Some(Lesson::Index)) => Meaning::Index,
                    _ => return Err(fault("give either `to` or `teaches`".into())),
                };
                if !rule.factor.is_finite() || rule.factor == 0.0 || !rule.offset.is_finite() {
                    return Err(fault(
                        "`factor` must be finite and not 0, `offset` finite".into(),
                    ));
                }
                if entry.about_gpu() && entry.gpu.is_empty() {
                    return Err(fault("name the labels that hold the GPU's index".into()));
                }
                let known = names.rules.entry(rule.from.clone()).or_default();
                if known.iter().any(|r| r.when.is_empty()) {
                    return Err(fault("a rule before it already takes every sample".into()));
                }
                let lower =
                    |values: &Vec<String>| values.iter().map(|v| v.to_lowercase()).collect();
                known.push(Rule {
                    origin,
                    meaning,
                    when: (rule.when.iter())
                        .map(|(k, v)| (k.clone(), lower(v)))
                        .collect(),
                });
            }
            names.origins.push(Origin {
                name: entry.name,
                about: entry.speaks_of,
                host: entry.host,
                gpu: entry.gpu,
                uuid: entry.uuid,
                unless: entry.unless,
                missing_from: (entry.missing.iter())
                    .fold(f64::INFINITY, |least, value| least.min(value.abs())),
                missing: entry.missing,
            });
        }
        Ok(names)
    }

    /// The table this program was built with; a test holds it to be sound.
    pub fn builtin() -> &'static Self {
        // An unsound table would map nothing, and every test would say so.
        static NAMES: LazyLock<Names> = LazyLock::new(|| Names::parse(TEXT).unwrap_or_default());
        &NAMES
    }

    /// The rule for a metric with these labels.
    pub fn rule(&self, name: &str, labels: &[(&str, &str)]) -> Option<&Rule> {
        let label = |wanted: &str| {
            (labels.iter().find(|(n, _)| *n == wanted)).map(|(_, v)| v.to_lowercase())
        };
        self.rules.get(name)?.iter().find(|rule| rule.holds(label))
    }

    /// Whether a label may tell who somebody is.
    pub fn is_personal(&self, labels: &[(&str, &str)]) -> bool {
        let is = |text: &str, known: &[String]| known.iter().any(|k| text.eq_ignore_ascii_case(k));
        let begins = |text: &str| {
            (self.personal.values.iter()).any(|known| {
                (text.get(..known.len())).is_some_and(|begin| begin.eq_ignore_ascii_case(known))
            })
        };
        (labels.iter()).any(|(name, value)| {
            !value.is_empty() && (is(name, &self.personal.labels) || begins(value))
        })
    }
}

impl SourceEntry {
    fn about_gpu(&self) -> bool {
        self.speaks_of == About::Gpu
    }
}

const TEXT: &str = include_str!("../../data/names.toml");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_table_is_sound() {
        let names = Names::parse(TEXT).unwrap();
        assert_eq!(names.origins.len(), Names::builtin().origins.len());
        assert!(names.rules.len() > 30);
    }

    #[test]
    fn rules_that_lead_nowhere_are_refused() {
        let good = r#"[[source]]
name = "x"
speaks_of = "gpu"
host = ["h"]
gpu = ["g"]
metric = [{ from = "a", to = "gpu_power_watts", factor = 2.0 }]
"#;
        Names::parse(good).unwrap();
        for (from, to) in [
            ("gpu_power_watts", "gpu_power_horses"),
            ("factor = 2.0", "factor = 0.0"),
            ("factor = 2.0", "teaches = \"index\""),
            ("to = \"gpu_power_watts\",", ""),
            ("gpu = [\"g\"]\n", ""),
            ("speaks_of = \"gpu\"", "speaks_of = \"rack\""),
            (
                "metric = [",
                "metric = [{ from = \"a\", to = \"gpu_power_watts\" }, ",
            ),
        ] {
            assert!(Names::parse(&good.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn people_are_recognised_by_label_or_home() {
        let names = Names::builtin();
        for label in [
            ("User", "alice"),
            ("cmdline", "train.py"),
            ("path", "/home/alice/x"),
        ] {
            assert!(names.is_personal(&[("host", "n1"), label]), "{label:?}");
        }
        for label in [("user", ""), ("path", "/"), ("cpu", "0"), ("users", "3")] {
            assert!(!names.is_personal(&[("host", "n1"), label]), "{label:?}");
        }
    }

    #[test]
    fn when_chooses_without_regard_to_case() {
        let names = Names::builtin();
        let metric = |labels: &[(&str, &str)]| {
            let Meaning::Metric { to, .. } = names.rule("ipmi_sensor", labels)?.meaning else {
                return None;
            };
            Some(Catalogue::builtin().metric(to).name.as_str())
        };
        assert_eq!(
            metric(&[("name", "Pwr_Consumption")]),
            Some("node_power_watts")
        );
        assert_eq!(
            metric(&[("name", "inlet_temp")]),
            Some("node_inlet_temperature_celsius")
        );
        assert_eq!(metric(&[("name", "fan1")]), None);
        assert_eq!(metric(&[]), None);
    }
}
