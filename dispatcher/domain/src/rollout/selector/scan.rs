//! A look at the text before the parser sees it: how long, how deep, and where its conjuncts are.
//!
//! The parser recurses with the brackets and skips over forms of text that nobody needs in a selector. Both are refused
//! here. What is left has strings of one kind, so that brackets and `&&` can be found without a grammar.

use super::{Place, SelectorError};

/// The longest selector, in characters.
pub(super) const MAX_CHARS: usize = 1000;
/// How deep brackets nest.
pub(super) const MAX_BRACKETS: usize = 8;

/// Refuses what is too long, nests too deeply, or is written in a way that `conjuncts` could misread.
pub(super) fn check(text: &str) -> Result<(), SelectorError> {
    let length = text.chars().count();
    if length > MAX_CHARS {
        return Err(SelectorError::TooLong { length });
    }
    if text.trim().is_empty() {
        return Err(SelectorError::Empty);
    }
    let mut depth = 0_usize;
    let mut chars = text.char_indices().peekable();
    let mut last = ' ';
    while let Some((at, c)) = chars.next() {
        let refuse = |message: &str| SelectorError::Syntax { at: Place::of(text, at), message: message.to_owned() };
        match c {
            '"' | '\'' if last.is_alphanumeric() || last == '_' => {
                return Err(refuse("write a string as \"…\" or '…', without a letter in front"));
            }
            '"' | '\'' => {
                let mut length = 0;
                loop {
                    match chars.next() {
                        Some((_, '\\')) if chars.next().is_some() => {}
                        Some((_, end)) if end == c => break,
                        None | Some((_, '\\' | '\n' | '\r')) => return Err(refuse("this string has no end")),
                        Some(_) => {}
                    }
                    length += 1;
                }
                if length == 0 && chars.peek().is_some_and(|(_, next)| *next == c) {
                    return Err(refuse("write a string with one quote at each end"));
                }
            }
            '(' | '[' | '{' => {
                depth += 1;
                if depth > MAX_BRACKETS {
                    return Err(SelectorError::TooDeep { at: Place::of(text, at) });
                }
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '/' if chars.peek().is_some_and(|(_, next)| *next == '/') => {
                return Err(refuse("a selector has no comments"));
            }
            '`' => return Err(refuse("write labels[\"…\"] for a name that is no word")),
            '\n' | '\r' | '\t' => {}
            c if c.is_control() => return Err(refuse("a control character")),
            _ => {}
        }
        last = c;
    }
    Ok(())
}

/// The texts that `&&` joins at the top of `text`, which `check` let through and the parser took; outer parentheses do
/// not count.
pub(super) fn conjuncts(text: &str) -> Vec<&str> {
    let text = text.trim();
    let mut ands = Vec::new();
    let (mut depth, mut closes_at, mut one_term) = (0_usize, None, false);
    let mut string = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (string, byte) {
            (Some(_), b'\\') => _ = bytes.next(),
            (Some(quote), byte) if byte == quote => string = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => string = Some(byte),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => {
                depth = depth.saturating_sub(1);
                if depth == 0 && closes_at.is_none() {
                    closes_at = Some(at);
                }
            }
            (None, b'&') if depth == 0 => {
                ands.push(at);
                _ = bytes.next();
            }
            // Both bind less than `&&`.
            (None, b'|' | b'?') if depth == 0 => one_term = true,
            (None, _) => {}
        }
    }
    if text.starts_with('(') && closes_at == Some(text.len() - 1) {
        return conjuncts(&text[1..text.len() - 1]);
    }
    if one_term || ands.is_empty() {
        return vec![text];
    }
    let starts = std::iter::once(0).chain(ands.iter().map(|at| at + 2));
    let ends = ands.iter().copied().chain(std::iter::once(text.len()));
    starts.zip(ends).flat_map(|(start, end)| conjuncts(&text[start..end])).collect()
}
