//! Control's own health for Prometheus: what alarms are made of.

use crate::prometheus::Family;
use heliostat_models::Timestamp;
use heliostat_optimizer::view::{ControlState, ControlView};

/// Every state with the word that stands for it in `state="…"`.
const STATES: [(ControlState, &str); 5] = [
    (ControlState::Observe, "observe"),
    (ControlState::StandingBy, "standing_by"),
    (ControlState::Armed, "armed"),
    (ControlState::Degraded, "degraded"),
    (ControlState::Safe, "safe"),
];

/// Writes them. `now` is the site's time.
pub(crate) fn write(out: &mut String, view: &ControlView, now: Timestamp) {
    let help = "The state of control: 1 for the one that it is in, 0 for the others";
    let mut family = Family::new(out, "control_state", help, false);
    for (state, word) in STATES {
        let is = f64::from(u8::from(view.state == state));
        family.sample(&[("state", word)], is);
    }
    let health = &view.health;
    let count = |value: usize| value as f64;
    for (name, help, is_counter, value) in [
        (
            "control_rounds_total",
            "Rounds of control, those in which nothing had changed included",
            true,
            view.rounds as f64,
        ),
        (
            "control_allocations_refused_total",
            "Proposals that the checker refused; nothing of them was sent",
            true,
            health.refused as f64,
        ),
        (
            "control_devices_beyond_reach",
            "Devices that cannot be commanded now and count at the highest cap they may have",
            false,
            count(health.beyond_reach),
        ),
        (
            "control_commands_unanswered",
            "Agents that owe an answer to a command",
            false,
            count(health.unanswered),
        ),
        (
            "control_grid_event_unmet",
            "Whether the site draws more than a grid event allows, 30 s or more after it began",
            false,
            f64::from(u8::from(health.grid_event_unmet)),
        ),
        (
            "control_foreign_changes_total",
            "Power limits that others than control changed",
            true,
            health.foreign_changes as f64,
        ),
        (
            "control_foreign_corrections_total",
            "Power limits that others raised and agents set back",
            true,
            health.foreign_corrected as f64,
        ),
        (
            "control_foreign_limits",
            "Devices whose power limit others keep, or that do not tell it, now",
            false,
            count(health.foreign_devices),
        ),
        (
            "control_agent_clocks_off",
            "Agents whose clock differs from control's by more than is sound",
            false,
            count(health.clocks_off),
        ),
        (
            "control_messages_unsigned_total",
            "Messages to control refused because their signature is missing or wrong",
            true,
            health.unsigned as f64,
        ),
        (
            "control_troubles",
            "What is wrong now and was contained; pages say it in words",
            false,
            count(health.troubles.len()),
        ),
        (
            "control_lock_held",
            "1 while this controller is in charge of caps",
            false,
            f64::from(u8::from(health.fence.is_some())),
        ),
    ] {
        Family::new(out, name, help, is_counter).sample(&[], value);
    }
    if let Some(fence) = health.fence {
        let help = "The fence under which this controller is in charge; every later holder has a higher one";
        Family::new(out, "control_lock_fence", help, false).sample(&[], fence as f64);
    }
    if let Some(holder) = &view.in_charge {
        let help = "Another controller that is in charge of caps";
        Family::new(out, "control_lock_other_info", help, false)
            .sample(&[("holder", holder.as_str())], 1.0);
    }
    if let Some(at) = health.allocated {
        let help = "When an allocation was last decided or found to be the same still, by the site's clock, seconds since 1970";
        Family::new(
            out,
            "control_last_allocation_timestamp_seconds",
            help,
            false,
        )
        .sample(&[], at.seconds());
        let help = "Seconds since an allocation was last decided or found to be the same still, by the site's clock";
        Family::new(out, "control_last_allocation_age_seconds", help, false)
            .sample(&[], now.seconds_since(at).max(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_optimizer::view::ControlHealth;

    fn text(view: &ControlView) -> String {
        let mut out = String::new();
        write(&mut out, view, Timestamp(90_000));
        out
    }

    #[test]
    fn exactly_one_state_is_set_and_what_is_not_known_is_absent() {
        for (state, word) in STATES {
            let view = ControlView {
                state,
                ..ControlView::default()
            };
            let text = text(&view);
            let set: Vec<&str> = (text.lines())
                .filter(|l| l.starts_with("heliostat_control_state{") && l.ends_with(" 1"))
                .collect();
            assert_eq!(
                set,
                [format!("heliostat_control_state{{state=\"{word}\"}} 1")]
            );
            assert!(!text.contains("last_allocation") && !text.contains("lock_fence"));
        }
    }

    #[test]
    fn health_is_shown_as_it_is() {
        let view = ControlView {
            in_charge: Some("other \"run\"".into()),
            rounds: 12,
            health: ControlHealth {
                refused: 3,
                beyond_reach: 4,
                foreign_changes: 5,
                foreign_corrected: 2,
                fence: Some(77),
                allocated: Some(Timestamp(60_000)),
                troubles: vec!["a".into(), "b".into()],
                ..ControlHealth::default()
            },
            ..ControlView::default()
        };
        let text = text(&view);
        for line in [
            "heliostat_control_rounds_total 12",
            "heliostat_control_allocations_refused_total 3",
            "heliostat_control_devices_beyond_reach 4",
            "heliostat_control_foreign_changes_total 5",
            "heliostat_control_foreign_corrections_total 2",
            "heliostat_control_lock_held 1",
            "heliostat_control_lock_fence 77",
            "heliostat_control_lock_other_info{holder=\"other \\\"run\\\"\"} 1",
            "heliostat_control_last_allocation_timestamp_seconds 60",
            "heliostat_control_last_allocation_age_seconds 30",
            "heliostat_control_troubles 2",
        ] {
            assert!(text.lines().any(|l| l == line), "no `{line}` in {text}");
        }
    }
}
