//! PromQL over the embedded store: by hand, against itself, and against
//! Prometheus and VictoriaMetrics on the same data.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests say what they expect, and wait for other programs by the wall"
)]

#[path = "../../../tests/support/peers.rs"]
mod programs;
#[path = "../support/mod.rs"]
mod support;

mod data;
mod hand;
mod judges;
mod peers;
mod robust;
mod speed;
