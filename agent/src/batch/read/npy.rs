//! Arrays in NumPy's format: the first dimension are the rows. They are read row by row, whatever their size.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use muster_proto::manifest::{Dim, Tensor};

use super::{Body, Context, Row, Rows, open};
use crate::api::rows::fit;
use crate::api::score::npy::{Header, read_header};
use crate::batch::Error;
use crate::batch::inputs::Input;

const BUFFER: usize = 256 << 10;

pub struct Npy {
    input: Input,
    reader: BufReader<File>,
    /// Where the elements begin.
    start: u64,
    header: Header,
    /// The shape of a row, with a leading 1.
    shape: Vec<u64>,
    rows: u64,
    /// Bytes of a row.
    size: usize,
    at: u64,
}

impl Npy {
    pub fn open(input: &Input, context: Context) -> Result<Self, Error> {
        let name = &input.name;
        let unreadable = |error: std::io::Error| super::unreadable(input, error);
        let [spec] = context.specs else {
            let what = format!("the model has {} inputs, and {name} is one array", context.specs.len());
            return Err(Error::usage(what, "give JSON lines with all inputs instead of .npy"));
        };
        if !context.columns.keep.is_empty() {
            return Err(Error::usage("an array has no columns to keep", "leave out --keep; the results have the row"));
        }
        let mut file = File::open(open::path(input)?).map_err(unreadable)?;
        let header = read_header(&mut file).map_err(|text| super::unreadable(input, text))?;
        let start = file.stream_position().map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let Some((rows, item)) = header.shape.split_first().map(|(rows, item)| (*rows, item.to_vec())) else {
            return Err(Error::input(format!("{name} holds one number and no rows"), "save an array of rows"));
        };
        if header.by_columns && header.shape.len() > 1 {
            let next = "save it with numpy.save(FILE, numpy.ascontiguousarray(ARRAY))";
            return Err(Error::input(format!("{name} is saved column by column (fortran_order)"), next));
        }
        if header.dtype != spec.dtype {
            let what = format!("{name} holds {}, and input {:?} takes {}", header.dtype, spec.name, spec.dtype);
            return Err(Error::input(what, format!("save it with .astype({:?})", numpy_name(spec.dtype.name()))));
        }
        let item: Option<u64> = item.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        let size =
            item.and_then(|item| item.checked_mul(spec.dtype.size() as u64)).filter(|size| *size <= super::MAX_ROW);
        let shape: Vec<u64> = [1].into_iter().chain(header.shape.iter().skip(1).copied()).collect();
        let shape = fit(shape, spec);
        let same = |(dim, size): (&Dim, &u64)| matches!(dim, Dim::Symbol(_)) || *dim == Dim::Fixed(*size);
        let fits = shape.len() == spec.shape.len() && spec.shape.iter().zip(&shape).skip(1).all(same);
        let (Some(size), true) = (size, fits) else {
            let what = format!("{name} has shape {:?}, which does not fill input {:?}", header.shape, spec.name);
            return Err(Error::input(what, "save it with the rows first and then what the model takes for one"));
        };
        if size.checked_mul(rows).and_then(|bytes| bytes.checked_add(start)).is_none_or(|wanted| wanted > length) {
            let what = format!("{name} is cut off: it has {length} bytes, and {rows} rows of {size}");
            return Err(Error::input(what, "copy the file again"));
        }
        let reader = BufReader::with_capacity(BUFFER, file);
        Ok(Self { input: input.clone(), reader, start, header, shape, rows, size: size as usize, at: 0 })
    }
}

/// What NumPy calls a dtype.
fn numpy_name(name: &str) -> String {
    match name.strip_prefix('f') {
        Some(bits) => format!("float{bits}"),
        None => match (name.strip_prefix('u'), name.strip_prefix('i')) {
            (Some(bits), _) => format!("uint{bits}"),
            (_, Some(bits)) => format!("int{bits}"),
            _ => name.to_owned(),
        },
    }
}

impl Rows for Npy {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        if self.at == self.rows {
            return Ok(None);
        }
        let mut item = vec![0; self.size];
        self.reader.read_exact(&mut item).map_err(|error| super::unreadable(&self.input, error))?;
        if self.header.big_endian {
            item.chunks_exact_mut(self.header.dtype.size()).for_each(<[u8]>::reverse);
        }
        self.at += 1;
        let item = Tensor::new(self.header.dtype, self.shape.clone(), item);
        let item = item.map_err(|error| super::unreadable(&self.input, error))?;
        Ok(Some(Row { body: Body::Item(item), keep: Vec::new() }))
    }

    fn skip(&mut self, count: u64) -> Result<(), Error> {
        self.at = self.at.saturating_add(count).min(self.rows);
        let place = self.start + self.at * self.size as u64;
        self.reader.seek(SeekFrom::Start(place)).map_err(|error| super::unreadable(&self.input, error))?;
        Ok(())
    }

    fn behind(&self) -> u64 {
        self.start + self.at * self.size as u64
    }
}

#[cfg(test)]
mod tests {
    use super::numpy_name;

    #[test]
    fn numpy_has_names_of_its_own() {
        let table = [("f32", "float32"), ("u8", "uint8"), ("i64", "int64"), ("bool", "bool")];
        for (ours, theirs) in table {
            assert_eq!(numpy_name(ours), theirs);
        }
    }
}
