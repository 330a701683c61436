//! Ramp limits in the executor: whatever the network does the sums of caps rise no
//! faster than the site file says, every target is reached, and what a limit
//! demands is not delayed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/agents.rs"]
mod agents;
#[path = "support/site.rs"]
mod sites;

use agents::{LEASE, World};
use heliostat_models::site::ramp::RampLimit;
use heliostat_models::{AgentId, DeviceId, Site, Watts};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What rounding of numbers may add.
const TOLERANCE: f64 = 1e-3;

/// The small site with ramp limits at the site and below one PDU.
fn site(of_site: &str, of_pdu: &str) -> Arc<Site> {
    let text = sites::small_text()
        .replacen("[control]\n", &format!("[control]\n{of_site}\n"), 1)
        .replacen(
            "id = \"pdu-1\"\n",
            &format!("id = \"pdu-1\"\n{of_pdu}\n"),
            1,
        );
    sites::parse(&text)
}

/// Holds a trace of sums against one direction of one limit: over any stretch of
/// time the sum may change by rate × (time + window). Knows nothing of buckets
/// in the executor, only the largest excess over any earlier instant.
struct Judge {
    below: Vec<usize>,
    rate: f64,
    allowed: f64,
    sign: f64,
    sum: f64,
    excess: f64,
    most: f64,
}

impl Judge {
    /// For every direction of every ramp limit of a site.
    fn all(site: &Site) -> Vec<Self> {
        let mut judges = Vec::new();
        for RampLimit { at, up, down } in &site.ramps.limits {
            let below: Vec<usize> = (0..site.devices.len())
                .filter(|place| {
                    let path = site.power.path_up(site.power_node_of(*place));
                    at.is_none_or(|at| path.contains(&at))
                })
                .collect();
            for (rate, sign) in [(up, 1.0), (down, -1.0)] {
                let Some(rate) = rate else { continue };
                judges.push(Self {
                    below: below.clone(),
                    rate: rate.0,
                    allowed: rate.0 * site.ramps.window.as_secs_f64(),
                    sign,
                    sum: f64::NAN,
                    excess: 0.0,
                    most: 0.0,
                });
            }
        }
        judges
    }

    fn passes(&mut self, seconds: f64) {
        self.excess = (self.excess - self.rate * seconds).max(0.0);
    }

    /// `ours`: what the executor did, which it answers for.
    fn sees(&mut self, caps: &[Watts], ours: bool, when: &str) {
        let sum: f64 = self.below.iter().map(|place| caps[*place].0).sum();
        let change = (sum - self.sum) * self.sign;
        self.sum = sum;
        if change.is_nan() || change > 0.0 && !ours {
            return;
        }
        self.excess = (self.excess + change).max(0.0);
        self.most = self.most.max(self.excess);
        assert!(
            self.excess <= self.allowed + TOLERANCE,
            "{when}: {} W more than {} W/s allow ({} W)",
            self.excess - self.allowed,
            self.rate,
            self.allowed
        );
    }
}

/// What the hardware has, by place.
fn hardware(world: &World) -> Vec<Watts> {
    (world.site.devices.iter())
        .map(|d| world.agents[world.site.nodes[d.node].id.as_str()].limits[&d.id])
        .collect()
}

fn all_at(site: &Site, cap: f64) -> BTreeMap<DeviceId, Watts> {
    (site.devices.iter())
        .map(|d| (d.id.clone(), Watts(cap)))
        .collect()
}

/// Everything that is on its way arrives, and what it causes.
fn settle(world: &mut World) {
    for _ in 0..8 {
        world.send_commands();
        while !world.wires.is_empty() {
            world.deliver();
        }
    }
}

#[test]
fn on_any_trace_the_largest_caps_rise_no_faster_and_every_limit_holds() {
    let site = site(
        "ramp_up_watts_per_second = 60\nramp_window_seconds = 4",
        "ramp_up_watts_per_second = 25",
    );
    let (mut used, mut raised) = (0.0f64, 0);
    for seed in 0..90 {
        let trouble = [0.0, 0.1, 0.35][seed as usize % 3];
        let mut world = World::new(Arc::clone(&site), seed, trouble, Watts(250.0));
        world.tighten();
        world.hello_all();
        let mut judges = Judge::all(&site);
        for round in 0..500 {
            let when = format!("seed {seed}, round {round}");
            let mut ours = false;
            match world.rng.usize(0..12) {
                0 => {
                    let targets = world.draw_targets();
                    world.executor.set_targets(&targets);
                }
                1 | 2 => {
                    let seconds = world.rng.u64(0..7);
                    world.step_time(seconds);
                    judges.iter_mut().for_each(|j| j.passes(seconds as f64));
                }
                3 if round % 11 == 0 => {
                    world.stop_or_come_back();
                }
                4 if round % 9 == 0 => {
                    world.refuse_or_obey();
                }
                5 if round % 50 == 0 => {
                    // The same controller takes charge again.
                    let fence = 1 + round as u64;
                    world.executor.take_charge(fence);
                }
                6 if trouble > 0.0 && !world.history.is_empty() => {
                    world.deliver_again();
                }
                7 | 8 => {
                    world.send_commands();
                    ours = true;
                }
                _ => world.deliver(),
            }
            for judge in &mut judges {
                judge.sees(world.executor.worst_caps(), ours, &when);
                used = used.max(judge.most / judge.allowed);
            }
            let (excess, node) = world.excess();
            assert!(excess <= 1e-6, "{when}: {excess} W above `{node}`");
            for (has, most) in hardware(&world).iter().zip(world.executor.worst_caps()) {
                assert!(*most >= *has - Watts(1e-6), "{when}");
                raised += usize::from(has.0 > 400.0);
            }
        }
    }
    // The walk used what it may, else it would prove nothing.
    assert!(used > 0.95 && raised > 1_000, "{used} {raised}");
}

/// Seconds until the targets are reached, with the hardware under the eyes of judges.
fn seconds_to(world: &mut World, targets: &BTreeMap<DeviceId, Watts>, most: u64) -> u64 {
    let mut judges = Judge::all(&world.site);
    world.executor.set_targets(targets);
    for second in 0..=most {
        settle(world);
        let caps = hardware(world);
        for judge in &mut judges {
            judge.sees(&caps, true, &format!("second {second}"));
        }
        let there = |d: &heliostat_models::site::Device, has: &Watts| {
            (targets[&d.id] - *has).0.abs() < 0.002
        };
        if world
            .site
            .devices
            .iter()
            .zip(&caps)
            .all(|(d, has)| there(d, has))
        {
            return second;
        }
        world.step_time(1);
        judges.iter_mut().for_each(|j| j.passes(1.0));
    }
    panic!("not within {most} s: {:?}", hardware(world));
}

#[test]
fn the_power_of_the_site_rises_at_the_rate_and_arrives() {
    // 8 devices from 200 W to 500 W: 2,400 W, of which 4 s may come at once.
    for rate in [2.0, 7.0, 60.0, 1_000.0] {
        let site = site(
            &format!("ramp_up_watts_per_second = {rate}\nramp_window_seconds = 4"),
            "",
        );
        let mut world = World::new(Arc::clone(&site), 1, 0.0, Watts(200.0));
        world.hello_all();
        world.executor.set_room(world.room.clone());
        let took = seconds_to(&mut world, &all_at(&site, 500.0), 3_000) as f64;
        // Buckets begin empty.
        let ideal = 2_400.0 / rate;
        assert!(
            took >= ideal - 0.01 && took <= ideal + 5.0,
            "{rate} W/s: {took} s, not {ideal} s"
        );
    }
}

#[test]
fn any_targets_are_reached_whatever_was_lost_before() {
    let site = site(
        "ramp_up_watts_per_second = 90\nramp_down_watts_per_second = 50\nramp_window_seconds = 2",
        "ramp_up_watts_per_second = 30\nramp_down_watts_per_second = 70",
    );
    for seed in 0..12 {
        let mut world = World::new(Arc::clone(&site), seed, 0.4, Watts(300.0));
        world.tighten();
        world.hello_all();
        for _ in 0..60 {
            let targets = world.draw_targets();
            world.executor.set_targets(&targets);
            world.send_commands();
            for _ in 0..6 {
                world.deliver();
            }
            world.step_time(3);
        }
        world.trouble = 0.0;
        world.wires.clear();
        // What was lost is asked again within an eighth of a lease.
        for _ in 0..10 {
            settle(&mut world);
            world.step_time(1);
        }
        let targets = world.draw_targets();
        // 2,000 W at most below the PDU, at 30 W/s.
        seconds_to(&mut world, &targets, 90);
        assert!(world.excess().0 <= 1e-6);
    }
}

#[test]
fn what_comes_down_for_its_price_comes_slowly_and_what_a_limit_demands_at_once() {
    let site = site(
        "ramp_down_watts_per_second = 50\nramp_window_seconds = 2",
        "",
    );
    let mut world = World::new(Arc::clone(&site), 1, 0.0, Watts(600.0));
    world.hello_all();
    world.executor.set_room(world.room.clone());
    let took = seconds_to(&mut world, &all_at(&site, 400.0), 60);
    assert!((32..=34).contains(&took), "1,600 W at 50 W/s took {took} s");
    // A limit falls: not a second is lost.
    world.tighten();
    let most: Watts = hardware(&world).into_iter().sum();
    let root = (world.site.power.nodes().iter())
        .position(|n| n.parents.is_empty())
        .unwrap();
    assert!(most > world.room[root]);
    let targets = world.draw_targets();
    let raised: Vec<&DeviceId> = (targets.iter())
        .filter(|(_, cap)| cap.0 > 400.0)
        .map(|(id, _)| id)
        .collect();
    assert!(!raised.is_empty());
    world.executor.set_targets(&targets);
    settle(&mut world);
    for (device, has) in world.site.devices.iter().zip(hardware(&world)) {
        assert!((has - targets[&device.id]).0.abs() < 0.002, "{}", device.id);
    }
}

#[test]
fn caps_that_come_down_and_go_up_elsewhere_leave_the_sum_where_it_is() {
    let rates = "ramp_up_watts_per_second = 40\nramp_down_watts_per_second = 40";
    let site = site(rates, "");
    let mut world = World::new(Arc::clone(&site), 1, 0.0, Watts(400.0));
    world.hello_all();
    let room = vec![Watts(3_200.0); world.room.len()];
    world.executor.set_room(room);
    let mut targets = all_at(&site, 300.0);
    for device in &site.devices[..4] {
        targets.insert(device.id.clone(), Watts(500.0));
    }
    // 400 W pass from one half to the other; the bucket holds 200 W of it at a
    // time, and what came down on one side is free on the other.
    let took = seconds_to(&mut world, &targets, 30);
    assert!(took <= 12, "{took} s");
}

/// Long walks over a network that loses, doubles and delays; how near the judges
/// saw it come to what is allowed. `decide` is given what each device was decided.
fn walks(
    site: &Arc<Site>,
    start: Watts,
    decide: impl Fn(&mut World, &mut [Watts]),
    seen: impl Fn(&World) -> Vec<Watts>,
) -> f64 {
    let mut used = 0.0f64;
    for seed in 0..60 {
        let mut world = World::new(Arc::clone(site), seed, 0.1, start);
        world.executor.set_room(world.room.clone());
        world.hello_all();
        let mut judges = Judge::all(site);
        let mut decided = vec![start; site.devices.len()];
        for round in 0..500 {
            match world.rng.usize(0..8) {
                0 => decide(&mut world, &mut decided),
                1 => {
                    let seconds = world.rng.u64(0..4);
                    world.step_time(seconds);
                    judges.iter_mut().for_each(|j| j.passes(seconds as f64));
                }
                2 | 3 => world.send_commands(),
                _ => world.deliver(),
            }
            for judge in &mut judges {
                let when = format!("seed {seed}, round {round}");
                judge.sees(&seen(&world), true, &when);
                used = used.max(judge.most / judge.allowed);
            }
        }
    }
    used
}

/// Raises that were lost or late do not arrive in the hardware all at once.
#[test]
fn what_waits_in_the_network_does_not_come_faster_for_it() {
    let site = site(
        "ramp_up_watts_per_second = 30\nramp_window_seconds = 3",
        "ramp_up_watts_per_second = 12",
    );
    // Only upwards: what falls unseen may not be given again either.
    let rise = |world: &mut World, decided: &mut [Watts]| {
        for cap in decided.iter_mut() {
            *cap = (*cap + Watts(60.0 * world.rng.f64())).min(Watts(700.0));
        }
        let named = site.devices.iter().map(|d| d.id.clone());
        let targets = named.zip(decided.iter().copied()).collect();
        world.executor.set_targets(&targets);
    };
    let used = walks(&site, Watts(250.0), rise, hardware);
    assert!(used > 0.9, "{used}");
}

#[test]
fn answers_that_come_late_all_at_once_do_not_make_the_sum_fall_faster() {
    let site = site(
        "ramp_down_watts_per_second = 30\nramp_window_seconds = 3",
        "ramp_down_watts_per_second = 12",
    );
    let draw = |world: &mut World, _: &mut [Watts]| {
        let targets = world.draw_targets();
        world.executor.set_targets(&targets);
    };
    let worst = |world: &World| world.executor.worst_caps().to_vec();
    let used = walks(&site, Watts(450.0), draw, worst);
    assert!(used > 0.9, "{used}");
}

/// A job over two racks behind different PDUs, one of them slower.
#[test]
fn a_gang_rises_together_at_the_pace_of_its_slowest_node() {
    let site = site(
        "ramp_up_watts_per_second = 400\nramp_window_seconds = 2",
        "ramp_up_watts_per_second = 20",
    );
    let mut world = World::new(Arc::clone(&site), 1, 0.0, Watts(200.0));
    world.hello_all();
    world.executor.set_room(world.room.clone());
    let ids: Vec<DeviceId> = site.devices.iter().map(|d| d.id.clone()).collect();
    // Devices 0 to 3 stand behind the slow PDU.
    let gangs = [&ids[2..6], &ids[6..8]];
    world.executor.set_gangs(gangs.into_iter());
    world.executor.set_targets(&all_at(&site, 500.0));
    let (mut apart, mut fast) = (0, 0);
    for second in 0..80 {
        settle(&mut world);
        let caps = hardware(&world);
        for gang in [2..6, 6..8] {
            let (low, high) = (caps[gang.clone()].iter())
                .fold((f64::MAX, 0.0f64), |(l, h), c| (l.min(c.0), h.max(c.0)));
            assert!(high - low < 0.002, "second {second}: {low} to {high} W");
        }
        apart += usize::from(caps[6] - caps[2] > Watts(100.0));
        fast += usize::from(caps[6] == Watts(500.0));
        world.step_time(1);
    }
    // What the slow node does not feed did not wait for it.
    assert!(apart > 10 && fast > 60, "{apart} {fast}");
    assert!(hardware(&world).iter().all(|c| *c == Watts(500.0)));
}

#[test]
fn after_a_cut_longer_than_a_lease_all_comes_back_at_the_rate() {
    let site = site("ramp_up_watts_per_second = 60\nramp_window_seconds = 2", "");
    let mut world = World::new(Arc::clone(&site), 1, 0.0, Watts(500.0));
    world.hello_all();
    world.executor.set_room(world.room.clone());
    let targets = all_at(&site, 500.0);
    assert_eq!(seconds_to(&mut world, &targets, 5), 0);
    // Nothing arrives for a lease and a half; the answers that leases ended neither.
    for _ in 0..LEASE.as_secs() * 3 / 2 {
        world.step_time(1);
        world.send_commands();
        world.wires.clear();
    }
    let fallen: f64 = hardware(&world).iter().map(|has| 500.0 - has.0).sum();
    assert!(fallen >= 799.0, "{fallen} W: the leases ended");
    let took = seconds_to(&mut world, &targets, 200) as f64;
    let ideal = fallen / 60.0;
    assert!(
        took >= ideal - 2.0 && took <= ideal + 6.0,
        "{took} s, not {ideal} s"
    );
}

/// Half of a gang waits for room that somebody else has not given back yet.
#[test]
fn a_gang_waits_for_those_of_it_that_have_no_room() {
    let site = site("ramp_up_watts_per_second = 300", "");
    let mut world = World::new(Arc::clone(&site), 1, 0.0, Watts(300.0));
    let last = AgentId::from(site.nodes[3].id.as_str());
    for cap in world.agents.get_mut(&last).unwrap().limits.values_mut() {
        *cap = Watts(600.0);
    }
    world.hello_all();
    let pdu = site.power.find("pdu-3").unwrap();
    world.room[pdu] = Watts(1_900.0);
    world.executor.set_room(world.room.clone());
    let ids: Vec<DeviceId> = site.devices.iter().map(|d| d.id.clone()).collect();
    world.executor.set_gangs([&ids[2..6]].into_iter());
    let mut targets = all_at(&site, 300.0);
    for id in &ids[2..6] {
        targets.insert(id.clone(), Watts(600.0));
    }
    world.executor.set_targets(&targets);
    world.agents.get_mut(&last).unwrap().alive = false;
    for alive in [false, true] {
        world.agents.get_mut(&last).unwrap().alive = alive;
        for second in 0..40 {
            settle(&mut world);
            let caps = hardware(&world);
            assert!(world.excess().0 <= 1e-6);
            assert!(
                caps[2..6].iter().all(|c| (*c - caps[2]).0.abs() < 0.002),
                "second {second}: {caps:?}"
            );
            world.step_time(1);
        }
        let has = hardware(&world)[2].0;
        assert!(
            if alive { has == 600.0 } else { has < 451.0 },
            "{alive}: {has}"
        );
    }
}

#[test]
fn controllers_that_take_over_from_each_other_are_no_faster_together() {
    let site = site("ramp_up_watts_per_second = 30\nramp_window_seconds = 5", "");
    let mut world = World::new(Arc::clone(&site), 1, 0.0, Watts(200.0));
    world.hello_all();
    // What counts at its highest for a moment must not look like a fall.
    world.executor.set_room(world.room.clone());
    world.executor.set_targets(&all_at(&site, 500.0));
    let mut judges = Judge::all(&site);
    for second in 0..60 {
        world.executor.take_charge(second + 1);
        settle(&mut world);
        let caps = hardware(&world);
        for judge in &mut judges {
            judge.sees(&caps, true, &format!("second {second}"));
        }
        world.step_time(1);
        judges.iter_mut().for_each(|j| j.passes(1.0));
    }
    let rose: f64 = hardware(&world).iter().map(|c| c.0 - 200.0).sum();
    assert!((1_500.0..=1_950.0).contains(&rose), "{rose} W");
}
