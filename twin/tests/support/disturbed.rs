//! What can happen to readings where they are taken: a source that loses,
//! delays, doubles and falsifies what another one says.

use heliostat_collector::Source;
use heliostat_collector::source::{ErrorClass, SourceError};
use heliostat_models::{Catalogue, Frame, Reading, Timestamp};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Telemetry {
    /// Share lost.
    pub lost: f64,
    /// Share that comes late, and by how many seconds.
    pub late: (f64, u32),
    /// Share that comes twice.
    pub twice: f64,
    /// Share of sensors that say something else, and what they make of a value.
    pub wrong: (f64, f64),
}

/// A source under a disturbance that all sources share.
pub struct Disturbed<S> {
    source: S,
    how: Arc<Mutex<Telemetry>>,
    late: VecDeque<(Timestamp, Frame)>,
    rng: fastrand::Rng,
}

impl<S: Source> Disturbed<S> {
    pub fn new(source: S, how: &Arc<Mutex<Telemetry>>, seed: u64) -> Self {
        Self {
            source,
            how: Arc::clone(how),
            late: VecDeque::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }
}

impl<S: Source> Source for Disturbed<S> {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError> {
        let how = *self.how.lock().unwrap();
        let mut said = Vec::new();
        while self.late.front().is_some_and(|(due, _)| *due <= at) {
            said.extend(self.late.pop_front().map(|(_, frame)| frame));
        }
        let mut lost = 0;
        for mut frame in self.source.sample(at)? {
            if self.rng.f64() < how.lost {
                lost += 1;
                continue;
            }
            falsify(&mut frame, how.wrong);
            if self.rng.f64() < how.twice {
                said.push(frame.clone());
            }
            if self.rng.f64() < how.late.0 {
                let due = at + Duration::from_secs(u64::from(how.late.1));
                self.late.push_back((due, frame));
            } else {
                said.push(frame);
            }
        }
        if said.is_empty() && lost > 0 {
            // As a driver that does not answer.
            return Err(SourceError::new(ErrorClass::Retry, "no reading"));
        }
        Ok(said)
    }
}

/// The same sensors are wrong all the while.
fn falsify(frame: &mut Frame, (share, factor): (f64, f64)) {
    let hash = (frame.device.as_str().bytes()).fold(7u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    if (hash >> 20 & 0xfff) as f64 / 4_096.0 >= share {
        return;
    }
    for (metric, reading) in &mut frame.readings {
        if let Reading::Measured(value) = reading
            && *metric != Catalogue::gpu_power_limit()
        {
            *value *= factor;
        }
    }
}
