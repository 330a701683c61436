//! The states of a reading, and the bytes of the log's records: varints and
//! blocks with their length. Decoding checks every length.

/// The metric does not stand in the frame.
pub const ABSENT: u8 = 0;
/// Read from an instrument.
pub const MEASURED: u8 = 1;
/// Computed.
pub const ESTIMATED: u8 = 2;
/// Asked for and not known.
pub const MISSING: u8 = 3;

/// Whether a row in this state has a value.
pub const fn has_value(state: u8) -> bool {
    state == MEASURED || state == ESTIMATED
}

/// Reads bytes from the front.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Over these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }
    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }
    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(head)
    }
    /// An unsigned varint.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
    /// A signed varint.
    pub fn signed(&mut self) -> Option<i64> {
        self.varint().map(unzigzag)
    }
    /// A varint as a length.
    pub fn length(&mut self) -> Option<usize> {
        self.varint().and_then(|n| usize::try_from(n).ok())
    }
    /// Bytes with their length before them.
    pub fn block(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }
    /// Text with its length before it.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.block()?).ok()
    }
    /// Eight bytes, little endian.
    pub fn f64(&mut self) -> Option<f64> {
        self.take(8)?.try_into().ok().map(f64::from_le_bytes)
    }
    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes an unsigned varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a signed varint.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Writes bytes with their length before them.
pub fn put_block(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
