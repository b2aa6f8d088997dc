//! A scoring script for the digits model. It takes `{"pixels": [[0, 255, …], …]}`, eight rows of eight, and answers
//! `{"digit": 7, "confidence": 0.98}`.
//!
//! It uses no crates, to show all there is to the interface; a script of more than this would take `serde_json`.
//!
//! ```sh
//! rustup target add wasm32-unknown-unknown
//! cargo build --release --target wasm32-unknown-unknown
//! cp target/wasm32-unknown-unknown/release/digits_script.wasm ../../../tests/models/digits/script.wasm
//! ```

use std::fmt::Write;
use std::str::FromStr;

const SIDE: usize = 8;

/// Room for a request; the host writes it there. An instance serves one call, so that nothing has to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn alloc(len: usize) -> *mut u8 {
    Box::leak(vec![0u8; len].into_boxed_slice()).as_mut_ptr()
}

/// From the caller's request to what plain `/score` takes.
///
/// # Safety
/// `ptr` and `len` are what the host has written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn preprocess(ptr: *const u8, len: usize) -> u64 {
    reply(prepare(unsafe { text(ptr, len) }))
}

/// From the outputs that plain `/score` gives to the answer.
///
/// # Safety
/// `ptr` and `len` are what the host has written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn postprocess(ptr: *const u8, len: usize) -> u64 {
    reply(answer(unsafe { text(ptr, len) }))
}

unsafe fn text<'a>(ptr: *const u8, len: usize) -> &'a str {
    // What the host writes is JSON, and so UTF-8.
    unsafe { std::str::from_utf8_unchecked(std::slice::from_raw_parts(ptr, len)) }
}

/// The place in the upper 32 bits, the length in the lower; its highest bit says that the text is a refusal.
fn reply(outcome: Result<String, String>) -> u64 {
    let (text, flag) = match outcome {
        Ok(text) => (text, 0),
        Err(sentence) => (sentence, 1 << 31),
    };
    let text = text.leak();
    (text.as_ptr() as u64) << 32 | text.len() as u64 | flag
}

fn prepare(request: &str) -> Result<String, String> {
    const WANTED: &str = "wanted {\"pixels\": eight rows of eight whole numbers from 0 to 255}";
    let pixels: Vec<u8> = numbers(request, "pixels").filter(|pixels| pixels.len() == SIDE * SIDE).ok_or(WANTED)?;
    let mut json = String::from("{\"image\":{\"shape\":[1,1,8,8],\"data\":[");
    for (index, pixel) in pixels.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(json, "{comma}{}", Millionths(u64::from(pixel) * 1_000_000 / 255));
    }
    json.push_str("]}}");
    Ok(json)
}

fn answer(outputs: &str) -> Result<String, String> {
    let logits: Vec<f32> = numbers(outputs, "data").ok_or("the outputs have another form than those of digits")?;
    let (mut digit, mut best) = (0, f32::NEG_INFINITY);
    for (index, logit) in logits.iter().enumerate() {
        if *logit > best {
            (digit, best) = (index, *logit);
        }
    }
    let sum: f32 = logits.iter().map(|logit| (logit - best).exp()).sum();
    Ok(format!("{{\"digit\":{digit},\"confidence\":{}}}", Millionths((1e6 / sum) as u64)))
}

/// A number with six decimals. Rust's own way to write floats would be a third of the module.
struct Millionths(u64);

impl std::fmt::Display for Millionths {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The numbers of the arrays behind `"key":`, row after row; none where something else stands there.
fn numbers<T: FromStr>(json: &str, key: &str) -> Option<Vec<T>> {
    let at = json.as_bytes().windows(key.len()).position(|part| part == key.as_bytes())?;
    let rest = json.get(at + key.len()..)?.strip_prefix('"')?.trim_start().strip_prefix(':')?.trim_start();
    let (mut depth, mut numbers) = (0usize, Vec::new());
    for word in rest.split_inclusive(['[', ']', ',']) {
        let end = word.bytes().last()?;
        let number = word.trim_end_matches(['[', ']', ',']).trim();
        if !number.is_empty() {
            numbers.push(number.parse().ok()?);
        }
        match end {
            b'[' => depth += 1,
            b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(numbers);
        }
    }
    None
}
