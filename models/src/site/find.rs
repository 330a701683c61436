//! Many devices found by their names at once, for sites of a hundred thousand.

use super::{Device, Site};
use crate::ids::DeviceId;
use std::collections::BTreeMap;

impl Site {
    /// The devices of these names, those unknown to the site left out. Names that
    /// stand in the order of the site, as a job's mostly do, cost a comparison
    /// each and no search.
    pub fn devices_named<'n>(
        &self,
        names: impl IntoIterator<Item = &'n DeviceId>,
    ) -> impl Iterator<Item = (usize, &Device)> {
        let mut next = 0;
        (names.into_iter()).filter_map(move |name| self.device_near(&mut next, name))
    }

    /// What is known of devices by name, by their places in the site.
    pub fn by_place<T: Clone>(&self, known: &BTreeMap<DeviceId, T>) -> Vec<Option<T>> {
        let mut all = vec![None; self.devices.len()];
        let mut next = 0;
        for (name, value) in known {
            if let Some((place, _)) = self.device_near(&mut next, name) {
                all[place] = Some(value.clone());
            }
        }
        all
    }

    /// A device by its name, looked for first behind the one found before.
    fn device_near(&self, next: &mut usize, name: &DeviceId) -> Option<(usize, &Device)> {
        let (place, device) = match self.devices.get(*next) {
            Some(device) if device.id == *name => (*next, device),
            _ => self.device(name)?,
        };
        *next = place + 1;
        Some((place, device))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by unwrapping")]
mod tests {
    use crate::ids::DeviceId;
    use crate::site::config::{LoadOptions, builtin_demo, load};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn many_names_are_found_as_one_by_one(
            places in proptest::collection::vec((0usize..300, 1usize..9), 0..20)
        ) {
            let site = load("demo.toml", builtin_demo(), LoadOptions::default()).site.unwrap();
            let name = |place: usize| {
                let known = site.devices.get(place).map(|d| d.id.clone());
                known.unwrap_or_else(|| DeviceId::from(format!("stranger-{place}")))
            };
            let names: Vec<DeviceId> = (places.iter())
                .flat_map(|(from, many)| (*from..from + many).map(name))
                .collect();
            let one_by_one: Vec<usize> = (names.iter())
                .filter_map(|name| site.device(name).map(|(place, _)| place))
                .collect();
            let found: Vec<usize> = site.devices_named(&names).map(|(place, _)| place).collect();
            prop_assert_eq!(&found, &one_by_one);
            let values: BTreeMap<DeviceId, usize> =
                names.iter().cloned().enumerate().map(|(n, name)| (name, n)).collect();
            let by_place = site.by_place(&values);
            for (place, device) in site.devices.iter().enumerate() {
                prop_assert_eq!(by_place[place], values.get(&device.id).copied());
            }
        }
    }
}
