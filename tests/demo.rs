//! The demo from start to end, as a stranger runs it, only shorter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failing test panics"
)]

mod support;

use serde_json::Value;
use support::heliostat;

#[test]
fn the_demo_ends_with_a_summary_that_holds_what_it_promises() {
    let http = format!("127.0.0.1:{}", support::free_port());
    let (code, out, err) = heliostat(&[
        "demo",
        "--headless",
        "--for",
        "45s",
        "--span",
        "12h",
        "--json",
        "--http",
        &http,
    ]);
    assert_eq!(code, Some(0), "{err}");
    let summary: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
    let number = |key: &str| {
        summary[key]
            .as_f64()
            .unwrap_or_else(|| panic!("`{key}` is no number: {}", summary[key]))
    };
    assert!(number("energy_kwh") > 100.0);
    assert!(
        number("work_per_joule_ratio_vs_uncapped") > 1.0,
        "{summary:#}"
    );
    assert!(
        number("work_per_joule_ratio_vs_uniform_cap") > 0.98,
        "{summary:#}"
    );
    // What the optimizer maximises must be more than what one cap for all gives.
    assert!(
        number("weighted_work_per_joule_ratio_vs_uniform_cap") > 1.0,
        "{summary:#}"
    );
    assert!(number("carbon_ratio_vs_uncapped") < 1.0, "{summary:#}");
    assert!((0.0..=1.0).contains(&number("renewable_share")));
    assert!(
        number("grid_event_seconds_to_compliance") < 30.0,
        "{summary:#}"
    );
    assert!(number("max_certificate_gap") < 1e-3, "{summary:#}");
    assert_eq!(number("limit_violations"), 0.0, "{summary:#}");
    assert!(number("samples_taken") > 10_000.0);
    assert_eq!(
        number("samples_stored"),
        number("samples_taken"),
        "{summary:#}"
    );
    assert_eq!(number("samples_lost"), 0.0);
}
