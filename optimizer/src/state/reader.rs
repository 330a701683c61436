//! Reading JSON field by field, so that every fault names its field and says
//! what is allowed there, and all of them are found in one reading.

use serde_json::{Map, Value};
use std::fmt;

/// Something in a state file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which field, from the outermost inwards; empty for the file as a whole.
    pub field: String,
    /// What is wrong with it.
    pub fault: String,
    /// What may stand there.
    pub allowed: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() {
            "the file"
        } else {
            &self.field
        };
        write!(f, "{field}: {}; allowed: {}", self.fault, self.allowed)
    }
}

/// Faults found so far.
#[derive(Debug, Default)]
pub(super) struct Faults(pub Vec<Fault>);

impl Faults {
    /// Notes one.
    pub fn add(&mut self, field: &str, fault: impl Into<String>, allowed: impl Into<String>) {
        self.0.push(Fault {
            field: field.to_owned(),
            fault: fault.into(),
            allowed: allowed.into(),
        });
    }

    fn wrong(&mut self, field: &str, value: &Value, allowed: &str) {
        let mut shown = value.to_string();
        if shown.chars().count() > 60 {
            shown = shown.chars().take(57).collect::<String>() + "...";
        }
        self.add(field, format!("is {shown}"), allowed);
    }

    /// An object whose keys are fields of these names.
    pub fn fields<'v>(
        &mut self,
        at: &str,
        value: &'v Value,
        known: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let map = self.named(at, value, &format!("an object with {}", known.join(", ")))?;
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            self.add(&join(at, key), "is no known field", known.join(", "));
        }
        Some(map)
    }

    /// An object whose keys are names.
    pub fn named<'v>(
        &mut self,
        at: &str,
        value: &'v Value,
        allowed: &str,
    ) -> Option<&'v Map<String, Value>> {
        let map = value.as_object();
        if map.is_none() {
            self.wrong(at, value, allowed);
        }
        map
    }

    /// A list.
    pub fn list<'v>(&mut self, at: &str, value: &'v Value, allowed: &str) -> &'v [Value] {
        value.as_array().map(Vec::as_slice).unwrap_or_else(|| {
            self.wrong(at, value, allowed);
            &[]
        })
    }

    /// A text that is not empty.
    pub fn text<'v>(
        &mut self,
        at: &str,
        value: Option<&'v Value>,
        allowed: &str,
    ) -> Option<&'v str> {
        let Some(value) = value else {
            self.add(at, "is missing", allowed);
            return None;
        };
        let text = value.as_str().filter(|t| !t.is_empty());
        if text.is_none() {
            self.wrong(at, value, allowed);
        }
        text
    }

    /// A finite number, not below zero; `None` where it is not there.
    pub fn number(
        &mut self,
        at: &str,
        key: &str,
        map: &Map<String, Value>,
        unit: &str,
    ) -> Option<f64> {
        let value = map.get(key)?;
        let number = value.as_f64().filter(|n| n.is_finite() && *n >= 0.0);
        if number.is_none() {
            self.wrong(
                &join(at, key),
                value,
                &format!("a number of {unit}, not below 0"),
            );
        }
        number
    }
}

/// The name of a field within another.
pub(super) fn join(at: &str, key: &str) -> String {
    if at.is_empty() {
        key.to_owned()
    } else {
        format!("{at}.{key}")
    }
}
