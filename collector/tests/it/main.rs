//! From source to store and from command to device, over a real broker.

// Tests say what they expect; a failing unwrap is their way to fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod actuate_hwmon;
mod caps;
mod delivery;
mod ingest;
mod mosquitto;
#[path = "../../../tests/support/peers.rs"]
mod peers;
mod stage;
