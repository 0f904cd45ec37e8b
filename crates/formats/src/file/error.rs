//! What can go wrong on a disk, and what to do then.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the disk or of the path that was given. The message is the whole story: there is no source to ask.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("{path}: could not {action}: {cause}{}", remedy(.action, .cause))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done (`open it`).
        action: &'static str,
        /// What the system says.
        cause: io::Error,
    },
    /// A file that is read whole and is too long for that.
    #[error(
        "{path}: longer than {limit_bytes} bytes, the most that such a file may have; check that it is the right file"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// Text that is none.
    #[error("{path}: byte {at} is not valid UTF-8; convert the file to UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first bad byte.
        at: usize,
    },
    /// Nothing is overwritten.
    #[error("{path}: already there; remove it or choose another place")]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },
    /// Two processes, one folder.
    #[error("{path}: another process is using this folder; wait for it or choose another folder")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
}

impl FileError {
    /// An [`FileError::Io`]; `action` completes "could not …".
    pub fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Io { path: path.into(), action, cause }
    }

    /// What kind of refusal it was, as the standard library sorts them.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io { cause, .. } => cause.kind(),
            Self::TooLarge { .. } => io::ErrorKind::FileTooLarge,
            Self::NotUtf8 { .. } => io::ErrorKind::InvalidData,
            Self::Exists { .. } => io::ErrorKind::AlreadyExists,
            Self::Locked { .. } => io::ErrorKind::ResourceBusy,
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::TooLarge { path, .. }
            | Self::NotUtf8 { path, .. }
            | Self::Exists { path }
            | Self::Locked { path } => path,
        }
    }
}

/// The last part of the sentence.
fn remedy(action: &str, cause: &io::Error) -> &'static str {
    use io::ErrorKind::{
        AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    let reads = action.starts_with("open it") || action.starts_with("read") || action.starts_with("look");
    match cause.kind() {
        NotFound if reads => "; check the path",
        NotFound => "; the folder that it belongs in must exist",
        StorageFull | QuotaExceeded => "; free some space or give another --out",
        PermissionDenied if reads => "; give this user the right to read it",
        PermissionDenied | ReadOnlyFilesystem => "; give this user the right to write there or give another --out",
        IsADirectory => "; name a file, not a folder",
        NotADirectory => "; a part of the path is a file, not a folder",
        AlreadyExists => "; remove it or choose another place",
        _ => "",
    }
}
