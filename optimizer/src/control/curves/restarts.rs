//! What a job's trials cost and what was learned of it, over restarts of control
//! and changes of its record.

use super::*;
use heliostat_models::gpu::Workload;
use std::path::Path;

/// The cap that the job has when nothing is tried on it.
const USUAL: f64 = 500.0;

/// A job that says how fast it is, on devices that do as they are told.
struct Hall {
    world: World,
    workload: Workload,
    gpu: GpuModel,
    trials: usize,
    /// Seconds lost by trials in truth.
    lost: f64,
}

impl Hall {
    fn new(curves: Curves) -> Self {
        let (_, workload, gpu) = typical(JobClass::Training);
        let mut world = World::new(JobClass::Training, nothing());
        world.curves = curves;
        Self {
            world,
            workload,
            gpu,
            trials: 0,
            lost: 0.0,
        }
    }

    fn speed(&self, cap: f64) -> f64 {
        let point = self
            .workload
            .under_cap(&self.gpu, Watts(cap), Celsius(55.0));
        point.speed
    }

    /// So many rounds of five seconds; stops early where `until` says so.
    fn rounds(&mut self, rounds: u32, until: impl Fn(&Self) -> bool) {
        for _ in 0..rounds {
            let before = self.world.curves.trials();
            self.world.curves.try_caps(self.world.now, true);
            let trials = self.world.curves.trials();
            self.trials += trials.iter().filter(|t| !before.contains(t)).count();
            let cap = trials.first().map_or(USUAL, |(_, cap)| cap.0.min(USUAL));
            self.lost += 5.0 * (1.0 - self.speed(cap) / self.speed(USUAL));
            let rate = 64.0 * self.speed(cap);
            self.world.run(5, cap, 0.9, Some(rate));
            if until(self) {
                return;
            }
        }
    }

    /// Control is killed and started anew; what is wrong with what it left.
    fn restart(&mut self, directory: Option<&Path>) -> Option<String> {
        self.world.curves = Curves::kept_in(directory);
        self.world.curves.recall()
    }

    fn ledger(&self) -> ProbeLedger {
        self.world.curves.jobs[&JobId::from("17")].ledger
    }

    fn believed(&self, cap: f64) -> f64 {
        let curve = (self.world.curves.believed(&self.world.stated.record)).curve;
        curve.speed(Watts(cap)) / curve.speed(Watts(USUAL))
    }
}

/// A record's curve that says nothing.
fn nothing() -> SpeedCurve {
    SpeedCurve::envelope(&[(Watts(700.0), 1.0)]).unwrap()
}

#[test]
fn four_trials_and_the_slowdown_are_for_as_long_as_the_job_lives() {
    let directory = tempfile::tempdir().unwrap();
    for kept in [Some(directory.path()), None] {
        let mut hall = Hall::new(Curves::kept_in(kept));
        for restart in 0..4 {
            // Once while a cap is being tried, else when all is quiet.
            hall.rounds(1_000, |hall| {
                restart == 0 && !hall.world.curves.trials().is_empty()
            });
            // After so long nothing that was seen counts, and everything is worth trying.
            hall.world.now = hall.world.now + Duration::from_secs(86_400);
            assert_eq!(hall.restart(kept), None);
        }
        // What is not kept is tried again: without that this test says nothing.
        match kept {
            Some(_) => assert!(
                (1..=4).contains(&hall.trials) && hall.lost <= 120.0,
                "{} trials cost {} s",
                hall.trials,
                hall.lost
            ),
            None => assert!(hall.trials > 4, "{}", hall.trials),
        }
    }
}

#[test]
fn a_changed_record_changes_neither_what_trials_cost_nor_what_was_seen() {
    let mut hall = Hall::new(Curves::default());
    hall.rounds(400, |_| false);
    let (before, believed) = (hall.ledger(), hall.believed(300.0));
    assert!(before.made > 0);
    let (typical, ..) = typical(JobClass::Training);
    for step in 1..=20 {
        // Another curve each minute, as a scheduler may send it.
        let off = 1.0 + 0.002 * f64::from(step);
        let points: Vec<_> = (typical.points().iter())
            .map(|(w, s)| (*w, s * off))
            .collect();
        hall.world.stated.record.curve = SpeedCurve::envelope(&points).unwrap();
        hall.rounds(12, |_| false);
    }
    assert!(hall.trials <= 4 && hall.lost <= 120.0, "{}", hall.trials);
    assert!(hall.ledger().made >= before.made && hall.ledger().lost >= before.lost);
    let off = hall.believed(300.0) - hall.speed(300.0) / hall.speed(USUAL);
    assert!(off.abs() < 0.03, "{off}, before {believed}");
    // It did not stop listening either.
    let learned = &hall.world.curves.jobs[&JobId::from("17")];
    assert!(learned.heard + Duration::from_secs(120) > hall.world.now);
}

#[test]
fn what_was_learned_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut hall = Hall::new(Curves::kept_in(Some(directory.path())));
    // Hardly slower below: not what its family does.
    let seen = |hall: &mut Hall| {
        for (cap, rate) in [(700.0, 1_000.0), (300.0, 970.0)] {
            hall.world.run(900, cap, 1.0, Some(rate));
            hall.world.curves.keep(hall.world.now);
        }
    };
    seen(&mut hall);
    let before = hall.believed(300.0);
    assert_eq!(hall.restart(Some(directory.path())), None);
    hall.world.run(5, 300.0, 1.0, None);
    assert!((hall.believed(300.0) - before).abs() < 0.01);
    hall.restart(None);
    hall.world.run(5, 300.0, 1.0, None);
    assert!((hall.believed(300.0) - before).abs() > 0.05);
    // A job that is over is forgotten there too.
    assert_eq!(hall.restart(Some(directory.path())), None);
    let mut over = hall.world.stated.clone();
    over.record.state = JobState::Cancelled;
    let none = Readings::new(Vec::new(), hall.world.now);
    let (site, now) = (&hall.world.site, hall.world.now);
    hall.world.curves.learn(site, &none, &[over], now);
    hall.world.curves.keep(now);
    let left = std::fs::read(directory.path().join("speed-curves.json")).unwrap();
    assert_eq!(left, b"[]");
}

#[test]
fn a_damaged_file_is_told_and_costs_what_was_learned_and_further_trials() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("speed-curves.json");
    for damage in [
        "[{",
        "{}",
        r#"[{"job":"17","trials":{"made":1,"lost":-5.0}}]"#,
        r#"[{"job":"17","trials":{"made":1,"lost":5.0},"tries":3}]"#,
    ] {
        std::fs::write(&path, damage).unwrap();
        let mut hall = Hall::new(Curves::default());
        let told = hall.restart(Some(directory.path())).unwrap();
        assert!(told.contains("speed-curves.json"), "{told}");
        hall.rounds(400, |_| false);
        assert_eq!((hall.trials, hall.ledger()), (0, ProbeLedger::SPENT));
        assert!(hall.believed(300.0) > 0.0);
        // From then on it is a file like any other, and says so too.
        assert_eq!(hall.restart(Some(directory.path())), None);
        hall.rounds(400, |_| false);
        assert_eq!(hall.trials, 0);
        // A job that came later has all of its budget.
        hall.world.stated.record.state = JobState::Completed;
        hall.rounds(2, |_| false);
        hall.world.stated.record.state = JobState::Running;
        hall.rounds(400, |_| false);
        assert!((1..=4).contains(&hall.trials));
    }
}

#[test]
fn what_another_controller_may_have_tried_is_not_tried_again() {
    let mut hall = Hall::new(Curves::default());
    let entries = [hall.world.stated.clone()];
    hall.world.curves.spend(&entries);
    hall.rounds(400, |_| false);
    assert_eq!((hall.trials, hall.ledger()), (0, ProbeLedger::SPENT));
}

#[test]
fn a_trial_whose_cost_cannot_be_kept_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("speed-curves.json");
    let mut hall = Hall::new(Curves::kept_in(Some(directory.path())));
    // Nothing can take the place of a folder.
    std::fs::create_dir(&path).unwrap();
    hall.rounds(200, |_| false);
    let trouble = hall.world.curves.trouble().unwrap();
    assert!(trouble.contains("speed-curves.json"), "{trouble}");
    assert_eq!((hall.trials, hall.ledger()), (0, ProbeLedger::default()));
    std::fs::remove_dir(&path).unwrap();
    hall.rounds(200, |_| false);
    assert_eq!(hall.world.curves.trouble(), None);
    assert!((1..=4).contains(&hall.trials) && path.is_file());
}
