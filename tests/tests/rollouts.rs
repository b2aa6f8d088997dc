//! Rollouts with real agents: windows, vetoes, fetching beforehand, approvals, overlap, late joiners, silence, retries,
//! roll-backs. Dispatcher and agents are real and in this process; soak times are a second or less. And fifty agents
//! whose dispatcher, a process of its own, is killed again and again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_agent::config::Config;
use muster_agent::run::{self, Agent, identity_dir};
use muster_agent::{enroll, vitals};
use muster_dispatcher::app::{
    ConditionState, DevicePhase, Principal, Role, RolloutApproval, RolloutDetail, RolloutId, RolloutReason,
    RolloutRetry, RolloutStatus,
};
use muster_proto::code::Code;
use muster_proto::enroll::Invitation;
use muster_proto::report::{Phase, SlotReport};
use muster_tests::inprocess::Hub;
use muster_tests::processes::{Dispatcher, Mosquitto, wait_for};
use muster_tests::world::rng::Rng;

/// One stage for everyone.
const STAGE: &str = "[[stages]]\nname = \"everyone\"\nsize = \"100%\"\nsoak = \"0s\"\n";

/// A hub with agents that run digits 1, and digits 2 registered.
async fn hub(agents: usize) -> Result<(Hub, Vec<Agent>)> {
    let hub = Hub::start().await?;
    hub.register_digits(1).await?;
    let mut running = Vec::new();
    for n in 1..=agents {
        running.push(hub.agent(&format!("pi-{n}")).await?);
    }
    hub.roll_out("digits", &running.iter().collect::<Vec<_>>()).await?;
    hub.register_digits(2).await?;
    Ok((hub, running))
}

fn digits_2(rest: &str) -> String {
    format!("model = \"digits\"\nversion = 2\n{rest}\n[target]\ngroups = [\"bench\"]\n")
}

fn slot(agent: &Agent) -> Option<SlotReport> {
    agent.status.borrow().report.slots.iter().find(|slot| slot.slot.as_str() == "digits").cloned()
}

/// Which version answers.
fn active(agent: &Agent) -> Option<String> {
    Some(slot(agent)?.active?.target.trim_end_matches("/manifest").to_owned())
}

fn count(detail: &RolloutDetail, phase: DevicePhase) -> u32 {
    detail.rollout.counts.get(&phase).copied().unwrap_or(0)
}

fn is(status: RolloutStatus) -> impl Fn(&RolloutDetail) -> bool {
    move |detail| detail.rollout.status == status
}

fn all(phase: DevicePhase, code: Option<Code>) -> impl Fn(&RolloutDetail) -> bool {
    move |detail| detail.devices.iter().all(|d| d.phase == phase && d.code == code)
}

async fn why(hub: &Hub, id: RolloutId, device: &str) -> Result<(String, String)> {
    let explained = hub.running.app.explain_rollout(id, &device.parse()?).await?;
    let open = explained.conditions.into_iter().find(|c| c.state != ConditionState::Met);
    open.map(|c| (c.condition, c.value)).context("nothing is open")
}

async fn stop(hub: Hub, agents: Vec<Agent>) {
    for agent in agents {
        agent.stop().await;
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_switches_only_in_its_window_and_a_recall_that_cannot_wait_does_not_ask() -> Result<()> {
    let (hub, agents) = hub(1).await?;
    // A second of New Year's Day.
    let closed = "[schedule]\nwindows = [{ cron = \"0 0 1 1 *\", for = \"1s\" }]\n";
    let id = hub.begin(&format!("{}{closed}{STAGE}", digits_2(""))).await?;
    hub.until(id, "the wait for the window", all(DevicePhase::Staged, Some(Code::OutsideWindow))).await?;
    ensure!(active(&agents[0]).as_deref() == Some("digits/1"));
    let (condition, value) = why(&hub, id, "pi-1").await?;
    ensure!(condition == "switched" && value.contains("outside_window"), "{condition}: {value}");

    // Going back from what has not switched is no switch.
    hub.running.app.abort_rollout(id, RolloutReason { now: true, ..Default::default() }, hub.by()).await?;
    hub.until(id, "the recall", is(RolloutStatus::Recalled)).await?;

    let open = "[schedule]\nwindows = [{ cron = \"* * * * *\", for = \"2m\" }]\n";
    let id = hub.begin(&format!("{}{open}{STAGE}", digits_2(""))).await?;
    hub.until(id, "the switch", is(RolloutStatus::Completed)).await?;
    ensure!(active(&agents[0]).as_deref() == Some("digits/2"));
    stop(hub, agents).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_can_delay_the_switch_but_not_for_ever() -> Result<()> {
    let (hub, agents) = hub(2).await?;
    let veto = |name: &str| hub.data_of(name).join("veto");
    std::fs::write(veto("pi-1"), "in the middle of a weld\n")?;
    std::fs::write(veto("pi-2"), "for ever\n")?;
    // The lock files are looked at once a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let id = hub.begin(&format!("{}[schedule]\nveto = \"8s\"\n{STAGE}", digits_2(""))).await?;
    let vetoed = all(DevicePhase::Staged, Some(Code::Vetoed));
    let detail = hub.until(id, "the vetoes", vetoed).await?;
    ensure!(detail.devices[0].detail.contains("in the middle of a weld"), "{detail:?}");
    std::fs::remove_file(veto("pi-1"))?;
    let detail = hub.until(id, "the switch of the first", |d| d.devices[0].phase == DevicePhase::Healthy).await?;
    ensure!(detail.devices[1].phase == DevicePhase::Staged, "{detail:?}");
    hub.until(id, "the end of the other's veto", is(RolloutStatus::Completed)).await?;
    stop(hub, agents).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_beforehand_is_switched_to_on_a_word_without_a_byte() -> Result<()> {
    let (hub, agents) = hub(3).await?;
    let rest = "[schedule]\nprestage = true\nswitch = \"on_word\"\n";
    let id = hub.begin(&format!("{}{rest}{STAGE}", digits_2(""))).await?;
    let staged = hub.until(id, "everybody staged", all(DevicePhase::Staged, Some(Code::Held))).await?;
    ensure!(agents.iter().all(|agent| active(agent).as_deref() == Some("digits/1")));
    hub.running.app.release_rollout(id, hub.by()).await?;
    let done = hub.until(id, "the switch", is(RolloutStatus::Completed)).await?;
    ensure!(agents.iter().all(|agent| active(agent).as_deref() == Some("digits/2")));
    for (before, after) in staged.devices.iter().zip(&done.devices) {
        ensure!(before.transfer == after.transfer, "{before:?} fetched more: {after:?}");
    }
    stop(hub, agents).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_offered_before_as_many_people_as_needed_have_approved_the_plan() -> Result<()> {
    let (hub, agents) = hub(1).await?;
    let rest = "[approval]\nneed = 2\nby = [\"ann\", \"bob\", \"eve\"]\n";
    let id = hub.begin(&format!("{}{rest}{STAGE}", digits_2(""))).await?;
    let plan = hub.running.app.view_rollout(id).await?.plan_hash;
    let person = |name: &str| Principal { name: name.into(), role: Role::Operator };
    let approval = |plan| RolloutApproval { plan, key: None, signature: None };
    let app = &hub.running.app;
    ensure!(app.approve_rollout(id, approval(plan), &person("mallory")).await.is_err(), "mallory may not");
    let other = muster_proto::id::Digest::of(b"another plan");
    ensure!(app.approve_rollout(id, approval(other), &person("ann")).await.is_err(), "it is another plan");
    for _ in 0..2 {
        let view = app.approve_rollout(id, approval(plan), &person("ann")).await?;
        ensure!(view.status == RolloutStatus::Pending, "one person is not two");
    }
    let (condition, value) = why(&hub, id, "pi-1").await?;
    ensure!((condition.as_str(), value.as_str()) == ("approved", "1 of 2 approved"), "{condition}: {value}");
    app.approve_rollout(id, approval(plan), &person("bob")).await?;
    hub.until(id, "the end", is(RolloutStatus::Completed)).await?;
    stop(hub, agents).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_rollouts_of_one_slot_the_higher_priority_has_it_and_the_other_comes_back_after_a_recall() -> Result<()>
{
    let (hub, agents) = hub(2).await?;
    let high = hub.begin(&format!("{}{STAGE}", digits_2("priority = 5"))).await?;
    hub.until(high, "the end of the first", is(RolloutStatus::Completed)).await?;
    // Newer, and of a lower priority.
    let low = hub.begin(&format!("model = \"digits\"\nversion = 1\n[target]\ngroups = [\"bench\"]\n{STAGE}")).await?;
    let (condition, value) = why(&hub, low, "pi-1").await?;
    ensure!(condition == "no other rollout" && value.contains(&high.to_string()), "{condition}: {value}");
    hub.running.app.roll_back_rollout(high, RolloutReason::default(), hub.by()).await?;
    hub.until(high, "the roll-back", is(RolloutStatus::Recalled)).await?;
    hub.until(low, "the other's turn", |d| count(d, DevicePhase::Healthy) == 2).await?;
    ensure!(agents.iter().all(|agent| active(agent).as_deref() == Some("digits/1")));
    stop(hub, agents).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn late_joiners_pass_through_the_last_stage_and_its_rate() -> Result<()> {
    let (hub, mut agents) = hub(1).await?;
    let id = hub.begin(&format!("{}[rate]\nper_minute = 30\n{STAGE}", digits_2(""))).await?;
    hub.until(id, "the end", is(RolloutStatus::Completed)).await?;
    for n in 2..=4 {
        agents.push(hub.agent(&format!("pi-{n}")).await?);
    }
    let detail = hub.until(id, "the late ones", |d| count(d, DevicePhase::Healthy) == 4).await?;
    ensure!(detail.devices.iter().all(|device| device.stage == Some(0)), "{detail:?}");
    stop(hub, agents).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_device_frees_its_place_and_is_taken_up_again() -> Result<()> {
    let (hub, mut agents) = hub(2).await?;
    // Whoever comes first stays in the middle of its update, for the veto, and then goes silent.
    for n in 1..=2 {
        std::fs::write(hub.data_of(&format!("pi-{n}")).join("veto"), "busy\n")?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rest = "silence = \"10s\"\n";
    let limits = "[rate]\nin_flight = 1\n[schedule]\nveto = \"1h\"\n";
    let id = hub.begin(&format!("{}{limits}{STAGE}", digits_2(rest))).await?;
    let detail = hub.until(id, "the first one's veto", |d| count(d, DevicePhase::Staged) == 1).await?;
    let first = detail.devices.iter().position(|d| d.phase == DevicePhase::Staged).context("one is staged")?;
    ensure!(count(&detail, DevicePhase::Waiting) == 1, "{detail:?}");
    let (condition, value) = why(&hub, id, &format!("pi-{}", 2 - first)).await?;
    ensure!(condition == "rate" && value.contains("which is the most"), "{condition}: {value}");
    for n in 1..=2 {
        std::fs::remove_file(hub.data_of(&format!("pi-{n}")).join("veto"))?;
    }
    let name = format!("pi-{}", first + 1);
    let agent = agents.remove(first);
    agent.stop().await;
    // Unless the lifted veto was noticed before it stopped, which is as well.
    let detail = hub
        .until(id, "the silence, and the other's update", |d| {
            d.devices[1 - first].phase == DevicePhase::Healthy
                && matches!(d.devices[first].phase, DevicePhase::Silent | DevicePhase::Healthy | DevicePhase::Active)
        })
        .await?;
    ensure!(detail.rollout.in_flight <= 1, "{detail:?}");
    agents.push(hub.start_agent(&name, |_| {}).await?);
    hub.until(id, "the return", |d| count(d, DevicePhase::Healthy) == 2).await?;
    stop(hub, agents).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_takes_too_long_goes_back_and_is_tried_again_on_a_word() -> Result<()> {
    let (hub, agents) = hub(1).await?;
    // As much as the device has, which is never free: the agent waits for it.
    hub.register_digits_needing(3, muster_agent::vitals::agent_info(0).memory_bytes).await?;
    let rest = "device_timeout = \"10s\"\n";
    let document = format!("model = \"digits\"\nversion = 3\n{rest}[target]\nall = true\n{STAGE}");
    let id = hub.begin(&document).await?;
    hub.until(id, "the wait for memory", |d| d.devices[0].code == Some(Code::MemoryShort)).await?;
    hub.until(id, "the end of its time", all(DevicePhase::Failed, Some(Code::TimedOut))).await?;
    ensure!(active(&agents[0]).as_deref() == Some("digits/1"));
    let again = hub.running.app.retry_rollout(id, RolloutRetry::default(), hub.by()).await?;
    ensure!(!again.counts.contains_key(&DevicePhase::Failed), "{again:?}");
    hub.until(id, "the second attempt", |d| d.devices[0].code == Some(Code::MemoryShort)).await?;
    stop(hub, agents).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_back_leads_each_device_to_what_it_had_without_a_download() -> Result<()> {
    let (hub, agents) = hub(3).await?;
    let id = hub.begin(&format!("{}{STAGE}", digits_2(""))).await?;
    hub.until(id, "the end", is(RolloutStatus::Completed)).await?;
    let why = RolloutReason { reason: "customers complain".into(), now: false };
    hub.running.app.roll_back_rollout(id, why, hub.by()).await?;
    let detail = hub.until(id, "the roll-back", is(RolloutStatus::Recalled)).await?;
    ensure!(count(&detail, DevicePhase::Recalled) == 3, "{detail:?}");
    for agent in &agents {
        let slot = slot(agent).context("it has the slot")?;
        ensure!(slot.phase == Phase::Healthy && slot.transfer.fetched == 0, "{slot:?}");
        ensure!(active(agent).as_deref() == Some("digits/1"));
    }
    // Not offered again unless it is asked for by name.
    let unnamed = format!("model = \"digits\"\n[target]\nall = true\n{STAGE}");
    let next = hub.begin(&unnamed).await?;
    ensure!(hub.running.app.view_rollout(next).await?.version.0 == 1, "the recalled version is offered again");
    ensure!(hub.running.app.denied_versions().await?.len() == 1);
    let named = hub.begin(&format!("{}{STAGE}", digits_2(""))).await?;
    hub.until(named, "the end", is(RolloutStatus::Completed)).await?;
    ensure!(hub.running.app.denied_versions().await?.is_empty());
    stop(hub, agents).await;
    Ok(())
}

/// How many agents there are when the dispatcher dies.
const FLEET: usize = 50;

/// Agents in this process for a dispatcher in another one.
struct Agents {
    folder: PathBuf,
    running: Vec<Option<Agent>>,
}

impl Agents {
    async fn enrol(folder: &Path, dispatcher: &Dispatcher) -> Result<Self> {
        let uses = FLEET.to_string();
        let made = dispatcher.cli(&["device", "enroll-token", "--group", "lab", "--uses", &uses])?;
        let token = made["token"].as_str().context("no token")?.to_owned();
        let mut agents = Self { folder: folder.to_owned(), running: Vec::new() };
        for n in 0..FLEET {
            let (invitation, device): (Invitation, _) = (token.parse()?, format!("pi-{n}").parse()?);
            let identity = identity_dir(&agents.data(n));
            let enrol = move || enroll::enroll(&invitation, &device, vitals::agent_info(0), &identity, false);
            tokio::task::spawn_blocking(enrol).await??;
            agents.running.push(None);
            agents.start(n).await?;
        }
        Ok(agents)
    }

    fn data(&self, n: usize) -> PathBuf {
        self.folder.join(format!("pi-{n}"))
    }

    async fn start(&mut self, n: usize) -> Result<()> {
        let socket = None;
        let config = Config { data: self.data(n), http: None, socket, inference_threads: 1, ..Config::default() };
        self.running[n] = Some(run::start(config).await?);
        Ok(())
    }

    async fn stop(&mut self, n: usize) {
        if let Some(agent) = self.running[n].take() {
            agent.stop().await;
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Fifty agents get an update in stages while their dispatcher is killed at random instants and some of them are cut off
/// and come back. `MUSTER_KILLS` says how often, `MUSTER_SEED` when.
async fn survives_kills(folder: &Path, arguments: &[&str]) -> Result<()> {
    let seed = number("MUSTER_SEED", u64::from(std::process::id()));
    let mut random = Rng::new(seed);
    println!("MUSTER_SEED={seed}");
    let mut dispatcher = Dispatcher::start(folder, arguments)?;
    dispatcher.register_digits(1)?;
    dispatcher.register_digits(2)?;
    let mut agents = Agents::enrol(folder, &dispatcher).await?;
    dispatcher.cli(&["rollout", "start", "-m", "digits:1", "-g", "lab", "--soak", "0s", "--wait"])?;

    let document = folder.join("rollout.toml");
    let stages: String = ["1", "20%", "60%", "100%"]
        .map(|size| format!("[[stages]]\nsize = \"{size}\"\nsoak = \"1s\"\ngates = {{ failures = 0 }}\n"))
        .concat();
    let head = "model = \"digits\"\nversion = 2\n[target]\ngroups = [\"lab\"]\n[rate]\nper_minute = 120\n";
    std::fs::write(&document, format!("{head}{stages}"))?;
    let file = document.display().to_string();
    let id = dispatcher.cli(&["rollout", "start", "-f", &file])?["id"].as_str().context("an id")?.to_owned();

    for kill in 0..number("MUSTER_KILLS", 8) {
        // The instant is what is random here.
        tokio::time::sleep(Duration::from_millis(random.within(20, 900))).await;
        dispatcher.process.kill();
        let n = random.below(FLEET as u64) as usize;
        match (kill % 3, agents.running[n].is_some()) {
            (0, true) => agents.stop(n).await,
            (_, false) => agents.start(n).await?,
            _ => {}
        }
        dispatcher.restart()?;
    }
    for n in 0..FLEET {
        if agents.running[n].is_none() {
            agents.start(n).await?;
        }
    }
    let healthy = || {
        let detail = dispatcher.cli(&["rollout", "status", &id]).ok()?;
        let done = detail["rollout"]["counts"]["healthy"] == FLEET && detail["rollout"]["status"] == "completed";
        done.then_some(detail)
    };
    let detail = wait_for("the end of the rollout", healthy)?;
    for n in 0..FLEET {
        let agent = agents.running[n].as_ref().context("it runs")?;
        ensure!(active(agent).as_deref() == Some("digits/2"), "pi-{n}: {:?}", slot(agent));
    }
    // Each stage passed once, in order, whoever decided it.
    let decisions = detail["decisions"].as_array().context("decisions")?;
    let passed: Vec<&str> =
        decisions.iter().filter_map(|d| d["what"].as_str()).filter(|what| what.contains("passed")).collect();
    ensure!(passed == ["stage 1 passed", "stage 2 passed", "stage 3 passed"], "{passed:?}");
    for n in 0..FLEET {
        agents.stop(n).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_agents_come_to_the_same_end_however_often_their_dispatcher_dies() -> Result<()> {
    let folder = tempfile::tempdir()?;
    survives_kills(folder.path(), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_over_mosquitto() -> Result<()> {
    if !Mosquitto::is_installed() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let broker = Mosquitto::start(folder.path())?;
    let url = broker.url.clone();
    survives_kills(folder.path(), &["--broker", &url]).await
}
