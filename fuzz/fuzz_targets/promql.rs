//! Any text as PromQL over a small store.
#![no_main]

use heliostat_store::fuzz::Bed;

thread_local! {
    static BED: Bed = {
        let name = format!("heliostat-fuzz-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        Bed::new(&directory)
    };
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        BED.with(|bed| bed.promql(text));
    }
});
