//! What the loop makes of readings: what is not known widens the load that caps
//! must leave room for, and grid events become limits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/site.rs"]
mod sites;

use heliostat_models::{
    Catalogue, DeviceId, Frame, JobClass, JobId, JobRecord, JobState, MetricId, Reading, Site,
    SpeedCurve, Timestamp, Watts,
};
use heliostat_optimizer::control::events::{Change, GridEvents};
use heliostat_optimizer::control::measure::{Measured, Readings, measure};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_store::jobs::JobEntry;
use proptest::prelude::*;
use std::collections::BTreeMap;

const NOW: Timestamp = Timestamp(10_000_000);

fn frame(device: &str, metric: MetricId, watts: f64, at: Timestamp) -> Frame {
    Frame {
        device: DeviceId::from(device),
        at,
        readings: vec![(metric, Reading::Measured(watts))],
    }
}

/// Every node at 1,200 W with two devices at 300 W each.
fn all_frames(site: &Site, at: Timestamp) -> Vec<Frame> {
    let nodes =
        (site.nodes.iter()).map(|n| frame(n.id.as_str(), Catalogue::node_power(), 1_200.0, at));
    let devices =
        (site.devices.iter()).map(|d| frame(d.id.as_str(), Catalogue::gpu_power(), 300.0, at));
    nodes.chain(devices).collect()
}

/// Every device may draw this much.
fn caps(site: &Site, watts: f64) -> Vec<Watts> {
    vec![Watts(watts); site.devices.len()]
}

fn place(site: &Site, id: &str) -> usize {
    site.power.find(id).unwrap()
}

#[test]
fn a_fresh_reading_counts_with_a_reserve_and_a_stale_one_not_at_all() {
    let site = sites::small();
    let feed = place(&site, "feed");
    let rated = site.nodes[0].overhead;
    let fresh = measure(
        &site,
        &Readings::new(all_frames(&site, NOW), NOW),
        &[],
        &caps(&site, 300.0),
    );
    assert_eq!(fresh.nodes_measured, 4);
    // 1,200 - 600 measured, and a tenth of the rated overhead that it may be more.
    assert!((fresh.it_uncontrolled[feed].0 - 4.0 * 600.0).abs() < 1e-9);
    assert!((fresh.it_uncertain[feed].0 - 0.4 * rated.0).abs() < 1e-9);

    let stale = Readings::new(all_frames(&site, Timestamp(NOW.0 - 1)), NOW);
    let stale = measure(&site, &stale, &[], &caps(&site, 300.0));
    assert_eq!(stale.nodes_measured, 0);
    assert_eq!(stale.it_uncontrolled[feed], rated * 4.0);
    assert_eq!(stale.it_uncertain[feed], Watts::ZERO);

    // A clock that is ahead by more than readings may be old tells as little.
    let until = Timestamp(NOW.0 + 5_000);
    for (at, measured) in [(until.0, 4), (until.0 + 1, 0)] {
        let ahead = Readings::new(all_frames(&site, Timestamp(at)), NOW).not_after(until);
        let ahead = measure(&site, &ahead, &[], &caps(&site, 300.0));
        assert_eq!(ahead.nodes_measured, measured, "{at}");
    }
}

#[test]
fn overhead_grows_in_step_with_what_caps_allow() {
    let site = sites::small();
    let at = site.nodes[0].power_node;
    let rated = site.nodes[0].overhead.0;
    let overhead = |watts| {
        let readings = Readings::new(all_frames(&site, NOW), NOW);
        let measured = measure(&site, &readings, &[], &caps(&site, watts));
        (measured.it_uncontrolled[at] + measured.it_uncertain[at]).0
    };
    // Halfway from the 300 W drawn to the 700 W that could be: half of what is missing to the rated overhead.
    assert!((overhead(500.0) - (600.0 + (rated - 600.0) * 0.5 + 0.1 * rated)).abs() < 1e-9);
    assert_eq!(overhead(700.0), rated);
    assert_eq!(overhead(250.0), overhead(300.0));
    let unknown = measure(&site, &Readings::new(all_frames(&site, NOW), NOW), &[], &[]);
    assert_eq!(unknown.it_uncontrolled[at].0, rated);
}

#[test]
fn one_device_without_a_reading_makes_its_node_count_as_rated() {
    let site = sites::small();
    let mut frames = all_frames(&site, NOW);
    let silent = &site.devices[3];
    for frame in frames.iter_mut().filter(|f| f.device == silent.id) {
        frame.readings[0].1 = Reading::Missing;
    }
    let measured = measure(&site, &Readings::new(frames, NOW), &[], &caps(&site, 300.0));
    let node = &site.nodes[silent.node];
    assert_eq!(measured.it_uncontrolled[node.power_node], node.overhead);
    assert_eq!(measured.nodes_measured, 3);
}

#[test]
fn a_reading_from_before_a_job_started_says_nothing() {
    let site = sites::small();
    let job = |at| JobEntry {
        record: JobRecord {
            id: JobId::from("j"),
            class: JobClass::Training,
            owner: "p".into(),
            gang_size: 1,
            remaining_hours: 1.0,
            total_hours: 1.0,
            release: Timestamp(0),
            deadline: None,
            state: JobState::Running,
            devices: vec![site.devices[0].id.clone()],
            curve: SpeedCurve::envelope(&[(Watts(200.0), 1.0)]).unwrap(),
            started: Some(at),
            ended: None,
            at,
        },
        history: vec![(at, JobState::Running)],
    };
    let readings = Readings::new(all_frames(&site, NOW), NOW);
    let before = measure(
        &site,
        &readings,
        &[job(Timestamp(NOW.0 - 1))],
        &caps(&site, 300.0),
    );
    assert_eq!(before.nodes_measured, 4);
    let after = measure(&site, &readings, &[job(NOW)], &caps(&site, 300.0));
    assert_eq!(after.nodes_measured, 3);
}

fn metered(site_power: f64, it_power: f64, nodes: usize) -> Measured {
    Measured {
        it_uncontrolled: vec![Watts::ZERO; nodes],
        it_uncertain: vec![Watts::ZERO; nodes],
        it_at_feed: vec![Watts::ZERO; nodes],
        idle: BTreeMap::new(),
        site_power: Some(Watts(site_power)),
        site_power_at: Some(NOW),
        it_power: Some(Watts(it_power)),
        overhead: Vec::new(),
        nodes_measured: 0,
    }
}

proptest! {
    /// Where the plant grows with IT at no more than its mean rate or twice
    /// the design's, filling the room that is left keeps the feed's limit.
    #[test]
    fn the_plant_fits_below_the_feed_when_it_takes_all_the_room(
        it in 10_000.0..150_000.0f64, share in 0.2..3.0f64, limit in 60_000.0..190_000.0f64,
    ) {
        let site = sites::small();
        let feed = place(&site, "feed");
        let limits = vec![Watts(limit); site.power.nodes().len()];
        // Less than a fifth of the design is not believed, see below.
        let mean = share * (site.cooling.design_pue - 1.0);
        let now = metered(it * (1.0 + mean), it, limits.len());
        let room = limit - now.uncontrolled(&site, &limits)[feed].0;
        let design = site.cooling.design_pue - 1.0;
        let plant = it * mean;
        let plant_then = if room > it { plant + (room - it) * mean.min(2.0 * design) } else { plant };
        prop_assert!(room + plant_then <= limit + 1e-6);
        // And it does not give away more than it must.
        prop_assert!(room + plant_then >= limit - 1e-6);
    }
}

#[test]
fn readings_that_cannot_be_widen_what_is_counted() {
    let site = sites::small();
    let node = &site.nodes[0];
    let (own, two) = (
        DeviceId::from(node.id.as_str()),
        &site.devices[node.devices.clone()],
    );
    let counted = |edit: &dyn Fn(&mut Frame)| {
        let mut frames = all_frames(&site, NOW);
        frames.iter_mut().for_each(edit);
        let readings = Readings::new(frames, Timestamp(NOW.0 - 15_000));
        let measured = measure(&site, &readings, &[], &caps(&site, 300.0));
        (measured.overhead[0], measured.nodes_measured)
    };
    let set = |frame: &mut Frame, watts: f64| frame.readings[0].1 = Reading::Measured(watts);
    let (as_is, all) = counted(&|_| {});
    assert!(as_is.0 < node.overhead && all == 4);
    let rated = ((node.overhead, Watts::ZERO), 3);
    // Sensors that are stuck: devices that draw more than their node, or than any can.
    let stuck = |watts| {
        counted(&move |f: &mut Frame| {
            if two.iter().any(|d| d.id == f.device) {
                set(f, watts)
            }
        })
    };
    assert_eq!(stuck(690.0), rated);
    assert_eq!(stuck(5_000.0), rated);
    let one = counted(&|f| {
        if f.device == two[0].id {
            set(f, 899.0)
        }
    });
    assert_eq!(one, rated, "more than 1.2 times its highest cap");
    // A node that was read before its devices drew what they draw now.
    let apart = |by: i64| {
        counted(&move |f: &mut Frame| {
            if f.device == DeviceId::from(node.id.as_str()) {
                f.at = Timestamp(NOW.0 - by)
            }
        })
    };
    assert_eq!(apart(1_001), rated);
    assert_eq!(apart(1_000), (as_is, 4));
    // Hardly any overhead at all.
    let (little, read) = counted(&|f| {
        if f.device == own {
            set(f, 601.0)
        }
    });
    assert!(little.0 >= node.overhead * 0.2 && read == 4, "{little:?}");
}

#[test]
fn who_draws_more_than_its_cap_counts_with_what_it_draws() {
    let site = sites::small();
    let node = &site.nodes[0];
    let counted = |cap: f64, since: Option<i64>| {
        let readings = Readings::new(all_frames(&site, NOW), NOW);
        let readings = match since {
            Some(before) => {
                readings.caps_since(vec![Timestamp(NOW.0 - before); site.devices.len()].into())
            }
            None => readings,
        };
        measure(&site, &readings, &[], &caps(&site, cap)).overhead[0]
    };
    let as_is = counted(300.0, Some(60_000));
    assert_eq!(
        counted(273.0, Some(60_000)),
        as_is,
        "within what meters err"
    );
    // Two devices at 300 W under caps of 250: a hundred watts that nobody controls.
    let (read, more) = counted(250.0, Some(60_000));
    assert_eq!((read, more), (node.overhead + Watts(100.0), Watts::ZERO));
    // Caps that have just come down say nothing of what was read before.
    assert_eq!(counted(250.0, Some(5_000)), as_is);
    assert_eq!(counted(250.0, None), as_is);
}

#[test]
fn a_meter_that_cannot_be_right_makes_the_plant_count_as_unknown() {
    let site = sites::small();
    let limits: Vec<Watts> = site.power.nodes().iter().map(|n| n.limit).collect();
    let feed = place(&site, "feed");
    let counted = |all, it| metered(all, it, limits.len()).uncontrolled(&site, &limits)[feed];
    let unknown = Measured {
        site_power: None,
        ..metered(0.0, 0.0, limits.len())
    };
    let unknown = unknown.uncontrolled(&site, &limits)[feed];
    assert_eq!(counted(150_000.0, 160_000.0), unknown);
    // No plant at all is not believed either.
    let design = site.cooling.design_pue - 1.0;
    assert!(counted(100_000.0, 100_000.0).0 >= 0.2 * design * 100_000.0);
}

#[test]
fn the_plant_counts_at_feed_and_transformer_only_and_unknown_it_counts_more() {
    let site = sites::small();
    let limits: Vec<Watts> = site.power.nodes().iter().map(|n| n.limit).collect();
    let known = metered(112_000.0, 100_000.0, limits.len()).uncontrolled(&site, &limits);
    let unknown = Measured {
        site_power: None,
        ..metered(0.0, 0.0, limits.len())
    };
    let unknown = unknown.uncontrolled(&site, &limits);
    for (id, carries) in [
        ("feed", true),
        ("transformer", true),
        ("ups-a", false),
        ("pdu-1", false),
    ] {
        let at = place(&site, id);
        assert_eq!(known[at] > Watts::ZERO, carries, "{id}");
        assert!(unknown[at] >= known[at], "{id}");
    }
}

fn event(id: &str, from: i64, to: i64, ask: Ask) -> GridEvent {
    GridEvent {
        id: id.into(),
        from: Timestamp(from),
        to: Timestamp(to),
        ask,
        reason: "test".into(),
    }
}

#[test]
fn a_reduction_counts_against_what_was_drawn_when_it_came_in() {
    let mut events = GridEvents::default();
    let (drawn, now) = (Watts(100_000.0), Timestamp(0));
    assert!(events.submit(event("a", 100, 200, Ask::ReduceBy(0.3)), drawn, now));
    let b = event("b", 150, 300, Ask::Limit(Watts(50_000.0)));
    assert!(events.submit(b, Watts(1.0), now));
    assert!(events.changes(Timestamp(99)).is_empty());
    assert_eq!(events.limit(Timestamp(99)), None);
    assert_eq!(events.next_change(), Some(Timestamp(100)));
    let began = events.changes(Timestamp(100));
    assert!(
        matches!(&began[..], [Change::Began(e, limit)] if e.id == "a" && (limit.0 - 70_000.0).abs() < 1e-6)
    );
    // Handed over again by a sender that heard no answer, it is the same event.
    let again = event("a", 100, 200, Ask::ReduceBy(0.3));
    assert!(events.submit(again, Watts(70_000.0), Timestamp(101)));
    assert!(events.changes(Timestamp(101)).is_empty(), "told once");
    // For longer, and for less: from what was drawn at first.
    let longer = event("a", 100, 201, Ask::ReduceBy(0.4));
    assert!(events.submit(longer, Watts(70_000.0), Timestamp(101)));
    let held = events.limit(Timestamp(101)).unwrap();
    assert!((held.0 - 60_000.0).abs() < 1e-6, "{held}");
    let again = event("a", 100, 200, Ask::ReduceBy(0.3));
    assert!(events.submit(again, Watts(60_000.0), Timestamp(101)));
    events.changes(Timestamp(101));
    let held = events.limit(Timestamp(101)).unwrap();
    assert!((held.0 - 70_000.0).abs() < 1e-6, "{held}");
    assert_eq!(
        events.limit(Timestamp(160)),
        Some(Watts(50_000.0)),
        "the lower one holds"
    );
    assert_eq!(events.as_limits().len(), 2);
    let changes = events.changes(Timestamp(200));
    assert_eq!(changes.len(), 2, "a ended, b began: {changes:?}");
    assert!(events.cancel("b", Timestamp(200)));
    assert!(!events.cancel("b", Timestamp(200)));
    assert!(matches!(&events.changes(Timestamp(201))[..], [Change::Ended(e)] if e.id == "b"));
    assert_eq!(events.limit(Timestamp(201)), None);
}

#[test]
fn an_event_without_sense_binds_nothing() {
    let mut events = GridEvents::default();
    let mut taken = |id: &str, ask| events.submit(event(id, 0, 10, ask), Watts(9.0), Timestamp(0));
    assert!(!taken("a", Ask::Limit(Watts(f64::NAN))));
    assert!(!taken("b", Ask::ReduceBy(f64::NAN)));
    assert!(events.all().is_empty());
    assert_eq!(events.limit(Timestamp(5)), None);
    let mut taken = |id: &str, ask| events.submit(event(id, 0, 10, ask), Watts(9.0), Timestamp(0));
    assert!(taken("c", Ask::ReduceBy(7.0)));
    for number in 1..500 {
        assert!(taken(&format!("n{number}"), Ask::ReduceBy(0.1)));
    }
    assert!(!taken("one-more", Ask::ReduceBy(0.1)));
    assert!(
        taken("c", Ask::ReduceBy(8.0)),
        "one that is known is replaced"
    );
    // What was called off does not stand in the way.
    assert!(events.cancel("n7", Timestamp(1)));
    let one_more = event("one-more", 0, 10, Ask::ReduceBy(0.1));
    assert!(events.submit(one_more, Watts(9.0), Timestamp(2)));
    assert_eq!(events.all().len(), 500);
    assert_eq!(events.limit(Timestamp(5)), Some(Watts::ZERO));
}

#[test]
fn at_rest_is_what_no_job_holds_and_a_fresh_reading_tells() {
    let site = sites::small();
    let mut frames = all_frames(&site, NOW);
    let silent = site.devices[5].id.clone();
    frames.retain(|f| f.device != silent);
    let mut allowed = caps(&site, 200.0);
    // One that may have less than its lowest cap has nothing to spare.
    allowed[6] = Watts(150.0);
    let measured = measure(&site, &Readings::new(frames, NOW), &[], &allowed);
    assert_eq!(measured.idle.len(), site.devices.len() - 2);
    assert!(measured.idle.values().all(|w| *w == Watts(300.0)));
    assert!(!measured.idle.contains_key(&silent));
    let stale = Readings::new(all_frames(&site, Timestamp(NOW.0 - 1)), NOW);
    assert!(measure(&site, &stale, &[], &allowed).idle.is_empty());
    // For the promise at the feed the nodes' reserve is smaller, never larger.
    let feed = place(&site, "feed");
    let most = measured.it_uncontrolled[feed] + measured.it_uncertain[feed];
    assert!(measured.it_at_feed[feed] < most);
}
