//! What a binary has to be for the machines that an image is for. Reads the head of an ELF file, no more.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::str::FromStr;

/// A kind of machine that an image is for. Always Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Platform {
    /// x86 with 64 bits.
    Amd64,
    /// ARM with 64 bits.
    Arm64,
    /// ARM with 32 bits, version 7.
    ArmV7,
}

/// Why a file cannot be a container's only program.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It has no ELF head.
    #[error("it is no Linux program (no ELF header)")]
    NoElf,
    /// Its tables contradict its head.
    #[error("its ELF header is damaged")]
    Damaged,
    /// It is for other machines.
    #[error("it is a program for {found}")]
    Machine {
        /// What it is for.
        found: String,
    },
    /// It is a library or an object file.
    #[error("it is no program that can be started (ELF type {kind})")]
    NoProgram {
        /// The ELF type.
        kind: u16,
    },
    /// It asks for a dynamic linker, which the image has not.
    #[error("it is linked dynamically (it asks for {loader}) and the image holds no libraries")]
    Dynamic {
        /// The linker that it asks for.
        loader: String,
    },
}

/// The word is no platform.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown platform {0:?}; say linux/amd64, linux/arm64 or linux/arm/v7")]
pub struct Unknown(String);

const EXECUTABLE: u16 = 2;
const POSITION_INDEPENDENT: u16 = 3;
const SEGMENT_INTERPRETER: u32 = 3;
/// The most entries of a program header table that are looked at; real programs have about ten.
const MAX_SEGMENTS: u16 = 256;
/// The longest name of a dynamic linker that is shown.
const MAX_LOADER: u64 = 128;

impl Platform {
    /// The architecture as OCI names it.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::ArmV7 => "arm",
        }
    }

    /// The variant of the architecture, where OCI asks for one.
    pub fn variant(self) -> Option<&'static str> {
        (self == Self::ArmV7).then_some("v7")
    }

    /// The target by which the agent is built for it.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
            Self::ArmV7 => "armv7-unknown-linux-musleabihf",
        }
    }

    fn machine(self) -> (u8, u16) {
        match self {
            Self::Amd64 => (2, 62),
            Self::Arm64 => (2, 183),
            Self::ArmV7 => (1, 40),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture())?;
        self.variant().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        match text.strip_prefix("linux/").unwrap_or(text) {
            "amd64" | "x86_64" => Ok(Self::Amd64),
            "arm64" | "arm64/v8" | "aarch64" => Ok(Self::Arm64),
            "arm/v7" | "armv7" => Ok(Self::ArmV7),
            _ => Err(Unknown(text.to_owned())),
        }
    }
}

/// Checks that `file` is a static program for `platform`. The outer error is that of reading.
///
/// Source: System V ABI, generic part, chapters 4 (ELF header) and 5 (program header).
pub fn check(platform: Platform, file: &mut (impl Read + Seek)) -> std::io::Result<Result<(), Fault>> {
    let mut head = [0_u8; 64];
    let got = read_some(file, &mut head)?;
    if got < 52 || head[..4] != *b"\x7fELF" {
        return Ok(Err(Fault::NoElf));
    }
    let (class, machine) = (head[4], u16_at(&head, 18));
    // Byte order: every platform of an image is little-endian.
    if head[5] != 1 || (class, machine) != platform.machine() {
        return Ok(Err(Fault::Machine { found: describe(class, machine) }));
    }
    let wide = class == 2;
    let kind = u16_at(&head, 16);
    let entry = if wide { u64_at(&head, 24) } else { u64::from(u32_at(&head, 24)) };
    // A shared library is of the same type as a program that may be loaded anywhere, but has no entry.
    if !(kind == EXECUTABLE || kind == POSITION_INDEPENDENT && entry != 0) {
        return Ok(Err(Fault::NoProgram { kind }));
    }
    let (table, size, count) = if wide {
        (u64_at(&head, 32), u16_at(&head, 54), u16_at(&head, 56))
    } else {
        (u64::from(u32_at(&head, 28)), u16_at(&head, 42), u16_at(&head, 44))
    };
    if count == 0 || count > MAX_SEGMENTS || size < if wide { 56 } else { 32 } {
        return Ok(Err(Fault::Damaged));
    }
    for index in 0..count {
        // A place beyond what a file can have cannot be sought.
        let place = table.checked_add(u64::from(index) * u64::from(size)).filter(|p| i64::try_from(*p).is_ok());
        let Some(place) = place else {
            return Ok(Err(Fault::Damaged));
        };
        let mut segment = [0_u8; 56];
        file.seek(SeekFrom::Start(place))?;
        let length = if wide { 56 } else { 32 };
        if read_some(file, &mut segment[..length])? < length {
            return Ok(Err(Fault::Damaged));
        }
        if u32_at(&segment, 0) == SEGMENT_INTERPRETER {
            let (at, length) = if wide {
                (u64_at(&segment, 8), u64_at(&segment, 32))
            } else {
                (u64::from(u32_at(&segment, 4)), u64::from(u32_at(&segment, 16)))
            };
            return Ok(Err(Fault::Dynamic { loader: loader(file, at, length)? }));
        }
    }
    Ok(Ok(()))
}

fn loader(file: &mut (impl Read + Seek), at: u64, length: u64) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(at))?;
    let mut name = Vec::new();
    file.take(length.min(MAX_LOADER)).read_to_end(&mut name)?;
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}

fn describe(class: u8, machine: u16) -> String {
    match (class, machine) {
        (2, 62) => "x86-64".to_owned(),
        (1, 3) => "x86 with 32 bits".to_owned(),
        (2, 183) => "ARM with 64 bits".to_owned(),
        (1, 40) => "ARM with 32 bits".to_owned(),
        (_, 243) => "RISC-V".to_owned(),
        _ => format!("another machine (ELF machine {machine})"),
    }
}

fn read_some(file: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    use crate::image::testing::elf;

    fn judge(platform: Platform, bytes: Vec<u8>) -> Result<(), Fault> {
        check(platform, &mut Cursor::new(bytes)).expect("read")
    }

    #[test]
    fn platforms_are_written_as_they_are_read() {
        for (text, platform) in
            [("linux/amd64", Platform::Amd64), ("linux/arm64", Platform::Arm64), ("linux/arm/v7", Platform::ArmV7)]
        {
            assert_eq!(text.parse(), Ok(platform));
            assert_eq!(platform.to_string(), text);
        }
        assert_eq!("aarch64".parse(), Ok(Platform::Arm64));
        assert!("windows/amd64".parse::<Platform>().is_err());
    }

    #[test]
    fn a_static_program_of_the_platform_is_taken() {
        for platform in [Platform::Amd64, Platform::Arm64, Platform::ArmV7] {
            assert_eq!(judge(platform, elf(platform, None)), Ok(()));
        }
    }

    #[test]
    fn everything_else_is_refused_in_words() {
        let dynamic = elf(Platform::ArmV7, Some("/lib/ld-linux-armhf.so.3"));
        let mut library = elf(Platform::Amd64, None);
        library[16] = 3;
        library[24..32].fill(0);
        let mut object = elf(Platform::Amd64, None);
        object[16] = 1;
        let mut far = elf(Platform::Amd64, None);
        far[32..40].fill(0xff);
        for (platform, bytes, words) in [
            (Platform::Amd64, b"#!/bin/sh\n".to_vec(), "no Linux program"),
            (Platform::Amd64, Vec::new(), "no Linux program"),
            (Platform::Arm64, elf(Platform::Amd64, None), "a program for x86-64"),
            (Platform::Amd64, elf(Platform::ArmV7, None), "a program for ARM with 32 bits"),
            (Platform::ArmV7, dynamic, "asks for /lib/ld-linux-armhf.so.3"),
            (Platform::Amd64, library, "no program that can be started"),
            (Platform::Amd64, object, "no program that can be started"),
            (Platform::Amd64, far, "damaged"),
            (Platform::Amd64, elf(Platform::Amd64, None)[..64].to_vec(), "damaged"),
        ] {
            let fault = judge(platform, bytes).expect_err("refused").to_string();
            assert!(fault.contains(words), "{fault:?} does not say {words:?}");
        }
    }
}
