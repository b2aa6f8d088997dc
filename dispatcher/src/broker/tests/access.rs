//! Who gets in, and what they may do there.

use super::*;

#[tokio::test]
async fn a_device_of_another_authority_is_refused() {
    let (house, stranger) = (House::new().await, House::new().await);
    for version in BOTH {
        let foreign = stranger.identity("pi-4");
        let tls = tls::client_config(house.ca.certificate_der(), Some(&foreign)).unwrap();
        let mut client = Client::start(Options { tls: Some(tls), ..house.options(version, "pi-4") });
        // Whether the alert arrives before the reset is a matter of luck.
        client.failure().await;
    }
    assert_eq!(house.broker.connections(), 0);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let house = House::new().await;
    for version in BOTH {
        let tls = tls::client_config(house.ca.certificate_der(), None).unwrap();
        let mut client = Client::start(Options { tls: Some(tls), ..house.options(version, "pi-4") });
        client.failure().await;
    }
    assert_eq!(house.broker.connections(), 0);
}

/// Even where the TLS configuration handed in does not demand certificates.
#[tokio::test]
async fn a_door_without_a_lock_still_lets_nobody_in() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::load_or_create(dir.path()).unwrap();
    let identity = ca.issue_server(&["127.0.0.1".to_owned()]).unwrap();
    let (sender, _decisions) = mpsc::unbounded_channel();
    let broker = Broker::start(Config {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        tls: tls::server_config(&identity, ClientAuth::None).unwrap(),
        acl: Arc::new(Rules(sender)),
        limits: Limits::default(),
    });
    let broker = broker.await.unwrap();
    let tls = tls::client_config(ca.certificate_der(), None).unwrap();
    let mut client = Client::start(Options::new(Version::V311, "pi-4", broker.local_addr(), Some(tls)));
    client.failure().await;
}

#[tokio::test]
async fn only_the_exact_name_is_a_valid_client_id() {
    let house = House::new().await;
    for (version, refusal) in [(Version::V311, "BadClientId"), (Version::V5, "ClientIdentifierNotValid")] {
        for client_id in ["pi-5", "pi-4.", "pi-4.x", "pi-", "PI-4", "muster", "auto-0", ""] {
            let mut client =
                Client::start(Options { client_id: client_id.to_owned(), ..house.options(version, "pi-4") });
            let error = client.failure().await;
            assert!(error.contains(refusal), "{version:?} as {client_id:?}: {error}");
            house.connections(0).await;
        }
        house.client(version, "pi-4").await.vanish().await;
        house.connections(0).await;
    }
}

/// Invariant 14: nobody is let in by default.
#[tokio::test]
async fn the_loopback_port_lets_nobody_in() {
    let house = House::new().await;
    assert!(house.broker.inner_addr.ip().is_loopback());
    let _inside = house.client(Version::V311, "pi-4").await;
    for version in BOTH {
        for name in ["pi-4", BOSS, "pi-5"] {
            let mut client = Client::start(Options::new(version, name, house.broker.inner_addr, None));
            let error = client.failure().await;
            assert!(error.contains("NotAuthorized"), "{version:?} as {name}: {error}");
        }
    }
}

#[tokio::test]
async fn an_entry_goes_with_its_connection() {
    let house = House::new().await;
    let (a, b) = (house.client(Version::V311, "a").await, house.client(Version::V5, "b").await);
    house.connections(2).await;
    a.vanish().await;
    house.connections(1).await;
    b.vanish().await;
    house.connections(0).await;
    assert!(house.broker.gate.is_empty());
}

#[tokio::test]
async fn a_publication_to_anothers_topic_reaches_nobody() {
    let mut house = House::new().await;
    for version in BOTH {
        let mut victim = house.client(version, "victim").await;
        assert!(!victim.subscribed("t/victim/desired").await);
        let mut rogue = house.client(version, "rogue").await;
        let refused = rogue.published("t/victim/desired", true, b"evil").await;
        assert_eq!(refused, version == Version::V5, "3.1.1 has no word for a refusal");
        assert!(!house.decided("rogue", "t/victim/desired").await);
        let mut boss = house.client(version, BOSS).await;
        boss.published("t/victim/desired", false, b"good").await;
        assert_eq!(victim.message().await.1, b"good", "{version:?}");
        // The rogue was not cut off, and nothing was retained.
        assert!(!rogue.published("t/rogue/report", false, b"own").await);
        assert!(!boss.subscribed("t/victim/desired").await);
        boss.published("t/victim/desired", false, b"marker").await;
        assert_eq!(boss.message().await.1, b"marker", "{version:?}");
    }
}

#[tokio::test]
async fn a_foreign_filter_is_refused_and_delivers_nothing() {
    let house = House::new().await;
    for version in BOTH {
        let mut rogue = house.client(version, "rogue").await;
        for filter in ["#", "t/#", "t/+/desired", "t/victim/desired", "$share/g/t/victim/desired", "$SYS/#"] {
            assert!(rogue.subscribed(filter).await, "{version:?} {filter}");
        }
        assert!(!rogue.subscribed("t/rogue/desired").await);
        let mut boss = house.client(version, BOSS).await;
        boss.published("t/victim/desired", false, b"secret").await;
        boss.published("t/rogue/desired", false, b"own").await;
        assert_eq!(rogue.message().await.1, b"own", "{version:?}");
    }
}

#[tokio::test]
async fn a_last_will_is_held_to_the_rules_too() {
    let mut house = House::new().await;
    for version in BOTH {
        let mut boss = house.client(version, BOSS).await;
        boss.subscribed("t/+/state").await;
        for (will, allowed) in [("t/victim/state", false), ("t/pi-4/state", true)] {
            let will_options = Options { will: Some(will.to_owned()), ..house.options(version, "pi-4") };
            let mut device = Client::start(will_options);
            device.connected().await;
            device.vanish().await;
            assert_eq!(house.decided("pi-4", will).await, allowed, "{version:?}");
        }
        // The allowed one comes first, so the forbidden one, which went before it, never does.
        let (topic, payload, _) = boss.message().await;
        assert_eq!((topic.as_str(), payload.as_slice()), ("t/pi-4/state", b"gone".as_slice()), "{version:?}");
    }
}

#[tokio::test]
async fn too_many_connections_are_turned_away() {
    let house = House::with(Limits { connections: 2, ..Limits::default() }).await;
    let a = house.client(Version::V311, "a").await;
    let _b = house.client(Version::V311, "b").await;
    let mut c = Client::start(house.options(Version::V311, "c"));
    c.failure().await;
    a.vanish().await;
    house.connections(1).await;
    // The place is free a moment after the entry is.
    timeout(LIMIT, async { while !Client::start(house.options(Version::V311, "c")).gets_in().await {} })
        .await
        .expect("room again");
}
