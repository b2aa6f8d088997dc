//! Finds the files of a bundle folder, in an order that does not depend on the file system.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a folder cannot become a layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder is missing or may not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("the bundle {} is empty", .0.display())]
    Empty(PathBuf),
    /// A link, a socket or the like; a bundle holds files and folders.
    #[error("{} is neither a file nor a folder; a bundle holds only those", .0.display())]
    Kind(PathBuf),
    /// A name that is no UTF-8 text.
    #[error("the name of {} is no UTF-8 text; rename it", .0.display())]
    Name(PathBuf),
    /// More files than a manifest may name.
    #[error("the bundle {} holds more than {MAX_ENTRIES} files and folders", .0.display())]
    TooMany(PathBuf),
}

/// The most files and folders: twice what a manifest may name, for the folders.
const MAX_ENTRIES: usize = 2000;

/// One entry of a bundle.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its path below the bundle, with slashes.
    pub path: String,
    /// Its size in bytes; none for a folder.
    pub size: Option<u64>,
}

/// All entries below `folder`, each folder before what is in it.
pub fn entries(folder: &Path) -> Result<Vec<Entry>, Error> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(inner) = open.pop() {
        let here = if inner.is_empty() { folder.to_owned() } else { folder.join(&inner) };
        let fail = |source| Error::Read { path: here.clone(), source };
        for entry in fs::read_dir(&here).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().into_string().map_err(|_| Error::Name(entry.path()))?;
            let path = if inner.is_empty() { name } else { format!("{inner}/{name}") };
            let meta = entry.metadata().map_err(|source| Error::Read { path: entry.path(), source })?;
            let size = match meta.file_type() {
                kind if kind.is_dir() => {
                    open.push(path.clone());
                    None
                }
                kind if kind.is_file() => Some(meta.len()),
                _ => return Err(Error::Kind(entry.path())),
            };
            found.push(Entry { path, size });
            if found.len() > MAX_ENTRIES {
                return Err(Error::TooMany(folder.to_owned()));
            }
        }
    }
    if found.iter().all(|e| e.size.is_none()) {
        return Err(Error::Empty(folder.to_owned()));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_sorted_and_folders_first() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("b/c")).expect("made");
        for file in ["b/c/x", "b-a", "a", "b/A"] {
            fs::write(folder.path().join(file), file).expect("written");
        }
        let paths: Vec<String> = entries(folder.path()).expect("read").into_iter().map(|e| e.path).collect();
        assert_eq!(paths, ["a", "b", "b-a", "b/A", "b/c", "b/c/x"]);
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(entries(folder.path()), Err(Error::Empty(_))));
        assert!(matches!(entries(&folder.path().join("none")), Err(Error::Read { .. })));
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).expect("made");
        assert!(matches!(entries(folder.path()), Err(Error::Kind(_))));
    }
}
