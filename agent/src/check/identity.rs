//! Is the device enrolled, and is its certificate still good?

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, X509Certificate};

use super::Finding;
use crate::identity::{Error, Identity};

/// From this many days before the end on, somebody should look.
const SOON_DAYS: i64 = 30;

pub(super) fn check(identity: &Result<Identity, Error>) -> Finding {
    let identity = match identity {
        Ok(identity) => identity,
        Err(Error::NotEnrolled(path)) => {
            let message = format!("not enrolled ({} is missing)", path.display());
            return Finding::fail("identity", message, "run `muster-agent enroll TOKEN`");
        }
        Err(error) => return Finding::fail("identity", error.to_string(), "enrol the device again with --force"),
    };
    let name = format!("{} in workspace {}", identity.device, identity.workspace);
    let parsed = identity.certificates().first().map(|c| X509Certificate::from_der(c));
    let Some(Ok((_, certificate))) = parsed else {
        return Finding::fail(
            "identity",
            format!("{name}: the certificate cannot be read"),
            "enrol the device again with --force",
        );
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let days = (certificate.validity().not_after.timestamp() - now) / 86_400;
    match days {
        ..0 => Finding::fail(
            "identity",
            format!("{name}: the certificate ended {} days ago", -days),
            "enrol the device again with --force",
        ),
        0..SOON_DAYS => Finding::warn(
            "identity",
            format!("{name}: the certificate ends in {days} days"),
            "enrol the device again with --force before that",
        ),
        _ => Finding::ok("identity", format!("{name}, certificate good for {days} days")),
    }
}
