//! A small site for tests: two PDUs, two racks of two nodes of two devices.
#![allow(dead_code)]

use heliostat_models::Site;
use heliostat_models::site::config::{LoadOptions, load};
use std::sync::Arc;

/// The demonstration site, part of the program.
pub fn demo() -> Arc<Site> {
    parse(heliostat_models::site::config::builtin_demo())
}

/// The demonstration site cut down to eight devices.
pub fn small() -> Arc<Site> {
    parse(&small_text())
}

/// The file of [`small`].
pub fn small_text() -> String {
    heliostat_models::site::config::builtin_demo()
        .replace("racks = 8", "racks = 2")
        .replace("nodes_per_rack = 4", "nodes_per_rack = 2")
        .replace("devices_per_node = 8", "devices_per_node = 2")
        .replace(
            "\"pdu-1\", \"pdu-2\", \"pdu-3\", \"pdu-4\"",
            "\"pdu-1\", \"pdu-3\"",
        )
}

/// A site from a file's text.
pub fn parse(text: &str) -> Arc<Site> {
    let loaded = load("test.toml", text, LoadOptions::default());
    let errors: Vec<String> = loaded.errors().map(|f| f.to_string()).collect();
    Arc::new(loaded.site.unwrap_or_else(|| panic!("{errors:?}")))
}
