//! An encoder of remote write, for tests alone.

pub(crate) fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

pub(crate) fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = varint(number << 3 | 2);
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

pub(crate) fn number(field: u64, n: u64) -> Vec<u8> {
    let mut bytes = varint(field << 3);
    bytes.extend(varint(n));
    bytes
}

pub(crate) fn fixed(field: u64, value: f64) -> Vec<u8> {
    let mut bytes = varint(field << 3 | 1);
    bytes.extend(value.to_bits().to_le_bytes());
    bytes
}

pub(crate) fn series(labels: &[(&str, &str)], samples: &[(f64, i64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in labels {
        let label = [field(1, name.as_bytes()), field(2, value.as_bytes())].concat();
        bytes.extend(field(1, &label));
    }
    for (value, at) in samples {
        let sample = [fixed(1, *value), number(2, at.cast_unsigned())].concat();
        bytes.extend(field(2, &sample));
    }
    bytes
}

pub(crate) fn request(all: &[Vec<u8>]) -> Vec<u8> {
    all.iter().flat_map(|one| field(1, one)).collect()
}
