//! What the tests of images are made of: small programs and a recipe.

use std::collections::BTreeMap;
use std::path::Path;

use super::Recipe;
use super::platform::Platform;
use super::sbom::Crate;

/// The smallest file that passes for a program of `platform`; with a loader, for a dynamic one.
pub(crate) fn elf(platform: Platform, loader: Option<&str>) -> Vec<u8> {
    let (wide, machine): (bool, u16) = match platform {
        Platform::Amd64 => (true, 62),
        Platform::Arm64 => (true, 183),
        Platform::ArmV7 => (false, 40),
    };
    let (head, segment) = if wide { (64_u16, 56_u16) } else { (52, 32) };
    let name = loader.unwrap_or_default().as_bytes();
    let at = u64::from(head + segment);
    let mut bytes = vec![0_u8; usize::from(head + segment)];
    let mut put = |place: usize, value: u64, width: usize| {
        bytes[place..place + width].copy_from_slice(&value.to_le_bytes()[..width]);
    };
    put(4, if wide { 2 } else { 1 }, 1);
    put(5, 1, 1);
    put(16, 2, 2);
    put(18, u64::from(machine), 2);
    let kind = if loader.is_some() { 3 } else { 1 };
    let start = usize::from(head);
    if wide {
        put(24, 0x40_0000, 8);
        put(32, u64::from(head), 8);
        put(54, u64::from(segment), 2);
        put(56, 1, 2);
        put(start, kind, 4);
        put(start + 8, at, 8);
        put(start + 32, name.len() as u64, 8);
    } else {
        put(24, 0x1_0000, 4);
        put(28, u64::from(head), 4);
        put(42, u64::from(segment), 2);
        put(44, 1, 2);
        put(start, kind, 4);
        put(start + 4, at, 4);
        put(start + 16, name.len() as u64, 4);
    }
    bytes[..4].copy_from_slice(b"\x7fELF");
    bytes.extend_from_slice(name);
    bytes
}

/// Writes two programs and a small bundle below `folder`, and says how they become an image.
pub(crate) fn recipe(folder: &Path) -> Recipe {
    let bundle = folder.join("bundle");
    std::fs::create_dir_all(bundle.join("weights")).expect("made");
    std::fs::write(bundle.join("model.onnx"), b"not really a model").expect("written");
    std::fs::write(bundle.join("weights/layer 1.bin"), [7_u8; 5000]).expect("written");
    let mut binaries = Vec::new();
    for platform in [Platform::Arm64, Platform::Amd64] {
        let path = folder.join(platform.architecture());
        std::fs::write(&path, elf(platform, None)).expect("written");
        binaries.push((platform, path));
    }
    Recipe {
        name: "vision/digits:3".to_owned(),
        binaries,
        bundle,
        config: b"[serve]\n".to_vec(),
        model: "vision/digits".to_owned(),
        version: 3,
        digest: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned(),
        created: 1_790_000_000,
        labels: BTreeMap::from([("team".to_owned(), "vision".to_owned())]),
        description: "Digits in pictures".to_owned(),
        licence: Some("CC-BY-4.0".to_owned()),
        certificates: None,
        agent_version: "0.0.1".to_owned(),
        crates: vec![Crate { name: "serde".to_owned(), version: "1.0.0".to_owned(), checksum: Some("ab".repeat(32)) }],
    }
}
