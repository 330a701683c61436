//! The board file: what the twin and the shim share of one node.
//!
//! One file a node, fixed layout, little endian, no pointers. It stands for
//! the node's accelerators: the limit in it outlives the process that set it,
//! as it does in hardware.
//!
//! ```text
//! offset               size       what                      written by
//! 0                    256        header                    twin, once
//! 256                  256 × n    facts of device i         twin, once
//! 256 + 256 n           96 × n    readings of device i      twin, every step
//! 256 + 352 n           32 × n    limit of device i         shim (and the twin's faults)
//! 256 + 384 n           32 × n    faults of device i        twin
//! ```
//!
//! Header: `"HELIOBRD"`, version `u32`, device count `u32`, driver version
//! (32 bytes), NVML version (32 bytes). Texts are UTF-8, padded with zeros.
//! Readings, limit and faults end in a 64-bit FNV-1a of what stands before, so
//! that a read which overlaps a write is noticed and repeated.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// First bytes of a board file.
pub const MAGIC: [u8; 8] = *b"HELIOBRD";
/// Version of the layout above.
pub const VERSION: u32 = 1;
/// Most devices on one board.
pub const MAX_DEVICES: u32 = 64;

const HEADER: usize = 256;
const FACTS: usize = 256;
const READINGS: usize = 96;
const LIMIT: usize = 32;
const FAULTS: usize = 32;
/// How often a torn read is repeated before it counts as damage.
const READ_ATTEMPTS: u32 = 64;

/// What never changes of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub uuid: String,
    /// Product name as the driver says it.
    pub name: String,
    /// Lowest limit that can be set, milliwatts.
    pub min_limit_mw: u32,
    /// Highest limit that can be set, milliwatts.
    pub max_limit_mw: u32,
    /// Limit after power-on, milliwatts.
    pub default_limit_mw: u32,
    /// Highest SM clock, megahertz.
    pub max_sm_mhz: u32,
    /// Memory clock, megahertz.
    pub max_memory_mhz: u32,
    /// Device memory, bytes.
    pub memory_bytes: u64,
    /// PCI bus number; domain and device number are 0.
    pub pci_bus: u32,
    /// PCI device and vendor id, as NVML packs them.
    pub pci_device_id: u32,
}

/// What the sensors of a device say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// Power draw, milliwatts.
    pub power_mw: u32,
    /// Die temperature, degrees Celsius.
    pub temperature_c: u32,
    /// Energy since the driver was loaded, millijoules.
    pub energy_mj: u64,
    /// SM clock, megahertz.
    pub sm_mhz: u32,
    /// Memory clock, megahertz.
    pub memory_mhz: u32,
    /// Share of time with a kernel running, per cent.
    pub gpu_percent: u32,
    /// Share of time with memory traffic, per cent.
    pub memory_percent: u32,
    /// Memory in use, bytes.
    pub memory_used: u64,
    /// Instant of the twin's clock, milliseconds since 1970.
    pub at_ms: u64,
}

/// The limit in force, and how often one was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Milliwatts.
    pub limit_mw: u32,
    /// Grows with every successful set.
    pub sets: u64,
}

/// Faults that the shim acts out. Stuck readings, energy resets and silent
/// reverts of the limit are acted out by the twin, which writes the values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultFlags {
    /// Any of the `FAULT_*` bits.
    pub bits: u32,
    /// With [`FAULT_SLOW`]: how long every call takes, milliseconds.
    pub delay_ms: u32,
}

/// The device has fallen off the bus: `GPU_IS_LOST`.
pub const FAULT_LOST: u32 = 1;
/// Setting a limit needs rights that the caller lacks: `NO_PERMISSION`.
pub const FAULT_NO_PERMISSION: u32 = 2;
/// Limits can be neither read nor set: `NOT_SUPPORTED`.
pub const FAULT_NO_LIMITS: u32 = 4;
/// There is no energy register: `NOT_SUPPORTED`.
pub const FAULT_NO_ENERGY: u32 = 8;
/// Power cannot be read: `NOT_SUPPORTED`.
pub const FAULT_NO_POWER: u32 = 16;
/// Every call takes [`FaultFlags::delay_ms`].
pub const FAULT_SLOW: u32 = 32;

/// An open board file.
#[derive(Debug)]
pub struct Board {
    file: File,
    facts: Vec<Facts>,
    driver: String,
    nvml: String,
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Writes numbers one behind the other into a fixed block.
struct Block<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Block<N> {
    fn new() -> Self {
        Self {
            bytes: [0; N],
            at: 0,
        }
    }
    fn put(&mut self, value: &[u8]) {
        let end = (self.at + value.len()).min(N);
        self.bytes[self.at..end].copy_from_slice(&value[..end - self.at]);
        self.at = end;
    }
    fn text(&mut self, text: &str, width: usize) {
        let mut field = vec![0u8; width];
        // One byte stays zero: the end of a C string.
        let length = text.len().min(width - 1);
        field[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.put(&field);
    }
    fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
    fn sealed(mut self) -> [u8; N] {
        let sum = fnv(&self.bytes[..N - 8]);
        self.bytes[N - 8..].copy_from_slice(&sum.to_le_bytes());
        self.bytes
    }
}

/// Reads what [`Block`] wrote.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
    fn take(&mut self, length: usize) -> &'a [u8] {
        let end = (self.at + length).min(self.bytes.len());
        let part = &self.bytes[self.at.min(end)..end];
        self.at = end;
        part
    }
    fn text(&mut self, width: usize) -> String {
        let field = self.take(width);
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    }
    fn u32(&mut self) -> u32 {
        let mut value = [0; 4];
        let part = self.take(4);
        value[..part.len()].copy_from_slice(part);
        u32::from_le_bytes(value)
    }
    fn u64(&mut self) -> u64 {
        let mut value = [0; 8];
        let part = self.take(8);
        value[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(value)
    }
}

fn is_sealed(bytes: &[u8]) -> bool {
    let (content, sum) = bytes.split_at(bytes.len() - 8);
    sum == fnv(content).to_le_bytes()
}

impl Readings {
    fn encode(&self) -> [u8; READINGS] {
        let mut b = Block::new();
        b.u32(self.power_mw);
        b.u32(self.temperature_c);
        b.u64(self.energy_mj);
        b.u32(self.sm_mhz);
        b.u32(self.memory_mhz);
        b.u32(self.gpu_percent);
        b.u32(self.memory_percent);
        b.u64(self.memory_used);
        b.u64(self.at_ms);
        b.sealed()
    }
    fn decode(bytes: &[u8]) -> Self {
        let mut c = Cursor::new(bytes);
        Self {
            power_mw: c.u32(),
            temperature_c: c.u32(),
            energy_mj: c.u64(),
            sm_mhz: c.u32(),
            memory_mhz: c.u32(),
            gpu_percent: c.u32(),
            memory_percent: c.u32(),
            memory_used: c.u64(),
            at_ms: c.u64(),
        }
    }
}

impl Limit {
    fn encode(&self) -> [u8; LIMIT] {
        let mut b = Block::new();
        b.u32(self.limit_mw);
        b.u32(0);
        b.u64(self.sets);
        b.sealed()
    }
    fn decode(bytes: &[u8]) -> Self {
        let mut c = Cursor::new(bytes);
        let limit_mw = c.u32();
        c.u32();
        Self {
            limit_mw,
            sets: c.u64(),
        }
    }
}

impl FaultFlags {
    fn encode(&self) -> [u8; FAULTS] {
        let mut b = Block::new();
        b.u32(self.bits);
        b.u32(self.delay_ms);
        b.sealed()
    }
    fn decode(bytes: &[u8]) -> Self {
        let mut c = Cursor::new(bytes);
        Self {
            bits: c.u32(),
            delay_ms: c.u32(),
        }
    }
}

impl Board {
    /// Writes a new board file; an old one at that path is replaced. Every
    /// device starts at its default limit, without faults, with zero readings.
    ///
    /// # Errors
    /// When there are no or too many devices, or the file cannot be written.
    pub fn create(path: &Path, driver: &str, nvml: &str, facts: &[Facts]) -> io::Result<Self> {
        let count = u32::try_from(facts.len()).unwrap_or(u32::MAX);
        if count == 0 || count > MAX_DEVICES {
            return Err(bad("a board holds 1 to 64 devices"));
        }
        let mut header = Block::<HEADER>::new();
        header.put(&MAGIC);
        header.u32(VERSION);
        header.u32(count);
        header.text(driver, 32);
        header.text(nvml, 32);
        let mut bytes = header.sealed().to_vec();
        for f in facts {
            let mut block = Block::<FACTS>::new();
            block.text(&f.uuid, 80);
            block.text(&f.name, 96);
            for number in [
                f.min_limit_mw,
                f.max_limit_mw,
                f.default_limit_mw,
                f.max_sm_mhz,
                f.max_memory_mhz,
                f.pci_bus,
                f.pci_device_id,
            ] {
                block.u32(number);
            }
            block.u64(f.memory_bytes);
            bytes.extend_from_slice(&block.sealed());
        }
        for _ in facts {
            bytes.extend_from_slice(&Readings::default().encode());
        }
        for f in facts {
            let limit = Limit {
                limit_mw: f.default_limit_mw,
                sets: 0,
            };
            bytes.extend_from_slice(&limit.encode());
        }
        for _ in facts {
            bytes.extend_from_slice(&FaultFlags::default().encode());
        }
        // Under another name first: a reader never sees half a board.
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, &bytes)?;
        std::fs::rename(&fresh, path)?;
        Self::open(path)
    }

    /// Opens a board file.
    ///
    /// # Errors
    /// When it is missing, cannot be written, or is not a board of this version.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let mut c = Cursor::new(&header);
        if c.take(8) != MAGIC {
            return Err(bad("not a board file: it does not begin with HELIOBRD"));
        }
        if c.u32() != VERSION {
            return Err(bad("this board file has another version"));
        }
        let count = c.u32();
        if !is_sealed(&header) || count == 0 || count > MAX_DEVICES {
            return Err(bad("the header of this board file is damaged"));
        }
        let (driver, nvml) = (c.text(32), c.text(32));
        let mut facts = Vec::with_capacity(count as usize);
        for index in 0..count as usize {
            let mut block = [0; FACTS];
            file.read_exact_at(&mut block, (HEADER + index * FACTS) as u64)?;
            if !is_sealed(&block) {
                return Err(bad("the facts of a device in this board file are damaged"));
            }
            let mut c = Cursor::new(&block);
            facts.push(Facts {
                uuid: c.text(80),
                name: c.text(96),
                min_limit_mw: c.u32(),
                max_limit_mw: c.u32(),
                default_limit_mw: c.u32(),
                max_sm_mhz: c.u32(),
                max_memory_mhz: c.u32(),
                pci_bus: c.u32(),
                pci_device_id: c.u32(),
                memory_bytes: c.u64(),
            });
        }
        Ok(Self {
            file,
            facts,
            driver,
            nvml,
        })
    }

    /// What never changes of each device, in PCI order.
    pub fn facts(&self) -> &[Facts] {
        &self.facts
    }
    /// Version of the driver that the shim claims.
    pub fn driver(&self) -> &str {
        &self.driver
    }
    /// Version of NVML that the shim claims.
    pub fn nvml(&self) -> &str {
        &self.nvml
    }

    fn readings_at(&self) -> usize {
        HEADER + self.facts.len() * FACTS
    }
    fn limits_at(&self) -> usize {
        self.readings_at() + self.facts.len() * READINGS
    }
    fn faults_at(&self) -> usize {
        self.limits_at() + self.facts.len() * LIMIT
    }

    /// Reads one sealed block, again and again while it is being written.
    fn read_block<const N: usize>(&self, offset: usize) -> io::Result<[u8; N]> {
        let mut block = [0; N];
        for attempt in 0..READ_ATTEMPTS {
            self.file.read_exact_at(&mut block, offset as u64)?;
            if is_sealed(&block) {
                return Ok(block);
            }
            if attempt > 4 {
                std::thread::yield_now();
            }
        }
        Err(bad("a block of this board file stays damaged"))
    }

    fn known(&self, index: usize) -> io::Result<()> {
        if index < self.facts.len() {
            Ok(())
        } else {
            Err(bad("the board has no device of this index"))
        }
    }

    /// The readings of one device.
    ///
    /// # Errors
    /// When the file cannot be read or stays damaged, or there is no such device.
    pub fn readings(&self, index: usize) -> io::Result<Readings> {
        self.known(index)?;
        self.read_block::<READINGS>(self.readings_at() + index * READINGS)
            .map(|b| Readings::decode(&b))
    }

    /// Writes the readings of devices `first ..`, in one write.
    ///
    /// # Errors
    /// When the file cannot be written, or there are not so many devices.
    pub fn write_readings(&self, first: usize, readings: &[Readings]) -> io::Result<()> {
        if readings.is_empty() {
            return Ok(());
        }
        self.known(first + readings.len() - 1)?;
        let mut bytes = Vec::with_capacity(readings.len() * READINGS);
        for r in readings {
            bytes.extend_from_slice(&r.encode());
        }
        self.file
            .write_all_at(&bytes, (self.readings_at() + first * READINGS) as u64)
    }

    /// The limit of one device.
    ///
    /// # Errors
    /// As [`Board::readings`].
    pub fn limit(&self, index: usize) -> io::Result<Limit> {
        self.known(index)?;
        self.read_block::<LIMIT>(self.limits_at() + index * LIMIT)
            .map(|b| Limit::decode(&b))
    }

    /// The limits of all devices, in one read where none is being written.
    ///
    /// # Errors
    /// As [`Board::readings`].
    pub fn limits(&self) -> io::Result<Vec<Limit>> {
        let mut bytes = vec![0; self.facts.len() * LIMIT];
        self.file
            .read_exact_at(&mut bytes, self.limits_at() as u64)?;
        let blocks = bytes.chunks_exact(LIMIT).enumerate();
        blocks
            .map(|(index, block)| {
                if is_sealed(block) {
                    Ok(Limit::decode(block))
                } else {
                    self.limit(index)
                }
            })
            .collect()
    }

    /// Sets the limit of one device. Whether it lies in the range is the
    /// caller's concern.
    ///
    /// # Errors
    /// As [`Board::write_readings`].
    pub fn set_limit(&self, index: usize, limit_mw: u32) -> io::Result<()> {
        let sets = self.limit(index)?.sets.wrapping_add(1);
        let block = Limit { limit_mw, sets }.encode();
        self.file
            .write_all_at(&block, (self.limits_at() + index * LIMIT) as u64)
    }

    /// The faults of one device.
    ///
    /// # Errors
    /// As [`Board::readings`].
    pub fn faults(&self, index: usize) -> io::Result<FaultFlags> {
        self.known(index)?;
        self.read_block::<FAULTS>(self.faults_at() + index * FAULTS)
            .map(|b| FaultFlags::decode(&b))
    }

    /// Sets the faults of one device.
    ///
    /// # Errors
    /// As [`Board::write_readings`].
    pub fn set_faults(&self, index: usize, faults: FaultFlags) -> io::Result<()> {
        self.known(index)?;
        self.file
            .write_all_at(&faults.encode(), (self.faults_at() + index * FAULTS) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(n: u32) -> Vec<Facts> {
        (0..n)
            .map(|i| Facts {
                uuid: format!("GPU-{i}"),
                name: "NVIDIA Test".into(),
                min_limit_mw: 200_000,
                max_limit_mw: 700_000,
                default_limit_mw: 700_000,
                max_sm_mhz: 1_980,
                max_memory_mhz: 2_619,
                memory_bytes: 80 << 30,
                pci_bus: i + 1,
                pci_device_id: 0x2330_10de,
            })
            .collect()
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir =
            std::env::temp_dir().join(format!("heliostat-board-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir.join("board.bin")
    }

    #[test]
    fn reads_back_what_it_writes() {
        let path = scratch("round");
        let made = Board::create(&path, "550.1", "12.550", &facts(3)).unwrap();
        let readings = Readings {
            power_mw: 1,
            temperature_c: 2,
            energy_mj: u64::MAX,
            sm_mhz: 4,
            memory_mhz: 5,
            gpu_percent: 6,
            memory_percent: 7,
            memory_used: 8,
            at_ms: 9,
        };
        made.write_readings(1, &[readings, Readings::default()])
            .unwrap();
        made.set_limit(2, 345_678).unwrap();
        let flags = FaultFlags {
            bits: FAULT_SLOW,
            delay_ms: 3,
        };
        made.set_faults(0, flags).unwrap();
        drop(made);
        let board = Board::open(&path).unwrap();
        assert_eq!(board.facts(), facts(3));
        assert_eq!((board.driver(), board.nvml()), ("550.1", "12.550"));
        assert_eq!(board.readings(1).unwrap(), readings);
        assert_eq!(board.readings(0).unwrap(), Readings::default());
        assert_eq!(
            board.limit(2).unwrap(),
            Limit {
                limit_mw: 345_678,
                sets: 1
            }
        );
        assert_eq!(board.limits().unwrap()[1].limit_mw, 700_000);
        assert_eq!(board.faults(0).unwrap(), flags);
        assert!(board.readings(3).is_err() && board.set_limit(3, 1).is_err());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn refuses_what_is_no_board() {
        let path = scratch("damage");
        assert!(Board::create(&path, "", "", &[]).is_err());
        Board::create(&path, "1", "1", &facts(1)).unwrap();
        let good = std::fs::read(&path).unwrap();
        for byte in 0..HEADER + FACTS {
            let mut bytes = good.clone();
            bytes[byte] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            assert!(Board::open(&path).is_err(), "byte {byte}");
        }
        std::fs::write(&path, &good[..100]).unwrap();
        assert!(Board::open(&path).is_err());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_torn_block_is_noticed() {
        let path = scratch("torn");
        let board = Board::create(&path, "1", "1", &facts(1)).unwrap();
        let at = board.readings_at() as u64;
        board.file.write_all_at(&[7; 3], at).unwrap();
        assert_eq!(
            board.readings(0).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
