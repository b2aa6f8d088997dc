//! Files that are either old or new, never half: temp file, fsync, rename, fsync of the folder.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Error, io};

/// Writes `bytes` to `path`, readable as `mode` says (e.g. 0o600 for secrets).
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let temp = path.with_extension("tmp");
    let mut file = create(&temp, mode)?;
    file.write_all(bytes).map_err(io("cannot write", &temp))?;
    persist(file, &temp, path)
}

/// A new file at `path`; what was there is gone.
pub fn create(path: &Path, mode: u32) -> Result<File, Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("cannot remove", path)(e)),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(io("cannot create", path))
}

/// Gives the written file `temp` its name for good.
pub fn persist(file: File, temp: &Path, path: &Path) -> Result<(), Error> {
    file.sync_all().map_err(io("cannot write", temp))?;
    drop(file);
    fs::rename(temp, path).map_err(io("cannot rename to", path))?;
    sync_folder(path)
}

/// Makes a rename or removal in the folder of `path` durable.
pub fn sync_folder(path: &Path) -> Result<(), Error> {
    let Some(folder) = path.parent() else { return Ok(()) };
    File::open(folder).and_then(|f| f.sync_all()).map_err(io("cannot write", folder))
}

/// Removes a file; that it is already gone is fine.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("cannot remove", path)(e)),
        _ => Ok(()),
    }
}
