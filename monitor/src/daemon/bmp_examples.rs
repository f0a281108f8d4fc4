//! BMP messages as literal bytes (RFC 7854, 4), for tests.

const PEER: [u8; 4] = [192, 0, 2, 1];

/// A message with its header.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3];
    bytes.extend((6 + body.len() as u32).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

pub fn initiation(name: &str) -> Vec<u8> {
    let mut body = vec![0, 2];
    body.extend((name.len() as u16).to_be_bytes());
    body.extend(name.as_bytes());
    message(4, &body)
}

/// The header of a global peer's post-policy table, AS64999.
pub fn per_peer() -> Vec<u8> {
    let mut bytes = vec![0, 0x40];
    bytes.extend([0; 8]);
    bytes.extend([0; 12]);
    bytes.extend(PEER);
    bytes.extend(64_999u32.to_be_bytes());
    bytes.extend([10, 0, 0, 1]);
    bytes.extend([0; 8]);
    bytes
}

pub fn update(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    let length = 19 + 4 + withdrawn.len() + attributes.len() + announced.len();
    bytes.extend((length as u16).to_be_bytes());
    bytes.push(2);
    bytes.extend((withdrawn.len() as u16).to_be_bytes());
    bytes.extend(withdrawn);
    bytes.extend((attributes.len() as u16).to_be_bytes());
    bytes.extend(attributes);
    bytes.extend(announced);
    let mut body = per_peer();
    body.extend(bytes);
    message(0, &body)
}

/// 10.0.`third`.0/24 of AS64501 through AS64999.
pub fn announce(third: u8) -> Vec<u8> {
    #[rustfmt::skip]
    let attributes = [
        0x40, 1, 1, 0,
        0x40, 2, 10, 2, 2, 0, 0, 0xfd, 0xe7, 0, 0, 0xfb, 0xf5,
        0x40, 3, 4, 192, 0, 2, 1,
    ];
    update(&[], &attributes, &[24, 10, 0, third])
}

pub fn withdraw(third: u8) -> Vec<u8> {
    update(&[24, 10, 0, third], &[], &[])
}

pub fn end_of_rib() -> Vec<u8> {
    update(&[], &[], &[])
}

pub fn statistics() -> Vec<u8> {
    let mut body = per_peer();
    body.extend(0u32.to_be_bytes());
    message(1, &body)
}
