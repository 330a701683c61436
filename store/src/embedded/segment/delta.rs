//! Integers as differences, packed (Parquet format, "DELTA_BINARY_PACKED").
//!
//! The least difference of a block may be any number that none is below. It is
//! kept from block to block for as long as it serves, and small differences get a
//! whole byte: then the same difference is the same byte, and zstd, which comes
//! after, writes frequent ones with fewer bits than packing would.

use super::hybrid::put_bits;
use crate::embedded::codec::{put_signed, put_varint};

/// Differences of a block …
const BLOCK: usize = 128;
/// … and of the parts that have a width each. Few, because a jump widens them all.
const PART: usize = 32;
/// Differences up to here above the least take a byte.
const BYTE: u64 = 0xff;

/// Appends integers; at least one.
pub fn put(out: &mut Vec<u8>, values: &[i64]) {
    put_varint(out, BLOCK as u64);
    put_varint(out, (BLOCK / PART) as u64);
    put_varint(out, values.len() as u64);
    put_signed(out, values.first().copied().unwrap_or(0));
    let mut kept: Option<i64> = None;
    let mut block = [0i64; BLOCK];
    let mut rest = values;
    while rest.len() > 1 {
        let count = (rest.len() - 1).min(BLOCK);
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for (difference, pair) in block.iter_mut().zip(rest.windows(2)) {
            *difference = pair[1].wrapping_sub(pair[0]);
            least = least.min(*difference);
            most = most.max(*difference);
        }
        put_block(out, &block[..count], (least, most), &mut kept);
        rest = &rest[count..];
    }
}

fn put_block(out: &mut Vec<u8>, block: &[i64], (least, most): (i64, i64), kept: &mut Option<i64>) {
    let spread = most.wrapping_sub(least) as u64;
    let serves = |base: i64| base <= least && most.wrapping_sub(base) as u64 <= BYTE;
    let base = if spread == 0 {
        least
    } else if let Some(base) = kept.filter(|base| serves(*base)) {
        base
    } else if spread <= BYTE {
        // In the middle, for blocks to come that are a little lower or higher.
        let base = least.saturating_sub(((BYTE - spread) / 2) as i64);
        *kept = Some(base);
        base
    } else {
        least
    };
    put_signed(out, base);
    let widths = out.len();
    out.extend_from_slice(&[0; BLOCK / PART]);
    for (part, values) in block.chunks(PART).enumerate() {
        let above = values.iter().map(|value| value.wrapping_sub(base) as u64);
        let highest = above.clone().fold(0, u64::max);
        let width = match u64::BITS - highest.leading_zeros() {
            1..=8 => 8,
            width => width,
        };
        out[widths + part] = width as u8;
        let end = out.len() + PART * width as usize / 8;
        match width {
            0 => {}
            8 => out.extend(above.map(|value| value as u8)),
            _ => put_bits(out, width, above),
        }
        // A part is always whole; what it lacks is read by nobody.
        out.resize(end, 0);
    }
}
