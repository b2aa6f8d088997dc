//! Files that are there as a whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::Error;

/// Makes `dir` and its parents, for this user only.
pub(super) fn create_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error("create", dir))
}

/// Whether there is nothing in `dir`, not even the folder itself. A folder that cannot be read counts as full, so that
/// nothing is made in its place.
pub(super) fn is_empty(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Reads a file that has to be there.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
        _ => error("read", path)(e),
    })
}

/// Replaces `path` by `bytes`, readable by this user only: a power cut leaves the old file or the new one.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let attempt = || -> io::Result<()> {
        // One that was left by a power cut might have another mode.
        if part.exists() {
            fs::remove_file(part)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(part, path)?;
        sync_parent(path)
    };
    attempt().map_err(error("write", path))
}

/// Deletes `path` for good.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).and_then(|()| sync_parent(path)).map_err(error("delete", path))
}

/// A rename or deletion lasts only once its folder is on the disk.
fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

pub(super) fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
