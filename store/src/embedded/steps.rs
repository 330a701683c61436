//! One device's samples become one value a step.
//!
//! Qualities: the worst that went in wins, and a step in which a reading was
//! missing is an estimate of the whole step at best. Of a counter a missing
//! reading takes nothing away, because the next reading has counted on.

use super::codec::{ESTIMATED, has_value};
use super::head::Sample;
use super::reader::Energy;
use super::rollup::{Partial, Traced};
use crate::promql::quantile;
use crate::query::OverTime;
use crate::question::MAX_POINTS;
use std::collections::{BTreeMap, BTreeSet};

/// Gaps of at most this many median spacings are integrated over.
pub const GAP_LIMIT: u64 = 5;

/// A step of one device. Without a value it is missing: known to have been left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepValue {
    /// Number of the step, from the begin of the query.
    pub index: u64,
    /// The value.
    pub value: Option<f64>,
    /// Whether something estimated or incomplete went in.
    pub estimated: bool,
}

/// Takes samples by rising time and gives steps.
#[derive(Debug)]
pub struct Stepper {
    from: i64,
    step: u64,
    over_time: OverTime,
    /// Longest gap that is integrated over, milliseconds.
    gap_limit: u64,
    previous: Option<Sample>,
    /// A reading was missing since the previous value.
    bridged: bool,
    current: Option<Current>,
    /// Values of the step at hand, where all of them are needed.
    values: Vec<f64>,
    /// Steps of which there were samples that are no longer left.
    left: BTreeSet<u64>,
    done: Vec<StepValue>,
    overflow: bool,
}

/// The step at hand.
#[derive(Clone, Copy, Debug)]
struct Current {
    index: u64,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    last: f64,
    /// Time that increases or integrals speak of, milliseconds.
    covered: u64,
    estimated: bool,
    /// Something is missing from it.
    incomplete: bool,
}

impl Stepper {
    /// Steps of `step` milliseconds from `from`. `gap_limit` in milliseconds
    /// counts for integrals only.
    pub fn new(from: i64, step: u64, over_time: OverTime, gap_limit: u64) -> Self {
        Self {
            from,
            step: step.max(1),
            over_time,
            gap_limit,
            previous: None,
            bridged: false,
            current: None,
            values: Vec::new(),
            left: BTreeSet::new(),
            done: Vec::new(),
            overflow: false,
        }
    }

    /// Takes the next samples.
    pub fn push(&mut self, samples: &[Sample]) {
        for sample in samples {
            match self.over_time {
                OverTime::Increase | OverTime::Rate => self.count_on(sample, None),
                OverTime::Integral => self.integrate(sample),
                _ => self.collect(sample),
            }
        }
    }

    /// Takes values of a counter by rising time.
    pub fn push_traced(&mut self, values: &[Traced]) {
        for value in values {
            self.count_on(&value.sample, value.since);
        }
    }

    /// Takes note of steps of which there were samples that are no longer left.
    pub fn push_left(&mut self, parts: &[Partial]) {
        let (from, step) = (self.from, self.step);
        let left = parts.iter().map(|part| since(from, part.at) / step);
        self.left.extend(left);
    }

    /// Takes parts of steps by rising time; for values, not for counters and integrals.
    pub fn push_partials(&mut self, partials: &[Partial]) {
        for partial in partials {
            let step = self.at(since(self.from, partial.at) / self.step);
            step.incomplete |= partial.missing;
            if partial.count > 0 {
                step.count += partial.count;
                step.sum += partial.sum;
                step.min = step.min.min(partial.min);
                step.max = step.max.max(partial.max);
                step.last = partial.last;
                step.estimated |= partial.estimated;
            }
        }
    }

    /// Takes the energy of whole steps of a rollup by rising time, before any
    /// sample; each counts for the step that it begins in.
    pub fn push_energies(&mut self, energies: &[Energy]) {
        for energy in energies {
            let whole = energy.at.saturating_add(energy.width_ms as i64 - 1);
            let cut = self.index(whole) != self.index(energy.at);
            let step = self.at(since(self.from, energy.at) / self.step);
            step.sum += energy.measured + energy.estimated;
            step.covered += (energy.known_seconds * 1e3).round() as u64;
            step.estimated |= energy.estimated != 0.0;
            step.incomplete |= cut || energy.known_seconds * 1e3 < energy.width_ms as f64 - 0.5;
        }
    }

    /// Whether there are more steps than a query may return.
    pub fn overflow(&self) -> bool {
        self.overflow || self.done.len() > MAX_POINTS
    }

    /// The steps, by rising number.
    pub fn finish(mut self) -> Vec<StepValue> {
        self.close();
        for index in self.left {
            match self.done.binary_search_by_key(&index, |step| step.index) {
                Ok(place) => self.done[place].estimated = true,
                Err(place) => self.done.insert(
                    place,
                    StepValue {
                        index,
                        value: None,
                        estimated: true,
                    },
                ),
            }
        }
        self.done
    }

    fn index(&self, at: i64) -> u64 {
        since(self.from, at) / self.step
    }

    /// The step with this number, begun if need be.
    fn at(&mut self, index: u64) -> &mut Current {
        if self.current.is_none_or(|c| c.index != index) {
            self.close();
        }
        self.current.get_or_insert(Current {
            index,
            count: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            last: 0.0,
            covered: 0,
            estimated: false,
            incomplete: false,
        })
    }

    fn close(&mut self) {
        let Some(c) = self.current.take() else { return };
        let value = match self.over_time {
            OverTime::Avg => (c.count > 0).then(|| c.sum / c.count as f64),
            OverTime::Min => (c.count > 0).then_some(c.min),
            OverTime::Max => (c.count > 0).then_some(c.max),
            OverTime::Sum => (c.count > 0).then_some(c.sum),
            OverTime::Count => (c.count > 0).then_some(c.count as f64),
            OverTime::Last => (c.count > 0).then_some(c.last),
            OverTime::Increase => (c.covered > 0).then_some(c.sum),
            OverTime::Rate => (c.covered > 0).then(|| c.sum / (c.covered as f64 / 1_000.0)),
            OverTime::Integral => (c.covered > 0).then_some(c.sum),
            OverTime::Quantile(q) => {
                let value = (c.count > 0).then(|| quantile(q, &mut self.values));
                self.values.clear();
                value
            }
        };
        // A step without values is no point; only an integral says that it left something out.
        if value.is_some() || (self.over_time == OverTime::Integral && c.incomplete) {
            self.done.push(StepValue {
                index: c.index,
                value,
                estimated: c.estimated || c.incomplete,
            });
        }
    }

    fn collect(&mut self, sample: &Sample) {
        let step = self.at(since(self.from, sample.at) / self.step);
        if !has_value(sample.state) {
            step.incomplete = true;
            return;
        }
        step.count += 1;
        step.sum += sample.value;
        step.min = step.min.min(sample.value);
        step.max = step.max.max(sample.value);
        step.last = sample.value;
        step.estimated |= sample.state == ESTIMATED;
        if matches!(self.over_time, OverTime::Quantile(_)) {
            self.values.push(sample.value);
        }
    }

    /// The growth between two values counts for the step of the later one.
    /// `through`: what had been counted at restarts between, where values between
    /// are known to a rollup, and whether one of those is estimated.
    fn count_on(&mut self, sample: &Sample, through: Option<(f64, bool)>) {
        if !has_value(sample.state) {
            return;
        }
        if let Some(before) = self.previous.replace(*sample) {
            // A drop is a restart at zero: what was counted since is the new value.
            let growth = match through {
                Some((restarts, _)) => sample.value - before.value + restarts,
                None if sample.value >= before.value => sample.value - before.value,
                None => sample.value,
            };
            let index = self.index(sample.at);
            let step = self.at(index);
            step.sum += growth;
            step.covered += since(before.at, sample.at);
            step.estimated |= before.state == ESTIMATED || sample.state == ESTIMATED;
            step.estimated |= through.is_some_and(|(_, estimated)| estimated);
        }
    }

    /// The trapezoid between two values, split at the steps' borders.
    fn integrate(&mut self, sample: &Sample) {
        if !has_value(sample.state) {
            self.bridged = true;
            return;
        }
        let bridged = std::mem::take(&mut self.bridged);
        let Some(before) = self.previous.replace(*sample) else {
            return;
        };
        let span = since(before.at, sample.at);
        let (begin, end) = (since(self.from, before.at), since(self.from, sample.at));
        let lost = span > self.gap_limit;
        if lost && span / self.step > MAX_POINTS as u64 {
            self.overflow = true;
            return;
        }
        let value_at = |t: u64| {
            before.value + (sample.value - before.value) * ((t - begin) as f64 / span as f64)
        };
        let mut t = begin;
        while t < end {
            let index = t / self.step;
            let next = (index + 1).saturating_mul(self.step).min(end);
            let step = self.at(index);
            if lost {
                step.incomplete = true;
            } else {
                step.sum += (value_at(t) + value_at(next)) / 2.0 * ((next - t) as f64 / 1_000.0);
                step.covered += next - t;
                // Across a reading that was missing the values are interpolated, not measured.
                step.estimated |= bridged || before.state == ESTIMATED || sample.state == ESTIMATED;
            }
            t = next;
        }
    }
}

/// Milliseconds from one instant to a later one, whatever the instants.
fn since(earlier: i64, later: i64) -> u64 {
    later.wrapping_sub(earlier) as u64
}

/// Counts the spacings between values, for the median.
#[derive(Debug, Default)]
pub struct Spacings {
    previous: Option<i64>,
    /// The latest spacing and how often it came in a row: nearly all are alike.
    latest: (u64, u64),
    counts: BTreeMap<u64, u64>,
    total: u64,
}

impl Spacings {
    /// Takes the next samples by rising time.
    pub fn push(&mut self, samples: &[Sample]) {
        for sample in samples.iter().filter(|s| has_value(s.state)) {
            self.note(sample.at);
        }
    }

    /// Takes the instant of the next value.
    pub fn note(&mut self, at: i64) {
        let Some(before) = self.previous.replace(at) else {
            return;
        };
        let spacing = since(before, at);
        self.total += 1;
        if spacing == self.latest.0 {
            self.latest.1 += 1;
        } else {
            self.settle();
            self.latest = (spacing, 1);
        }
    }

    fn settle(&mut self) {
        let (spacing, count) = std::mem::take(&mut self.latest);
        if count > 0 {
            *self.counts.entry(spacing).or_default() += count;
        }
    }

    /// The longest gap that is integrated over: [`GAP_LIMIT`] times the (lower)
    /// median spacing.
    pub fn gap_limit(&mut self) -> u64 {
        self.settle();
        let mut left = self.total.div_ceil(2);
        for (spacing, count) in &self.counts {
            if *count >= left {
                return spacing.saturating_mul(GAP_LIMIT);
            }
            left -= count;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::{MEASURED, MISSING};
    use super::*;

    fn run(over_time: OverTime, step: u64, samples: &[(i64, u8, f64)]) -> Vec<StepValue> {
        let samples: Vec<Sample> = samples
            .iter()
            .map(|(at, state, value)| Sample {
                at: *at,
                state: *state,
                value: *value,
            })
            .collect();
        let mut spacings = Spacings::default();
        spacings.push(&samples);
        let mut stepper = Stepper::new(0, step, over_time, spacings.gap_limit());
        stepper.push(&samples);
        stepper.finish()
    }

    fn value(index: u64, value: f64, estimated: bool) -> StepValue {
        StepValue {
            index,
            value: Some(value),
            estimated,
        }
    }

    #[test]
    fn a_restart_of_a_counter_counts_the_new_value() {
        let samples = [
            (0, MEASURED, 10.0),
            (1_000, MEASURED, 14.0),
            (2_000, MEASURED, 3.0),
            (3_000, MEASURED, 5.0),
        ];
        assert_eq!(
            run(OverTime::Increase, 2_000, &samples),
            [value(0, 4.0, false), value(1, 5.0, false)]
        );
        assert_eq!(
            run(OverTime::Rate, 2_000, &samples),
            [value(0, 4.0, false), value(1, 2.5, false)]
        );
    }

    #[test]
    fn an_integral_is_split_at_the_borders_and_leaves_long_gaps_out() {
        // 1 s apart, then a gap of 9 s (more than 5 times the median), then on.
        let samples = [
            (500, MEASURED, 100.0),
            (1_500, MEASURED, 200.0),
            (2_500, MEASURED, 200.0),
            (11_500, MEASURED, 300.0),
            (12_500, MEASURED, 300.0),
            (13_500, MEASURED, 300.0),
        ];
        let steps = run(OverTime::Integral, 1_000, &samples);
        assert_eq!(steps[0], value(0, 62.5, false));
        assert_eq!(steps[1], value(1, 187.5, false));
        // Half of step 2 is covered: what it has is no whole measurement.
        assert_eq!(steps[2], value(2, 100.0, true));
        for (place, step) in steps[3..11].iter().enumerate() {
            assert_eq!((step.index, step.value), (3 + place as u64, None));
        }
        assert_eq!(steps[11], value(11, 150.0, true));
        assert_eq!(steps.last(), Some(&value(13, 150.0, false)));
    }

    #[test]
    fn a_missing_reading_makes_an_estimate_of_the_step_but_no_point_of_its_own() {
        let samples = [
            (0, MEASURED, 4.0),
            (1_000, MISSING, 0.0),
            (5_000, MISSING, 0.0),
        ];
        assert_eq!(run(OverTime::Avg, 2_000, &samples), [value(0, 4.0, true)]);
        assert_eq!(run(OverTime::Increase, 2_000, &samples), []);
    }
}
