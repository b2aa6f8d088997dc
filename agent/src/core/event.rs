//! What can happen to the agent, and what it can want done.

use muster_proto::desired::ShadowTerms;
use muster_proto::id::{Digest, SlotName};
use muster_proto::manifest::{Blob, BundleManifest, File};
use muster_proto::report::{DeviceReport, Failure, Probe, ShadowWindow, SlotWindow2, Telemetry, Vitals};
use muster_proto::transfer::{Fetch, Frame};

use super::Durable;
use super::hold::Veto;
use super::outbox::Kind;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The process has started and the store is open. Comes first, once.
    Started,
    /// The process was told to stop.
    Stopping,
    /// The connection is up and the topics are subscribed.
    LinkUp,
    /// The connection is gone.
    LinkDown,
    /// A payload on `desired`.
    DesiredArrived(Vec<u8>),
    /// A frame on `chunk` or on a bundle topic.
    FrameArrived(Frame),
    /// The dispatcher has made these messages safe.
    Acknowledged(Vec<u64>),
    /// Some time has passed.
    Ticked,
    /// What the device has room for.
    RoomMeasured {
        /// Free bytes on the store's disk.
        disk_free: u64,
        /// Available memory in bytes.
        memory_available: u64,
    },
    /// A partial blob is open; its chunks were checked against their digests.
    BlobOpened {
        /// The blob.
        digest: Digest,
        /// Which chunks are whole, or why it cannot be opened.
        have: Result<Vec<bool>, Failure>,
    },
    /// A chunk could not be written.
    WriteFailed {
        /// The blob.
        digest: Digest,
        /// Why.
        failure: Failure,
    },
    /// A file was put together from its blob, or was not.
    FileAssembled {
        /// The whole file's digest.
        file: Digest,
        /// Ok where it has exactly this digest.
        result: Result<(), Failure>,
    },
    /// A version was loaded beside the active one and its golden samples were run.
    ModelStaged {
        /// The slot.
        slot: SlotName,
        /// The manifest's digest.
        digest: Digest,
        /// The probe, or why it cannot answer.
        result: Result<Probe, LoadFailure>,
    },
    /// A version was loaded into a slot that had nothing better.
    ModelLoaded {
        /// The slot.
        slot: SlotName,
        /// The manifest's digest.
        digest: Digest,
        /// The probe, or why it cannot answer.
        result: Result<Probe, LoadFailure>,
    },
    /// A version answers from now on.
    Activated {
        /// The slot.
        slot: SlotName,
        /// The manifest's digest.
        digest: Digest,
    },
    /// Somebody at the device asks to wait with switches, or no longer does.
    VetoChanged(Option<Veto>),
    /// A shadow run has come to its end, or could not begin.
    ShadowEnded {
        /// The slot.
        slot: SlotName,
        /// The manifest's digest.
        digest: Digest,
        /// Why it could not begin.
        refused: Option<Failure>,
    },
    /// A message could not be put into the outbox.
    PutFailed {
        /// Its id.
        id: u64,
    },
    /// A telemetry window has closed.
    WindowClosed {
        /// When it began, in seconds since 1970.
        started_at: u64,
        /// How long it was, in milliseconds.
        length_ms: u64,
        /// What each slot did.
        slots: Vec<SlotWindow2>,
        /// What versions did that ran beside active ones.
        shadows: Vec<ShadowWindow>,
        /// What the agent used.
        vitals: Vitals,
    },
}

/// Why a version cannot answer.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadFailure {
    /// The failure.
    pub failure: Failure,
    /// Files whose content is not what their digest says; they have been removed.
    pub damaged: Vec<Digest>,
}

/// Something to be done, in order. Where a result is named, it comes back as an event.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Write the durable state, and only then go on.
    Persist(Box<Durable>),
    /// Keep signed metadata, all of these or none; what has no bytes is forgotten.
    KeepSigned(Vec<(Signed, Option<Vec<u8>>)>),
    /// Keep a manifest, which was verified.
    KeepManifest {
        /// Its digest.
        digest: Digest,
        /// Its exact bytes.
        bytes: Vec<u8>,
    },
    /// Say hello: connected, and waiting for the desired state.
    SayHello,
    /// Ask the dispatcher for something; may get lost.
    Request(Fetch),
    /// Receive what the dispatcher sends to many about this blob.
    Join(Digest),
    /// No longer receive it.
    Leave(Digest),
    /// Measure the room → [`Event::RoomMeasured`].
    MeasureRoom,
    /// Open or create a partial blob and check what is there → [`Event::BlobOpened`].
    OpenBlob(Box<Blob>),
    /// Write a checked chunk; only failures come back.
    WriteChunk {
        /// The blob.
        digest: Digest,
        /// The offset in bytes.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Make a file out of its blob, check its digest, and only then give it its name → [`Event::FileAssembled`].
    Assemble {
        /// The file.
        file: Box<File>,
        /// Out of what.
        source: Source,
    },
    /// Remove a partial blob.
    DropBlob(Digest),
    /// Load beside the active version and run the golden samples → [`Event::ModelStaged`].
    Stage {
        /// The slot.
        slot: SlotName,
        /// The version.
        manifest: Box<BundleManifest>,
        /// The manifest's digest.
        digest: Digest,
    },
    /// Switch to the staged version, in one step → [`Event::Activated`].
    Activate {
        /// The slot.
        slot: SlotName,
        /// The manifest's digest.
        digest: Digest,
    },
    /// Forget the staged version.
    Unstage {
        /// The slot.
        slot: SlotName,
    },
    /// Run the staged version beside the active one; goes before an earlier run in this slot → [`Event::ShadowEnded`].
    /// The run ends with [`Effect::Activate`], [`Effect::Unstage`] and [`Effect::Clear`] as well.
    Shadow {
        /// The slot.
        slot: SlotName,
        /// The manifest's digest.
        digest: Digest,
        /// On which terms.
        terms: ShadowTerms,
    },
    /// No longer run the staged version beside the active one.
    EndShadow {
        /// The slot.
        slot: SlotName,
    },
    /// Load and switch, because nothing better answers → [`Event::ModelLoaded`], and then [`Event::Activated`].
    Load {
        /// The slot.
        slot: SlotName,
        /// The version.
        manifest: Box<BundleManifest>,
        /// The manifest's digest.
        digest: Digest,
    },
    /// Empty a slot.
    Clear {
        /// The slot.
        slot: SlotName,
    },
    /// Remove manifests and files that nothing needs.
    Collect {
        /// Manifests to remove.
        manifests: Vec<Digest>,
        /// Files to remove.
        files: Vec<Digest>,
    },
    /// Send a report that nobody waits for; may get lost.
    SendReport(Box<DeviceReport>),
    /// Put a message into the outbox. An outcome waits for room on the disk; of the others [`Event::PutFailed`] comes back.
    Put {
        /// Its id.
        id: u64,
        /// Its rank.
        kind: Kind,
        /// The message.
        body: Box<Body>,
    },
    /// Send a message of the outbox; it stays there until acknowledged.
    Send {
        /// Its id.
        id: u64,
        /// Its rank.
        kind: Kind,
    },
    /// Remove messages from the outbox.
    Remove(Vec<u64>),
}

/// Signed bytes that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signed {
    /// The model repository's newest trusted root.
    Root,
    /// Its timestamp.
    Timestamp,
    /// Its snapshot.
    Snapshot,
    /// Its targets.
    Targets,
    /// The director's newest trusted root.
    DirectorRoot,
    /// The newest accepted desired state.
    Desired,
}

impl Signed {
    /// Every kind.
    pub const ALL: [Signed; 6] =
        [Signed::Root, Signed::Timestamp, Signed::Snapshot, Signed::Targets, Signed::DirectorRoot, Signed::Desired];

    /// Its name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Signed::Root => "root.json",
            Signed::Timestamp => "timestamp.json",
            Signed::Snapshot => "snapshot.json",
            Signed::Targets => "targets.json",
            Signed::DirectorRoot => "director-root.json",
            Signed::Desired => "desired.bin",
        }
    }
}

/// What a file is made out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Its own blob, as the manifest describes it.
    Full,
    /// A delta against a held file.
    Delta {
        /// The held file.
        base: Digest,
        /// The delta's blob.
        delta: Digest,
    },
}

/// A message in the outbox.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A report with an outcome; it is signed when it is stored.
    Report(DeviceReport),
    /// A telemetry window.
    Telemetry(Telemetry),
}
