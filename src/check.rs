//! `heliostat check`: verifies site files and changes nothing.

use anyhow::Context;
use heliostat_models::site::config::{
    Fault, LoadOptions, Mark, PartitionSummary, Severity, Uncertain, load,
};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Verify site files: first their form, then their meaning.
///
/// Lists every fault with its file, line and remedy, and changes nothing. Ends
/// with 0 when all files can be used (warnings allowed), with 1 otherwise.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  heliostat check site-configs/demo.toml
  heliostat check site-configs/*.toml --json | jq '.[] | select(.ok | not)'")]
pub struct Args {
    /// Site files (TOML); site-configs/README.md describes what stands in them
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print one JSON array with faults, uncertain figures and a summary of each file
    #[arg(long)]
    pub json: bool,
    /// List each figure that a file marks as not certain
    #[arg(long)]
    pub uncertain: bool,
}

/// What is known of one file.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    ok: bool,
    faults: Vec<Fault>,
    uncertain: Vec<Uncertain>,
    summary: Option<Summary>,
}

/// What a sound file describes.
#[derive(Debug, Serialize)]
struct Summary {
    site: String,
    name: String,
    place: String,
    zone: String,
    racks: usize,
    nodes: usize,
    devices: usize,
    power_nodes: usize,
    /// Most that devices and nodes can draw, in watts.
    peak_it_watts: f64,
    /// Whether control is armed from the start.
    armed: bool,
    partitions: Vec<PartitionSummary>,
}

/// Checks the files and prints what was found.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let checked: Vec<Checked> = args.files.iter().map(|path| check(path)).collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &checked).context("cannot write the result")?;
        writeln!(out).context("cannot write the result")?;
    } else {
        for file in &checked {
            write!(out, "{}", in_words(file, args.uncertain)).context("cannot write the result")?;
        }
    }
    Ok(if checked.iter().all(|file| file.ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn check(path: &Path) -> Checked {
    let file = path.display().to_string();
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|error| {
            let line = 1
                + (error.as_bytes()[..error.utf8_error().valid_up_to()].iter())
                    .filter(|b| **b == b'\n')
                    .count();
            (
                line,
                "the file is not UTF-8 text".to_owned(),
                "save it as UTF-8",
            )
        }),
        Err(error) => Err((
            1,
            format!("the file cannot be read: {error}"),
            "check the path and its permissions",
        )),
    };
    match text {
        Ok(text) => {
            let loaded = load(&file, &text, LoadOptions::default());
            Checked {
                file,
                ok: loaded.is_ok(),
                summary: loaded.site.as_ref().map(|site| Summary {
                    site: site.id.to_string(),
                    name: site.name.clone(),
                    place: loaded.about.place.clone(),
                    zone: site.zone.clone(),
                    racks: site.racks.len(),
                    nodes: site.nodes.len(),
                    devices: site.devices.len(),
                    power_nodes: site.power.nodes().len(),
                    peak_it_watts: site
                        .nodes
                        .iter()
                        .map(|node| node.overhead.get())
                        .sum::<f64>()
                        + site
                            .devices
                            .iter()
                            .map(|device| device.max_cap.get())
                            .sum::<f64>(),
                    armed: site.control.armed,
                    partitions: loaded.partitions.clone(),
                }),
                faults: loaded.faults,
                uncertain: loaded.uncertain,
            }
        }
        Err((line, message, remedy)) => Checked {
            faults: vec![Fault {
                file: file.clone(),
                line,
                column: 1,
                field: String::new(),
                message,
                remedy: remedy.to_owned(),
                severity: Severity::Error,
            }],
            file,
            ok: false,
            uncertain: Vec::new(),
            summary: None,
        },
    }
}

/// The faults, then one line on the file as a whole.
fn in_words(checked: &Checked, list_uncertain: bool) -> String {
    let mut text = String::new();
    for fault in &checked.faults {
        text.push_str(&format!("{fault}\n"));
    }
    if list_uncertain {
        for u in &checked.uncertain {
            text.push_str(&format!(
                "{}:{}: {}: `{}` = {} ({})\n",
                checked.file,
                u.line,
                word(u.mark),
                u.field,
                u.value,
                u.note
            ));
        }
    }
    let of = |severity: Severity| {
        (checked.faults.iter())
            .filter(|fault| fault.severity == severity)
            .count()
    };
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    let verdict = match &checked.summary {
        Some(s) => format!(
            "ok: {}, zone {}, {} accelerators in {} nodes and {} racks, IT peak {:.1} kW, {}",
            s.name,
            s.zone,
            s.devices,
            s.nodes,
            s.racks,
            s.peak_it_watts / 1_000.0,
            if s.armed { "armed" } else { "observe only" }
        ),
        None => format!("{errors} error{}", plural(errors)),
    };
    text.push_str(&format!("{}: {verdict}", checked.file));
    if warnings > 0 {
        text.push_str(&format!("; {warnings} warning{}", plural(warnings)));
    }
    text.push_str(&format!("; {}\n", certainty(&checked.uncertain)));
    text
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn word(mark: Mark) -> &'static str {
    match mark {
        Mark::Published => "published",
        Mark::Derived => "derived",
        Mark::GeneralKnowledge => "general knowledge",
        Mark::Assumed => "assumed",
    }
}

fn certainty(uncertain: &[Uncertain]) -> String {
    if uncertain.is_empty() {
        return "no figure is marked as uncertain".to_owned();
    }
    let counts: Vec<String> = [Mark::Derived, Mark::GeneralKnowledge, Mark::Assumed]
        .into_iter()
        .map(|mark| (mark, uncertain.iter().filter(|u| u.mark == mark).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(mark, count)| format!("{count} {}", word(mark)))
        .collect();
    format!(
        "{} figure{} not certain ({})",
        uncertain.len(),
        if uncertain.len() == 1 { " is" } else { "s are" },
        counts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_a_fault_with_a_remedy() {
        let checked = check(Path::new("no/such/file.toml"));
        assert!(!checked.ok);
        let text = in_words(&checked, false);
        assert!(
            text.starts_with("no/such/file.toml:1:1: error: the file cannot be read"),
            "{text}"
        );
        assert!(text.contains("  remedy: check the path"), "{text}");
    }

    #[test]
    fn a_broken_file_lists_all_its_faults_and_a_sound_one_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken.toml");
        let demo = heliostat_models::site::config::builtin_demo();
        std::fs::write(&path, demo).unwrap();
        let sound = check(&path);
        assert!(sound.ok);
        assert!(in_words(&sound, false).contains("256 accelerators in 32 nodes"));

        let broken = demo
            .replace("design_pue = 1.12", "design_pue = 0.9")
            .replace("zone = \"DE\"", "zone = \"XX\"");
        std::fs::write(&path, &broken).unwrap();
        let checked = check(&path);
        assert!(!checked.ok && checked.summary.is_none());
        let lines: Vec<usize> = checked.faults.iter().map(|fault| fault.line).collect();
        let line_of = |part: &str| {
            1 + broken
                .lines()
                .position(|line| line.starts_with(part))
                .unwrap()
        };
        assert!(lines.contains(&line_of("zone = \"XX\"")), "{lines:?}");
        assert!(lines.contains(&line_of("design_pue = 0.9")), "{lines:?}");
        // Checking changes nothing.
        assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
    }

    #[test]
    fn json_has_the_faults_the_uncertain_figures_and_the_summary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("demo.toml");
        let text = heliostat_models::site::config::builtin_demo().replace(
            "supply_celsius = 32",
            "supply_celsius = { value = 32, mark = \"assumed\", note = \"a guess\" }",
        );
        std::fs::write(&path, text).unwrap();
        let json = serde_json::to_value(check(&path)).unwrap();
        assert_eq!(json["ok"], true);
        assert_eq!(json["faults"], serde_json::json!([]));
        assert_eq!(json["uncertain"][0]["field"], "cooling.supply_celsius");
        assert_eq!(json["uncertain"][0]["mark"], "assumed");
        assert_eq!(json["summary"]["devices"], 256);
        assert_eq!(json["summary"]["partitions"][0]["status"], "running");
        let missing = serde_json::to_value(check(Path::new("no/such.toml"))).unwrap();
        assert_eq!(missing["faults"][0]["severity"], "error");
        assert!(missing["summary"].is_null());
    }

    #[test]
    fn text_that_is_not_utf8_names_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latin1.toml");
        std::fs::write(&path, b"[site]\nname = \"Z\xfcrich\"\n").unwrap();
        let checked = check(&path);
        assert_eq!(checked.faults[0].line, 2);
    }
}
