//! Power contracts from the site file to caps: control keeps them whatever is
//! read, the executor on every way, the checker knows them, replay brings them back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/loop_world.rs"]
mod loop_world;

use heliostat_models::lease::{
    AgentHello, CapAnswer, CapOutcome, CapReport, CappableDevice, ForeignChanges,
};
use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::{AgentId, Catalogue, DeviceId, Frame, Reading, Site, Timestamp, Watts};
use heliostat_optimizer::allocate::allocate;
use heliostat_optimizer::check::{Facts, NO_TERMS, Proposal, Rule, Terms, check_allocation};
use heliostat_optimizer::control::replay::replay_day;
use heliostat_optimizer::control::{Controller, Executor};
use heliostat_optimizer::state::{self, State};
use heliostat_store::TimeSeriesStore;
use heliostat_store::decisions::read_inputs;
use loop_world::{LoopWorld, START};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The demonstration site with sections before its classes, and a step for caps.
fn site(contracts: &str, step: Option<f64>) -> Arc<Site> {
    let mut text = builtin_demo().replace(
        "[class.training]",
        &format!("{contracts}\n[class.training]"),
    );
    if let Some(step) = step {
        let safe = "safe_cap_watts = 400";
        text = text.replace(safe, &format!("cap_step_watts = {step}\n{safe}"));
    }
    let loaded = load("test.toml", &text, LoadOptions::default());
    let errors: Vec<String> = loaded.errors().map(ToString::to_string).collect();
    Arc::new(
        loaded
            .site
            .unwrap_or_else(|| panic!("{errors:?}\n{contracts}")),
    )
}

fn contract(id: &str, limit: f64, members: &[String], in_full: bool) -> String {
    let limit = limit.ceil();
    format!(
        "[[power_contract]]\nid = \"{id}\"\nlimit_watts = {limit}\nin_full = {in_full}\nmembers = {members:?}\n"
    )
}

/// What a contract covers, found by names alone: its devices, and the nodes
/// that it covers as a whole.
fn covered(site: &Site, members: &[String]) -> (BTreeSet<usize>, BTreeSet<usize>) {
    let (mut devices, mut nodes) = (BTreeSet::new(), BTreeSet::new());
    for (place, device) in site.devices.iter().enumerate() {
        let node = &site.nodes[device.node];
        let above = site.power.path_up(node.power_node);
        let whole = above
            .iter()
            .any(|v| members.contains(&site.power.nodes()[*v].id));
        if whole {
            nodes.insert(device.node);
        }
        if whole || members.contains(&device.id.to_string()) {
            devices.insert(place);
        }
    }
    (devices, nodes)
}

/// Contracts that overlap, over racks, nodes and devices, each between what
/// safe caps need and what all could draw.
fn random_site(rng: &mut fastrand::Rng) -> Arc<Site> {
    let plain = site("", None);
    let mut text = String::new();
    for place in 0..rng.usize(1..4) {
        let mut members: Vec<String> = (plain.racks.iter().map(|rack| rack.id.clone()))
            .filter(|_| rng.f64() < 0.3)
            .collect();
        let nodes = plain.nodes.iter().map(|node| node.id.to_string());
        members.extend(nodes.filter(|_| rng.f64() < 0.1));
        let devices = plain.devices.iter().map(|d| d.id.to_string());
        members.extend(devices.filter(|_| rng.f64() < 0.05));
        if members.is_empty() {
            members.push("pdu-2".into());
        }
        let (devices, nodes) = covered(&plain, &members);
        let need = 1_400.0 * nodes.len() as f64 + 400.0 * devices.len() as f64;
        let limit = need / 0.98 + 1.0 + 120.0 * devices.len() as f64 * rng.f64();
        text += &contract(&format!("contract{place}"), limit, &members, rng.bool());
    }
    if rng.bool() {
        // What the site may draw by its supply contract, plant included.
        let limit = 170_000.0 + 20_000.0 * rng.f64();
        text += &contract("import", limit, &["feed".to_owned()], rng.bool());
    }
    let step = [None, Some(1.0), Some(25.0)][rng.usize(0..3)];
    site(&text, step)
}

/// Readings of the meters and of most nodes; what the plant draws, and each
/// node besides its devices: some more than they are rated for.
fn readings(
    site: &Site,
    at: Timestamp,
    rng: &mut fastrand::Rng,
) -> (Vec<Frame>, Watts, Vec<Option<Watts>>) {
    let (mut frames, mut drawn) = (Vec::new(), Vec::new());
    let frame = |device: &str, metric, watts: f64| Frame {
        device: DeviceId::from(device),
        at,
        readings: vec![(metric, Reading::Measured(watts))],
    };
    for node in &site.nodes {
        let own = 300.0 + 1_600.0 * rng.f64();
        let mut all = own;
        let heard = rng.f64() < 0.8;
        for device in &site.devices[node.devices.clone()] {
            let watts = 80.0 + 200.0 * rng.f64();
            all += watts;
            if heard {
                frames.push(frame(device.id.as_str(), Catalogue::gpu_power(), watts));
            }
        }
        if heard {
            frames.push(frame(node.id.as_str(), Catalogue::node_power(), all));
        }
        drawn.push(heard.then_some(Watts(own)));
    }
    let (it, plant) = (40_000.0, 4_000.0 + 8_000.0 * rng.f64());
    frames.push(frame(
        "meter-site",
        Catalogue::meter_power(),
        2.0 * it + plant,
    ));
    frames.push(frame("meter-it-a", Catalogue::meter_power(), it));
    frames.push(frame("meter-it-b", Catalogue::meter_power(), it));
    (frames, Watts(plant), drawn)
}

#[tokio::test]
async fn whatever_is_read_no_contract_is_ever_exceeded() {
    let (mut bound, mut whole, mut differences) = (0, 0, 0);
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let world = LoopWorld::new(random_site(&mut rng));
        let site = Arc::clone(&world.site);
        let handle = Controller::start(world.config(9, false), world.deps.clone()).unwrap();
        let mut view = handle.view();
        for round in 0..14 {
            let now = START + Duration::from_secs(60 * round);
            let (frames, plant, drawn) = readings(&site, now, &mut rng);
            // Now and then everything is stale.
            let fresh = rng.u8(0..5) > 0;
            if fresh {
                world.store.append(frames).await.unwrap();
            }
            let first = 16 * rng.usize(0..10);
            world.run_job(
                &format!("job-{}", rng.u8(0..8)),
                first..first + 8 * rng.usize(4..12),
                now - Duration::from_secs(9),
            );
            world.clock.advance_to(now);
            let seen = view.wait_for(|v| v.at >= now && v.rounds > round && v.allocations > 0);
            let seen = tokio::time::timeout(Duration::from_secs(20), seen)
                .await
                .expect("a round")
                .unwrap()
                .clone();
            assert_eq!(seen.contracts.len(), site.power_contracts.len());
            for (shown, stated) in seen.contracts.iter().zip(&site.power_contracts) {
                let (devices, nodes) = covered(&site, &stated.members);
                let caps: Watts = (devices.iter())
                    .map(|d| seen.caps.get(&site.devices[*d].id).unwrap().decided)
                    .sum();
                let mut load: Watts = (nodes.iter())
                    .map(|n| {
                        drawn[*n]
                            .filter(|_| fresh)
                            .unwrap_or(site.nodes[*n].overhead)
                    })
                    .sum();
                if fresh && stated.id == "import" {
                    load += plant;
                }
                let limit = stated.limit * if stated.in_full { 1.0 } else { 0.98 };
                assert!(
                    caps + load <= limit + Watts(1e-6),
                    "seed {seed}, round {round}: {caps} + {load} > {limit}"
                );
                assert!(
                    (shown.capped - caps).0.abs() < 1e-6
                        && shown.uncontrolled >= load - Watts(1e-6)
                );
                assert!((shown.limit - limit).0.abs() < 1e-6);
                bound += u64::from(shown.price > 0.0);
            }
            for device in &site.devices {
                let cap = seen.caps.get(&device.id).unwrap().decided;
                let count = cap / device.cap_step;
                let at_end = cap <= device.min_cap || cap >= device.max_cap;
                assert!(
                    at_end || (count - count.round()).abs() < 1e-6,
                    "{cap} in steps of {}",
                    device.cap_step
                );
            }
        }
        handle.stop().await;
        let replayed = replay_day(world.directory.path(), START).unwrap();
        assert!(replayed.is_sound(), "{:?}", replayed.differing.first());
        assert_eq!(replayed.same, replayed.allocations);
        let inputs = read_inputs(world.directory.path(), START).unwrap();
        whole += inputs.iter().filter(|i| i.inputs.whole).count();
        differences += inputs.iter().filter(|i| !i.inputs.whole).count();
    }
    assert!(bound > 10, "contracts bound {bound} times");
    assert_eq!(
        whole, 12,
        "the first of each only; {differences} differences"
    );
    assert!(differences > 50, "{differences}");
}

/// Agents that obey, late or never; the executor must keep the contracts all the same.
#[test]
fn lower_before_raise_holds_for_contracts_too() {
    let mut raised = 0;
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let site = random_site(&mut rng);
        let nodes = site.power.nodes().len();
        let members: Vec<BTreeSet<usize>> = (site.power_contracts.iter())
            .map(|c| covered(&site, &c.members).0)
            .collect();
        let mut has: Vec<Watts> = vec![Watts(300.0); site.devices.len()];
        let mut room = vec![Watts(1e9); nodes];
        room.extend(members.iter().map(|m| Watts(310.0 * m.len() as f64)));
        let mut executor = Executor::new(Arc::clone(&site), "run".into(), Duration::from_secs(30));
        executor.set_room(room.clone());
        let mut now = Timestamp(1_000_000);
        for node in &site.nodes {
            let devices = node.devices.clone().map(|d| CappableDevice {
                device: site.devices[d].id.clone(),
                uuid: format!("GPU-{d}"),
                product: "test".into(),
                min: Watts(200.0),
                max: Watts(700.0),
                found: Watts(700.0),
                current: has[d],
            });
            executor.on_hello(&AgentHello {
                agent: AgentId::from(node.id.as_str()),
                at: now,
                version: "test".into(),
                devices: devices.collect(),
                fence: 0,
                foreign: ForeignChanges::default(),
                leaving: false,
            });
        }
        for _ in 0..30 {
            // Targets that fill the contracts, others each time.
            let mut left = room[nodes..].to_vec();
            let mut targets = BTreeMap::new();
            let mut order: Vec<usize> = (0..site.devices.len()).collect();
            rng.shuffle(&mut order);
            for (of, left) in members.iter().zip(&mut left) {
                *left -= Watts(200.0 * of.len() as f64);
            }
            for device in order {
                let mine: Vec<usize> = (0..members.len())
                    .filter(|c| members[*c].contains(&device))
                    .collect();
                let most = mine.iter().fold(500.0, |m: f64, c| m.min(left[*c].0));
                let more = Watts(most.max(0.0) * rng.f64().powf(0.3));
                mine.iter().for_each(|c| left[*c] -= more);
                targets.insert(site.devices[device].id.clone(), Watts(200.0) + more);
            }
            executor.set_targets(&targets);
            for _ in 0..4 {
                now = now + Duration::from_secs(5);
                for (agent, command) in executor.tick(now) {
                    let reports = command.leases.iter().map(|lease| {
                        let (place, device) = site.device(&lease.device).unwrap();
                        let step = lease.cap / device.cap_step;
                        let at_end = lease.cap <= Watts(200.0) || lease.cap >= Watts(700.0);
                        assert!(
                            at_end || (step - step.round()).abs() < 1e-6,
                            "{}",
                            lease.cap
                        );
                        (place, lease.cap)
                    });
                    let reports: Vec<(usize, Watts)> = reports.collect();
                    if rng.f64() < 0.3 {
                        continue;
                    }
                    for (place, cap) in &reports {
                        raised += u64::from(*cap > has[*place]);
                        has[*place] = *cap;
                    }
                    for (of, room) in members.iter().zip(&room[nodes..]) {
                        let drawn: Watts = of.iter().map(|d| has[*d]).sum();
                        assert!(
                            drawn <= *room + Watts(1e-6),
                            "seed {seed}: {drawn} > {room}"
                        );
                    }
                    if rng.f64() < 0.8 {
                        executor.on_answer(&CapAnswer {
                            agent,
                            at: now,
                            controller: Some("run".into()),
                            sequence: Some(command.sequence),
                            fence: 0,
                            reports: (reports.into_iter())
                                .map(|(place, cap)| CapReport {
                                    device: site.devices[place].id.clone(),
                                    outcome: CapOutcome::Applied { readback: cap },
                                })
                                .collect(),
                        });
                    }
                }
            }
        }
    }
    assert!(raised > 10_000, "{raised}");
}

#[test]
fn the_checker_misses_no_contract_of_the_site() {
    let members = ["r01".to_owned(), "r05".to_owned(), "r08-n1-gpu0".to_owned()];
    let site = site(&contract("tenant", 42_000.0, &members, false), None);
    let state = State::read(&site, "{}").unwrap();
    let rules = |terms: &Terms| -> Vec<Rule> {
        let facts = Facts {
            terms,
            ..state.facts(&site)
        };
        let problem = state::problem(&facts);
        let outcome = allocate(&problem).unwrap();
        let allocation = outcome.allocation();
        let caps = (problem.devices.iter().zip(&allocation.caps)).map(|(d, c)| (d.id.clone(), *c));
        let proposal = Proposal {
            caps: &caps.collect(),
            node_prices: &allocation.prices(),
            certificate: &allocation.certificate,
            dropped: &[],
            beyond: &[],
        };
        check_allocation(&facts, &proposal)
            .iter()
            .map(|b| b.rule)
            .collect()
    };
    assert_eq!(rules(&state.terms), vec![]);
    assert_eq!(state.terms.contracts[0].uncontrolled, Watts(8.0 * 1_400.0));
    assert_eq!(rules(&NO_TERMS), vec![Rule::Contract]);
    let changes: [fn(&mut Terms); 4] = [
        |terms| terms.contracts[0].limit += Watts(1.0),
        |terms| terms.contracts[0].in_full = true,
        |terms| drop(terms.contracts[0].members.pop()),
        |terms| terms.contracts.extend_from_within(..),
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let mut terms = state.terms.clone();
        change(&mut terms);
        assert!(rules(&terms).contains(&Rule::Contract), "change {place}");
    }
}

#[test]
fn contracts_of_the_site_and_of_a_state_come_together() {
    let members = ["r01".to_owned()];
    let site = site(&contract("tenant", 20_000.0, &members, false), None);
    let own = |id: &str| {
        format!(
            "{{\"contracts\": [{{\"id\": \"{id}\", \"limit_watts\": 30000, \"members\": [\"r02\"]}}]}}"
        )
    };
    let state = State::read(&site, &own("other")).unwrap();
    let names: Vec<&str> = state
        .terms
        .contracts
        .iter()
        .map(|c| c.id.as_str())
        .collect();
    assert_eq!(names, ["tenant", "other"]);
    for taken in ["tenant", "pdu-1"] {
        let faults = State::read(&site, &own(taken)).unwrap_err();
        assert!(
            faults[0].field == "contracts[0].id" && faults[0].fault.contains("another limit"),
            "{faults:?}"
        );
    }
}

#[test]
fn a_contract_over_the_feed_carries_the_plant_and_overlaps_count_once() {
    let members: Vec<String> = ["feed", "r01", "r01-n1", "r01-n1-gpu0"]
        .map(String::from)
        .to_vec();
    let over_all = site(&contract("import", 185_000.0, &members, false), None);
    let state = State::read(&over_all, r#"{"site_watts": 120000, "it_watts": 100000}"#).unwrap();
    let feed = over_all.power.find("feed").unwrap();
    let (counted, at_feed) = (
        state.terms.contracts[0].uncontrolled,
        state.uncontrolled[feed],
    );
    // Less may be drawn than at the feed, so the plant grows by less.
    assert!(
        counted > Watts(32.0 * 1_400.0 + 20_000.0) && counted < at_feed,
        "{counted} {at_feed}"
    );
}
