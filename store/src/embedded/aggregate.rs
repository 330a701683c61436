//! The steps of many devices become one series a group.

use super::steps::StepValue;
use crate::query::{AcrossDevices, Point};
use heliostat_models::{Quality, Timestamp};

/// The steps of one group so far, by rising number.
#[derive(Debug, Default)]
pub struct Group {
    steps: Vec<GroupStep>,
}

#[derive(Clone, Copy, Debug)]
struct GroupStep {
    index: u64,
    count: u32,
    sum: f64,
    min: f64,
    max: f64,
    estimated: bool,
}

impl GroupStep {
    fn of(step: &StepValue) -> Self {
        let value = step.value.unwrap_or(0.0);
        Self {
            index: step.index,
            count: u32::from(step.value.is_some()),
            sum: value,
            min: step.value.unwrap_or(f64::INFINITY),
            max: step.value.unwrap_or(f64::NEG_INFINITY),
            estimated: step.estimated,
        }
    }

    fn add(&mut self, step: &StepValue) {
        // A device known to be missing makes what the others give incomplete.
        self.estimated |= step.estimated;
        if let Some(value) = step.value {
            self.count += 1;
            self.sum += value;
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
    }
}

impl Group {
    /// Adds the steps of one more device.
    pub fn add(&mut self, device: &[StepValue]) {
        // Devices are mostly sampled alike, so their steps mostly are the same.
        let same = self.steps.len() == device.len()
            && (self.steps.iter().zip(device)).all(|(a, b)| a.index == b.index);
        if same {
            for (known, step) in self.steps.iter_mut().zip(device) {
                known.add(step);
            }
            return;
        }
        let mut merged = Vec::with_capacity(self.steps.len().max(device.len()));
        let mut known = self.steps.iter().copied().peekable();
        for step in device {
            while let Some(earlier) = known.next_if(|k| k.index < step.index) {
                merged.push(earlier);
            }
            match known.next_if(|k| k.index == step.index) {
                Some(mut both) => {
                    both.add(step);
                    merged.push(both);
                }
                None => merged.push(GroupStep::of(step)),
            }
        }
        merged.extend(known);
        self.steps = merged;
    }

    /// How many steps it has.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// The points of the group.
    pub fn points(&self, across: AcrossDevices, from: i64, step_ms: u64) -> Vec<Point> {
        let of = |s: &GroupStep| match across {
            // The best few are chosen elsewhere; of one device this is its value.
            AcrossDevices::Sum | AcrossDevices::TopK(_) | AcrossDevices::BottomK(_) => s.sum,
            AcrossDevices::Avg => s.sum / f64::from(s.count),
            AcrossDevices::Min => s.min,
            AcrossDevices::Max => s.max,
            AcrossDevices::Count => f64::from(s.count),
        };
        (self.steps.iter())
            .map(|s| {
                let value = (s.count > 0).then(|| of(s));
                point(from, step_ms, s.index, value, s.estimated)
            })
            .collect()
    }
}

/// A step as a point.
pub fn point(from: i64, step_ms: u64, index: u64, value: Option<f64>, estimated: bool) -> Point {
    let quality = match (value, estimated) {
        (None, _) => Quality::Missing,
        (Some(_), true) => Quality::Estimated,
        (Some(_), false) => Quality::Measured,
    };
    Point {
        at: Timestamp(from.wrapping_add(index.wrapping_mul(step_ms) as i64)),
        value,
        quality,
    }
}
