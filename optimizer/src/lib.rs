//! Samples to decisions: allocate (caps now), plan (jobs over days), check, control.
//!
//! Architecture invariants: allocator and planner are synchronous,
//! deterministic functions; nothing reaches a device that the checker has not
//! passed; the checker shares no solving code with what it checks.

pub mod allocate;
pub mod budget;
pub mod check;
pub mod control;
pub mod grid_event;
pub mod plan;
pub mod plan_service;
pub mod state;
pub mod view;
