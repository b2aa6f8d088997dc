//! The real binaries, from an empty folder to an answer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_tests::processes::{Agent, Dispatcher, digits, wait_for};

fn seven() -> Vec<u8> {
    std::fs::read(digits("seven.png")).expect("seven.png")
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The second digits model with another documentation text: it answers the same, and has to be fetched. A
/// later field of a protobuf message replaces an earlier one; 6 is `ModelProto.doc_string`.
fn variant(random: &mut SplitMix) -> Vec<u8> {
    let mut model = std::fs::read(digits("digits-2.onnx")).expect("digits-2.onnx");
    let text: String = (0..4000).map(|_| format!("{:016x}", random.next())).collect();
    let length = text.len() as u32;
    model.push(6 << 3 | 2);
    model.extend([(length & 0x7f) as u8 | 0x80, ((length >> 7) & 0x7f) as u8 | 0x80, (length >> 14) as u8]);
    model.extend(text.as_bytes());
    model
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
    let mut agents = Vec::new();
    for name in ["pi-1", "pi-2", "pi-3"] {
        let mut agent = Agent::enroll(folder.path(), name, &dispatcher)?;
        agent.start()?;
        agents.push(agent);
    }
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
fn an_agent_that_is_killed_at_random_instants_answers_and_converges() -> Result<()> {
    let kills: u32 = std::env::var("MUSTER_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let seed: u64 =
        std::env::var("MUSTER_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("MUSTER_KILLS={kills} MUSTER_SEED={seed}");
    let folder = tempfile::tempdir()?;
    let dispatcher = Dispatcher::start(folder.path(), &[])?;
    let mut agent = Agent::enroll(folder.path(), "pi", &dispatcher)?;
    agent.start()?;
    dispatcher.register_digits(1)?;
    dispatcher.roll_out("digits:1", 0, true)?;
    let mut random = SplitMix(seed);
    let mut with_old = 0;
    for round in 0..u64::from(kills) {
        let (old, new) = (round + 1, round + 2);
        let path = folder.path().join("digits.onnx");
        std::fs::write(&path, variant(&mut random))?;
        let path = path.display().to_string();
        let sample = digits("sample-2.json").display().to_string();
        let transforms = digits("transforms.json").display().to_string();
        dispatcher.cli(&[
            "model",
            "register",
            "-n",
            "digits",
            "-p",
            &path,
            "--sample",
            &sample,
            "--transforms",
            &transforms,
        ])?;
        dispatcher.roll_out(&format!("digits:{new}"), 1, false)?;
        std::thread::sleep(Duration::from_millis(random.next() % 500));
        agent.process.as_mut().context("runs")?.kill();
        agent.start()?;
        let version = wait_for("an answer after the kill", || agent.answering_version(&seven()))
            .with_context(|| format!("round {round}:\n{}", agent.log()))?;
        ensure!(version == old || version == new, "round {round}: version {version} answers");
        with_old += u32::from(version == old);
        let converged = || (agent.answering_version(&seven()) == Some(new)).then_some(());
        wait_for("the new version", converged).with_context(|| format!("round {round}:\n{}", agent.log()))?;
        wait_for("the report", || {
            let device = dispatcher.cli(&["device", "show", "pi"]).ok()?;
            (device["view"]["converged"] == true).then_some(())
        })?;
    }
    println!("{kills} kills: {with_old} answered with the old version first, {} with the new", kills - with_old);
    Ok(())
}
