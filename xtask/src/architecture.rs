//! The house rules, held against the tree: ARCHITECTURE.md names every room
//! that exists and only those, floors depend only downwards, no file grows
//! beyond measure, `unsafe` stays in the shim, no room reads the clock on its own.

use anyhow::{Context, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest Rust file allowed.
const MAX_LINES: usize = 700;
/// Share of Rust files that must stay under [`USUAL_LINES`].
const USUAL_SHARE: f64 = 0.75;
const USUAL_LINES: usize = 350;

/// Which rooms a room may use (DESIGN's floors).
const MAY_USE: &[(&str, &[&str])] = &[
    ("models", &[]),
    ("store", &["models"]),
    ("collector", &["models", "store"]),
    ("optimizer", &["models", "store"]),
    (
        "twin",
        &["models", "store", "collector", "optimizer", "nvml-shim"],
    ),
    ("twin/nvml-shim", &[]),
    ("dashboard", &["models", "store", "collector", "optimizer"]),
];

/// Checks all rules; the error lists every breach.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let mut faults = Vec::new();
    let files = rust_files(root)?;
    rooms_are_described(root, &mut faults)?;
    floors_hold(root, &mut faults)?;
    sizes_hold(root, &files, &mut faults)?;
    unsafe_stays_in_the_shim(root, &files, &mut faults)?;
    models_stay_pure(root, &files, &mut faults)?;
    if faults.is_empty() {
        return Ok(());
    }
    bail!(
        "the house does not match its description:\n  {}",
        faults.join("\n  ")
    )
}

/// ARCHITECTURE.md has a heading of its own for each room and for each module
/// folder in it, and every path in backticks that it names exists.
fn rooms_are_described(root: &Path, faults: &mut Vec<String>) -> anyhow::Result<()> {
    let text = fs::read_to_string(root.join("ARCHITECTURE.md"))
        .context("ARCHITECTURE.md cannot be read")?;
    let named: BTreeSet<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|s| s.trim_end_matches('/'))
        .collect();
    for (room, _) in MAY_USE {
        for folder in [PathBuf::from(room)]
            .into_iter()
            .chain(module_folders(root, room)?)
        {
            let folder = folder.to_string_lossy().into_owned();
            if !named.contains(folder.as_str()) {
                faults.push(format!("ARCHITECTURE.md does not name `{folder}/`"));
            }
        }
    }
    for name in named {
        let looks_like_path = name.contains('/')
            && !name.contains([' ', '{', '*', '<', ':', '?', '='])
            && !name.starts_with(['/', '-']);
        if looks_like_path
            && name.chars().next().is_some_and(|c| c.is_ascii_lowercase())
            && !root.join(name).exists()
        {
            faults.push(format!(
                "ARCHITECTURE.md names `{name}`, which does not exist"
            ));
        }
    }
    Ok(())
}

/// Folders of modules within a room's `src`.
fn module_folders(root: &Path, room: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(room).join("src"))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(Path::new(room).join("src").join(entry.file_name()));
        }
    }
    found.sort();
    Ok(found)
}

/// Each room's manifest names only rooms below it.
fn floors_hold(root: &Path, faults: &mut Vec<String>) -> anyhow::Result<()> {
    for (room, allowed) in MAY_USE {
        let manifest = fs::read_to_string(root.join(room).join("Cargo.toml"))?;
        let mut section = "";
        for line in manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            } else if section == "[dependencies]"
                && let Some(used) = line.strip_prefix("heliostat-")
            {
                let used = used.split(['.', ' ', '=']).next().unwrap_or_default();
                if !allowed.contains(&used) {
                    faults.push(format!(
                        "{room}/Cargo.toml uses `{used}`, which is not below it"
                    ));
                }
            }
        }
    }
    Ok(())
}

fn sizes_hold(root: &Path, files: &[PathBuf], faults: &mut Vec<String>) -> anyhow::Result<()> {
    let mut usual = 0;
    let mut sizes = BTreeMap::new();
    for file in files {
        let lines = fs::read_to_string(file)?.lines().count();
        usual += usize::from(lines <= USUAL_LINES);
        sizes.insert(relative(root, file), lines);
    }
    for (file, lines) in &sizes {
        if *lines > MAX_LINES {
            faults.push(format!(
                "{file} has {lines} lines; {MAX_LINES} are allowed, split it along its seams"
            ));
        }
    }
    if (usual as f64) < USUAL_SHARE * files.len() as f64 {
        faults.push(format!(
            "only {usual} of {} files have at most {USUAL_LINES} lines",
            files.len()
        ));
    }
    Ok(())
}

fn unsafe_stays_in_the_shim(
    root: &Path,
    files: &[PathBuf],
    faults: &mut Vec<String>,
) -> anyhow::Result<()> {
    for file in files {
        let name = relative(root, file);
        // The shim's own test calls the C interface with hostile arguments; this file names the word.
        if name.starts_with("twin/nvml-shim/")
            || name == "twin/tests/nvml.rs"
            || name.starts_with("xtask/")
        {
            continue;
        }
        for (number, line) in fs::read_to_string(file)?.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("unsafe {")
                || code.contains("unsafe fn")
                || code.contains("unsafe impl")
                || code.contains("allow(unsafe_code")
            {
                faults.push(format!("{name}:{}: `unsafe` outside the shim", number + 1));
            }
        }
    }
    Ok(())
}

/// `models` does no I/O, reads no clock and is not asynchronous.
fn models_stay_pure(
    root: &Path,
    files: &[PathBuf],
    faults: &mut Vec<String>,
) -> anyhow::Result<()> {
    const FORBIDDEN: &[&str] = &[
        "std::fs",
        "std::net",
        "std::env::var",
        "SystemTime",
        "Instant::now",
        "async fn",
        "tokio",
    ];
    for file in files {
        let name = relative(root, file);
        // Tests may read recorded data.
        if !name.starts_with("models/src/") || name.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(file)?;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            if let Some(word) = FORBIDDEN.iter().find(|word| line.contains(**word)) {
                faults.push(format!(
                    "{name}:{}: `{word}` in models, which does no I/O and reads no clock",
                    number + 1
                ));
            }
        }
    }
    Ok(())
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root)
        .unwrap_or(file)
        .to_string_lossy()
        .into_owned()
}

fn rust_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["src", "tests", "xtask"]
        .iter()
        .map(|f| root.join(f))
        .chain(MAY_USE.iter().map(|(room, _)| root.join(room)))
        .collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                if entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}
