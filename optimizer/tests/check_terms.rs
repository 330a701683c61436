//! Contracts, steps, uncertain loads and time-current curves: the checker lets
//! pass what allows for them and rejects the rest by name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/scene.rs"]
mod scene;

use heliostat_models::Watts;
use heliostat_optimizer::allocate::Outcome;
use heliostat_optimizer::check::{
    ContractTerm, Facts, Proposal, Rule, Terms, TripCurve, check_allocation, check_excursion,
    check_transition,
};
use scene::{Caps, Scene, declared, prices};
use std::collections::BTreeMap;

#[test]
fn contracts_steps_and_uncertainty_are_allowed_for_by_what_passes() {
    let (mut held, mut stepped, mut shed) = (0, 0, 0);
    for seed in 0..120 {
        let mut scene = Scene::with_terms(seed);
        if seed % 6 == 0 {
            scene.feed_limit = Some(Watts(70_000.0 + 400.0 * seed as f64));
        }
        let (outcome, caps) = scene.solve();
        let (dropped, beyond) = declared(&outcome);
        shed += usize::from(!dropped.is_empty() || !beyond.is_empty());
        let allocation = outcome.allocation();
        let proposal = Proposal {
            caps: &caps,
            node_prices: &prices(&outcome),
            certificate: &allocation.certificate,
            dropped: &dropped,
            beyond: &beyond,
        };
        let broken = check_allocation(&scene.facts(), &proposal);
        assert!(broken.is_empty(), "seed {seed}: {broken:?}");
        held += usize::from(allocation.contract_prices.iter().any(|p| *p > 0.0));
        stepped += usize::from(caps.iter().any(|(device, cap)| {
            let step = scene.terms.steps.get(device).map_or(0.0, |s| s.0);
            step > 0.0 && cap.0 > 200.0 && cap.0 < 700.0 && (cap.0 / step).fract() == 0.0
        }));
    }
    assert!(
        held > 20 && stepped > 60 && shed > 5,
        "{held} {stepped} {shed}"
    );
}

#[test]
fn a_broken_contract_step_or_uncertainty_is_rejected_by_name() {
    let (mut planted, mut left_out, mut noticed) = (0, 0, 0);
    for seed in 0..60 {
        let mut scene = Scene::with_terms(500 + seed);
        scene.pinned.clear();
        let (outcome, caps) = scene.solve();
        let Outcome::Allocated(good) = &outcome else {
            continue;
        };
        let node_prices = prices(&outcome);
        let mut expect = |rule: Rule, caps: &Caps, terms: &Terms, node_prices: &[f64]| {
            let facts = Facts {
                terms,
                ..scene.facts()
            };
            let proposal = Proposal {
                caps,
                node_prices,
                certificate: &good.certificate,
                dropped: &[],
                beyond: &[],
            };
            let broken = check_allocation(&facts, &proposal);
            let name = rule.name();
            assert!(
                broken.iter().any(|b| b.rule == rule),
                "seed {seed}: `{name}`; {broken:?}"
            );
            planted += 1;
        };
        // Another configuration than the caps were made for; coarse steps leave up to 2 kW.
        for (place, price) in good.contract_prices.iter().enumerate() {
            let mut terms = scene.terms.clone();
            let contract = &mut terms.contracts[place];
            if *price > 0.0 {
                contract.limit -= Watts(4_000.0);
                expect(Rule::Contract, &caps, &terms, &node_prices);
                let mut terms = scene.terms.clone();
                terms.contracts[place].uncertainty += Watts(4_000.0);
                expect(Rule::Contract, &caps, &terms, &node_prices);
                // A price left out mostly proves less than the certificate claims.
                let mut without = node_prices.clone();
                without[scene.site.power.nodes().len() + place] = 0.0;
                let proposal = Proposal {
                    caps: &caps,
                    node_prices: &without,
                    certificate: &good.certificate,
                    dropped: &[],
                    beyond: &[],
                };
                let broken = check_allocation(&scene.facts(), &proposal);
                noticed += usize::from(broken.iter().any(|b| b.rule == Rule::Dual));
                left_out += 1;
            }
            let mut terms = scene.terms.clone();
            terms.contracts[place].members.push("nobody".into());
            expect(Rule::Contract, &caps, &terms, &node_prices);
            let mut terms = scene.terms.clone();
            terms.contracts[place].limit = Watts(f64::NAN);
            expect(Rule::Finite, &caps, &terms, &node_prices);
        }
        expect(
            Rule::Finite,
            &caps,
            &scene.terms,
            &node_prices[..node_prices.len() - 1],
        );
        for (node, price) in good
            .node_prices
            .iter()
            .enumerate()
            .filter(|(_, p)| **p > 0.0)
        {
            assert!(price.is_finite());
            let is_feed = scene.site.power.nodes()[node].parents.is_empty();
            if is_feed && scene.feed_limit.is_some() {
                // A promise to the grid has a load of its own, at its most already.
                continue;
            }
            let mut terms = scene.terms.clone();
            terms.uncertainty[node] += Watts(4_000.0);
            expect(Rule::NodeLimit, &caps, &terms, &node_prices);
        }
        let stepped = |caps: &Caps| {
            let between = |c: &Watts| c.0 > 230.0 && c.0 < 670.0;
            let mut steps = scene.terms.steps.iter();
            steps
                .find(|(d, _)| between(&caps[*d]))
                .map(|(d, s)| (d.clone(), *s))
        };
        if let Some((device, step)) = stepped(&caps) {
            let mut off = caps.clone();
            *off.get_mut(&device).unwrap() -= step * 0.4;
            expect(Rule::Step, &off, &scene.terms, &node_prices);
        }
        let mut terms = scene.terms.clone();
        terms.uncertainty.truncate(3);
        expect(Rule::Finite, &caps, &terms, &node_prices);
    }
    assert!(planted > 300, "{planted}");
    assert!(
        left_out > 20 && noticed * 4 > left_out * 3,
        "{noticed} of {left_out}"
    );
}

#[test]
fn a_contract_holds_on_the_way_to_new_caps_too() {
    let mut scene = Scene::random(31);
    scene.feed_limit = None;
    let (one, other) = (&scene.site.devices[0].id, &scene.site.devices[200].id);
    scene.terms.contracts.push(ContractTerm {
        id: "pair".into(),
        in_full: false,
        limit: Watts(1_000.0 / 0.98),
        uncontrolled: Watts::ZERO,
        uncertainty: Watts::ZERO,
        members: vec![one.to_string(), other.to_string()],
    });
    let at = |a: f64, b: f64| {
        let mut caps: Caps = scene
            .site
            .devices
            .iter()
            .map(|d| (d.id.clone(), Watts(200.0)))
            .collect();
        caps.insert(one.clone(), Watts(a));
        caps.insert(other.clone(), Watts(b));
        caps
    };
    let facts = scene.facts();
    // Each end keeps the contract; at once from one to the other does not.
    let broken = check_transition(&facts, &at(600.0, 400.0), &at(300.0, 700.0));
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert!(broken[0].rule == Rule::Transition && broken[0].detail.contains("`pair`"));
    assert!(check_transition(&facts, &at(600.0, 400.0), &at(300.0, 400.0)).is_empty());
    assert!(check_transition(&facts, &at(300.0, 400.0), &at(300.0, 700.0)).is_empty());
}

#[test]
fn breakers_bear_a_short_excursion_and_no_longer_one() {
    let mut scene = Scene::random(32);
    scene.pinned.clear();
    scene.feed_limit = None;
    let rack = scene.site.racks[0].power_node;
    let rating = scene.site.power.nodes()[rack].rating.0;
    let name = scene.site.power.nodes()[rack].id.clone();
    let low: Caps = scene
        .site
        .devices
        .iter()
        .map(|d| (d.id.clone(), Watts(200.0)))
        .collect();
    let caps = 200.0 * 32.0;
    let curve = TripCurve::new(&[(1.1, 1_000.0), (1.4, 60.0), (2.0, 5.0)]).unwrap();
    let curves = BTreeMap::from([(name.clone(), curve)]);
    let tripped = |scene: &Scene, curves: &BTreeMap<String, TripCurve>, seconds: f64| {
        let broken = check_excursion(&scene.facts(), &low, &low, curves, seconds);
        assert!(
            broken.iter().all(|b| b.rule == Rule::TripCurve),
            "{broken:?}"
        );
        broken
            .iter()
            .any(|b| b.detail.contains(&format!("`{name}`")))
    };
    for (load, bears) in [
        (0.9, f64::INFINITY),
        (1.09, 1_000.0),
        (1.39, 60.0),
        (1.9, 5.0),
        (2.1, 0.0),
    ] {
        scene.uncontrolled[rack] = Watts(rating * load - caps);
        if bears > 0.0 {
            assert!(!tripped(&scene, &curves, bears.min(1e6)), "{load}");
        }
        if bears.is_finite() {
            assert!(tripped(&scene, &curves, bears + 0.1), "{load}");
        }
    }
    // By the standards' promise alone, and with what the load may be more.
    let none = BTreeMap::new();
    scene.uncontrolled[rack] = Watts(rating * 1.04 - caps);
    assert!(!tripped(&scene, &none, 600.0));
    scene.terms.uncertainty = vec![Watts::ZERO; scene.site.power.nodes().len()];
    scene.terms.uncertainty[rack] = Watts(rating * 0.02);
    assert!(tripped(&scene, &none, 600.0));
    assert!(!tripped(&scene, &none, 0.9));
    // What is on its way up counts, what is on its way down not yet.
    scene.terms.uncertainty.clear();
    scene.uncontrolled[rack] = Watts(rating - caps);
    let up: Caps = low.keys().map(|d| (d.clone(), Watts(700.0))).collect();
    let broken =
        |worst: &Caps, sent: &Caps| check_excursion(&scene.facts(), worst, sent, &none, 5.0).len();
    assert_eq!(broken(&low, &low), 0);
    assert!(broken(&low, &up) > 0 && broken(&up, &low) > 0);
}

#[test]
fn time_current_curves_are_stairs_below_every_thermal_law() {
    let standard = TripCurve::default();
    let mut before = f64::INFINITY;
    for step in 0..4_000 {
        let load = 0.9 + f64::from(step) * 1e-3;
        let holds = standard.holds(load);
        assert!(holds <= before);
        before = holds;
        // Heat that grows with the square of the current and bears 2.55 times
        // the rating for a second bears every smaller load longer.
        if load > 1.05 {
            assert!(holds * (load * load - 1.05 * 1.05) <= 2.55 * 2.55 - 1.05 * 1.05 + 1e-9);
        }
    }
    assert_eq!(standard.holds(f64::NAN), 0.0);
    assert!(standard.used(&[(0.99, 1e9)]) == 0.0);
    assert!((standard.used(&[(1.04, 1_800.0), (2.0, 0.25)]) - 0.75).abs() < 1e-12);
    for wrong in [
        &[(0.9, 5.0)][..],
        &[(1.2, 5.0), (1.1, 3.0)],
        &[(1.2, 5.0), (1.3, 6.0)],
        &[(1.2, -1.0)],
        &[(1.2, f64::NAN)],
        &[(f64::INFINITY, 1.0)],
    ] {
        let error = TripCurve::new(wrong).unwrap_err().to_string();
        assert!(error.contains("multiples must rise"), "{error}");
    }
}
