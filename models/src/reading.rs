//! What a source says of a device at one instant.
//!
//! Architecture invariant: a missing reading is missing. There is no sentinel
//! number; whoever wants a value must ask whether there is one.

use crate::ids::DeviceId;
use crate::metrics::MetricId;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// How a value came to be. It travels with the value to the last page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Read from an instrument.
    Measured,
    /// Computed from something else, because no instrument said it.
    Estimated,
    /// Not known.
    Missing,
}

/// One metric's value, or the fact that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// Read from an instrument, in the catalogue's unit.
    Measured(f64),
    /// Computed, in the catalogue's unit.
    Estimated(f64),
    /// The source was asked and could not say.
    Missing,
}

impl Reading {
    /// The number, if there is one.
    pub fn value(self) -> Option<f64> {
        match self {
            Self::Measured(v) | Self::Estimated(v) => Some(v),
            Self::Missing => None,
        }
    }
    /// How the number came to be.
    pub fn quality(self) -> Quality {
        match self {
            Self::Measured(_) => Quality::Measured,
            Self::Estimated(_) => Quality::Estimated,
            Self::Missing => Quality::Missing,
        }
    }
}

/// All metrics of one device at one instant. A metric stands in it at most once.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Who is spoken of.
    pub device: DeviceId,
    /// When, by the clock of the agent that read it.
    pub at: Timestamp,
    /// What was read, in no particular order.
    pub readings: Vec<(MetricId, Reading)>,
}

impl Frame {
    /// The reading of one metric, if the frame speaks of it.
    pub fn get(&self, metric: MetricId) -> Option<Reading> {
        self.readings
            .iter()
            .find(|(m, _)| *m == metric)
            .map(|(_, r)| *r)
    }
}
