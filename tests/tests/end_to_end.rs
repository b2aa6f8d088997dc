//! The real binaries, from an empty folder to an answer.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_tests::processes::{Agent, Dispatcher, Mosquitto, Process, digits, wait_for};
use muster_tests::world::rng::Rng;

fn seven() -> Vec<u8> {
    std::fs::read(digits("seven.png")).expect("seven.png")
}

/// From 0 to 1.
fn fraction(random: &mut Rng) -> f64 {
    (random.draw() >> 11) as f64 / (1u64 << 53) as f64
}

/// The second digits model with another documentation text: it answers the same, and has to be fetched. A
/// later field of a protobuf message replaces an earlier one; 6 is `ModelProto.doc_string`.
fn variant(random: &mut Rng) -> Vec<u8> {
    let mut model = std::fs::read(digits("digits-2.onnx")).expect("digits-2.onnx");
    let text: String = (0..4000).map(|_| format!("{:016x}", random.draw())).collect();
    let length = text.len() as u32;
    model.push(6 << 3 | 2);
    model.extend([(length & 0x7f) as u8 | 0x80, ((length >> 7) & 0x7f) as u8 | 0x80, (length >> 14) as u8]);
    model.extend(text.as_bytes());
    model
}

fn three_agents(folder: &Path, dispatcher: &Dispatcher) -> Result<Vec<Agent>> {
    let start = |name| {
        let mut agent = Agent::enroll(folder, name, dispatcher)?;
        agent.start()?;
        Ok(agent)
    };
    ["pi-1", "pi-2", "pi-3"].into_iter().map(start).collect()
}

/// From an empty folder to an answer, and one version further.
fn register_roll_out_and_update(dispatcher: &Dispatcher, agents: &[Agent]) -> Result<()> {
    dispatcher.register_digits(1)?;
    dispatcher.roll_out("digits:1", 1, true)?;
    for agent in agents {
        let answer = agent.score(&seven()).context("no answer")?;
        let best = answer["outputs"]["logits"][0][0]["label"].as_str().map(str::to_owned);
        ensure!(best.as_deref() == Some("7"), "{answer}");
    }
    dispatcher.register_digits(2)?;
    dispatcher.roll_out("digits:2", 1, true)?;
    for agent in agents {
        ensure!(agent.answering_version(&seven()) == Some(2), "{:?}", agent.score(&seven()));
    }
    Ok(())
}

#[test]
fn a_signed_model_reaches_real_agents_over_the_embedded_broker() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut dispatcher = Dispatcher::start(folder.path(), &[])?;
    let mut agents = three_agents(folder.path(), &dispatcher)?;
    register_roll_out_and_update(&dispatcher, &agents)?;

    // A dispatcher that is away takes nothing away; one that comes back finds everything again.
    dispatcher.process.kill();
    ensure!(agents[0].answering_version(&seven()) == Some(2));
    dispatcher.restart()?;
    let devices = dispatcher.cli(&["device", "list"])?;
    ensure!(devices["items"].as_array().is_some_and(|d| d.len() == 3), "{devices}");

    // The same content again is the same version; a desired version cannot be deleted.
    let again = dispatcher.register_digits(2)?;
    ensure!(again["already_registered"] == true, "{again}");
    let refused = dispatcher.command(&["model", "delete", "digits:2"])?;
    ensure!(!refused.status.success(), "a desired version was deleted");

    // The old version is on the disk: going back needs no download.
    dispatcher.roll_out("digits:1", 1, true)?;
    ensure!(agents[0].answering_version(&seven()) == Some(1));

    // A device that was told to stop comes back with its model before anybody else answers.
    let agent = &mut agents[0];
    ensure!(agent.process.as_mut().context("runs")?.terminate(), "{}", agent.log());
    dispatcher.process.kill();
    agent.start()?;
    let version = wait_for("an answer without a dispatcher", || agent.answering_version(&seven()))?;
    ensure!(version == 1);
    Ok(())
}

#[test]
fn the_same_over_mosquitto_which_is_restarted_on_the_way() -> Result<()> {
    if !Mosquitto::is_installed() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut broker = Mosquitto::start(folder.path())?;
    let url = broker.url.clone();
    let dispatcher = Dispatcher::start(folder.path(), &["--broker", &url])?;
    let agents = three_agents(folder.path(), &dispatcher)?;
    register_roll_out_and_update(&dispatcher, &agents)?;
    broker.restart()?;
    dispatcher.roll_out("digits:1", 1, true)?;
    for agent in &agents {
        ensure!(agent.answering_version(&seven()) == Some(1), "{}", agent.log());
    }
    Ok(())
}

/// How long a device takes from hearing of an update to answering with it, as measured without a kill.
fn measure(dispatcher: &Dispatcher, agent: &Agent, model: &str, new: u64) -> Result<Duration> {
    let mut rollout = begin(dispatcher, agent, model)?;
    let began = Instant::now();
    wait_for("the new version", || (agent.answering_version(&seven()) == Some(new)).then_some(()))?;
    let took = began.elapsed();
    ensure!(rollout.succeeds(), "the rollout does not start");
    Ok(took)
}

/// Starts a rollout and waits until the device has heard of it.
fn begin(dispatcher: &Dispatcher, agent: &Agent, model: &str) -> Result<Process> {
    let generation = || agent.get("/status").and_then(|s| s["report"]["generation"].as_u64());
    let before = wait_for("the device's status", generation)?;
    let arguments = ["rollout", "start", "--model", model, "--group", "lab", "--soak", "1s"];
    let rollout = dispatcher.begin(&arguments)?;
    wait_for("the offer", || (generation() > Some(before)).then_some(()))?;
    Ok(rollout)
}

/// Invariant 2: at whatever instant of an update the process ends, one of the two versions answers; and it converges.
#[test]
fn invariant_2_an_agent_that_is_killed_at_random_instants_answers_and_converges() -> Result<()> {
    let kills: u64 = std::env::var("MUSTER_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let seed: u64 =
        std::env::var("MUSTER_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("MUSTER_KILLS={kills} MUSTER_SEED={seed}");
    let folder = tempfile::tempdir()?;
    let dispatcher = Dispatcher::start(folder.path(), &[])?;
    let mut agent = Agent::enroll(folder.path(), "pi", &dispatcher)?;
    agent.start()?;
    dispatcher.register_digits(1)?;
    dispatcher.roll_out("digits:1", 0, true)?;
    let mut random = Rng::new(seed);
    let file = |name: &str| digits(name).display().to_string();
    let (sample, transforms) = (file("sample-2.json"), file("transforms.json"));
    let path = folder.path().join("digits.onnx");
    let register = |random: &mut Rng| {
        std::fs::write(&path, variant(random))?;
        let path = path.display().to_string();
        let given = ["-n", "digits", "-p", &path, "--sample", &sample, "--transforms", &transforms];
        dispatcher.cli(&[&["model", "register"], &given[..]].concat())
    };
    register(&mut random)?;
    let length = measure(&dispatcher, &agent, "digits:2", 2)?;
    let (mut with_old, mut twice) = (0, 0);
    for round in 0..kills {
        let (old, new) = (round + 2, round + 3);
        register(&mut random)?;
        let mut rollout = begin(&dispatcher, &agent, &format!("digits:{new}"))?;
        // More often early, where most of the steps are.
        std::thread::sleep(length.mul_f64(fraction(&mut random).powi(3) * 1.1));
        agent.process.as_mut().context("runs")?.kill();
        // One in three has not come up again when the next kill comes.
        if random.draw().is_multiple_of(3) {
            twice += 1;
            agent.start()?;
            std::thread::sleep(Duration::from_millis(random.draw() % 60));
            agent.process.as_mut().context("runs")?.kill();
        }
        agent.start()?;
        let version = wait_for("an answer after the kill", || agent.answering_version(&seven()))
            .with_context(|| format!("round {round}:\n{}", agent.log()))?;
        ensure!(version == old || version == new, "round {round}: version {version} answers");
        with_old += u64::from(version == old);
        let converged = || (agent.answering_version(&seven()) == Some(new)).then_some(());
        wait_for("the new version", converged).with_context(|| format!("round {round}:\n{}", agent.log()))?;
        ensure!(rollout.succeeds(), "round {round}: the rollout does not start");
        wait_for("the report", || {
            let device = dispatcher.cli(&["device", "show", "pi"]).ok()?;
            (device["view"]["converged"] == true).then_some(())
        })
        .with_context(|| {
            let shown = dispatcher.cli(&["device", "show", "pi"]).unwrap_or_default();
            let status = agent.get("/status").unwrap_or_default();
            format!("round {round}: {shown:#}\n{status:#}\n{}\n{}", agent.log(), dispatcher.log())
        })?;
    }
    println!(
        "{kills} kills within {length:?} of the offer, {twice} more while starting: {with_old} times the old version \
         answered first, {} times the new",
        kills - with_old
    );
    Ok(())
}
