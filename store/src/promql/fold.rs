//! Windows that the store has folded: each as a whole, or put together from the
//! parts that windows which overlap share.

use super::data::{ABSENT, Row, is_there};
use super::labels::Labels;
use super::plan::Selector;
use crate::query::{OverTime, Series};
use std::collections::HashMap;

/// What the store is asked to fold, one after the other: a mean over parts needs
/// their sums and counts.
pub(super) fn passes(selector: &Selector) -> impl Iterator<Item = Option<OverTime>> {
    let shared = !selector.is_tiled();
    let (first, second) = match selector.fold {
        Some(OverTime::Avg) if shared => (Some(OverTime::Sum), Some(OverTime::Count)),
        other => (other, None),
    };
    [Some(first), second.map(Some)].into_iter().flatten()
}

/// Width of what the store folds, milliseconds.
pub(super) fn step(selector: &Selector) -> u64 {
    (selector.tile as u64).saturating_add(u64::from(selector.closed))
}

/// How many parts the windows of a selector have.
pub(super) fn tiles(selector: &Selector) -> usize {
    let references = &selector.references;
    if selector.is_tiled() {
        return references.count;
    }
    let span = (references.last().saturating_sub(references.start)).saturating_add(selector.reach);
    usize::try_from(span / selector.tile.max(1)).unwrap_or(usize::MAX)
}

/// Parts of windows, by series.
#[derive(Debug, Default)]
pub(super) struct Tiles {
    rows: Vec<Row>,
    /// How many values each part has, where that is needed.
    counts: Vec<Vec<f64>>,
    places: HashMap<Labels, usize>,
}

impl Tiles {
    /// How many series there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Takes what the store has folded of a series; `second`: how many values
    /// there are. Returns how many values it keeps.
    pub(super) fn add(
        &mut self,
        selector: &Selector,
        labels: Labels,
        series: &Series,
        second: bool,
    ) -> usize {
        let (first, _) = selector.span();
        let mut values = vec![ABSENT; tiles(selector)];
        for point in &series.points {
            let index = point.at.0.saturating_sub(first) as u64 / step(selector).max(1);
            if let (Some(cell), Some(value)) = (values.get_mut(index as usize), point.value) {
                *cell = value;
            }
        }
        let kept = values.len();
        if second {
            if let Some(place) = self.places.get(&labels) {
                self.counts.resize(self.rows.len(), Vec::new());
                self.counts[*place] = values;
            }
        } else {
            self.places.insert(labels.clone(), self.rows.len());
            self.rows.push(Row { labels, values });
        }
        kept
    }

    /// One value a window.
    pub(super) fn windows(self, selector: &Selector) -> Vec<Row> {
        let (Some(fold), true) = (selector.fold, !selector.is_tiled()) else {
            return self.rows;
        };
        let per_window = (selector.reach / selector.tile) as usize;
        let per_step = (selector.references.step / selector.tile) as usize;
        let counts = self.counts.into_iter().chain(std::iter::repeat(Vec::new()));
        (self.rows.into_iter().zip(counts))
            .map(|(row, counts)| {
                let window = |index: usize| {
                    let begin = index * per_step;
                    let of = |all: &[f64]| -> Vec<f64> {
                        let part = all.get(begin..begin + per_window).unwrap_or_default();
                        part.iter().copied().filter(|v| is_there(*v)).collect()
                    };
                    joined(fold, &of(&row.values), &of(&counts))
                };
                Row {
                    values: (0..selector.references.count).map(window).collect(),
                    labels: row.labels,
                }
            })
            .collect()
    }
}

/// The value of a window from those of its parts.
fn joined(fold: OverTime, parts: &[f64], counts: &[f64]) -> f64 {
    let sum = |all: &[f64]| super::stats::sum(all);
    let value = match fold {
        OverTime::Avg => (!counts.is_empty()).then(|| sum(parts) / sum(counts)),
        OverTime::Min => super::window::extreme(parts, |new, known| new < known),
        OverTime::Max => super::window::extreme(parts, |new, known| new > known),
        OverTime::Last => parts.last().copied(),
        _ => Some(sum(parts)),
    };
    value.filter(|_| !parts.is_empty()).unwrap_or(ABSENT)
}

#[cfg(test)]
mod tests {
    use super::super::plan::Grid;
    use super::*;
    use crate::query::{Label, Point};
    use heliostat_models::{Quality, Timestamp};
    use proptest::prelude::*;

    type Fold = fn(&[f64]) -> f64;

    /// Series whose parts of `width` hold these values.
    fn folded(parts: &[Vec<f64>], from: i64, width: i64, fold: Fold) -> Series {
        let points = (parts.iter().enumerate())
            .filter(|(_, part)| !part.is_empty())
            .map(|(index, part)| Point {
                at: Timestamp(from + index as i64 * width),
                value: Some(fold(part)),
                quality: Quality::Measured,
            })
            .collect();
        let labels = vec![(Label::Device, "a".to_owned())];
        Series { labels, points }
    }

    proptest! {
        /// Windows put together from parts are those of all their values.
        #[test]
        fn windows_of_parts_are_windows_of_values(
            parts in prop::collection::vec(prop::collection::vec(-50.0..50.0f64, 0..4), 1..30),
            per_window in 1usize..6, per_step in 1usize..4,
        ) {
            prop_assume!(parts.len() >= per_window && per_window != per_step);
            let width = 60_000;
            let count = (parts.len() - per_window) / per_step + 1;
            prop_assume!(count > 1);
            let reach = per_window as i64 * width;
            let references = Grid { start: reach, step: per_step as i64 * width, count };
            let all: [(OverTime, &[Fold]); 4] = [
                (OverTime::Avg, &[|v| v.iter().sum(), |v| v.len() as f64]),
                (OverTime::Sum, &[|v| v.iter().sum()]),
                (OverTime::Max, &[|v| v.iter().copied().fold(f64::MIN, f64::max)]),
                (OverTime::Last, &[|v| v[v.len() - 1]]),
            ];
            for (fold, passes) in all {
                let selector = Selector {
                    matchers: vec![], references, reach, latest_only: false, closed: false,
                    fold: Some(fold), tile: width, across: None,
                };
                let (first, _) = selector.span();
                let mut found = Tiles::default();
                for (pass, function) in passes.iter().enumerate() {
                    let series = folded(&parts, first, width, *function);
                    found.add(&selector, Labels::default(), &series, pass == 1);
                }
                let rows = found.windows(&selector);
                for (index, value) in rows[0].values.iter().enumerate() {
                    let begin = index * per_step;
                    let within: Vec<f64> = parts[begin..begin + per_window].concat();
                    if within.is_empty() {
                        prop_assert!(!is_there(*value));
                        continue;
                    }
                    let sum: f64 = within.iter().sum();
                    let wanted = match fold {
                        OverTime::Avg => sum / within.len() as f64,
                        OverTime::Sum => sum,
                        OverTime::Max => within.iter().copied().fold(f64::MIN, f64::max),
                        _ => within[within.len() - 1],
                    };
                    prop_assert!((value - wanted).abs() < 1e-9, "{fold:?} {value} {wanted}");
                }
            }
        }
    }
}
