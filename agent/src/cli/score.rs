//! `muster-agent score`

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The input: .json (a dictionary of inputs), .npy, .png or .jpg; `-` for JSON from standard input.
    input: PathBuf,
    /// The slot; not needed where there is only one.
    #[arg(long)]
    slot: Option<String>,
}

pub fn run(args: &Args, config: &Config) -> Result<()> {
    let bytes = if args.input.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).context("standard input")?;
        bytes
    } else {
        std::fs::read(&args.input).with_context(|| args.input.display().to_string())?
    };
    let kind = kind(&bytes);
    let Some(kind) = kind else {
        bail!("{} is neither JSON nor .npy, PNG or JPEG", args.input.display());
    };
    let path = args.slot.as_ref().map_or_else(|| "/score".into(), |s| format!("/score/{s}"));
    let answer = super::local::request(config, &path, Some((kind, &bytes)))?;
    println!("{}", String::from_utf8_lossy(&answer).trim_end());
    Ok(())
}

/// The media type by the first bytes: names lie more often than contents.
pub fn kind(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes.iter().position(|b| !b.is_ascii_whitespace()).map_or(bytes, |i| &bytes[i..]);
    match start {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Some("application/x-npy"),
        [b'{' | b'[', ..] => Some("application/json"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn contents_tell_their_kind() {
        let table: [(&[u8], Option<&str>); 5] = [
            (b"\x89PNG\r\n", Some("image/png")),
            (b"\xff\xd8\xff\xe0", Some("image/jpeg")),
            (b"\x93NUMPY\x01\x00", Some("application/x-npy")),
            (b" \n{\"x\": 1}", Some("application/json")),
            (b"hello", None),
        ];
        for (bytes, want) in table {
            assert_eq!(kind(bytes), want);
        }
    }
}
