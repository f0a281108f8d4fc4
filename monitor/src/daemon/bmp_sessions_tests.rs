//! Sessions as literal bytes (RFC 7854, 4), with times of the test's own.

use super::super::bmp_examples::*;
use super::*;

const STALE_AFTER: Duration = Duration::from_secs(300);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn sessions() -> Sessions {
    Sessions::new(STALE_AFTER)
}

fn from(address: &str) -> SocketAddr {
    format!("{address}:40000").parse().expect("right")
}

/// The routes that are known, by their third octet.
fn known(sessions: &mut Sessions) -> Vec<u8> {
    // Decides about what was taken out.
    sessions.rib().take_changes();
    (0..=255)
        .filter(|third| {
            let prefix = format!("10.0.{third}.0/24").parse().expect("a prefix");
            sessions.rib().best(&prefix).is_some()
        })
        .collect()
}

/// A router's session with the given routes.
fn connected(sessions: &mut Sessions, id: u64, routes: &[u8], now: Duration) {
    sessions.connected(id, from("192.0.2.9"), None, now);
    sessions.bytes(id, &initiation("r1"), now);
    for third in routes {
        sessions.bytes(id, &announce(*third), now);
    }
    sessions.bytes(id, &end_of_rib(), now);
}

fn router(sessions: &Sessions) -> RouterState {
    let routers = sessions.routers();
    assert_eq!(routers.len(), 1, "{routers:?}");
    routers[0].clone()
}

#[test]
fn routes_come_and_go_however_the_stream_is_cut() {
    for cut in [1, 2, 7, 50, 1_000] {
        let mut sessions = sessions();
        sessions.connected(1, from("192.0.2.9"), None, s(0));
        let stream = [
            initiation("r1"),
            announce(1),
            announce(2),
            withdraw(1),
            end_of_rib(),
        ]
        .concat();
        for part in stream.chunks(cut) {
            sessions.bytes(1, part, s(0));
        }
        assert_eq!(known(&mut sessions), [2]);
        let totals = sessions.totals();
        assert_eq!(
            (totals.messages, totals.announcements, totals.withdrawals),
            (5, 2, 1)
        );
        assert_eq!((totals.not_understood, totals.malformed_updates), (0, 0));
        assert_eq!(totals.bytes, stream.len() as u64);
        let router = router(&sessions);
        assert_eq!(
            (&*router.name, router.is_connected, router.is_stale),
            ("r1", true, false)
        );
    }
}

#[test]
fn what_a_router_said_stays_when_it_goes_and_is_stale_after_a_while() {
    let mut sessions = sessions();
    connected(&mut sessions, 1, &[1, 2], s(0));
    sessions.closed(1, None, s(10));
    assert!(!sessions.look(s(10)));
    assert!(!sessions.look(s(309)));
    assert!(sessions.stale().is_empty());
    assert!(sessions.look(s(310)), "others are stale than before");
    assert!(!sessions.look(s(311)), "said once");
    assert_eq!(sessions.stale(), HashSet::from(["r1".into()]));
    assert_eq!(known(&mut sessions), [1, 2]);

    // Back again: stale until it has said all that it has to say.
    sessions.connected(2, from("192.0.2.9"), None, s(400));
    sessions.bytes(2, &initiation("r1"), s(400));
    sessions.bytes(2, &announce(2), s(400));
    assert!(!sessions.look(s(401)));
    assert!(router(&sessions).is_stale);
    sessions.bytes(2, &end_of_rib(), s(402));
    assert_eq!(known(&mut sessions), [2], "what was not said again is gone");
    assert!(sessions.look(s(403)));
    assert!(!router(&sessions).is_stale);
}

#[test]
fn a_quick_restart_is_not_stale_and_old_routes_go_at_the_end_of_the_rib() {
    let mut sessions = sessions();
    connected(&mut sessions, 1, &[1, 2], s(0));
    sessions.closed(1, None, s(10));
    sessions.connected(2, from("192.0.2.9"), None, s(20));
    sessions.bytes(2, &initiation("r1"), s(20));
    assert_eq!(known(&mut sessions), [1, 2]);
    sessions.bytes(2, &announce(1), s(21));
    assert_eq!(known(&mut sessions), [1, 2]);
    sessions.bytes(2, &end_of_rib(), s(22));
    assert_eq!(known(&mut sessions), [1]);
    assert!(!sessions.look(s(23)));
}

#[test]
fn without_an_end_of_rib_old_routes_go_after_a_while() {
    let mut sessions = sessions();
    connected(&mut sessions, 1, &[1, 2], s(0));
    sessions.closed(1, None, s(10));
    sessions.connected(2, from("192.0.2.9"), None, s(20));
    sessions.bytes(2, &[initiation("r1"), announce(1)].concat(), s(20));
    sessions.look(s(319));
    assert_eq!(known(&mut sessions), [1, 2]);
    sessions.look(s(320));
    assert_eq!(known(&mut sessions), [1]);
}

#[test]
fn a_new_session_of_the_same_router_replaces_the_old_one() {
    let mut sessions = sessions();
    connected(&mut sessions, 1, &[1], s(0));
    connected(&mut sessions, 2, &[2], s(5));
    assert_eq!(known(&mut sessions), [2]);
    // The old socket is heard no more.
    sessions.bytes(1, &announce(3), s(6));
    sessions.closed(1, None, s(7));
    assert_eq!(known(&mut sessions), [2]);
    assert!(router(&sessions).is_connected);
}

#[test]
fn two_routers_behind_one_address_are_told_apart_by_their_names() {
    let mut sessions = sessions();
    for (id, name) in [(1, "r1"), (2, "r2")] {
        sessions.connected(id, from("127.0.0.1"), None, s(0));
        sessions.bytes(id, &[initiation(name), announce(id as u8)].concat(), s(0));
    }
    assert_eq!(known(&mut sessions), [1, 2]);
    assert_eq!(sessions.routers().len(), 2);
    sessions.closed(1, None, s(1));
    sessions.look(s(400));
    assert_eq!(sessions.stale(), HashSet::from(["r1".into()]));
}

#[test]
fn what_is_no_bmp_ends_the_session_and_keeps_the_table() {
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        // Version 3, and lengths that lie.
        vec![3, 0, 0, 0, 5, 0],
        vec![3, 0xff, 0xff, 0xff, 0xff, 0],
    ] {
        let mut sessions = sessions();
        connected(&mut sessions, 1, &[1], s(0));
        sessions.bytes(1, &garbage, s(1));
        assert_eq!(sessions.totals().thrown_out, 1);
        assert!(!router(&sessions).is_connected);
        sessions.bytes(1, &announce(2), s(1));
        assert_eq!(known(&mut sessions), [1]);
        // Back at once: not yet. Later: welcome.
        connected(&mut sessions, 2, &[2], s(2));
        assert_eq!(sessions.totals().turned_away, 1);
        assert_eq!(known(&mut sessions), [1]);
        connected(&mut sessions, 3, &[3], s(20));
        assert_eq!(known(&mut sessions), [3]);
    }
}

#[test]
fn messages_that_cannot_be_read_are_counted_and_too_many_end_the_session() {
    let mut sessions = sessions();
    connected(&mut sessions, 1, &[1], s(0));
    let unknown = message(77, b"whatever");
    for _ in 0..MAX_NOT_UNDERSTOOD - 1 {
        sessions.bytes(1, &unknown, s(1));
    }
    sessions.bytes(1, &announce(2), s(1));
    assert_eq!(known(&mut sessions), [1, 2], "in between it makes sense");
    for _ in 0..MAX_NOT_UNDERSTOOD {
        sessions.bytes(1, &unknown, s(1));
    }
    assert_eq!(sessions.totals().thrown_out, 1);
    assert_eq!(
        sessions.totals().not_understood,
        u64::from(2 * MAX_NOT_UNDERSTOOD - 1)
    );
    assert_eq!(known(&mut sessions), [1, 2]);
}

#[test]
fn who_says_nothing_or_never_comes_to_an_end_is_let_go() {
    let mut sessions = sessions();
    sessions.connected(1, from("192.0.2.9"), None, s(0));
    sessions.look(s(29));
    assert_eq!(sessions.totals().thrown_out, 0);
    sessions.look(s(30));
    assert_eq!(sessions.totals().thrown_out, 1);

    // One byte now and then, and never a whole message.
    connected(&mut sessions, 2, &[1], s(100));
    for (second, byte) in (100..).zip(announce(2)).take(59) {
        sessions.bytes(2, &[byte], s(second));
        sessions.look(s(second));
    }
    assert_eq!(sessions.totals().thrown_out, 1);
    sessions.look(s(160));
    assert_eq!(sessions.totals().thrown_out, 2);
    assert_eq!(known(&mut sessions), [1]);
}

#[test]
fn a_quiet_session_is_alive_unless_it_used_to_report() {
    let mut sessions = sessions();
    connected(&mut sessions, 1, &[1], s(0));
    assert!(!sessions.look(s(100_000)));
    for second in [100_000, 100_060, 100_120] {
        sessions.bytes(1, &statistics(), s(second));
    }
    assert!(!sessions.look(s(100_120 + 299)));
    assert!(sessions.look(s(100_120 + 300)));
    assert!(router(&sessions).is_stale && router(&sessions).is_connected);
    sessions.bytes(1, &statistics(), s(100_500));
    assert!(sessions.look(s(100_501)));
    assert!(!router(&sessions).is_stale);
}

#[test]
fn a_router_that_never_comes_back_is_forgotten_after_a_day() {
    let mut sessions = sessions();
    connected(&mut sessions, 1, &[1], s(0));
    sessions.closed(1, None, s(1));
    sessions.look(s(400));
    assert_eq!(known(&mut sessions), [1]);
    sessions.look(s(86_401));
    assert_eq!(known(&mut sessions), [0; 0]);
    assert!(sessions.routers().is_empty() && sessions.stale().is_empty());
}

#[test]
fn a_termination_is_said_and_the_routes_stay() {
    let mut sessions = sessions();
    connected(&mut sessions, 1, &[1], s(0));
    sessions.bytes(1, &message(5, &[0, 1, 0, 2, 0, 0]), s(1));
    sessions.closed(1, None, s(1));
    assert_eq!(sessions.totals().thrown_out, 0);
    assert_eq!(known(&mut sessions), [1]);
}
