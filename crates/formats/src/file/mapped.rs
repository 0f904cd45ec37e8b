//! A file as bytes in memory, read by the system as they are touched.

use super::{FileError, open_read};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// A file mapped for reading. Cheap to open whatever its size.
#[derive(Debug)]
pub struct MappedFile {
    map: memmap2::Mmap,
    path: PathBuf,
}

impl MappedFile {
    /// Maps a regular file; it must not be changed by anyone while it is mapped.
    ///
    /// # Errors
    /// [`FileError::Io`]; anything but a regular file is refused.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        // Asked before opening: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(|cause| FileError::io("open it", path, cause))?;
        if metadata.is_dir() {
            return Err(FileError::io("open it", path, io::ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(FileError::io("map it", path, cause));
        }
        let map = map(&open_read(path)?).map_err(|cause| FileError::io("map it", path, cause))?;
        Ok(Self { map, path: path.into() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[allow(unsafe_code)] // the one place outside `cpu`: without it every start would copy the whole model
fn map(file: &std::fs::File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the map is read-only and private to this process. That nobody changes the file meanwhile cannot be
    // enforced; this workspace never writes a file in place that it maps (`write_atomic` renames, so a mapped file
    // keeps its old bytes), and the documentation of `open` asks the same of others. All bytes are checked as
    // they are read and any bit pattern is a valid `u8`.
    unsafe { memmap2::Mmap::map(file) }
}
