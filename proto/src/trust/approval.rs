use std::collections::BTreeMap;

use super::key::count_signers;
use super::{Error, KeyEntry, sign};
use crate::desired::{Approval, ApprovalStatement};

/// Whose approval a device asks for before it takes part in a plan. It is the device owner's own choice, so that a
/// dispatcher that was taken over cannot do without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Approvers {
    keys: BTreeMap<String, KeyEntry>,
    required: u64,
}

impl Approvers {
    /// `required` of these Ed25519 public keys; the default asks for none.
    pub fn new(keys: impl IntoIterator<Item = [u8; 32]>, required: u64) -> Result<Self, Error> {
        let entry = |key: [u8; 32]| {
            let entry = KeyEntry::ed25519(&key);
            Ok((entry.id()?.to_string(), entry))
        };
        Ok(Self { keys: keys.into_iter().map(entry).collect::<Result<_, Error>>()?, required })
    }

    /// How many different keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nobody is asked.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks that enough different keys have signed `statement`; approvals by others count for nothing.
    pub fn check(&self, statement: &ApprovalStatement, approvals: &[Approval]) -> Result<(), Error> {
        if self.required == 0 {
            return Ok(());
        }
        let ids: Vec<String> = self.keys.keys().cloned().collect();
        let message = sign::approval_signing_input(statement);
        let keys: Vec<String> = approvals.iter().map(|a| a.key.to_string()).collect();
        let pairs = keys.iter().map(String::as_str).zip(approvals.iter().map(|a| a.value.as_slice()));
        let valid = count_signers(&self.keys, &ids, self.required, &message, pairs);
        if valid < self.required {
            return Err(Error::Approvals { target: statement.target.clone(), valid, required: self.required });
        }
        Ok(())
    }
}
