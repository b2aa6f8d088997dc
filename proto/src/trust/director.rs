use std::collections::BTreeSet;

use super::envelope::{check_expiry, verify};
use super::metadata::{Expires, Root, TargetInfo};
use super::root::TrustedRoot;
use super::{Error, Repository, Role, TargetRef, Verified, sign};
use crate::desired::{
    Agreement, Desired, DesiredState, MAX_APPROVALS, MAX_CRON, MAX_DENIED, MAX_SLOTS, MAX_WINDOWS, SignedDesired, Terms,
};
use crate::id::{DeviceId, Digest, SlotName, Workspace};
use crate::manifest::{self, BundleManifest, MAX_MANIFEST};
use crate::transfer::Metadata;
use crate::wire;

/// The director's trusted root: whose word counts for what a device shall run. What may run at all is the model
/// repository's matter, and [`agree`] brings the two together.
#[derive(Debug, Clone)]
pub struct Director {
    root: TrustedRoot,
}

impl Director {
    /// Begins with a root that is trusted because of where it came from.
    pub fn new(root: &[u8]) -> Result<Self, Error> {
        Ok(Self { root: TrustedRoot::initial(Role::DirectorRoot, root)? })
    }

    /// Takes the root that follows the trusted one.
    pub fn update_root(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.root = self.root.next(bytes)?;
        Ok(())
    }

    /// The trusted root's version.
    pub fn root_version(&self) -> u64 {
        self.root.version()
    }

    /// The trusted root's bytes, to be stored.
    pub fn root_bytes(&self) -> &[u8] {
        &self.root.bytes
    }

    /// The trusted root.
    pub fn root(&self) -> &Root {
        &self.root.content
    }

    /// Checks an encoded [`SignedDesired`]: the director's signatures, the addressee, and with a trusted `now` (seconds
    /// since 1970) the expiry.
    ///
    /// It does not compare generations, because it does not know what was accepted before: the caller has to refuse a
    /// generation below its own (invariant 3).
    pub fn verify(
        &self,
        bytes: &[u8],
        workspace: &Workspace,
        device: &DeviceId,
        now: Option<u64>,
    ) -> Result<Verified<Desired>, Error> {
        self.root.check_expiry(now)?;
        let SignedDesired::V1 { payload, signatures } = wire::decode::<SignedDesired>(bytes)?;
        let ids: Vec<String> = signatures.iter().map(|s| s.key.to_string()).collect();
        let pairs = ids.iter().map(String::as_str).zip(signatures.iter().map(|s| s.value.as_slice()));
        let root = &self.root.content;
        verify(Role::Director, root, &root.roles.targets, &sign::desired_signing_input(&payload), pairs)?;

        let desired = wire::decode::<DesiredState>(&payload)?.into_desired();
        if desired.workspace != *workspace || desired.device != *device {
            let addressee = format!("{}/{}", desired.workspace, desired.device);
            return Err(Error::WrongDevice { addressee, this: format!("{workspace}/{device}") });
        }
        if desired.expires_at > 0 {
            check_expiry(Role::Director, Expires::at(desired.expires_at), now)?;
        }
        check_slots(&desired)?;
        Ok(Verified::new(desired))
    }
}

/// The target of `slot` that director and model repository agree on. A dispatcher that was taken over can name any
/// target here, but only with the content that a publisher signed.
pub fn agree(
    repository: &Repository,
    desired: &Verified<Desired>,
    slot: &SlotName,
) -> Result<Verified<TargetRef>, Error> {
    let wanted = desired.slot(slot).ok_or_else(|| Error::NoSuchSlot { slot: slot.to_string() })?;
    if let Some(missing) = repository.missing() {
        return Err(Error::Missing { role: role_of(missing) });
    }
    let path = wanted.target.clone();
    let Some(info) = repository.target(&path) else { return Err(Error::TargetNotFound { path }) };
    if info.length != wanted.length || info.digest != wanted.digest {
        return Err(Error::DirectorDisagrees { path });
    }
    signed_target(path, info)
}

/// The target at `path` that a publisher has signed, for a server whose operator names what it serves: there is no
/// director then, and the operator's word stands for it.
pub fn choose(repository: &Repository, path: &str) -> Result<Verified<TargetRef>, Error> {
    if let Some(missing) = repository.missing() {
        return Err(Error::Missing { role: role_of(missing) });
    }
    let path = path.to_owned();
    let Some(info) = repository.target(&path) else { return Err(Error::TargetNotFound { path }) };
    signed_target(path, info)
}

fn signed_target(path: String, info: TargetInfo) -> Result<Verified<TargetRef>, Error> {
    if info.length > MAX_MANIFEST as u64 {
        return Err(Error::TooLarge { subject: path, bytes: info.length, limit: MAX_MANIFEST as u64 });
    }
    Ok(Verified::new(TargetRef { path, digest: info.digest, length: info.length }))
}

/// Checks that `bytes` are the manifest that `target` names, and reads it (invariant 1).
pub fn verify_manifest(target: &Verified<TargetRef>, bytes: &[u8]) -> Result<Verified<BundleManifest>, Error> {
    let path = || target.path.clone();
    if bytes.len() as u64 != target.length || Digest::of(bytes) != target.digest {
        return Err(Error::ManifestMismatch { path: path() });
    }
    let manifest = BundleManifest::parse(bytes).map_err(|source| Error::Manifest { path: path(), source })?;
    // Else a publisher's old manifest could be offered under a new version's path, or a model as another one.
    if manifest::parse_target_path(&target.path) != Some((manifest.model.clone(), manifest.version)) {
        return Err(Error::ManifestElsewhere { path: path(), found: manifest.target_path() });
    }
    Ok(Verified::new(manifest))
}

fn role_of(document: Metadata) -> Role {
    match document {
        Metadata::Root(_) => Role::Root,
        Metadata::Timestamp => Role::Timestamp,
        Metadata::Snapshot(_) => Role::Snapshot,
        Metadata::Targets(_) => Role::Targets,
        Metadata::DirectorRoot(_) => Role::DirectorRoot,
    }
}

fn check_slots(desired: &Desired) -> Result<(), Error> {
    if desired.slots.len() > MAX_SLOTS {
        return Err(Error::Inconsistent { reason: format!("{} slots, at most {MAX_SLOTS}", desired.slots.len()) });
    }
    if desired.denied.len() > MAX_DENIED {
        let reason = format!("{} recalled versions, at most {MAX_DENIED}", desired.denied.len());
        return Err(Error::Inconsistent { reason });
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = desired.slots.iter().find(|s| !seen.insert(&s.slot)) {
        return Err(Error::Inconsistent { reason: format!("slot {} stands twice", twice.slot) });
    }
    for slot in &desired.slots {
        check_terms(&slot.terms)
            .map_err(|rule| Error::Inconsistent { reason: format!("slot {}: {rule}", slot.slot) })?;
    }
    Ok(())
}

/// The caps of terms. What a cron expression means is not looked at here.
fn check_terms(terms: &Terms) -> Result<(), String> {
    if terms.windows.len() > MAX_WINDOWS {
        return Err(format!("{} windows, at most {MAX_WINDOWS}", terms.windows.len()));
    }
    if let Some(long) = terms.windows.iter().find(|w| w.cron.len() > MAX_CRON) {
        return Err(format!("a cron expression of {} bytes, at most {MAX_CRON}", long.cron.len()));
    }
    if terms.windows.iter().any(|w| w.seconds == 0) {
        return Err("a window of no length never opens".into());
    }
    if let Some(shadow) = &terms.shadow {
        let rule = match shadow.rule {
            Agreement::Tolerance { absolute } if !(absolute.0.is_finite() && absolute.0 >= 0.0) => {
                return Err(format!("a tolerance of {}", absolute.0));
            }
            Agreement::Overlap { permille } => permille,
            Agreement::Top1 | Agreement::Tolerance { .. } => 0,
        };
        if let Some(share) = [shadow.share_permille, shadow.cpu_permille, rule].into_iter().find(|s| *s > 1000) {
            return Err(format!("a share of {share} thousandths"));
        }
    }
    let approvals = terms.plan.as_ref().map_or(0, |p| p.approvals.len());
    if approvals > MAX_APPROVALS {
        return Err(format!("{approvals} approvals, at most {MAX_APPROVALS}"));
    }
    Ok(())
}
