//! A file of records, each with its length and checksum: the one on-disk form
//! behind the store's write-ahead log, the agents' spools and the journals.
//!
//! ```text
//! file    = "HLOG" version(u8) kind(3 bytes) record*
//! record  = length(u32 LE) crc32(u32 LE, over the payload) crc32(u32 LE, over the 8 bytes before) payload
//! ```
//!
//! The head has a checksum of its own, so that the search for the next sound
//! record after damage costs 12 bytes of checksum a place, not a payload's.
//!
//! A tail that was torn by a crash is cut off at opening and counted. A damaged
//! record in the middle ends the reading there only if no sound record follows;
//! else it is skipped and counted, so that one bad block costs one record.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 5] = b"HLOG\x01";
const HEADER: u64 = 8;
/// Bytes before a record's payload.
const HEAD: usize = 12;
/// Longest payload of a record.
pub const MAX_RECORD: usize = 16 << 20;

/// Bytes of the buffer that are kept between two writes.
const KEPT_BUFFER: usize = 4 << 20;

/// An open log.
#[derive(Debug)]
pub struct FramedLog {
    file: File,
    path: PathBuf,
    length: u64,
    /// What is written next; kept, so that its memory is asked for once.
    buffer: Vec<u8>,
}

/// What opening a log found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The payloads of all sound records, in order.
    pub records: Vec<Vec<u8>>,
    /// Bytes of a torn tail that were cut off.
    pub torn_bytes: u64,
    /// Byte ranges of damaged records that were skipped.
    pub damaged: Vec<(u64, u64)>,
}

impl FramedLog {
    /// Opens a log or begins a new one. `kind` tells logs of different use apart.
    pub fn open(path: &Path, kind: &[u8; 3]) -> io::Result<(Self, Recovered)> {
        let is_new = !path.exists();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut recovered = Recovered::default();
        if bytes.len() < HEADER as usize {
            // New, or torn within the header: nothing was ever acknowledged from it.
            recovered.torn_bytes = bytes.len() as u64;
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(MAGIC)?;
            file.write_all(kind)?;
            file.sync_all()?;
            if is_new && let Some(parent) = path.parent() {
                sync_directory(parent)?;
            }
            return Ok((
                Self {
                    file,
                    path: path.into(),
                    length: HEADER,
                    buffer: Vec::new(),
                },
                recovered,
            ));
        }
        check_header(&bytes, kind)?;
        let end = scan(&bytes, &mut recovered);
        recovered.torn_bytes = bytes.len() as u64 - end;
        if recovered.torn_bytes > 0 {
            file.set_len(end)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(end))?;
        Ok((
            Self {
                file,
                path: path.into(),
                length: end,
                buffer: Vec::new(),
            },
            recovered,
        ))
    }

    /// Writes one record; it survives the end of this process, but not of the
    /// machine until [`FramedLog::sync`]. After an error the file is as before.
    pub fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.append_all(std::iter::once(payload))
    }

    /// Writes several records with one system call.
    pub fn append_all<'a>(
        &mut self,
        payloads: impl IntoIterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        let bytes = &mut self.buffer;
        bytes.clear();
        bytes.shrink_to(KEPT_BUFFER);
        for payload in payloads {
            if payload.len() > MAX_RECORD {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "record longer than 16 MiB",
                ));
            }
            bytes.extend_from_slice(&head_of(payload));
            bytes.extend_from_slice(payload);
        }
        if let Err(error) = self.file.write_all(bytes) {
            // A full disk may have taken half a record: take it back. Should even
            // that fail, the next opening cuts the torn tail off.
            let _ = self.rewind(self.length);
            return Err(error);
        }
        self.length += self.buffer.len() as u64;
        Ok(())
    }

    /// Takes back what was written after the file had `length` bytes, as told
    /// by [`FramedLog::length`] earlier. For records that could not be synced.
    pub fn rewind(&mut self, length: u64) -> io::Result<()> {
        self.length = length.min(self.length);
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        Ok(())
    }

    /// Reads a log and changes nothing, not even a torn tail.
    pub fn read(path: &Path, kind: &[u8; 3]) -> io::Result<Recovered> {
        Self::read_until(path, kind, u64::MAX)
    }

    /// The same of the first `length` bytes, as told by [`FramedLog::length`]:
    /// what is written meanwhile is not looked at.
    pub fn read_until(path: &Path, kind: &[u8; 3], length: u64) -> io::Result<Recovered> {
        let mut bytes = Vec::new();
        File::open(path)?.take(length).read_to_end(&mut bytes)?;
        let mut recovered = Recovered::default();
        if bytes.len() < HEADER as usize {
            recovered.torn_bytes = bytes.len() as u64;
            return Ok(recovered);
        }
        check_header(&bytes, kind)?;
        let end = scan(&bytes, &mut recovered);
        recovered.torn_bytes = bytes.len() as u64 - end;
        Ok(recovered)
    }

    /// Forces all records to the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Puts the file in the place of another one, in one step. It may come back
    /// after power loss until the directory is [synced](sync_directory).
    pub fn rename_to(&mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.path = path.into();
        Ok(())
    }

    /// Bytes in the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether no record stands in it.
    pub fn is_empty(&self) -> bool {
        self.length == HEADER
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Forces a directory's entries to the disk, so that a new or renamed file is
/// still there after power loss.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    })?
    .sync_all()
}

fn check_header(bytes: &[u8], kind: &[u8; 3]) -> io::Result<()> {
    if &bytes[..5] == MAGIC && &bytes[5..8] == kind {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "not a heliostat log of kind `{}`",
            String::from_utf8_lossy(kind)
        ),
    ))
}

fn head_of(payload: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[4..8].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let check = crc32fast::hash(&head[..8]);
    head[8..].copy_from_slice(&check.to_le_bytes());
    head
}

/// What a sound head at `at` says: where the payload ends, and its checksum.
fn head_at(bytes: &[u8], at: usize) -> Option<(usize, u32)> {
    let head = bytes.get(at..at + HEAD)?;
    let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
    let sound = word(8) == crc32fast::hash(&head[..8]) && word(0) as usize <= MAX_RECORD;
    sound.then(|| (at + HEAD + word(0) as usize, word(4)))
}

/// The payload of a sound record at `at` and the place after it.
fn record_at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (end, crc) = head_at(bytes, at)?;
    let payload = bytes.get(at + HEAD..end)?;
    (crc32fast::hash(payload) == crc).then_some((payload, end))
}

/// Reads all sound records; returns where the last of them ends.
fn scan(bytes: &[u8], recovered: &mut Recovered) -> u64 {
    let mut at = HEADER as usize;
    let mut end = at;
    while at < bytes.len() {
        if let Some((payload, next)) = record_at(bytes, at) {
            if at > end {
                recovered.damaged.push((end as u64, at as u64));
            }
            recovered.records.push(payload.to_vec());
            at = next;
            end = next;
            continue;
        }
        // Damaged: if its head is sound the next record begins behind it, else search byte by byte.
        at = match head_at(bytes, at) {
            Some((next, _)) => next,
            None => at + 1,
        };
    }
    end as u64
}

/// The sound records of a log's bytes, whatever its kind; nothing is changed.
#[cfg(any(test, fuzzing))]
pub(crate) fn records_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut recovered = Recovered::default();
    if bytes.len() >= HEADER as usize {
        let end = scan(bytes, &mut recovered);
        assert!(end <= bytes.len() as u64);
        assert!(
            recovered
                .damaged
                .iter()
                .all(|(from, to)| from < to && *to <= end)
        );
    }
    recovered.records
}

/// The bytes of a log of these records.
#[cfg(any(test, fuzzing))]
pub(crate) fn log_of(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], b"fuz"].concat();
    for record in records {
        bytes.extend_from_slice(&head_of(record));
        bytes.extend_from_slice(record);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(path: &Path, payloads: &[Vec<u8>]) {
        let (mut log, _) = FramedLog::open(path, b"tst").unwrap();
        for payload in payloads {
            log.append(payload).unwrap();
        }
        log.sync().unwrap();
    }

    proptest! {
        #[test]
        fn a_torn_tail_costs_only_what_was_torn(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..10),
            cut in 0usize..400,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            write(&path, &payloads);
            let bytes = std::fs::read(&path).unwrap();
            let cut = cut.min(bytes.len());
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut whole = 0;
            let mut at = HEADER as usize;
            while whole < payloads.len() && at + HEAD + payloads[whole].len() <= cut {
                at += HEAD + payloads[whole].len();
                whole += 1;
            }
            let (mut log, found) = FramedLog::open(&path, b"tst").unwrap();
            prop_assert_eq!(&found.records[..], &payloads[..whole]);
            log.append(b"after").unwrap();
            drop(log);
            let (_, found) = FramedLog::open(&path, b"tst").unwrap();
            prop_assert_eq!(found.records.len(), whole + 1);
            prop_assert_eq!(found.torn_bytes, 0);
        }

        #[test]
        fn a_flipped_byte_costs_one_record(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 9..40), 3..8),
            which in 0usize..2, offset in 0usize..21, mask in 1u8..,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            write(&path, &payloads);
            let mut bytes = std::fs::read(&path).unwrap();
            let start = HEADER as usize + payloads[..which].iter().map(|p| p.len() + HEAD).sum::<usize>();
            bytes[start + offset] ^= mask;
            std::fs::write(&path, &bytes).unwrap();
            let (_, found) = FramedLog::open(&path, b"tst").unwrap();
            prop_assert_eq!(found.records.len(), payloads.len() - 1);
            prop_assert_eq!(found.damaged.len(), 1);
        }
    }

    #[test]
    fn damage_in_a_long_payload_is_passed_quickly_and_reading_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, &[vec![1], vec![0; 4 << 20], vec![2]]);
        let mut bytes = std::fs::read(&path).unwrap();
        // Into the head of the long record: its length cannot be trusted.
        bytes[HEADER as usize + HEAD + 2] ^= 0x10;
        bytes.extend_from_slice(&[7; 5]);
        std::fs::write(&path, &bytes).unwrap();
        let found = FramedLog::read(&path, b"tst").unwrap();
        assert_eq!(found.records, [vec![1], vec![2]]);
        assert_eq!((found.damaged.len(), found.torn_bytes), (1, 5));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn records_can_be_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut log, _) = FramedLog::open(&path, b"tst").unwrap();
        log.append(b"keep").unwrap();
        let length = log.length();
        log.append(b"not this").unwrap();
        log.rewind(length).unwrap();
        log.append(b"but this").unwrap();
        drop(log);
        let found = FramedLog::read(&path, b"tst").unwrap();
        assert_eq!(found.records, [b"keep".to_vec(), b"but this".to_vec()]);
    }

    #[test]
    fn refuses_a_file_of_another_kind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, &[vec![1]]);
        assert!(FramedLog::open(&path, b"oth").is_err());
    }
}
