//! As much of protobuf's wire format as a message of known shape needs: fields
//! one after the other, borrowed from the input. Written by hand because three
//! nested messages of two fields each do not pay for a code generator, and
//! because borrowing spares an allocation a label.
//!
//! Source: protobuf.dev/programming-guides/encoding.

/// Why bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireFault {
    /// The message ends within a field.
    #[error("the message ends within a field")]
    Truncated,
    /// A number of more than ten bytes.
    #[error("a number is longer than ten bytes")]
    LongNumber,
    /// Field number 0 or a wire type that does not exist any more.
    #[error("a field has a number or a type that does not exist")]
    BadTag,
}

/// The content of one field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of one message, in order. After an error it is at its end.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    fn varint(&mut self) -> Result<u64, WireFault> {
        // Tags and most lengths are one byte.
        if let Some((first, rest)) = self.rest.split_first()
            && *first < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(*first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, WireFault> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (first, rest) = self.rest.split_first().ok_or(WireFault::Truncated)?;
            self.rest = rest;
            // The tenth byte holds one bit; what does not fit falls away, as in protobuf.
            value |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or(0);
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireFault::LongNumber)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], WireFault> {
        let count = usize::try_from(count).map_err(|_| WireFault::Truncated)?;
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(WireFault::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), WireFault> {
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 {
            return Err(WireFault::BadTag);
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Value::Fixed64(u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed32
            }
            _ => return Err(WireFault::BadTag),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), WireFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_examples_of_the_specification() {
        // field 1 = 150; field 2 = "testing".
        let bytes = [
            0x08, 0x96, 0x01, 0x12, 0x07, b't', b'e', b's', b't', b'i', b'n', b'g',
        ];
        let fields: Result<Vec<_>, _> = Fields::new(&bytes).collect();
        assert_eq!(
            fields.unwrap(),
            [(1, Value::Varint(150)), (2, Value::Bytes(b"testing"))]
        );
    }

    #[test]
    fn tells_what_is_wrong_and_ends() {
        for (bytes, fault) in [
            (&[0x12, 0x07, b't'][..], WireFault::Truncated),
            (&[0x00, 0x00], WireFault::BadTag),
            (&[0x0b, 0x00], WireFault::BadTag),
            (&[0x09, 1, 2, 3], WireFault::Truncated),
            (
                &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
                WireFault::LongNumber,
            ),
        ] {
            let all: Vec<_> = Fields::new(bytes).collect();
            assert_eq!(all, [Err(fault)], "{bytes:?}");
        }
    }
}
