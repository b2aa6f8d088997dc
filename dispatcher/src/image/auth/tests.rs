use super::*;

fn basic(username: &str, password: &str) -> Auth {
    Auth::Basic { username: username.to_owned(), password: password.to_owned() }
}

fn in_file(json: &str, name: &str) -> Result<Option<Auth>, Error> {
    look(Path::new("config.json"), json.as_bytes(), &name.parse().expect("a name"))
}

#[test]
fn a_login_is_found_as_docker_and_podman_leave_it() {
    // "u:p:q", and Azure's user with an empty password.
    let user = "dTpwOnE=";
    let azure = "MDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwOg==";
    for (json, name, found) in [
        (
            format!(r#"{{"auths":{{"hub.example:5000":{{"auth":"{user}"}}}}}}"#),
            "hub.example:5000/a:1",
            basic("u", "p:q"),
        ),
        (
            format!(r#"{{"auths":{{"https://hub.example/v1/":{{"auth":"{user}"}}}}}}"#),
            "hub.example/a:1",
            basic("u", "p:q"),
        ),
        (
            format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{user}"}}}}}}"#),
            "docker.io/me/a:1",
            basic("u", "p:q"),
        ),
        (
            format!(r#"{{"auths":{{"hub.example":{{"auth":"x"}},"hub.example/a":{{"auth":"{user}"}}}}}}"#),
            "hub.example/a/b:1",
            basic("u", "p:q"),
        ),
        (
            format!(r#"{{"auths":{{"me.azurecr.io":{{"auth":"{azure}","identitytoken":"refresh"}}}}}}"#),
            "me.azurecr.io/a:1",
            basic(AZURE_TOKEN_USER, "refresh"),
        ),
        (
            r#"{"auths":{"me.azurecr.io":{"identitytoken":"refresh"}}}"#.to_owned(),
            "me.azurecr.io/a:1",
            basic(AZURE_TOKEN_USER, "refresh"),
        ),
        (
            r#"{"auths":{"hub.example":{"registrytoken":"t"}}}"#.to_owned(),
            "hub.example/a:1",
            Auth::Bearer("t".to_owned()),
        ),
        (r#"{"auths":{"hub.example":{"username":"u","password":"p"}}}"#.to_owned(), "hub.example/a:1", basic("u", "p")),
    ] {
        assert_eq!(in_file(&json, name).expect(&json), Some(found), "{json}");
    }
}

#[test]
fn a_login_of_another_registry_is_not_used() {
    for json in [
        "{}",
        r#"{"auths":{"hub.example":{"auth":"dTpw"}}}"#,
        r#"{"auths":{"hub.example:5000/b":{"auth":"dTpw"}}}"#,
        r#"{"credsStore":"desktop","credHelpers":{"other.example":"ecr-login"}}"#,
    ] {
        assert_eq!(in_file(json, "hub.example:5000/a:1").expect(json), None, "{json}");
    }
}

#[test]
fn what_cannot_be_used_is_said() {
    for (json, words) in [
        ("[", "do not read"),
        (r#"{"auths":{"hub.example":{"auth":"?"}}}"#, "is damaged; log in again"),
        (r#"{"auths":{"hub.example":{"username":"u"}}}"#, "is damaged; log in again"),
        (r#"{"credHelpers":{"hub.example":"acr-env"}}"#, "docker-credential-acr-env, which muster does not run"),
        (r#"{"auths":{"hub.example":{}},"credsStore":"desktop"}"#, "docker-credential-desktop, which muster"),
    ] {
        let error = in_file(json, "hub.example/a:1").expect_err(json).to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

#[test]
fn flags_and_environment_come_before_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.json");
    std::fs::write(&file, r#"{"auths":{"hub.example":{"auth":"ZjpmCg=="}}}"#).expect("written");
    let name = "hub.example/a:1".parse().expect("a name");
    let find = |flag: Option<&str>, set: &[(&str, &str)]| {
        let docker = folder.path().to_string_lossy().into_owned();
        let sources = Sources::new(flag.map(str::to_owned), |key| match key {
            "DOCKER_CONFIG" => Some(docker.clone()),
            _ => set.iter().find(|(k, _)| *k == key).map(|(_, v)| (*v).to_owned()),
        });
        sources.find(&name).map_err(|e| e.to_string())
    };
    let password = ("MUSTER_REGISTRY_PASSWORD", "p");
    assert_eq!(find(None, &[]), Ok(basic("f", "f\n")));
    assert_eq!(find(Some("u"), &[password]), Ok(basic("u", "p")));
    assert_eq!(find(None, &[password, ("MUSTER_REGISTRY_USERNAME", "e")]), Ok(basic("e", "p")));
    assert_eq!(find(None, &[("MUSTER_REGISTRY_TOKEN", "t")]), Ok(Auth::Bearer("t".to_owned())));
    for (flag, set, words) in [
        (Some("u"), &[][..], "set MUSTER_REGISTRY_PASSWORD"),
        (None, &[password], "give --username"),
        (Some("u"), &[password, ("MUSTER_REGISTRY_TOKEN", "t")], "unset"),
        (None, &[("REGISTRY_AUTH_FILE", "/nowhere")], "cannot read the logins in /nowhere"),
    ] {
        let error = find(flag, set).expect_err(words);
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

#[test]
fn secrets_do_not_get_into_logs() {
    let shown = format!("{:?} {:?}", basic("u", "secret"), Auth::Bearer("secret".to_owned()));
    assert!(!shown.contains("secret"), "{shown}");
}
