//! The keys of Initials: from the connection ID and a public salt (RFC 9001, 5.2; RFC 9369, 3.3).

use aes::cipher::{BlockEncrypt as _, KeyInit as _};
use aes::{Aes128, Block};
use aes_gcm::{AeadInPlace as _, Aes128Gcm, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;

use super::{Packet, Version};

const SALT_V1: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];
const SALT_V2: [u8; 20] = [
    0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb,
    0xf9, 0xbd, 0x2e, 0xd9,
];
/// AES-128-GCM (RFC 9001, 5.3).
const KEY_LEN: usize = 16;
const IV_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// The sample begins as if the packet number took four bytes (RFC 9001, 5.4.2).
const SAMPLE_AFTER: usize = 4;
const SAMPLE_LEN: usize = 16;

/// What opens the Initials of one client.
#[derive(Clone)]
pub struct Keys {
    version: Version,
    aead: Aes128Gcm,
    iv: [u8; IV_LEN],
    header: Aes128,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Keys")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Of what a client sends to this connection ID.
    pub fn of_client(version: Version, destination_id: &[u8]) -> Self {
        let material = Material::of_client(version, destination_id);
        Self {
            version,
            aead: Aes128Gcm::new(&material.key.into()),
            iv: material.iv,
            header: Aes128::new(&material.header.into()),
        }
    }

    /// The frames of `packet`; `None` where these are not its keys, or it is damaged.
    pub fn open(&self, packet: &Packet<'_>) -> Option<Vec<u8>> {
        if packet.version != self.version {
            return None;
        }
        let at = packet.number_at;
        let sample = packet
            .bytes
            .get(at + SAMPLE_AFTER..at + SAMPLE_AFTER + SAMPLE_LEN)?;
        let mask = self.mask(sample);
        let mut bytes = packet.bytes.to_vec();
        bytes[0] ^= mask[0] & 0x0f;
        let number_len = usize::from(bytes[0] & 3) + 1;
        let mut number = 0u64;
        for (byte, mask) in bytes
            .get_mut(at..at + number_len)?
            .iter_mut()
            .zip(&mask[1..])
        {
            *byte ^= mask;
            number = number << 8 | u64::from(*byte);
        }
        let (header, sealed) = bytes.split_at_mut_checked(at + number_len)?;
        let (payload, tag) = sealed.split_at_mut_checked(sealed.len().checked_sub(TAG_LEN)?)?;
        self.aead
            .decrypt_in_place_detached(&self.nonce(number), header, payload, Tag::from_slice(tag))
            .ok()?;
        Some(payload.to_vec())
    }

    /// RFC 9001, 5.4.3.
    fn mask(&self, sample: &[u8]) -> [u8; 5] {
        let mut block = Block::clone_from_slice(sample);
        self.header.encrypt_block(&mut block);
        [block[0], block[1], block[2], block[3], block[4]]
    }

    /// RFC 9001, 5.3.
    fn nonce(&self, number: u64) -> Nonce<aes_gcm::aes::cipher::consts::U12> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[IV_LEN - 8..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        nonce.into()
    }

    /// Seals `frames` in an Initial to `destination_id`, as a client does; `frames` must be as
    /// long as the sample needs.
    #[cfg(test)]
    pub(crate) fn seal(&self, destination_id: &[u8], number: u16, frames: &[u8]) -> Vec<u8> {
        let (wire, kind): (u32, u8) = match self.version {
            Version::One => (1, 0),
            Version::Two => (0x6b33_43cf, 1),
        };
        let mut header = vec![0xc0 | kind << 4 | 1];
        header.extend(wire.to_be_bytes());
        header.push(destination_id.len() as u8);
        header.extend(destination_id);
        // No ID of its own, no token.
        header.extend([0, 0]);
        header.extend((0x4000 | (2 + frames.len() + TAG_LEN) as u16).to_be_bytes());
        let at = header.len();
        header.extend(number.to_be_bytes());
        let mut payload = frames.to_vec();
        let tag = self
            .aead
            .encrypt_in_place_detached(&self.nonce(number.into()), &header, &mut payload)
            .expect("short");
        let mut packet = [header, payload, tag.to_vec()].concat();
        let mask = self.mask(&packet[at + SAMPLE_AFTER..at + SAMPLE_AFTER + SAMPLE_LEN]);
        packet[0] ^= mask[0] & 0x0f;
        packet[at] ^= mask[1];
        packet[at + 1] ^= mask[2];
        packet
    }
}

struct Material {
    key: [u8; KEY_LEN],
    iv: [u8; IV_LEN],
    header: [u8; KEY_LEN],
}

impl Material {
    fn of_client(version: Version, destination_id: &[u8]) -> Self {
        let (salt, [key, iv, header]) = match version {
            Version::One => (&SALT_V1, ["quic key", "quic iv", "quic hp"]),
            Version::Two => (&SALT_V2, ["quicv2 key", "quicv2 iv", "quicv2 hp"]),
        };
        let initial = Hkdf::<Sha256>::new(Some(salt), destination_id);
        let secret: [u8; 32] = expand(&initial, "client in");
        let secret = Hkdf::<Sha256>::from_prk(&secret).expect("as long as a SHA-256 hash");
        Self {
            key: expand(&secret, key),
            iv: expand(&secret, iv),
            header: expand(&secret, header),
        }
    }
}

/// HKDF-Expand-Label without a context (RFC 8446, 7.1).
fn expand<const LEN: usize>(secret: &Hkdf<Sha256>, label: &str) -> [u8; LEN] {
    let mut info = (LEN as u16).to_be_bytes().to_vec();
    info.push((b"tls13 ".len() + label.len()) as u8);
    info.extend(b"tls13 ");
    info.extend(label.as_bytes());
    info.push(0);
    let mut output = [0; LEN];
    secret
        .expand(&info, &mut output)
        .expect("far below 255 hashes");
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The connection ID of both appendices.
    const ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 9001, A.1 and A.2; RFC 9369, A.1.
    #[test]
    fn keys_are_those_of_the_rfcs() {
        let one = Material::of_client(Version::One, &ID);
        assert_eq!(hex(&one.key), "1f369613dd76d5467730efcbe3b1a22d");
        assert_eq!(hex(&one.iv), "fa044b2f42a3fd3b46fb255c");
        assert_eq!(hex(&one.header), "9f50449e04a0e810283a1e9933adedd2");
        let sample = [
            0xd1, 0xb1, 0xc9, 0x8d, 0xd7, 0x68, 0x9f, 0xb8, 0xec, 0x11, 0xd2, 0x42, 0xb1, 0x23,
            0xdc, 0x9b,
        ];
        let keys = Keys::of_client(Version::One, &ID);
        assert_eq!(hex(&keys.mask(&sample)), "437b9aec36");
        let two = Material::of_client(Version::Two, &ID);
        assert_eq!(hex(&two.key), "8b1a0bc121284290a29e0971b5cd045d");
        assert_eq!(hex(&two.iv), "91f73e2351d8fa91660e909f");
        assert_eq!(hex(&two.header), "45b95e15235d6f45a6b19cbcb0294ba9");
    }
}
