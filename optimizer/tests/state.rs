//! One allocation of a state in a file: what it says, and which faults it names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/site.rs"]
mod sites;

use heliostat_models::{Site, Watts};
use heliostat_optimizer::state::{Answer, Ending, Goal, State, answer};
use serde_json::{Value, json};

fn read(site: &Site, state: &Value) -> State {
    State::read(site, &state.to_string()).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn solved(site: &Site, state: &Value, goal: Goal) -> Answer {
    answer(site, &read(site, state), goal).unwrap()
}

/// Two jobs over two racks of eight devices in all; meters read, so that the
/// plant is known.
fn two_jobs() -> Value {
    json!({
        "site_watts": 12_000, "it_watts": 11_000,
        "nodes": { "r01-n1": { "overhead_watts": 500, "uncertainty_watts": 40 } },
        "jobs": [
            { "id": "steep", "class": "training", "devices": ["r01-n1"],
              "speed": [[200, 0.3], [450, 0.8], [700, 1.0]] },
            { "id": "flat", "class": "training", "devices": ["r01-n2", "r02-n1-gpu0"],
              "speed": [[200, 0.7], [450, 0.9], [700, 1.0]] },
        ],
    })
}

fn limit(answer: &Answer, name: &str) -> (Watts, Watts, Watts, f64, Option<f64>) {
    let found = answer.limits.iter().find(|l| l.name == name).unwrap();
    let room = found.limit + found.spare - found.uncontrolled - found.uncertainty;
    (
        found.limit,
        room,
        found.caps,
        found.price,
        found.kilowatt_more,
    )
}

#[test]
fn a_contract_binds_and_a_kilowatt_more_is_worth_what_it_buys() {
    let site = sites::small();
    let mut state = two_jobs();
    state["contracts"] =
        json!([{ "id": "tenant", "limit_watts": 2_300.0 / 0.98, "members": ["r01"] }]);
    let got = solved(&site, &state, Goal::MostWork);
    assert_eq!(got.ending, Ending::Allocated);
    let (_, room, caps, price, more) = limit(&got, "tenant");
    assert!(
        (room.0 - 2_300.0).abs() < 1e-6 && caps <= room && caps.0 > 2_299.9,
        "{caps}"
    );
    assert!(price > 0.0);
    // By hand: 2,300 W for two devices of each job in rack r01. The steep job
    // goes to its knee (450 W) and on at 2 × 0.2/250 a watt, as the flat one does at
    // 3 × 0.2/250 a watt and 3 devices, of which two count here: first the flat one
    // to 450 W (3 × 0.2/250/2 a watt of the contract), then both at slopes 0.0008
    // and 0.0006 a watt of the contract: the steep one gets the rest, 700 W.
    let cap = |job: &str| {
        let found = got
            .jobs
            .iter()
            .find(|j| j.told.job.as_ref().is_some_and(|i| i.as_str() == job));
        found.unwrap().told.clone()
    };
    let (steep, flat) = (cap("steep"), cap("flat"));
    assert!((steep.cap.0 - 700.0).abs() < 0.01, "{steep:?}");
    assert!((flat.cap.0 - 450.0).abs() < 0.01, "{flat:?}");
    assert_eq!(flat.binding.as_deref(), Some("tenant"));
    // One kilowatt more lets the flat job to full speed: 500 W for 3 × 0.1.
    let more = more.unwrap();
    assert!((more - 0.3).abs() < 1e-6, "{more}");
    assert!(more <= price * 1_000.0 + 1e-9);
    assert_eq!(limit(&got, "pdu-1").4, Some(0.0));
    assert!(got.certificate.gap < 1e-6);
}

#[test]
fn every_goal_passes_the_checker_and_keeps_its_promise() {
    let site = sites::demo();
    let jobs: Vec<Value> = (1..=8)
        .map(|rack| {
            let class = ["training", "fine-tuning", "inference", "experiment"][rack % 4];
            json!({ "id": format!("job{rack}"), "class": class, "devices": [format!("r0{rack}")] })
        })
        .collect();
    let state = json!({ "price_of_energy": 0.0015, "jobs": jobs });
    let speeds = |answer: &Answer| -> Vec<f64> {
        let jobs = answer.jobs.iter().filter(|j| j.told.job.is_some());
        jobs.map(|j| j.told.speed).collect()
    };
    let most = solved(&site, &state, Goal::MostWork);
    let balanced = solved(&site, &state, Goal::Balanced);
    let efficient = solved(&site, &state, Goal::WorkPerJoule { slowdown: 0.05 });
    let fair = solved(&site, &state, Goal::Fair);
    let power = |a: &Answer| a.caps.values().map(|c| c.0).sum::<f64>();
    let work = |a: &Answer| a.certificate.primal + a.price_of_energy * power(a);
    assert!(work(&balanced) < work(&most) && power(&balanced) < power(&most));
    assert!(work(&efficient) >= 0.95 * work(&most) - 1e-9);
    assert!(work(&efficient) / power(&efficient) > work(&most) / power(&most));
    let slowest = |a: &Answer| speeds(a).into_iter().fold(1.0, f64::min);
    assert!(slowest(&fair) > slowest(&most) + 1e-3);
    assert!(work(&fair) <= work(&most) && fair.certificate.dual_bound >= work(&most) - 1e-6);
    let gap = (fair.certificate.dual_bound - work(&fair)) / work(&fair).max(1.0);
    assert!((fair.certificate.gap - gap).abs() < 1e-9);
    assert!(fair.jobs[0].told.reason.contains("together") || fair.jobs[0].told.binding.is_none());
}

#[test]
fn infeasible_floors_name_the_conflict_and_shed_by_class() {
    let site = sites::small();
    let mut state = two_jobs();
    state["jobs"][0]["class"] = json!("inference");
    state["jobs"][1]["class"] = json!("experiment");
    state["jobs"][1]["speed"] = json!([[200, 0.0], [700, 1.0]]);
    // The demo's experiments have a floor too; room for one floor only.
    let floor = site.classes[&heliostat_models::JobClass::Experiment].floor_speed;
    assert!(floor > 0.0);
    let inference = site.classes[&heliostat_models::JobClass::Inference].floor_speed;
    let at = 200.0 + 500.0 * (inference - 0.3).max(0.0);
    state["contracts"] = json!([{ "id": "tenant", "limit_watts": (2.0 * at + 2.0 * 210.0) / 0.98, "members": ["r01"] }]);
    let got = solved(&site, &state, Goal::MostWork);
    assert_eq!(got.ending, Ending::Infeasible);
    assert_eq!(got.conflict, ["tenant"]);
    assert_eq!(
        got.shed.iter().map(|j| j.as_str()).collect::<Vec<_>>(),
        ["flat"]
    );
    assert!(got.beyond.is_empty());
    let (_, room, caps, ..) = limit(&got, "tenant");
    assert!(caps <= room + Watts(1e-6));
    // Not even the lowest caps fit.
    state["contracts"][0]["limit_watts"] = json!(700);
    let got = solved(&site, &state, Goal::MostWork);
    assert_eq!(got.beyond.len(), 1);
    assert!(
        (got.beyond[0].watts.0 - (800.0 - 686.0)).abs() < 1e-6,
        "{:?}",
        got.beyond
    );
}

#[test]
fn measured_powers_leave_what_they_say() {
    let site = sites::small();
    let mut state = two_jobs();
    state["devices"] = json!({
        "r01-n1-gpu0": { "watts": 300 }, "r01-n1-gpu1": { "watts": 320, "step_watts": 25 },
        "r02-n1-gpu1": { "fixed_watts": 650 },
        "r01-n2-gpu0": { "max_watts": 500 },
    });
    state["nodes"] = json!({ "r01-n1": { "watts": 1_320 } });
    let read = read(&site, &state);
    let (_, node) = site.node("r01-n1").unwrap();
    assert!((read.uncontrolled[node.power_node].0 - 700.0).abs() < 1e-9);
    let tenth = node.overhead.0 * 0.1;
    assert!((read.terms.uncertainty[node.power_node].0 - tenth).abs() < 1e-9);
    let (_, other) = site.node("r02-n2").unwrap();
    assert_eq!(read.uncontrolled[other.power_node], other.overhead);
    assert_eq!(read.terms.uncertainty[other.power_node], Watts::ZERO);
    let got = answer(&site, &read, Goal::MostWork).unwrap();
    assert_eq!(got.caps["r02-n1-gpu1"], Watts(650.0));
    assert!(got.caps["r01-n2-gpu0"].0 <= 500.0);
    assert_eq!(got.caps["r01-n1-gpu0"].0 % 25.0, 0.0);
    // The same state gives the same bytes.
    let bytes = |a: &Answer| serde_json::to_vec(a).unwrap();
    assert_eq!(
        bytes(&got),
        bytes(&answer(&site, &read, Goal::MostWork).unwrap())
    );
}

#[test]
fn an_empty_state_is_the_site_at_rest() {
    let site = sites::small();
    let got = solved(&site, &json!({}), Goal::Balanced);
    assert_eq!(got.ending, Ending::Allocated);
    assert!(got.caps.values().all(|c| *c == Watts(200.0)));
}

#[test]
fn every_fault_names_its_field_and_what_is_allowed() {
    let site = sites::small();
    let faults = |state: Value| -> Vec<String> {
        let found = State::read(&site, &state.to_string()).unwrap_err();
        found.iter().map(ToString::to_string).collect()
    };
    let cases = [
        (json!([]), "the file: is []", "an object with"),
        (
            json!({"prize": 1}),
            "prize: is no known field",
            "price_of_energy",
        ),
        (
            json!({"price_of_energy": -1}),
            "price_of_energy: is -1",
            "not below 0",
        ),
        (
            json!({"nodes": {"r9": {}}}),
            "nodes.r9: is no node",
            "r01-n1",
        ),
        (
            json!({"nodes": {"r01-n1": {"watts": 5}}}),
            "nodes.r01-n1.watts: `devices.r01-n1-gpu0.watts` is missing",
            "overhead_watts",
        ),
        (
            json!({"nodes": {"r01-n1": {"watts": 5, "overhead_watts": 5}}}),
            "nodes.r01-n1: says both",
            "either",
        ),
        (
            json!({"devices": {"r01-n1-gpu0": {"watts": "many"}}}),
            "devices.r01-n1-gpu0.watts: is \"many\"",
            "a number of watts",
        ),
        (
            json!({"devices": {"r01-n1-gpu0": {"min_watts": 900}}}),
            "devices.r01-n1-gpu0: its lowest cap",
            "not above",
        ),
        (
            json!({"contracts": [{"id": "a", "limit_watts": 5, "members": ["x"]}]}),
            "contracts[0].members: names `x`",
            "racks",
        ),
        (
            json!({"contracts": [{"id": "a", "members": []}]}),
            "contracts[0].limit_watts: is missing",
            "watts",
        ),
        (
            json!({"jobs": [{"id": "a", "class": "trainig", "devices": ["r01"]}]}),
            "jobs[0].class: is `trainig`",
            "training, fine-tuning",
        ),
        (
            json!({"jobs": [{"id": "a", "class": "training", "devices": []}]}),
            "jobs[0].devices: names no device",
            "racks",
        ),
        (
            json!({"jobs": [{"class": "training", "devices": ["r01"]}]}),
            "jobs[0].id: is missing",
            "a name",
        ),
        (
            json!({"jobs": [{"id": "a", "class": "training", "devices": ["r01"], "speed": [[1, 2, 3]]}]}),
            "jobs[0].speed: has the point [1,2,3]",
            "relative speed",
        ),
        (
            json!({"jobs": [
                {"id": "a", "class": "training", "devices": ["r01"]},
                {"id": "b", "class": "training", "devices": ["r01-n1-gpu0"]},
            ]}),
            "jobs[1].devices: `r01-n1-gpu0` is held by job `a`",
            "once",
        ),
    ];
    for (state, fault, allowed) in cases {
        let found = faults(state.clone());
        assert!(
            found
                .iter()
                .any(|f| f.starts_with(fault) && f.contains(allowed)),
            "{state}: {found:?}"
        );
    }
    // All of them in one reading.
    let many = faults(json!({"grid_limit_watts": "x", "it_watts": null, "jobs": 3}));
    assert_eq!(many.len(), 3, "{many:?}");
    let broken = State::read(&site, "{").unwrap_err();
    assert!(broken[0].to_string().contains("line 1"), "{broken:?}");
}
