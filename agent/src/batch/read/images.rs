//! Image files, each a row of its own. They are read where they are decoded, in parallel.

use std::path::PathBuf;

use muster_proto::manifest::InputOp;

use super::{Body, Context, Row, Rows, open};
use crate::batch::Error;
use crate::batch::inputs::Input;

pub struct Images {
    files: Vec<(PathBuf, u64)>,
    at: usize,
    behind: u64,
}

impl Images {
    pub fn new(images: &[Input], context: Context) -> Result<Self, Error> {
        if context.specs.len() != 1 {
            let what = format!("the model has {} inputs, and an image is one", context.specs.len());
            return Err(Error::usage(what, "give JSON lines with all inputs instead of images"));
        }
        if !context.columns.keep.is_empty() {
            return Err(Error::usage("images have no columns to keep", "leave out --keep; the results have the file"));
        }
        let files = images.iter().map(|input| Ok((open::path(input)?.to_owned(), input.size)));
        Ok(Self { files: files.collect::<Result<_, Error>>()?, at: 0, behind: 0 })
    }
}

/// Whether steps begin with an image.
pub fn take_image(ops: &[InputOp]) -> bool {
    matches!(ops.first(), Some(InputOp::DecodeImage { .. }))
}

impl Rows for Images {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        let Some((path, size)) = self.files.get(self.at) else { return Ok(None) };
        (self.at, self.behind) = (self.at + 1, self.behind + size);
        Ok(Some(Row { body: Body::Image(path.clone()), keep: Vec::new() }))
    }

    fn skip(&mut self, count: u64) -> Result<(), Error> {
        let end = self.at.saturating_add(usize::try_from(count).unwrap_or(usize::MAX)).min(self.files.len());
        self.behind += self.files[self.at..end].iter().map(|(_, size)| size).sum::<u64>();
        self.at = end;
        Ok(())
    }

    fn behind(&self) -> u64 {
        self.behind
    }
}
