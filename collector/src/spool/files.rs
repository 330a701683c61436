//! The files of a spool: its lock, its segments, its numbers.

use super::{Found, HEADER, PREFIX, Place, Segment, SpoolError};
use heliostat_store::directory_lock::{Access, DirectoryLock};
use heliostat_store::framed_log::{FramedLog, sync_directory};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const KIND: &[u8; 3] = b"spl";

/// Takes the directory for this process.
pub(super) fn lock(directory: &Path) -> Result<DirectoryLock, SpoolError> {
    let path = directory.join("lock");
    DirectoryLock::take(&path, Access::Alone)
        .map_err(SpoolError::io("locking", &path))?
        .ok_or_else(|| SpoolError::InUse {
            path: directory.display().to_string(),
        })
}

/// The segments in a directory, oldest first.
pub(super) fn segment_files(directory: &Path) -> Result<Vec<(u64, PathBuf)>, SpoolError> {
    let failed = || SpoolError::io("listing", directory);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        let first = name
            .to_str()
            .and_then(|n| n.strip_prefix("spool-")?.strip_suffix(".log"))
            .and_then(|n| n.parse().ok());
        if let Some(first) = first {
            found.push((first, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Begins a segment with the sequence of its first record.
pub(super) fn begin_segment(directory: &Path, first: u64) -> Result<FramedLog, SpoolError> {
    let path = directory.join(format!("spool-{first:020}.log"));
    // A file of this name can only hold records that are lost or acknowledged
    // already: it was opened by an earlier run that never wrote a whole one.
    let (log, _) = FramedLog::open(&path, KIND).map_err(SpoolError::io("opening", &path))?;
    Ok(log)
}

/// Reads a segment of an earlier run; also its last sequence, 0 when empty.
pub(super) fn open_segment(
    path: &Path,
    acknowledged: u64,
    found: &mut Found,
) -> Result<(Segment, u64), SpoolError> {
    let (log, mut recovered) =
        FramedLog::open(path, KIND).map_err(SpoolError::io("opening", path))?;
    found.torn_bytes += recovered.torn_bytes;
    found.damaged += recovered.damaged.len() as u64;
    let mut bytes = log.length();
    if !recovered.damaged.is_empty() {
        // Written anew without the damage, so that places follow from lengths.
        let fresh = path.with_extension("tmp");
        let rewrite = || -> io::Result<u64> {
            let _ = std::fs::remove_file(&fresh);
            let (mut log, _) = FramedLog::open(&fresh, KIND)?;
            log.append_all(recovered.records.iter().map(Vec::as_slice))?;
            log.sync()?;
            std::fs::rename(&fresh, path)?;
            Ok(log.length())
        };
        bytes = rewrite().map_err(SpoolError::io("repairing", path))?;
    }
    // All records have a head of one size, then their payload.
    let payloads: u64 = recovered.records.iter().map(|r| r.len() as u64).sum();
    let heads = bytes.saturating_sub(HEADER + payloads);
    let head = heads / (recovered.records.len() as u64).max(1);
    let mut offset = HEADER;
    let mut records = VecDeque::new();
    let mut last = 0;
    for payload in recovered.records.drain(..) {
        let at = offset + head + PREFIX as u64;
        offset += head + payload.len() as u64;
        let (Some(sequence), Some(samples)) = (
            payload.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)),
            payload.get(8..PREFIX).and_then(|b| b.try_into().ok()),
        ) else {
            found.damaged += 1;
            continue;
        };
        last = last.max(sequence);
        if sequence > acknowledged {
            records.push_back(Place {
                sequence,
                samples: u32::from_le_bytes(samples),
                offset: at,
                length: (payload.len() - PREFIX) as u32,
            });
        }
    }
    let segment = Segment {
        path: path.to_owned(),
        bytes,
        records,
    };
    Ok((segment, last))
}

/// A number and its checksum, so that a torn write is noticed.
pub(super) fn numbered(number: u64) -> String {
    let text = number.to_string();
    // FNV-1a is enough to tell a torn decimal number from a whole one.
    format!("{text} {:016x}\n", fnv(text.as_bytes()))
}

/// A number written by [`numbered`]; `None` when it is not there or torn.
pub(super) fn read_number(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let (number, sum) = text.trim_end().split_once(' ')?;
    let sound = u64::from_str_radix(sum, 16).ok()? == fnv(number.as_bytes());
    sound.then(|| number.parse().ok())?
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Replaces a file so that after a crash either the old or the new content is there.
pub(crate) fn write_durably(path: &Path, content: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}
