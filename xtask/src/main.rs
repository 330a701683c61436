//! The developers' commands. `cargo xtask test` is what CI runs.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line speaks on its standard streams

mod architecture;
mod bench;
mod dependencies;
mod peers;
mod seed;
mod step;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Commands for those who work on Heliostat.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the peers that tests need (where it may), then check format, lints, licences, architecture and run every test
    Test {
        /// Use the peers that are there; install nothing
        #[arg(long)]
        no_install: bool,
        /// Only the quick checks: format, architecture, lints, licences
        #[arg(long)]
        checks_only: bool,
    },
    /// Measure: each figure beside what it is compared with in the same run, as JSON lines
    Bench {
        /// Which bench; without a name, list them
        name: Option<String>,
        /// Only JSON lines on standard output
        #[arg(long)]
        json: bool,
    },
    /// Install the independent programs that tests are run against
    Peers,
    /// Hold ARCHITECTURE.md and the house rules against the tree
    Architecture,
}

fn main() -> ExitCode {
    let root = root();
    let outcome = match Cli::parse().command {
        Command::Test {
            no_install,
            checks_only,
        } => test(&root, no_install, checks_only),
        Command::Bench { name, json } => bench::run(&root, name.as_deref(), json),
        Command::Peers => peers::install(&root).map(|_| ()),
        Command::Architecture => architecture::check(&root),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root: this crate lies one level below it.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

fn test(root: &std::path::Path, no_install: bool, checks_only: bool) -> anyhow::Result<()> {
    let peers = if no_install {
        peers::present(root)
    } else {
        peers::install(root)?
    };
    let mut steps = step::Steps::new(root, &peers);
    steps.run_fn("architecture", || architecture::check(root));
    steps.cargo("format", &["fmt", "--all", "--check"]);
    steps.cargo(
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "--deny",
            "warnings",
        ],
    );
    match &peers.cargo_deny {
        // Advisories need the network at large; sources, licences and bans do not.
        Some(deny) => steps.program("licences", deny, &["check", "bans", "licenses", "sources"]),
        None => steps.run_fn("licences", || dependencies::check(root)),
    }
    if !checks_only {
        if let Some(seed) = seed::of(root) {
            eprintln!(
                "xtask: random cases of the property tests by {}={seed}, from the commit",
                seed::VARIABLE
            );
            steps.set(seed::VARIABLE, seed.to_string());
        }
        // One run shows every test that fails, not only those of the first crate.
        steps.cargo(
            "tests",
            &["test", "--workspace", "--quiet", "--no-fail-fast"],
        );
    }
    steps.finish()
}
