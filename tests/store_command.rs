//! `heliostat store` as an operator uses it on a stopped server's data: carried
//! away, brought back, copied, verified; and what is said when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use support::heliostat;

const SITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/site-configs/demo.toml");
const OTHER_SITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/site-configs/lumi.toml");
const HEADER: &str = "device,time,metric,value,quality";

struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A store with two hours of one GPU, a reading a second, about a midnight.
    fn filled(&self) -> String {
        let data = self.path("data");
        let file = self.file("in.csv", two_hours());
        let args = [
            "import", "--site", SITE, "--data", &data, "--new", "--file", &file,
        ];
        assert_eq!(
            works(&args),
            "14400 readings stored, 0 were there already\n"
        );
        data
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![self.0.path().join("data/store/segments")];
        while let Some(directory) = todo.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    todo.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

fn two_hours() -> String {
    let mut text = format!("{HEADER}\n");
    for second in 0..7_200 {
        let of_day = (82_800 + second) % 86_400;
        let day = if second < 3_600 { 20 } else { 21 };
        let (hour, minute, second_) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        let time = format!("2025-11-{day}T{hour:02}:{minute:02}:{second_:02}Z");
        let watts = 500.25 + f64::from(second % 7);
        writeln!(
            text,
            "r01-n1-gpu0,{time},gpu_power_watts,{watts:?},measured"
        )
        .unwrap();
        let degrees = f64::from(60 + second % 3);
        writeln!(
            text,
            "r01-n1-gpu0,{time},gpu_temperature_celsius,{degrees:?},measured"
        )
        .unwrap();
    }
    text
}

/// Runs `heliostat store` and expects success; standard output.
fn works(args: &[&str]) -> String {
    let (code, out, err) = heliostat(&[&["store"], args].concat());
    assert_eq!(code, Some(0), "{args:?}: {out}{err}");
    out
}

/// Runs it and expects failure with exit code 1 and these words; standard output.
fn fails(args: &[&str], words: &[&str]) -> String {
    let (code, out, err) = heliostat(&[&["store"], args].concat());
    assert_eq!(code, Some(1), "{args:?}: {out}{err}");
    for word in words {
        assert!(err.contains(word), "{args:?}: `{word}` is not in: {err}");
    }
    assert!(!err.contains("panicked"), "{err}");
    out
}

fn lines(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn what_is_carried_away_comes_back_the_same() {
    let stage = Stage::new();
    let data = stage.filled();
    let (out, again) = (stage.path("out.csv"), stage.path("again.csv"));
    let span = ["--from", "2025-11-20", "--to", "2025-11-22"];
    let export = |data: &str, out: &str| {
        let args = ["export", "--site", SITE, "--data", data, "--out", out];
        works(&[&args[..], &span].concat())
    };
    assert!(export(&data, &out).starts_with("14400 readings"));
    let other = stage.path("other");
    let import = [
        "import", "--site", SITE, "--data", &other, "--new", "--file", &out,
    ];
    assert_eq!(
        works(&import),
        "14400 readings stored, 0 were there already\n"
    );
    assert_eq!(
        works(&import),
        "0 readings stored, 14400 were there already\n"
    );
    export(&other, &again);
    assert_eq!(lines(&out), lines(&again));
    // The same rows as went in; an export goes by metric within a day.
    let mut first = lines(&stage.path("in.csv"));
    let mut second = lines(&out);
    first.sort();
    second.sort();
    assert_eq!(first, second);
}

#[test]
fn steps_are_carried_away_from_the_rollups() {
    let stage = Stage::new();
    let data = stage.filled();
    works(&["compact", "--site", SITE, "--data", &data]);
    let out = stage.path("hours.csv");
    let mut args = vec!["export", "--site", SITE, "--data", &data, "--out", &out];
    args.extend([
        "--from",
        "2025-11-20T23:10:00Z",
        "--to",
        "last",
        "--step",
        "1h",
    ]);
    assert!(works(&args).starts_with("4 lines"));
    let found = lines(&out);
    assert_eq!(
        found[0],
        "device,time,step_seconds,metric,count,min,max,sum,last,joules,quality"
    );
    // An hour has 514 sevens and two seconds; the power of a second counts until the next.
    let sum: f64 = (0..3_600).map(|s| 500.25 + f64::from(s % 7)).sum();
    let last = 500.25 + f64::from(3_599 % 7);
    let power = &found[1];
    let head = format!(
        "r01-n1-gpu0,2025-11-20T23:00:00Z,3600,gpu_power_watts,3600.0,500.25,506.25,{sum:?},{last:?},"
    );
    assert!(power.starts_with(&head), "{power}\n{head}");
    let joules: f64 = power.split(',').nth(9).unwrap().parse().unwrap();
    assert!((joules / sum - 1.0).abs() < 0.001, "{power}");
    assert!(
        found[3].ends_with(",,measured"),
        "degrees have no energy: {}",
        found[3]
    );
    let wrong = ["--from", "2025-11-20", "--step", "7m"];
    let args = ["export", "--site", SITE, "--data", &data, "--out", &out];
    fails(&[&args[..], &wrong].concat(), &["`7m` is no step", "15m"]);
}

#[test]
fn faults_of_an_import_are_named_by_line() {
    let stage = Stage::new();
    let data = stage.filled();
    let import = |content: &[u8], words: &[&str]| {
        let file = stage.file("bad.csv", content);
        let words = [&["bad.csv"], words].concat();
        fails(
            &["import", "--site", SITE, "--data", &data, "--file", &file],
            &words,
        );
    };
    let line = |metric: &str, value: &str| {
        format!("{HEADER}\nr01-n1-gpu0,2025-11-21T08:00:00Z,{metric},{value},measured\n")
            .into_bytes()
    };
    import(
        &line("gpu_power", "3"),
        &["line 2", "unknown metric `gpu_power`", "query --metrics"],
    );
    import(&line("gpu_power_watts", "much"), &["line 2", HEADER]);
    import(
        &line("gpu_power_watts", "NaN"),
        &["line 2", "between 0 and 3000"],
    );
    import(
        &line("gpu_power_watts", "99999999"),
        &["line 2", "W cannot be", "between 0 and 3000"],
    );
    import(b"a,b\n", &["line 1", HEADER]);
    import(b"\xff\xfe\x00binary", &["line 1", "UTF-8"]);
    fails(
        &[
            "import",
            "--site",
            SITE,
            "--data",
            &data,
            "--file",
            "/nowhere.csv",
        ],
        &["/nowhere.csv"],
    );
    let file = stage.path("in.csv");
    fails(
        &[
            "import", "--site", OTHER_SITE, "--data", &data, "--file", &file,
        ],
        &["`demo`", "`lumi"],
    );
    let nowhere = stage.path("nowhere");
    fails(
        &[
            "import", "--site", SITE, "--data", &nowhere, "--file", &file,
        ],
        &["there is no store in"],
    );
    assert!(!Path::new(&nowhere).exists(), "made only when asked to");
}

#[test]
fn copies_are_whole_and_lie_outside() {
    let stage = Stage::new();
    let data = stage.filled();
    let copy = stage.path("copy");
    works(&["snapshot", "--data", &data, "--to", &copy]);
    let before = works(&["verify", "--data", &data]);
    assert_eq!(works(&["verify", "--data", &copy]), before);
    assert!(before.contains("7200 frames, 0 faults"), "{before}");
    fails(
        &["snapshot", "--data", &data, "--to", &copy],
        &["not empty"],
    );
    let within = format!("{data}/store/copy");
    fails(
        &["snapshot", "--data", &data, "--to", &within],
        &["lies within"],
    );
    assert!(!Path::new(&within).exists());
    fails(
        &["verify", "--data", &stage.path("nowhere")],
        &["there is no store in"],
    );
}

#[test]
fn damage_is_told_by_every_command_and_the_rest_is_served() {
    let stage = Stage::new();
    let data = stage.filled();
    works(&["compact", "--site", SITE, "--data", &data]);
    let segments = stage.segments();
    assert_eq!(segments.len(), 2, "one for each day");
    let whole = std::fs::read(&segments[0]).unwrap();
    let mut bytes = whole.clone();
    // A column in the middle of the file; head and footer are whole.
    for byte in &mut bytes[whole.len() / 3..whole.len() / 3 + 8] {
        *byte ^= 0x55;
    }
    std::fs::write(&segments[0], &bytes).unwrap();
    let name = segments[0].file_name().unwrap().to_str().unwrap();
    let out = fails(&["verify", "--data", &data], &["all else is served"]);
    assert!(out.contains(name) && out.contains("1 faults"), "{out}");
    let file = stage.path("out.csv");
    let mut args = vec!["export", "--site", SITE, "--data", &data, "--out", &file];
    args.extend(["--from", "2025-11-20", "--to", "2025-11-22"]);
    fails(&args, &["damaged is missing from it"]);
    assert!(lines(&file).len() > 7_200, "the other day is there");
    // Shorter than it was, then gone.
    std::fs::write(&segments[0], &whole[..100]).unwrap();
    let out = fails(&["verify", "--data", &data], &[]);
    assert!(out.contains(name) && out.contains("not as long"), "{out}");
    fails(
        &["compact", "--site", SITE, "--data", &data],
        &["left as it is"],
    );
    std::fs::remove_file(&segments[0]).unwrap();
    assert!(fails(&["verify", "--data", &data], &[]).contains(name));
    // Put back, all is well.
    std::fs::write(&segments[0], &whole).unwrap();
    works(&["verify", "--data", &data]);
    assert!(works(&args).starts_with("14400 readings"));
}

#[test]
fn nothing_found_is_said() {
    let stage = Stage::new();
    let data = stage.filled();
    let out = stage.path("out.csv");
    let mut args = vec![
        "store", "export", "--site", SITE, "--data", &data, "--out", &out,
    ];
    args.extend(["--from", "2030-01-01", "--to", "2031-01-01"]);
    let (code, text, err) = heliostat(&args);
    assert_eq!((code, text.starts_with("0 readings")), (Some(0), true));
    assert!(err.contains("has nothing from 2030-01-01"), "{err}");
}
