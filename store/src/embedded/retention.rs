//! Retention: how long the files of each tier are kept. A raw file goes only
//! when its rollups are there, so that a year stays to be asked about after its
//! seconds are gone.

use super::manifest::{DAY_MS, Entry, Tier};
use super::seal::commit;
use super::{Options, Shared};
use crate::query::StoreError;
use heliostat_models::Timestamp;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

const DAY: u64 = 86_400;

/// How long each tier is kept, counted from the end of the day by the site's
/// clock; [`Duration::MAX`] is for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Frames as they came.
    pub raw: Duration,
    /// Kinds of device whose frames are kept for another time: meters and the
    /// grid say little and are asked about for years.
    pub raw_of: Vec<(String, Duration)>,
    /// Minutes.
    pub minute: Duration,
    /// Quarters of an hour.
    pub quarter: Duration,
    /// Hours.
    pub hour: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days| Duration::from_secs(days * DAY);
        Self {
            raw: days(90),
            raw_of: ["meter", "cooling", "grid"]
                .map(|kind| (kind.to_owned(), days(3_653)))
                .to_vec(),
            minute: days(366),
            quarter: days(731),
            hour: days(3_653),
        }
    }
}

impl Retention {
    /// Keeps everything.
    pub fn forever() -> Self {
        Self {
            raw: Duration::MAX,
            raw_of: Vec::new(),
            minute: Duration::MAX,
            quarter: Duration::MAX,
            hour: Duration::MAX,
        }
    }

    fn of(&self, tier: Tier, kind: &str) -> Duration {
        match tier {
            Tier::Raw => (self.raw_of.iter())
                .find(|(of, _)| of == kind)
                .map_or(self.raw, |(_, kept)| *kept),
            Tier::Minute => self.minute,
            Tier::Quarter => self.quarter,
            Tier::Hour => self.hour,
        }
    }

    fn is_over(&self, entry: &Entry, now: Timestamp) -> bool {
        let kept = self.of(entry.tier, &entry.kind);
        let end = entry.day.saturating_add(1).saturating_mul(DAY_MS);
        kept != Duration::MAX && Timestamp(end) + kept <= now
    }
}

/// Removes the files whose time is over, by the clock or by the newest day in the
/// store, whichever is earlier; returns how many.
pub fn run(
    directory: &Path,
    shared: &Shared,
    options: &Options,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let gone: BTreeMap<u64, Entry> = {
        let manifest = shared.manifest();
        // A store of the past that is only looked at, or filled, today is not emptied.
        let newest = manifest.files.iter().map(|e| e.day).max().unwrap_or(0);
        let now = now.min(Timestamp(newest.saturating_add(1).saturating_mul(DAY_MS)));
        let has_hours: HashSet<u64> = (manifest.files.iter())
            .filter(|e| e.tier == Tier::Hour)
            .filter_map(|e| e.of)
            .collect();
        (manifest.files.iter())
            .filter(|e| options.retention.is_over(e, now))
            .filter(|e| e.tier != Tier::Raw || has_hours.contains(&e.id))
            .map(|e| (e.id, e.clone()))
            .collect()
    };
    if gone.is_empty() {
        return Ok(0);
    }
    let remove = |manifest: &mut super::manifest::Manifest| {
        manifest.files.retain(|e| !gone.contains_key(&e.id));
    };
    commit(directory, shared, options, Vec::new(), remove, |state| {
        state.retire_files(&gone.keys().copied().collect());
        for entry in gone.values() {
            state.stats.disk_bytes = state.stats.disk_bytes.saturating_sub(entry.bytes);
            if entry.tier == Tier::Raw {
                state.stats.frames = state.stats.frames.saturating_sub(entry.frames);
                state.stats.samples = state.stats.samples.saturating_sub(entry.samples);
            }
        }
    })?;
    tracing::info!(
        files = gone.len(),
        "files older than the retention allows were removed"
    );
    Ok(gone.len())
}
