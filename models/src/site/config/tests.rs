//! Loading as a whole; the checks of meaning are tested beside them.

use super::*;
use crate::ids::DeviceId;
use crate::site::power::PowerNodeKind;
use crate::site::{Entity, MeterRole};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

fn demo() -> Loaded {
    load("demo.toml", builtin_demo(), LoadOptions::default())
}

fn site_file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../site-configs")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_demo_loads_with_its_256_devices() {
    let loaded = demo();
    assert_eq!(loaded.faults, []);
    let site = loaded.site.unwrap();
    assert_eq!(site.devices.len(), 256);
    assert_eq!(site.nodes.len(), 32);
    assert_eq!(site.racks.len(), 8);
    assert_eq!(site.power.nodes().len(), 8 + 8 + 32);
    assert_eq!(site.devices[255].id.as_str(), "r08-n4-gpu7");
    assert!(!site.control.armed);
    assert_eq!(site.classes.len(), 4);
    assert_eq!(site.racks[4].row, "row-2");
    let (index, node) = site.node("r03-n2").unwrap();
    assert_eq!(index, 9);
    let path: Vec<&str> = (site.power.path_up(node.power_node).into_iter())
        .map(|n| site.power.nodes()[n].id.as_str())
        .collect();
    assert_eq!(
        path,
        ["r03-n2", "r03", "pdu-2", "ups-a", "transformer", "feed"]
    );
    let gpu = DeviceId::from("r03-n2-gpu0");
    assert_eq!(site.entity(&gpu), Some(Entity::Device(72)));
    let job = crate::JobId::from("4711").source();
    assert_eq!(site.entity(&job), Some(Entity::Job));
    assert_eq!(site.labels(&job).unwrap().kind, "job");
    assert_eq!(site.entity(&DeviceId::from("job.")), None);
    assert_eq!(site.labels(&gpu).unwrap().rack, "r03");
}

/// The demonstration is worth watching only if capping matters.
#[test]
fn the_demo_is_oversubscribed_at_every_level_above_the_node_and_safe_at_safe_caps() {
    let site = demo().site.unwrap();
    let mut peak = vec![0.0; site.power.nodes().len()];
    let mut safe = peak.clone();
    for node in &site.nodes {
        let devices = &site.devices[node.devices.clone()];
        let sum = |cap: fn(&crate::site::Device) -> f64| {
            node.overhead.get() + devices.iter().map(cap).sum::<f64>()
        };
        for above in site.power.path_up(node.power_node) {
            peak[above] += sum(|d| d.max_cap.get());
            safe[above] += sum(|d| d.safe_cap.get());
        }
    }
    for (index, node) in site.power.nodes().iter().enumerate() {
        // Feed and transformer carry the cooling too.
        let factor = match node.kind {
            PowerNodeKind::UtilityFeed | PowerNodeKind::Transformer => site.cooling.design_pue,
            _ => 1.0,
        };
        let limit = node.limit.get();
        assert!(
            safe[index] * factor <= limit * (1.0 - site.control.margin),
            "{}",
            node.id
        );
        if node.kind != PowerNodeKind::Node {
            assert!(peak[index] * factor > limit, "{}", node.id);
        }
    }
    // About three quarters of the peak of IT power.
    let feed = site.power.nodes()[0].limit.get() / site.cooling.design_pue;
    assert!(
        (0.73..0.78).contains(&(feed / peak[0])),
        "{}",
        feed / peak[0]
    );
}

#[test]
fn all_ten_files_load_and_none_is_armed() {
    for name in [
        "lumi",
        "hammerhai",
        "pharos",
        "it4lia",
        "l-ai",
        "bsc",
        "mimer",
        "leam",
        "gigafactory",
        "demo",
    ] {
        let file = format!("{name}.toml");
        let loaded = load(&file, &site_file(&file), LoadOptions::default());
        assert_eq!(loaded.faults, [], "{name}");
        let site = loaded.site.unwrap();
        assert_eq!(site.id.as_str(), name);
        assert!(
            !site.control.armed,
            "{name} must observe until somebody arms it"
        );
        assert_eq!(loaded.uncertain.is_empty(), name == "demo", "{name}");
        assert!(!loaded.about.languages.is_empty() && !loaded.about.place.is_empty());
        assert!(site.meters.iter().any(|m| m.role == MeterRole::DataCentre));
    }
}

/// Numbers as published, from the reference of sites.
#[test]
fn accelerators_add_up_to_the_published_numbers() {
    let expected: [(&str, &[(&str, usize)]); 9] = [
        ("lumi", &[("mi250x", 11_912)]),
        ("hammerhai", &[("mi300a", 752)]),
        ("pharos", &[("gh200", 2_032)]),
        (
            "it4lia",
            &[("a100-64-custom", 13_824), ("h100-80-sxm", 1_328)],
        ),
        ("l-ai", &[("a100-40-sxm", 800), ("h200-nvl", 16)]),
        ("bsc", &[("h100-64-sxm", 4_480)]),
        (
            "mimer",
            &[("a100-40-sxm", 480), ("a100-80-sxm", 272), ("gh200", 1_528)],
        ),
        ("leam", &[("h200-sxm", 4_608)]),
        ("gigafactory", &[("gb300", 100_008)]),
    ];
    for (name, counts) in expected {
        let file = format!("{name}.toml");
        let site = load(&file, &site_file(&file), LoadOptions::default())
            .site
            .unwrap();
        let mut found: BTreeMap<&str, usize> = BTreeMap::new();
        for device in &site.devices {
            *found.entry(&device.accelerator).or_default() += 1;
        }
        assert_eq!(found.into_iter().collect::<Vec<_>>(), counts, "{name}");
    }
    let bsc = load("bsc.toml", &site_file("bsc.toml"), LoadOptions::default())
        .site
        .unwrap();
    assert_eq!(bsc.nodes.len(), 1_120 + 6_408);
    assert!(bsc.nodes.last().unwrap().devices.is_empty());
}

#[test]
fn contracted_partitions_are_told_apart_and_expand_only_when_asked() {
    let loaded = load("l-ai.toml", &site_file("l-ai.toml"), LoadOptions::default());
    let contracted: Vec<_> = (loaded.partitions.iter())
        .filter(|p| p.status == PartitionStatus::Contracted)
        .collect();
    assert_eq!(contracted.len(), 1);
    assert_eq!(contracted[0].devices, Some(1_008));

    let planned = builtin_demo().replace("status = \"running\"", "status = \"contracted\"");
    let without = load("f", &planned, LoadOptions::default());
    assert_eq!(without.site.unwrap().devices.len(), 0);
    let options = LoadOptions {
        include_contracted: true,
    };
    assert_eq!(
        load("f", &planned, options).site.unwrap().devices.len(),
        256
    );
    // What has no size yet stays out instead of failing.
    let lumi = load("lumi.toml", &site_file("lumi.toml"), options);
    assert_eq!(lumi.site.unwrap().devices.len(), 11_912);
}

#[test]
fn every_marked_figure_is_listed_with_its_line() {
    let text = builtin_demo().replace(
        "design_pue = 1.12",
        "design_pue = { value = 1.12, mark = \"assumed\", note = \"a guess\" }",
    );
    let loaded = load("f", &text, LoadOptions::default());
    assert_eq!(loaded.site.unwrap().cooling.design_pue, 1.12);
    let line = 1 + text
        .lines()
        .position(|l| l.starts_with("design_pue"))
        .unwrap();
    let expected = Uncertain {
        line,
        field: "cooling.design_pue".to_owned(),
        value: "1.12".to_owned(),
        mark: Mark::Assumed,
        note: "a guess".to_owned(),
    };
    assert_eq!(loaded.uncertain, [expected]);
    let published = text.replace("mark = \"assumed\"", "mark = \"published\"");
    assert_eq!(load("f", &published, LoadOptions::default()).uncertain, []);
}

#[test]
fn racks_may_have_redundant_feeds_each_of_which_carries_all() {
    let redundant = builtin_demo().replace(
        "fed_by = [\"pdu-1\", \"pdu-2\", \"pdu-3\", \"pdu-4\"]",
        "fed_by = [[\"pdu-1\", \"pdu-3\"], [\"pdu-2\", \"pdu-4\"]]",
    );
    // Each UPS now has all eight racks below it.
    let loaded = load("f", &redundant, LoadOptions::default());
    let message = "all devices below `ups-a` at their lowest caps, 96000 W";
    assert!(
        loaded.faults.iter().any(|f| f.message.contains(message)),
        "{:?}",
        loaded.faults
    );
    let larger = redundant
        .replace("_watts = 100_000", "_watts = 190_000")
        .replace("_watts = 92_000", "_watts = 180_000")
        .replace("_watts = 55_000", "_watts = 100_000")
        .replace("_watts = 48_000", "_watts = 90_000");
    let loaded = load("f", &larger, LoadOptions::default());
    assert_eq!(loaded.faults, []);
    let site = loaded.site.unwrap();
    assert!(!site.power.is_tree());
    assert_eq!(
        site.power.path_up(site.racks[0].power_node).len(),
        1 + 2 + 2 + 2
    );
}

/// A small random site, valid by construction.
#[derive(Clone, Debug)]
struct Small {
    upper: Vec<usize>,
    partitions: Vec<(u32, u32, u32, u32)>,
    contracted: bool,
}

impl Small {
    fn text(&self) -> String {
        let mut text = builtin_demo().to_owned();
        let (power, halls) = (
            text.find("[[power]]").unwrap(),
            text.find("[[hall]]").unwrap(),
        );
        let meter = text.find("[[meter]]").unwrap();
        let tail = text[meter..]
            .replace("at = \"ups-a\"", "at = \"feed\"")
            .replace("at = \"ups-b\"", "at = \"feed\"")
            .replace("fed_by = \"transformer\"", "fed_by = \"feed\"");
        let hall = "[[hall]]\nid = \"hall-1\"\nname = \"Hall\"\n";
        assert!(text[halls..].starts_with("[[hall]]"));
        text.truncate(power);
        let mut add = |id: String, kind: &str, feeds: String| {
            text += &format!(
                "[[power]]\nid = \"{id}\"\nkind = \"{kind}\"\nfeeds = [{feeds}]\nrating_watts = 9e8\nlimit_watts = 9e8\n"
            );
        };
        // Children before parents on purpose: the file's order is free.
        for (index, parent) in self.upper.iter().enumerate().rev() {
            let parent = match parent % (index + 1) {
                0 => "feed".to_owned(),
                n => format!("p{}", n - 1),
            };
            add(format!("p{index}"), "pdu", format!("\"{parent}\""));
        }
        add("feed".to_owned(), "utility_feed", String::new());
        text += hall;
        for (index, (racks, per_rack, devices, missing)) in self.partitions.iter().enumerate() {
            let feeders: Vec<String> = (0..self.upper.len().clamp(1, *racks as usize))
                .map(|f| {
                    if self.upper.is_empty() {
                        "\"feed\"".to_owned()
                    } else {
                        format!("\"p{f}\"")
                    }
                })
                .collect();
            let nodes = (racks * per_rack - missing % per_rack).max(*racks);
            let status = if self.contracted && index == 0 {
                "contracted"
            } else {
                "running"
            };
            text += &format!(
                "[[partition]]\nid = \"q{index}\"\nname = \"Q\"\nstatus = \"{status}\"\nhall = \"hall-1\"\n\
                 accelerator = \"h100-80-sxm\"\nracks = {racks}\nnodes_per_rack = {per_rack}\nnodes = {nodes}\n\
                 devices_per_node = {devices}\nfed_by = [{}]\nrack_id = \"q{index}r{{rack}}\"\n\
                 node_id = \"q{index}n{{index:04}}\"\nracks_per_row = 2\nrack_rating_watts = 1e6\n\
                 rack_limit_watts = 1e6\nnode_overhead_watts = 500\n",
                feeders.join(", ")
            );
        }
        text + &tail
    }
}

fn small() -> impl Strategy<Value = Small> {
    (
        proptest::collection::vec(0_usize..100, 0..6),
        proptest::collection::vec((1_u32..6, 1_u32..6, 0_u32..9, 0_u32..5), 1..4),
        any::<bool>(),
    )
        .prop_map(|(upper, partitions, contracted)| Small {
            upper,
            partitions,
            contracted,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn expansion_keeps_the_invariants_of_a_site(small in small()) {
        let text = small.text();
        let loaded = load("random.toml", &text, LoadOptions::default());
        let errors: Vec<_> = loaded.errors().collect();
        prop_assert!(errors.is_empty(), "{errors:#?}\n{text}");
        let site = loaded.site.unwrap();

        // Parents before children, and every node of the tree leads to the feed.
        let power = site.power.nodes();
        for (index, node) in power.iter().enumerate() {
            prop_assert!(node.parents.iter().all(|parent| *parent < index));
            prop_assert!(node.limit <= node.rating);
            let top = *site.power.path_up(index).last().unwrap();
            prop_assert_eq!(power[top].id.as_str(), "feed");
        }
        let ids: HashSet<&str> = power.iter().map(|n| n.id.as_str()).collect();
        prop_assert_eq!(ids.len(), power.len());

        // Indices point where they should, ranges follow each other.
        let mut next = 0;
        for (index, node) in site.nodes.iter().enumerate() {
            prop_assert_eq!(node.devices.start, next);
            next = node.devices.end;
            prop_assert_eq!(&power[node.power_node].id, node.id.as_str());
            let rack = &site.racks[node.rack];
            prop_assert_eq!(&power[node.power_node].parents, &vec![rack.power_node]);
            prop_assert_eq!(&power[rack.power_node].id, &rack.id);
            prop_assert!(rack.hall < site.halls.len());
            for (d, device) in site.devices[node.devices.clone()].iter().enumerate() {
                prop_assert_eq!(device.node, index);
                prop_assert_eq!(device.index as usize, d);
                prop_assert!(device.min_cap <= device.safe_cap && device.safe_cap <= device.max_cap);
                prop_assert!(crate::ids::is_valid_name(device.id.as_str()));
            }
        }
        prop_assert_eq!(next, site.devices.len());

        // Everything that emits frames is found by its name.
        for (index, device) in site.devices.iter().enumerate() {
            prop_assert_eq!(site.entity(&device.id), Some(Entity::Device(index)));
        }
        for node in &site.nodes {
            prop_assert!(site.node(node.id.as_str()).is_some());
        }

        // Sizes add up to what the file says of its running partitions.
        let running = small.partitions.iter().skip(usize::from(small.contracted));
        let (mut nodes, mut devices) = (0, 0);
        for (racks, per_rack, per_node, missing) in running {
            let own = (racks * per_rack - missing % per_rack).max(*racks);
            nodes += own as usize;
            devices += (own * per_node) as usize;
        }
        prop_assert_eq!((site.nodes.len(), site.devices.len()), (nodes, devices));
        // Nodes are spread evenly: racks of a partition differ by one at most.
        for q in 0..small.partitions.len() {
            let prefix = format!("q{q}r");
            let counts: Vec<usize> = (site.racks.iter().enumerate())
                .filter(|(_, rack)| rack.id.starts_with(&prefix))
                .map(|(r, _)| site.nodes.iter().filter(|n| n.rack == r).count())
                .collect();
            if let (Some(min), Some(max)) = (counts.iter().min(), counts.iter().max()) {
                prop_assert!(*min > 0 && max - min <= 1, "{counts:?}");
            }
        }
    }

    /// Whatever stands in a file, loading ends with faults, never with a panic.
    #[test]
    fn damaged_files_are_refused_calmly(at in 0_usize..3_000, put in "[ -~\n]{0,6}", cut in 0_usize..40) {
        let mut text = builtin_demo().to_owned();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        prop_assume!(text.is_char_boundary(at) && text.is_char_boundary(end));
        text.replace_range(at..end, &put);
        let loaded = load("f", &text, LoadOptions::default());
        prop_assert_eq!(loaded.site.is_none(), loaded.errors().count() > 0);
        let lines = text.lines().count().max(1) + 1;
        prop_assert!(loaded.faults.iter().all(|f| (1..=lines).contains(&f.line)));
    }
}

/// The description of the files keeps up with the schema.
#[test]
fn every_allowed_field_is_described_in_the_readme() {
    let readme = site_file("README.md");
    // One field that nobody knows in each section: the remedy lists what is allowed there.
    let sections = builtin_demo().lines().filter(|line| line.starts_with('['));
    let names: HashSet<&str> = sections.collect();
    let mut text = String::from("nobody = 1\n");
    for line in builtin_demo().lines() {
        text += line;
        text += if names.contains(line) {
            "\nnobody = 1\n"
        } else {
            "\n"
        };
    }
    let loaded = load("f", &text, LoadOptions::default());
    let mut fields = HashSet::new();
    for fault in &loaded.faults {
        assert_eq!(fault.message, "unknown field `nobody`");
        let (_, allowed) = fault.remedy.split_once("allowed here: ").unwrap();
        fields.extend(allowed.split(", ").map(str::to_owned));
    }
    assert!(
        fields.contains("node_overhead_watts") && fields.len() > 60,
        "{}",
        fields.len()
    );
    for field in fields {
        let described = readme.contains(&format!("`{field}`"))
            || readme.contains(&format!("[{field}]"))
            || readme.contains(&format!("[class.{field}]"))
            || field == "class";
        assert!(
            described,
            "site-configs/README.md does not describe `{field}`"
        );
    }
}

#[test]
fn ramp_limits_are_the_sites_and_its_power_nodes() {
    use crate::quantity::Watts;
    use crate::site::ramp::{RampLimit, USUAL_WINDOW};
    assert_eq!(demo().site.unwrap().ramps.limits, []);
    let text = builtin_demo()
        .replacen(
            "[control]\n",
            "[control]\nramp_up_watts_per_second = 2_000\n",
            1,
        )
        .replace(
            "id = \"ups-b\"\n",
            "id = \"ups-b\"\nramp_down_watts_per_second = 500\n",
        );
    let site = load("demo.toml", &text, LoadOptions::default());
    assert_eq!(site.faults, []);
    let site = site.site.unwrap();
    assert_eq!(site.ramps.window, USUAL_WINDOW);
    let limit = |at, up: Option<f64>, down: Option<f64>| RampLimit {
        at,
        up: up.map(Watts),
        down: down.map(Watts),
    };
    let expected = [
        limit(None, Some(2_000.0), None),
        limit(site.power.find("ups-b"), None, Some(500.0)),
    ];
    assert_eq!(site.ramps.limits, expected);
    let text = text.replacen("[control]\n", "[control]\nramp_window_seconds = 2\n", 1);
    let site = load("demo.toml", &text, LoadOptions::default()).site;
    assert_eq!(site.unwrap().ramps.window.as_secs(), 2);
}
