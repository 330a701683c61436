//! The ground floor of Heliostat: what the words mean (quantities, metrics,
//! sites, jobs) and how things behave (GPU power and speed, cooling, grid).
//!
//! Architecture invariant: this crate does no I/O, reads no clock and is not
//! asynchronous. Everything here is a value or a function of values.

pub mod accelerators;
pub mod budget;
pub mod cooling;
pub mod curve;
pub mod decision;
pub mod forecast;
pub mod foreign;
pub mod gpu;
pub mod grid;
pub mod ids;
pub mod indicators;
pub mod job;
pub mod lease;
pub mod metrics;
pub mod mqtt;
pub mod quantity;
pub mod reading;
pub mod signed;
pub mod site;
pub mod time;
pub mod weather;
pub mod wire;

pub use budget::{Budget, BudgetSlot};
pub use curve::SpeedCurve;
pub use decision::{Certificate, Decision, DecisionKind};
pub use ids::{AgentId, DeviceId, JobId, NodeId, SiteId};
pub use job::{JobClass, JobRecord, JobState};
pub use metrics::{Catalogue, MetricId};
pub use quantity::{Celsius, EurosPerMegawattHour, GramsPerKilowattHour, Joules, Watts};
pub use reading::{Frame, Quality, Reading};
pub use site::Site;
pub use time::Timestamp;
