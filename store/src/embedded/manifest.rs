//! The manifest: which files belong to the store, and up to which log they hold
//! everything. It is replaced as a whole, so that sealing, compaction and
//! retention each happen entirely or not at all: files are written first, then
//! the manifest that names them, and only then what they replace is removed.

use super::disk::Disk;
use crate::query::StoreError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Name of the file.
pub const NAME: &str = "manifest.json";
/// Version of what stands in it.
const FORMAT: u32 = 1;
/// A day in milliseconds.
pub const DAY_MS: i64 = 86_400_000;

/// How much a file's rows are condensed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Frames as they came.
    #[serde(rename = "raw")]
    Raw,
    /// One row a minute.
    #[serde(rename = "1m")]
    Minute,
    /// One row a quarter of an hour.
    #[serde(rename = "15m")]
    Quarter,
    /// One row an hour.
    #[serde(rename = "1h")]
    Hour,
}

impl Tier {
    /// The rollups, from the coarsest to the finest.
    pub const ROLLUPS: [Self; 3] = [Self::Hour, Self::Quarter, Self::Minute];

    /// Width of a row in milliseconds; 0 for raw frames.
    pub const fn step_ms(self) -> i64 {
        match self {
            Self::Raw => 0,
            Self::Minute => 60_000,
            Self::Quarter => 900_000,
            Self::Hour => 3_600_000,
        }
    }
    /// Its name in paths and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Minute => "1m",
            Self::Quarter => "15m",
            Self::Hour => "1h",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A file of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, unique in the store.
    pub id: u64,
    /// How condensed it is.
    pub tier: Tier,
    /// Days since 1970 of all its rows.
    pub day: i64,
    /// Kind of all its devices.
    pub kind: String,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32 of its footer.
    pub footer: u32,
    /// Rows.
    pub frames: u64,
    /// Readings; of a rollup those that went into it.
    pub samples: u64,
    /// Of a rollup: the raw file that it condenses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
}

impl Entry {
    /// Where it lies, from the store's directory.
    pub fn path(&self) -> PathBuf {
        let top = match self.tier {
            Tier::Raw => PathBuf::from("segments"),
            tier => PathBuf::from("rollups").join(format!("step={tier}")),
        };
        top.join(format!("day={}", date(self.day)))
            .join(format!("kind={}", self.kind))
            .join(format!("{:06}.parquet", self.id))
    }
}

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Highest log whose frames are all in files.
    pub sealed: u64,
    /// The next file's number.
    pub next: u64,
    /// The files.
    pub files: Vec<Entry>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            format: FORMAT,
            sealed: 0,
            next: 1,
            files: Vec::new(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct OnDisk<C> {
    checksum: u32,
    manifest: C,
}

impl Manifest {
    /// Reads the manifest of a directory; an empty one where there is none yet.
    pub fn read(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(NAME);
        let failed = |e| StoreError::io("reading", &path, e);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(failed(error)),
        };
        let found: OnDisk<Self> = serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))?;
        if checksum(&found.manifest) != found.checksum {
            let what = "it does not match its checksum; restore it from a copy of the directory";
            return Err(failed(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                what,
            )));
        }
        if found.manifest.format != FORMAT {
            let what = format!(
                "its format {} is not one that this program knows",
                found.manifest.format
            );
            return Err(failed(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                what,
            )));
        }
        Ok(found.manifest)
    }

    /// Replaces the manifest of a directory.
    pub fn write(&self, directory: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
        let path = directory.join(NAME);
        let content = OnDisk {
            checksum: checksum(self),
            manifest: self,
        };
        let written = (serde_json::to_vec(&content).map_err(std::io::Error::from))
            .and_then(|bytes| disk.create(&path, &bytes));
        written.map_err(|e| StoreError::io("writing", &path, e))
    }
}

fn checksum(manifest: &Manifest) -> u32 {
    crc32fast::hash(&serde_json::to_vec(manifest).unwrap_or_default())
}

/// Days since 1970 of an instant.
pub fn day_of(at: i64) -> i64 {
    at.div_euclid(DAY_MS)
}

/// The date of a day since 1970, as `YYYY-MM-DD`; the proleptic Gregorian
/// calendar (Howard Hinnant, "chrono-compatible low-level date algorithms").
pub fn date(day: i64) -> String {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::Timestamp;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn dates_are_those_of_the_calendar(day in -700_000i64..2_900_000) {
            let text = Timestamp(day * DAY_MS).to_string();
            prop_assert_eq!(format!("{}T00:00:00Z", date(day)), text);
        }
    }

    #[test]
    fn a_manifest_comes_back_and_a_changed_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            Manifest::read(directory.path()).unwrap(),
            Manifest::default()
        );
        let manifest = Manifest {
            sealed: 7,
            next: 3,
            files: vec![Entry {
                id: 2,
                tier: Tier::Raw,
                day: day_of(-1),
                kind: "gpu".to_owned(),
                bytes: 100,
                footer: 5,
                frames: 3,
                samples: 9,
                of: None,
            }],
            ..Manifest::default()
        };
        manifest
            .write(directory.path(), &super::super::disk::FileSystem)
            .unwrap();
        assert_eq!(Manifest::read(directory.path()).unwrap(), manifest);
        let path = directory.path().join(NAME);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"sealed\":7", "\"sealed\":8")).unwrap();
        let error = Manifest::read(directory.path()).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
        assert_eq!(
            manifest.files[0].path(),
            Path::new("segments/day=1969-12-31/kind=gpu/000002.parquet")
        );
    }
}
