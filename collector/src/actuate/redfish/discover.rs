//! Finds the resources that hold power limits, by following the controller's
//! links from its two collections of systems and chassis.

use super::bmc::Bmc;
use super::error::RedfishError;
use super::limit::Form;
use serde_json::Value;

const SYSTEMS: &str = "/redfish/v1/Systems";
const CHASSIS: &str = "/redfish/v1/Chassis";
/// Most members of a collection that are followed.
const MEMBERS: usize = 256;

/// A limit, and the resource that says whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The `Id` of what is limited.
    pub id: String,
    pub product: String,
    /// The path of the processor or system that bears the identity.
    pub owner: String,
    /// The path of the resource with the limit.
    pub path: String,
    pub form: Form,
}

/// The GPUs with a limit, in the order of the numbers in their names.
pub(super) fn gpus(bmc: &mut Bmc, system: Option<&str>) -> Result<Vec<Found>, RedfishError> {
    let mut found = Vec::new();
    for (_, value) in systems(bmc, system)? {
        let Some(processors) = link(&value, "Processors") else {
            continue;
        };
        for (path, processor) in members(bmc, &processors)? {
            if is_gpu(&processor)
                && let Some(metrics) = link(&processor, "EnvironmentMetrics")
                && let Some(limits) = present(bmc.get(&metrics))?
                && Form::Metrics.read(&limits.value).is_some()
            {
                found.push(Found {
                    id: text(&processor, "Id"),
                    product: product(&processor),
                    owner: path,
                    path: metrics,
                    form: Form::Metrics,
                });
            }
        }
    }
    if found.is_empty() {
        found = gpu_controls(bmc, system)?;
    }
    if found.is_empty() {
        return Err(RedfishError::NoLimit {
            url: bmc.base().to_owned(),
            reason: "no GPU has a PowerLimitWatts in its EnvironmentMetrics or a power control at its chassis; perhaps the node as a whole has one: --actuator redfish-node".into(),
        });
    }
    // `GPU_SXM_10` comes after `GPU_SXM_2`.
    found.sort_by_cached_key(|f| (number(&f.id), f.id.clone()));
    Ok(found)
}

/// Controls whose context is a GPU and that name the processor that they are of.
fn gpu_controls(bmc: &mut Bmc, system: Option<&str>) -> Result<Vec<Found>, RedfishError> {
    let mut found = Vec::new();
    for (_, chassis) in members(bmc, CHASSIS)? {
        let Some(controls) = link(&chassis, "Controls") else {
            continue;
        };
        for (path, control) in members(bmc, &controls)? {
            let context = control.get("PhysicalContext").and_then(Value::as_str);
            if !is_power_control(&control) || !matches!(context, Some("GPU" | "Accelerator")) {
                continue;
            }
            let related = control.get("RelatedItem").and_then(Value::as_array);
            let owner = (related.into_iter().flatten())
                .filter_map(|item| item.get("@odata.id")?.as_str())
                .find(|path| path.contains("/Processors/"));
            let Some(owner) = owner else {
                tracing::warn!(%path, "a GPU's power control names no processor; it is left alone");
                continue;
            };
            if system.is_some_and(|s| !owner.contains(&format!("/{s}/"))) {
                continue;
            }
            let processor = bmc.get(owner)?.value;
            found.push(Found {
                id: text(&processor, "Id"),
                product: product(&processor),
                owner: owner.to_owned(),
                path,
                form: Form::Control,
            });
        }
    }
    Ok(found)
}

/// The limit of a node as a whole.
pub(super) fn node(bmc: &mut Bmc, system: Option<&str>) -> Result<Found, RedfishError> {
    let systems = systems(bmc, system)?;
    let names: Vec<String> = systems.iter().map(|(_, s)| text(s, "Id")).collect();
    let Ok([(owner, value)]) = <[(String, Value); 1]>::try_from(systems) else {
        return Err(RedfishError::NoLimit {
            url: bmc.base().to_owned(),
            reason: format!(
                "there are several systems ({}); name the node's with --bmc-system",
                names.join(", ")
            ),
        });
    };
    let id = text(&value, "Id");
    for chassis in chassis_of(bmc, &owner, &value)? {
        let limit = chassis_limit(bmc, &chassis)?;
        if let Some((path, form)) = limit {
            return Ok(Found {
                id,
                product: product(&value),
                owner,
                path,
                form,
            });
        }
    }
    Err(RedfishError::NoLimit {
        url: bmc.base().to_owned(),
        reason: format!(
            "no chassis of the system `{id}` has a limit in EnvironmentMetrics, Controls or Power"
        ),
    })
}

/// A chassis' limit: metrics before controls before the older power resource.
fn chassis_limit(bmc: &mut Bmc, chassis: &Value) -> Result<Option<(String, Form)>, RedfishError> {
    if let Some(metrics) = link(chassis, "EnvironmentMetrics")
        && let Some(resource) = present(bmc.get(&metrics))?
        && Form::Metrics.read(&resource.value).is_some()
    {
        return Ok(Some((metrics, Form::Metrics)));
    }
    if let Some(controls) = link(chassis, "Controls") {
        for (path, control) in members(bmc, &controls)? {
            let context = control.get("PhysicalContext").and_then(Value::as_str);
            if is_power_control(&control)
                && matches!(context, None | Some("Chassis" | "SystemBoard"))
            {
                return Ok(Some((path, Form::Control)));
            }
        }
    }
    if let Some(power) = link(chassis, "Power")
        && let Some(resource) = present(bmc.get(&power))?
    {
        let controls = resource.value.get("PowerControl").and_then(Value::as_array);
        let place = (0..controls.map_or(0, Vec::len))
            .find(|place| Form::Power(*place).read(&resource.value).is_some());
        return Ok(place.map(|place| (power, Form::Power(place))));
    }
    Ok(None)
}

/// The chassis that a system is in: those that it names, that name it, or that
/// bear its name.
fn chassis_of(bmc: &mut Bmc, path: &str, system: &Value) -> Result<Vec<Value>, RedfishError> {
    let id = text(system, "Id");
    let named = links(system, "Chassis");
    let all = members(bmc, CHASSIS)?;
    let same = |a: &str, b: &str| a.trim_end_matches('/') == b.trim_end_matches('/');
    let mut fitting: Vec<(bool, Value)> = Vec::new();
    for (at, chassis) in all {
        let names_it = links(&chassis, "ComputerSystems")
            .iter()
            .any(|s| same(s, path));
        let named = named.iter().any(|c| same(c, &at));
        let bears_its_name = text(&chassis, "Id") == id;
        if names_it || named || bears_its_name {
            // The node's own before an enclosure that only contains it.
            fitting.push((!(names_it || bears_its_name), chassis));
        }
    }
    fitting.sort_by_key(|(outer, _)| *outer);
    Ok(fitting.into_iter().map(|(_, chassis)| chassis).collect())
}

fn systems(bmc: &mut Bmc, only: Option<&str>) -> Result<Vec<(String, Value)>, RedfishError> {
    let mut all = members(bmc, SYSTEMS)?;
    let Some(only) = only else {
        return Ok(all);
    };
    let names: Vec<String> = all.iter().map(|(_, s)| text(s, "Id")).collect();
    all.retain(|(_, system)| text(system, "Id") == only);
    if all.is_empty() {
        return Err(RedfishError::NoLimit {
            url: bmc.base().to_owned(),
            reason: format!(
                "there is no system `{only}`; its systems are {}",
                names.join(", ")
            ),
        });
    }
    Ok(all)
}

/// The members of a collection with their paths. One that is listed and not
/// there is left out: trees of real controllers have such.
fn members(bmc: &mut Bmc, collection: &str) -> Result<Vec<(String, Value)>, RedfishError> {
    let Some(listed) = present(bmc.get(collection))? else {
        return Ok(Vec::new());
    };
    let paths: Vec<String> = (listed.value.get("Members").and_then(Value::as_array))
        .into_iter()
        .flatten()
        .filter_map(|member| Some(member.get("@odata.id")?.as_str()?.to_owned()))
        .take(MEMBERS)
        .collect();
    let mut members = Vec::new();
    for path in paths {
        match present(bmc.get(&path))? {
            Some(resource) => members.push((path, resource.value)),
            None => tracing::debug!(%path, "listed by the management controller, and not there"),
        }
    }
    Ok(members)
}

/// What is not there is no error while looking around.
fn present<T>(outcome: Result<T, RedfishError>) -> Result<Option<T>, RedfishError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(RedfishError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gpu(processor: &Value) -> bool {
    matches!(
        processor.get("ProcessorType").and_then(Value::as_str),
        Some("GPU" | "Accelerator")
    )
}

fn is_power_control(control: &Value) -> bool {
    let kind = control.get("ControlType").and_then(Value::as_str);
    kind == Some("Power") && Form::Control.read(control).is_some()
}

fn link(resource: &Value, name: &str) -> Option<String> {
    Some(resource.get(name)?.get("@odata.id")?.as_str()?.to_owned())
}

/// The links of a kind, under `Links`.
fn links(resource: &Value, name: &str) -> Vec<String> {
    let listed = resource.get("Links").and_then(|l| l.get(name)?.as_array());
    (listed.into_iter().flatten())
        .filter_map(|item| Some(item.get("@odata.id")?.as_str()?.to_owned()))
        .collect()
}

fn text(resource: &Value, name: &str) -> String {
    let text = resource.get(name).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

fn product(resource: &Value) -> String {
    let words = [text(resource, "Manufacturer"), text(resource, "Model")];
    let words: Vec<&str> = words
        .iter()
        .map(|w| w.trim())
        .filter(|w| !w.is_empty())
        .collect();
    match words.join(" ") {
        empty if empty.is_empty() => "unknown".to_owned(),
        name => name,
    }
}

/// The number at the end of a name.
fn number(id: &str) -> u64 {
    let digits = id
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |at| at + 1);
    // Names may end in more than ASCII.
    id.get(digits..)
        .and_then(|d| d.parse().ok())
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_the_end_of_names() {
        assert_eq!(number("GPU_SXM_10"), 10);
        assert_eq!(number("7"), 7);
        for none in ["GPU", "", "GPU_1ü", "GPU_99999999999999999999999"] {
            assert_eq!(number(none), u64::MAX, "{none}");
        }
    }
}
