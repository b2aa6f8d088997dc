//! Stable failure codes: each has one number, one name and one documented meaning.
//!
//! A code never changes its meaning and is never used again for another one. Numbers that this
//! build does not know (a message from the future) are kept as [`Code::Unknown`].

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $next:literal;)+) => {
        /// What went wrong, as a stable number and name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
            /// A code of a newer build.
            Unknown(u16),
        }

        impl Code {
            /// Every code that this build knows, in order of number.
            pub const ALL: &[Code] = &[$(Code::$variant),+];

            /// The stable number.
            pub fn number(self) -> u16 {
                match self {
                    $(Code::$variant => $number,)+
                    Code::Unknown(number) => number,
                }
            }

            /// The code of `number`; [`Code::Unknown`] where this build has none.
            pub fn from_number(number: u16) -> Self {
                match number {
                    $($number => Code::$variant,)+
                    other => Code::Unknown(other),
                }
            }

            /// The stable name, in snake case.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$variant => $name,)+
                    Code::Unknown(_) => "unknown",
                }
            }

            /// The code called `name`, if this build knows it.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Code::$variant),)+
                    _ => None,
                }
            }

            /// What a person does next.
            pub fn next_step(self) -> &'static str {
                match self {
                    $(Code::$variant => $next,)+
                    Code::Unknown(_) => "update this program: the other side speaks a newer version",
                }
            }
        }
    };
}

codes! {
    /// A signature is missing, wrong, or below its threshold.
    SignatureInvalid = 100, "signature_invalid", "check that device and dispatcher belong to the same workspace; enrol the device again if its trust root was replaced";
    /// Signed metadata is not what the specification or this build can read.
    MetadataInvalid = 101, "metadata_invalid", "look at the dispatcher's trust repository with `muster trust show`";
    /// Signed metadata, or a desired state, is older than what is already trusted.
    Rollback = 102, "rollback", "if the dispatcher was restored from a backup, restore a newer one; nothing older is ever accepted";
    /// Signed metadata has expired and the device's time is trusted.
    MetadataExpired = 103, "metadata_expired", "make sure that the dispatcher runs: it renews its metadata by itself";
    /// Director and model repository name different content for a target.
    DirectorDisagrees = 104, "director_disagrees", "treat the dispatcher as suspect: it asked for something that no publisher signed";
    /// The desired state is addressed to another device or workspace.
    WrongDevice = 105, "wrong_device", "check that two machines do not share one identity";
    /// A whole file, manifest or chunk has another digest than the signed one.
    DigestMismatch = 106, "digest_mismatch", "the content was changed or damaged on its way; it is fetched again by itself";
    /// A manifest cannot be read, or breaks a rule of its schema.
    ManifestInvalid = 107, "manifest_invalid", "register the model again with a current `muster`";
    /// A claimed size is beyond the cap.
    TooLarge = 108, "too_large", "raise the limit in the device's configuration, or make the model smaller";

    /// A message could not be decoded.
    MessageInvalid = 120, "message_invalid", "update the older of agent and dispatcher";
    /// A message is of a version that this build does not speak.
    MessageFromTheFuture = 121, "message_from_the_future", "update this agent";
    /// The other side does not have what was asked for.
    NotFound = 122, "not_found", "check the name; the content may have been deleted";
    /// The transfer stalled longer than its limit.
    TransferStalled = 123, "transfer_stalled", "check the network; the transfer goes on by itself where it stopped";
    /// A delta did not give the signed file; the full file is fetched instead.
    DeltaFailed = 124, "delta_failed", "nothing: the device fetches the full file by itself";

    /// Not enough free disk for the bundle and the headroom.
    DiskFull = 140, "disk_full", "free some space on the device or lower `storage.headroom_bytes`; the update is tried again by itself";
    /// The model wants more memory than the device has.
    MemoryShort = 141, "memory_short", "use a smaller model or a larger device";
    /// The manifest asks for another engine version or hardware.
    Incompatible = 142, "incompatible", "update the agent, or register the model for this hardware";
    /// The local store could not be read or written.
    StoreFailed = 143, "store_failed", "look at the device's disk; the working model goes on answering";

    /// The engine could not read the model file.
    ModelInvalid = 160, "model_invalid", "check that the file is an ONNX model";
    /// The engine lacks an operator, or cannot run the model as it is.
    ModelUnsupported = 161, "model_unsupported", "export the model with other operators or fixed shapes; the message names the node";
    /// A golden sample gave another answer than recorded.
    ProbeMismatch = 162, "probe_mismatch", "compare the device's engine version and hardware with those of the registration";
    /// The model crashed, or the process did, within the trial period after activation.
    TrialCrashed = 163, "trial_crashed", "the device went back to the version before; look at its logs with `muster-agent support-bundle`";
    /// The operator or the desired state ended the update before it was active.
    Superseded = 164, "superseded", "nothing: a newer desired state took its place";
    /// A bundle failed its probe on this device in this generation and is not tried again.
    AlreadyRefused = 165, "already_refused", "roll out a mended version";
    /// The version is ready and the desired state says to wait with the switch.
    Held = 166, "held", "nothing: the rollout goes on when its gate allows it";
    /// The version is ready and the time from which it may answer has not come.
    NotYet = 167, "not_yet", "nothing: the device switches by itself when the time has come; check its clock if that has passed";
    /// The version is ready and none of the windows for switching is open.
    OutsideWindow = 168, "outside_window", "nothing: the device switches by itself when a window opens; roll out with --now if it cannot wait";
    /// Somebody at the device asked to wait with the switch.
    Vetoed = 169, "vetoed", "lift the veto on the device, or wait for its deadline";
    /// The plan of an offer lacks the approvals that the device asks for.
    PlanUnapproved = 170, "plan_unapproved", "have the plan approved by the people whose keys are in the device's `approvals.keys`";
    /// The version was taken back.
    Recalled = 171, "recalled", "nothing: the version before answers again; roll out a mended one";
    /// A shadow run was left out, because it would have taken more than its budget.
    ShadowOverBudget = 172, "shadow_over_budget", "allow the shadow more memory or processor time, or skip the comparison on this device";
    /// The device was not healthy in the time that the plan gives it.
    TimedOut = 173, "timed_out", "look at the device with `muster rollout explain`; `muster rollout retry` offers it again";

    /// The scoring script cannot be loaded: not WebAssembly, beyond its limits, or without what it has to export.
    ScriptInvalid = 174, "script_invalid", "mend the script as the message says; agent/README.md has its interface";

    /// An inference input has a wrong name, dtype, shape or range.
    InputInvalid = 180, "input_invalid", "compare the input with the model's metadata at /v2/models/NAME";
    /// The queue is full.
    Overloaded = 181, "overloaded", "try again after the time in Retry-After";
    /// No model answers in this slot.
    NoModel = 182, "no_model", "wait for the rollout, or look at `muster-agent status`";
    /// The inference itself failed.
    InferenceFailed = 183, "inference_failed", "look at the agent's log; the model goes on serving other requests";
    /// The scoring script does not take this request, and says why.
    ScriptRefused = 184, "script_refused", "read the message: it is the script's own";
    /// The scoring script trapped, or broke the rules of its interface.
    ScriptFailed = 185, "script_failed", "mend the script; the agent's log has the details";
    /// The scoring script used up its fuel.
    ScriptOutOfFuel = 186, "script_out_of_fuel", "send less at once, mend the script, or register it with more fuel";
    /// The scoring script wanted more memory than its limit.
    ScriptOutOfMemory = 187, "script_out_of_memory", "send less at once, mend the script, or register it with more memory";
    /// The scoring script was stopped, because its time was over or nobody waited any more.
    ScriptStopped = 188, "script_stopped", "send less at once, or give the script more time or a faster machine";

    /// The configuration cannot be read or has an unknown key.
    ConfigInvalid = 200, "config_invalid", "mend the named key; `--help` lists what there is";
    /// An address or port is in use.
    PortInUse = 201, "port_in_use", "stop the other program or choose another port";
    /// A token or key is wrong, used up, or expired.
    Unauthorized = 202, "unauthorized", "make a new one with `muster device enroll-token` or `muster key create`";
    /// The caller is known but may not do this.
    Forbidden = 203, "forbidden", "ask an administrator of the workspace";
    /// The request contradicts the present state.
    Conflict = 204, "conflict", "read the message: it names what stands in the way";
    /// A request or argument breaks a rule.
    BadRequest = 205, "bad_request", "mend the named field";
    /// Something that should not happen did.
    Internal = 206, "internal", "report this with the output of `support-bundle`";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Code::Unknown(number) => write!(f, "unknown_{number}"),
            known => f.write_str(known.name()),
        }
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.number().serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u16::deserialize(deserializer).map(Code::from_number);
        }
        let name = String::deserialize(deserializer)?;
        let number = name.strip_prefix("unknown_").and_then(|n| n.parse().ok());
        number
            .map(Code::from_number)
            .or_else(|| Code::from_name(&name))
            .ok_or_else(|| serde::de::Error::custom(format!("unknown code {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        let mut names = std::collections::HashSet::new();
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), *code);
            assert_eq!(Code::from_name(code.name()), Some(*code));
            assert!(names.insert(code.name()), "{code} stands twice");
            assert!(!code.next_step().is_empty());
            let json = serde_json::to_string(code).expect("json");
            assert_eq!(serde_json::from_str::<Code>(&json).expect("back"), *code);
        }
        assert!(Code::ALL.windows(2).all(|w| w[0].number() < w[1].number()));
    }

    #[test]
    fn a_code_of_the_future_survives() {
        let bytes = postcard::to_stdvec(&60_000u16).expect("postcard");
        let code: Code = postcard::from_bytes(&bytes).expect("decodes");
        assert_eq!(code, Code::Unknown(60_000));
        assert_eq!(serde_json::to_string(&code).expect("json"), "\"unknown_60000\"");
    }
}
