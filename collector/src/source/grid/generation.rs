//! Recorded generation per source, MW, from the ENTSO-E Transparency Platform.
//!
//! ```text
//! time_utc,biomass_mw,gas_mw,...
//! 2017-12-31T23:00Z,873,568,...      begin of the interval; an empty cell is a gap
//! ```
//!
//! A year's file begins at 23:00 UTC on the last day of the year before (midnight
//! in Berlin) and ends one interval before the next.

use super::{YEARS, Zone, unpack};
use heliostat_models::Timestamp;
use heliostat_models::grid::{Mix, Source};

macro_rules! recording {
    ($zone:literal, $year:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/data/generation/",
            $zone,
            "_",
            $year,
            ".csv.gz"
        ))
    };
}

/// The packed file of a zone and year.
fn packed(zone: Zone, year: i16) -> Option<&'static [u8]> {
    Some(match (zone, year) {
        (Zone::De, 2018) => recording!("DE", "2018"),
        (Zone::De, 2019) => recording!("DE", "2019"),
        (Zone::Fi, 2018) => recording!("FI", "2018"),
        (Zone::Fi, 2019) => recording!("FI", "2019"),
        (Zone::Gr, 2018) => recording!("GR", "2018"),
        (Zone::Gr, 2019) => recording!("GR", "2019"),
        (Zone::It, 2018) => recording!("IT", "2018"),
        (Zone::It, 2019) => recording!("IT", "2019"),
        (Zone::Es, 2018) => recording!("ES", "2018"),
        (Zone::Es, 2019) => recording!("ES", "2019"),
        (Zone::Se, 2018) => recording!("SE", "2018"),
        (Zone::Se, 2019) => recording!("SE", "2019"),
        _ => return None,
    })
}

/// The records of a zone in the order of time; a year is unpacked when the
/// first of its records is asked for.
pub(super) struct Generation {
    zone: Zone,
    from: Timestamp,
    /// The next year to unpack.
    year: i16,
    columns: Vec<Source>,
    /// Rows of the year at hand, oldest last.
    rows: Vec<Row>,
}

/// A row: begin, and MW a column with NaN for a gap. Whole MW fit an `f32` exactly.
struct Row {
    at: Timestamp,
    megawatts: Box<[f32]>,
}

impl Generation {
    /// The records that begin at or after `from`.
    pub(super) fn new(zone: Zone, from: Timestamp) -> Self {
        let mut year = YEARS.0;
        while year < YEARS.1 && begin_of(year + 1).is_some_and(|begin| begin <= from) {
            year += 1;
        }
        Self {
            zone,
            from,
            year,
            columns: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// The next record, if it begins at or before `until`.
    pub(super) fn next_until(
        &mut self,
        until: Timestamp,
    ) -> Result<Option<(Timestamp, Mix)>, String> {
        while self.rows.is_empty() {
            let ahead = begin_of(self.year).is_none_or(|begin| begin > until);
            if self.year > YEARS.1 || ahead {
                return Ok(None);
            }
            self.unpack_year()?;
        }
        let Some(row) = self.rows.pop_if(|row| row.at <= until) else {
            return Ok(None);
        };
        let values = row
            .megawatts
            .iter()
            .map(|mw| (!mw.is_nan()).then_some(f64::from(*mw)));
        let mix = self.columns.iter().copied().zip(values).collect();
        Ok(Some((row.at, mix)))
    }

    fn unpack_year(&mut self) -> Result<(), String> {
        let year = self.year;
        self.year += 1;
        let Some(packed) = packed(self.zone, year) else {
            return Ok(());
        };
        let name = format!("{:?} {year}", self.zone);
        let text = unpack(&name, packed)?;
        (self.columns, self.rows) = parse(&name, &text, self.from)?;
        Ok(())
    }
}

/// When a year's file begins.
fn begin_of(year: i16) -> Option<Timestamp> {
    Timestamp::parse(&format!("{}-12-31T23:00:00Z", year - 1))
}

/// Reads a file: its columns, and its rows from `from` on with the oldest last.
fn parse(name: &str, text: &str, from: Timestamp) -> Result<(Vec<Source>, Vec<Row>), String> {
    let fault = |line: usize, what: &str| format!("recording {name}, line {line}: {what}");
    let mut lines = text.lines().enumerate();
    let header = lines.next().map_or("", |(_, line)| line);
    let mut columns = Vec::new();
    for column in header.split(',').skip(1) {
        let source = Source::from_column(column)
            .ok_or_else(|| fault(1, &format!("`{column}` is no source of electricity")))?;
        columns.push(source);
    }
    let mut rows = Vec::new();
    for (index, line) in lines {
        let mut cells = line.split(',');
        let at = (cells.next().and_then(Timestamp::parse))
            .ok_or_else(|| fault(index + 1, "does not begin with an instant"))?;
        if at < from {
            continue;
        }
        let megawatts: Box<[f32]> = cells
            .map(|cell| match cell {
                "" => Ok(f32::NAN),
                number => number
                    .parse()
                    .map_err(|_| fault(index + 1, &format!("`{number}` is no number"))),
            })
            .collect::<Result<_, _>>()?;
        if megawatts.len() != columns.len() {
            return Err(fault(index + 1, "has more or fewer cells than the header"));
        }
        rows.push(Row { at, megawatts });
    }
    rows.reverse();
    Ok((columns, rows))
}
