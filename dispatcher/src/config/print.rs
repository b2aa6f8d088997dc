//! The effective configuration as a TOML file that documents itself and can be used as it stands.

use std::fmt::Write as _;

use toml::Value;

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
        let _ = writeln!(out, "{name} = {}\n", without_password(value));
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// A broker's URL may carry a password, and what is printed ends up in tickets.
fn without_password(value: &Value) -> Value {
    let hidden = || {
        let (scheme, rest) = value.as_str()?.split_once("://")?;
        let (login, host) = rest.rsplit_once('@')?;
        let (user, _) = login.split_once(':')?;
        Some(Value::String(format!("{scheme}://{user}:HIDDEN@{host}")))
    };
    hidden().unwrap_or_else(|| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_printed() {
        let table = [
            ("mqtt://ann:p@ss@hub:1883", "mqtt://ann:HIDDEN@hub:1883"),
            ("mqtt://ann@hub", "mqtt://ann@hub"),
            ("mqtts://hub", "mqtts://hub"),
            ("a@b:c", "a@b:c"),
        ];
        for (value, want) in table {
            assert_eq!(without_password(&Value::String(value.into())), Value::String(want.into()));
        }
    }
}
