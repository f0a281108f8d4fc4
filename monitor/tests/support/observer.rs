//! The loaded programs on the devices of one host, and what they know at any moment.

use std::{
    sync::mpsc::{self, Receiver, Sender},
    thread::JoinHandle,
};

use lastmile::{
    capture::live::{Hook, Live, Options},
    config::{Config, KernelLog},
    netlink::{Netlink, choose},
};
use lastmile_lab::netns;
use monitor_ebpf::{
    counters::{COUNTERS, Counter},
    flow::{FlowState, Half},
};

/// One epoch for a whole test, so that its minimum is the flow's.
const EPOCH_S: u32 = 86_400;

/// What the programs know at one moment.
pub struct Sight {
    pub flows: Vec<FlowState>,
    pub counters: [u64; COUNTERS],
    /// The moment, wrapping monotonic µs.
    pub read_us: u32,
}

impl Sight {
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }
}

/// The half that the server's packets write, and the one that the client's do.
pub fn server_and_client(state: &FlowState, server_port: u16) -> (&Half, &Half) {
    let [low, high] = &state.halves;
    if state.key.low_port == server_port {
        (low, high)
    } else {
        (high, low)
    }
}

/// The programs, attached. Taken off when dropped.
pub struct Observer {
    ask: Option<Sender<()>>,
    told: Receiver<Sight>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Observer {
    /// Watches `port` on `devices` of a namespace.
    pub fn start(namespace: &str, devices: &[&str], hook: Hook, port: u16) -> Self {
        let wanted: Vec<_> = devices.iter().map(|name| (*name).to_owned()).collect();
        let (ask, asked) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let (ready, attached) = mpsc::channel();
        let thread = netns::enter(namespace, move || {
            let mut live = Live::load(&Options {
                max_flows: 16_384,
                kernel_log: KernelLog::Off,
                cgroups: false,
                test_clock: false,
            })?;
            let mut config = Config::default();
            config.watch.ports = vec![port];
            config.window.length_s = EPOCH_S;
            live.watch(&config, 0)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let found = runtime.block_on(async {
                let devices = Netlink::open()?.devices().await?;
                anyhow::Ok(choose(&devices, &wanted, &[]))
            })?;
            assert_eq!(found.len(), wanted.len(), "every device is there");
            let _attachments = found
                .iter()
                .map(|device| live.attach(device, hook, &[]))
                .collect::<anyhow::Result<Vec<_>>>()?;
            ready.send(())?;
            while asked.recv().is_ok() {
                let mut flows = Vec::new();
                live.flows(|state| flows.push(*state))?;
                tell.send(Sight {
                    flows,
                    counters: live.counters()?,
                    read_us: monotonic_us(),
                })?;
            }
            Ok(())
        })
        .expect("the namespace can be entered");
        let mut observer = Self {
            ask: Some(ask),
            told,
            thread: Some(thread),
        };
        if attached.recv().is_err() {
            observer.end();
        }
        observer
    }

    /// What the programs know now.
    pub fn look(&self) -> Sight {
        self.ask
            .as_ref()
            .and_then(|ask| ask.send(()).ok())
            .and_then(|()| self.told.recv().ok())
            .expect("the programs can be asked")
    }

    fn end(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let ended = netns::join(thread);
            if !std::thread::panicking() {
                ended.expect("the programs load, attach and can be read");
            }
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The clock of the programs, wrapping µs.
fn monotonic_us() -> u32 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the buffer is valid, and every kernel has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000) as u32
}
