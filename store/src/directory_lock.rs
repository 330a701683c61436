//! The lock of a directory, free again the moment it is dropped.
//!
//! A file lock belongs to the open file and not to the process: a child that
//! another thread is just starting holds a copy of it between its fork and its
//! exec. Closing our file would leave the lock with that child for a moment,
//! so that an opening right after it failed; unlocking frees it for all copies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// A lock that is held. Dropping it frees it.
#[derive(Debug)]
pub struct DirectoryLock(File);

/// Alone to write, or shared to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody else holds it; the file is made if need be.
    Alone,
    /// Others may hold it as well, unless one holds it alone; the file must be there.
    Shared,
}

impl DirectoryLock {
    /// Takes the lock file at a path; `None` while somebody else has it.
    pub fn take(path: &Path, access: Access) -> io::Result<Option<Self>> {
        let (file, locked) = match access {
            Access::Alone => {
                let file = OpenOptions::new()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .open(path)?;
                let locked = file.try_lock();
                (file, locked)
            }
            Access::Shared => {
                let file = File::open(path)?;
                let locked = file.try_lock_shared();
                (file, locked)
            }
        };
        match locked {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file frees it as well, a moment later at worst.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_alone_many_shared() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        assert!(DirectoryLock::take(&path, Access::Shared).is_err());
        let alone = DirectoryLock::take(&path, Access::Alone).unwrap();
        assert!(alone.is_some());
        for access in [Access::Alone, Access::Shared] {
            assert!(DirectoryLock::take(&path, access).unwrap().is_none());
        }
        drop(alone);
        let one = DirectoryLock::take(&path, Access::Shared).unwrap();
        let two = DirectoryLock::take(&path, Access::Shared).unwrap();
        assert!(one.is_some() && two.is_some());
        assert!(DirectoryLock::take(&path, Access::Alone).unwrap().is_none());
    }

    #[test]
    fn a_copy_held_by_a_child_does_not_keep_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let lock = DirectoryLock::take(&path, Access::Alone).unwrap().unwrap();
        // What a child holds between fork and exec.
        let _copy = lock.0.try_clone().unwrap();
        drop(lock);
        assert!(DirectoryLock::take(&path, Access::Alone).unwrap().is_some());
    }
}
