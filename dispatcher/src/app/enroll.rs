//! Letting devices in: enrolment tokens, and the exchange of one for a certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proto::enroll::Invitation;
use muster_proto::id::{DeviceId, Digest};
use muster_proto::topic;

use super::view::{EnrollRequest, EnrollToken, EnrollTokenRequest, Enrollment, Principal};
use super::{App, Error, Result, random_id, random_text};
use crate::acl;
use crate::domain::Event;
use crate::domain::device::Device;
use crate::domain::registry::check_labels;
use crate::storage::EnrollGrant;

const HOUR: u64 = 3600;
const MAX_TTL: u64 = 30 * 24 * HOUR;
const MAX_USES: u32 = 10_000;
/// The most enrolment tokens that are good at a time.
const MAX_TOKENS: u64 = 10_000;
/// The most devices of a workspace.
const MAX_DEVICES: usize = 100_000;

impl App {
    /// Makes an enrolment token.
    pub async fn create_enroll_token(&self, request: EnrollTokenRequest, by: &Principal) -> Result<EnrollToken> {
        let ttl = request.ttl_seconds.unwrap_or(HOUR);
        let uses = request.uses.unwrap_or(1);
        if !(1..=MAX_TTL).contains(&ttl) {
            return Err(Error::BadRequest(format!("ttl_seconds has to be 1 to {MAX_TTL}, not {ttl}")));
        }
        if !(1..=MAX_USES).contains(&uses) {
            return Err(Error::BadRequest(format!("uses has to be 1 to {MAX_USES}, not {uses}")));
        }
        check_labels("label", &request.labels).map_err(Error::BadRequest)?;
        if self.0.storage.count_grants().await? >= MAX_TOKENS {
            return Err(Error::conflict(format!("there are {MAX_TOKENS} enrolment tokens: wait until some expire")));
        }
        let (now, secret) = (crate::now(), random_text::<32>()?);
        let grant = EnrollGrant {
            id: random_id()?,
            groups: request.groups,
            labels: request.labels,
            expires_at: now.saturating_add(ttl),
            uses_left: uses,
        };
        self.0.storage.insert_grant(&grant, Digest::of(secret.as_bytes()), now).await?;
        let invitation = Invitation {
            api: self.0.addresses.api_url.clone(),
            ca_fingerprint: Digest(self.0.ca.fingerprint()),
            secret,
        };
        self.record(by, "device.enroll_token", &grant.id, &format!("{uses} uses, {ttl} seconds")).await;
        Ok(EnrollToken {
            id: grant.id,
            token: invitation.to_string(),
            groups: grant.groups,
            labels: grant.labels,
            expires_at: grant.expires_at,
            uses,
        })
    }

    /// Enrols a device that shows a token's secret. The same request again, as after a lost answer, gives the
    /// device a certificate again and uses the token only once.
    pub async fn enroll(&self, request: EnrollRequest) -> Result<Enrollment> {
        let now = crate::now();
        let EnrollRequest { secret, device, csr, agent } = request;
        let grant = self.0.storage.grant(Digest::of(secret.as_bytes())).await?;
        let grant = grant.ok_or_else(|| {
            Error::Unauthorized(
                "the enrolment token is not known here: make a new one with `muster device enroll-token`".into(),
            )
        })?;
        if device.as_str() == topic::BUNDLE {
            return Err(Error::BadRequest(format!(
                "no device may be called {device}: that name has a meaning of its own"
            )));
        }
        let (certificate_pem, public_key) = self.certify(&device, &csr)?;
        let repeated = {
            let fleet = self.0.driver.fleet();
            let known = fleet.devices.get(&device);
            known.is_some_and(|known| known.public_key == public_key && known.token == grant.id)
        };
        if !repeated {
            let (app, name) = (self.clone(), device.clone());
            self.to_the_end(async move { app.let_in(&name, public_key, grant, agent, now).await }).await?;
        }
        let (root, director_root) =
            self.0.signing.run(|signer| (signer.root_bytes().to_vec(), signer.director_root_bytes().to_vec())).await;
        let text = |bytes| String::from_utf8(bytes).map_err(|e| Error::internal("the root metadata", e));
        Ok(Enrollment {
            workspace: self.0.workspace.clone(),
            device,
            certificate_pem,
            ca_pem: self.ca_pem(),
            broker: self.0.addresses.broker.clone(),
            root_json: text(root)?,
            director_root_json: text(director_root)?,
        })
    }

    /// A certificate for the key of a request, and that key.
    fn certify(&self, device: &DeviceId, csr: &str) -> Result<(String, Vec<u8>)> {
        let refused = |e: crate::ca::Error| Error::BadRequest(e.to_string());
        let request = STANDARD.decode(csr).map_err(|_| Error::BadRequest("csr is not base64".into()))?;
        let workspace = self.0.workspace.as_str();
        // Once to check the request and to learn its key, which the certificate then names.
        let first = self.0.ca.sign_device_request(&request, workspace, device.as_str()).map_err(refused)?;
        let badge = acl::badge(&self.0.workspace, &first.public_key);
        let issued = self.0.ca.sign_device_request(&request, &badge, device.as_str()).map_err(refused)?;
        Ok((issued.pem, issued.public_key.to_vec()))
    }

    async fn let_in(
        &self,
        device: &DeviceId,
        public_key: Vec<u8>,
        grant: EnrollGrant,
        agent: muster_proto::report::AgentInfo,
        now: u64,
    ) -> Result<()> {
        let taken = format!("a device called {device} is enrolled already: choose another name, or remove it first");
        if self.0.driver.fleet().devices.contains_key(device) {
            return Err(Error::conflict(taken));
        }
        if grant.expires_at <= now {
            return Err(Error::Unauthorized("the enrolment token has expired: make a new one".into()));
        }
        if !self.0.storage.use_grant(&grant.id, now).await? {
            return Err(Error::Unauthorized("the enrolment token is used up: make a new one".into()));
        }
        let mut record = Device::enrolled(device.clone(), public_key, grant.id.clone(), agent, now);
        record.labels = grant.labels;
        record.groups = grant.groups;
        let entered = self.decide(move |fleet| {
            if fleet.devices.contains_key(&record.id) {
                return Err(Error::conflict(taken));
            }
            if fleet.devices.len() >= MAX_DEVICES {
                return Err(Error::conflict(format!("there are {MAX_DEVICES} devices: no more are let in")));
            }
            Ok((Some(Event::Enrolled(Box::new(record))), ()))
        });
        if let Err(error) = entered.await {
            self.0.storage.return_grant(&grant.id).await?;
            return Err(error);
        }
        let by = Principal { name: format!("enrolment token {}", grant.id), ..Principal::system() };
        self.record(&by, "device.enroll", device.as_str(), "").await;
        Ok(())
    }

    /// Removes a device: from now on its certificate opens nothing.
    pub async fn delete_device(&self, device: &DeviceId, by: &Principal) -> Result<()> {
        let id = device.clone();
        self.decide(move |fleet| {
            if !fleet.devices.contains_key(&id) {
                return Err(Error::NotFound(format!("device {id}")));
            }
            Ok((Some(Event::Removed(id)), ()))
        })
        .await?;
        self.record(by, "device.delete", device.as_str(), "").await;
        Ok(())
    }
}
