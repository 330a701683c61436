//! What jobs say of their own progress, by files: a job writes one number, its
//! work per second in a unit of its own (samples, tokens, steps), to
//! `DIRECTORY/JOB`, from one of its processes, as often as it likes. The metric
//! is `job_throughput_per_second` and its device `job.JOB`.
//!
//! A file is read when it has changed since it was last read, so that a job that
//! hangs does not seem to go on at its old speed. It is best replaced by a rename;
//! one that is found half written is not a number and is read at its next change.

use super::{ErrorClass, Source, SourceError};
use heliostat_models::ids::is_valid_name;
use heliostat_models::{Catalogue, Frame, JobId, Reading, Timestamp};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::SystemTime;

/// Files that are read of one directory.
const MOST_FILES: usize = 1_000;
/// Bytes that a number takes at most, with its line's end.
const LONGEST: u64 = 64;

/// A directory of such files.
#[derive(Debug)]
pub struct ThroughputSource {
    directory: PathBuf,
    /// Of each job when its file last changed.
    seen: HashMap<String, SystemTime>,
}

impl ThroughputSource {
    /// Of this directory, which may come later.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            seen: HashMap::new(),
        }
    }

    fn failed(&self, error: &std::io::Error) -> SourceError {
        let directory = self.directory.display();
        SourceError::new(
            ErrorClass::Retry,
            format!(
                "reading the directory {directory} of jobs' throughput: {error}; create it, or leave --throughput out"
            ),
        )
    }
}

impl Source for ThroughputSource {
    fn name(&self) -> &'static str {
        "throughput"
    }

    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError> {
        let entries = fs::read_dir(&self.directory).map_err(|e| self.failed(&e))?;
        let mut there = HashMap::new();
        let mut frames = Vec::new();
        for entry in entries.flatten().take(MOST_FILES) {
            let name = entry.file_name();
            // What is being written beside a file usually begins with a dot, which no job does.
            let Some(job) = name.to_str().filter(|name| is_valid_name(name)) else {
                continue;
            };
            let Some(changed) = changed(&entry) else {
                continue;
            };
            let before = self.seen.get(job).copied();
            there.insert(job.to_owned(), changed);
            if before == Some(changed) {
                continue;
            }
            let path = entry.path();
            match number(File::open(&path)) {
                Ok(rate) => frames.push(Frame {
                    device: JobId::from(job).source(),
                    at,
                    readings: vec![(Catalogue::job_throughput(), Reading::Measured(rate))],
                }),
                Err(fault) => {
                    tracing::warn!(file = %path.display(), fault, "a job's throughput cannot be read; write one number that is not negative");
                }
            }
        }
        self.seen = there;
        frames.sort_by(|a, b| a.device.cmp(&b.device));
        Ok(frames)
    }
}

/// When a file changed; `None` where it is no file or went away.
fn changed(entry: &fs::DirEntry) -> Option<SystemTime> {
    // Links are not followed: who may write here must not make the agent read elsewhere.
    let meta = entry.metadata().ok()?;
    meta.is_file().then(|| meta.modified().ok())?
}

fn number(file: std::io::Result<File>) -> Result<f64, String> {
    let mut text = String::new();
    let file = file.map_err(|e| e.to_string())?;
    (file.take(LONGEST).read_to_string(&mut text)).map_err(|e| e.to_string())?;
    let range = Catalogue::builtin()
        .metric(Catalogue::job_throughput())
        .range;
    match text.trim().parse::<f64>() {
        Ok(rate) if (range.0..=range.1).contains(&rate) => Ok(rate),
        Ok(rate) => Err(format!("{rate} is not from {} to {}", range.0, range.1)),
        Err(_) => Err(format!("`{}` is no number", text.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn values(frames: &[Frame]) -> Vec<(&str, Option<f64>)> {
        let value = |f: &Frame| f.readings[0].1.value();
        (frames.iter())
            .map(|f| (f.device.as_str(), value(f)))
            .collect()
    }

    fn write(path: &std::path::Path, text: &str, second: u64) {
        fs::write(path, text).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second);
        file.set_modified(changed).unwrap();
    }

    #[test]
    fn a_file_is_heard_once_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let mut source = ThroughputSource::new(directory.path().to_owned());
        let file = directory.path().join("4711");
        write(&file, "12.5\n", 0);
        write(&directory.path().join("4712_3"), "3", 0);
        let first = source.sample(Timestamp(1_000)).unwrap();
        assert_eq!(
            values(&first),
            [("job.4711", Some(12.5)), ("job.4712_3", Some(3.0))]
        );
        assert_eq!(first[0].at, Timestamp(1_000));
        assert!(source.sample(Timestamp(2_000)).unwrap().is_empty());
        write(&file, "12.5\n", 1);
        assert_eq!(
            values(&source.sample(Timestamp(3_000)).unwrap()),
            [("job.4711", Some(12.5))]
        );
    }

    #[test]
    fn what_is_no_number_hinders_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let mut source = ThroughputSource::new(directory.path().to_owned());
        let put = |name: &str, text: &str| write(&directory.path().join(name), text, 0);
        for (name, text) in [
            ("1", "fast"),
            ("2", "-1"),
            ("3", "NaN"),
            ("4", "inf"),
            ("5", ""),
            ("6", &"1".repeat(200)),
            (".7.tmp", "1"),
            ("no name", "1"),
        ] {
            put(name, text);
        }
        fs::create_dir(directory.path().join("8")).unwrap();
        std::os::unix::fs::symlink("/proc/uptime", directory.path().join("9")).unwrap();
        put("10", "7");
        assert_eq!(
            values(&source.sample(Timestamp(0)).unwrap()),
            [("job.10", Some(7.0))]
        );
    }

    #[test]
    fn a_directory_that_is_not_there_is_asked_again() {
        let mut source = ThroughputSource::new("/nonexistent/throughput".into());
        let error = source.sample(Timestamp(0)).unwrap_err();
        assert_eq!(error.class, ErrorClass::Retry);
        assert!(error.message.contains("--throughput"), "{error}");
    }
}
