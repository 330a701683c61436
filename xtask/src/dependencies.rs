//! The dependency tree against `deny.toml`: licences, banned crates, sources.
//!
//! cargo-deny is the judge where it is installed; it also reads licence texts and
//! finds duplicates. This checks what can be read off `cargo metadata`, so that no
//! run goes without.

use anyhow::{Context, bail};
use serde::Deserialize;
use spdx::{Expression, Licensee, ParseMode};
use std::path::Path;
use std::process::Command;

/// The one registry that `unknown-registry = "deny"` leaves.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What is read of `deny.toml`.
#[derive(Deserialize)]
struct Rules {
    graph: Graph,
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licences {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// What is read of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// None of those that lie in the workspace.
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    req: String,
    path: Option<String>,
}

/// Holds the tree against `deny.toml`; the error names every fault.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let path = root.join("deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let rules: Rules = toml::from_str(&text).context("deny.toml")?;
    let faults = faults(&rules, &metadata(root, &rules.graph.targets)?)?;
    if faults.is_empty() {
        return Ok(());
    }
    bail!("{}", faults.join("\n"))
}

fn metadata(root: &Path, targets: &[String]) -> anyhow::Result<Metadata> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--locked"]);
    for target in targets {
        command.args(["--filter-platform", target]);
    }
    let output = command.current_dir(root).output()?;
    if !output.status.success() {
        bail!(
            "`cargo metadata`: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_slice(&output.stdout).context("`cargo metadata` is not understood")
}

fn faults(rules: &Rules, metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let allowed = (rules.licenses.allow.iter())
        .map(|name| Licensee::parse(name).with_context(|| format!("deny.toml allows `{name}`")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let mut fault = |what: String| {
            faults.push(format!("{} {}: {what}", package.name, package.version));
        };
        match package.license.as_deref() {
            None => fault("states no licence".to_owned()),
            Some(text) => match Expression::parse_mode(text, ParseMode::LAX) {
                Err(error) => fault(format!("its licence `{text}` is not understood: {error}")),
                Ok(licence) if !licence.evaluate(|of| allowed.iter().any(|l| l.satisfies(of))) => {
                    fault(format!(
                        "its licence `{text}` is not among those of deny.toml"
                    ));
                }
                Ok(_) => {}
            },
        }
        if let Some(banned) = rules.bans.deny.iter().find(|b| b.name == package.name) {
            fault(format!("is banned: {}", banned.reason));
        }
        match package.source.as_deref() {
            Some(REGISTRY) => {}
            Some(source) => fault(format!("comes from `{source}`, allowed is {REGISTRY}")),
            None => {
                let open = |d: &&Dependency| d.path.is_none() && d.req == "*";
                for dependency in package.dependencies.iter().filter(open) {
                    fault(format!("takes any version of `{}`", dependency.name));
                }
            }
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(package: serde_json::Value) -> Vec<String> {
        let rules: Rules = toml::from_str(include_str!("../../deny.toml")).unwrap();
        let mut sound = json!({
            "name": "a", "version": "1.0.0", "license": "MIT/Apache-2.0", "source": REGISTRY, "dependencies": [],
        });
        for (key, value) in package.as_object().unwrap() {
            sound[key] = value.clone();
        }
        let metadata = serde_json::from_value(json!({ "packages": [sound] })).unwrap();
        faults(&rules, &metadata).unwrap()
    }

    #[test]
    fn each_rule_can_say_no() {
        assert_eq!(of(json!({})), [""; 0]);
        assert_eq!(
            of(json!({ "license": "(GPL-3.0-only OR MIT) AND ISC" })),
            [""; 0]
        );
        let open = json!([{ "name": "b", "req": "*", "path": null }]);
        for (package, expected) in [
            (
                json!({ "license": "GPL-3.0-only" }),
                "`GPL-3.0-only` is not among",
            ),
            (json!({ "license": "MIT AND GPL-3.0-only" }), "is not among"),
            (
                json!({ "license": "Apache-2.0 WITH Classpath-exception-2.0" }),
                "is not among",
            ),
            (json!({ "license": "as you like" }), "not understood"),
            (json!({ "license": null }), "states no licence"),
            (
                json!({ "name": "openssl-sys" }),
                "is banned: a system library",
            ),
            (
                json!({ "source": "git+https://example.org/a" }),
                "comes from",
            ),
            (
                json!({ "source": null, "dependencies": open }),
                "any version of `b`",
            ),
        ] {
            let faults = of(package);
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].contains(expected), "{}", faults[0]);
        }
    }
}
