//! Each resource from its making to its end.

use muster_proto::id::Digest;
use serde_json::{Value, json};

use crate::fixture::{Dispatcher, digits};

fn names(list: &Value) -> Vec<String> {
    let item = |v: &Value| format!("{}:{}", v["model"].as_str().unwrap(), v["version"]);
    list["items"].as_array().unwrap().iter().map(item).collect()
}

#[tokio::test]
async fn a_model_lives_from_registration_to_deletion() {
    let dispatcher = Dispatcher::start().await;
    let first = dispatcher.register("vision/digits", 1).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let again = dispatcher.register("vision/digits", 1).await;
    assert_eq!((again.status.as_u16(), &again.json()["already_registered"]), (200, &json!(true)));
    assert_eq!(dispatcher.register("vision/digits", 2).await.json()["version"], 2);

    for (query, want) in [
        ("", vec!["vision/digits:1", "vision/digits:2"]),
        ("?name=vision%2F*", vec!["vision/digits:1", "vision/digits:2"]),
        ("?name=other", vec![]),
        ("?tag=stage%3Dcandidate&property=data", vec!["vision/digits:1", "vision/digits:2"]),
        ("?tag=stage%3Dproduction", vec![]),
    ] {
        assert_eq!(names(&dispatcher.get(&format!("/v1/models{query}")).await.json()), want, "{query}");
    }

    let newest = dispatcher.get("/v1/models/vision%2Fdigits").await.json();
    assert_eq!(newest["summary"]["version"], 2);
    assert_eq!(newest["target"], "vision/digits/2/manifest");
    let base = "/v1/models/vision%2Fdigits/versions/1";
    let shown = dispatcher.get(base).await.json();

    let manifest = dispatcher.get(&format!("{base}/manifest")).await;
    assert_eq!(shown["summary"]["digest"], Digest::of(&manifest.body).to_string());
    let bytes = digits("digits-1.onnx");
    let file = dispatcher.get(&format!("{base}/files/{}", Digest::of(&bytes))).await;
    assert_eq!(file.body, bytes);
    assert_eq!(file.header("content-length"), bytes.len().to_string());
    assert_eq!(file.header("etag"), format!("\"{}\"", Digest::of(&bytes)));
    assert_eq!(file.header("content-disposition"), "attachment; filename=\"digits.onnx\"");
    dispatcher.get(&format!("{base}/files/{}", Digest::of(b"other"))).await.problem(404, "not_found");

    let change = json!({ "set": { "stage": "production" }, "remove": ["none"] });
    let tags = dispatcher.call("PATCH", &format!("{base}/tags"), Some(change)).await.json();
    assert_eq!(tags, json!({ "stage": "production" }));
    assert_eq!(dispatcher.call("DELETE", base, None).await.status, 204);
    dispatcher.get(base).await.problem(404, "not_found");

    let actions: Vec<Value> = dispatcher.get("/v1/audit?limit=3").await.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["action"].clone())
        .collect();
    assert_eq!(actions, ["model.delete", "model.tag", "model.register"]);
}

#[tokio::test]
async fn any_tuf_client_finds_the_repository() {
    let dispatcher = Dispatcher::start().await;
    let digest = dispatcher.register("vision/digits", 1).await.json()["digest"].as_str().unwrap().to_owned();
    let timestamp = dispatcher.get("/tuf/metadata/timestamp.json").await;
    assert_eq!(timestamp.header("content-type"), "application/json");
    let snapshot = timestamp.json()["signed"]["meta"]["snapshot.json"]["version"].clone();
    let snapshot = dispatcher.get(&format!("/tuf/metadata/{snapshot}.snapshot.json")).await.json();
    let targets = snapshot["signed"]["meta"]["targets.json"]["version"].clone();
    let targets = dispatcher.get(&format!("/tuf/metadata/{targets}.targets.json")).await.json();
    assert_eq!(targets["signed"]["targets"]["vision/digits/1/manifest"]["hashes"]["sha256"], digest);
    let target = dispatcher.get(&format!("/tuf/targets/vision/digits/1/{digest}.manifest")).await;
    assert_eq!(Digest::of(&target.body).to_string(), digest);
    assert_eq!(dispatcher.get("/tuf/metadata/1.root.json").await.json()["signed"]["_type"], "root");
    dispatcher.get("/tuf/metadata/2.root.json").await.problem(404, "not_found");
    assert_eq!(dispatcher.get("/tuf/director/1.root.json").await.json()["signed"]["_type"], "root");
    for climbing in
        ["/tuf/metadata/..%2F..%2Fmuster.db", "/tuf/director/..%2F1.root.json", "/tuf/targets/../admin.toml"]
    {
        dispatcher.get(climbing).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn groups_tokens_and_rollouts_have_their_states() {
    let dispatcher = Dispatcher::start().await;
    let set = json!({ "selector": { "site": "ulm" } });
    let group = dispatcher.call("PUT", "/v1/groups/ulm", Some(set.clone())).await;
    assert_eq!((group.status.as_u16(), &group.json()["selector"]), (200, &set["selector"]));
    assert_eq!(dispatcher.get("/v1/groups").await.json()["items"][0]["group"], "ulm");

    let token = dispatcher.call("POST", "/v1/enroll-tokens", Some(json!({ "groups": ["ulm"], "uses": 3 }))).await;
    assert_eq!(token.status, 201);
    assert!(token.json()["token"].as_str().unwrap().starts_with("muster1."));

    dispatcher.register("digits", 1).await;
    let request = json!({ "model": "digits", "target": { "groups": ["ulm"] } });
    let rollout = dispatcher.call("POST", "/v1/rollouts", Some(request.clone())).await;
    assert_eq!(rollout.status, 201, "{}", rollout.text());
    let id = rollout.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(dispatcher.get("/v1/rollouts").await.json()["items"][0]["id"], id);
    assert_eq!(dispatcher.get(&format!("/v1/rollouts/{id}")).await.json()["devices"], json!([]));

    let unknown = json!({ "model": "digits", "version": 9, "target": { "all": true } });
    dispatcher.call("POST", "/v1/rollouts", Some(unknown)).await.problem(404, "not_found");
    assert_eq!(dispatcher.get("/v1/devices").await.json(), json!({ "items": [] }));
    assert_eq!(dispatcher.get("/v1/telemetry").await.json(), json!({ "items": [] }));
    assert_eq!(dispatcher.get("/v1/info").await.json()["workspace"], "default");
}
