//! Columns as bytes: varints, times as differences of differences, states as
//! runs, values as scaled decimals where that is exact and as XOR of neighbours
//! where it is not. All lossless, bit by bit.
//!
//! Decoding checks every length: bytes that are no column give `None`, never a
//! panic and never more memory than the rows asked for.

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

const CONSTANT: u8 = 0;
const DELTA: u8 = 1;
const DELTA_OF_DELTA: u8 = 2;
const XOR: u8 = 3;

/// Powers of ten that a decimal value may be scaled by; beyond, XOR is as good.
const SCALES: [f64; 7] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];
/// Integers up to here are exact in an f64.
const EXACT: f64 = 9_007_199_254_740_992.0;

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
    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
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

/// Times by rising order: the first, the first difference, then differences of
/// differences, which are 0 in a regular series.
pub fn encode_times(times: &[i64], out: &mut Vec<u8>) {
    let (mut last, mut step) = (0i64, 0i64);
    for time in times {
        let next = time.wrapping_sub(last);
        put_signed(out, next.wrapping_sub(step));
        (last, step) = (*time, next);
    }
}

/// `rows` times.
pub fn decode_times(bytes: &[u8], rows: usize) -> Option<Vec<i64>> {
    // A time takes at least a byte.
    if rows > bytes.len() {
        return None;
    }
    let mut cursor = Cursor::new(bytes);
    let mut times = Vec::with_capacity(rows);
    let (mut last, mut step) = (0i64, 0i64);
    for _ in 0..rows {
        step = step.wrapping_add(cursor.signed()?);
        last = last.wrapping_add(step);
        times.push(last);
    }
    (cursor.left() == 0).then_some(times)
}

/// A column: the state of each row, and the values of the rows that have one.
pub fn encode_column(states: &[u8], values: &[f64], out: &mut Vec<u8>) {
    let mut rest = states;
    while let Some(state) = rest.first() {
        let run = rest.iter().take_while(|s| *s == state).count();
        put_varint(out, (run as u64) << 2 | u64::from(*state));
        rest = &rest[run..];
    }
    let present: Vec<f64> = (states.iter().zip(values))
        .filter(|(state, _)| has_value(**state))
        .map(|(_, value)| *value)
        .collect();
    encode_values(&present, out);
}

/// `rows` states and values; the value of a row without one is 0.
pub fn decode_column(bytes: &[u8], rows: usize) -> Option<(Vec<u8>, Vec<f64>)> {
    let mut cursor = Cursor::new(bytes);
    let mut states = Vec::with_capacity(rows);
    let mut present = 0usize;
    while states.len() < rows {
        let word = cursor.varint()?;
        let (run, state) = (usize::try_from(word >> 2).ok()?, (word & 3) as u8);
        if run == 0 || run > rows - states.len() {
            return None;
        }
        states.resize(states.len() + run, state);
        present += if has_value(state) { run } else { 0 };
    }
    let mut values = decode_values(&mut cursor, present)?;
    if cursor.left() != 0 {
        return None;
    }
    if present < rows {
        let mut spread = Vec::with_capacity(rows);
        let mut next = values.into_iter();
        for state in &states {
            spread.push(if has_value(*state) { next.next()? } else { 0.0 });
        }
        values = spread;
    }
    Some((states, values))
}

fn encode_values(values: &[f64], out: &mut Vec<u8>) {
    let Some(first) = values.first() else { return };
    if values.iter().all(|v| v.to_bits() == first.to_bits()) {
        out.push(CONSTANT);
        out.extend_from_slice(&first.to_le_bytes());
        return;
    }
    let Some((scale, integers)) = as_decimals(values) else {
        encode_xor(values, out);
        return;
    };
    let mut delta = vec![DELTA, scale];
    let mut second = vec![DELTA_OF_DELTA, scale];
    let (mut last, mut step) = (0i64, 0i64);
    for integer in integers {
        let next = integer - last;
        put_signed(&mut delta, next);
        put_signed(&mut second, next - step);
        (last, step) = (integer, next);
    }
    let shorter = if second.len() < delta.len() {
        second
    } else {
        delta
    };
    out.extend_from_slice(&shorter);
}

/// The values as integers over the smallest power of ten that gives every one
/// of them back bit by bit.
fn as_decimals(values: &[f64]) -> Option<(u8, Vec<i64>)> {
    let fits = |value: f64, scale: f64| {
        let rounded = (value * scale).round();
        if rounded.is_nan() || rounded.abs() >= EXACT {
            return None;
        }
        let integer = rounded as i64;
        // By bits: -0.0 is no integer.
        (((integer as f64) / scale).to_bits() == value.to_bits()).then_some(integer)
    };
    let mut from = 0;
    // The scale that the first values need is nearly always that of all.
    for value in values {
        while fits(*value, *SCALES.get(from)?).is_none() {
            from += 1;
        }
    }
    let scale = SCALES[from];
    let integers: Option<Vec<i64>> = values.iter().map(|v| fits(*v, scale)).collect();
    integers.map(|integers| (from as u8, integers))
}

/// Each value XORed with the one before; a byte says how many bytes in front
/// (high nibble) and behind (low nibble) are zero and left out.
fn encode_xor(values: &[f64], out: &mut Vec<u8>) {
    out.push(XOR);
    let mut last = 0u64;
    for value in values {
        let bits = value.to_bits();
        let xor = bits ^ last;
        last = bits;
        let front = (xor.leading_zeros() / 8) as usize;
        let behind = if xor == 0 {
            0
        } else {
            (xor.trailing_zeros() / 8) as usize
        };
        out.push((front as u8) << 4 | behind as u8);
        out.extend_from_slice(&xor.to_be_bytes()[front..8 - behind]);
    }
}

fn decode_values(cursor: &mut Cursor<'_>, count: usize) -> Option<Vec<f64>> {
    if count == 0 {
        return Some(Vec::new());
    }
    let kind = cursor.byte()?;
    match kind {
        CONSTANT => Some(vec![cursor.f64()?; count]),
        DELTA | DELTA_OF_DELTA => {
            let scale = *SCALES.get(usize::from(cursor.byte()?))?;
            if count > cursor.left() {
                return None;
            }
            let mut values = Vec::with_capacity(count);
            let (mut last, mut step) = (0i64, 0i64);
            for _ in 0..count {
                let word = cursor.signed()?;
                step = if kind == DELTA {
                    word
                } else {
                    step.wrapping_add(word)
                };
                last = last.wrapping_add(step);
                values.push(last as f64 / scale);
            }
            Some(values)
        }
        XOR => {
            if count > cursor.left() {
                return None;
            }
            let mut values = Vec::with_capacity(count);
            let mut last = 0u64;
            for _ in 0..count {
                let control = cursor.byte()?;
                let (front, behind) = (usize::from(control >> 4), usize::from(control & 15));
                let mut bytes = [0; 8];
                let length = 8usize.checked_sub(front + behind)?;
                bytes[front..front + length].copy_from_slice(cursor.take(length)?);
                last ^= u64::from_be_bytes(bytes);
                values.push(f64::from_bits(last));
            }
            Some(values)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => (-4_000_000i64..4_000_000).prop_map(|i| i as f64 / 1_000.0),
            1 => (0i64..60_000).prop_map(|i| i as f64),
            1 => any::<u64>().prop_map(f64::from_bits),
            1 => Just(-0.0),
        ]
    }

    proptest! {
        #[test]
        fn columns_come_back_bit_by_bit(rows in prop::collection::vec((0u8..4, value()), 0..200), decimals: bool) {
            let states: Vec<u8> = rows.iter().map(|r| r.0).collect();
            let values: Vec<f64> = rows.iter().map(|r| if decimals { (r.1 * 10.0).round() / 10.0 } else { r.1 }).collect();
            let mut bytes = Vec::new();
            encode_column(&states, &values, &mut bytes);
            let (found, decoded) = decode_column(&bytes, rows.len()).unwrap();
            prop_assert_eq!(&found, &states);
            for ((state, value), decoded) in states.iter().zip(&values).zip(decoded) {
                if has_value(*state) {
                    prop_assert_eq!(value.to_bits(), decoded.to_bits());
                }
            }
        }

        #[test]
        fn times_come_back(times in prop::collection::vec(any::<i64>(), 0..100)) {
            let mut bytes = Vec::new();
            encode_times(&times, &mut bytes);
            prop_assert_eq!(decode_times(&bytes, times.len()).unwrap(), times);
        }

        #[test]
        fn noise_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), rows in 0usize..200) {
            let _ = decode_column(&bytes, rows);
            let _ = decode_times(&bytes, rows);
        }
    }

    #[test]
    fn what_telemetry_looks_like_takes_two_bytes_or_less() {
        let mut random = 1u64;
        let power: Vec<f64> = (0..1_000)
            .map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                // Milliwatts, as NVML gives them, with some watts of noise.
                (650_000 + (random >> 54)) as f64 / 1_000.0
            })
            .collect();
        let mut bytes = Vec::new();
        encode_column(&[MEASURED; 1_000], &power, &mut bytes);
        assert!(bytes.len() <= 2_010, "{} bytes", bytes.len());
        let times: Vec<i64> = (0..1_000).map(|i| 1_514_764_800_000 + i * 1_000).collect();
        bytes.clear();
        encode_times(&times, &mut bytes);
        assert!(bytes.len() <= 1_020);
    }
}
