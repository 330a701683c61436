//! The catalogue of accelerators: `accelerators.toml`, read once and checked.
//!
//! Its figures are what simulation and checks start from. In production the
//! settable range is read from the driver at run time and wins.

use crate::quantity::Watts;
use crate::site::config::fault::{Fault, Sink, Uncertain};
use crate::site::config::reader::{Field, Table};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use toml::de::DeTable;

/// One kind of accelerator.
#[derive(Clone, Debug, PartialEq)]
pub struct Accelerator {
    /// Key in the catalogue, e.g. `h100-80-sxm`.
    pub key: String,
    /// Name for people.
    pub name: String,
    /// Who makes it.
    pub vendor: String,
    /// What its driver calls it, the most usual name first.
    pub product_names: Vec<String>,
    /// Thermal design power: the default limit.
    pub tdp: Watts,
    /// Lowest limit that its driver accepts.
    pub min_cap: Watts,
    /// Highest limit that its driver accepts.
    pub max_cap: Watts,
    /// Draw without work.
    pub idle: Watts,
    /// Design power of the module that holds CPU and GPU under one limit, if it is on one.
    pub module_tdp: Option<Watts>,
    /// Dense BF16 throughput in TFLOP/s.
    pub bf16_teraflops: f64,
    /// Memory in GB (1e9 bytes), as sold.
    pub memory_gigabytes: f64,
    /// Memory bandwidth in TB/s, where known.
    pub memory_terabytes_per_second: Option<f64>,
    /// Its figures that are not certain.
    pub uncertain: Vec<Uncertain>,
}

/// All known kinds.
#[derive(Clone, Debug, Default)]
pub struct AcceleratorCatalogue {
    by_key: BTreeMap<String, Accelerator>,
}

const BUILTIN_NAME: &str = "accelerators.toml";
const BUILTIN_TEXT: &str = include_str!("../accelerators.toml");

static BUILTIN: LazyLock<AcceleratorCatalogue> = LazyLock::new(|| {
    // A test holds the built-in text to be sound.
    AcceleratorCatalogue::parse(BUILTIN_NAME, BUILTIN_TEXT).unwrap_or_default()
});

impl AcceleratorCatalogue {
    /// Reads and checks a catalogue; all faults at once.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, Vec<Fault>> {
        let sink = Sink::new(file_name, text);
        let (document, syntax) = DeTable::parse_recoverable(text);
        for error in &syntax {
            let at = error.span().map_or(0, |span| span.start);
            sink.error(
                at,
                "",
                format!("not TOML: {}", error.message()),
                "correct the syntax",
            );
        }
        let mut root = Table::root(&sink, &document);
        let mut by_key = BTreeMap::new();
        for mut table in root.tables("accelerator") {
            let at = table.at();
            let path = table.path_of("");
            let Some(accelerator) = read(&mut table) else {
                table.finish();
                continue;
            };
            table.finish();
            check(&accelerator, at, &sink);
            let key = accelerator.key.clone();
            if by_key.insert(key.clone(), (path, accelerator)).is_some() {
                sink.error(
                    at,
                    "accelerator.key",
                    format!("`{key}` stands twice in the catalogue"),
                    "rename or remove one of them",
                );
            }
        }
        root.finish();
        let failed = sink.has_errors();
        let (faults, uncertain) = sink.into_found();
        if failed {
            return Err(faults);
        }
        let by_key = (by_key.into_iter())
            .map(|(key, (path, mut accelerator))| {
                let own = uncertain.iter().filter(|u| u.field.starts_with(&path));
                accelerator.uncertain = own.cloned().collect();
                (key, accelerator)
            })
            .collect();
        Ok(Self { by_key })
    }

    /// The catalogue this program was built with.
    pub fn builtin() -> &'static Self {
        &BUILTIN
    }

    /// Looks one up by its key.
    pub fn get(&self, key: &str) -> Option<&Accelerator> {
        self.by_key.get(key)
    }

    /// Looks one up by what a driver calls it.
    pub fn by_product_name(&self, product: &str) -> Option<&Accelerator> {
        self.iter()
            .find(|a| a.product_names.iter().any(|name| name == product))
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Accelerator> {
        self.by_key.values()
    }
}

fn read(t: &mut Table<'_>) -> Option<Accelerator> {
    let key = t.require("key").name();
    let name = t.require("name").text();
    let vendor = t.require("vendor").text();
    let product_names = t.require("product_names").texts();
    let tdp = t.require("tdp_watts").watts();
    let min_cap = t.require("min_cap_watts").watts();
    let max_cap = t.require("max_cap_watts").watts();
    let idle = t.require("idle_watts").watts();
    let module_tdp = t.optional("module_tdp_watts").watts();
    let bf16 = t.require("bf16_dense_teraflops").number(1.0..=1e6);
    let memory = t.require("memory_gigabytes").number(1.0..=1e5);
    let bandwidth = t.optional("memory_terabytes_per_second").number(0.01..=1e3);
    let watts = |field: Field<f64>| field.map(|f| Watts(f.value));
    Some(Accelerator {
        key: key?.value,
        name: name?.value,
        vendor: vendor?.value,
        product_names: product_names?.value.into_iter().map(|n| n.value).collect(),
        tdp: watts(tdp)?,
        min_cap: watts(min_cap)?,
        max_cap: watts(max_cap)?,
        idle: watts(idle)?,
        module_tdp: watts(module_tdp),
        bf16_teraflops: bf16?.value,
        memory_gigabytes: memory?.value,
        memory_terabytes_per_second: bandwidth.map(|b| b.value),
        uncertain: Vec::new(),
    })
}

fn check(a: &Accelerator, at: usize, sink: &Sink) {
    let wrong = |field: &str, message: String, remedy: &str| {
        sink.error(at, &format!("accelerator.{field}"), message, remedy);
    };
    if a.min_cap > a.max_cap {
        wrong(
            "min_cap_watts",
            format!(
                "`{}`: the lowest limit {} is above the highest {}",
                a.key, a.min_cap, a.max_cap
            ),
            "exchange them",
        );
    }
    if a.idle >= a.tdp {
        wrong(
            "idle_watts",
            format!(
                "`{}`: idle draw {} is not below the design power {}",
                a.key, a.idle, a.tdp
            ),
            "correct one of them",
        );
    }
    if a.tdp > a.max_cap {
        wrong(
            "tdp_watts",
            format!(
                "`{}`: design power {} is above the highest limit {}",
                a.key, a.tdp, a.max_cap
            ),
            "correct one of them",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::config::fault::Mark;

    #[test]
    fn the_builtin_catalogue_is_sound_and_has_what_the_sites_need() {
        let catalogue = AcceleratorCatalogue::parse(BUILTIN_NAME, BUILTIN_TEXT).unwrap();
        for key in [
            "a100-40-sxm",
            "a100-64-custom",
            "h100-64-sxm",
            "h100-80-sxm",
            "h200-sxm",
            "gh200",
            "b200-sxm",
            "gb200",
            "gb300",
            "mi250x",
            "mi300a",
        ] {
            assert!(catalogue.get(key).is_some(), "{key}");
        }
        let mi250x = AcceleratorCatalogue::builtin().get("mi250x").unwrap();
        assert_eq!((mi250x.tdp, mi250x.max_cap), (Watts(500.0), Watts(560.0)));
        let leonardo = catalogue.by_product_name("NVIDIA A100-SXM-64GB").unwrap();
        assert_eq!(leonardo.key, "a100-64-custom");
        // Exactly its own uncertain figures, the published ones left out.
        let b200 = catalogue.get("b200-sxm").unwrap();
        assert_eq!(b200.uncertain.len(), 1);
        assert_eq!(b200.uncertain[0].mark, Mark::GeneralKnowledge);
        assert!(b200.uncertain[0].field.ends_with(".idle_watts"));
    }

    #[test]
    fn contradictions_are_refused_all_at_once() {
        let good = BUILTIN_TEXT;
        let first = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            let text = good.replacen(from, to, 1);
            AcceleratorCatalogue::parse("f", &text)
                .map(|_| ())
                .unwrap_err()
        };
        assert!(first("min_cap_watts = {", "min_cap = {").len() >= 2);
        let low = "min_cap_watts = { value = 100,";
        let faults = first(low, "min_cap_watts = { value = 500,");
        assert!(faults[0].message.contains("lowest limit"), "{faults:?}");
        let idle = first("idle_watts = { value = 52,", "idle_watts = { value = 520,");
        assert!(idle[0].message.contains("idle draw"), "{idle:?}");
        let tdp = first("tdp_watts = { value = 400,", "tdp_watts = { value = 401,");
        assert!(tdp[0].message.contains("design power"), "{tdp:?}");
        let twice = first("key = \"a100-80-sxm\"", "key = \"a100-40-sxm\"");
        assert!(twice[0].message.contains("stands twice"), "{twice:?}");
    }
}
