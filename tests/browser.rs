//! The overview in a real browser: live values change, a rack leads to a node
//! and a GPU, the console stays clean. The screenshot is the README's; set
//! HELIOSTAT_SCREENSHOT to a file to keep it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failing test panics"
)]

mod support;

use std::path::Path;
use std::time::Duration;
use support::webdriver::{Browser, BrowserError};
use support::{Process, free_port, until};

#[test]
fn the_overview_is_live_and_leads_from_a_rack_to_a_gpu() -> Result<(), BrowserError> {
    if support::peers::missing("chromedriver") || support::peers::missing("chromium") {
        return Ok(());
    }
    let dir = tempfile::tempdir().unwrap();
    let http = format!("127.0.0.1:{}", free_port());
    let base = format!("http://{http}");
    let mut demo = Process::heliostat(
        dir.path(),
        "demo",
        &["demo", "--for", "3m", "--http", &http],
    );
    demo.line_with("dashboard", Duration::from_secs(60));
    until(
        "jobs run",
        Duration::from_secs(120),
        || support::get_text(&base, "/api/v1/jobs").unwrap_or_default(),
        |jobs| jobs.contains("\"running\""),
    );

    let browser = Browser::start(1500, 1500)?;
    browser.open(&base)?;
    let live = "return [...document.querySelectorAll('main [data-live]')].map(e => e.textContent).join('|')";
    let first = browser.eval(live)?;
    assert!(
        first.as_str().is_some_and(|t| t.contains("kW")),
        "no power on the page: {first}"
    );
    browser.wait_for("live values to change", |b| Ok(b.eval(live)? != first))?;
    if let Some(file) = std::env::var_os("HELIOSTAT_SCREENSHOT") {
        // A picture worth keeping has a day behind it and the grid event in it.
        let over = || {
            support::get_text(&base, "/api/v1/decisions?kind=grid_event&limit=5")
                .unwrap_or_default()
        };
        until(
            "the grid event is over",
            Duration::from_secs(240),
            over,
            |d| d.contains("is over"),
        );
        browser.open(&base)?;
        browser.wait_for("the page", |b| Ok(!b.find_all("main svg")?.is_empty()))?;
        browser.screenshot(Path::new(&file))?;
    }

    for (css, path) in [
        ("a[href^='/racks/']", "/racks/"),
        ("main a[href^='/nodes/']", "/nodes/"),
        ("main a[href^='/devices/']", "/devices/"),
    ] {
        let link = browser.find(css)?;
        let target = browser.attribute(&link, "href")?.unwrap_or_default();
        browser.click(&link)?;
        browser.wait_for(path, |b| Ok(b.address()?.ends_with(&target)))?;
        assert!(
            !browser.find_all("main svg")?.is_empty(),
            "{target} shows no chart"
        );
    }
    assert!(
        browser.text_at("main")?.contains("gpu"),
        "the last page is no GPU's"
    );
    let errors = browser.console_errors()?;
    assert!(errors.is_empty(), "{errors:?}");
    Ok(())
}
