//! Loading as a whole; the checks of meaning are tested beside them.

use super::*;

fn demo() -> Loaded {
    load("demo.toml", builtin_demo(), LoadOptions::default())
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
    assert!(site.node("r03-n2").is_some());
    assert_eq!(site.devices[255].id.as_str(), "r08-n4-gpu7");
}
