//! `heliostat allocate`: one allocation from a file; observes only.

use crate::files::load_site;
use anyhow::{Context, bail};
use heliostat_models::Watts;
use heliostat_optimizer::state::{Answer, Ending, Goal, LimitAnswer, State, answer};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// The exit code where floors do not fit below limits.
const INFEASIBLE: u8 = 3;

/// One allocation from a file: caps, their reasons, what more power would be worth.
///
/// Reads the site and what is true there now, solves, has the result checked
/// against the site file, and prints it. Sends nothing and needs no server.
#[derive(Debug, clap::Args)]
#[command(after_help = "The state is JSON; everything in it may be left out:
  {
    \"price_of_energy\": 0.0004,          weighted device hours that a watt hour must buy (0)
    \"grid_limit_watts\": 150000,         limit at the feeds while a grid event is in force
    \"site_watts\": 182000, \"it_watts\": 160000,   meters; without them the plant counts at 1.5 times its design
    \"nodes\":   {\"r01-n1\": {\"watts\": 5100, \"uncertainty_watts\": 60},   all that it draws (needs watts of its devices)
                \"r01-n2\": {\"overhead_watts\": 900}},      or what it draws besides them; else its rated overhead
    \"devices\": {\"r01-n1-gpu0\": {\"watts\": 520, \"min_watts\": 200, \"max_watts\": 650, \"step_watts\": 5},
                \"r02-n1-gpu3\": {\"fixed_watts\": 700},    cannot be commanded, counts with this
                \"r03-n1-gpu0\": {\"cap_watts\": 600}},     has this cap now: then the way to the new caps is told
    \"lowering_seconds\": 5,              until a lowered cap is in force (5)
    \"trip_curves\": {\"pdu-1\": [[1.05, 3600], [1.3, 120]]},   multiple of the rating, seconds borne; else IEC 60947-2 and 60898-1
    \"contracts\": [{\"id\": \"tenant-a\", \"limit_watts\": 60000, \"members\": [\"r01\", \"r02-n1-gpu0\"]},   power nodes, racks, nodes, devices;
                                         what they draw besides caps counts as their nodes and the plant do,
                  {\"id\": \"tenant-b\", \"limit_watts\": 40000, \"members\": [\"r04\"],    or as stated here
                   \"uncontrolled_watts\": 5600, \"uncertainty_watts\": 300}],
    \"jobs\": [{\"id\": \"train-1\", \"class\": \"training\", \"devices\": [\"r01-n1\", \"r02-n1-gpu0\"],
              \"speed\": [[200, 0.55], [400, 0.86], [700, 1.0]]}]   cap in watts, relative speed; else what is typical
  }

Examples:
  heliostat allocate --site site-configs/demo.toml --state state.json
  heliostat allocate --site site-configs/demo.toml --state state.json --goal work-per-joule --slowdown 0.05
  heliostat allocate --site site-configs/demo.toml --state state.json --json | jq '.limits[] | select(.price > 0)'

Exit codes: 0 allocated, 1 bad input or rejected by the checker, 2 wrong use,
3 the floors do not fit below the limits (the conflict and the safest shedding are printed).")]
pub struct Args {
    /// The site's file.
    #[arg(long, value_name = "FILE")]
    site: PathBuf,
    /// What is true there now (JSON).
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// What to want.
    #[arg(long, value_enum, default_value_t = Wanted::Balanced)]
    goal: Wanted,
    /// With `--goal work-per-joule`: share of the most work that may be lost.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    slowdown: f64,
    /// Print everything, also each device's cap, as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Wanted {
    /// The most work net of the price of energy
    Balanced,
    /// The most work below the limits, whatever energy costs
    MostWork,
    /// The most work per joule within `--slowdown`
    WorkPerJoule,
    /// The slowest as fast as can be, then the next
    Fair,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or contradicts itself, or the checker rejects the result.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let goal = match args.goal {
        Wanted::Balanced => Goal::Balanced,
        Wanted::MostWork => Goal::MostWork,
        Wanted::Fair => Goal::Fair,
        Wanted::WorkPerJoule if (0.0..=1.0).contains(&args.slowdown) => Goal::WorkPerJoule {
            slowdown: args.slowdown,
        },
        Wanted::WorkPerJoule => bail!(
            "--slowdown is {}; allowed: a share from 0 to 1",
            args.slowdown
        ),
    };
    let site = load_site(&args.site)?;
    let name = args.state.display();
    let text = std::fs::read_to_string(&args.state).with_context(|| {
        format!("cannot read the state {name}; `heliostat allocate --help` shows one")
    })?;
    let state = State::read(&site, &text).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(|f| format!("{name}: {f}")).collect();
        anyhow::anyhow!(
            "the state has faults; nothing was allocated\n{}",
            faults.join("\n")
        )
    })?;
    let answer = answer(&site, &state, goal).with_context(|| format!("{name}"))?;
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&answer)?)
    } else {
        in_words(&answer)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(match answer.ending {
        Ending::Allocated => ExitCode::SUCCESS,
        Ending::Infeasible => ExitCode::from(INFEASIBLE),
    })
}

/// The answer for people.
fn in_words(answer: &Answer) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = shed(answer, &mut out);
    let _ = jobs(answer, &mut out);
    let _ = limits(answer, &mut out);
    let _ = way(answer, &mut out);
    let _ = proof(answer, &mut out);
    out
}

fn shed(answer: &Answer, out: &mut String) -> std::fmt::Result {
    if answer.ending == Ending::Allocated {
        return Ok(());
    }
    writeln!(
        out,
        "INFEASIBLE: the floors of the running jobs do not fit below {}.",
        answer.conflict.join(", ")
    )?;
    let shed: Vec<&str> = answer.shed.iter().map(|j| j.as_str()).collect();
    if !shed.is_empty() {
        writeln!(out, "Floors given up, by class: {}.", shed.join(", "))?;
    }
    for excess in &answer.beyond {
        writeln!(
            out,
            "Even the lowest caps exceed {} by {:.1} kW; pause jobs or shut nodes down there.",
            excess.limit,
            excess.watts.kilowatts()
        )?;
    }
    writeln!(out, "What follows is the safest that was found.\n")
}

fn jobs(answer: &Answer, out: &mut String) -> std::fmt::Result {
    let width = (answer.jobs.iter())
        .filter_map(|j| j.told.job.as_ref())
        .map(|j| j.as_str().len())
        .fold(5, usize::max);
    writeln!(
        out,
        "{:width$}  {:11}  {:>7}  {:>9}  {:>6}  {:>12}  WHY",
        "JOB", "CLASS", "DEVICES", "CAP W", "SPEED", "LAST W h/kWh"
    )?;
    for job in &answer.jobs {
        let told = &job.told;
        writeln!(
            out,
            "{:width$}  {:11}  {:>7}  {:>9.3}  {:>6.3}  {:>12.3}  {}",
            told.job.as_ref().map_or("-", |j| j.as_str()),
            job.class.map_or("-".to_owned(), |c| c.to_string()),
            told.devices,
            told.cap.get(),
            told.speed,
            told.marginal * 1e3,
            told.reason
        )?;
    }
    writeln!(out)
}

/// The limits that are worth something, and those nearest to full.
fn limits(answer: &Answer, out: &mut String) -> std::fmt::Result {
    const SHOWN: usize = 20;
    let left = |l: &LimitAnswer| l.limit + l.spare - l.uncontrolled - l.uncertainty - l.caps;
    let mut limits: Vec<&LimitAnswer> = answer.limits.iter().collect();
    let share = |l: &LimitAnswer| left(l) / l.limit.max(Watts(1.0));
    limits.sort_by(|a, b| {
        b.price
            .total_cmp(&a.price)
            .then(share(a).total_cmp(&share(b)))
    });
    let width = limits
        .iter()
        .take(SHOWN)
        .map(|l| l.name.len())
        .fold(5, usize::max);
    writeln!(
        out,
        "{:width$}  {:>10}  {:>12}  {:>10}  {:>10}  ONE kW MORE IS WORTH (weighted devices at full speed)",
        "LIMIT", "kW", "UNCONTROLLED", "CAPS", "LEFT"
    )?;
    for limit in limits.iter().take(SHOWN) {
        let worth = match limit.kilowatt_more {
            Some(worth) => format!("{worth:.4}"),
            None => format!("at most {:.4}", limit.price * 1e3),
        };
        writeln!(
            out,
            "{:width$}  {:>10.3}  {:>12.3}  {:>10.3}  {:>10.3}  {worth}",
            limit.name,
            limit.limit.kilowatts(),
            (limit.uncontrolled + limit.uncertainty).kilowatts(),
            limit.caps.kilowatts(),
            left(limit).kilowatts(),
        )?;
    }
    if limits.len() > SHOWN {
        writeln!(
            out,
            "{} more limits; --json lists them.",
            limits.len() - SHOWN
        )?;
    }
    writeln!(out)
}

fn way(answer: &Answer, out: &mut String) -> std::fmt::Result {
    let Some(way) = &answer.way else {
        return Ok(());
    };
    writeln!(
        out,
        "From the caps in force: lower {} devices first, then raise {}.",
        way.lower, way.raise
    )?;
    for (what, limits) in [
        ("Sent together", &way.together),
        ("Not even when lowered", &way.in_order),
        ("Until lowering is done", &way.breakers),
    ] {
        for limit in limits {
            writeln!(out, "{what}: {limit}")?;
        }
    }
    writeln!(out)
}

fn proof(answer: &Answer, out: &mut String) -> std::fmt::Result {
    let certificate = &answer.certificate;
    writeln!(
        out,
        "Worth {:.6}, at most {:.6} is possible (gap {:.2e}{}); price of energy {:.4} h/kWh.",
        // No minus before a zero.
        certificate.primal + 0.0,
        certificate.dual_bound + 0.0,
        certificate.gap,
        if answer.goal == Goal::Fair {
            ", what fairness costs"
        } else {
            ""
        },
        answer.price_of_energy * 1e3
    )?;
    writeln!(
        out,
        "Inputs {}. The checker has recomputed every limit from the site file.",
        certificate.inputs_hash
    )
}
