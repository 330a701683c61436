//! Every kind of fault, planted into the demonstration's file one at a time:
//! it is found, on the right line, with a remedy.

use crate::site::config::{Fault, LoadOptions, Severity, builtin_demo, load};

/// The faults of the demo with one text replaced by another, and the changed text.
fn planted(from: &str, to: &str) -> (Vec<Fault>, String) {
    let demo = builtin_demo();
    assert!(demo.contains(from), "the demo has no {from:?}");
    let text = demo.replacen(from, to, 1);
    let loaded = load("demo.toml", &text, LoadOptions::default());
    let has_error = loaded.faults.iter().any(|f| f.severity == Severity::Error);
    assert_eq!(loaded.site.is_none(), has_error);
    (loaded.faults, text)
}

/// That a fault with `message` in it stands on the line where `at` first occurs.
#[track_caller]
fn finds(severity: Severity, from: &str, to: &str, at: &str, message: &str) {
    let (faults, text) = planted(from, to);
    let line = 1 + text[..text.find(at).unwrap()].matches('\n').count();
    let found = (faults.iter())
        .find(|f| f.message.contains(message) && f.line == line && f.severity == severity)
        .unwrap_or_else(|| panic!("no {message:?} on line {line} among {faults:#?}"));
    assert!(!found.remedy.is_empty());
    // Only what is no TOML has no field.
    assert!(!found.field.is_empty() || message == "not TOML");
    assert_eq!(found.file, "demo.toml");
}

#[track_caller]
pub(super) fn error(from: &str, to: &str, at: &str, message: &str) {
    finds(Severity::Error, from, to, at, message);
}

#[track_caller]
fn warning(from: &str, to: &str, at: &str, message: &str) {
    finds(Severity::Warning, from, to, at, message);
}

#[test]
fn faults_of_form() {
    error(
        "latitude = 50.11",
        "latitude = 95",
        "latitude = 95",
        "out of range",
    );
    error(
        "longitude = 8.68",
        "longitude = \"east\"",
        "longitude = \"e",
        "not a number",
    );
    error(
        "name = \"Heliostat demo hall\"\n",
        "",
        "[site]",
        "has no `name`",
    );
    error("country =", "contry =", "contry", "unknown field `contry`");
    error(
        "[cooling]",
        "[coolling]",
        "[coolling]",
        "unknown field `coolling`",
    );
    error(
        "kind = \"transformer\"",
        "kind = \"trafo\"",
        "kind = \"trafo\"",
        "not known as",
    );
    error(
        "racks = 8",
        "racks = 8.5",
        "racks = 8.5",
        "not a whole number",
    );
    error("racks = 8", "racks = 0", "racks = 0", "out of range");
    error(
        "id = \"demo\"",
        "id = \"de mo\"",
        "id = \"de mo\"",
        "cannot be a name",
    );
    error(
        "armed = false",
        "armed = \"yes\"",
        "armed = \"yes\"",
        "not true or false",
    );
    error(
        "floor_speed = 0.3",
        "floor_speed = 1.3",
        "floor_speed = 1.3",
        "out of range",
    );
    error(
        "weight = 1.0",
        "weight = -1.0",
        "weight = -1.0",
        "out of range",
    );
    error(
        "margin_ratio = 0.02",
        "margin_ratio = 0.9",
        "margin_ratio",
        "out of range",
    );
    error(
        "carbon_weight = 1.0",
        "carbon_weight = 2",
        "carbon_weight",
        "out of range",
    );
    error(
        "limit_watts = 190_000",
        "limit_watts = nan",
        "limit_watts = nan",
        "out of range",
    );
    error(
        "[class.experiment]",
        "[class.experimant]",
        "[class.experimant]",
        "unknown field",
    );
    error(
        "feeds = [\"feed\"]",
        "feeds = \"feed\"",
        "feeds = \"feed\"",
        "not a list",
    );
    error("racks = 8", "racks = 8 8", "racks = 8 8", "not TOML");
    error("r{rack:02}", "r{wreck:02}", "r{wreck", "no place holder");
    error(
        "racks = 8",
        "racks = { value = 8, mark = \"guess\", note = \"x\" }",
        "racks = {",
        "`guess`",
    );
    error(
        "racks = 8",
        "racks = { value = 8, mark = \"assumed\" }",
        "racks = {",
        "has no `note`",
    );
}

#[test]
fn faults_of_the_place() {
    error(
        "country = \"DE\"",
        "country = \"Germany\"",
        "country",
        "no country code",
    );
    error(
        "[\"en\", \"de\"]",
        "[\"english\"]",
        "english",
        "no language code",
    );
    error("[\"en\", \"de\"]", "[]", "languages = []", "is empty");
    error(
        "zone = \"DE\"",
        "zone = \"DEU\"",
        "zone = \"DEU\"",
        "unknown grid zone",
    );
    error(
        "10Y1001A1001A83F",
        "10Y1001A1001A83G",
        "A83G",
        "check character",
    );
    error(
        "10Y1001A1001A83F",
        "10YFI-1--------U",
        "10YFI",
        "not the code of DE",
    );
}

#[test]
fn faults_of_the_power_tree() {
    let ups_a = "rating_watts = 100_000\nlimit_watts = 92_000";
    let rating = "rating_watts = 300_000\nlimit_watts = 92_000";
    error(
        ups_a,
        rating,
        "rating_watts = 300_000",
        "the rating of `ups-a`",
    );
    let limit = "rating_watts = 200_000\nlimit_watts = 195_000";
    error(
        ups_a,
        limit,
        "limit_watts = 195_000",
        "the limit of `ups-a`",
    );
    let above = "rating_watts = 100_000\nlimit_watts = 100_001";
    error(ups_a, above, "limit_watts = 100_001", "above its rating");
    error(
        "feeds = [\"ups-a\"]",
        "feeds = [\"ups-x\"]",
        "ups-x",
        "not in the power tree",
    );
    error(
        "feeds = [\"ups-a\"]",
        "feeds = []",
        "feeds = []\nrating_watts = 55",
        "nothing feeds",
    );
    error(
        "feeds = []",
        "feeds = [\"ups-a\"]",
        "feeds = [\"ups-a\"]",
        "is fed by another",
    );
    let twice = "feeds = [\"ups-a\", \"ups-a\"]";
    error("feeds = [\"ups-a\"]", twice, twice, "feeds `pdu-1` twice");
    let circle = "feeds = [\"pdu-1\"]";
    error("feeds = [\"transformer\"]", circle, circle, "feeds itself");
    // All 64 GPUs of a PDU at 200 W and their nodes at 1,400 W: 24 kW.
    error(
        "limit_watts = 48_000",
        "limit_watts = 23_000",
        "limit_watts = 23",
        "floors are above",
    );
    error(
        "limit_watts = 48_000",
        "limit_watts = 30_000",
        "limit_watts = 30",
        "at their safe caps",
    );
    error(
        "limit_watts = 190_000",
        "limit_watts = 160_000",
        "limit_watts = 160",
        "safe caps",
    );
    warning(
        "\"pdu-3\", \"pdu-4\"]",
        "\"pdu-3\"]",
        "id = \"pdu-4\"",
        "feeds nothing",
    );
}

#[test]
fn a_node_larger_than_its_feeder_is_accepted_when_stated() {
    let stated = "rating_watts = 300_000\nlimit_watts = 92_000\noversized = true";
    let (faults, _) = planted("rating_watts = 100_000\nlimit_watts = 92_000", stated);
    assert_eq!(faults, []);
}

#[test]
fn faults_of_partitions() {
    let hall = "hall = \"hall-2\"";
    error("hall = \"hall-1\"", hall, hall, "unknown hall");
    error(
        "h100-80-sxm",
        "h100-80-sxn",
        "h100-80-sxn",
        "unknown accelerator",
    );
    error(
        "accelerator = \"h100-80-sxm\"\n",
        "",
        "devices_per_node",
        "no `accelerator`",
    );
    let fed_by = "fed_by = [\"pdu-1\", \"pdu-2\", \"pdu-3\", \"pdu-4\"]";
    error(fed_by, "fed_by = []", "fed_by = []", "under no breaker");
    error(fed_by, "", "[[partition]]", "under no breaker");
    error(fed_by, "fed_by = [\"pdu-9\"]", "fed_by", "under no breaker");
    error("racks = 8", "racks = 3", "fed_by", "4 feeders for 3 racks");
    error(
        "racks = 8",
        "racks = 8\nnodes = 33",
        "nodes = 33",
        "do not fit",
    );
    error(
        "racks = 8",
        "racks = 8\nnodes = 7",
        "nodes = 7",
        "leave racks empty",
    );
    let many = "racks = 20_000\nnodes_per_rack = 900";
    error(
        "racks = 8\nnodes_per_rack = 4",
        many,
        "nodes_per_rack",
        "is too large",
    );
    let rack = "rack_limit_watts = 26_000";
    error(
        rack,
        "rack_limit_watts = 31_000",
        "rack_limit",
        "above its rating",
    );
    error(
        rack,
        "rack_limit_watts = 18_000",
        "rack_limit",
        "at their safe caps",
    );
    let rating = "rack_rating_watts = 30_000";
    error(
        rating,
        "rack_rating_watts = 60_000",
        "rack_rating",
        "above that of `pdu-1`",
    );
    error(
        "node_rating_watts = 8_000",
        "node_rating_watts = 31_000",
        "node_rating",
        "its rack",
    );
    error(
        "node_limit_watts = 7_000",
        "node_limit_watts = 2_900",
        "node_limit",
        "floors are above",
    );
    error(
        "safe_cap_watts = 400",
        "safe_cap_watts = 150",
        "safe_cap",
        "cannot be set",
    );
    let caps = "min_cap_watts = 300\nsafe_cap_watts = 250";
    error(
        "safe_cap_watts = 400",
        caps,
        "safe_cap_watts = 250",
        "out of order",
    );
    warning(
        "status = \"running\"",
        "status = \"contracted\"",
        "# The demo",
        "no partition is running",
    );
}

#[test]
fn faults_of_names() {
    error(
        "id = \"pdu-2\"",
        "id = \"pdu-1\"",
        "id = \"pdu-1\"\nkind = \"pdu\"\nfeeds = [\"ups-a\"]\nrating_watts = 55_000\nlimit_watts = 48_000\n\n[[power]]\nid = \"pdu-3\"",
        "two power nodes",
    );
    error(
        "id = \"meter-it-b\"",
        "id = \"meter-it-a\"",
        "id = \"meter-it-a\"\nrole = \"it\"\nat = \"ups-b\"",
        "two sources",
    );
    error(
        "id = \"meter-cooling\"",
        "id = \"cooling\"",
        "id = \"cooling\"\nrole",
        "two sources",
    );
    error(
        "id = \"meter-cooling\"",
        "id = \"r01-n1\"",
        "node_id =",
        "two sources",
    );
    error(
        "id = \"meter-cooling\"",
        "id = \"r01-n1-gpu0\"",
        "node_id =",
        "two sources",
    );
    error("r{rack:02}", "pdu-{rack}", "rack_id =", "two power nodes");
    error(
        "r{rack:02}",
        "rack {rack:02}",
        "rack_id =",
        "cannot be a name",
    );
    error("{rack_id}-n{node}", "n{node}", "node_id =", "two sources");
    let long = "x".repeat(60);
    error(
        "{rack_id}-n{node}",
        &format!("{{rack_id}}{long}{{node}}"),
        "node_id",
        "cannot be a name",
    );
}

#[test]
fn faults_of_meters_cooling_contracts_classes_and_control() {
    error(
        "at = \"feed\"",
        "at = \"fed\"",
        "at = \"fed\"",
        "no power node",
    );
    let category = "role = \"cooling\"\npue_category = 1";
    error(
        "role = \"cooling\"",
        category,
        "pue_category = 1\n\n[cooling]",
        "only meters of IT",
    );
    warning(
        "role = \"data_centre\"",
        "role = \"other\"",
        "role = \"other\"",
        "only be estimated",
    );
    warning("pue_category = 1", "", "role = \"it\"", "where it measures");
    error(
        "design_pue = 1.12",
        "design_pue = 0.9",
        "design_pue",
        "below 1",
    );
    error(
        "design_pue = 1.12",
        "design_pue = -1",
        "design_pue",
        "below 1",
    );
    error(
        "design_pue = 1.12",
        "design_pue = 112",
        "design_pue",
        "cannot be meant",
    );
    warning(
        "design_pue = 1.12",
        "design_pue = 2.1",
        "design_pue",
        "unusually high",
    );
    error(
        "fed_by = \"transformer\"",
        "fed_by = \"trafo\"",
        "fed_by = \"trafo\"",
        "no power node",
    );
    let second =
        "renewable_share = 0.6\n[[contract]]\nid = \"b\"\nkind = \"ppa\"\nrenewable_share = 0.7";
    error(
        "renewable_share = 0.0",
        second,
        "renewable_share = 0.7",
        "130 %",
    );
    warning(
        "pause_minutes = 0",
        "pause_minutes = 5",
        "pause_minutes = 5\n\n[class.exp",
        "never paused",
    );
    warning(
        "floor_speed = 0.6",
        "floor_speed = 1.0",
        "floor_speed = 1.0",
        "never be slowed",
    );
    error(
        "lease_seconds = 30",
        "lease_seconds = 9",
        "lease_seconds",
        "two periods",
    );
    error(
        "lease_seconds = 30",
        "lease_seconds = 30\nkeep_decisions_days = 399",
        "keep_decisions_days",
        "inputs for 400",
    );
    error(
        "lease_seconds = 30",
        "lease_seconds = 30\nkeep_inputs_days = 4_000",
        "keep_inputs_days",
        "3660 days",
    );
    warning(
        "plan_every_seconds = 900",
        "plan_every_seconds = 3",
        "plan_every",
        "every 3 s",
    );
    warning(
        "sample_every_seconds = 1\n",
        "sample_every_seconds = 300\n",
        "sample_every",
        "are read",
    );
}

#[test]
fn faults_of_form_and_of_meaning_come_out_in_one_run_in_order() {
    let text = builtin_demo()
        .replace("country = \"DE\"", "countri = \"DE\"")
        .replace("zone = \"DE\"", "zone = \"XX\"")
        .replace("limit_watts = 92_000", "limit_watts = \"much\"")
        .replace("design_pue = 1.12", "design_pue = 0.5")
        .replace("lease_seconds = 30", "lease_seconds = 1");
    let loaded = load("f", &text, LoadOptions::default());
    assert!(loaded.site.is_none());
    let messages: Vec<&str> = loaded.faults.iter().map(|f| f.message.as_str()).collect();
    for part in [
        "no `country`",
        "`countri`",
        "zone `XX`",
        "not a number",
        "below 1",
        "a lease of",
    ] {
        assert_eq!(
            messages.iter().filter(|m| m.contains(part)).count(),
            // Both UPSes have the bad limit.
            if part == "not a number" { 2 } else { 1 },
            "{part}: {messages:#?}"
        );
    }
    assert_eq!(messages.len(), 7, "{messages:#?}");
    assert!(loaded.faults.is_sorted_by_key(|f| (f.line, f.column)));
}

#[test]
fn several_faults_of_syntax_come_out_too() {
    let text = builtin_demo()
        .replace("racks = 8", "racks = = 8")
        .replace("[grid]", "[grid");
    let loaded = load("f", &text, LoadOptions::default());
    assert!(loaded.site.is_none());
    assert!(loaded.faults.len() >= 2, "{:?}", loaded.faults);
    assert!(
        loaded
            .faults
            .iter()
            .all(|f| f.message.starts_with("not TOML"))
    );
}

#[test]
fn an_empty_file_lists_what_is_missing() {
    let loaded = load("f", "", LoadOptions::default());
    for section in ["site", "grid", "cooling", "class", "control"] {
        let message = format!("the file has no `{section}`");
        assert!(
            loaded.faults.iter().any(|f| f.message == message),
            "{section}"
        );
    }
    assert!(
        loaded
            .faults
            .iter()
            .any(|f| f.message.contains("no [[power]] section"))
    );
}

#[test]
fn faults_of_ramps() {
    let feed = "limit_watts = 190_000\n";
    let with = |line: &str| format!("{feed}{line}\n");
    for (line, message) in [
        ("ramp_up_watts_per_second = 50", "takes 1.1 h"),
        ("ramp_down_watts_per_second = 190_001", "limits nothing"),
    ] {
        warning(feed, &with(line), line, message);
    }
    error(
        feed,
        &with("ramp_up_watts_per_second = 0"),
        "ramp_up",
        "out of range",
    );
    error(
        feed,
        &with("ramp_up_watts_per_second = \"fast\""),
        "ramp_up",
        "not a number",
    );
    error(
        "[control]\n",
        "[control]\nramp_window_seconds = 0.5\nramp_up_watts_per_second = 900\n",
        "ramp_window",
        "out of range",
    );
    error(
        "[control]\n",
        "[control]\nramp_window_seconds = 1\nramp_up_watts_per_second = 2.5\n",
        "ramp_up",
        "too little to be shared",
    );
    warning(
        "[control]\n",
        "[control]\nramp_window_seconds = 5\n",
        "ramp_window",
        "no ramp limit",
    );
    warning(
        "[control]\n",
        "[control]\nramp_down_watts_per_second = 15\n",
        "ramp_down",
        "3.5 h",
    );
}
