//! The disk: the only code of the workspace that calls `std::fs`.
//!
//! Every error names the path, what was being done, why it failed and what to do. A file or folder is written beside
//! its place, flushed to the disk and renamed, so a reader sees the old one or the new one, never half of one; a crash
//! leaves at most a hidden `.NAME.….partial`, which [`remove_leftovers`] clears away.

mod error;
mod folder;
mod mapped;

pub use error::FileError;
pub use folder::{
    FolderLock, copy, create_dir_all, list, lock_folder, remove_dir_all, remove_file, remove_leftovers, rename,
    replace_symlink, write_folder,
};
pub use mapped::MappedFile;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// More than any text that is read whole; larger ones are streamed or mapped.
pub const TEXT_LIMIT_BYTES: u64 = 1 << 30;

/// Names of things that are being written begin with a dot and end with this.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// One megabyte: fewer, larger writes; beyond it nothing is gained on any disk.
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// Whether something is there (and may be seen).
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// Whether a folder is there.
pub fn is_dir(path: &Path) -> bool {
    path.is_dir()
}

/// Whether a regular file is there.
pub fn is_file(path: &Path) -> bool {
    path.is_file()
}

/// Size of a file in bytes.
///
/// # Errors
/// [`FileError::Io`].
pub fn size_bytes(path: &Path) -> Result<u64, FileError> {
    fs::metadata(path).map(|metadata| metadata.len()).map_err(|cause| FileError::io("look at it", path, cause))
}

/// When a file was last changed.
///
/// # Errors
/// [`FileError::Io`].
pub fn modified(path: &Path) -> Result<std::time::SystemTime, FileError> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).map_err(|cause| {
        FileError::io("look at it", path, cause) // no file system that holds models lacks the time
    })
}

/// Opens a file for reading.
///
/// # Errors
/// [`FileError::Io`]; a folder is refused.
pub fn open_read(path: &Path) -> Result<File, FileError> {
    let file = File::open(path).map_err(|cause| FileError::io("open it", path, cause))?;
    let metadata = file.metadata().map_err(|cause| FileError::io("open it", path, cause))?;
    if metadata.is_dir() {
        return Err(FileError::io("open it", path, io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

/// A file's bytes; a file longer than `limit_bytes` is refused before it is held.
///
/// # Errors
/// [`FileError::Io`], [`FileError::TooLarge`].
pub fn read(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let read = open_read(path)?.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|cause| FileError::io("read it", path, cause))?;
    if bytes.len() as u64 > limit_bytes {
        return Err(FileError::TooLarge { path: path.into(), limit_bytes });
    }
    Ok(bytes)
}

/// A file's text, at most [`TEXT_LIMIT_BYTES`] of it.
///
/// # Errors
/// [`FileError::Io`], [`FileError::TooLarge`], [`FileError::NotUtf8`].
pub fn read_to_string(path: &Path) -> Result<String, FileError> {
    String::from_utf8(read(path, TEXT_LIMIT_BYTES)?)
        .map_err(|error| FileError::NotUtf8 { path: path.into(), at: error.utf8_error().valid_up_to() })
}

/// Creates a file that must not be there yet, for writing as one goes (shards, logs); for a file that is written at
/// once use [`write_atomic`].
///
/// # Errors
/// [`FileError::Io`].
pub fn create_new(path: &Path) -> Result<File, FileError> {
    File::create_new(path).map_err(|cause| FileError::io("create it", path, cause))
}

/// Creates a file or empties the one that is there.
///
/// # Errors
/// [`FileError::Io`].
pub fn create_file(path: &Path) -> Result<File, FileError> {
    File::create(path).map_err(|cause| FileError::io("create it", path, cause))
}

/// Opens a file for reading and writing in place, without emptying it.
///
/// # Errors
/// [`FileError::Io`].
pub fn open_update(path: &Path) -> Result<File, FileError> {
    let open = File::options().read(true).write(true).open(path);
    open.map_err(|cause| FileError::io("open it for writing", path, cause))
}

/// Flushes a file to the disk.
///
/// # Errors
/// [`FileError::Io`].
pub fn sync(file: &File, path: &Path) -> Result<(), FileError> {
    file.sync_all().map_err(|cause| FileError::io("flush it to the disk", path, cause))
}

/// A file that only grows: logs, metrics.
#[derive(Debug)]
pub struct AppendFile {
    file: File,
    path: PathBuf,
}

/// Opens a file to append to, creating it if need be.
///
/// # Errors
/// [`FileError::Io`].
pub fn open_append(path: &Path) -> Result<AppendFile, FileError> {
    let open = File::options().append(true).create(true).open(path);
    let file = open.map_err(|cause| FileError::io("open it for appending", path, cause))?;
    Ok(AppendFile { file, path: path.into() })
}

impl AppendFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes, in one call to the system where it allows.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(|cause| FileError::io("append to it", &self.path, cause))
    }

    /// Appends `line` and a line feed together.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn append_line(&mut self, line: &str) -> Result<(), FileError> {
        self.append(format!("{line}\n").as_bytes())
    }

    /// Flushes what was appended to the disk.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn sync(&self) -> Result<(), FileError> {
        sync(&self.file, &self.path)
    }

    /// Cuts the file to its first `len_bytes`.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn truncate(&self, len_bytes: u64) -> Result<(), FileError> {
        self.file.set_len(len_bytes).map_err(|cause| FileError::io("cut it", &self.path, cause))
    }
}

/// Writes a file that appears whole or not at all, and is on the disk when this returns. What was there is replaced.
///
/// # Errors
/// [`FileError::Io`], also for an error that `write` returns.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), FileError> {
    let fail = |cause| FileError::io("write it", path, cause);
    let parent = folder::parent(path);
    let mut builder = tempfile::Builder::new();
    let prefix = folder::partial_prefix(path);
    builder.prefix(&prefix).suffix(PARTIAL_SUFFIX);
    #[cfg(unix)]
    builder.permissions(<fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666)); // less the umask
    // The kind alone: the whole error would name the temporary file.
    let temporary = builder.tempfile_in(parent).map_err(|cause| fail(cause.kind().into()))?;

    let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, temporary.as_file());
    write(&mut writer).and_then(|()| writer.flush()).map_err(fail)?;
    drop(writer);
    temporary.as_file().sync_all().map_err(fail)?;
    temporary.persist(path).map_err(|error| fail(error.error))?;
    folder::sync_folder(parent)
}

/// [`write_atomic`] of bytes that are there already.
///
/// # Errors
/// [`FileError::Io`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_atomic(path, |writer| writer.write_all(bytes))
}

#[cfg(test)]
mod tests;
