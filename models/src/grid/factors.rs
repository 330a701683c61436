//! Emission factors: `emission_factors.toml`, read once and checked.

use super::Source;
use crate::quantity::GramsPerKilowattHour;
use crate::site::config::fault::{Fault, Sink, Uncertain};
use crate::site::config::reader::Table;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use toml::de::DeTable;

/// The factors of one source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor {
    /// From building the plant to the fuel's way.
    pub life_cycle: GramsPerKilowattHour,
    /// At the chimney.
    pub direct: GramsPerKilowattHour,
    /// Share that counts as renewable, 0 to 1.
    pub renewable: f64,
}

/// A dated set of factors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmissionFactors {
    /// Name of the set; a report repeats it.
    pub version: String,
    /// From when on it holds, `YYYY-MM-DD`.
    pub valid_from: String,
    /// Who published it.
    pub source: String,
    /// Its figures that are not certain.
    pub uncertain: Vec<Uncertain>,
    factors: BTreeMap<Source, Factor>,
}

const BUILTIN_TEXT: &str = include_str!("../../emission_factors.toml");

static BUILTIN: LazyLock<EmissionFactors> = LazyLock::new(|| {
    // A test holds the built-in text to be sound.
    EmissionFactors::parse("emission_factors.toml", BUILTIN_TEXT).unwrap_or_default()
});

impl EmissionFactors {
    /// Reads and checks a set; all faults at once. Every source but storage
    /// must be in it.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, Vec<Fault>> {
        let sink = Sink::new(file_name, text);
        let (document, syntax) = DeTable::parse_recoverable(text);
        for error in &syntax {
            let at = error.span().map_or(0, |span| span.start);
            let message = format!("not TOML: {}", error.message());
            sink.error(at, "", message, "correct the syntax");
        }
        let mut root = Table::root(&sink, &document);
        let mut set = Self::default();
        if let Some(mut t) = root.require("set").table() {
            set.version = t
                .require("version")
                .name()
                .map_or_else(String::new, |f| f.value);
            set.valid_from = t
                .require("valid_from")
                .date()
                .map_or_else(String::new, |f| f.value);
            t.require("collected").date();
            set.source = t
                .require("source")
                .text()
                .map_or_else(String::new, |f| f.value);
            t.finish();
        }
        for mut t in root.tables("factor") {
            let source = t.require("source").parsed(known_source);
            let life_cycle = t.require("life_cycle").number(0.0..=2_000.0);
            let direct = t.require("direct").number(0.0..=2_000.0);
            let renewable = t.require("renewable").share();
            t.finish();
            let (Some(source), Some(life_cycle), Some(direct), Some(renewable)) =
                (source, life_cycle, direct, renewable)
            else {
                continue;
            };
            if direct.value > life_cycle.value {
                sink.error(
                    direct.at,
                    "factor.direct",
                    format!(
                        "`{}`: the direct factor is above the life-cycle factor",
                        source.value
                    ),
                    "the life-cycle factor contains the direct one; correct one of them",
                );
            }
            let factor = Factor {
                life_cycle: GramsPerKilowattHour(life_cycle.value),
                direct: GramsPerKilowattHour(direct.value),
                renewable: renewable.value,
            };
            if set.factors.insert(source.value, factor).is_some() {
                sink.error(
                    source.at,
                    "factor.source",
                    format!("`{}` stands twice", source.value),
                    "remove one of them",
                );
            }
        }
        root.finish();
        for source in Source::ALL {
            if !source.is_storage() && !set.factors.contains_key(source) && syntax.is_empty() {
                sink.error(
                    0,
                    "factor",
                    format!("no factor for `{source}`"),
                    "add one [[factor]] for each source",
                );
            }
        }
        let failed = sink.has_errors();
        let (faults, uncertain) = sink.into_found();
        set.uncertain = uncertain;
        if failed { Err(faults) } else { Ok(set) }
    }

    /// The set this program was built with.
    pub fn builtin() -> &'static Self {
        &BUILTIN
    }

    /// The factors of a source; `None` for storage, which counts as the mean.
    pub fn get(&self, source: Source) -> Option<Factor> {
        self.factors.get(&source).copied()
    }
}

fn known_source(word: &str) -> Result<Source, (String, String)> {
    match Source::from_column(word) {
        Some(source) if !source.is_storage() => Ok(source),
        Some(_) => Err((
            format!("`{word}` is storage and has no factor"),
            "remove it; storage counts as the zone's mean".to_owned(),
        )),
        None => {
            let all: Vec<&str> = Source::ALL.iter().map(|s| s.word()).collect();
            Err((
                format!("`{word}` is no source of electricity"),
                format!("use one of: {}", all.join(", ")),
            ))
        }
    }
}
