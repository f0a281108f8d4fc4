//! One long download, for as long as a test wants it.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use lastmile_lab::netns;

use super::net::{Internet, PORT, SERVER, TcpInfo};

const CHUNK: usize = 16 << 10;

/// A connection that sends until it is told to stop.
pub struct Transfer {
    stop: Arc<AtomicBool>,
    server: JoinHandle<anyhow::Result<TcpInfo>>,
    client: JoinHandle<anyhow::Result<u64>>,
}

impl Transfer {
    pub fn start(internet: &Internet) -> Self {
        Self::asking(internet, "")
    }

    /// The client asks for something first.
    pub fn asking(internet: &Internet, request: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, listening) = mpsc::channel();
        let told = Arc::clone(&stop);
        let server = internet.on(&internet.server, move || {
            let listener = TcpListener::bind((SERVER, PORT)).expect("the port is free");
            ready.send(()).expect("the test listens");
            let (mut stream, _) = listener.accept().expect("the client comes");
            let mut asked = vec![0; request.len()];
            stream.read_exact(&mut asked).expect("the client asks");
            let chunk = vec![0x5a; CHUNK];
            while !told.load(Ordering::Relaxed) {
                stream.write_all(&chunk).expect("the client reads");
            }
            stream.shutdown(Shutdown::Write).expect("connected");
            let rest = stream.read(&mut [0; 1]).expect("the client closes");
            assert_eq!(rest, 0, "the client sends nothing");
            TcpInfo::of(&stream)
        });
        listening.recv().expect("the server listens");
        let client = internet.on(&internet.client, move || {
            let mut stream = TcpStream::connect((SERVER, PORT)).expect("the server is there");
            stream.write_all(request.as_bytes()).expect("connected");
            let mut chunk = vec![0; CHUNK];
            let mut received = 0;
            loop {
                match stream.read(&mut chunk).expect("the server sends") {
                    0 => return received,
                    bytes => received += bytes as u64,
                }
            }
        });
        Self {
            stop,
            server,
            client,
        }
    }

    /// What the sender's socket said at the end, and the bytes that arrived.
    pub fn end(self) -> (TcpInfo, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let received = netns::join(self.client).expect("the client ends");
        (netns::join(self.server).expect("the server ends"), received)
    }
}
