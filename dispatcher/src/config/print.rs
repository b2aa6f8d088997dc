//! The effective configuration as a TOML file that documents itself and can be used as it stands.

use std::fmt::Write as _;

use super::{KEYS, Key, Values};

/// Every key with its documentation, its variable, its value and where that came from.
pub fn effective(values: &Values) -> String {
    let mut out = String::new();
    let mut section = "";
    for key in KEYS {
        let (table, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if table != section {
            section = table;
            let _ = writeln!(out, "[{table}]");
        }
        let (value, origin) = values.get(key.name);
        for line in key.doc.lines() {
            let _ = writeln!(out, "#{line}");
        }
        let _ = writeln!(out, "# Variable: {}. This value is from {origin}.", Key::variable(key));
        let _ = writeln!(out, "{name} = {value}\n");
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}
