//! Whether control is armed, over restarts: the last word of a person counts for
//! as long as the configuration says what it said then. Whoever changes the
//! configuration has spoken later.

use super::kept_file;
use super::round::Control;
use crate::view::ControlMode;
use heliostat_models::Timestamp;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// A person's word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Word {
    armed: bool,
    who: String,
    at: Timestamp,
    /// What the configuration said then.
    configured: bool,
}

/// The file in which it is kept.
#[derive(Debug)]
struct WordFile(PathBuf);

impl WordFile {
    fn new(directory: &Path) -> Self {
        Self(directory.join("arming.json"))
    }

    /// The last word, where it still counts under this configuration.
    fn read(&self, configured: bool) -> io::Result<Option<Word>> {
        let word: Option<Word> = kept_file::read(&self.0)?;
        Ok(word.filter(|word| word.configured == configured))
    }

    fn write(&self, word: &Word) -> io::Result<()> {
        kept_file::write(&self.0, word)
    }
}

impl Control {
    /// Takes up whether a person armed or disarmed an earlier run; who, where that counts.
    pub(super) fn recall_arming(&mut self, now: Timestamp) -> Option<String> {
        let file = WordFile::new(self.config.directory.as_deref()?);
        match file.read(self.config.armed) {
            Ok(word) => word
                .filter(|word| word.armed != self.is_to_act())
                .map(|word| {
                    self.mode = match word.armed {
                        true => ControlMode::Armed,
                        false => ControlMode::Observe,
                    };
                    format!("{} at {}, before the restart", word.who, word.at)
                }),
            Err(error) => {
                // Nobody knows whether somebody disarmed it: a person must say it again.
                self.mode = ControlMode::Observe;
                let lost = format!(
                    "Whether control was armed cannot be read ({error}): it observes until somebody arms it"
                );
                tracing::error!("{lost}");
                self.journal.troubles(now, false, vec![lost], true);
                None
            }
        }
    }

    /// Keeps a person's word.
    pub(super) fn keep_arming(&self, armed: bool, who: String, now: Timestamp) {
        let Some(directory) = self.config.directory.as_deref() else {
            return;
        };
        let configured = self.config.armed;
        let at = now;
        let word = Word {
            armed,
            who,
            at,
            configured,
        };
        if let Err(error) = WordFile::new(directory).write(&word) {
            tracing::error!(%error, armed, "it cannot be kept whether control is armed; a restart goes by the configuration");
        }
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
