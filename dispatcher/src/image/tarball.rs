//! Writes tar so that equal content gives equal bytes: no names of users, no clock, fixed modes. Knows nothing of images.
//!
//! The format is ustar (POSIX.1-1988); only a path that ustar cannot hold gets a PAX record.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::document::BlobDigest;
use super::layout::Hashing;

const BLOCK: usize = 512;

/// Why an entry could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The output failed.
    #[error("the output fails")]
    Write(#[source] io::Error),
    /// The content could not be read.
    #[error("the content cannot be read")]
    Read(#[source] io::Error),
    /// The content is shorter or longer than was announced: somebody writes to it.
    #[error("the content changed while it was read")]
    Changed,
}

/// Writes entries to `out`, in the order in which they are given.
pub struct Tarball<W> {
    out: W,
    mtime: u64,
}

impl<W: Write> Tarball<W> {
    /// Begins a tarball whose entries all say `mtime`, in seconds since 1970.
    pub fn new(out: W, mtime: u64) -> Self {
        Self { out, mtime }
    }

    /// Adds a folder; `path` without a slash at its end.
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<(), Error> {
        self.head(&format!("{path}/"), EntryType::Directory, mode, 0)
    }

    /// Adds a small file.
    pub fn bytes(&mut self, path: &str, mode: u32, mut content: &[u8]) -> Result<(), Error> {
        self.file(path, mode, content.len() as u64, &mut content).map(|_| ())
    }

    /// Adds a file of `size` bytes, and gives the digest of its content.
    pub fn file(&mut self, path: &str, mode: u32, size: u64, content: &mut dyn Read) -> Result<BlobDigest, Error> {
        self.head(path, EntryType::Regular, mode, size)?;
        let mut out = Hashing::new(&mut self.out);
        let mut buffer = vec![0_u8; 1 << 16];
        let mut left = size;
        loop {
            // Reads once more at the end, to see a file that has grown.
            let got = match content.read(&mut buffer) {
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::Read(e)),
            };
            if got == 0 {
                break;
            }
            left = left.checked_sub(got as u64).ok_or(Error::Changed)?;
            out.write_all(&buffer[..got]).map_err(Error::Write)?;
        }
        if left > 0 {
            return Err(Error::Changed);
        }
        let (_, digest, written) = out.finish();
        self.pad(written)?;
        Ok(digest)
    }

    /// Ends the tarball.
    pub fn finish(mut self) -> Result<W, Error> {
        self.out.write_all(&[0; 2 * BLOCK]).map_err(Error::Write)?;
        Ok(self.out)
    }

    fn head(&mut self, path: &str, kind: EntryType, mode: u32, size: u64) -> Result<(), Error> {
        let mut header = Header::new_ustar();
        if !place(&mut header, path) {
            let record = pax_record("path", path);
            let mut extra = Header::new_ustar();
            place(&mut extra, "PaxHeader");
            self.write_header(extra, EntryType::XHeader, 0o644, record.len() as u64)?;
            self.out.write_all(&record).map_err(Error::Write)?;
            self.pad(record.len() as u64)?;
            place(&mut header, "long");
        }
        self.write_header(header, kind, mode, size)
    }

    fn write_header(&mut self, mut header: Header, kind: EntryType, mode: u32, size: u64) -> Result<(), Error> {
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.mtime);
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(Error::Write)
    }

    fn pad(&mut self, size: u64) -> Result<(), Error> {
        let over = usize::try_from(size % BLOCK as u64).expect("less than a block");
        let fill = (BLOCK - over) % BLOCK;
        self.out.write_all(&[0; BLOCK][..fill]).map_err(Error::Write)
    }
}

/// Puts `path` into a header; false if ustar has no room: 100 bytes, and 155 before a slash.
fn place(header: &mut Header, path: &str) -> bool {
    let Some(fields) = header.as_ustar_mut() else { return false };
    let bytes = path.as_bytes();
    if bytes.len() <= fields.name.len() {
        fields.name[..bytes.len()].copy_from_slice(bytes);
        return true;
    }
    // A folder's own slash is not a place to split at.
    let cut = (0..bytes.len() - 1).rev().find(|at| bytes[*at] == b'/' && *at <= fields.prefix.len());
    match cut {
        Some(cut) if bytes.len() - cut - 1 <= fields.name.len() => {
            fields.prefix[..cut].copy_from_slice(&bytes[..cut]);
            fields.name[..bytes.len() - cut - 1].copy_from_slice(&bytes[cut + 1..]);
            true
        }
        _ => false,
    }
}

/// One PAX record: its own length in digits, a key and a value. Source: POSIX.1-2001, pax.
fn pax_record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_of_a_bundle_reads_back_as_it_was() {
        let paths = [
            "a".to_owned(),
            format!("bundle/{}", "x".repeat(93)),
            format!("bundle/{}/{}", "d".repeat(100), "x".repeat(90)),
            format!("bundle/{}", "x".repeat(120)),
            format!("bundle/{}/{}", "d".repeat(79), "ä".repeat(60)),
            format!("{}/{}", "d".repeat(155), "x".repeat(100)),
        ];
        let mut tarball = Tarball::new(Vec::new(), 7);
        for path in &paths {
            tarball.bytes(path, 0o644, path.as_bytes()).expect("written");
        }
        tarball.folder(&"f".repeat(130), 0o755).expect("written");
        let bytes = tarball.finish().expect("ended");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entries = archive.entries().expect("a tarball");
        for path in &paths {
            let mut entry = entries.next().expect("an entry").expect("readable");
            assert_eq!(entry.path().expect("a path").to_str(), Some(path.as_str()));
            assert_eq!(entry.header().mtime().expect("a time"), 7);
            let mut content = String::new();
            entry.read_to_string(&mut content).expect("content");
            assert_eq!(content, *path);
        }
        let folder = entries.next().expect("an entry").expect("readable");
        assert_eq!(folder.header().entry_type(), EntryType::Directory);
        assert!(folder.path_bytes().starts_with(&[b'f'; 130]));
        assert!(entries.next().is_none());
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        for announced in [2, 4] {
            let mut tarball = Tarball::new(Vec::new(), 0);
            let result = tarball.file("a", 0o644, announced, &mut b"abc".as_slice());
            assert!(matches!(result, Err(Error::Changed)), "{announced}");
        }
    }

    #[test]
    fn a_pax_record_counts_its_own_digits() {
        for length in [1, 90, 91, 92, 93, 988, 989, 990] {
            let record = pax_record("path", &"x".repeat(length));
            let text = String::from_utf8(record.clone()).expect("text");
            assert_eq!(text.split(' ').next().and_then(|n| n.parse().ok()), Some(record.len()));
        }
    }
}
