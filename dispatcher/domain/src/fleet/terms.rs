//! What desired states say for a rollout: its version, and on which terms.

use muster_proto::desired::{Agreement, Approval, MAX_APPROVALS, PlanRef, Real, ShadowTerms, Terms, Window};

use crate::device::Assignment;
use crate::rollout::plan::{AgreementRule, Shadow, Switch};
use crate::rollout::{Part, Rollout};

impl Rollout {
    /// What the desired state of a device with this part says.
    pub(super) fn assignment(&self, part: &Part) -> Assignment {
        let stage = self.plan.stages.get(usize::from(part.stage));
        // Whoever fetches beforehand is in no stage yet: there is nothing to shadow, and the last soak time will do.
        let shadow = stage.and_then(|stage| stage.shadow.as_ref()).filter(|_| part.held && part.comparable);
        let soak = stage.or(self.plan.stages.last()).map_or(0, |stage| stage.soak.0);
        let approvals: Vec<Approval> = self.signed_approvals().collect();
        let terms = Terms {
            hold: part.held,
            not_before: match self.plan.schedule.switch {
                Switch::At(at) => at.0,
                Switch::Directly | Switch::OnWord => 0,
            },
            shadow: shadow.map(shadow_terms),
            plan: (!approvals.is_empty()).then_some(PlanRef { hash: self.plan_hash, approvals }),
            ..self.patience()
        };
        Assignment {
            target: self.target.clone(),
            digest: self.digest,
            length: self.length,
            trial_seconds: seconds(soak),
            rollout: self.id,
            terms,
            attempt: 0,
            since: Default::default(),
        }
    }

    /// What binds a device that goes back: windows and vetoes, unless it cannot wait.
    pub(super) fn recall_terms(&self) -> Terms {
        if self.urgent { Terms { urgent: true, ..Terms::default() } } else { self.patience() }
    }

    /// What a device waits for on its own behalf.
    fn patience(&self) -> Terms {
        let schedule = &self.plan.schedule;
        let windows = schedule.windows.iter().map(|w| Window { cron: w.cron.clone(), seconds: seconds(w.length.0) });
        Terms { windows: windows.collect(), veto_seconds: seconds(schedule.veto.0), ..Terms::default() }
    }

    fn signed_approvals(&self) -> impl Iterator<Item = Approval> {
        let signed = self.approvals.iter().filter_map(|approved| {
            let key = approved.key.as_ref()?.parse().ok()?;
            Some(Approval { key, value: hex::decode(approved.signature.as_ref()?).ok()? })
        });
        signed.take(MAX_APPROVALS)
    }
}

fn seconds(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn shadow_terms(shadow: &Shadow) -> ShadowTerms {
    let permille = |share: f64| (share * 1000.0).round().clamp(1.0, 1000.0) as u16;
    ShadowTerms {
        seconds: seconds(shadow.time.0),
        inferences: shadow.inferences,
        share_permille: permille(shadow.share.0),
        cpu_permille: permille(shadow.cpu.0),
        memory_bytes: shadow.memory.0,
        rule: match shadow.rule {
            AgreementRule::Top1 => Agreement::Top1,
            AgreementRule::Tolerance(absolute) => Agreement::Tolerance { absolute: Real(absolute) },
            AgreementRule::Overlap(share) => Agreement::Overlap { permille: permille(share.0) },
        },
    }
}
