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

/// A contract over rack r01 that leaves so much for caps. Of [`two_jobs`] one node
/// of the rack is read and the other counts as rated.
fn tenant(site: &Site, caps: f64) -> Value {
    let rated = site.node("r01-n2").unwrap().1.overhead.0;
    let limit = (caps + 540.0 + rated) / 0.98;
    json!([{ "id": "tenant", "limit_watts": limit, "members": ["r01"] }])
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
    state["contracts"] = tenant(&site, 2_300.0);
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
    state["contracts"] = tenant(&site, 2.0 * at + 2.0 * 210.0);
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
    state["contracts"] = tenant(&site, 686.0);
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

/// 14 kW over a rack of four nodes that draw 1.4 kW each besides their devices, as the
/// README has it: by hand, 98 % of 14,000 W less 5,600 W are left for caps.
#[test]
fn a_contract_counts_what_its_members_draw_besides_caps() {
    let site = sites::demo();
    let (_, rest) = include_str!("../../README.md")
        .split_once("```json\n")
        .unwrap();
    let (state, _) = rest.split_once("```").unwrap();
    let mut state: Value = serde_json::from_str(state).unwrap();
    let caps = |state: &Value| -> f64 {
        let got = solved(&site, state, Goal::MostWork);
        assert_eq!(got.ending, Ending::Allocated);
        (got.caps.iter())
            .filter(|(device, _)| device.as_str().starts_with("r01-"))
            .map(|(_, cap)| cap.0)
            .sum()
    };
    let sum = caps(&state);
    assert!(sum <= 8_120.0 && sum > 8_119.9, "{sum}");
    // What is given is given: the file says nothing else of these nodes.
    state["contracts"][0]["uncontrolled_watts"] = json!(0);
    let sum = caps(&state);
    assert!(sum <= 13_720.0 && sum > 13_719.9, "{sum}");
    state["contracts"][0]["uncontrolled_watts"] = json!(3_000);
    state["contracts"][0]["uncertainty_watts"] = json!(100);
    let sum = caps(&state);
    assert!(sum <= 10_620.0 && sum > 10_619.9, "{sum}");
}

/// A contract counts the same, whichever file it stands in.
#[test]
fn a_contract_in_a_state_counts_as_one_in_the_site_file() {
    let mut rng = fastrand::Rng::with_seed(7);
    let names = [
        "feed",
        "pdu-1",
        "r01",
        "r02",
        "r01-n1",
        "r02-n2",
        "r01-n2-gpu1",
    ];
    for _ in 0..40 {
        let members: Vec<&str> = names.into_iter().filter(|_| rng.f64() < 0.4).collect();
        if members.is_empty() {
            continue;
        }
        let limit = 60_000.0;
        let text = format!(
            "[[power_contract]]\nid = \"t\"\nlimit_watts = {limit:?}\nmembers = {members:?}\n[class.training]"
        );
        let with = sites::parse(&sites::small_text().replace("[class.training]", &text));
        let mut state = json!({ "nodes": {
            "r01-n1": { "overhead_watts": rng.f64() * 1_400.0 },
            "r02-n1": { "overhead_watts": rng.f64() * 1_400.0, "uncertainty_watts": rng.f64() * 90.0 },
        }});
        if rng.bool() {
            state["site_watts"] = json!(12_000.0 + rng.f64() * 900.0);
            state["it_watts"] = json!(11_000);
        }
        let of_site = read(&with, &state).terms;
        state["contracts"] = json!([{ "id": "t", "limit_watts": limit, "members": members }]);
        let of_state = read(&sites::small(), &state).terms;
        assert_eq!(of_state, of_site);
        assert_eq!(of_state.contracts.len(), 1);
    }
}

#[test]
fn the_way_lowers_before_it_raises_and_breakers_bear_the_meantime() {
    let site = sites::small();
    let mut state = two_jobs();
    state["contracts"] = tenant(&site, 2_300.0);
    assert_eq!(solved(&site, &state, Goal::MostWork).way, None);
    // The caps in force favour the other job; the new ones are 700 W and 450 W.
    let (steep, flat) = (450.0, 700.0);
    state["devices"] = json!({
        "r01-n1-gpu0": { "cap_watts": steep }, "r01-n1-gpu1": { "cap_watts": steep },
        "r01-n2-gpu0": { "cap_watts": flat }, "r01-n2-gpu1": { "cap_watts": flat },
        "r02-n1-gpu0": { "cap_watts": flat }, "r02-n1-gpu1": { "cap_watts": 200 },
        "r02-n2-gpu0": { "cap_watts": 200 }, "r02-n2-gpu1": { "cap_watts": 200 },
    });
    let way = solved(&site, &state, Goal::MostWork).way.unwrap();
    assert_eq!((way.lower, way.raise), (3, 2));
    assert_eq!(way.together.len(), 1, "{way:?}");
    assert!(way.together[0].contains("`tenant`"));
    assert!(
        way.in_order.is_empty() && way.breakers.is_empty(),
        "{way:?}"
    );
    // A node whose breaker is small and quick does not bear what it has.
    let node = site.nodes[0].power_node;
    let (name, rating) = (
        &site.power.nodes()[node].id,
        site.power.nodes()[node].rating.0,
    );
    state["nodes"] =
        json!({ "r01-n1": { "overhead_watts": rating * 1.2 - 900.0, "uncertainty_watts": 0 } });
    state["contracts"] = tenant(&site, 2_300.0 + rating * 1.2 - 900.0 - 540.0);
    state["trip_curves"] = json!({ name: [[1.1, 100.0], [1.3, 8.0]] });
    let breakers = |state: &Value| solved(&site, state, Goal::MostWork).way.unwrap().breakers;
    assert!(breakers(&state).is_empty(), "{:?}", breakers(&state));
    state["lowering_seconds"] = json!(9);
    assert!(breakers(&state)[0].contains(name.as_str()));
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
            json!({
                "nodes": {"r01-n1": {"watts": 999}},
                "devices": {"r01-n1-gpu0": {"watts": 600}, "r01-n1-gpu1": {"watts": 400}},
            }),
            "nodes.r01-n1.watts: is 999 W, and its devices alone draw 1000 W",
            "at least",
        ),
        (
            json!({"site_watts": 15_000, "it_watts": 16_000}),
            "it_watts: is 16000 W",
            "at most site_watts",
        ),
        (
            json!({
                "nodes": {"r01-n1": {"overhead_watts": 500}},
                "contracts": [{"id": "a", "limit_watts": 5_000, "members": ["r01"],
                    "uncontrolled_watts": 300, "uncertainty_watts": 199}],
            }),
            "contracts[0].uncontrolled_watts: is 499 W with its uncertainty",
            "at least 500 W",
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
