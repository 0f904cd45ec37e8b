//! Folders: written whole, listed, locked, removed.

use super::{FileError, PARTIAL_SUFFIX};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// The folder that `path` is in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// `.NAME.`, the beginning of the name under which `path` is written.
pub(super) fn partial_prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}

/// Makes the entries of a folder (a new name, a rename) survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    #[cfg(unix)] // elsewhere a folder cannot be opened, and the system sees to it
    File::open(folder)
        .and_then(|opened| opened.sync_all())
        .map_err(|cause| FileError::io("flush it to the disk", folder, cause))?;
    Ok(())
}

/// Creates a folder and those above it.
///
/// # Errors
/// [`FileError::Io`].
pub fn create_dir_all(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(|cause| FileError::io("create the folder", path, cause))
}

/// What is in a folder, sorted by name.
///
/// # Errors
/// [`FileError::Io`].
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let fail = |cause| FileError::io("look into it", folder, cause);
    let entries = fs::read_dir(folder).map_err(fail)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(fail)?;
    paths.sort();
    Ok(paths)
}

/// Removes a file.
///
/// # Errors
/// [`FileError::Io`].
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    fs::remove_file(path).map_err(|cause| FileError::io("remove it", path, cause))
}

/// Removes a folder and all that is in it; one that is not there counts as removed.
///
/// # Errors
/// [`FileError::Io`].
pub fn remove_dir_all(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(FileError::io("remove it", path, cause)),
        _ => Ok(()),
    }
}

/// Renames, replacing a file that is there, and flushes both folders to the disk.
///
/// # Errors
/// [`FileError::Io`].
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(|cause| FileError::io("rename it", from, cause))?;
    sync_folder(parent(to))?;
    if parent(from) == parent(to) { Ok(()) } else { sync_folder(parent(from)) }
}

/// Copies a file's bytes, atomically as [`super::write_atomic`].
///
/// # Errors
/// [`FileError::Io`].
pub fn copy(from: &Path, to: &Path) -> Result<(), FileError> {
    let mut source = super::open_read(from)?;
    super::write_atomic(to, |writer| std::io::copy(&mut source, writer).map(|_| ()))
}

/// Makes `link` point to `target` (relative to the folder of `link`), in one step: a reader sees the old or the new.
///
/// # Errors
/// [`FileError::Io`].
#[cfg(unix)]
pub fn replace_symlink(link: &Path, target: &Path) -> Result<(), FileError> {
    let fail = |cause| FileError::io("make the link", link, cause);
    let mut name = partial_prefix(link);
    name.push(format!("{}{PARTIAL_SUFFIX}", std::process::id()));
    let temporary = parent(link).join(name);
    let _ = fs::remove_file(&temporary); // left by an earlier process of the same number
    std::os::unix::fs::symlink(target, &temporary).map_err(fail)?;
    fs::rename(&temporary, link).map_err(fail)?;
    sync_folder(parent(link))
}

/// Writes a folder that appears whole or not at all and is on the disk when this returns: `write` fills a hidden
/// folder beside it, which is flushed and renamed.
///
/// # Errors
/// [`FileError::Exists`] where `path` is there already, [`FileError::Io`], and whatever `write` returns.
pub fn write_folder<E: From<FileError>>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(FileError::Exists { path: path.into() }.into());
    }
    let mut builder = tempfile::Builder::new();
    let prefix = partial_prefix(path);
    builder.prefix(&prefix).suffix(PARTIAL_SUFFIX);
    #[cfg(unix)]
    builder.permissions(<fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777)); // less the umask
    let temporary = builder
        .tempdir_in(parent(path))
        .map_err(|cause| FileError::io("write the folder", path, cause.kind().into()))?;
    write(temporary.path())?;
    sync_tree(temporary.path())?;
    fs::rename(temporary.path(), path).map_err(|cause| FileError::io("put the folder in its place", path, cause))?;
    let _ = temporary.keep(); // it has moved: nothing to remove
    sync_folder(parent(path))?;
    Ok(())
}

/// Flushes every file under `folder`, then the folders.
fn sync_tree(folder: &Path) -> Result<(), FileError> {
    for path in list(folder)? {
        let metadata = fs::symlink_metadata(&path).map_err(|cause| FileError::io("look at it", &path, cause))?;
        if metadata.is_dir() {
            sync_tree(&path)?;
        } else if metadata.is_file() {
            super::sync(&super::open_read(&path)?, &path)?;
        }
    }
    sync_folder(folder)
}

/// Removes what a killed process left half-written in `folder`; returns how many there were. Only for a folder that
/// this process has locked.
///
/// # Errors
/// [`FileError::Io`].
pub fn remove_leftovers(folder: &Path) -> Result<usize, FileError> {
    let mut removed = 0;
    for path in list(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(PARTIAL_SUFFIX) {
            if path.is_dir() && !path.is_symlink() {
                remove_dir_all(&path)?
            } else {
                remove_file(&path)?
            }
            removed += 1;
        }
    }
    Ok(removed)
}

/// The right to write a folder, held by one process at a time; given back when dropped or when the process ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Takes the lock of a folder, which must exist, through a file `.lock` in it.
///
/// # Errors
/// [`FileError::Locked`] where another process (or another lock of this one) has it, [`FileError::Io`].
pub fn lock_folder(folder: &Path) -> Result<FolderLock, FileError> {
    let path = folder.join(".lock");
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|cause| FileError::io("lock the folder", folder, cause))?;
    match file.try_lock() {
        Ok(()) => Ok(FolderLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(FileError::Locked { path: folder.into() }),
        Err(TryLockError::Error(cause)) => Err(FileError::io("lock the folder", folder, cause)),
    }
}
