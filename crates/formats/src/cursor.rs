//! A walk through bytes that nobody vouches for.

/// A length that a file claims and does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what} claims {claims} bytes but {left} are left")]
pub struct PastEnd {
    /// Where the thing would begin.
    pub at: usize,
    /// What it is.
    pub what: &'static str,
    /// How long it says it is.
    pub claims: u64,
    /// How many bytes the file still has.
    pub left: usize,
}

/// A position in bytes that only moves forward, and only over bytes that are there.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Offset of the next byte.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Bytes not yet passed.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The only way forward: nothing is allocated from a length that was not checked here.
    pub(crate) fn take(&mut self, what: &'static str, claims: u64) -> Result<&'a [u8], PastEnd> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(taken) = usize::try_from(claims).ok().and_then(|length| rest.get(..length)) else {
            return Err(PastEnd { at: self.at, what, claims, left: rest.len() });
        };
        self.at += taken.len();
        Ok(taken)
    }

    /// `count` things of `size` bytes each.
    pub(crate) fn take_many(&mut self, what: &'static str, count: u64, size: u64) -> Result<&'a [u8], PastEnd> {
        self.take(what, count.saturating_mul(size))
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], PastEnd> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(what, N as u64)?);
        Ok(array)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, PastEnd> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, PastEnd> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }
}
