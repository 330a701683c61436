//! A log as a crash may have left it, and a record of it past its checksum.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| heliostat_store::fuzz::log_recovery(bytes));
