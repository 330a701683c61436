//! Power contracts: that their members are there, and that all devices at
//! their lowest and at their safe caps keep them.

use super::power::Tree;
use super::sums::{Draw, within};
use super::{names, use_one_of};
use crate::accelerators::AcceleratorCatalogue;
use crate::site::config::fault::Sink;
use crate::site::config::layout::{PlannedRack, Sizes, layout};
use crate::site::config::partition::PartitionSection;
use crate::site::config::power_contract::PowerContractSection;
use crate::site::config::schema::SiteFile;
use std::collections::{BTreeMap, BTreeSet};

/// Checks all of them.
pub(super) fn check(
    file: &SiteFile,
    catalogue: &AcceleratorCatalogue,
    tree: &Tree<'_>,
    sink: &Sink,
) {
    if file.power_contracts.is_empty() {
        return;
    }
    let power = names::power_names(file);
    let running: Vec<Running<'_>> = (file.partitions.iter())
        .filter(|partition| partition.is_running())
        .filter_map(|partition| Running::new(partition, catalogue, tree))
        .collect();
    for section in &file.power_contracts {
        if let Some(id) = &section.id
            && power.contains(&id.value)
        {
            sink.error(
                id.at,
                &format!("{}id", section.prefix),
                format!("`{}` is the name of a power node too", id.value),
                "give the contract a name of its own: limits are told by their names",
            );
        }
        one(section, file, tree, &running, sink);
    }
}

/// A partition that is there, with what feeds each of its racks.
struct Running<'f> {
    partition: &'f PartitionSection,
    sizes: Sizes,
    racks: Vec<(PlannedRack, BTreeSet<&'f str>)>,
}

impl<'f> Running<'f> {
    fn new(
        partition: &'f PartitionSection,
        catalogue: &AcceleratorCatalogue,
        tree: &Tree<'f>,
    ) -> Option<Self> {
        let feeders = &partition.fed_by.as_ref()?.value;
        let racks = layout(partition)?.into_iter().map(|rack| {
            let group = feeders.get(rack.feeder).into_iter().flatten();
            let above = tree.upwards(group.map(|feeder| feeder.value.as_str()));
            (rack, above)
        });
        Some(Self {
            partition,
            sizes: partition.sizes(catalogue)?,
            racks: racks.collect(),
        })
    }

    fn all(&self) -> Draw {
        let nodes = self.racks.iter().map(|(rack, _)| rack.nodes.len()).sum();
        Draw::of_nodes(&self.sizes, nodes)
    }

    /// What members draw here; notes which of them were met.
    fn covered<'m>(&self, members: &BTreeMap<&'m str, usize>, met: &mut BTreeSet<&'m str>) -> Draw {
        let mut draw = Draw::default();
        let mut find = |name: &str| {
            let found = members.get_key_value(name).map(|(name, _)| *name);
            met.extend(found);
            found.is_some()
        };
        for (rack, above) in &self.racks {
            let mut whole = find(&rack.id);
            for feeder in above {
                whole |= find(feeder);
            }
            for node in &rack.nodes {
                let mut single = 0;
                for device in 0..self.sizes.devices_per_node {
                    single += u32::from(find(&format!("{node}-gpu{device}")));
                }
                if find(node) || whole {
                    draw.add(Draw::of_nodes(&self.sizes, 1), 1.0);
                } else {
                    draw.add(Draw::of_devices(&self.sizes, single), 1.0);
                }
            }
        }
        draw
    }
}

fn one(
    section: &PowerContractSection,
    file: &SiteFile,
    tree: &Tree<'_>,
    running: &[Running<'_>],
    sink: &Sink,
) {
    let Some(named) = &section.members else {
        return;
    };
    let field = format!("{}members", section.prefix);
    if named.value.is_empty() {
        sink.error(
            named.at,
            &field,
            "a power contract without members limits nothing",
            "name power nodes, racks, nodes or devices",
        );
        return;
    }
    let mut members: BTreeMap<&str, usize> = BTreeMap::new();
    for member in &named.value {
        if members.insert(&member.value, member.at).is_some() {
            sink.error(
                member.at,
                &field,
                format!("`{}` is named twice", member.value),
                "name each member once",
            );
        }
    }
    let mut met = BTreeSet::new();
    let (mut draw, mut all) = (Draw::default(), Draw::default());
    for partition in running {
        draw.add(partition.covered(&members, &mut met), 1.0);
        all.add(partition.all(), 1.0);
    }
    let unfinished = (file.partitions.iter())
        .any(|p| p.status.is_none() || p.is_running() && !is_among(p, running));
    for (name, at) in &members {
        // What a faulty partition would have made is not known.
        if !met.contains(name) && !tree.contains(name) && !unfinished {
            sink.error(
                *at,
                &field,
                format!("`{name}` is no power node, rack, node or device that is running"),
                use_one_of(name, tree.ids()),
            );
        }
    }
    let cooling = file.cooling.as_ref();
    if let Some(feeder) = cooling.and_then(|c| c.fed_by.as_ref()) {
        let carries = tree.upwards([feeder.value.as_str()]);
        if carries.iter().any(|id| members.contains_key(id)) {
            let pue = cooling.and_then(|c| c.design_pue.as_ref());
            draw.add(all, pue.map_or(0.0, |pue| pue.value.max(1.0) - 1.0));
        }
    }
    let margin = (file.control.as_ref())
        .and_then(|control| control.margin.as_ref())
        .map_or(
            0.0,
            |margin| if section.in_full { 0.0 } else { margin.value },
        );
    if let Some(limit) = &section.limit {
        let id = section.id.as_ref().map_or("?", |id| id.value.as_str());
        within(
            &format!("contract `{id}`"),
            &format!("{}limit_watts", section.prefix),
            draw,
            limit.value,
            limit.at,
            margin,
            sink,
        );
    }
}

fn is_among(partition: &PartitionSection, running: &[Running<'_>]) -> bool {
    (running.iter()).any(|known| std::ptr::eq(known.partition, partition))
}

#[cfg(test)]
mod tests {
    use super::super::tests::error;
    use crate::quantity::Watts;
    use crate::site::config::{LoadOptions, builtin_demo, load};

    /// Where a power contract is planted: before the classes.
    const BEFORE: &str = "[class.training]";

    fn with(fields: &str) -> String {
        format!("[[power_contract]]\n{fields}\n{BEFORE}")
    }

    #[track_caller]
    fn contract(fields: &str, at: &str, message: &str) {
        error(BEFORE, &with(fields), at, message);
    }

    #[test]
    fn faults_of_power_contracts() {
        let sound = "id = \"tenant\"\nlimit_watts = 40_000\n";
        for (members, at, message) in [
            ("[]", "members = []", "without members"),
            (
                "[\"r01\", \"r99\"]",
                "members = [",
                "`r99` is no power node",
            ),
            (
                "[\"r01-n1-gpu8\"]",
                "members = [",
                "no power node, rack, node or device",
            ),
            ("[\"r01\", \"r01\"]", "members = [", "named twice"),
            ("\"r01\"", "members = \"r01", "not a list"),
            // 4 x (1,400 + 8 x 200) W each.
            (
                "[\"r01\", \"r02\", \"r03\", \"r04\"]",
                "limit_watts = 40_000",
                "floors are above",
            ),
            (
                "[\"pdu-1\", \"r05\", \"r05-n1\"]",
                "limit_watts = 40_000",
                "safe caps, 55200 W",
            ),
        ] {
            contract(&format!("{sound}members = {members}"), at, message);
        }
        contract(
            "id = \"pdu-1\"\nlimit_watts = 60_000\nmembers = [\"r05\"]",
            "id = \"pdu-1\"\nlimit",
            "a power node too",
        );
        contract(
            "limit_watts = 60_000\nmembers = [\"r05\"]",
            "[[power_contract]]",
            "has no `id`",
        );
        contract(
            "id = \"t\"\nmembers = [\"r05\"]",
            "[[power_contract]]",
            "has no `limit_watts`",
        );
        contract(
            "id = \"t\"\nlimit_watts = -1\nmembers = [\"r05\"]",
            "limit_watts = -1",
            "out of range",
        );
        contract(
            "id = \"t\"\nlimit_watts = 30_000\nmember = [\"r05\"]",
            "member = ",
            "unknown field `member`",
        );
        let twice = "id = \"t\"\nlimit_watts = 30_000\nmembers = [\"r05\"]\n";
        let second = format!(
            "{twice}[[power_contract]]\n{}",
            twice.replace("\"t\"", "\"t\" # second")
        );
        contract(&second, "id = \"t\" # second", "two power contracts");
    }

    #[test]
    fn cooling_counts_where_a_member_carries_it() {
        let all = "id = \"t\"\nlimit_watts = 152_000\nmembers = [\"ups-a\", \"ups-b\"]";
        let made = load(
            "demo.toml",
            &builtin_demo().replace(BEFORE, &with(all)),
            LoadOptions::default(),
        );
        assert!(made.is_ok(), "{:?}", made.faults);
        contract(
            &all.replace("\"ups-a\", \"ups-b\"", "\"transformer\""),
            "limit_watts = 152_000",
            "safe caps",
        );
    }

    #[test]
    fn members_are_found_and_the_margin_may_be_left_out() {
        let fields = "id = \"t\"\nlimit_watts = 66_000\nmembers = [\"pdu-1\", \"r07\", \"r08-n2\", \"r08-n3-gpu0\"]";
        let made = |fields: &str| {
            let text = builtin_demo().replace(BEFORE, &with(fields));
            let site = load("demo.toml", &text, LoadOptions::default()).site;
            site.map(|site| (site.power_contracts[0].clone(), site))
        };
        let (contract, site) = made(fields).unwrap();
        let names: Vec<&str> = contract
            .nodes
            .iter()
            .map(|v| site.power.nodes()[*v].id.as_str())
            .collect();
        assert_eq!(names, ["pdu-1", "r07", "r08-n2"]);
        assert_eq!(site.devices[contract.devices[0]].id.as_str(), "r08-n3-gpu0");
        assert_eq!(contract.usable(0.02), Watts(66_000.0) * 0.98);
        let (contract, _) = made(&format!("{fields}\nin_full = true")).unwrap();
        assert_eq!(contract.usable(0.02), Watts(66_000.0));
    }

    #[test]
    fn faults_of_time_current_curves() {
        let from = "id = \"pdu-1\"\n";
        for (value, message) in [
            ("\"iec-60898-1-z\"", "no class of breakers"),
            ("5", "neither a name nor points"),
            ("[[1.2, 60], [1.1, 30]]", "multiples must rise"),
            ("[[1.2, 60], [1.4, 90]]", "seconds must fall"),
            ("[[1.2]]", "two numbers"),
            ("[[1.2, -5]]", "out of range"),
            ("[[1.2, \"long\"]]", "not a number"),
        ] {
            let curve = format!("trip_curve = {value}\n");
            error(from, &format!("{from}{curve}"), &curve, message);
        }
        let text = builtin_demo()
            .replace(from, &format!("{from}trip_curve = [[1.2, 60], [2, 5]]\n"))
            .replace(
                "rack_rating_watts",
                "rack_trip_curve = \"none\"\nrack_rating_watts",
            );
        let site = load("demo.toml", &text, LoadOptions::default())
            .site
            .unwrap();
        // Eight racks, the PDU, and the two UPSes of the file.
        assert_eq!(site.trip_curves.len(), 11);
        assert_eq!(site.trip_curves["pdu-1"].holds(1.3), 5.0);
        assert_eq!(site.trip_curves["r08"].holds(1.01), 0.0);
    }

    #[test]
    fn faults_of_cap_steps() {
        let from = "safe_cap_watts = 400";
        let at = "cap_step_watts = ";
        let stepped =
            |step: &str, safe: &str| format!("cap_step_watts = {step}\nsafe_cap_watts = {safe}");
        error(from, &stepped("0", "400"), at, "out of range");
        error(
            from,
            &stepped("7", "400"),
            "safe_cap_watts",
            "no multiple of the step",
        );
        let text = builtin_demo().replace(from, &stepped("25", "400"));
        let site = load("demo.toml", &text, LoadOptions::default())
            .site
            .unwrap();
        assert_eq!(site.devices[0].cap_step, Watts(25.0));
        let plain = load("demo.toml", builtin_demo(), LoadOptions::default())
            .site
            .unwrap();
        assert_eq!(plain.devices[0].cap_step, super::super::super::FINEST_STEP);
    }
}
