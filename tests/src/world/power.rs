//! How processes begin and end.

use muster_agent::core::{Effect, Event};

use super::device::Work;
use super::{Item, World};

/// How soon a process that died is started again, in milliseconds: systemd's `RestartSec`.
const RESTART_MS: (u64, u64) = (1_000, 5_000);
/// How long a process needs before it tries to connect, in milliseconds.
const BOOT_MS: (u64, u64) = (50, 3_000);

impl World {
    /// Starts a device's process, unless it runs.
    pub(super) fn start(&mut self, i: usize) {
        if self.devices[i].process.is_some() {
            return;
        }
        let drawn = self.rng.draw();
        if std::mem::take(&mut self.devices[i].index_fails) {
            self.lose_index(i);
        }
        self.witness_start(i);
        let now = self.now;
        let device = &mut self.devices[i];
        device.start(now, drawn);
        let start = device.starts;
        self.trace.note(now, || format!("{} starts, number {start}", device.id));
        let connects = self.rng.within(BOOT_MS.0, BOOT_MS.1);
        self.plan(connects, Item::Connect(i, start));
        if self.setup.window_ms > 0 {
            let first = self.rng.within(1, self.setup.window_ms);
            self.plan(first, Item::Window(i, start));
        }
        self.plan_tick(i, start);
        self.feed(i, Event::Started);
    }

    /// The power goes, in the middle of `during`, and comes back after a while.
    pub fn cut_power(&mut self, i: usize, during: Option<Effect>) {
        self.devices[i].cut_in = None;
        if self.devices[i].process.is_none() {
            return;
        }
        let id = &self.devices[i].id;
        self.trace.note(self.now, || {
            let during = during.as_ref().map(super::describe::effect).unwrap_or_default();
            format!("{id} loses power {during}")
        });
        if let Some(effect) = during {
            self.tear(i, effect);
        }
        self.ends(i);
        let device = &mut self.devices[i];
        device.disk.lose_power(&mut self.rng);
        self.check_record(i);
        let away = if self.rng.chance(200) { 900_000 } else { 20_000 };
        let away = self.rng.within(2_000, away);
        self.plan(away, Item::Start(i));
    }

    /// The process dies; what it wrote is there, because the system lives on.
    pub(super) fn crash(&mut self, i: usize, why: &str) {
        let id = &self.devices[i].id;
        self.trace.note(self.now, || format!("{id} dies: {why}"));
        self.ends(i);
        self.restart_soon(i);
    }

    /// The process is told to stop, and is started again.
    pub(super) fn restart(&mut self, i: usize) {
        let Some(process) = self.devices[i].process.as_mut() else { return };
        // Whoever stops a process that waits for its disk loses patience in the end.
        if process.waits_for_disk {
            return self.crash(i, "it was killed while it waited for its disk");
        }
        self.feed_then(i, Event::Stopping, Some(Work::Exit));
    }

    /// The process has done everything that it had to before its end.
    pub(super) fn exit(&mut self, i: usize) {
        self.check_device(i);
        self.devices[i].process = None;
        self.devices[i].witness.staging.clear();
        self.link_dies(i);
        self.restart_soon(i);
    }

    /// The index of the next start is gone.
    fn lose_index(&mut self, i: usize) {
        let id = &self.devices[i].id;
        self.trace.note(self.now, || format!("{id} has lost its index"));
        self.witness_lost_index(i);
        self.devices[i].disk.lose_index();
    }

    fn ends(&mut self, i: usize) {
        let device = &mut self.devices[i];
        device.process = None;
        device.witness.died(device.disk.durable());
        self.link_dies(i);
    }

    fn link_dies(&mut self, i: usize) {
        if std::mem::take(&mut self.devices[i].link.up) {
            self.devices[i].link.cut();
            self.plan_will(i);
        }
    }

    fn restart_soon(&mut self, i: usize) {
        let pause = self.rng.within(RESTART_MS.0, RESTART_MS.1);
        self.plan(pause, Item::Start(i));
    }
}
