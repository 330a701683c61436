//! A body of InfluxDB line protocol.
#![no_main]

use heliostat_collector::open::fuzz;
use std::cell::RefCell;

thread_local! {
    static DESK: RefCell<fuzz::Desk> = RefCell::new(fuzz::Desk::new());
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    DESK.with_borrow_mut(|desk| desk.line_protocol(bytes));
});
