//! Files that tests compare with what is checked in.

use std::path::Path;

/// Compares `got` with `tests/golden/{name}`; `UPDATE_GOLDEN=1` writes it.
pub(crate) fn compare(name: &str, got: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, got).expect("written");
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(got == want, "{name} differs from what is checked in; look at it with UPDATE_GOLDEN=1 and git diff");
}
