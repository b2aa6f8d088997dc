//! Numbers in JSON arrays, flat or nested, to a tensor's bytes. They are read from the text itself,
//! because a tree of JSON values takes up to sixteen times the text, and because whole numbers and f64
//! stay exact that way.

use muster_proto::manifest::Dtype;
use serde_json::value::RawValue;

/// The deepest nesting, and the most dimensions, that are read.
pub const MAX_RANK: usize = 16;

/// Elements in row-major order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elements {
    /// How the arrays are nested; empty for a bare number.
    pub shape: Vec<u64>,
    /// Little-endian bytes.
    pub data: Vec<u8>,
}

impl Elements {
    /// Refuses arrays that are nested neither like `shape`, which has as many elements, nor flat. Sizes of 1 may be missing,
    /// as callers leave them out.
    pub fn check_nesting(&self, shape: &[u64]) -> Result<(), String> {
        let larger = |shape: &[u64]| shape.iter().copied().filter(|size| *size != 1).collect::<Vec<_>>();
        if self.shape.len() == 1 || larger(&self.shape) == larger(shape) {
            return Ok(());
        }
        Err(format!("its arrays are nested like {:?}; wanted {shape:?}, or one flat array", self.shape))
    }
}

/// Reads at most `most` elements of `dtype`, which is not F16. `null` is NaN for floats. The error
/// says what is wrong as a sentence that goes on after the tensor's name.
pub fn read(json: &RawValue, dtype: Dtype, most: u64) -> Result<Elements, String> {
    // A `RawValue` is one valid JSON value: brackets match, and commas are where they belong.
    let text = json.get().as_bytes();
    let mut nesting = Nesting::default();
    let (mut data, mut count, mut at) = (Vec::new(), 0u64, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'[' => nesting.open()?,
            b']' => nesting.close()?,
            b',' | b' ' | b'\t' | b'\n' | b'\r' => {}
            b'{' => return Err("an object stands where a number is wanted".into()),
            _ => {
                let token = token(json.get(), at);
                nesting.element()?;
                if count == most {
                    return Err(format!("there are more than the {most} elements of its shape"));
                }
                push(dtype, token, &mut data).ok_or_else(|| {
                    let got: String = token.chars().take(40).collect();
                    format!("element {count} is {got}, which is no {}", dtype.oip_name())
                })?;
                (count, at) = (count + 1, at + token.len());
                continue;
            }
        }
        at += 1;
    }
    Ok(Elements { shape: nesting.shape(), data })
}

/// The number, word or string that begins at `start`.
fn token(text: &str, start: usize) -> &str {
    let rest = &text[start..];
    let end = match rest.strip_prefix('"') {
        Some(string) => {
            let mut escaped = false;
            let end = string.bytes().position(|byte| {
                let quote = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                quote
            });
            end.map_or(rest.len(), |end| end + 2)
        }
        None => rest.bytes().position(|b| b",] \t\n\r".contains(&b)).unwrap_or(rest.len()),
    };
    &rest[..end]
}

/// Makes sure that arrays of one level are of one length.
#[derive(Debug, Default)]
struct Nesting {
    /// How many members each open array has so far.
    open: Vec<u64>,
    /// The length of the arrays of each level, once one was closed.
    sizes: Vec<Option<u64>>,
    /// On which level the elements are.
    rank: Option<usize>,
}

impl Nesting {
    fn open(&mut self) -> Result<(), String> {
        self.count_member();
        self.open.push(0);
        let depth = self.open.len();
        if depth > MAX_RANK {
            return Err(format!("arrays are nested more than {MAX_RANK} deep"));
        }
        if self.rank.is_some_and(|rank| depth > rank) {
            return Err("numbers and arrays stand side by side".into());
        }
        if self.sizes.len() < depth {
            self.sizes.push(None);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let depth = self.open.len();
        let Some(length) = self.open.pop() else { return Err("arrays do not match".into()) };
        if length == 0 && *self.rank.get_or_insert(depth) != depth {
            return Err("arrays of one level differ in depth".into());
        }
        match self.sizes[depth - 1].replace(length) {
            Some(before) if before != length => Err("arrays of one level differ in length".into()),
            _ => Ok(()),
        }
    }

    fn element(&mut self) -> Result<(), String> {
        self.count_member();
        let depth = self.open.len();
        if *self.rank.get_or_insert(depth) == depth {
            Ok(())
        } else {
            Err("numbers and arrays stand side by side".into())
        }
    }

    fn count_member(&mut self) {
        if let Some(count) = self.open.last_mut() {
            *count += 1;
        }
    }

    fn shape(self) -> Vec<u64> {
        self.sizes.into_iter().map(Option::unwrap_or_default).collect()
    }
}

/// Appends the element that `token` is; none where `dtype` cannot hold it.
pub fn push(dtype: Dtype, token: &str, data: &mut Vec<u8>) -> Option<()> {
    macro_rules! whole {
        ($t:ty) => {
            data.extend_from_slice(&whole::<$t>(token)?.to_le_bytes())
        };
    }
    match dtype {
        Dtype::Bool => data.push(match token {
            "true" => 1,
            "false" => 0,
            _ => return None,
        }),
        Dtype::U8 => whole!(u8),
        Dtype::U16 => whole!(u16),
        Dtype::U32 => whole!(u32),
        Dtype::U64 => whole!(u64),
        Dtype::I8 => whole!(i8),
        Dtype::I16 => whole!(i16),
        Dtype::I32 => whole!(i32),
        Dtype::I64 => whole!(i64),
        Dtype::F16 => return None,
        Dtype::F32 if token == "null" => data.extend_from_slice(&f32::NAN.to_le_bytes()),
        Dtype::F64 if token == "null" => data.extend_from_slice(&f64::NAN.to_le_bytes()),
        // A number beyond the type's range becomes infinite, which nobody meant.
        Dtype::F32 => data.extend_from_slice(&number::<f32>(token).filter(|v| v.is_finite())?.to_le_bytes()),
        Dtype::F64 => data.extend_from_slice(&number::<f64>(token).filter(|v| v.is_finite())?.to_le_bytes()),
    }
    Some(())
}

/// Rust also reads `inf` and `nan`, which no JSON text holds outside of strings.
fn number<T: std::str::FromStr>(token: &str) -> Option<T> {
    token.parse().ok()
}

/// A whole number, exactly. `3.0` is one, up to 2⁵³, because some languages write whole numbers so.
fn whole<T: TryFrom<i64> + std::str::FromStr>(token: &str) -> Option<T> {
    token.parse().ok().or_else(|| {
        let value: f64 = token.parse().ok()?;
        let exact = value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0;
        exact.then(|| T::try_from(value as i64).ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, dtype: Dtype, most: u64) -> Result<Elements, String> {
        let raw: &RawValue = serde_json::from_str(json).map_err(|e| e.to_string())?;
        super::read(raw, dtype, most)
    }

    #[test]
    fn nesting_gives_the_shape() {
        let table: [(&str, &[u64]); 8] = [
            ("7", &[]),
            ("[]", &[0]),
            ("[7]", &[1]),
            (" [ 1 ,\n2 , 3 ] ", &[3]),
            ("[[1,2,3],[4,5,6]]", &[2, 3]),
            ("[[],[]]", &[2, 0]),
            ("[[[1]],[[2]]]", &[2, 1, 1]),
            ("[[[]]]", &[1, 1, 0]),
        ];
        for (json, shape) in table {
            assert_eq!(read(json, Dtype::U8, 9).expect(json).shape, shape, "{json}");
        }
        assert_eq!(read("[[1,2],[3,4]]", Dtype::U8, 4).expect("flat").data, [1, 2, 3, 4]);
    }

    #[test]
    fn ragged_and_foreign_arrays_are_refused() {
        let deep = format!("{}1{}", "[".repeat(17), "]".repeat(17));
        let bad = ["[[1],[2,3]]", "[1,[2]]", "[[1],2]", "[[],[1]]", "[[],[[]]]", "[[[]],[]]", "[{\"x\":1}]", &deep];
        for json in bad.into_iter().chain(["\"AQ==\"", "[\"]\\\"[\"]", "true", "null"]) {
            assert!(read(json, Dtype::U8, 99).is_err(), "{json}");
        }
        assert!(read("[1,2,3]", Dtype::U8, 2).expect_err("one too many").contains("more than the 2"));
    }

    #[test]
    fn whole_numbers_are_exact_and_in_range() {
        let table = [
            (Dtype::U8, "255", true),
            (Dtype::U8, "256", false),
            (Dtype::U8, "-1", false),
            (Dtype::I8, "-128", true),
            (Dtype::I8, "128", false),
            (Dtype::U16, "65536", false),
            (Dtype::I32, "3.0", true),
            (Dtype::I32, "1e2", true),
            (Dtype::I32, "3.5", false),
            (Dtype::I64, "9223372036854775808", false),
            (Dtype::U64, "-0.5", false),
            (Dtype::I32, "true", false),
            (Dtype::I32, "null", false),
            (Dtype::I32, "\"1\"", false),
            (Dtype::Bool, "true", true),
            (Dtype::Bool, "1", false),
            (Dtype::F32, "1e39", false),
            (Dtype::F64, "1e400", false),
            (Dtype::F64, "-0.0", true),
        ];
        for (dtype, json, good) in table {
            assert_eq!(read(json, dtype, 1).is_ok(), good, "{json} as {dtype}");
        }
        let exact = read("[9223372036854775807, -9223372036854775807]", Dtype::I64, 2).expect("fits").data;
        assert_eq!(exact, [i64::MAX.to_le_bytes(), (-i64::MAX).to_le_bytes()].concat());
        let exact = read("18446744073709551615", Dtype::U64, 1).expect("fits").data;
        assert_eq!(exact, u64::MAX.to_le_bytes());
        let exact = read("0.1", Dtype::F64, 1).expect("fits").data;
        assert_eq!(exact, 0.1f64.to_le_bytes());
    }

    #[test]
    fn null_is_not_a_number() {
        let data = read("[null, 1.5]", Dtype::F32, 2).expect("fits").data;
        assert!(f32::from_le_bytes([data[0], data[1], data[2], data[3]]).is_nan());
        assert_eq!(data[4..], 1.5f32.to_le_bytes());
    }
}
