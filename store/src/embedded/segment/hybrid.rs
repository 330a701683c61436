//! Parquet's hybrid of runs and packed integers, for levels and indices of
//! dictionaries (Parquet format, "RLE/Bit-Packing Hybrid").
//!
//! Widths are the caller's: where zstd comes after, whole bytes are shorter in the
//! end than as few bits as would do, because zstd tells symbols apart by bytes.

use crate::embedded::codec::put_varint;

/// A run of equal values is written as one from here on; a multiple of 8, because
/// what is packed before it must be.
const RUN: usize = 64;

/// Appends values of at most `width` bits.
pub fn put<T: Copy + PartialEq + Into<u64>>(out: &mut Vec<u8>, width: u32, values: &[T]) {
    let (mut packed, mut at) = (0, 0);
    while let Some(value) = values.get(at) {
        let run = (values[at..].iter().take_while(|v| *v == value)).count();
        if run < RUN {
            at += (run & !7).max(8);
            continue;
        }
        pack(out, width, &values[packed..at]);
        put_run(out, width, (*value).into(), run);
        at += run;
        packed = at;
    }
    pack(out, width, values.get(packed..).unwrap_or_default());
}

/// Appends the same value so many times.
pub fn put_run(out: &mut Vec<u8>, width: u32, value: u64, count: usize) {
    put_varint(out, (count as u64) << 1);
    out.extend_from_slice(&value.to_le_bytes()[..width.div_ceil(8) as usize]);
}

fn pack<T: Copy + Into<u64>>(out: &mut Vec<u8>, width: u32, values: &[T]) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(8);
    put_varint(out, (groups as u64) << 1 | 1);
    let end = out.len() + groups * width as usize;
    if width == 8 {
        out.extend(values.iter().map(|value| (*value).into() as u8));
    } else {
        put_bits(out, width, values.iter().map(|value| (*value).into()));
    }
    // What the last group lacks is read by nobody.
    out.resize(end, 0);
}

/// Appends integers of `width` bits one behind the other, the lowest bit first,
/// up to the next whole byte.
pub fn put_bits(out: &mut Vec<u8>, width: u32, values: impl Iterator<Item = u64>) {
    let (mut word, mut used) = (0u64, 0);
    for value in values {
        word |= value << used;
        used += width;
        if used >= 64 {
            out.extend_from_slice(&word.to_le_bytes());
            used -= 64;
            // A shift by all 64 bits is none.
            word = value.checked_shr(width - used).unwrap_or(0);
        }
    }
    out.extend_from_slice(&word.to_le_bytes()[..used.div_ceil(8) as usize]);
}
