//! Pages, charts, HTTP API and reports: what people and programs see of a site.
//!
//! Architecture invariants: this crate reads; the only things it changes are
//! through [`ControlCommands`], and only for callers that bear the token, and
//! samples that open ingest takes in under the same rule. A
//! value's quality (measured, estimated, missing) reaches every page, chart
//! and answer. Pages work without JavaScript and load nothing from elsewhere.

mod api;
mod app;
mod attention;
mod charts;
mod control_metrics;
mod digest;
mod events;
mod figure;
mod format;
mod guard;
mod html;
mod live;
mod open_ingest;
mod pages;
mod params;
mod prometheus;
mod prometheus_api;
mod pue;
pub mod report;
mod server;
mod snapshot;
mod text;
mod timeline;
mod units;

pub use app::{App, ControlCommands, Health, HealthCounter};
pub use server::{ServeError, Server, serve};
pub use units::unit_of;
