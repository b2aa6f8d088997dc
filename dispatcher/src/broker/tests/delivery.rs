//! What arrives, for whom, and how much is kept.

use super::client::Session;
use super::*;

/// The largest payload of ours: one chunk.
const CHUNK: usize = 64 * 1024;

#[tokio::test]
async fn a_chunk_makes_the_round_trip_between_all_versions() {
    let house = House::new().await;
    let payload: Vec<u8> = (0..CHUNK).map(|i| (i * 31 % 251) as u8).collect();
    for from in BOTH {
        for to in BOTH {
            let mut device = house.client(to, "pi-4").await;
            assert!(!device.subscribed("t/pi-4/chunk").await);
            let mut boss = house.client(from, BOSS).await;
            assert!(!boss.subscribed("t/+/report").await);
            boss.published("t/pi-4/chunk", false, &payload).await;
            let (topic, got, retain) = device.message().await;
            assert_eq!((topic.as_str(), got.len(), retain), ("t/pi-4/chunk", CHUNK, false), "{from:?} to {to:?}");
            device.published("t/pi-4/report", false, &got).await;
            assert!(boss.message().await.1 == payload, "{from:?} to {to:?}");
        }
    }
}

#[tokio::test]
async fn a_packet_over_the_limit_ends_only_its_own_connection() {
    let house = House::with(Limits { packet_bytes: 32 * 1024, ..Limits::default() }).await;
    let mut boss = house.client(Version::V311, BOSS).await;
    boss.subscribed("t/+/report").await;
    let mut rogue = house.client(Version::V311, "rogue").await;
    rogue.publish("t/rogue/report", false, &vec![0; CHUNK]).await;
    rogue.failure().await;
    let mut device = house.client(Version::V311, "pi-4").await;
    device.published("t/pi-4/report", false, b"fine").await;
    assert_eq!(boss.message().await.1, b"fine");
}

#[tokio::test]
async fn the_retained_message_greets_a_new_subscriber_until_it_is_cleared() {
    let house = House::new().await;
    for version in BOTH {
        let mut boss = house.client(version, BOSS).await;
        boss.published("t/pi-4/desired", true, b"old").await;
        boss.published("t/pi-4/desired", true, b"new").await;
        let mut device = house.client(version, "pi-4").await;
        device.subscribed("t/pi-4/desired").await;
        let (_, payload, retain) = device.message().await;
        assert_eq!((payload.as_slice(), retain), (b"new".as_slice(), true), "{version:?}");
        boss.published("t/pi-4/desired", true, b"").await;
        assert_eq!(device.message().await.1, b"");
        let mut again = house.client(version, "pi-4").await;
        again.subscribed("t/pi-4/desired").await;
        boss.published("t/pi-4/desired", false, b"marker").await;
        assert_eq!(again.message().await.1, b"marker", "{version:?}");
    }
}

#[tokio::test]
async fn a_kept_session_gets_what_was_sent_while_it_was_away() {
    let house = House::new().await;
    for version in BOTH {
        let options = Options { session: Session::Kept, ..house.options(version, "pi-4") };
        let mut device = Client::start(options.clone());
        assert!(!device.connected().await);
        device.subscribed("t/pi-4/desired").await;
        device.vanish().await;
        house.connections(0).await;
        let mut boss = house.client(version, BOSS).await;
        for number in 0..100_u8 {
            boss.published("t/pi-4/desired", false, &[number]).await;
        }
        let mut device = Client::start(options);
        assert!(device.connected().await, "{version:?}: the session is still there");
        for number in 0..100_u8 {
            assert_eq!(device.message().await.1, [number], "{version:?}");
        }
        boss.vanish().await;
        device.vanish().await;
        house.connections(0).await;
        // A clean session ends the kept one.
        assert!(!Client::start(house.options(version, "pi-4")).connected().await, "{version:?}");
        house.connections(0).await;
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again() {
    let house = House::new().await;
    for version in BOTH {
        let options = Options { session: Session::Kept, ..house.options(version, "pi-4") };
        let mut device = Client::start(Options { acknowledge: false, ..options.clone() });
        device.connected().await;
        device.subscribed("t/pi-4/desired").await;
        let mut boss = house.client(version, BOSS).await;
        for number in 0..3_u8 {
            boss.published("t/pi-4/desired", false, &[number]).await;
            assert_eq!(device.message().await.1, [number]);
        }
        device.vanish().await;
        house.connections(1).await;
        let mut device = Client::start(options);
        assert!(device.connected().await);
        for number in 0..3_u8 {
            assert_eq!(device.message().await.1, [number], "{version:?}");
        }
        boss.vanish().await;
        device.vanish().await;
        house.connections(0).await;
    }
}

/// Invariant 10: everything that can grow is bounded.
#[tokio::test]
async fn the_queue_of_a_client_that_is_away_keeps_only_the_newest() {
    let limits =
        [Limits { queued_messages: 10, ..Limits::default() }, Limits { queued_bytes: 10 * 1024, ..Limits::default() }];
    for limits in limits {
        let house = House::with(limits).await;
        let options = Options { session: Session::Kept, ..house.options(Version::V311, "pi-4") };
        let mut device = Client::start(options.clone());
        device.connected().await;
        device.subscribed("t/pi-4/desired").await;
        device.vanish().await;
        house.connections(0).await;
        let mut boss = house.client(Version::V311, BOSS).await;
        for number in 0..100_u8 {
            boss.published("t/pi-4/desired", false, &[number; 900]).await;
        }
        let mut device = Client::start(options);
        device.connected().await;
        let first = device.message().await.1[0];
        // mqtt5 counts some 500 bytes of its own for each message.
        assert!((90..=95).contains(&first), "the first kept is {first}");
        for number in first + 1..100 {
            assert_eq!(device.message().await.1[0], number);
        }
    }
}

/// A device that no longer reads must not hold up the dispatcher or another device.
#[tokio::test]
async fn a_client_that_does_not_acknowledge_holds_up_nobody() {
    let house = House::with(Limits { queued_messages: 10, ..Limits::default() }).await;
    let mut stuck = Client::start(Options { acknowledge: false, ..house.options(Version::V311, "stuck") });
    stuck.connected().await;
    stuck.subscribed("t/stuck/chunk").await;
    let mut device = house.client(Version::V311, "pi-4").await;
    device.subscribed("t/pi-4/chunk").await;
    let mut boss = house.client(Version::V311, BOSS).await;
    // Its window, its lane and its queue fill up; the publisher waits for it once, two seconds at most.
    for _ in 0..200 {
        boss.published("t/stuck/chunk", false, &[0; 1000]).await;
    }
    let started = std::time::Instant::now();
    boss.published("t/pi-4/chunk", false, b"hello").await;
    assert_eq!(device.message().await.1, b"hello");
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn the_newer_of_two_connections_takes_over() {
    let house = House::new().await;
    for version in BOTH {
        let options = Options { session: Session::Kept, ..house.options(version, "pi-4") };
        let mut older = Client::start(options.clone());
        older.connected().await;
        older.subscribed("t/pi-4/desired").await;
        let mut newer = Client::start(options);
        assert!(newer.connected().await, "{version:?}: it has the older one's session");
        older.failure().await;
        let mut boss = house.client(version, BOSS).await;
        boss.published("t/pi-4/desired", false, b"hello").await;
        assert_eq!(newer.message().await.1, b"hello", "{version:?}");
        boss.vanish().await;
        newer.vanish().await;
        house.connections(0).await;
    }
}

/// The device went through a NAT that forgot it, in the middle of a transfer, and comes back. The broker is stuck
/// writing to the old connection by then, and would make the new one wait for 30 s.
#[tokio::test]
async fn a_dead_connection_in_the_middle_of_a_transfer_does_not_hold_up_the_new_one() {
    let house = House::with(Limits { in_flight: 1000, ..Limits::default() }).await;
    let options = Options { session: Session::Kept, ..house.options(Version::V311, "pi-4") };
    let mut dead = Client::start(options.clone());
    dead.connected().await;
    dead.subscribed("t/pi-4/chunk").await;
    dead.stop_reading();
    let mut boss = house.client(Version::V311, BOSS).await;
    for number in 0..400_u16 {
        boss.published("t/pi-4/chunk", false, &[number as u8; CHUNK]).await;
    }
    let mut device = Client::start(options);
    device.connected().await;
    let started = std::time::Instant::now();
    device.message().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
