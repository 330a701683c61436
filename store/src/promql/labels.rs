//! Labels of a series: sorted, none of them empty, cheap to clone.

use std::fmt;
use std::sync::Arc;

/// The label that holds the name of the metric.
pub const METRIC_NAME: &str = "__name__";

/// Names and values, sorted by name. A label with an empty value is one that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Vec<(Arc<str>, Arc<str>)>);

impl Labels {
    /// Of pairs in any order.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut labels = Self::default();
        for (name, value) in pairs {
            labels.set(name, value);
        }
        labels
    }

    /// The value of a label; empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        match self.place(name) {
            Ok(place) => &self.0[place].1,
            Err(_) => "",
        }
    }

    /// Sets a label; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) {
        match (self.place(name), value.is_empty()) {
            (Ok(place), true) => {
                self.0.remove(place);
            }
            (Ok(place), false) => self.0[place].1 = value.into(),
            (Err(_), true) => {}
            (Err(place), false) => self.0.insert(place, (name.into(), value.into())),
        }
    }

    /// Names and values by rising name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Without the name of the metric.
    pub(super) fn nameless(&self) -> Self {
        self.keeping(|name| name != METRIC_NAME)
    }

    /// Only those that satisfy.
    pub(super) fn keeping(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(
            (self.0.iter())
                .filter(|(name, _)| keep(name))
                .cloned()
                .collect(),
        )
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get(METRIC_NAME))?;
        f.write_str("{")?;
        for (index, (name, value)) in self.iter().filter(|(n, _)| *n != METRIC_NAME).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn labels_are_a_sorted_map_without_empty_values(
            steps in proptest::collection::vec(("[a-d]", "[xy]?"), 0..20)
        ) {
            let mut labels = Labels::default();
            let mut model = std::collections::BTreeMap::new();
            for (name, value) in &steps {
                labels.set(name, value);
                if value.is_empty() {
                    model.remove(name.as_str());
                } else {
                    model.insert(name.as_str(), value.as_str());
                }
                prop_assert_eq!(labels.get(name), value);
            }
            prop_assert_eq!(labels.iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        }
    }
}
