//! The recordings that models are held against. They are not part of the
//! project: where they are absent, a test says so and ends.

use std::path::PathBuf;

/// The text of a recording, by its path below `data`; `None`, said aloud, where there is none.
#[allow(clippy::print_stderr, reason = "it says why a test was skipped")]
pub fn recorded(path: &str) -> Option<String> {
    let shared = std::env::var_os("HELIOSTAT_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let file = shared.join("data").join(path);
    let text = std::fs::read_to_string(&file);
    if text.is_err() {
        eprintln!(
            "SKIPPED: {} is not there; set HELIOSTAT_SHARED to compare with it",
            file.display()
        );
    }
    text.ok()
}
