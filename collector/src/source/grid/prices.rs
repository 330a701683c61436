//! Recorded day-ahead prices, EUR/MWh, of 2018 (Bundesnetzagentur | SMARD.de).
//!
//! The file is in German local time without an offset. On 25 March 02:00 does
//! not exist, and on 28 October 02:00 stands twice: the first is summer time.

use super::{Zone, pop_if, unpack};
use heliostat_models::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use std::collections::VecDeque;

const PACKED: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/data/prices/smard_day_ahead_2018.csv.gz"
));

/// Prices in the order of time.
pub(super) struct Prices {
    rows: VecDeque<(Timestamp, f64)>,
}

/// The columns that hold a zone's price, each valid while it has a value.
fn columns(zone: Zone) -> &'static [&'static str] {
    match zone {
        Zone::De => &["Germany/Luxembourg", "Germany/Austria/Luxembourg"],
        Zone::It => &["Northern Italy"],
        Zone::Fi | Zone::Gr | Zone::Es | Zone::Se => &[],
    }
}

impl Prices {
    /// Reads the prices of a zone; none where none were recorded.
    pub(super) fn read(zone: Zone) -> Result<Self, String> {
        let columns = columns(zone);
        if columns.is_empty() {
            return Ok(Self {
                rows: VecDeque::new(),
            });
        }
        let text = unpack("of prices", PACKED)?;
        Ok(Self {
            rows: parse(&text, columns)?,
        })
    }

    /// Forgets prices that begin before an instant.
    pub(super) fn skip_before(&mut self, from: Timestamp) {
        while pop_if(&mut self.rows, |(at, _)| *at < from).is_some() {}
    }

    /// The prices that begin at or before an instant and were not taken yet.
    pub(super) fn take_until(&mut self, until: Timestamp) -> Vec<(Timestamp, f64)> {
        std::iter::from_fn(|| pop_if(&mut self.rows, |(at, _)| *at <= until)).collect()
    }
}

fn parse(text: &str, columns: &[&str]) -> Result<VecDeque<(Timestamp, f64)>, String> {
    let fault = |line: usize, what: &str| format!("recording of prices, line {line}: {what}");
    let berlin = TimeZone::get("Europe/Berlin").map_err(|e| fault(0, &e.to_string()))?;
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text.lines().enumerate();
    let header = lines.next().map_or("", |(_, line)| line);
    let mut places = Vec::new();
    for column in columns {
        let named = |cell: &str| cell.split('[').next() == Some(*column);
        let place = (header.split(';').position(named))
            .ok_or_else(|| fault(1, &format!("there is no column `{column}`")))?;
        places.push(place);
    }
    let mut rows: VecDeque<(Timestamp, f64)> = VecDeque::new();
    let mut before = None;
    for (index, line) in lines {
        let line_number = index + 1;
        let cells: Vec<&str> = line.split(';').collect();
        let at = instant(&cells, &berlin, before).ok_or_else(|| {
            fault(
                line_number,
                "does not begin with a date and a time of day that follow the line before",
            )
        })?;
        before = Some(at);
        let values = places.iter().filter_map(|place| cells.get(*place).copied());
        let Some(value) = values.into_iter().find(|value| *value != "-") else {
            continue;
        };
        // Thousands are set apart with a comma in this export.
        let price = value
            .replace(',', "")
            .parse()
            .map_err(|_| fault(line_number, &format!("`{value}` is no price")))?;
        rows.push_back((at, price));
    }
    Ok(rows)
}

/// The instant of a row. A local time that occurs twice is the first occurrence,
/// unless that was the row before.
fn instant(cells: &[&str], berlin: &TimeZone, before: Option<Timestamp>) -> Option<Timestamp> {
    let date = Date::strptime("%b %d, %Y", cells.first()?).ok()?;
    let time = Time::strptime("%I:%M %p", cells.get(1)?).ok()?;
    let local = date.to_datetime(time);
    let ambiguous = berlin.to_ambiguous_timestamp(local);
    let found = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok()?,
        AmbiguousOffset::Fold {
            before: summer,
            after: winter,
        } => {
            let first = summer.to_timestamp(local).ok()?;
            match before {
                Some(before) if first.as_millisecond() <= before.0 => {
                    winter.to_timestamp(local).ok()?
                }
                _ => first,
            }
        }
        // An hour that does not exist cannot have a price.
        AmbiguousOffset::Gap { .. } => return None,
    };
    let found = Timestamp(found.as_millisecond());
    before.is_none_or(|before| found > before).then_some(found)
}
