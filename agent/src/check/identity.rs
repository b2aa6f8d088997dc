//! Is the device enrolled, and is its certificate still good?

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, X509Certificate};

use super::Finding;
use crate::identity::{Error, Identity};

/// From this many days before the end on, somebody should look.
const SOON_DAYS: i64 = 30;
/// A name belongs to its key until it is revoked, and a new identity has a new key.
const ENROLL_AGAIN: &str =
    "run `muster device revoke NAME` on the dispatcher, then `muster-agent enroll --force TOKEN` here";

pub(super) fn check(identity: &Result<Identity, Error>) -> Finding {
    let identity = match identity {
        Ok(identity) => identity,
        Err(Error::NotEnrolled(path)) => {
            let message = format!("not enrolled ({} is missing)", path.display());
            return Finding::fail("identity", message, "run `muster-agent enroll TOKEN`");
        }
        Err(error) => return Finding::fail("identity", error.to_string(), ENROLL_AGAIN),
    };
    let name = format!("{} in workspace {}", identity.device, identity.workspace);
    let parsed = identity.certificates().first().map(|c| X509Certificate::from_der(c));
    let Some(Ok((_, certificate))) = parsed else {
        return Finding::fail("identity", format!("{name}: the certificate cannot be read"), ENROLL_AGAIN);
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let days = (certificate.validity().not_after.timestamp() - now) / 86_400;
    match days {
        ..0 => Finding::fail("identity", format!("{name}: the certificate ended {} days ago", -days), ENROLL_AGAIN),
        0..SOON_DAYS => Finding::warn(
            "identity",
            format!("{name}: the certificate ends in {days} days"),
            format!("before that, {ENROLL_AGAIN}"),
        ),
        _ => Finding::ok("identity", format!("{name}, certificate good for {days} days")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn a_device_that_has_to_enrol_again_is_revoked_first() {
        let unusable = Error::Unusable { path: "device.key.pem".into(), reason: "no key".into() };
        let finding = check(&Err(unusable));
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.next.contains("`muster device revoke NAME`"), "{}", finding.next);
        assert!(finding.next.contains("`muster-agent enroll --force TOKEN`"), "{}", finding.next);
    }
}
