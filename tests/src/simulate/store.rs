//! The dispatcher's store: what rollouts' effects asked to save, and nothing else, survives a crash. Every write carries the
//! lease's fencing token, and one with an old token is refused.
//!
//! Devices' parts are kept encoded, each as of its last `SavePart`. The rollout itself is copied here only while a crash is
//! near: with a `Save` in nearly every step, copying each would take most of the time, and only the last before the
//! crash is ever read.

use muster_dispatcher::domain::rollout::parts::pack;
use muster_dispatcher::domain::rollout::{Part, Rollout};

use super::fleet;

/// What is stored of one rollout.
#[derive(Debug, Default)]
pub struct Store {
    /// The lease's token; a greater one is newer.
    token: u64,
    /// Each device's part, by its number; empty where none was saved.
    parts: Vec<Box<[u8]>>,
    rollout: Option<Rollout>,
    /// Writes of replicas that had lost the lease.
    pub refused: u64,
    /// Whether parts are kept at all.
    keeps: bool,
}

impl Store {
    /// An empty store; one that does not keep anything where no crash is planned.
    pub fn new(devices: u32, keeps: bool) -> Self {
        let parts = if keeps { vec![Box::default(); devices as usize] } else { Vec::new() };
        Self { token: 1, parts, rollout: None, refused: 0, keeps }
    }

    /// The lease's token.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Gives the lease to another replica.
    pub fn take_over(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    /// Whether a writer with `token` may write. One that may not is counted.
    pub fn admits(&mut self, token: u64) -> bool {
        let admitted = token == self.token;
        self.refused += u64::from(!admitted);
        admitted
    }

    /// Stores one part as it is now; a device that was taken out has none.
    pub fn save_part(&mut self, device: u32, part: Option<&Part>) {
        if self.keeps {
            let bytes = part.map(|part| postcard::to_allocvec(part).expect("a part can be encoded"));
            self.parts[device as usize] = bytes.unwrap_or_default().into_boxed_slice();
        }
    }

    /// Stores the rollout as it is now.
    pub fn save(&mut self, rollout: &Rollout) {
        self.rollout = Some(rollout.without_parts());
    }

    /// Whether the rollout was ever stored here.
    pub fn has_rollout(&self) -> bool {
        self.rollout.is_some()
    }

    /// What a replica finds that loads the rollout, without its line; `prepare` fills in what is not stored.
    pub fn load(&self, mut prepare: impl FnMut(u32, &mut Part)) -> Result<Rollout, String> {
        let stored = self.rollout.as_ref().ok_or("no rollout was stored")?;
        // Through its stored form, which has to bring everything back.
        let bytes = serde_json::to_vec(stored).map_err(|e| format!("the rollout to store: {e}"))?;
        let mut rollout: Rollout = serde_json::from_slice(&bytes).map_err(|e| format!("the stored rollout: {e}"))?;
        let mut unreadable = None;
        let stored = (0..).zip(&self.parts).filter(|(_, bytes)| !bytes.is_empty());
        rollout.parts = pack(stored.map_while(|(device, bytes)| {
            let read = postcard::from_bytes(bytes).map_err(|e| format!("the stored part of {device}: {e}"));
            let mut part = read.map_err(|what| unreadable = Some(what)).ok()?;
            prepare(device, &mut part);
            Some((fleet::name(device), part))
        }));
        unreadable.map_or(Ok(rollout), Err)
    }

    /// Bytes that all of it takes, allocator's overhead of 16 each counted in.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| size_of::<Box<[u8]>>() + if p.is_empty() { 0 } else { p.len().max(24) + 8 }).sum()
    }
}
