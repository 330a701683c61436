//! A library that answers NVML's C interface from a board file, so that the
//! unmodified `nvml-wrapper`, and with it the very code that reads and caps
//! GPUs in production, runs where there is no GPU.
//!
//! It looks for `board.bin` beside itself; `HELIOSTAT_BOARD` names another
//! file. Each copy of the library on disk has its own state, so one process
//! may load the boards of many nodes.
//!
//! Return codes follow NVML's API reference for driver R550. What Heliostat
//! does not use is absent: `nvml-wrapper` then reports the missing symbol.

pub mod board;
mod calls;
mod state;
