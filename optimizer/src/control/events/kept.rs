//! Grid events on disk: what a site has promised outlives its controller.

use super::Notice;
use crate::control::kept_file;
use std::io;
use std::path::{Path, PathBuf};

/// The file.
#[derive(Debug)]
pub struct EventsFile {
    path: PathBuf,
    /// As it stands.
    written: Vec<Notice>,
}

impl EventsFile {
    /// In a directory.
    pub fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("grid-events.json"),
            written: Vec::new(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier run kept; nothing where there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, or is no list of events; it is left as it is
    /// until there is something to keep.
    pub fn read(&mut self) -> io::Result<Vec<Notice>> {
        let notices: Vec<Notice> = kept_file::read(&self.path)?.unwrap_or_default();
        self.written.clone_from(&notices);
        Ok(notices)
    }

    /// Replaces what is kept, where it differs.
    ///
    /// # Errors
    /// When the file cannot be replaced; it is as before then.
    pub fn write(&mut self, notices: Vec<Notice>) -> io::Result<()> {
        if self.written != notices {
            kept_file::write(&self.path, &notices)?;
            self.written = notices;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::GridEvents;
    use super::*;
    use crate::grid_event::{Ask, GridEvent};
    use heliostat_models::{Timestamp, Watts};

    #[test]
    fn what_was_kept_is_known_again_and_a_damaged_file_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut events = GridEvents::default();
        for (id, share, to) in [("a", 0.3, 50), ("b", 0.1, 90), ("c", 0.2, 90)] {
            let event = GridEvent {
                id: id.into(),
                from: Timestamp(0),
                to: Timestamp(to),
                ask: Ask::ReduceBy(share),
                reason: "r".into(),
            };
            events.submit(event, Watts(1_000.0), Timestamp(1));
        }
        events.cancel("c", Timestamp(2));
        let mut file = EventsFile::new(directory.path());
        assert_eq!(file.read().unwrap(), []);
        file.write(events.notices()).unwrap();
        let mut later = GridEvents::default();
        let found = EventsFile::new(directory.path()).read().unwrap();
        assert!(later.merge(found.clone(), Timestamp(40)));
        assert_eq!(later.notices(), events.notices());
        assert_eq!(later.limit(Timestamp(40)), Some(Watts(700.0)));
        // What has ended meanwhile is over.
        let mut later = GridEvents::default();
        later.merge(found, Timestamp(60));
        assert_eq!(later.limit(Timestamp(60)), Some(Watts(900.0)));
        assert_eq!(later.all().len(), 1);
        std::fs::write(file.path(), "[{").unwrap();
        assert!(EventsFile::new(directory.path()).read().is_err());
        std::fs::remove_file(file.path()).unwrap();
        std::fs::create_dir(file.path()).unwrap();
        assert!(file.write(Vec::new()).is_err());
    }
}
