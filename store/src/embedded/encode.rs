//! Rows of a day and kind of device become files: the rows as they are, and
//! condensed.

use super::condense::Condenser;
use super::manifest::Tier;
use super::segment::{Decimals, Encoded, FileWriter, Plan, Scratch, Table};
use heliostat_models::Catalogue;
use parquet::errors::ParquetError;

/// Rows of a rollup after which a row group is closed: a rollup has many columns,
/// all of which are in memory until then.
const ROLLUP_ROWS: usize = 8_192;

/// Files with their tiers; the raw one is first.
pub type Files = Vec<(Tier, Encoded)>;

/// A raw file on its way, and its rollups.
pub struct Output {
    scratch: Scratch,
    decimals: Decimals,
    raw: FileWriter,
    condenser: Condenser,
    rollups: Vec<FileWriter>,
}

impl Output {
    /// Begins a file.
    pub fn new(plan: &Plan) -> Result<Self, ParquetError> {
        Ok(Self {
            scratch: Scratch::new()?,
            decimals: Decimals::default(),
            raw: FileWriter::new(plan.clone()),
            condenser: Condenser::default(),
            // Of values that are rounded already nothing more is rounded.
            rollups: (Tier::ROLLUPS.iter())
                .map(|_| FileWriter::new(Plan::default()))
                .collect(),
        })
    }

    /// Bytes of the raw file so far.
    pub fn length(&self) -> usize {
        self.raw.length()
    }

    /// Writes a row group: whole devices by rising name.
    pub fn group(&mut self, table: &mut Table) -> Result<(), ParquetError> {
        let catalogue = Catalogue::builtin();
        table.fill();
        self.raw.begin_group(&mut self.scratch, table)?;
        self.condenser.begin(table);
        for column in table.columns.iter().filter(|c| c.says_something()) {
            let least = self.raw.least_scale(column.key, catalogue);
            let found = (self.decimals).find(&column.states, &column.values, least);
            let decimals = found.then_some(&self.decimals);
            (self.raw).column(&mut self.scratch, column, decimals, catalogue)?;
            (self.condenser).column(&table.times, column, decimals, catalogue);
        }
        self.write_rollups(ROLLUP_ROWS)
    }

    fn write_rollups(&mut self, least: usize) -> Result<(), ParquetError> {
        for (file, table) in self.rollups.iter_mut().zip(&mut self.condenser.rollups) {
            if table.rows() >= least {
                file.group(&mut self.scratch, table, Catalogue::builtin())?;
                table.clear();
            }
        }
        Ok(())
    }

    /// The raw file and its rollups; one of those is written where it has at most
    /// one row for `worth` raw ones: of devices that are read as seldom as once a
    /// step it would be hardly shorter than the raw rows.
    pub fn finish(mut self, worth: usize) -> Result<Files, ParquetError> {
        let catalogue = Catalogue::builtin();
        self.write_rollups(1)?;
        let rows = self.raw.rows();
        let mut files = vec![(Tier::Raw, self.raw.finish(&mut self.scratch, catalogue)?)];
        for (tier, file) in Tier::ROLLUPS.into_iter().zip(self.rollups) {
            if file.rows().saturating_mul(worth as u64) <= rows {
                files.push((tier, file.finish(&mut self.scratch, catalogue)?));
            }
        }
        Ok(files)
    }
}
