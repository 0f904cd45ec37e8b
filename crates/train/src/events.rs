//! TensorBoard event files: scalars that `tensorboard --logdir RUN` shows while the run goes on.
//!
//! A file is a TFRecord: for each event its length (u64), the masked CRC-32C of these eight bytes, the event, its
//! masked CRC-32C; all little-endian. An event is a protocol buffer, of which five fields are written here.

use formats::file::{self, AppendFile, FileError};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file that is being written.
#[derive(Debug)]
pub(crate) struct EventFile {
    file: AppendFile,
}

impl EventFile {
    /// A new file in `folder`, beside those of earlier sessions of the run. `next_step` is the first step that it will
    /// hold: where earlier files hold that step or later ones (the run was killed and resumed), TensorBoard drops them.
    ///
    /// # Errors
    /// [`FileError`].
    pub(crate) fn create(folder: &Path, next_step: u64) -> Result<Self, FileError> {
        file::create_dir_all(folder)?;
        let continues = !file::list(folder)?.is_empty();
        // TensorBoard reads the files in the order of their names: the time, then what tells two of one second apart.
        let seconds = wall_time() as u64;
        let name = |index: usize| folder.join(format!("events.out.tfevents.{seconds:010}.slm.{index:03}"));
        let path = (0..1000).map(name).find(|path| !file::exists(path)).unwrap_or_else(|| name(1000));
        let mut events = Self { file: file::open_append(&path)? };
        events.append(&string_field(3, "brain.Event:2"), None)?;
        if continues {
            const START: u64 = 1;
            events.append(&message_field(7, &varint_field(1, START)), Some(next_step))?;
        }
        Ok(events)
    }

    /// Adds one point to each of the named curves.
    ///
    /// # Errors
    /// [`FileError`].
    pub(crate) fn scalars(&mut self, step: u64, points: &[(&str, f64)]) -> Result<(), FileError> {
        let mut summary = Vec::new();
        for &(tag, value) in points {
            let mut entry = string_field(1, tag);
            entry.push(key(2, FIXED_32));
            entry.extend((value as f32).to_le_bytes());
            summary.extend(message_field(1, &entry));
        }
        self.append(&message_field(5, &summary), Some(step))
    }

    fn append(&mut self, content: &[u8], step: Option<u64>) -> Result<(), FileError> {
        let mut event = vec![key(1, FIXED_64)];
        event.extend(wall_time().to_le_bytes());
        if let Some(step) = step {
            event.extend(varint_field(2, step));
        }
        event.extend(content);
        self.file.append(&record(&event))
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    [&length, &masked_crc(&length).to_le_bytes()[..], event, &masked_crc(event).to_le_bytes()].concat()
}

// ---- protocol buffers: a key is the field's number and the kind of what follows ----

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED_32: u8 = 5;

const fn key(field: u8, kind: u8) -> u8 {
    field << 3 | kind
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_field(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![key(field, VARINT)];
    varint(value, &mut out);
    out
}

fn message_field(field: u8, message: &[u8]) -> Vec<u8> {
    let mut out = vec![key(field, LENGTH_DELIMITED)];
    varint(message.len() as u64, &mut out);
    out.extend(message);
    out
}

fn string_field(field: u8, text: &str) -> Vec<u8> {
    message_field(field, text.as_bytes())
}

// ---- CRC-32C (Castagnoli), reflected ----

const CRC_TABLE: [u32; 256] = {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| crc >> 8 ^ CRC_TABLE[usize::from(crc as u8 ^ byte)])
}

/// TFRecord's mask, which keeps the checksum of data that holds checksums from being trivial.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string_and_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn varints_are_little_endian_groups_of_seven_bits() {
        let mut out = Vec::new();
        varint(300, &mut out);
        assert_eq!(out, [0xac, 0x02]);
    }

    #[test]
    fn records_frame_each_event_and_a_resumed_file_says_where_it_starts() {
        let folder = tempfile::tempdir().unwrap();
        for next_step in [1, 8] {
            let mut events = EventFile::create(folder.path(), next_step).unwrap();
            events.scalars(next_step, &[("loss", 2.5), ("learning rate", 1e-3)]).unwrap();
        }
        let files = file::list(folder.path()).unwrap();
        assert_eq!(files.len(), 2, "one file a session");
        let counts = files.iter().map(|path| {
            let bytes = file::read(path, 1 << 20).unwrap();
            let mut rest = &bytes[..];
            let mut records = 0;
            while !rest.is_empty() {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                assert_eq!(rest[8..12], masked_crc(&rest[..8]).to_le_bytes());
                let event = &rest[12..12 + length];
                assert_eq!(rest[12 + length..16 + length], masked_crc(event).to_le_bytes());
                rest = &rest[16 + length..];
                records += 1;
            }
            records
        });
        assert_eq!(counts.collect::<Vec<_>>(), [2, 3]);
    }
}
