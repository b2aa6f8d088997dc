use std::fs;

use super::*;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("muster.toml");
    fs::write(&path, text).expect("written");
    (dir, path)
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn built_in_values_are_enough() {
    let loaded = load(None, [], &[]).expect("loads");
    assert_eq!(loaded.config.http_listen.to_string(), "127.0.0.1:8420");
    assert_eq!(loaded.config.hostnames, ["127.0.0.1", "localhost"]);
    assert_eq!(loaded.config.mqtt_broker, None);
    assert!(loaded.config.http_tls && loaded.warnings.is_empty());
}

#[test]
fn flags_outrank_variables_and_variables_the_file() {
    let (_dir, path) = file("data = 'file'\nworkspace = 'plant'\n[http]\nlisten = '127.0.0.1:1'\ntls = false\n");
    let variables = env(&[("MUSTER_HTTP_LISTEN", "127.0.0.1:2"), ("MUSTER_DATA", "variable"), ("PATH", "x")]);
    let loaded = load(Some(&path), variables, &[("data", "--data", "flag".into())]).expect("loads");
    assert_eq!(loaded.config.data, PathBuf::from("flag"));
    assert_eq!(loaded.config.http_listen.port(), 2);
    assert_eq!(loaded.config.workspace.as_str(), "plant");
    assert!(!loaded.config.http_tls);
}

#[test]
fn what_is_wrong_names_key_place_and_remedy() {
    let table = [
        ("[http]\nlisen = '127.0.0.1:1'", "there is no key `http.lisen` (in FILE); did you mean `http.listen`?"),
        ("htttp = 1", "did you mean"),
        ("[mqtt.deep]\nx = 1", "there is no key `mqtt.deep.x`"),
        ("http.listen = 'localhost'", "`http.listen` (from FILE): \"localhost\" is not an address and port"),
        ("http.listen = 8420", "`http.listen` (from FILE): takes a string in quotes, not integer"),
        ("http.tls = 'yes'", "takes true or false, not string"),
        ("hostnames = 'a'", "takes an array of strings, not string"),
        ("hostnames = ['a', 1]", "takes a string in quotes, not integer"),
        ("workspace = 'a/b'", "workspace \"a/b\" is not valid"),
        ("data = ''", "is empty"),
        ("log.format = 'xml'", "there are text and json"),
        ("data = ", "FILE is not TOML"),
    ];
    for (text, want) in table {
        let (_dir, path) = file(text);
        let error = load(Some(&path), [], &[]).expect_err(text).to_string();
        let got = error.replace(&path.display().to_string(), "FILE");
        assert!(got.contains(want), "{text:?} gave {got:?}, wanted {want:?}");
    }
}

#[test]
fn a_wrong_variable_or_flag_is_named() {
    let error = load(None, env(&[("MUSTER_HTTP_TLS", "perhaps")]), &[]).expect_err("refused").to_string();
    assert_eq!(error, "`http.tls` (from the variable MUSTER_HTTP_TLS): \"perhaps\" is neither true nor false");
    let error = load(None, [], &[("http.listen", "--listen", "x".into())]).expect_err("refused").to_string();
    assert!(error.starts_with("`http.listen` (from the flag --listen): "), "{error}");
    let missing = Path::new("/nonexistent/muster.toml");
    assert!(matches!(load(Some(missing), [], &[]), Err(Error::Unreadable { .. })));
}

#[test]
fn foreign_variables_are_warned_of_and_kubernetes_is_not() {
    let variables = env(&[
        ("MUSTER_HTTP_LISEN", "1"),
        ("MUSTER_PORT_8420_TCP", "tcp://10.0.0.1:8420"),
        ("MUSTER_SERVICE_HOST", "10.0.0.1"),
        ("MUSTER_TOKEN", "secret"),
    ]);
    let warnings = load(None, variables, &[]).expect("loads").warnings;
    assert_eq!(warnings, ["the variable MUSTER_HTTP_LISEN sets nothing; did you mean MUSTER_HTTP_LISTEN?"]);
}

#[test]
fn the_printed_configuration_can_be_used_as_it_stands() {
    let flags = [("hostnames", "--hostname", "hub.example, 10.0.0.7".to_owned())];
    let loaded = load(None, env(&[("MUSTER_LOG_FORMAT", "json")]), &flags).expect("loads");
    let printed = effective(&loaded.values);
    assert!(printed.contains("# Variable: MUSTER_LOG_FORMAT. This value is from the variable MUSTER_LOG_FORMAT.\n"));
    let (_dir, path) = file(&printed);
    assert_eq!(load(Some(&path), [], &[]).expect("loads").config, loaded.config);
    for key in KEYS {
        assert!(!key.doc.trim().is_empty() && printed.contains(&key.variable()), "{} is not documented", key.name);
    }
}
