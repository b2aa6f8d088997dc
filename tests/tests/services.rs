//! Services with the real binaries: made, asked, changed under load, and found again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use muster_tests::processes::{Dispatcher, digits, wait_for};
use serde_json::{Value, json};

/// How many callers ask at once.
const CALLERS: usize = 4;

/// One request: the status, the version that answered, and the body.
fn ask(url: &str, key: Option<&str>) -> Result<(u16, Option<String>, Value)> {
    let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
    ask_with(&agent, url, key)
}

fn ask_with(agent: &ureq::Agent, url: &str, key: Option<&str>) -> Result<(u16, Option<String>, Value)> {
    let mut request = agent.post(url).header("content-type", "image/png");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let mut answer = request.send(std::fs::read(digits("seven.png"))?)?;
    let version = answer.headers().get("muster-model-version").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let body = answer.body_mut().read_to_string()?;
    Ok((answer.status().as_u16(), version, serde_json::from_str(&body).unwrap_or(Value::Null)))
}

/// Callers that ask without a pause and note which version answered, or what went wrong.
struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Result<Vec<String>>>>,
}

impl Load {
    fn start(url: &str, key: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let caller = |_| {
            let (stop, url, key) = (Arc::clone(&stop), url.to_owned(), key.to_owned());
            std::thread::spawn(move || {
                let config = ureq::Agent::config_builder().http_status_as_error(false).build();
                let agent = ureq::Agent::new_with_config(config);
                let mut versions = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let (status, version, body) = ask_with(&agent, &url, Some(&key))?;
                    ensure!(status == 200, "{status} {body}");
                    versions.push(version.context("no version")?);
                }
                Ok(versions)
            })
        };
        let callers = (0..CALLERS).map(caller).collect();
        Self { stop, callers }
    }

    fn end(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for caller in self.callers {
            all.extend(caller.join().expect("no panic")?);
        }
        Ok(all)
    }
}

#[test]
fn a_service_keeps_its_address_and_keys_through_changes_under_load() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut dispatcher = Dispatcher::start(folder.path(), &[])?;
    dispatcher.register_digits(1)?;
    dispatcher.register_digits(2)?;
    // Room for all callers: what a full queue does is another test's matter.
    let created = dispatcher.cli(&["service", "create", "digits", "--model", "digits:1", "--queue", "100"])?;
    ensure!(created["service"]["state"] == "Healthy", "{created}");
    let url = created["service"]["scoring_url"].as_str().context("a URL")?.to_owned();
    let key = |index: usize| created["keys"][index]["key"].as_str().map(str::to_owned).context("a key");
    let (primary, secondary) = (key(0)?, key(1)?);

    for good in [&primary, &secondary] {
        let (status, version, body) = ask(&url, Some(good))?;
        ensure!((status, version.as_deref()) == (200, Some("1")), "{status} {body}");
        ensure!(body["outputs"]["logits"][0][0]["label"] == "7", "{body}");
    }
    for bad in [None, Some("musters_wrong")] {
        let (status, _, body) = ask(&url, bad)?;
        ensure!((status, &body["code"]) == (401, &json!("unauthorized")), "{status} {body}");
    }
    let seven = digits("seven.png").display().to_string();
    let scored = dispatcher.cli(&["service", "score", "digits", "--data", &seven])?;
    ensure!(scored["version"] == 1, "{scored}");

    let load = Load::start(&url, &primary);
    dispatcher.cli(&["service", "update", "digits", "--model", "digits:2", "--canary", "10%"])?;
    // A dispatcher that is away takes nothing away, and finds everything again.
    dispatcher.process.kill();
    ensure!(ask(&url, Some(&secondary))?.0 == 200);
    dispatcher.restart()?;
    dispatcher.cli(&["service", "wait", "digits"])?;
    let promoted = dispatcher.cli(&["service", "promote", "digits"])?;
    ensure!(promoted["scoring_url"].as_str() == Some(url.as_str()), "{promoted}");
    let again = dispatcher.cli(&["service", "rollback", "digits"])?;
    ensure!(again["revisions"][0]["model"] == "digits:1", "{again}");
    let updated = dispatcher.cli(&["service", "update", "digits", "--model", "digits:2"])?;
    ensure!(updated["revisions"][0]["model"] == "digits:2", "{updated}");
    wait_for("version 2 alone", || ask(&url, Some(&primary)).ok().filter(|answer| answer.1.as_deref() == Some("2")))?;
    let versions = load.end()?;
    ensure!(versions.iter().any(|v| v == "1") && versions.iter().any(|v| v == "2"), "{} answers", versions.len());

    // One key is made anew, the other goes on.
    let made = dispatcher.cli(&["service", "keys", "regenerate", "digits", "secondary"])?;
    let new = made["key"].as_str().context("a key")?;
    wait_for("the new key", || ask(&url, Some(new)).ok().filter(|answer| answer.0 == 200))?;
    ensure!(ask(&url, Some(&secondary))?.0 == 401, "the old key still opens");
    ensure!(ask(&url, Some(&primary))?.0 == 200, "the other key does not open");

    let refused = dispatcher.command(&["model", "delete", "digits:2"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("service digits"), "{said}");
    ensure!(dispatcher.command(&["service", "delete", "digits"])?.status.success());
    ensure!(ask(&url, Some(&primary)).is_err(), "a deleted service answers");
    ensure!(dispatcher.command(&["model", "delete", "digits:2"])?.status.success());
    Ok(())
}

#[test]
fn what_cannot_be_served_is_refused_with_a_reason() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dispatcher = Dispatcher::start(folder.path(), &[])?;
    dispatcher.register_digits(1)?;
    let table: [(&[&str], &str); 6] = [
        (&["service", "create", "Digits", "--model", "digits:1"], "lower-case letters"),
        (&["service", "create", "digits", "--model", "digits:9"], "digits:9"),
        (&["service", "create", "digits", "--model", "digits:1", "--concurrency", "0"], "concurrency"),
        (&["service", "create", "digits", "--model", "digits:1", "--target", "kubernetes"], "muster image build"),
        (&["service", "show", "digits"], "service digits"),
        (&["service", "promote", "digits"], "service digits"),
    ];
    for (arguments, part) in table {
        let output = dispatcher.command(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(part), "{arguments:?}: {said}");
    }
    let created = dispatcher.cli(&["service", "create", "digits", "--model", "digits:1", "--no-auth"])?;
    ensure!(created["keys"] == json!([]), "{created}");
    let twice = dispatcher.command(&["service", "create", "digits", "--model", "digits:1"])?;
    ensure!(String::from_utf8_lossy(&twice.stderr).contains("service update digits"));
    let url = created["service"]["scoring_url"].as_str().context("a URL")?.to_owned();
    ensure!(ask(&url, None)?.0 == 200);

    let log = dispatcher.command(&["service", "logs", "digits"])?;
    ensure!(String::from_utf8_lossy(&log.stdout).contains("listening"), "{log:?}");
    let rendered = dispatcher.command(&["service", "render", "digits", "--image", "registry.example/digits:1"])?;
    let text = String::from_utf8_lossy(&rendered.stdout).into_owned();
    ensure!(rendered.status.success() && text.contains("kind: Deployment"), "{text}");
    ensure!(dispatcher.command(&["service", "delete", "digits"])?.status.success());
    Ok(())
}

/// Runs a program as a person would who was sent it, with a key.
fn run_program(program: &str, argument: &str, text: &str, key: &str) -> Result<String> {
    let output = std::process::Command::new(program).arg(argument).arg(text).env("KEY", key).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{program}: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

#[test]
fn a_file_becomes_a_service_and_programs_that_ask_it_run_as_they_stand() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dispatcher = Dispatcher::start(folder.path(), &[])?;
    let file = |version: u32| digits(&format!("digits-{version}.onnx")).display().to_string();
    let refused = dispatcher.command(&["service", "create", "seven", "--model", "seven:3", "--file", &file(1)])?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("without a version"), "{refused:?}");
    let created = dispatcher.cli(&["service", "create", "seven", "--file", &file(1)])?;
    ensure!(created["service"]["revisions"][0]["model"] == "seven:1", "{created}");
    let key = created["keys"][0]["key"].as_str().context("a key")?;
    for (language, program, argument, needs) in [("python", "python3", "-c", "python3"), ("curl", "sh", "-c", "curl")] {
        if std::process::Command::new(needs).arg("--version").output().is_err() {
            eprintln!("not run: there is no {needs}");
            continue;
        }
        let made = dispatcher.cli(&["service", "client", "seven", "--lang", language])?;
        let text = made["program"].as_str().context("a program")?;
        let said = run_program(program, argument, text, key)?;
        ensure!(said.contains("logits"), "{said}");
        ensure!(run_program(program, argument, text, "musters_wrong").is_err(), "a wrong key opens");
    }
    let updated = dispatcher.cli(&["service", "update", "seven", "--file", &file(2)])?;
    ensure!(updated["revisions"][0]["model"] == "seven:2", "{updated}");
    ensure!(dispatcher.command(&["service", "delete", "seven"])?.status.success());
    Ok(())
}

#[test]
fn files_are_scored_in_a_batch_with_a_version_that_was_verified() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dispatcher = Dispatcher::start(folder.path(), &[])?;
    dispatcher.register_digits(1)?;
    let input = folder.path().join("images");
    std::fs::create_dir(&input)?;
    std::fs::copy(digits("seven.png"), input.join("a.png"))?;
    std::fs::write(input.join("b.png"), "no image")?;
    let (input, output) = (format!("{}/*.png", input.display()), folder.path().join("scores"));
    let place = output.display().to_string();
    let run = ["batch", "run", "--model", "digits:1", "--input", &input, "--output", &place];
    let ran = dispatcher.command(&run)?;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    ensure!(ran.status.code() == Some(3), "{}: {said}", ran.status);
    let read = |name: &str| std::fs::read_to_string(output.join(name)).with_context(|| name.to_owned());
    let row: Value = serde_json::from_str(read("part-00000.jsonl")?.trim())?;
    ensure!(row["outputs"]["logits"][0]["label"] == "7", "{row}");
    let error: Value = serde_json::from_str(read("errors.jsonl")?.trim())?;
    ensure!(error["file"].as_str().is_some_and(|file| file.ends_with("b.png")), "{error}");
    let summary: Value = serde_json::from_str(&read("summary.json")?)?;
    ensure!((&summary["ok"], &summary["failed"]) == (&json!(1), &json!(1)), "{summary}");
    Ok(())
}
