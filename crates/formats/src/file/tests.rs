use super::*;
use insta::assert_snapshot;

/// The message without the temporary folder's own name.
fn message(error: &FileError, folder: &Path) -> String {
    error.to_string().replace(&folder.display().to_string(), "DIR")
}

#[test]
fn an_atomic_write_replaces_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    write_bytes(&path, b"one").unwrap();
    write_bytes(&path, b"two").unwrap();
    assert_eq!(read_to_string(&path).unwrap(), "two");
    assert_eq!(list(dir.path()).unwrap(), [path]);
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    write_bytes(&path, b"old").unwrap();
    let error = write_atomic(&path, |writer| {
        writer.write_all(b"half")?;
        Err(io::ErrorKind::StorageFull.into())
    })
    .unwrap_err();
    assert_snapshot!(message(&error, dir.path()), @"DIR/a.txt: could not write it: no storage space; free some space or give another --out");
    assert_eq!(read(&path, 10).unwrap(), b"old");
    assert_eq!(list(dir.path()).unwrap().len(), 1);
}

#[test]
fn a_folder_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("step-1");
    let failed = write_folder::<FileError>(&path, |tmp| {
        write_bytes(&tmp.join("x"), b"x")?;
        read(&tmp.join("missing"), 1).map(|_| ())
    });
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(list(dir.path()).unwrap().is_empty());

    write_folder::<FileError>(&path, |tmp| {
        create_dir_all(&tmp.join("sub"))?;
        write_bytes(&tmp.join("sub/x"), b"x")
    })
    .unwrap();
    assert_eq!(read(&path.join("sub/x"), 1).unwrap(), b"x");
    let error = write_folder::<FileError>(&path, |_| Ok(())).unwrap_err();
    assert_snapshot!(message(&error, dir.path()), @"DIR/step-1: already there; remove it or choose another place");
}

#[test]
fn messages_say_where_why_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let missing = read(&dir.path().join("no"), 1).unwrap_err();
    assert_snapshot!(message(&missing, dir.path()), @"DIR/no: could not open it: No such file or directory (os error 2); check the path");
    let folder = MappedFile::open(dir.path()).unwrap_err();
    assert_snapshot!(message(&folder, dir.path()), @"DIR: could not open it: is a directory; name a file, not a folder");
    let orphan = write_bytes(&dir.path().join("no/a"), b"").unwrap_err();
    assert_snapshot!(message(&orphan, dir.path()), @"DIR/no/a: could not write it: entity not found; the folder that it belongs in must exist");
    let long = dir.path().join("long");
    write_bytes(&long, b"12345").unwrap();
    assert_snapshot!(message(&read(&long, 4).unwrap_err(), dir.path()), @"DIR/long: longer than 4 bytes, the most that such a file may have; check that it is the right file");
    write_bytes(&long, b"ab\xff").unwrap();
    assert_snapshot!(message(&read_to_string(&long).unwrap_err(), dir.path()), @"DIR/long: byte 2 is not valid UTF-8; convert the file to UTF-8");
}

#[test]
fn a_folder_is_locked_once() {
    let dir = tempfile::tempdir().unwrap();
    let lock = lock_folder(dir.path()).unwrap();
    let error = lock_folder(dir.path()).unwrap_err();
    assert_snapshot!(message(&error, dir.path()), @"DIR: another process is using this folder; wait for it or choose another folder");
    drop(lock);
    lock_folder(dir.path()).unwrap();
}

#[test]
fn mapping_gives_the_bytes_and_an_empty_file_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    write_bytes(&path, b"bytes").unwrap();
    assert_eq!(&*MappedFile::open(&path).unwrap(), b"bytes");
    write_bytes(&path, b"").unwrap();
    assert!(MappedFile::open(&path).unwrap().is_empty());
}

#[test]
fn appending_grows_and_truncating_cuts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    for line in ["one", "two"] {
        let mut log = open_append(&path).unwrap();
        log.append_line(line).unwrap();
        log.sync().unwrap();
    }
    assert_eq!(read_to_string(&path).unwrap(), "one\ntwo\n");
    let mut log = open_append(&path).unwrap();
    log.truncate(4).unwrap();
    log.append_line("three").unwrap();
    assert_eq!(read_to_string(&path).unwrap(), "one\nthree\n");
}

#[test]
fn leftovers_are_cleared_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    write_bytes(&dir.path().join("keep.partial"), b"").unwrap();
    write_bytes(&dir.path().join(".a.x.partial"), b"").unwrap();
    create_dir_all(&dir.path().join(".b.y.partial/sub")).unwrap();
    assert_eq!(remove_leftovers(dir.path()).unwrap(), 2);
    assert_eq!(list(dir.path()).unwrap().len(), 1);
}

#[cfg(unix)]
#[test]
fn a_link_is_replaced_in_one_step() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("latest");
    for target in ["a", "b"] {
        create_dir_all(&dir.path().join(target)).unwrap();
        replace_symlink(&link, Path::new(target)).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new(target));
    }
}

#[cfg(unix)]
#[test]
fn files_get_the_usual_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (ours, plain) = (dir.path().join("a"), dir.path().join("b"));
    write_bytes(&ours, b"").unwrap();
    drop(create_file(&plain).unwrap());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}
