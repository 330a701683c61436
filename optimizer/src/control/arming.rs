//! Whether control is armed, over restarts: the last word of a person counts for
//! as long as the configuration says what it said then. Whoever changes the
//! configuration has spoken later.

use heliostat_models::Timestamp;
use heliostat_store::embedded::disk::{Disk as _, FileSystem};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// A person's word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Word {
    pub armed: bool,
    pub who: String,
    pub at: Timestamp,
    /// What the configuration said then.
    pub configured: bool,
}

/// The file in which it is kept.
#[derive(Debug)]
pub(super) struct WordFile(PathBuf);

impl WordFile {
    pub fn new(directory: &Path) -> Self {
        Self(directory.join("arming.json"))
    }

    /// The last word, where it still counts under this configuration.
    pub fn read(&self, configured: bool) -> io::Result<Option<Word>> {
        let bytes = match std::fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let word: Word = serde_json::from_slice(&bytes)?;
        Ok((word.configured == configured).then_some(word))
    }

    pub fn write(&self, word: &Word) -> io::Result<()> {
        FileSystem.create(&self.0, &serde_json::to_vec(word)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_until_the_configuration_says_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let file = WordFile::new(directory.path());
        assert_eq!(file.read(true).unwrap(), None);
        let word = Word {
            armed: false,
            who: "night shift".into(),
            at: Timestamp(7),
            configured: true,
        };
        file.write(&word).unwrap();
        assert_eq!(file.read(true).unwrap(), Some(word));
        assert_eq!(file.read(false).unwrap(), None);
        std::fs::write(directory.path().join("arming.json"), "?").unwrap();
        assert!(file.read(true).is_err());
    }
}
