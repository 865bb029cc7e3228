use super::RecordError;

/// Reads a record's fields in order.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(super) fn byte(&mut self) -> Result<u8, RecordError> {
        let (byte, rest) = self.rest.split_first().ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, RecordError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(RecordError::Field("number"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // A last byte of zero would be a longer form of the same number.
                return if byte == 0 && shift > 0 { Err(RecordError::Field("number")) } else { Ok(value) };
            }
        }
        Err(RecordError::Field("number"))
    }

    pub(super) fn unsigned32(&mut self, field: &'static str) -> Result<u32, RecordError> {
        u32::try_from(self.unsigned()?).map_err(|_| RecordError::Field(field))
    }

    pub(super) fn signed(&mut self) -> Result<i64, RecordError> {
        let value = self.unsigned()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(super) fn bytes(&mut self, max: usize, field: &'static str) -> Result<&'a [u8], RecordError> {
        let len = usize::try_from(self.unsigned()?).map_err(|_| RecordError::Field(field))?;
        if len > max {
            return Err(RecordError::Field(field));
        }
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// All that is left.
    pub(super) fn remainder(self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn finish(self) -> Result<(), RecordError> {
        match self.rest.len() {
            0 => Ok(()),
            len => Err(RecordError::Trailing(len)),
        }
    }
}

pub(super) fn put_unsigned(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Zigzag: small numbers of either sign are short.
pub(super) fn put_signed(value: i64, out: &mut Vec<u8>) {
    put_unsigned((value << 1 ^ value >> 63).cast_unsigned(), out);
}

pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_unsigned(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
