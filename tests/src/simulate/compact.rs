//! Agents as tiny state machines, 40 bytes each, that do what muster-agent's core does with one slot: fetch, verify, probe,
//! hold, wait for windows and vetoes, switch, prove; fall back by themselves; never try a refused bundle twice in one
//! generation. Left out: several slots, metadata, the outbox' bounds, retries of a transfer. The full core is in
//! `crate::world`.

use muster_dispatcher::domain::rollout::DevicePhase;
use muster_proto::code::Code;

use super::EPOCH;
use super::agent::{Act, Agent, Env, View};
use super::desired::Desired;
use super::fleet::Fleet;
use super::scenario::DefectKind;
use super::version::{FIRST, NONE};

/// How long loading and probing take, in seconds.
const LOAD: u32 = 2;
/// How long until a device without room looks again, in seconds.
const ROOM: u32 = 600;
/// After this many unclean ends in one trial the version before comes back.
const MAX_UNCLEAN_ENDS: u8 = 3;
/// How long an application's veto lasts, in seconds from when the version is staged.
const VETO: u32 = 3600;

#[derive(Debug, Clone, Copy)]
struct State {
    generation: u32,
    since: u32,
    refused_in: u32,
    fetched_kib: u32,
    lag: u32,
    code: Option<Code>,
    phase: DevicePhase,
    active: u8,
    previous: u8,
    wanted: u8,
    rollout: u8,
    stage: u8,
    refused: u8,
    held: bool,
    urgent: bool,
    recall: bool,
    trial: bool,
    acknowledged: bool,
    unclean: u8,
}

/// All agents.
#[derive(Debug)]
pub struct Compact(Vec<State>);

impl Compact {
    /// Agents that run the first version, or nothing where the fleet says so.
    pub fn new(fleet: &Fleet) -> Self {
        let state = |device| State {
            generation: 0,
            since: 0,
            refused_in: 0,
            fetched_kib: 0,
            lag: 0,
            code: None,
            phase: DevicePhase::Healthy,
            active: if fleet.is_empty_at_start(device) { NONE } else { FIRST },
            previous: NONE,
            wanted: if fleet.is_empty_at_start(device) { NONE } else { FIRST },
            rollout: 0,
            stage: 0,
            refused: NONE,
            held: false,
            urgent: false,
            recall: false,
            trial: false,
            acknowledged: true,
            unclean: 0,
        };
        Self((0..fleet.len()).map(state).collect())
    }
}

impl Agent for Compact {
    fn told(&mut self, device: u32, desired: Desired, env: &Env, acts: &mut Vec<Act>) {
        let state = &mut self.0[device as usize];
        if desired.generation <= state.generation {
            // Invariant 3: nothing changes; but who says it again may have missed the answer.
            if desired.generation == state.generation && !state.acknowledged {
                acts.push(Act::Report);
            }
            return;
        }
        state.generation = desired.generation;
        let under_way = matches!(state.phase, DevicePhase::Fetching | DevicePhase::Verified | DevicePhase::Staged);
        let goes_on = under_way && state.wanted == desired.version && !desired.recall;
        (state.rollout, state.stage, state.held) = (desired.rollout, desired.stage, desired.held);
        (state.urgent, state.recall) = (desired.urgent, desired.recall);
        (state.lag, state.acknowledged) = (0, false);
        if goes_on {
            match state.phase {
                DevicePhase::Staged => state.try_switch(device, env, acts),
                _ => acts.push(Act::Report),
            }
            return;
        }
        if state.phase == DevicePhase::Fetching {
            acts.push(Act::GiveUp);
        }
        (state.wanted, state.code, state.fetched_kib) = (desired.version, None, 0);
        state.begin(device, env, acts);
    }

    fn fetched(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>) {
        let state = &mut self.0[device as usize];
        if state.phase == DevicePhase::Fetching {
            state.phase = DevicePhase::Verified;
            state.fetched_kib += (env.versions.bytes(state.wanted, state.active != NONE) / 1024) as u32;
            state.stage_it(device, env, acts);
        }
    }

    fn tick(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>) {
        let state = &mut self.0[device as usize];
        match state.phase {
            DevicePhase::Verified => state.stage_it(device, env, acts),
            DevicePhase::Offered if matches!(state.code, Some(Code::DiskFull | Code::MemoryShort)) => {
                state.begin(device, env, acts);
            }
            DevicePhase::Staged => state.try_switch(device, env, acts),
            DevicePhase::Active => state.soak(env, acts),
            _ => {}
        }
    }

    fn crashed(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>) {
        let state = &mut self.0[device as usize];
        let from = state.active;
        if from == NONE {
            return;
        }
        state.unclean += u8::from(state.trial);
        if !state.trial || state.unclean < MAX_UNCLEAN_ENDS {
            return state.answer_again(env, acts);
        }
        (state.active, state.previous, state.trial) = (state.previous, NONE, false);
        acts.push(Act::Switch { from, to: state.active });
        if state.wanted == from {
            (state.refused, state.refused_in) = (from, state.generation);
            state.fail(Code::TrialCrashed, env, acts);
        }
    }

    fn power_cut(&mut self, device: u32, seconds: u32, env: &Env, acts: &mut Vec<Act>) {
        let state = &mut self.0[device as usize];
        if env.fleet.has_no_clock(device) {
            // It goes on from the newest time that somebody signed.
            state.lag += seconds;
        }
        match state.phase {
            DevicePhase::Verified | DevicePhase::Staged => {
                // What was loaded is gone; what is on the disk is not.
                state.phase = DevicePhase::Verified;
                acts.push(Act::Wake(env.now + LOAD));
            }
            DevicePhase::Active => {
                state.unclean += 1;
                state.answer_again(env, acts);
            }
            _ => {}
        }
    }

    fn heard(&mut self, device: u32, generation: u32, _env: &Env, _acts: &mut Vec<Act>) {
        let state = &mut self.0[device as usize];
        state.acknowledged |= state.generation == generation;
    }

    fn view(&self, device: u32) -> View {
        let s = &self.0[device as usize];
        View {
            generation: s.generation,
            rollout: s.rollout,
            stage: s.stage,
            wanted: s.wanted,
            phase: s.phase,
            code: s.code,
            active: s.active,
            previous: s.previous,
            trial: s.trial,
            since: s.since,
            acknowledged: s.acknowledged,
            fetched: u64::from(s.fetched_kib) * 1024,
            lag: s.lag,
        }
    }

    fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<State>()
    }
}

impl State {
    /// From a new wish to the first thing that takes time.
    fn begin(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>) {
        if self.wanted == self.active {
            self.phase = if self.trial { DevicePhase::Active } else { DevicePhase::Healthy };
            if self.trial {
                return self.soak(env, acts);
            }
            return acts.push(Act::Report);
        }
        if self.wanted == NONE {
            acts.push(Act::Switch { from: self.active, to: NONE });
            (self.active, self.previous, self.trial) = (NONE, NONE, false);
            self.phase = DevicePhase::Healthy;
            return acts.push(Act::Report);
        }
        if self.wanted == self.previous {
            // It is on the disk: no download.
            self.phase = DevicePhase::Verified;
            return acts.push(Act::Wake(env.now + LOAD));
        }
        let full = env.faulty && env.fleet.disk_is_full(device);
        let short = !env.versions.fits(env.fleet, self.wanted, device);
        if let Some(code) = full.then_some(Code::DiskFull).or(short.then_some(Code::MemoryShort)) {
            // That is no verdict: it waits for room, and looks again.
            let news = (self.phase, self.code) != (DevicePhase::Offered, Some(code));
            (self.phase, self.code) = (DevicePhase::Offered, Some(code));
            acts.extend(news.then_some(Act::Report));
            return acts.push(Act::Wake(env.now + ROOM));
        }
        self.code = None;
        self.phase = DevicePhase::Fetching;
        acts.push(Act::Report);
        acts.push(Act::Fetch(env.versions.bytes(self.wanted, self.active != NONE)));
    }

    /// Loads and probes what is whole.
    fn stage_it(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>) {
        if self.refused == self.wanted && self.refused_in == self.generation {
            return self.fail(Code::AlreadyRefused, env, acts);
        }
        acts.push(Act::Probe(self.wanted));
        if env.versions.defect(env.fleet, self.wanted, device, DefectKind::Probe).is_some() {
            (self.refused, self.refused_in) = (self.wanted, self.generation);
            return self.fail(Code::ProbeMismatch, env, acts);
        }
        (self.phase, self.since) = (DevicePhase::Staged, env.now);
        self.try_switch(device, env, acts);
    }

    /// Hold, windows, veto, in this order; then the switch, which is one write.
    fn try_switch(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>) {
        let terms = env.terms_of(self.rollout);
        let mut wait = |state: &mut Self, code, at: Option<u32>| {
            if state.code != Some(code) || !state.acknowledged {
                acts.push(Act::Report);
            }
            state.code = Some(code);
            acts.extend(at.map(|at| Act::Wake(at.max(env.now + 1))));
        };
        if self.held {
            return wait(self, Code::Held, None);
        }
        if let Some(windows) = terms.and_then(|t| t.windows.as_ref()).filter(|_| !self.urgent) {
            let own = EPOCH + u64::from(env.now - self.lag.min(env.now));
            let local = own.saturating_add_signed(env.fleet.zone_seconds(device));
            if !windows.is_open(local) {
                let at = windows.next(local).map(|open| env.now.saturating_add((open - local) as u32));
                return wait(self, Code::OutsideWindow, at);
            }
        }
        let veto = terms.map_or(0, |t| t.veto).min(VETO);
        let vetoed = env.fleet.vetoes(device, self.wanted) && !self.recall && env.now < self.since + veto;
        if vetoed && !self.urgent {
            return wait(self, Code::Vetoed, Some(self.since + veto));
        }
        acts.push(Act::Switch { from: self.active, to: self.wanted });
        let back = self.wanted == self.previous;
        if back {
            self.previous = NONE;
        } else if !self.trial {
            self.previous = self.active;
        }
        (self.active, self.since, self.code, self.unclean) = (self.wanted, env.now, None, 0);
        (self.trial, self.phase) = (!back, if back { DevicePhase::Healthy } else { DevicePhase::Active });
        acts.push(Act::Report);
        if !back {
            acts.push(Act::Wake(env.now + terms.map_or(0, |t| t.soak(self.stage))));
        }
    }

    /// Looks whether the soak time is over.
    fn soak(&mut self, env: &Env, acts: &mut Vec<Act>) {
        let soak = env.terms_of(self.rollout).map_or(0, |t| t.soak(self.stage));
        if env.now >= self.since + soak {
            (self.phase, self.trial) = (DevicePhase::Healthy, false);
            acts.push(Act::Report);
        } else {
            acts.push(Act::Wake(self.since + soak));
        }
    }

    /// What was on trial when the process ended answers again, and its trial begins anew.
    fn answer_again(&mut self, env: &Env, acts: &mut Vec<Act>) {
        acts.push(Act::Switch { from: self.active, to: self.active });
        if self.phase == DevicePhase::Active {
            self.since = env.now;
            acts.push(Act::Wake(env.now + env.terms_of(self.rollout).map_or(0, |t| t.soak(self.stage))));
        }
    }

    fn fail(&mut self, code: Code, env: &Env, acts: &mut Vec<Act>) {
        (self.phase, self.code, self.since, self.acknowledged) = (DevicePhase::Failed, Some(code), env.now, false);
        acts.push(Act::Report);
    }
}

impl Env<'_> {
    fn terms_of(&self, rollout: u8) -> Option<&super::agent::Terms> {
        self.terms.get(usize::from(rollout).checked_sub(1)?)
    }
}
