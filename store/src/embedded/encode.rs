//! Rows of a day and kind of device become files: the rows as they are, and
//! condensed.

use super::condense::condense;
use super::manifest::Tier;
use super::segment::{Encoded, FileWriter, GROUP_ROWS, OwnedRows, Plan, Precision, Rows};
use heliostat_models::{Catalogue, DeviceId};
use parquet::errors::ParquetError;

/// Files with their tiers; the raw one is first.
pub type Files = Vec<(Tier, Encoded)>;

/// A raw file on its way, and what its rollups will hold.
pub struct Output {
    raw: FileWriter,
    rows: usize,
    condensed: Vec<(Tier, Vec<(String, OwnedRows)>)>,
}

impl Output {
    /// Begins a file.
    pub fn new(plan: &Plan) -> Result<Self, ParquetError> {
        Ok(Self {
            raw: FileWriter::new(plan.clone())?,
            rows: 0,
            condensed: Tier::ROLLUPS.into_iter().map(|t| (t, Vec::new())).collect(),
        })
    }

    /// Bytes of the raw file so far.
    pub fn length(&self) -> usize {
        self.raw.length()
    }

    /// Writes a row group: whole devices by rising name.
    pub fn group(&mut self, devices: &[(DeviceId, OwnedRows)]) -> Result<(), ParquetError> {
        let rows: Vec<_> = (devices.iter())
            .map(|(device, rows)| rows.borrow(device.as_str()))
            .collect();
        for ((device, _), rows) in devices.iter().zip(&rows) {
            let condensed = condense(rows, Catalogue::builtin());
            for ((_, all), (_, condensed)) in self.condensed.iter_mut().zip(condensed) {
                all.push((device.to_string(), condensed));
            }
        }
        self.rows += rows.iter().map(|r| r.times.len()).sum::<usize>();
        self.raw.group(&rows)
    }

    /// The raw file and its rollups; one of those is written where it has at most
    /// one row for `worth` raw ones.
    pub fn finish(self, worth: usize) -> Result<Files, ParquetError> {
        let catalogue = Catalogue::builtin();
        let mut files = vec![(Tier::Raw, self.raw.finish(catalogue)?)];
        for (tier, condensed) in &self.condensed {
            files.extend(encode_rollup(
                *tier,
                condensed,
                (self.rows, worth),
                catalogue,
            )?);
        }
        Ok(files)
    }
}

/// A rollup's file; none where it would be hardly shorter than the raw rows, of
/// devices that are read as seldom as once a step.
fn encode_rollup(
    tier: Tier,
    condensed: &[(String, OwnedRows)],
    (raw_rows, worth): (usize, usize),
    catalogue: &Catalogue,
) -> Result<Option<(Tier, Encoded)>, ParquetError> {
    let rows: usize = condensed.iter().map(|(_, rows)| rows.times.len()).sum();
    if rows * worth > raw_rows {
        return Ok(None);
    }
    let rows: Vec<Rows<'_>> = (condensed.iter())
        .map(|(device, rows)| rows.borrow(device))
        .collect();
    // Of values that are rounded already nothing more is rounded.
    let file = encode_rows(&rows, &Precision::Lossless, catalogue)?;
    Ok(Some((tier, file)))
}

/// A file of these rows.
fn encode_rows(
    devices: &[Rows<'_>],
    precision: &Precision,
    catalogue: &Catalogue,
) -> Result<Encoded, ParquetError> {
    let mut plan = Plan::default();
    for rows in devices {
        plan.see(rows, precision, catalogue);
    }
    let mut file = FileWriter::new(plan)?;
    let mut rest = devices;
    while !rest.is_empty() {
        let mut rows = 0;
        let count = rest.iter().take_while(|d| {
            let fits = rows < GROUP_ROWS;
            rows += d.times.len();
            fits
        });
        let (group, others) = rest.split_at(count.count());
        file.group(group)?;
        rest = others;
    }
    file.finish(catalogue)
}
