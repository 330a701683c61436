//! The command line of Heliostat: one small file a subcommand, no logic of its own.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line speaks on its standard streams

mod actuator_choice;
mod agent;
mod allocate;
mod broker_argument;
mod budget;
mod check;
mod demo;
mod doctor;
mod engine;
mod files;
mod http_get;
mod offline;
mod plan;
mod query;
mod replay;
mod report;
mod run;
mod server;
mod simulate;
mod store;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Measures, caps and schedules an AI data centre for the most work per watt
/// and the most renewable energy, with a proof of every decision.
///
/// Try it: `heliostat demo` runs a data centre of 256 GPUs in software through
/// the real interfaces, on real grid data, and shows it on a web page.
#[derive(Parser)]
#[command(name = "heliostat", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed or faults found (the message says what to do), 2 wrong use of the command line; some commands have one more, see their help.\nLogs go to standard error; set HELIOSTAT_LOG=debug (or info, warn) for more or less."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A data centre in software on real grid data: measured, capped, scheduled and shown
    Demo(demo::Args),
    /// Run a site: broker, store, control (observe-only unless armed) and dashboard
    Run(run::Args),
    /// Run on a compute node: read its devices, send samples, apply leased caps
    Agent(agent::Args),
    /// Verify site files: schema, then meaning; changes nothing
    Check(check::Args),
    /// Check this machine, a broker or a time-series server before a site relies on it
    Doctor(doctor::Args),
    /// Run the twin hall as a process of its own, for agents to read and cap
    Simulate(simulate::Args),
    /// Show the plan in force: which job runs when, and the proof
    Plan(plan::Args),
    /// One allocation from a file: caps, reasons, what more power is worth; sends nothing
    Allocate(allocate::Args),
    /// Show how much power a site, hall, rack or job may use, now and for 48 h
    Budget(budget::Args),
    /// Ask the store: latest values, ranges, aggregates
    Query(query::Args),
    /// Take logged decisions again from their inputs and compare bit for bit
    Replay(replay::Args),
    /// Energy, PUE, REF and carbon of a period, as JSON or CSV
    Report(report::Args),
    /// Look after the store of a stopped server: verify, compact, snapshot, export, import
    Store(store::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    if let Err(error) = heliostat_models::Catalogue::check_builtin() {
        eprintln!("heliostat: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = match &cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Run(args) => run::run(args),
        Command::Agent(args) => agent::run(args),
        Command::Check(args) => check::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Simulate(args) => simulate::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Allocate(args) => allocate::run(args),
        Command::Budget(args) => budget::run(args),
        Command::Query(args) => query::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Report(args) => report::run(args),
        Command::Store(args) => store::run(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("heliostat: {}", told(&error));
        ExitCode::FAILURE
    })
}

/// An error and its causes, each cause once: some messages name theirs already.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Logs to standard error, so that standard output stays data.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HELIOSTAT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,rumqttd=off,rumqttc=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
