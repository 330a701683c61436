//! A PNG from pixels: one IDAT chunk, each row with the `Up` filter (W3C PNG,
//! third edition). Charts are mostly ground, which deflates well that way.

use super::Size;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::{self, Write as _};

/// Encodes `width * height * 3` bytes of RGB.
pub(super) fn encode(pixels: &[u8], size: Size) -> io::Result<Vec<u8>> {
    let row = size.width as usize * 3;
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    let mut above = vec![0_u8; row];
    let mut line = Vec::with_capacity(row + 1);
    for current in pixels.chunks_exact(row) {
        line.clear();
        line.push(2);
        line.extend(current.iter().zip(&above).map(|(c, a)| c.wrapping_sub(*a)));
        zlib.write_all(&line)?;
        above.copy_from_slice(current);
    }
    let data = zlib.finish()?;
    let mut header = Vec::with_capacity(13);
    header.extend_from_slice(&size.width.to_be_bytes());
    header.extend_from_slice(&size.height.to_be_bytes());
    // 8 bits a sample, RGB, deflate, adaptive filters, not interlaced.
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut out, b"IHDR", &header);
    chunk(&mut out, b"IDAT", &data);
    chunk(&mut out, b"IEND", &[]);
    Ok(out)
}

fn chunk(out: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let begin = out.len();
    out.extend_from_slice(kind);
    out.extend_from_slice(data);
    let crc = crc32fast::hash(&out[begin..]);
    out.extend_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn pixels_come_back() {
        let size = Size {
            width: 5,
            height: 4,
        };
        let pixels: Vec<u8> = (0..60).map(|i| (i * 7) as u8).collect();
        let png = encode(&pixels, size).unwrap();
        assert_eq!(&png[12..16], b"IHDR");
        let length = u32::from_be_bytes(png[33..37].try_into().unwrap()) as usize;
        let mut raw = Vec::new();
        flate2::read::ZlibDecoder::new(&png[41..41 + length])
            .read_to_end(&mut raw)
            .unwrap();
        let mut above = vec![0_u8; 15];
        let mut back = Vec::new();
        for row in raw.chunks_exact(16) {
            assert_eq!(row[0], 2);
            for (value, up) in row[1..].iter().zip(&mut above) {
                *up = up.wrapping_add(*value);
            }
            back.extend_from_slice(&above);
        }
        assert_eq!(back, pixels);
    }
}
