//! Golden manifests, and what is refused.

use std::collections::BTreeMap;

use super::*;
use crate::cluster::render;
use crate::domain::service::{
    Amount, Fetch, Hidden, Load, PullPolicy, Replicas, ServiceType, Settings, Spread, Toleration,
};

/// A small service with everything at its default but the keys.
pub(crate) fn service(name: &str) -> Service {
    Service {
        name: name.into(),
        workspace: "vision".into(),
        generation: 7,
        revisions: vec![revision("digits", 3, 'a', 100)],
        settings: Settings { key_hashes: vec!["1".repeat(64), "2".repeat(64)], ..Settings::default() },
        fetch: None,
        target: Target::Kubernetes(Box::new(Kubernetes { namespace: "models".into(), ..Kubernetes::default() })),
    }
}

/// A version in an image of its own.
pub(crate) fn revision(model: &str, version: u32, digest: char, traffic: u8) -> Revision {
    Revision {
        model: model.into(),
        version,
        digest: digest.to_string().repeat(64),
        traffic,
        image: Some(format!("registry.example/muster/{model}:{version}")),
        memory: Some(40 << 20),
    }
}

/// `service` with a canary that gets `percent` of the requests.
pub(crate) fn canary(mut service: Service, percent: u8) -> Service {
    service.revisions[0].traffic = 100 - percent;
    service.revisions.push(revision("digits", 4, 'b', percent));
    service
}

pub(crate) fn on(mut service: Service, change: impl FnOnce(&mut Kubernetes)) -> Service {
    let Target::Kubernetes(target) = &mut service.target else { panic!("not on a cluster") };
    change(target);
    service
}

fn with(mut service: Service, change: impl FnOnce(&mut Service)) -> Service {
    change(&mut service);
    service
}

/// Every form that a plan takes, by the name of its golden file.
pub(crate) fn cases() -> Vec<(&'static str, Service)> {
    let agent = on(service("digits"), |target| target.image = "muster-agent:latest".into());
    let fetched = with(agent, |service| {
        service.revisions[0].image = None;
        service.fetch = Some(Fetch {
            url: "https://muster.example:8443/tuf".into(),
            ca: String::new(),
            trust_root: "{\"signed\":{}}".into(),
            token: Hidden("s3cret".into()),
        });
    });
    let aks = on(service("digits"), |target| {
        target.workload_identity = Some("00000000-0000-0000-0000-000000000001".into());
        target.service_type = ServiceType::LoadBalancer { internal: true, subnet: Some("models".into()) };
        target.image = "example.azurecr.io/muster-agent:1".into();
        target.pull_secret = Some("acr".into());
    });
    let ingress = on(service("digits"), |target| {
        target.route = Some(Route::Ingress {
            class: Some("nginx".into()),
            host: Some("digits.example".into()),
            tls_secret: Some("digits-tls".into()),
            annotations: BTreeMap::from([("nginx.ingress.kubernetes.io/proxy-body-size".into(), "100m".into())]),
        });
    });
    let gateway = on(canary(service("digits"), 10), |target| {
        target.route = Some(Route::Gateway {
            name: "public".into(),
            namespace: Some("gateways".into()),
            section: Some("https".into()),
            host: Some("digits.example".into()),
        });
    });
    let placed = on(service("digits"), |target| {
        target.node_selector = BTreeMap::from([("kubernetes.io/arch".into(), "amd64".into())]);
        target.tolerations = vec![
            Toleration { key: Some("models".into()), value: Some("yes".into()), effect: Some("NoSchedule".into()) },
            Toleration { key: Some("spot".into()), value: None, effect: None },
        ];
        target.spread = Spread::Require;
        target.image_pull_policy = PullPolicy::Never;
        target.service_type = ServiceType::NodePort;
        target.network_policy = false;
        target.prometheus = false;
    });
    let sized = with(service("digits"), |service| {
        service.settings.replicas = Replicas::Auto { min: 2, max: 8, target: Load::Queue(4) };
        service.settings.cpu = Amount { request: 1000, limit: Some(2000) };
        service.settings.memory = Some(Amount { request: 1 << 30, limit: Some(3 << 29) });
        service.settings.env = BTreeMap::from([("RUST_LOG".into(), "info".into())]);
        service.settings.auth = false;
        service.settings.key_hashes = Vec::new();
    });
    // Texts that YAML readers take for numbers, dates or truths where they are not quoted.
    let odd = with(service("on"), |service| {
        service.revisions[0].digest = format!("12345678e1{}", "0".repeat(54));
        let values = [
            "yes",
            "off",
            "1e10",
            "0x1f",
            "012",
            "1_000",
            "~",
            "null",
            "12:30:45",
            "2026-01-01",
            "- a",
            "a: b",
            "#",
            "",
            " x",
            "a\nb\n",
            ".5",
        ];
        service.settings.env =
            values.iter().enumerate().map(|(index, value)| (format!("V{index}"), (*value).to_owned())).collect();
    });
    let canary = with(canary(service("digits"), 25), |service| service.settings.replicas = Replicas::Fixed(4));
    vec![
        ("default", service("digits")),
        ("fetched", fetched),
        ("aks", aks),
        ("ingress", ingress),
        ("gateway_canary", gateway),
        ("canary", canary),
        ("placed", placed),
        ("sized", sized),
        ("odd", odd),
    ]
}

#[test]
fn plans_are_as_checked_in() {
    for (name, service) in cases() {
        crate::golden::compare(&format!("cluster/{name}.yaml"), &render::kubernetes(&service).unwrap());
    }
}

#[test]
fn a_plan_is_the_same_for_the_same_service_and_its_pods_do_not_know_the_generation() {
    for (name, service) in cases() {
        let first = plan(&service).unwrap();
        assert_eq!(first, plan(&service).unwrap(), "{name}");
        let later = plan(&with(service, |service| service.generation += 1)).unwrap();
        for (a, b) in first.iter().zip(&later) {
            assert_eq!(a.value.pointer("/spec/template"), b.value.pointer("/spec/template"), "{name} {}", a.subject());
            assert_ne!(a.value["metadata"], b.value["metadata"], "{name} {}", a.subject());
        }
    }
}

#[test]
fn keys_and_address_stay_when_versions_change() {
    let before = plan(&service("digits")).unwrap();
    let after =
        plan(&with(service("digits"), |service| service.revisions = vec![revision("digits", 9, 'f', 100)])).unwrap();
    let of = |objects: &[Object], kind| objects.iter().find(|object| object.kind == kind).unwrap().clone();
    for kind in [Kind::Service, Kind::Secret, Kind::ServiceAccount] {
        assert_eq!(of(&before, kind), of(&after, kind));
    }
    assert_ne!(of(&before, Kind::Deployment).name, of(&after, Kind::Deployment).name);
}

#[test]
fn no_secret_is_outside_the_secret() {
    for (name, service) in cases() {
        for object in plan(&service).unwrap().iter().filter(|object| object.kind != Kind::Secret) {
            let text = object.value.to_string();
            assert!(!text.contains("s3cret") && !text.contains(&"1".repeat(64)), "{name} {}", object.subject());
        }
        assert!(!format!("{service:?}").contains("s3cret"), "{name}");
    }
}

/// A change that makes a service wrong, and words that its error has.
type Mistake = (Box<dyn FnOnce(&mut Service)>, &'static str, &'static str);

#[test]
fn what_cannot_be_is_refused_in_words() {
    let set = |change: fn(&mut Service)| -> Box<dyn FnOnce(&mut Service)> { Box::new(change) };
    let cases: Vec<Mistake> = vec![
        (set(|s| s.name = "Digits".into()), "cluster_name_refused", "service's name \"Digits\""),
        (set(|s| s.name = "1digits".into()), "cluster_name_refused", "a letter first"),
        (set(|s| s.name = "d".repeat(53)), "cluster_name_refused", "52"),
        (set(|s| s.workspace = "my space".into()), "cluster_name_refused", "workspace"),
        (
            set(|s| *s = on(s.clone(), |t| t.namespace = "Models".into())),
            "cluster_name_refused",
            "namespace \"Models\"",
        ),
        (set(|s| *s = on(s.clone(), |t| t.pull_secret = Some("a_b".into()))), "cluster_name_refused", "pull secret"),
        (set(|s| drop(s.settings.env.insert("a b".into(), String::new()))), "cluster_name_refused", "variable \"a b\""),
        (set(|s| s.revisions.clear()), "cluster_service_invalid", "0 revisions"),
        (set(|s| s.revisions[0].traffic = 90), "cluster_service_invalid", "sum to 90 %"),
        (set(|s| s.revisions[0].digest = "abc".into()), "cluster_service_invalid", "no SHA-256"),
        (
            set(|s| {
                s.revisions[0].traffic = 50;
                s.revisions.push(s.revisions[0].clone())
            }),
            "cluster_service_invalid",
            "same version",
        ),
        (set(|s| s.revisions[0].image = None), "cluster_service_invalid", "names an image"),
        (
            set(|s| {
                *s = on(s.clone(), |target| target.image = "agent:1".into());
                s.revisions[0].image = None;
            }),
            "cluster_service_invalid",
            "no address to fetch",
        ),
        (set(|s| s.revisions[0].image = Some("a b".into())), "cluster_service_invalid", "no image's name"),
        (set(|s| s.settings.replicas = Replicas::Fixed(0)), "cluster_service_invalid", "0 replicas"),
        (
            set(|s| s.settings.replicas = Replicas::Auto { min: 5, max: 2, target: Load::Cpu(70) }),
            "cluster_service_invalid",
            "5 to 2",
        ),
        (
            set(|s| s.settings.replicas = Replicas::Auto { min: 1, max: 2, target: Load::Cpu(0) }),
            "cluster_service_invalid",
            "above 0",
        ),
        (set(|s| s.settings.cpu.limit = Some(1)), "cluster_service_invalid", "limit of cpu"),
        (set(|s| s.settings.key_hashes.clear()), "cluster_service_invalid", "turn auth off"),
        (set(|s| s.settings.key_hashes[0] = "secret".into()), "cluster_service_invalid", "hash"),
        (set(|s| s.settings.queue_wait_ms = 100_000), "cluster_service_invalid", "wait longer"),
        (set(|s| s.settings.timeout_ms = 0), "cluster_service_invalid", "timeout"),
    ];
    for (change, code, words) in cases {
        let mut wrong = service("digits");
        change(&mut wrong);
        let error = plan(&wrong).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "{error} has no {words:?}");
        assert!(!error.is_transient() && !error.next_step().is_empty());
    }
}
