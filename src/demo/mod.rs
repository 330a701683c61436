//! `heliostat demo`: the whole loop on a twin hall, in accelerated time, on
//! recorded grid data.

mod account;
mod conductor;
mod grid;
mod pace;
mod screen;
mod stage;
mod summary;

use anyhow::{Context, bail};
use heliostat_models::Timestamp;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Shortest simulated span.
const SHORTEST: Duration = Duration::from_secs(6 * 3_600);
/// Zones with recorded data.
const ZONES: &[&str] = &["DE", "FI", "GR", "IT", "ES", "SE"];

/// A data centre of 256 GPUs in software, read and capped through NVML, sent
/// over MQTT, stored, scheduled and shown, on real generation data.
///
/// The hall runs faster than real time; halfway the grid asks for 30 % less,
/// and time slows to real time until the hall has followed. Two more halls run
/// beside it in memory, with the same jobs and the same seed: one uncapped, one
/// under a uniform cap that draws the same power at every step.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  heliostat demo                                   watch it at the address it prints; Ctrl-C ends it\n  heliostat demo --zone FI --start 2018-11-05      another grid, another week\n  heliostat demo --headless --for 60s --json       print the summary and end"
)]
pub struct Args {
    /// Grid zone whose recorded generation is replayed
    #[arg(long, default_value = "DE", value_parser = clap::builder::PossibleValuesParser::new(ZONES))]
    zone: String,
    /// First simulated instant (2018-01-05 to 2019-12-25), RFC 3339 or a date
    #[arg(long, default_value = "2018-03-12T00:00:00Z", value_parser = parse_start)]
    start: Timestamp,
    /// Simulated time to cover
    #[arg(long, default_value = "48h", value_parser = parse_span)]
    span: Duration,
    /// Real time it may take, all included; a slow machine covers less simulated time in it
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = parse_span)]
    wall: Duration,
    /// Seed of the jobs and of all noise
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Address of the dashboard
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// End after the summary instead of leaving the dashboard up
    #[arg(long)]
    headless: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Keep the data here; without it a temporary directory is used and removed
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

fn parse_start(text: &str) -> Result<Timestamp, String> {
    let at = Timestamp::parse(text).ok_or("write it like 2019-03-12 or 2019-03-12T06:00:00Z")?;
    // Two days of history before, and a plan's horizon after, must be recorded.
    let (first, last) = (
        Timestamp::parse("2018-01-05"),
        Timestamp::parse("2019-12-25"),
    );
    if first.is_some_and(|f| at < f) || last.is_some_and(|l| at > l) {
        return Err("the recorded data allows 2018-01-05 to 2019-12-25".to_owned());
    }
    Ok(at)
}

fn parse_span(text: &str) -> Result<Duration, String> {
    let allowed = "write a number with s, m or h, like 60s, 10m or 48h";
    let (number, unit) = text.split_at(
        text.find(|c: char| c.is_ascii_alphabetic())
            .ok_or(allowed)?,
    );
    let number: f64 = number.parse().map_err(|_| allowed)?;
    let seconds = number
        * match unit {
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            _ => return Err(allowed.to_owned()),
        };
    if !(1.0..=1e6).contains(&seconds) {
        return Err("allowed is 1s to 277h".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Runs the demo.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let longest = Duration::from_secs(14 * 86_400);
    if args.span > longest || args.span < SHORTEST {
        bail!(
            "--span: allowed is 6h to 336h; in less the hall is not full when the grid event comes"
        );
    }
    if args.wall < Duration::from_secs(10) {
        bail!("--for: at least 10s, so that the grid event fits in");
    }
    let runtime =
        tokio::runtime::Runtime::new().context("cannot start the asynchronous runtime")?;
    runtime.block_on(conductor::conduct(args))
}
