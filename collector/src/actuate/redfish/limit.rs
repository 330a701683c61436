//! The three forms in which Redfish tells a power limit, and the changes that
//! set it. Nothing here talks to anybody.
//!
//! | form | schema (DMTF DSP0268) | limit | switched off |
//! |---|---|---|---|
//! | metrics | EnvironmentMetrics 1.1 | `PowerLimitWatts.SetPoint` | `ControlMode: Disabled` |
//! | control | Control 1.0 | `SetPoint` of a power control | `ControlMode: Disabled` |
//! | power | Power 1.0 | `PowerControl[i].PowerLimit.LimitInWatts` | `LimitInWatts: null` |
//!
//! The first two tell the settable range; the third does not.

use heliostat_models::Watts;
use serde_json::{Map, Value, json};

/// In which form a limit is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Metrics,
    Control,
    /// At this place among the `PowerControl`s.
    Power(usize),
}

/// A limit as read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limit {
    /// The watts, where there is a limit.
    pub watts: Option<Watts>,
    /// Lowest and highest settable, where the resource tells.
    pub range: Option<(Watts, Watts)>,
    pub state: State,
    /// Whether the resource tells a `ControlMode`, and so may take one.
    pub has_mode: bool,
}

/// Whether a limit is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In force.
    On,
    /// Switched off.
    Off,
    /// Told, and not acted upon: the mode in the resource's words.
    Idle(String),
    /// In force, and exceeding it switches the node off.
    PowersOff,
}

impl Form {
    /// Reads the limit; `None` where the resource has none.
    pub(super) fn read(self, resource: &Value) -> Option<Limit> {
        match self {
            Self::Metrics => set_point(resource.get("PowerLimitWatts")?.as_object()?),
            Self::Control => {
                let units = resource.get("SetPointUnits").and_then(Value::as_str);
                if units.is_some_and(|u| u != "W") {
                    return None;
                }
                set_point(resource.as_object()?)
            }
            Self::Power(place) => {
                let limit = resource
                    .get("PowerControl")?
                    .get(place)?
                    .get("PowerLimit")?;
                let limit = limit.as_object()?;
                let watts = limit.get("LimitInWatts").and_then(positive);
                let deadly =
                    limit.get("LimitException").and_then(Value::as_str) == Some("HardPowerOff");
                Some(Limit {
                    watts,
                    range: None,
                    state: match (watts, deadly) {
                        (None, _) => State::Off,
                        (Some(_), true) => State::PowersOff,
                        (Some(_), false) => State::On,
                    },
                    has_mode: false,
                })
            }
        }
    }

    /// The change that sets the limit, given how it is now.
    pub(super) fn set(self, cap: Watts, now: &Limit) -> Value {
        let off = now.state == State::Off;
        let watts = match cap.get() {
            // As an integer where it is one: some controllers take nothing else.
            whole if whole.fract() == 0.0 => json!(whole as u64),
            other => json!(other),
        };
        let mut limit = Map::new();
        if let Self::Power(place) = self {
            limit.insert("LimitInWatts".into(), watts);
            if off {
                // What a limit that is off would do counts from now on.
                limit.insert("LimitException".into(), json!("NoAction"));
            }
            return power_control(place, limit);
        }
        limit.insert("SetPoint".into(), watts);
        if off && now.has_mode {
            limit.insert("ControlMode".into(), json!("Automatic"));
        }
        self.wrapped(limit)
    }

    /// The change that switches the limit off, given how it is now.
    pub(super) fn switch_off(self, now: &Limit) -> Value {
        let mut limit = Map::new();
        if let Self::Power(place) = self {
            limit.insert("LimitInWatts".into(), Value::Null);
            return power_control(place, limit);
        }
        if now.has_mode {
            limit.insert("ControlMode".into(), json!("Disabled"));
        } else {
            limit.insert("SetPoint".into(), Value::Null);
        }
        self.wrapped(limit)
    }

    fn wrapped(self, limit: Map<String, Value>) -> Value {
        match self {
            Self::Metrics => json!({ "PowerLimitWatts": limit }),
            _ => Value::Object(limit),
        }
    }
}

/// An array in a change has an empty object for each member that stays (DSP0266).
fn power_control(place: usize, limit: Map<String, Value>) -> Value {
    let mut members = vec![json!({}); place];
    members.push(json!({ "PowerLimit": limit }));
    json!({ "PowerControl": members })
}

fn set_point(control: &Map<String, Value>) -> Option<Limit> {
    // Without the property there is no limit here; null is one that is not set.
    let watts = control.get("SetPoint")?.as_f64();
    let bound = |names: [&str; 2]| {
        let value = names.iter().find_map(|n| control.get(*n)?.as_f64())?;
        (value.is_finite() && value >= 0.0).then_some(Watts(value))
    };
    // The second names are HPE Cray's.
    let range = bound(["AllowableMin", "SettingRangeMin"])
        .zip(bound(["AllowableMax", "SettingRangeMax"]))
        .filter(|(min, max)| min <= max && max.get() > 0.0);
    let mode = control.get("ControlMode").and_then(Value::as_str);
    // Zero below the range is how some say "no limit".
    let watts = watts.filter(|w| *w > 0.0).map(Watts);
    let state = match (mode, watts) {
        (Some("Disabled"), _) | (_, None) => State::Off,
        (None | Some("Automatic" | "Override"), Some(_)) => State::On,
        (Some(other), Some(_)) => State::Idle(other.to_owned()),
    };
    Some(Limit {
        watts,
        range,
        state,
        has_mode: mode.is_some(),
    })
}

fn positive(value: &Value) -> Option<Watts> {
    value.as_f64().filter(|w| *w > 0.0).map(Watts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn metrics_and_controls_tell_limit_range_and_mode() {
        let control = json!({
            "SetPoint": 500, "SetPointUnits": "W", "AllowableMin": 150, "AllowableMax": 1000,
            "ControlMode": "Automatic"
        });
        let limit = Limit {
            watts: Some(Watts(500.0)),
            range: Some((Watts(150.0), Watts(1000.0))),
            state: State::On,
            has_mode: true,
        };
        assert_eq!(Form::Control.read(&control), Some(limit.clone()));
        let metrics = json!({ "PowerLimitWatts": control });
        assert_eq!(Form::Metrics.read(&metrics), Some(limit));
        // A control of another quantity, and metrics without a limit.
        assert_eq!(
            Form::Control.read(&json!({"SetPoint": 2400, "SetPointUnits": "MHz"})),
            None
        );
        assert_eq!(
            Form::Metrics.read(&json!({"PowerWatts": {"Reading": 9}})),
            None
        );
        assert_eq!(
            Form::Metrics.read(&json!({"PowerLimitWatts": {"Reading": 9}})),
            None
        );
    }

    #[test]
    fn modes_say_whether_a_limit_is_in_force() {
        let state = |mode: Value, set_point: Value| {
            let resource = json!({"SetPoint": set_point, "ControlMode": mode});
            Form::Control.read(&resource).unwrap().state
        };
        assert_eq!(state(json!("Automatic"), json!(500)), State::On);
        assert_eq!(state(json!("Override"), json!(500)), State::On);
        assert_eq!(state(Value::Null, json!(500)), State::On);
        assert_eq!(state(json!("Disabled"), json!(500)), State::Off);
        assert_eq!(state(json!("Automatic"), Value::Null), State::Off);
        assert_eq!(state(json!("Automatic"), json!(0)), State::Off);
        assert_eq!(
            state(json!("Manual"), json!(500)),
            State::Idle("Manual".into())
        );
    }

    #[test]
    fn a_limit_that_switches_the_node_off_is_known_as_such() {
        let read = |watts: Value, exception: &str| {
            let limit = json!({"LimitInWatts": watts, "LimitException": exception});
            let resource = json!({"PowerControl": [{}, {"PowerLimit": limit}]});
            Form::Power(1).read(&resource).unwrap().state
        };
        assert_eq!(read(json!(500), "HardPowerOff"), State::PowersOff);
        assert_eq!(read(json!(500), "LogEventOnly"), State::On);
        assert_eq!(read(Value::Null, "HardPowerOff"), State::Off);
        assert_eq!(Form::Power(0).read(&json!({"PowerControl": [{}]})), None);
        assert_eq!(Form::Power(3).read(&json!({"PowerControl": []})), None);
    }

    fn now(state: State, has_mode: bool) -> Limit {
        Limit {
            watts: None,
            range: None,
            state,
            has_mode,
        }
    }

    #[test]
    fn changes_touch_the_limit_alone() {
        let (on, off) = (now(State::On, true), now(State::Off, true));
        assert_eq!(
            Form::Metrics.set(Watts(450.0), &on),
            json!({"PowerLimitWatts": {"SetPoint": 450}})
        );
        assert_eq!(
            Form::Control.set(Watts(450.0), &off),
            json!({"SetPoint": 450, "ControlMode": "Automatic"})
        );
        assert_eq!(
            Form::Power(1).set(Watts(5000.0), &off),
            json!({"PowerControl": [{}, {"PowerLimit": {"LimitInWatts": 5000, "LimitException": "NoAction"}}]})
        );
        assert_eq!(
            Form::Power(0).switch_off(&on),
            json!({"PowerControl": [{"PowerLimit": {"LimitInWatts": null}}]})
        );
        assert_eq!(
            Form::Metrics.switch_off(&on),
            json!({"PowerLimitWatts": {"ControlMode": "Disabled"}})
        );
        // A mode that is not told is not set either.
        let bare = now(State::Off, false);
        assert_eq!(
            Form::Control.set(Watts(450.0), &bare),
            json!({"SetPoint": 450})
        );
        assert_eq!(Form::Control.switch_off(&bare), json!({"SetPoint": null}));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[A-Za-z]{0,8}".prop_map(Value::from),
        ];
        let names = prop::sample::select(vec![
            "PowerLimitWatts",
            "SetPoint",
            "AllowableMin",
            "AllowableMax",
            "ControlMode",
            "PowerControl",
            "PowerLimit",
            "LimitInWatts",
            "LimitException",
            "SetPointUnits",
        ]);
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec((names.clone(), inner), 0..6).prop_map(|members| {
                    Value::Object(
                        members
                            .into_iter()
                            .map(|(n, v)| (n.to_owned(), v))
                            .collect(),
                    )
                }),
            ]
        })
    }

    proptest! {
        /// Whatever a controller says: no panic, and a limit in force has watts
        /// above zero and a range that is one.
        #[test]
        fn strangers_json_gives_sense_or_nothing(resource in any_json(), place in 0usize..3) {
            for form in [Form::Metrics, Form::Control, Form::Power(place)] {
                let Some(limit) = form.read(&resource) else { continue };
                if limit.state != State::Off {
                    prop_assert!(limit.watts.is_some_and(|w| w.get() > 0.0));
                }
                if let Some((min, max)) = limit.range {
                    prop_assert!(min.get() >= 0.0 && min <= max && max.is_finite());
                }
            }
        }

        /// What a change sets is what a resource then tells.
        #[test]
        fn set_then_read_round_trips(cap in 1.0..100_000f64, off in any::<bool>(), mode in any::<bool>()) {
            let before = now(if off { State::Off } else { State::On }, mode);
            for form in [Form::Metrics, Form::Control, Form::Power(0)] {
                let limit = form.read(&form.set(Watts(cap), &before)).unwrap();
                prop_assert_eq!(limit.watts, Some(Watts(cap)));
                prop_assert_eq!(limit.state, State::On);
            }
        }
    }
}
