//! A BMP station of the test: lastmile's decoder, RIB and table, and a recording of each session.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use lastmile::path::Publisher;
use lastmile::path::bmp::{Decoder, Message};
use lastmile::path::rib::{Rib, RouterId};

use super::PATIENCE;
use super::table::{Table, table};

/// Listens until the test ends.
pub struct Station {
    pub address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    rib: Rib,
    publisher: Publisher,
    /// What each session sent, byte by byte.
    recordings: Vec<Vec<u8>>,
    open: usize,
    /// Messages of each kind, and what could not be read.
    not_understood: Vec<String>,
}

impl Station {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port to listen on");
        let address = listener.local_addr().expect("its address");
        let shared: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let state = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&state);
                thread::spawn(move || session(stream, &state));
            }
        });
        Self { address, shared }
    }

    /// Waits until the table is as it should be; returns it.
    pub fn await_table(&self, what: &str, is_right: impl Fn(&Table) -> bool) -> Table {
        self.wait(what, |state| {
            let table = table(&state.publisher.current());
            is_right(&table).then_some(table)
        })
    }

    /// Waits until every router has closed.
    pub fn await_end_of_sessions(&self) {
        self.wait("end of the session", |state| {
            (state.open == 0).then_some(())
        });
    }

    /// As the daemon does when a router that came back has had its time to tell everything again.
    pub fn sweep(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        let router = router(&mut state.rib);
        state.rib.sweep(router);
        state.publish();
    }

    /// What was sent in each session so far.
    pub fn recordings(&self) -> Vec<Vec<u8>> {
        self.lock().recordings.clone()
    }

    /// Everything in real daemons' sessions is understood.
    pub fn assert_all_understood(&self) {
        assert_eq!(self.lock().not_understood, [""; 0]);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().expect("no session panicked")
    }

    fn wait<T>(&self, what: &str, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&state) {
                return found;
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            let now = table(&state.publisher.current());
            assert!(!rest.is_zero(), "no {what}; the table is {now:#?}");
            let waited = self.shared.1.wait_timeout(state, rest);
            state = waited.expect("no session panicked").0;
        }
    }
}

impl State {
    fn publish(&mut self) {
        let changes = self.rib.take_changes();
        // Nobody here holds a table for longer than the lock.
        self.publisher
            .publish(changes)
            .expect("nobody holds the table before");
    }
}

/// All sessions are of one router.
fn router(rib: &mut Rib) -> RouterId {
    rib.router("127.0.0.1").expect("one router is not too many")
}

fn session(mut stream: TcpStream, shared: &(Mutex<State>, Condvar)) {
    let (state, changed) = shared;
    let lock = || state.lock().expect("no session panicked");
    let recording = {
        let mut state = lock();
        let router = router(&mut state.rib);
        state.rib.connected(router);
        state.open += 1;
        state.recordings.push(Vec::new());
        state.recordings.len() - 1
    };
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let size = stream.read(&mut buffer).unwrap_or(0);
        let mut state = lock();
        let state = &mut *state;
        if size == 0 {
            state.open -= 1;
            changed.notify_all();
            return;
        }
        state.recordings[recording].extend_from_slice(&buffer[..size]);
        let router = router(&mut state.rib);
        for message in messages(&mut decoder, &buffer[..size]) {
            match message {
                Ok(message) => {
                    let applied = state.rib.apply(router, &message);
                    applied.expect("a few routes are not too many");
                }
                Err(why) => state.not_understood.push(why),
            }
        }
        state.publish();
        changed.notify_all();
    }
}

/// The messages that `bytes` complete; what cannot be read, in words.
pub fn messages(decoder: &mut Decoder, bytes: &[u8]) -> Vec<Result<Message, String>> {
    decoder.push(bytes);
    let mut messages = Vec::new();
    while let Some(framed) = decoder.next() {
        match framed {
            Ok(read) => messages.push(read.map_err(|why| why.to_string())),
            Err(why) => {
                messages.push(Err(why.to_string()));
                break;
            }
        }
    }
    messages
}
