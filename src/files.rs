//! Reading a site file, with its faults told the way `heliostat check` tells them.

use anyhow::{Context, bail};
use heliostat_models::Site;
use heliostat_models::site::config;
use std::path::Path;

/// Loads a site that must be free of faults.
pub fn load_site(path: &Path) -> anyhow::Result<Site> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read the site file {name}; `site-configs/` holds examples")
    })?;
    load_site_text(&name, &text)
}

/// The demo's own site, built in.
pub fn demo_site() -> anyhow::Result<Site> {
    load_site_text("site-configs/demo.toml (built in)", config::builtin_demo())
}

fn load_site_text(name: &str, text: &str) -> anyhow::Result<Site> {
    let loaded = config::load(name, text, config::LoadOptions::default());
    match loaded.site {
        Some(site) => Ok(site),
        None => {
            let faults: Vec<String> = loaded.faults.iter().map(ToString::to_string).collect();
            bail!(
                "the site file has faults; nothing was started\n{}",
                faults.join("\n")
            )
        }
    }
}
