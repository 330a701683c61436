//! Plans of the demonstration hall under power contracts of its site file: what
//! counts, what is planned, and what people are told.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

use heliostat_models::job::JobOrder;
use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::{JobClass, JobId, JobRecord, JobState, Site, SpeedCurve, Timestamp, Watts};
use heliostat_optimizer::plan::Planner;
use heliostat_optimizer::plan_service::{ContractLoad, PlanInput, PlanOutput};
use heliostat_optimizer::state::State;
use heliostat_optimizer::view::PlannedContract;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

const START: Timestamp = Timestamp(1_546_300_800_000);

/// The demonstration site with contracts: name, limit, members.
fn site(contracts: &[(&str, f64, &[&str])]) -> Arc<Site> {
    let mut text = String::new();
    for (id, limit, members) in contracts {
        text += &format!(
            "[[power_contract]]\nid = \"{id}\"\nlimit_watts = {limit}\nmembers = {members:?}\n"
        );
    }
    let text = builtin_demo().replace("[class.training]", &format!("{text}\n[class.training]"));
    let loaded = load("test.toml", &text, LoadOptions::default());
    let errors: Vec<String> = loaded.errors().map(ToString::to_string).collect();
    Arc::new(loaded.site.unwrap_or_else(|| panic!("{errors:?}")))
}

/// A job that gets the more done the more power it has, up to the highest cap.
fn job(id: &str, class: JobClass, gang: u32) -> JobRecord {
    let points = (0..=10).map(|k| {
        let cap = 200.0 + 50.0 * f64::from(k);
        (Watts(cap), (cap / 700.0).sqrt())
    });
    JobRecord {
        id: JobId::from(id),
        class,
        owner: "p".into(),
        gang_size: gang,
        remaining_hours: 4.0,
        total_hours: 4.0,
        release: START,
        deadline: None,
        state: JobState::Queued,
        devices: Vec::new(),
        curve: SpeedCurve::envelope(&points.collect::<Vec<_>>()).unwrap(),
        started: None,
        ended: None,
        at: START,
    }
}

/// The same, running on these devices.
fn on(site: &Site, job: JobRecord, devices: Range<usize>) -> JobRecord {
    JobRecord {
        state: JobState::Running,
        devices: site.devices[devices].iter().map(|d| d.id.clone()).collect(),
        ..job
    }
}

fn plan(site: &Arc<Site>, jobs: Vec<JobRecord>, contract_loads: Vec<ContractLoad>) -> PlanOutput {
    let input = PlanInput {
        site: Arc::clone(site),
        jobs,
        grid_history: Vec::new(),
        grid_events: Vec::new(),
        caps: HashMap::new(),
        site_power: None,
        it_power: None,
        contract_loads,
    };
    Planner::new().plan(START, &input)
}

fn order(output: &PlanOutput, id: &str) -> JobOrder {
    let found = output.orders.iter().find(|(job, _)| job.as_str() == id);
    found.unwrap().1
}

fn reason<'p>(output: &'p PlanOutput, id: &str) -> &'p str {
    let job = output.view.jobs.iter().find(|j| j.job.as_str() == id);
    &job.unwrap().reason
}

fn is_kept(contract: &PlannedContract) {
    for slot in &contract.slots {
        let most = slot.uncontrolled + slot.capped;
        assert!(
            most <= contract.limit + Watts(0.01),
            "{most} at {}",
            slot.start
        );
    }
}

#[test]
fn counts_what_control_counts_and_more_where_more_is_expected() {
    let contracts: [(&str, f64, &[&str]); 3] = [
        ("racks", 60_000.0, &["r01", "r02", "r01-n1"]),
        (
            "devices",
            9_000.0,
            &["r03-n1-gpu0", "r04-n2", "r04-n2-gpu1"],
        ),
        ("import", 185_000.0, &["feed"]),
    ];
    let site = site(&contracts);
    let output = plan(&site, Vec::new(), Vec::new());
    let terms = State::read(&site, "{}").unwrap().terms.contracts;
    let devices = [64.0, 9.0, 256.0];
    for ((planned, term), devices) in output.view.contracts.iter().zip(&terms).zip(devices) {
        assert_eq!(planned.id, term.id);
        assert_eq!(planned.limit, term.usable(0.02));
        assert_eq!(planned.slots.len(), 192);
        let counted = term.uncontrolled + term.uncertainty;
        for slot in &planned.slots {
            assert!(
                slot.uncontrolled >= counted - Watts(1e-6),
                "{}",
                slot.uncontrolled
            );
            // Nothing runs: least caps, no price.
            assert_eq!((slot.capped, slot.price), (Watts(200.0 * devices), 0.0));
        }
    }
    assert_eq!(
        output.view.contracts[0].slots[9].uncontrolled,
        Watts(8.0 * 1_400.0)
    );
    assert_eq!(
        output.view.contracts[1].slots[9].uncontrolled,
        Watts(1_400.0)
    );
    // What control has read takes the place of what is rated; the plant grows with
    // the hours for which more is expected.
    let load = |it, plant, carries| ContractLoad {
        it: Watts(it),
        plant: Watts(plant),
        carries: Watts(carries),
    };
    let loads = vec![
        load(12_345.0, 0.0, 0.0),
        load(0.0, 0.0, 0.0),
        load(50_000.0, 1.0, 181_300.0),
    ];
    let output = plan(&site, Vec::new(), loads);
    assert_eq!(
        output.view.contracts[0].slots[0].uncontrolled,
        Watts(12_345.0)
    );
    let import = &output.view.contracts[2].slots;
    assert!(import.iter().all(|s| s.uncontrolled > Watts(55_000.0)));
}

#[test]
fn a_plan_without_contracts_says_nothing_of_them() {
    let output = plan(
        &site(&[]),
        vec![job("a", JobClass::Training, 8)],
        Vec::new(),
    );
    let text = serde_json::to_string(&output.view).unwrap();
    assert!(!text.contains("contract"), "{text}");
}

#[test]
fn keeps_a_contract_wherever_jobs_land_and_says_what_binds() {
    // Above least caps 60 W for each of its 64 devices.
    let site = site(&[("tenant-a", 44_000.0, &["r01", "r02"])]);
    let load = vec![ContractLoad {
        it: Watts(0.98 * 44_000.0 - 64.0 * 260.0),
        ..ContractLoad::default()
    }];
    let jobs: Vec<JobRecord> = (0..6)
        .map(|k| job(&format!("e{k}"), JobClass::Experiment, 32))
        .collect();
    let output = plan(&site, jobs, load.clone());
    let contract = &output.view.contracts[0];
    is_kept(contract);
    let fullest = contract.slots.iter().map(|s| (s.uncontrolled + s.capped).0);
    assert!(fullest.fold(0.0, f64::max) > 0.9 * contract.limit.0);
    // On known devices, all below it: a price for each slot in which it binds.
    let inside = (0..2).map(|k| {
        let job = job(&format!("i{k}"), JobClass::Experiment, 32);
        on(&site, job, 32 * k..32 * (k + 1))
    });
    let outside = on(&site, job("o", JobClass::Experiment, 64), 64..128);
    let output = plan(&site, inside.chain([outside]).collect(), load);
    let contract = &output.view.contracts[0];
    is_kept(contract);
    let now = contract.slots[0];
    assert!(now.price > 0.0, "{now:?}");
    let told = &output.view.slots[0].reason;
    assert!(told.contains("power contract tenant-a binds"), "{told}");
    // Who runs elsewhere is not slowed.
    let pace = |id: &str| {
        let job = output.view.jobs.iter().find(|j| j.job.as_str() == id);
        job.unwrap().runs[0].2
    };
    assert!(
        pace("o") > pace("i0").min(pace("i1")),
        "{} {}",
        pace("o"),
        pace("i0")
    );
    // Two jobs of three levels each fill it badly; the bound is that of mixtures.
    assert!(
        output.view.certificate.gap < 0.12,
        "{:?}",
        output.view.certificate
    );
}

#[test]
fn a_job_that_a_contract_stops_is_held_and_told_by_which() {
    // Above least caps 40 W a device; inference needs 252 W for its service level.
    let site = site(&[
        ("tenant-a", 58_000.0, &["r01", "r02"]),
        ("tiny", 5_200.0, &["r03-n1"]),
    ]);
    let load = |it| ContractLoad {
        it: Watts(it),
        ..ContractLoad::default()
    };
    let loads = vec![load(11_200.0), load(5_096.0 - 1_600.0 - 8.0 * 40.0)];
    let jobs = vec![
        job("serve", JobClass::Inference, 64),
        on(&site, job("there", JobClass::Inference, 8), 128..136),
    ];
    let output = plan(&site, jobs, loads);
    assert_eq!(order(&output, "there"), JobOrder::Run);
    assert_eq!(order(&output, "serve"), JobOrder::Hold);
    let told = reason(&output, "serve");
    assert!(
        told.contains("power contract tiny leaves too little power for it")
            && told.contains("even were it alone"),
        "{told}"
    );
    // What runs below it and may not be paused goes on, and is told so.
    let place = site.node("r03-n1").unwrap().1.devices.clone();
    let inside = on(&site, job("inside", JobClass::Inference, 8), place);
    let loads = vec![load(11_200.0), load(5_096.0 - 1_600.0 - 8.0 * 40.0)];
    let output = plan(&site, vec![inside], loads);
    assert_eq!(order(&output, "inside"), JobOrder::Run);
    let told = reason(&output, "inside");
    assert!(
        told.contains("power contract tiny leaves less than it needs"),
        "{told}"
    );
}

#[test]
fn a_contract_that_no_plan_keeps_is_named_with_its_figures() {
    let site = site(&[("tenant-a", 20_000.0, &["r01"])]);
    let load = ContractLoad {
        it: Watts(13_500.0),
        ..ContractLoad::default()
    };
    let output = plan(&site, vec![job("a", JobClass::Training, 16)], vec![load]);
    let told = &output.view.slots[5].reason;
    assert!(
        told.contains("no plan keeps power contract tenant-a: least caps (6.4 kW) and load that no cap controls (13.5 kW) exceed its 19.6 kW"),
        "{told}"
    );
    // Jobs at least caps add nothing to it; others wait.
    assert!(
        output.view.contracts[0]
            .slots
            .iter()
            .all(|s| s.capped == Watts(6_400.0))
    );
}
