//! Writes a layout beside its place, and moves it there when it is whole.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Error, Hashing, INDEX_FILE, Layout, MARK, MARK_CONTENT, read_error, to_json};
use crate::image::document::{Descriptor, Index};

/// A layout that is being written beside its place, and is moved there when it is whole.
#[derive(Debug)]
pub struct Draft {
    place: PathBuf,
    folder: tempfile::TempDir,
}

impl Draft {
    /// Begins a layout that shall be `place`: a folder that does not exist, is empty, or holds an earlier layout.
    pub fn begin(place: &Path) -> Result<Self, Error> {
        if !may_be_replaced(place)? {
            return Err(Error::Occupied(place.to_owned()));
        }
        let beside = match place.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(beside).map_err(write_error(beside))?;
        let folder =
            tempfile::Builder::new().prefix(".muster-image-").tempdir_in(beside).map_err(write_error(beside))?;
        let blobs = folder.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(write_error(&blobs))?;
        Ok(Self { place: place.to_owned(), folder })
    }

    /// Adds a document or another small blob.
    pub fn add(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, Error> {
        let descriptor = Descriptor::of(media_type, bytes);
        let path = self.folder.path().join("blobs/sha256").join(descriptor.digest.hex());
        fs::write(&path, bytes).map_err(write_error(&path))?;
        Ok(descriptor)
    }

    /// Adds a blob that `fill` writes; its digest is taken on the way.
    pub fn stream<T, E: From<Error>>(
        &self,
        media_type: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<T, E>,
    ) -> Result<(Descriptor, T), E> {
        let blobs = self.folder.path().join("blobs/sha256");
        let fail = |path: &Path, source| E::from(Error::Write { path: path.to_owned(), source });
        let mut file = tempfile::NamedTempFile::new_in(&blobs).map_err(|e| fail(&blobs, e))?;
        let mut out = Hashing::new(io::BufWriter::with_capacity(1 << 17, file.as_file_mut()));
        let result = fill(&mut out)?;
        let (mut inner, digest, size) = out.finish();
        inner.flush().map_err(|e| fail(&blobs, e))?;
        drop(inner);
        let path = blobs.join(digest.hex());
        file.persist(&path).map_err(|e| fail(&path, e.error))?;
        Ok((Descriptor::new(media_type, digest, size), result))
    }

    /// Writes the index and moves the layout to its place.
    pub fn finish(self, index: &Index) -> Result<Layout, Error> {
        for (name, bytes) in [(MARK, MARK_CONTENT.to_vec()), (INDEX_FILE, to_json(index))] {
            let path = self.folder.path().join(name);
            fs::write(&path, bytes).map_err(write_error(&path))?;
        }
        // An earlier image goes away only now, when the new one is whole.
        if !may_be_replaced(&self.place)? {
            return Err(Error::Occupied(self.place));
        }
        if self.place.exists() {
            fs::remove_dir_all(&self.place).map_err(write_error(&self.place))?;
        }
        let folder = self.folder.path();
        publish(folder).map_err(write_error(folder))?;
        fs::rename(folder, &self.place).map_err(write_error(&self.place))?;
        // The folder is elsewhere now, so there is nothing to tidy up.
        let _ = self.folder.keep();
        Ok(Layout { folder: self.place })
    }
}

fn may_be_replaced(place: &Path) -> Result<bool, Error> {
    match fs::read_dir(place) {
        Ok(mut entries) => Ok(entries.next().is_none() || place.join(MARK).is_file() && only_layout(place)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(e) => Err(read_error(place)(e)),
    }
}

/// Whether the folder has nothing beside a layout that would go away with it.
fn only_layout(place: &Path) -> Result<bool, Error> {
    for entry in fs::read_dir(place).map_err(read_error(place))? {
        let name = entry.map_err(read_error(place))?.file_name();
        if !["blobs", INDEX_FILE, MARK].iter().any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives folders and files the modes that others may read them by, whatever the umask was.
fn publish(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            publish(&path)?;
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Write { path, source }
}
