//! The few things done to sysfs, so that tests can stand between.

use std::io::{self, Read, Write};
use std::path::Path;

/// Longest file that is read, in bytes; sysfs gives one page.
const PAGE: u64 = 4096;

/// Reads and writes small kernel files.
pub trait SysFiles: Send {
    /// The names in a folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// A file's text.
    fn read(&self, file: &Path) -> io::Result<String>;
    /// Writes to a file that exists.
    fn write(&self, file: &Path, text: &str) -> io::Result<()>;
}

/// The machine's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl SysFiles for RealFiles {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
        let names: io::Result<Vec<_>> = names.collect();
        Ok(names?
            .into_iter()
            .filter_map(|n| n.into_string().ok())
            .collect())
    }

    fn read(&self, file: &Path) -> io::Result<String> {
        let mut text = String::new();
        let file = std::fs::File::open(file)?;
        file.take(PAGE).read_to_string(&mut text)?;
        Ok(text)
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        // Never created: a file that is not there is a GPU that is not there.
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(file)?;
        // In one piece, because the driver parses each write.
        match file.write(text.as_bytes())? {
            written if written == text.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}
