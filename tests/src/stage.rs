//! The end of a run for threads that wait or are blocked on a socket.

use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

/// What threads share that work until the end: whether it is over, and the connections to close
/// then.
#[derive(Debug, Default)]
pub struct Stage {
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct State {
    over: bool,
    streams: Vec<TcpStream>,
}

impl Stage {
    /// Ends every wait and closes every connection.
    pub fn end(&self) {
        let mut state = self.lock();
        state.over = true;
        for stream in state.streams.drain(..) {
            // One that is closed already is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.over.notify_all();
    }

    /// Waits until then, or until the end; whether it is the end.
    pub fn wait_until(&self, then: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.over || now >= then {
                return state.over;
            }
            state = match self.over.wait_timeout(state, then - now) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Remembers a connection, to close it at the end; whether it is the end already.
    ///
    /// # Errors
    /// If the socket cannot be duplicated.
    pub fn adopt(&self, stream: &TcpStream) -> Result<bool> {
        let mut state = self.lock();
        let own = stream.try_clone().context("cannot duplicate a socket")?;
        if state.over {
            let _ = own.shutdown(Shutdown::Both);
        } else {
            state.streams.push(own);
        }
        Ok(state.over)
    }

    /// Whether it is the end.
    pub fn is_over(&self) -> bool {
        self.lock().over
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is one flag and a list: a panic elsewhere cannot leave it half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
