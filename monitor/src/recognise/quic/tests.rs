use super::super::tests::ClientHello;
use super::*;

const ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

/// A CRYPTO frame.
fn crypto(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![6];
    frame.extend((0x4000 | offset as u16).to_be_bytes());
    frame.extend((0x4000 | bytes.len() as u16).to_be_bytes());
    frame.extend(bytes);
    frame
}

/// Initials with the hello's halves in the wrong order, cut by PINGs and padding, as Chrome's are.
fn initials(version: Version, name: &str) -> Vec<Vec<u8>> {
    let hello = ClientHello::to(name).post_quantum().bytes();
    let keys = Keys::of_client(version, &ID);
    let (first, second) = hello.split_at(900);
    let (near, far) = first.split_at(300);
    let one = [crypto(300, far), vec![1, 0, 0], crypto(0, near)].concat();
    let ack = [vec![2, 0, 0, 0, 0], crypto(900, second), vec![0; 20]].concat();
    vec![keys.seal(&ID, 0, &one), keys.seal(&ID, 1, &ack)]
}

fn found(name: &str) -> Outcome<ServerName> {
    Outcome::Found(ServerName {
        name: name.to_owned(),
        may_be_outer: false,
    })
}

#[test]
fn a_name_that_spans_two_initials_is_found_in_both_versions() {
    for version in [Version::One, Version::Two] {
        let packets = initials(version, "video.example");
        for order in [[0, 1], [1, 0]] {
            let mut client = Initials::default();
            assert_eq!(client.add(&packets[order[0]]), Outcome::NeedMore);
            assert_eq!(client.add(&packets[order[1]]), found("video.example"));
        }
        // In one datagram.
        let mut client = Initials::default();
        assert_eq!(client.add(&packets.concat()), found("video.example"));
    }
}

#[test]
fn keys_of_the_first_id_open_what_goes_to_another() {
    let hello = ClientHello::to("a.example").bytes();
    let keys = Keys::of_client(Version::One, &ID);
    let (first, second) = hello.split_at(50);
    let mut client = Initials::default();
    let packet = keys.seal(&ID, 0, &crypto(0, first));
    assert_eq!(client.add(&packet), Outcome::NeedMore);
    let packet = keys.seal(&[1, 2, 3], 1, &crypto(50, second));
    assert_eq!(client.add(&packet), found("a.example"));
}

#[test]
fn a_damaged_packet_is_not_believed() {
    let packets = initials(Version::One, "video.example");
    for at in [0, 3, 5, 7, 30, 400, packets[0].len() - 1] {
        let mut packet = packets[0].clone();
        packet[at] ^= 0x10;
        assert_eq!(Initials::default().add(&packet), Outcome::NotThis, "{at}");
    }
    for len in 0..packets[0].len() {
        let cut = &packets[0][..len];
        assert_eq!(Initials::default().add(cut), Outcome::NotThis, "{len}");
    }
}

#[test]
fn short_headers_other_versions_and_other_types_are_not_initials() {
    let mut client = Initials::default();
    assert_eq!(client.add(&[0x41, 1, 2, 3]), Outcome::NotThis);
    assert_eq!(
        client.add(&[0xc0, 0, 0, 0, 2, 0, 0, 0, 0]),
        Outcome::NotThis
    );
    assert_eq!(
        client.add(&[0xf0, 0, 0, 0, 1, 0, 0, 0, 0]),
        Outcome::NotThis
    );
}

#[test]
fn a_client_that_never_ends_its_hello_is_given_up() {
    let keys = Keys::of_client(Version::One, &ID);
    let packet = keys.seal(&ID, 0, &crypto(0, &[1, 0, 8, 0, 3, 3]));
    let mut client = Initials::default();
    let outcomes: Vec<_> = (0..DATAGRAMS_MAX).map(|_| client.add(&packet)).collect();
    assert_eq!(outcomes.last(), Some(&Outcome::TooLong));
    assert_eq!(outcomes[0], Outcome::NeedMore);
}
