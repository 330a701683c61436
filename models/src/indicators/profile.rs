//! Power over time where it is known, from a register, from power readings, or
//! from both.

use super::{Coverage, Energy};
use crate::quantity::{Joules, Watts};
use crate::reading::{Quality, Reading};
use crate::time::Timestamp;
use std::time::Duration;

/// A reading and its instant.
pub type Placed = (Timestamp, Reading);

/// What is believed of a meter or device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EnergyRules {
    /// Highest power that it can draw: the upper end of the metric's range, or
    /// a rating. A register that grows faster is not believed, nor is a higher reading.
    pub max_power: Watts,
    /// Longest time between two power readings over which power is integrated.
    pub max_gap: Duration,
    /// Where the register starts over at zero, if it does and that is known.
    pub register_span: Option<Joules>,
}

/// Power that changes evenly from one instant to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    pub from: i64,
    pub to: i64,
    /// Watts at the begin.
    pub begin: f64,
    /// Watts at the end.
    pub end: f64,
    pub measured: bool,
}

impl Span {
    /// The part within `[from, to)`, which must overlap it.
    fn clip(&self, from: i64, to: i64) -> Self {
        let whole = (self.to - self.from) as f64;
        let at = |t: i64| self.begin + (self.end - self.begin) * ((t - self.from) as f64 / whole);
        let (from, to) = (from.max(self.from), to.min(self.to));
        Self {
            from,
            to,
            begin: at(from),
            end: at(to),
            measured: self.measured,
        }
    }
    pub fn seconds(&self) -> f64 {
        (self.to - self.from) as f64 / 1_000.0
    }
    pub fn joules(&self) -> f64 {
        (self.begin + self.end) / 2.0 * self.seconds()
    }
}

/// Energy that is known of a stretch of time as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    /// Begin.
    pub from: Timestamp,
    /// End.
    pub to: Timestamp,
    /// How much.
    pub joules: Joules,
    /// Whether it was counted by a register, not estimated.
    pub measured: bool,
}

/// Power of one meter or device over an interval, where it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    from: i64,
    to: i64,
    /// By rising time, not overlapping.
    spans: Vec<Span>,
}

impl Profile {
    /// From readings of a register (joules) and of power (watts), each by rising
    /// time. Readings from a little before and after the interval close its
    /// edges; give them if there are any.
    ///
    /// Between two register readings the difference is taken, however far they
    /// are apart, unless the register fell (a restart; a wrap is believed where
    /// the span is known and the power plausible) or grew faster than the power
    /// allows. There, and where the register says nothing, power is integrated
    /// over gaps no longer than the limit, as an estimate. All else is unknown.
    ///
    /// A difference that reaches beyond the interval is shared out evenly; where
    /// its readings are farther apart than the limit, that is an estimate.
    pub fn new(
        from: Timestamp,
        to: Timestamp,
        register: &[Placed],
        power: &[Placed],
        rules: &EnergyRules,
    ) -> Self {
        let mut profile = Self {
            from: from.0,
            to: to.0.max(from.0),
            spans: Vec::new(),
        };
        let sound = profile.by_register(register, rules);
        profile.spans = profile.with_power(sound, power, rules);
        profile
    }

    /// Fills what is open with energy that is known of stretches of time, by
    /// rising time; of one that reaches into what is known already only the rest
    /// is taken, at its mean power. None is believed above the highest power.
    pub fn filled(mut self, stretches: &[Stretch], rules: &EnergyRules) -> Self {
        let spans = (stretches.iter())
            .filter(|s| s.from < s.to && s.from.0 < self.to && s.to.0 > self.from)
            .map(|s| {
                let watts = s.joules.0 / ((s.to.0 - s.from.0) as f64 / 1_000.0);
                Span {
                    from: s.from.0,
                    to: s.to.0,
                    begin: watts,
                    end: watts,
                    measured: s.measured,
                }
            })
            .filter(|s| s.begin <= rules.max_power.0 * (1.0 + 1e-9))
            // Of two that overlap the earlier one counts there.
            .scan(i64::MIN, |end, span| {
                let from = span.from.max(*end);
                *end = span.to.max(*end);
                Some(Span { from, ..span })
            })
            .filter(|s| s.from < s.to);
        let known = std::mem::take(&mut self.spans);
        self.spans = self.with(known, spans);
        self
    }

    fn by_register(&self, register: &[Placed], rules: &EnergyRules) -> Vec<Span> {
        let values: Vec<(i64, f64, Quality)> = believed(register, f64::INFINITY);
        let mut spans = Vec::new();
        for pair in values.windows(2) {
            let ((t0, v0, q0), (t1, v1, q1)) = (pair[0], pair[1]);
            if t1 <= t0 || t1 <= self.from || t0 >= self.to {
                continue;
            }
            let seconds = (t1 - t0) as f64 / 1_000.0;
            let grown = if v1 >= v0 {
                v1 - v0
            } else {
                match rules.register_span {
                    Some(span) if v0 <= span.0 => span.0 - v0 + v1,
                    _ => continue,
                }
            };
            let watts = grown / seconds;
            // A hair of tolerance for rounding of the register.
            if watts > rules.max_power.0 * (1.0 + 1e-9) {
                continue;
            }
            let cut = t0 < self.from || t1 > self.to;
            let whole = Span {
                from: t0,
                to: t1,
                begin: watts,
                end: watts,
                measured: q0 == Quality::Measured
                    && q1 == Quality::Measured
                    && (!cut || t1 - t0 <= rules.max_gap.as_millis() as i64),
            };
            spans.push(whole.clip(self.from, self.to));
        }
        spans
    }

    /// Fills what `sound` leaves open from power readings.
    fn with_power(&self, sound: Vec<Span>, power: &[Placed], rules: &EnergyRules) -> Vec<Span> {
        let values = believed(power, rules.max_power.0);
        let max_gap = rules.max_gap.as_millis() as i64;
        let pairs = values
            .windows(2)
            .map(|p| Span {
                from: p[0].0,
                to: p[1].0,
                begin: p[0].1,
                end: p[1].1,
                measured: false,
            })
            .filter(|s| s.to > s.from && s.to - s.from <= max_gap);
        self.with(sound, pairs)
    }

    /// Fills what `sound` leaves open from others.
    fn with(&self, sound: Vec<Span>, others: impl Iterator<Item = Span>) -> Vec<Span> {
        let mut pairs = others.peekable();
        let mut all = Vec::with_capacity(sound.len());
        let mut open = self.from;
        let borders = (sound.into_iter().map(Some)).chain([None]);
        for next in borders {
            let close = next.map_or(self.to, |s| s.from);
            while let Some(pair) = pairs.peek() {
                if open >= close || pair.from >= close {
                    break;
                }
                if pair.to > open {
                    all.push(pair.clip(open, close));
                }
                if pair.to > close {
                    // It reaches into what comes behind the register's span.
                    break;
                }
                pairs.next();
            }
            if let Some(span) = next {
                open = span.to;
                all.push(span);
            }
        }
        all
    }

    /// The power of two meters together: known only where both are.
    pub fn plus(&self, other: &Self) -> Self {
        let spans = (self.spans.iter())
            .flat_map(|mine| {
                other.within(mine.from, mine.to).map(|theirs| {
                    let part = mine.clip(theirs.from, theirs.to);
                    Span {
                        begin: part.begin + theirs.begin,
                        end: part.end + theirs.end,
                        measured: part.measured && theirs.measured,
                        ..part
                    }
                })
            })
            .collect();
        Self {
            from: self.from,
            to: self.to,
            spans,
        }
    }

    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Seconds of the whole interval.
    pub fn seconds(&self) -> f64 {
        (self.to - self.from) as f64 / 1_000.0
    }

    /// Its first and last instant.
    pub fn interval(&self) -> (Timestamp, Timestamp) {
        (Timestamp(self.from), Timestamp(self.to))
    }

    /// The parts of the spans within `[from, to)`.
    pub(super) fn within(&self, from: i64, to: i64) -> impl Iterator<Item = Span> {
        let first = self.spans.partition_point(|s| s.to <= from);
        self.spans[first..]
            .iter()
            .take_while(move |s| s.from < to)
            .map(move |s| s.clip(from, to))
    }

    /// Energy of the whole interval.
    pub fn energy(&self) -> Energy {
        self.energy_of(Timestamp(self.from), Timestamp(self.to))
    }

    /// Energy of a part of the interval. Time outside of the profile's interval
    /// counts as unknown.
    pub fn energy_of(&self, from: Timestamp, to: Timestamp) -> Energy {
        let mut energy = Energy::default();
        let mut coverage = Coverage::default();
        for span in self.within(from.0, to.0) {
            let joules = Joules(span.joules());
            if span.measured {
                energy.measured += joules;
            } else {
                energy.estimated += joules;
            }
            coverage.add_known(span.seconds(), span.measured);
        }
        coverage.fill(to.seconds_since(from).max(0.0));
        energy.coverage = coverage;
        energy
    }
}

/// Instant, value and quality of the readings that can be true.
fn believed(readings: &[Placed], highest: f64) -> Vec<(i64, f64, Quality)> {
    (readings.iter())
        .filter_map(|(at, reading)| Some((at.0, reading.value()?, reading.quality())))
        .filter(|(_, value, _)| value.is_finite() && (0.0..=highest).contains(value))
        .collect()
}
