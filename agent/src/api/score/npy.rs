//! Tensors in NumPy's .npy format (versions 1 to 3 of its specification, NEP 1).
//!
//! The header is read here and not by a crate for Python literals, because the bytes come from anybody
//! and the three keys that matter take a few lines.

use std::io::Read;

use muster_proto::manifest::{Dtype, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header that is read; NumPy pads those of plain arrays to 118 bytes.
const MAX_HEADER: usize = 4096;

/// Whether `bytes` begin like an .npy file.
pub fn is_npy(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads a plain array of numbers or booleans. The error is a sentence.
pub fn read(bytes: &[u8]) -> Result<Tensor, String> {
    let (header, data) = head(bytes)?;
    let mut data = data.to_vec();
    if header.big_endian {
        data.chunks_exact_mut(header.dtype.size()).for_each(<[u8]>::reverse);
    }
    let by_columns = header.by_columns && header.shape.len() > 1;
    let tensor = Tensor::new(header.dtype, header.shape, data).map_err(|error| format!(".npy file: {error}"))?;
    if by_columns { by_rows(&tensor) } else { Ok(tensor) }
}

/// The header and what is behind it.
fn head(bytes: &[u8]) -> Result<(Header, &[u8]), String> {
    let cut = || "the .npy file is cut off".to_owned();
    let rest = bytes.strip_prefix(MAGIC).ok_or("not an .npy file")?;
    let (version, rest) = rest.split_at_checked(2).ok_or_else(cut)?;
    let (length, rest) = match version[0] {
        1 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_le_bytes(*length)), rest)),
        2 | 3 => rest.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length) as usize, rest)),
        other => return Err(format!("the .npy file is of version {other}, which is not known")),
    }
    .ok_or_else(cut)?;
    if length > MAX_HEADER {
        return Err(format!("the header of the .npy file has {length} bytes, at most {MAX_HEADER} are read"));
    }
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    Ok((Header::parse(&String::from_utf8_lossy(header))?, data))
}

/// Reads what is before the elements of a file that is read piece by piece. The error is a sentence.
pub fn read_header(reader: &mut impl Read) -> Result<Header, String> {
    let mut fixed = [0; MAGIC.len() + 2];
    let cut = |_| "the .npy file is cut off".to_owned();
    reader.read_exact(&mut fixed).map_err(cut)?;
    if !is_npy(&fixed) {
        return Err("not an .npy file".into());
    }
    let mut length = vec![0; if fixed[MAGIC.len()] == 1 { 2 } else { 4 }];
    reader.read_exact(&mut length).map_err(cut)?;
    let size = length.iter().rev().fold(0, |size, byte| size << 8 | usize::from(*byte));
    // What is wrong with the rest is told where whole files are read.
    let mut text = vec![0; size.min(MAX_HEADER)];
    reader.read_exact(&mut text).map_err(cut)?;
    head(&[&fixed[..], &length, &text].concat()).map(|(header, _)| header)
}

/// What an .npy file says of its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Their type.
    pub dtype: Dtype,
    /// Whether their first byte is the most significant one.
    pub big_endian: bool,
    /// Whether the first dimension changes fastest.
    pub by_columns: bool,
    /// The shape.
    pub shape: Vec<u64>,
}

impl Header {
    /// Reads a Python dictionary such as `{'descr': '<f4', 'fortran_order': False, 'shape': (1, 64), }`.
    fn parse(text: &str) -> Result<Self, String> {
        let value = |key: &str| {
            let after = text.split_once(&format!("'{key}'")).and_then(|(_, rest)| rest.trim_start().strip_prefix(':'));
            after.map(str::trim_start).ok_or_else(|| format!("the header of the .npy file has no {key}"))
        };
        let descr = value("descr")?.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(descr, _)| descr);
        let descr = descr.ok_or("the .npy file holds records, a plain array is wanted")?;
        let (dtype, big_endian) =
            dtype_of(descr).ok_or_else(|| format!("the .npy file holds {descr:?}, numbers are wanted"))?;
        let by_columns = value("fortran_order")?.starts_with("True");
        let shape = value("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(shape, _)| shape);
        let sizes = shape.ok_or("the header of the .npy file has no shape")?.split(',').map(str::trim);
        let sizes = sizes.filter(|size| !size.is_empty()).map(str::parse).collect::<Result<_, _>>();
        let shape = sizes.map_err(|_| "the shape in the .npy file cannot be read")?;
        Ok(Self { dtype, big_endian, by_columns, shape })
    }
}

/// NumPy's type string: byte order, kind, bytes.
fn dtype_of(descr: &str) -> Option<(Dtype, bool)> {
    let order = descr.chars().next()?;
    let dtype = match descr.get(1..)? {
        "b1" => Dtype::Bool,
        "u1" => Dtype::U8,
        "u2" => Dtype::U16,
        "u4" => Dtype::U32,
        "u8" => Dtype::U64,
        "i1" => Dtype::I8,
        "i2" => Dtype::I16,
        "i4" => Dtype::I32,
        "i8" => Dtype::I64,
        "f2" => Dtype::F16,
        "f4" => Dtype::F32,
        "f8" => Dtype::F64,
        _ => return None,
    };
    "<>|=".contains(order).then_some((dtype, order == '>'))
}

/// Turns column-major elements into row-major ones.
fn by_rows(tensor: &Tensor) -> Result<Tensor, String> {
    let (size, shape) = (tensor.dtype().size(), tensor.shape());
    // The data are as long as the shape says, so its sizes fit.
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = size;
    for length in shape {
        strides.push(stride);
        stride = stride.saturating_mul(*length as usize);
    }
    let (mut data, mut index) = (Vec::with_capacity(tensor.data().len()), vec![0u64; shape.len()]);
    for _ in 0..tensor.len() {
        let at: usize = index.iter().zip(&strides).map(|(place, stride)| *place as usize * stride).sum();
        data.extend_from_slice(&tensor.data()[at..at + size]);
        for (place, length) in index.iter_mut().zip(shape).rev() {
            *place += 1;
            if *place < *length {
                break;
            }
            *place = 0;
        }
    }
    Tensor::new(tensor.dtype(), shape.to_vec(), data).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        [bytes, header.as_bytes().to_vec(), data.to_vec()].concat()
    }

    #[test]
    fn arrays_are_read_in_every_order() {
        let plain = "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }    \n";
        let columns = "{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3), }\n";
        let big = "{'descr': '>i2', 'fortran_order': False, 'shape': (2, 3), }\n";
        let table: [(u8, &str, [u8; 12]); 4] = [
            (1, plain, [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]),
            (2, plain, [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]),
            (1, columns, [1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6, 0]),
            (3, big, [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6]),
        ];
        for (version, header, data) in table {
            let tensor = read(&npy(version, header, &data)).expect(header);
            assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::I16, &[2, 3][..]));
            assert_eq!(tensor.to_f64(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "{header}");
        }
        let scalar = read(&npy(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (), }\n", &1.5f64.to_le_bytes()));
        assert_eq!(scalar.expect("a scalar").to_f64(), [1.5]);
        let row = read(&npy(1, "{'descr': '|u1', 'fortran_order': True, 'shape': (2,), }\n", &[7, 8]));
        assert_eq!(row.expect("a row").shape(), [2]);
    }

    #[test]
    fn broken_and_foreign_files_are_refused() {
        let header =
            |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n");
        let bad = [
            b"nothing".to_vec(),
            MAGIC.to_vec(),
            npy(4, &header("'<f4'", "(1,)"), &[0; 4]),
            npy(1, &header("'<f4'", "(2,)"), &[0; 4]),
            npy(1, &header("'<f4'", "(-1,)"), &[0; 4]),
            npy(1, &header("'<f4'", "(18446744073709551615, 9)"), &[]),
            npy(1, &header("'<U4'", "(1,)"), &[0; 16]),
            npy(1, &header("'|O'", "(1,)"), &[0; 16]),
            npy(1, &header("[('a', '<f4')]", "(1,)"), &[0; 4]),
            npy(1, "{}", &[]),
            npy(2, &" ".repeat(5000), &[]),
            npy(2, &header("'<f4'", "(1,)"), &[0; 4])[..20].to_vec(),
        ];
        for bytes in bad {
            assert!(read(&bytes).is_err(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}
