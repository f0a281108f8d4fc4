//! ClientHellos to order.

/// What a client says first.
pub(crate) struct ClientHello {
    extensions: Vec<u8>,
}

impl ClientHello {
    pub(crate) fn nameless() -> Self {
        Self {
            extensions: Vec::new(),
        }
    }

    pub(crate) fn to(name: &str) -> Self {
        let mut content = (name.len() as u16 + 3).to_be_bytes().to_vec();
        content.push(0);
        content.extend((name.len() as u16).to_be_bytes());
        content.extend(name.as_bytes());
        Self::nameless().extension(0, &content)
    }

    pub(crate) fn extension(mut self, kind: u16, content: &[u8]) -> Self {
        self.extensions.extend(kind.to_be_bytes());
        self.extensions.extend((content.len() as u16).to_be_bytes());
        self.extensions.extend(content);
        self
    }

    /// With key shares somewhat longer than X25519MLKEM768's, which is 1,216 bytes.
    pub(crate) fn post_quantum(self) -> Self {
        self.extension(51, &[7; 1_500])
    }

    /// The handshake message.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([9; 32]);
        // No session, two cipher suites, no compression.
        body.extend([0, 0, 4, 0x13, 1, 0x13, 2, 1, 0]);
        body.extend((self.extensions.len() as u16).to_be_bytes());
        body.extend(&self.extensions);
        let mut message = vec![1];
        message.extend(&(body.len() as u32).to_be_bytes()[1..]);
        message.extend(body);
        message
    }
}

/// `message` in records of `len` bytes.
pub(crate) fn records(message: &[u8], len: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    for part in message.chunks(len) {
        stream.extend([22, 3, 1]);
        stream.extend((part.len() as u16).to_be_bytes());
        stream.extend(part);
    }
    stream
}
