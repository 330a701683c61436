//! `heliostat replay`: takes logged decisions again and compares.

use anyhow::Context;
use heliostat_models::{DecisionKind, Timestamp};
use heliostat_optimizer::control::replay::{Replayed, replay_day};
use heliostat_store::decisions::Checkpoint;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::time::Instant;

/// Exit code where a decision does not come out as it stands in the log, or the
/// log's chain is broken.
const DIFFERS: u8 = 3;
/// Exit code where nothing speaks against the log, and the day's inputs were removed in their time, or
/// its decisions were cut off.
const REMOVED: u8 = 4;
/// Differing decisions that are named; the others are counted.
const NAMED: usize = 10;

/// Take logged decisions again from their logged inputs, and compare bit for bit.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The allocations and reliefs of a day: each from its own inputs, compared with the log
    #[command(
        after_help = "Example:\n  heliostat replay decisions --day 2026-11-22 --data ./data\nExit codes: 0 all came out the same and the log's chain holds, 3 one differs or the chain is broken (the output says which and how), 4 the chain holds and the day's inputs were removed in their time, so that its decisions cannot be taken again (the site file's keep_inputs_days says for how long they are kept), or decisions of the day were cut off the log (keep_decisions_days), 1 the log cannot be read, 2 wrong use of the command line.\nReliefs are what was taken off at once because breakers might not have borne the way to new caps. The log of a running server may be read. Decisions from before the log kept inputs are counted apart."
    )]
    Decisions(Decisions),
}

#[derive(clap::Args)]
struct Decisions {
    /// The day, UTC, e.g. 2026-11-22
    #[arg(long, value_name = "DAY", value_parser = day)]
    day: Timestamp,
    /// The server's data directory
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Outcome {
    #[serde(flatten)]
    replayed: Replayed,
    /// Seconds that taking them again needed, reading the log included.
    took_s: f64,
    /// Seconds of the day's decisions that were taken again in a second.
    times_real_time: Option<f64>,
}

/// Replays and says what came of it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let What::Decisions(args) = &args.what;
    let store = args.data.join("store");
    let begun = Instant::now();
    let replayed = replay_day(&store, args.day).with_context(|| {
        format!(
            "no decisions can be read in {}; name the server's data directory with --data",
            args.data.display()
        )
    })?;
    let took_s = begun.elapsed().as_secs_f64();
    let spans = replayed.spanned_s > 0.0 && took_s > 0.0;
    let outcome = Outcome {
        took_s,
        times_real_time: spans.then(|| replayed.spanned_s / took_s),
        replayed,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        tell(&outcome);
    }
    let replayed = &outcome.replayed;
    Ok(if !replayed.is_sound() {
        ExitCode::from(DIFFERS)
    } else if replayed.removed_in_all() > 0 || replayed.is_cut_off() {
        ExitCode::from(REMOVED)
    } else {
        ExitCode::SUCCESS
    })
}

/// A bare date; an instant within a day would say more than is meant.
fn day(text: &str) -> Result<Timestamp, String> {
    let is_date = text.len() == 10 && text.bytes().filter(|b| *b == b'-').count() == 2;
    (Timestamp::parse(text).filter(|_| is_date))
        .ok_or_else(|| format!("`{text}` is no day; write it like 2026-11-22"))
}

fn tell(outcome: &Outcome) {
    let replayed = &outcome.replayed;
    let reliefs = &replayed.reliefs;
    for (kind, counts) in [
        (
            DecisionKind::Allocation,
            (
                "allocations",
                replayed.allocations,
                replayed.same,
                replayed.without_inputs,
            ),
        ),
        (
            DecisionKind::Relief,
            (
                "reliefs",
                reliefs.decisions,
                reliefs.same,
                reliefs.without_inputs,
            ),
        ),
    ] {
        let (name, logged, same, without_inputs) = counts;
        let differ = replayed.differing.iter().filter(|d| d.kind == kind).count();
        println!(
            "{logged} {name}, {same} came out the same bit for bit, {differ} differ, {without_inputs} were logged without inputs"
        );
    }
    if let Some(removed) = &replayed.inputs_removed {
        println!(
            "inputs of that day were removed on {}, kept for {} days: {} allocations and {} reliefs cannot be taken again",
            removed.at, removed.kept_days, replayed.removed, reliefs.removed
        );
    }
    for differing in replayed.differing.iter().take(NAMED) {
        println!(
            "decision {} of {}: {}",
            differing.decision, differing.at, differing.how
        );
    }
    if replayed.differing.len() > NAMED {
        println!("and {} more", replayed.differing.len() - NAMED);
    }
    if let Some(reaches) = reaches(replayed.log_from, replayed.cut.as_ref()) {
        println!("{reaches}");
    }
    match &replayed.broken_chain {
        Some(broken) => println!("the log's chain is broken at {broken}"),
        None => println!("the log's chain holds"),
    }
    if replayed.unchained > 0 {
        println!(
            "{} records are from before the log was chained",
            replayed.unchained
        );
    }
    if let Some(times) = outcome.times_real_time {
        println!(
            "{:.1} h of decisions in {:.2} s: {times:.0} times real time",
            replayed.spanned_s / 3_600.0,
            outcome.took_s
        );
    }
}

/// From when on a log has decisions, and what was cut off before.
pub fn reaches(from: Option<Timestamp>, cut: Option<&Checkpoint>) -> Option<String> {
    let from = from?;
    Some(match cut {
        None => format!("the log reaches back to its beginning, {from}"),
        Some(cut) => format!(
            "the log reaches back to {from}; {} records of before, from {} to {}, were cut off on {}, kept for {} days",
            cut.records, cut.first, cut.until, cut.at, cut.kept_days
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_bare_date() {
        assert_eq!(day("1970-01-02"), Ok(Timestamp(86_400_000)));
        for wrong in [
            "today",
            "2026-11-22T00:00:00Z",
            "22-11-2026",
            "2026-13-01",
            "",
        ] {
            assert!(day(wrong).is_err(), "{wrong}");
        }
    }
}
