//! A device as simple as one can be, over real MQTT: it asks, verifies with proto's own code, and reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_dispatcher::app::{App, EnrollRequest, EnrollTokenRequest, Enrollment, Principal};
use muster_proto::desired::Desired;
use muster_proto::enroll::Invitation;
use muster_proto::id::{DeviceId, Digest, Generation};
use muster_proto::manifest::{BundleManifest, Codec};
use muster_proto::report::{
    DeviceReport, ModelRef, Phase, Presence, Probe, Report, SignedReport, SlotReport, Transfer,
};
use muster_proto::topic::{Leaf, Topic, device_filters};
use muster_proto::transfer::{Ack, Delta, Fetch, Frame, MAX_CHUNK, Metadata, Object, WINDOW, chunk_count};
use muster_proto::trust::{self, Director, Repository, sign};
use muster_proto::wire::{self, Message};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS, TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes, shorter than a person's patience.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn id(name: &str) -> DeviceId {
    name.parse().expect("valid")
}

/// What stays on a device while it is off.
pub struct Identity {
    pub enrollment: Enrollment,
    key_pem: String,
    key: EcdsaKeyPair,
}

/// Makes a key and enrols under `name` with a fresh token.
pub async fn enroll(app: &App, name: &str, group: &str) -> Identity {
    let wanted = EnrollTokenRequest { groups: [group.parse().expect("valid")].into(), ..Default::default() };
    let token = app.create_enroll_token(wanted, &Principal::system()).await.expect("makes a token");
    let invitation: Invitation = token.token.parse().expect("is an invitation");
    let (key, request) = self::request(name, &invitation.secret);
    let enrollment = app.enroll(request).await.expect("enrols");
    let random = SystemRandom::new();
    let signing = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.serialized_der(), &random);
    Identity { enrollment, key_pem: key.serialize_pem(), key: signing.expect("a key") }
}

pub fn request(name: &str, secret: &str) -> (KeyPair, EnrollRequest) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let csr = STANDARD.encode(params.serialize_request(&key).expect("a request").der());
    (key, EnrollRequest { secret: secret.into(), device: id(name), csr, agent: Default::default() })
}

/// A connected device.
pub struct Device<'a> {
    pub identity: &'a Identity,
    client: AsyncClient,
    inbox: mpsc::UnboundedReceiver<(Topic, Vec<u8>)>,
    task: JoinHandle<()>,
    /// Messages that came while another was waited for.
    early: Vec<(Topic, Vec<u8>)>,
    next_report: u64,
    from_bundle: Arc<AtomicUsize>,
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<'a> Device<'a> {
    /// Connects with the device's certificate and subscribes to its topics.
    pub async fn connect(identity: &'a Identity) -> Device<'a> {
        let Enrollment { workspace, device, certificate_pem, ca_pem, broker, .. } = &identity.enrollment;
        let mut options = MqttOptions::new(device.as_str(), &broker.host, broker.port);
        options.set_max_packet_size(256 * 1024, 256 * 1024);
        options.set_clean_session(true);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls(
            ca_pem,
            certificate_pem,
            &identity.key_pem,
        )))));
        let (client, mut events) = AsyncClient::new(options, 100);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        // A test reads all of it.
        #[allow(clippy::disallowed_methods)]
        let (sender, inbox) = mpsc::unbounded_channel();
        let (ready, connected) = tokio::sync::oneshot::channel();
        let filters = device_filters(workspace, device);
        let (subscriber, wanted) = (client.clone(), filters.len());
        let from_bundle = Arc::new(AtomicUsize::new(0));
        let bundled = Arc::clone(&from_bundle);
        let task = tokio::spawn(async move {
            let (mut ready, mut subscribed) = (Some(ready), 0);
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for filter in &filters {
                            subscriber.try_subscribe(filter, QoS::AtLeastOnce).expect("room");
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        subscribed += 1;
                        if subscribed == wanted
                            && let Some(ready) = ready.take()
                        {
                            let _ = ready.send(());
                        }
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let topic = publish.topic.parse().expect("one of ours");
                        bundled.fetch_add(usize::from(matches!(topic, Topic::Bundle { .. })), Ordering::Relaxed);
                        let _ = sender.send((topic, publish.payload.to_vec()));
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        timeout(PATIENCE, connected).await.expect("connects in time").expect("connects");
        Device { identity, client, inbox, task, early: vec![], next_report: 1, from_bundle }
    }

    pub fn name(&self) -> &DeviceId {
        &self.identity.enrollment.device
    }

    pub async fn send<M: Message>(&self, leaf: Leaf, message: &M) {
        let topic = Topic::device(self.identity.enrollment.workspace.clone(), self.name().clone(), leaf).to_string();
        let payload = wire::encode(message).expect("encodes");
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.expect("is taken");
    }

    pub async fn send_raw(&self, leaf: Leaf, payload: &[u8]) {
        let topic = Topic::device(self.identity.enrollment.workspace.clone(), self.name().clone(), leaf).to_string();
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.expect("is taken");
    }

    /// How many messages came by a bundle topic.
    pub fn shared(&self) -> usize {
        self.from_bundle.load(Ordering::Relaxed)
    }

    pub async fn hello(&self, generation: u64) {
        self.send(Leaf::State, &Presence::OnlineV1 { generation: Generation(generation) }).await;
    }

    pub async fn join_bundle(&self, digest: Digest) {
        let topic = Topic::Bundle { workspace: self.identity.enrollment.workspace.clone(), digest };
        self.client.subscribe(topic.to_string(), QoS::AtMostOnce).await.expect("is taken");
    }

    /// The next message for which `pick` gives something.
    pub async fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(&Topic, &[u8]) -> Option<T>) -> T {
        if let Some(at) = self.early.iter().position(|(topic, payload)| pick(topic, payload).is_some()) {
            let (topic, payload) = self.early.remove(at);
            return pick(&topic, &payload).expect("was picked just now");
        }
        let search = async {
            loop {
                let (topic, payload) = self.inbox.recv().await.expect("the task runs");
                if let Some(found) = pick(&topic, &payload) {
                    return found;
                }
                self.early.push((topic, payload));
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("no {what} came"))
    }

    /// The next desired state, verified with the director's root, of at least `generation`.
    pub async fn desired(&mut self, generation: u64) -> trust::Verified<Desired> {
        let enrollment = &self.identity.enrollment;
        let director = Director::new(enrollment.director_root_json.as_bytes()).expect("a root");
        let (workspace, device) = (enrollment.workspace.clone(), enrollment.device.clone());
        self.wait("desired state", |topic, payload| {
            let wanted = matches!(topic, Topic::Device { leaf: Leaf::Desired, .. }) && !payload.is_empty();
            let verified = wanted.then(|| director.verify(payload, &workspace, &device, None).expect("verifies"))?;
            (verified.generation.0 >= generation).then_some(verified)
        })
        .await
    }

    /// A whole object, by windows of chunks, from the device's own topic or the bundle's; asked for again when chunks
    /// are lost, as an agent does.
    pub async fn fetch(&mut self, object: Object, chunk_size: u32) -> Option<Vec<u8>> {
        let mut parts: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut total = None;
        loop {
            let count = total.map_or(1, |total| chunk_count(total, chunk_size)) as u32;
            let indices: Vec<u32> = (0..count).filter(|i| !parts.contains_key(i)).take(WINDOW).collect();
            if indices.is_empty() || total == Some(0) {
                let mut whole = vec![];
                for index in 0..count {
                    whole.extend(parts.remove(&index).unwrap_or_default());
                }
                return Some(whole);
            }
            self.send(Leaf::Fetch, &Fetch::ChunksV1 { object: object.clone(), chunk_size, indices: indices.clone() })
                .await;
            for _ in 0..indices.len() {
                let frame = self
                    .wait("chunk", |_, payload| match wire::decode::<Frame>(payload) {
                        Ok(Frame::ChunkV1 { object: o, index, total, data, .. }) if o == object => {
                            Some(Some((index, total, data)))
                        }
                        Ok(Frame::MissingV1 { object: o, .. }) if o == object => Some(None),
                        _ => None,
                    })
                    .await;
                let (index, size, data) = frame?;
                total = Some(size);
                parts.insert(index, data.to_vec());
            }
        }
    }

    pub async fn metadata(&mut self, which: Metadata) -> Vec<u8> {
        self.fetch(Object::Metadata(which), MAX_CHUNK).await.expect("is published")
    }

    /// The model repository, walked as a device does.
    pub async fn repository(&mut self) -> Repository {
        let mut repository = Repository::new(self.identity.enrollment.root_json.as_bytes()).expect("a root");
        let next = self.fetch(Object::Metadata(Metadata::Root(2)), MAX_CHUNK).await;
        assert_eq!(next, None, "there is no newer root");
        while let Some(missing) = repository.missing() {
            let bytes = self.metadata(missing).await;
            match missing {
                Metadata::Timestamp => repository.update_timestamp(&bytes, None),
                Metadata::Snapshot(_) => repository.update_snapshot(&bytes, None),
                Metadata::Targets(_) => repository.update_targets(&bytes, None),
                other => panic!("{other:?} is not asked for"),
            }
            .expect("verifies");
        }
        repository
    }

    /// The manifest that director and repository agree on, and every file of it, each chunk verified.
    pub async fn bundle(&mut self, desired: &trust::Verified<Desired>) -> (BundleManifest, HashMap<String, Vec<u8>>) {
        let repository = self.repository().await;
        let slot = &desired.slots[0];
        let target = trust::agree(&repository, desired, &slot.slot).expect("they agree");
        let bytes = self.fetch(Object::Blob(target.digest), MAX_CHUNK).await.expect("is there");
        let manifest = trust::verify_manifest(&target, &bytes).expect("verifies").into_inner();
        let mut files = HashMap::new();
        for file in &manifest.files {
            let blob = self.fetch(Object::Blob(file.blob.digest), file.blob.chunk_size).await.expect("is there");
            for (index, chunk) in blob.chunks(file.blob.chunk_size as usize).enumerate() {
                assert!(file.blob.accepts(index as u32, chunk), "chunk {index} of {}", file.path);
            }
            let whole = match file.blob.codec {
                Codec::Zstd => zstd::stream::decode_all(&blob[..]).expect("decodes"),
                Codec::Stored => blob,
            };
            assert_eq!(Digest::of(&whole), file.digest);
            files.insert(file.path.to_string(), whole);
        }
        (manifest, files)
    }

    /// Asks for a delta.
    pub async fn delta(&mut self, want: Digest, held: Vec<Digest>) -> Option<Delta> {
        self.send(Leaf::Fetch, &Fetch::DeltaV1 { want, held }).await;
        self.wait("answer about a delta", |_, payload| match wire::decode::<Frame>(payload) {
            Ok(Frame::DeltaV1 { want: w, offer }) if w == want => Some(offer),
            _ => None,
        })
        .await
    }

    /// A report on the first slot of `desired`, signed with `key` or the device's own; returns its id.
    pub async fn report(&mut self, desired: &Desired, phase: Phase, key: Option<&Identity>) -> u64 {
        let slot = &desired.slots[0];
        let model = ModelRef { target: slot.target.clone(), digest: slot.digest };
        let answers = matches!(phase, Phase::Active | Phase::Healthy);
        let number = self.next_report;
        self.next_report += 1;
        let report = DeviceReport {
            workspace: desired.workspace.clone(),
            device: desired.device.clone(),
            incarnation: 7,
            id: number,
            sent_at: 1,
            generation: desired.generation,
            agent: Default::default(),
            slots: vec![SlotReport {
                slot: slot.slot.clone(),
                rollout: slot.rollout.clone(),
                desired: Some(model.clone()),
                phase,
                active: answers.then_some(model),
                previous: None,
                probe: answers.then_some(Probe {
                    samples: 4,
                    passed: 4,
                    max_abs_error: 1e-6,
                    load_us: 1,
                    inference_us: 1,
                }),
                failure: None,
                transfer: Transfer::default(),
            }],
            refused: None,
        };
        let payload = wire::encode(&Report::V1(report)).expect("encodes");
        let key = &key.unwrap_or(self.identity).key;
        let signature = key.sign(&SystemRandom::new(), &sign::report_signing_input(&payload)).expect("signs");
        let signed = SignedReport::V1 { payload, signature: signature.as_ref().to_vec() };
        self.send(Leaf::Report, &signed).await;
        number
    }

    /// Waits until message `number` is acknowledged.
    pub async fn acknowledged(&mut self, number: u64) {
        self.wait("acknowledgement", |topic, payload| {
            let to_me = matches!(topic, Topic::Device { leaf: Leaf::Ack, .. });
            let Ack::V1 { ids } = to_me.then(|| wire::decode(payload).expect("decodes"))?;
            ids.contains(&number).then_some(())
        })
        .await;
    }
}

fn tls(ca: &str, certificate: &str, key: &str) -> rustls::ClientConfig {
    muster_dispatcher::tls::ensure_provider();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("a CA");
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(|c| c.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).expect("fits")
}
