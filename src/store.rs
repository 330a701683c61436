//! `heliostat store`: looks after the store of a server that is not running.

use crate::files::load_site;
use crate::offline;
use anyhow::{Context, bail};
use heliostat_models::Timestamp;
use heliostat_models::time::span;
use heliostat_store::condensed;
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::embedded::maintain;
use heliostat_store::transfer;
use heliostat_store::{Clock, StoreError, TimeSeriesStore, WallClock};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const DAY_MS: i64 = 86_400_000;

/// Look after the store of a stopped server.
///
/// Its segments are Parquet files that pandas, DuckDB and Polars read as they
/// lie (DATA/store/segments/**/*.parquet); catalogue.json beside them says what
/// the columns mean.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  heliostat store verify --data ./data\n  heliostat store snapshot --data ./data --to /backup/monday\n  heliostat store export --site site.toml --data ./data --from last-24h --to last --out day.csv\n  heliostat store export --site site.toml --data ./data --from 2026-01-01 --step 1h --out year.csv\n  heliostat store import --site site.toml --data ./elsewhere --new --file day.csv"
)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Hold every byte against its checksum and name what is damaged; changes nothing
    Verify(Data),
    /// Bring the files of each day together and remove what the retention allows to go
    Compact(Sited),
    /// Copy the store into a new directory
    Snapshot {
        #[command(flatten)]
        data: Data,
        /// Where to; must not exist yet or be empty
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Write readings as CSV: device,time,metric,value,quality; with --step what became of them in each step
    Export {
        #[command(flatten)]
        sited: Sited,
        /// Begin, inclusive: now-24h, last-24h (from the newest frame), 2019-03-01T12:00:00Z or 2019-03-01
        #[arg(long, value_name = "INSTANT")]
        from: String,
        /// End, exclusive
        #[arg(long, value_name = "INSTANT", default_value = "now")]
        to: String,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// A line for each step (1m, 15m, 1h, 1d) instead of each reading: count, min, max, sum, last and
        /// energy, from the rollups, which outlive the readings; begin and end are widened to whole steps
        #[arg(long, value_name = "STEP")]
        step: Option<String>,
    },
    /// Append readings that `export` wrote; what is there already is skipped
    Import {
        #[command(flatten)]
        sited: Sited,
        /// The file to read
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Make the data directory and the store in it if they are not there
        #[arg(long)]
        new: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Data {
    /// Data directory of the server
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Sited {
    /// Site file (see `heliostat check`)
    #[arg(long, value_name = "FILE")]
    site: PathBuf,
    #[command(flatten)]
    data: Data,
}

impl Data {
    /// The store's directory.
    fn store(&self) -> anyhow::Result<PathBuf> {
        self.store_or_new(false)
    }

    /// The store's directory, which with `new` need not be one yet.
    fn store_or_new(&self, new: bool) -> anyhow::Result<PathBuf> {
        let directory = self.data.join("store");
        if !new && !directory.join("LOCK").exists() {
            bail!(
                "there is no store in {}; give the directory that `heliostat run --data` was given",
                self.data.display()
            );
        }
        Ok(directory)
    }
}

impl Sited {
    /// Opens the store to write; with `new` makes one if there is none.
    fn open(&self, new: bool) -> anyhow::Result<Arc<EmbeddedStore>> {
        let site = Arc::new(load_site(&self.site)?);
        Ok(EmbeddedStore::open(
            &self.data.store_or_new(new)?,
            site,
            Arc::new(WallClock),
        )?)
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match &args.action {
        Action::Verify(data) => verify(&data.store()?),
        Action::Compact(sited) => runtime.block_on(compact(sited)),
        Action::Snapshot { data, to } => snapshot(&data.store()?, to),
        Action::Export {
            sited,
            from,
            to,
            out,
            step,
        } => runtime.block_on(export(sited, (from, to), step.as_deref(), out)),
        Action::Import { sited, file, new } => runtime.block_on(import(sited, file, *new)),
    }
}

/// A bar of bytes on standard error; drawn only where that is a terminal.
fn bar(what: &'static str) -> anyhow::Result<ProgressBar> {
    let style = "{msg} {wide_bar} {bytes} of {total_bytes} {eta}";
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?);
    Ok(bar.with_message(what))
}

fn verify(directory: &Path) -> anyhow::Result<ExitCode> {
    let bar = bar("verifying")?;
    let found = maintain::verify(directory, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    for fault in &found.faults {
        println!("damaged: {fault}");
    }
    println!(
        "{} files, {} bytes, {} frames, {} faults",
        found.files,
        found.bytes,
        found.frames,
        found.faults.len()
    );
    if found.faults.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "heliostat: all else is served; restore the files named above from a copy, or leave them"
    );
    Ok(ExitCode::FAILURE)
}

async fn compact(sited: &Sited) -> anyhow::Result<ExitCode> {
    let store = sited.open(false)?;
    let before = store.stats();
    let spinner = ProgressBar::new_spinner().with_message("bringing files together");
    spinner.enable_steady_tick(Duration::from_millis(200));
    store.compact().await?;
    spinner.finish_and_clear();
    let after = store.stats();
    store.close().await;
    println!(
        "{} frames; {} bytes before, {} after",
        after.frames, before.disk_bytes, after.disk_bytes
    );
    if after.damaged > 0 {
        eprintln!(
            "heliostat: what is damaged was left as it is; `heliostat store verify` names it"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn snapshot(directory: &Path, to: &Path) -> anyhow::Result<ExitCode> {
    let target = to.join("store");
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if whole(&target).starts_with(whole(directory)) {
        bail!(
            "{} lies within the store that is to be copied; give a directory outside {}",
            to.display(),
            directory.display()
        );
    }
    let bar = bar("copying")?;
    let bytes = maintain::snapshot(directory, &target, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    println!("{bytes} bytes copied to {}", target.display());
    Ok(ExitCode::SUCCESS)
}

async fn export(
    sited: &Sited,
    (from, to): (&str, &str),
    step: Option<&str>,
    out: &Path,
) -> anyhow::Result<ExitCode> {
    let step = step.map(step_ms).transpose()?;
    let Some(offline) = offline::open(&sited.site, &sited.data.data)? else {
        return Err(in_use(sited));
    };
    let now = WallClock.now();
    let mut span = (
        offline.instant(from, now).await?,
        offline.instant(to, now).await?,
    );
    if let Some(step) = step {
        let begin = span.0.0.div_euclid(step) * step;
        let end = (span.1.0.saturating_add(step - 1)).div_euclid(step) * step;
        span = (Timestamp(begin), Timestamp(end));
    }
    if span.0 >= span.1 {
        bail!("the interval from {} to {} is empty", span.0, span.1);
    }
    let writing = || format!("cannot write {}", out.display());
    let mut file = BufWriter::new(File::create(out).with_context(writing)?);
    let bar = bar("exporting")?.with_style(ProgressStyle::with_template(
        "{msg} {wide_bar} {percent} % {eta}",
    )?);
    let store: &dyn TimeSeriesStore = &*offline.store;
    let mut progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let carried = match step {
        None => transfer::export(store, span, &mut file, &mut progress).await?,
        Some(step) => {
            condensed::export(store, span, step.unsigned_abs(), &mut file, &mut progress).await?
        }
    };
    bar.finish_and_clear();
    let what = if step.is_some() { "lines" } else { "readings" };
    println!("{} {what} written to {}", carried.samples, out.display());
    if carried.samples == 0 {
        eprintln!(
            "heliostat: the store has nothing from {} to {}; `--from last-24h --to last` counts from its newest frame{}",
            span.0,
            span.1,
            if step.is_some() {
                ""
            } else {
                ", and --step 1h asks the rollups, which outlive the readings"
            }
        );
    }
    if store.stats().damaged > 0 {
        eprintln!(
            "heliostat: what is damaged is missing from it; `heliostat store verify` names the files"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// A step as it is written: milliseconds, a part of a day.
fn step_ms(text: &str) -> anyhow::Result<i64> {
    span(text)
        .and_then(|step| i64::try_from(step.as_millis()).ok())
        .filter(|step| *step > 0 && DAY_MS % *step == 0)
        .with_context(|| {
            format!("`{text}` is no step; write a part of a day such as 1m, 15m, 1h or 1d")
        })
}

async fn import(sited: &Sited, path: &Path, new: bool) -> anyhow::Result<ExitCode> {
    let reading = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(reading)?;
    let bar = bar("importing")?;
    bar.set_length(file.metadata().with_context(reading)?.len());
    let store = sited.open(new)?;
    let mut input = BufReader::new(file);
    let carried = transfer::import(&*store, &mut input, &mut |done| bar.set_position(done)).await;
    bar.finish_and_clear();
    store.close().await;
    let carried = carried.with_context(reading)?;
    println!(
        "{} readings stored, {} were there already",
        carried.samples, carried.duplicates
    );
    Ok(ExitCode::SUCCESS)
}

fn in_use(sited: &Sited) -> anyhow::Error {
    let path = sited.data.data.join("store").display().to_string();
    StoreError::InUse { path }.into()
}
