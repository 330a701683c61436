//! From a configuration file to a [`Site`].
//!
//! ```text
//! text -> TOML tree -> sections (schema) -> checks (meaning) -> Site
//! ```
//!
//! Every step notes its faults and goes on, so that one run lists them all.
//! A site comes out only when there is no error.

pub(crate) mod expand;
pub mod fault;
pub(crate) mod layout;
pub(crate) mod partition;
mod pattern;
pub(crate) mod power_contract;
pub(crate) mod reader;
pub(crate) mod schema;
pub(crate) mod similar;
pub(crate) mod slot;
pub(crate) mod store;
pub mod zones;

pub use fault::{Fault, Mark, Severity, Uncertain};
pub use partition::PartitionStatus;

use super::{Site, check};
use crate::accelerators::AcceleratorCatalogue;
use fault::Sink;
use reader::{Field, Table};
use schema::SiteFile;
use serde::Serialize;
use toml::de::DeTable;

/// What to do with a file beyond reading it.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Whether contracted partitions become racks, nodes and devices too, as
    /// if they were installed. Those whose size is not known stay out.
    pub include_contracted: bool,
}

/// What came out of a file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The site; `None` when a fault is an error.
    pub site: Option<Site>,
    /// All that is wrong, in the order of the file.
    pub faults: Vec<Fault>,
    /// All figures that the file marks as not certain.
    pub uncertain: Vec<Uncertain>,
    /// The partitions, running and contracted.
    pub partitions: Vec<PartitionSummary>,
    /// What else the file says of the place.
    pub about: About,
}

/// What a file says of a partition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartitionSummary {
    /// Short name.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Whether it is there.
    pub status: PartitionStatus,
    /// Key in the accelerator catalogue, where one is named.
    pub accelerator: Option<String>,
    /// Number of nodes, where known.
    pub nodes: Option<u64>,
    /// Number of accelerators, where known.
    pub devices: Option<u64>,
    /// What is known in words.
    pub announced: Option<String>,
}

/// What a file says of the place beyond what [`Site`] works with.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct About {
    /// Town and building, for people.
    pub place: String,
    /// Languages of its users, ISO 639-1, the first one preferred.
    pub languages: Vec<String>,
}

impl Loaded {
    /// Whether nothing is wrong beyond warnings.
    pub fn is_ok(&self) -> bool {
        self.site.is_some()
    }

    /// The errors alone.
    pub fn errors(&self) -> impl Iterator<Item = &Fault> {
        (self.faults.iter()).filter(|fault| fault.severity == Severity::Error)
    }
}

/// Reads, checks and expands a site file. `file_name` is how the user named
/// it; faults repeat it.
pub fn load(file_name: &str, text: &str, options: LoadOptions) -> Loaded {
    load_with(file_name, text, options, AcceleratorCatalogue::builtin())
}

/// [`load`] with a catalogue of accelerators other than the built-in one.
pub fn load_with(
    file_name: &str,
    text: &str,
    options: LoadOptions,
    catalogue: &AcceleratorCatalogue,
) -> Loaded {
    let sink = Sink::new(file_name, text);
    let (document, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        sink.error(
            error.span().map_or(0, |span| span.start),
            "",
            format!("not TOML: {}", error.message()),
            "correct the syntax; toml.io describes it",
        );
    }
    if !syntax.is_empty() {
        // What is left of the tree would give faults that are none.
        let (faults, uncertain) = sink.into_found();
        return Loaded {
            site: None,
            faults,
            uncertain,
            partitions: Vec::new(),
            about: About::default(),
        };
    }
    let file = SiteFile::read(Table::root(&sink, &document));
    check::check(&file, catalogue, &sink);
    let mut site = None;
    if !sink.has_errors() {
        match expand::expand(&file, catalogue, options) {
            Ok(mut expanded) => {
                // The checks have said where the two stand; this is the last net.
                if let Err(name) = expanded.index_names() {
                    sink.error(
                        0,
                        "",
                        format!("`{name}` is the name of two things"),
                        "rename one of them",
                    );
                }
                site = Some(expanded);
            }
            Err(missing) => sink.error(
                0,
                "",
                format!("the file passed its checks but `{missing}` could not be expanded"),
                "this is a fault of Heliostat; report it with the file",
            ),
        }
    }
    let partitions = file.partitions.iter().filter_map(summary).collect();
    let about = about(&file);
    let sound = !sink.has_errors();
    let (faults, uncertain) = sink.into_found();
    Loaded {
        site: site.filter(|_| sound),
        faults,
        uncertain,
        partitions,
        about,
    }
}

/// The demonstration site, part of the program.
pub fn builtin_demo() -> &'static str {
    include_str!("../../../../site-configs/demo.toml")
}

fn summary(section: &partition::PartitionSection) -> Option<PartitionSummary> {
    let text = |field: &Field<String>| field.as_ref().map(|f| f.value.clone());
    let nodes = section.node_count();
    Some(PartitionSummary {
        id: text(&section.id)?,
        name: text(&section.name)?,
        status: section.status.as_ref()?.value,
        accelerator: text(&section.accelerator),
        nodes,
        devices: (section.devices_per_node.as_ref())
            .zip(nodes)
            .map(|(d, n)| u64::from(d.value) * n),
        announced: text(&section.announced),
    })
}

fn about(file: &SiteFile) -> About {
    file.site
        .as_ref()
        .map_or_else(About::default, |site| About {
            place: site
                .place
                .as_ref()
                .map_or_else(String::new, |p| p.value.clone()),
            languages: (site.languages.iter().flat_map(|l| &l.value))
                .map(|language| language.value.clone())
                .collect(),
        })
}

#[cfg(test)]
mod tests;
