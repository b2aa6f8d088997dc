//! Patterns of file names: `*` and `?` in any part of a path, for shells that do not expand them.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Whether `text` is meant as a pattern.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// The files and folders that match, sorted.
pub fn expand(pattern: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in Path::new(pattern).components() {
        let text = component.as_os_str().to_string_lossy();
        let mut next = Vec::new();
        for base in &found {
            match component {
                Component::Normal(_) if is_pattern(&text) => next.extend(children(base, &text)?),
                _ => next.push(base.join(component)),
            }
        }
        found = next;
    }
    found.retain(|path| path.exists());
    found.sort();
    Ok(found)
}

fn children(folder: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if !listed.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(listed)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        // As in a shell, hidden files have to be named.
        if matches(pattern, &text) && (pattern.starts_with('.') || !text.starts_with('.')) {
            found.push(folder.join(&name));
        }
    }
    Ok(found)
}

/// Whether `name` fits `pattern`; in time that grows with the product of their lengths, whatever they are.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut of, mut star) = (0, 0, None);
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(one) if *one == '?' || *one == name[of] => (at, of) = (at + 1, of + 1),
            _ => match star {
                // The star takes one more.
                Some((start, taken)) => {
                    star = Some((start, taken + 1));
                    (at, of) = (start + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match() {
        let table = [
            ("*.csv", "a.csv", true),
            ("*.csv", "a.csv.gz", false),
            ("part-?.npy", "part-1.npy", true),
            ("part-?.npy", "part-12.npy", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("*", "", true),
            ("é?", "éä", true),
        ];
        for (pattern, name, want) in table {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn patterns_reach_into_folders() {
        let dir = tempfile::tempdir().expect("temp dir");
        for path in ["2024/a.csv", "2025/b.csv", "2025/.hidden.csv", "2025/c.txt"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
            std::fs::write(path, "").expect("writes");
        }
        let found = expand(&format!("{}/20??/*.csv", dir.path().display())).expect("reads");
        let names: Vec<_> = found.iter().map(|p| p.strip_prefix(dir.path()).expect("below").to_owned()).collect();
        assert_eq!(names, [PathBuf::from("2024/a.csv"), PathBuf::from("2025/b.csv")]);
        assert!(expand(&format!("{}/nothing/*", dir.path().display())).expect("reads").is_empty());
    }
}
