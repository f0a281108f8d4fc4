//! Which flows are video, and how that is known.
//!
//! What the operator says wins, then what the client asks for, then how the flow behaves. A
//! server name is matched as soon as it is whole and forgotten at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use monitor_ebpf::flow::FlowKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capture::FirstBytes;
use crate::config::{self, Config};
use crate::flow::{Flow, Vantage};
use crate::recognise::behaviour::{self, Figures, IS_VIDEO};
use crate::recognise::services::Services;
use crate::recognise::{Finding, Hello, Outcome};

/// Flows whose first bytes are remembered, as many as the kernel's table usually holds: a hello
/// that is not whole yet is at most 16 KiB, and one that is takes no more than its entry.
const HEARD_MAX: usize = 131_072;

/// Hellos that are not whole yet: 64 MiB at the worst.
const UNFINISHED_MAX: usize = 4_096;

/// Windows after which the first bytes of a flow that never reported are forgotten.
const FORGOTTEN_AFTER: u64 = 2;

/// How it is known whether a flow is video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VideoReason {
    /// A port of the server, or there is no `[video]` and all that is watched is video.
    Port,
    LocalAddress,
    Prefix,
    /// The unit or control group of the process that sends it.
    Cgroup,
    /// The server name of a TLS or QUIC ClientHello.
    Sni,
    /// Host or path of an HTTP/1 request.
    Http,
    /// Its volume over time, with a confidence.
    Behaviour,
}

/// Whether a flow is video.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    /// `None`: not known.
    pub video: Option<bool>,
    pub reason: Option<VideoReason>,
    pub service: Option<Arc<str>>,
    /// How much it behaves like video, from 0 to 1; with that reason only.
    pub confidence: Option<f64>,
}

impl Class {
    fn known(video: bool, reason: VideoReason) -> Self {
        Self {
            video: Some(video),
            reason: Some(reason),
            ..Self::default()
        }
    }

    pub fn is_video(&self) -> bool {
        self.video == Some(true)
    }
}

/// A flow, one of all that ever use its ports.
type FlowId = (FlowKey, u64);

/// What is known of the flows that were heard or judged.
#[derive(Debug, Default)]
pub struct VideoFlows {
    rules: Option<config::Video>,
    services: Services,
    /// Control groups that count as video, by the kernel's number.
    cgroups: HashMap<u64, ()>,
    flows: HashMap<FlowId, Known>,
    unfinished: usize,
    counters: Counted,
}

/// What was heard, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Clients whose first bytes named a server, by host name.
    pub hellos_named: u64,
    /// Of these, those that a service in the list owns.
    pub hellos_matched: u64,
    /// Whose first bytes did not, or are of another protocol.
    pub hellos_nameless: u64,
    /// That were not listened to, because there were too many at once.
    pub hellos_not_heard: u64,
}

#[derive(Debug)]
struct Known {
    hello: Option<Box<Hello>>,
    /// What the client asked for; `None`: nothing whole was heard.
    asked: Option<Class>,
    /// It behaved like video once: a pause does not make it something else.
    behaved: Option<f64>,
    /// Its `open` was written.
    pub opened: bool,
    window: u64,
}

impl VideoFlows {
    /// No flows yet.
    pub fn new(config: &Config) -> Self {
        let mut all = Self {
            services: Services::built_in(),
            ..Self::default()
        };
        all.reconfigure(config);
        all
    }

    pub fn reconfigure(&mut self, config: &Config) {
        self.rules.clone_from(&config.video);
    }

    /// Replaces the list of services. What was asked for before stays as it was matched.
    pub fn set_services(&mut self, services: Services) {
        self.services = services;
    }

    /// Replaces the control groups that count as video.
    pub fn set_cgroups(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.cgroups = ids.into_iter().map(|id| (id, ())).collect();
    }

    pub fn counted(&self) -> Counted {
        self.counters
    }

    /// Takes a piece of what a client sent first.
    pub fn hear(&mut self, said: &FirstBytes, window: u64) {
        if !self.rules.as_ref().is_some_and(|rules| rules.names) {
            return;
        }
        let room = self.flows.len() < HEARD_MAX && self.unfinished < UNFINISHED_MAX;
        let id = (said.key, said.generation);
        let known = match self.flows.get_mut(&id) {
            Some(known) => known,
            None if !room => {
                self.counters.hellos_not_heard += 1;
                return;
            }
            None => self.flows.entry(id).or_insert_with(|| Known::new(window)),
        };
        if known.asked.is_some() {
            return;
        }
        let hello = known.hello.get_or_insert_with(|| {
            self.unfinished += 1;
            Box::new(Hello::new(said.transport))
        });
        let outcome = hello.add(said.offset.into(), &said.bytes);
        if !outcome.is_final() {
            return;
        }
        known.hello = None;
        self.unfinished -= 1;
        let (class, named) = asked(&outcome, &self.services);
        if !named {
            self.counters.hellos_nameless += 1;
        } else if class.service.is_some() {
            self.counters.hellos_named += 1;
            self.counters.hellos_matched += 1;
        } else {
            self.counters.hellos_named += 1;
        }
        known.asked = Some(class);
    }

    /// What the client of a flow asked for.
    pub fn asked(&self, key: &FlowKey, generation: u64) -> Option<&Class> {
        self.flows.get(&(*key, generation))?.asked.as_ref()
    }

    /// Whether a flow is video, as far as is known now.
    pub fn class(&self, flow: &Flow) -> Class {
        let state = flow.state();
        let known = self.flows.get(&(state.key, state.generation));
        let asked = known.and_then(|known| known.asked.as_ref());
        let server = Server {
            address: flow.roles.server,
            port: flow.roles.server_port,
            is_ours: flow.roles.vantage == Vantage::Sender,
            cgroup: state.socket.cgroup_id,
        };
        let class = self.said(&server, asked);
        if class.video.is_some() || !self.rules.as_ref().is_some_and(|rules| rules.behaviour) {
            return class;
        }
        let behaved = known.and_then(|known| known.behaved);
        match behaved.or_else(|| behaviour::confidence(&figures(flow))) {
            None => class,
            Some(confidence) => Class {
                confidence: Some(confidence),
                ..Class::known(confidence >= IS_VIDEO, VideoReason::Behaviour)
            },
        }
    }

    /// What configuration and the client's own words say.
    pub fn said(&self, server: &Server, asked: Option<&Class>) -> Class {
        let Some(rules) = &self.rules else {
            return Class::known(true, VideoReason::Port);
        };
        let of_service = |reason| Class {
            service: asked.and_then(|class| class.service.clone()),
            ..Class::known(true, reason)
        };
        let within = |nets: &[ipnet::IpNet]| nets.iter().any(|net| net.contains(&server.address));
        if rules.ports.contains(&server.port) {
            of_service(VideoReason::Port)
        } else if server.is_ours && within(&rules.local_addresses) {
            of_service(VideoReason::LocalAddress)
        } else if within(&rules.prefixes) {
            of_service(VideoReason::Prefix)
        } else if server.is_ours && self.cgroups.contains_key(&server.cgroup) {
            of_service(VideoReason::Cgroup)
        } else {
            asked.cloned().unwrap_or_default()
        }
    }

    /// Whether records are written of flows of this class, and whether it is judged.
    pub fn is_reported(&self, class: &Class) -> bool {
        let all = self.rules.as_ref().is_none_or(|rules| rules.report_all);
        all || class.is_video()
    }

    /// Whether records are written of a flow of this class, and whether it is judged. One that was
    /// passed over was not measured to its end, whatever it would be called now.
    pub fn reports(&self, flow: &Flow, class: &Class) -> bool {
        self.is_reported(class) && !flow.state().is_unwanted()
    }

    /// Whether a flow is reported or may yet be: what a client asked for once stays, how a flow
    /// behaves may change, and so may the number of a unit's control group.
    pub fn may_be_reported(&self, flow: &Flow) -> bool {
        let state = flow.state();
        let asked = self.asked(&state.key, state.generation);
        if asked.is_none_or(|class| class.video != Some(false)) {
            return true;
        }
        let units = self.rules.iter().flat_map(|rules| &rules.units).count();
        let by_unit = units > 0 && flow.roles.vantage == Vantage::Sender;
        by_unit || self.is_open(flow) || self.is_reported(&self.class(flow))
    }

    /// Notes that the `open` of a flow is written; whether it was not before. Everything is
    /// reported where there are no rules, and nothing need be noted.
    pub fn open(&mut self, flow: &Flow, class: &Class, window: u64) -> bool {
        if self.rules.is_none() {
            return true;
        }
        let state = flow.state();
        let known = self
            .flows
            .entry((state.key, state.generation))
            .or_insert_with(|| Known::new(window));
        if class.reason == Some(VideoReason::Behaviour) && class.is_video() {
            known.behaved = class.confidence;
        }
        !std::mem::replace(&mut known.opened, true)
    }

    /// Whether the `open` of a flow was written.
    pub fn is_open(&self, flow: &Flow) -> bool {
        let state = flow.state();
        let known = self.flows.get(&(state.key, state.generation));
        self.rules.is_none() || known.is_some_and(|known| known.opened)
    }

    /// A flow was closed: should it go on, it is opened again.
    pub fn close(&mut self, flow: &Flow) {
        let state = flow.state();
        if let Some(known) = self.flows.get_mut(&(state.key, state.generation)) {
            known.opened = false;
        }
    }

    /// Forgets a flow.
    pub fn remove(&mut self, key: &FlowKey, generation: u64) {
        let gone = self.flows.remove(&(*key, generation));
        if gone.is_some_and(|known| known.hello.is_some()) {
            self.unfinished -= 1;
        }
    }

    /// Forgets what was heard of flows that are no more, or never reported.
    pub fn forget(&mut self, window: u64, is_there: impl Fn(&FlowKey, u64) -> bool) {
        let mut unfinished = 0;
        self.flows.retain(|(key, generation), known| {
            let young = window.saturating_sub(known.window) < FORGOTTEN_AFTER;
            let there = is_there(key, *generation);
            if !young && known.hello.take().is_some() {
                known.asked = Some(Class::default());
            }
            let stays = young || there;
            unfinished += usize::from(stays && known.hello.is_some());
            stays
        });
        self.unfinished = unfinished;
    }
}

impl Known {
    fn new(window: u64) -> Self {
        Self {
            hello: None,
            asked: None,
            behaved: None,
            opened: false,
            window,
        }
    }
}

/// The server's end of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub address: IpAddr,
    pub port: u16,
    /// A socket of this host sends the data.
    pub is_ours: bool,
    /// The control group of that socket; 0: not known.
    pub cgroup: u64,
}

/// What a client's words make of its flow, and whether they named a server.
fn asked(outcome: &Outcome<Finding>, services: &Services) -> (Class, bool) {
    match outcome {
        Outcome::Found(Finding::Name(server)) => match services.of(&server.name) {
            Some(service) => {
                let class = Class {
                    service: Some(Arc::clone(service)),
                    ..Class::known(true, VideoReason::Sni)
                };
                (class, true)
            }
            // The service may be the one that is named inside.
            None if server.may_be_outer => (Class::default(), true),
            None => (Class::known(false, VideoReason::Sni), true),
        },
        Outcome::Found(Finding::Request(request)) => {
            let service = request.host.as_deref().and_then(|host| services.of(host));
            let video = service.is_some() || request.is_media;
            let class = Class {
                service: service.cloned(),
                ..Class::known(video, VideoReason::Http)
            };
            (class, request.host.is_some())
        }
        _ => (Class::default(), false),
    }
}

fn figures(flow: &Flow) -> Figures {
    Figures {
        age_us: flow.last_seen_us.saturating_sub(flow.start_us),
        bytes: flow.to_client.bytes,
        request_bytes: flow.to_server.bytes,
        chunks: flow.to_client.chunks(),
        busy_us: flow.to_client.busy_us,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recognise::Transport;

    const WINDOW: u64 = 7;

    fn rules(toml: &str) -> VideoFlows {
        let config = Config::parse(toml, Path::new("test.toml")).expect("right");
        let mut flows = VideoFlows::new(&config);
        let list = "suffix,service\ncdn.example,Films\n";
        flows.set_services(Services::parse(list, Path::new("list.csv")).expect("a list"));
        flows
    }

    fn said(bytes: &[u8]) -> FirstBytes {
        FirstBytes {
            key: FlowKey::EMPTY,
            generation: 1,
            transport: Transport::Tcp,
            offset: 0,
            bytes: bytes.to_vec(),
        }
    }

    fn server(address: &str, port: u16) -> Server {
        Server {
            address: address.parse().expect("an address"),
            port,
            is_ours: true,
            cgroup: 0,
        }
    }

    fn of(flows: &VideoFlows, server: &Server) -> (Option<bool>, Option<VideoReason>) {
        let class = flows.said(server, flows.asked(&FlowKey::EMPTY, 1));
        (class.video, class.reason)
    }

    #[test]
    fn without_rules_all_that_is_watched_is_video() {
        let flows = rules("");
        let expected = (Some(true), Some(VideoReason::Port));
        assert_eq!(of(&flows, &server("192.0.2.1", 443)), expected);
    }

    #[test]
    fn what_the_operator_says_wins_in_its_order() {
        let mut flows = rules(
            "[video]\nports = [8080]\nlocal_addresses = [\"192.0.2.1/32\"]\n\
             prefixes = [\"198.51.100.0/24\"]\nunits = [\"nginx.service\"]\n",
        );
        flows.set_cgroups([99]);
        flows.hear(
            &said(b"GET / HTTP/1.1\r\nHost: www.example\r\n\r\n"),
            WINDOW,
        );
        let ours = server("192.0.2.1", 80);
        let foreign = Server {
            is_ours: false,
            ..ours
        };
        let unit = Server {
            cgroup: 99,
            ..server("192.0.2.9", 80)
        };
        let no = (Some(false), Some(VideoReason::Http));
        for (server, reason) in [
            (server("192.0.2.9", 8080), VideoReason::Port),
            (ours, VideoReason::LocalAddress),
            (server("198.51.100.7", 80), VideoReason::Prefix),
            (unit, VideoReason::Cgroup),
        ] {
            assert_eq!(of(&flows, &server), (Some(true), Some(reason)));
        }
        assert_eq!(of(&flows, &foreign), no);
        assert_eq!(of(&flows, &server("192.0.2.9", 80)), no);
    }

    #[test]
    fn a_name_is_matched_when_it_is_whole_and_only_its_service_is_kept() {
        let mut flows = rules("[video]\n");
        let end = server("192.0.2.1", 80);
        flows.hear(&said(b"GET / HTTP/1.1\r\nHost: secret.cdn"), WINDOW);
        assert_eq!(of(&flows, &end), (None, None));
        let rest = FirstBytes {
            offset: 32,
            ..said(b".example\r\n\r\n")
        };
        flows.hear(&rest, WINDOW);
        let class = flows.asked(&FlowKey::EMPTY, 1).expect("heard");
        assert_eq!(class.service.as_deref(), Some("Films"));
        assert_eq!(of(&flows, &end), (Some(true), Some(VideoReason::Http)));
        assert!(!format!("{flows:?}").contains("secret"));
        assert_eq!(flows.counted().hellos_matched, 1);
        // The ports' next flow is another.
        assert_eq!(flows.asked(&FlowKey::EMPTY, 2), None);
    }

    #[test]
    fn the_path_of_a_manifest_is_video_without_a_service() {
        let mut flows = rules("[video]\n");
        flows.hear(
            &said(b"GET /a/live.m3u8 HTTP/1.1\r\nHost: x.example\r\n\r\n"),
            WINDOW,
        );
        let class = flows.asked(&FlowKey::EMPTY, 1).expect("heard");
        assert_eq!((class.video, class.service.as_deref()), (Some(true), None));
    }

    #[test]
    fn an_encrypted_hello_denies_nothing() {
        let services = Services::parse("suffix,service\na.b,S\n", Path::new("x")).expect("a list");
        let name = |may_be_outer| {
            Outcome::Found(Finding::Name(crate::recognise::tls::ServerName {
                name: "other.example".to_owned(),
                may_be_outer,
            }))
        };
        assert_eq!(asked(&name(true), &services).0.video, None);
        assert_eq!(asked(&name(false), &services).0.video, Some(false));
    }

    #[test]
    fn what_is_heard_is_forgotten_with_its_flow() {
        let mut flows = rules("[video]\n");
        flows.hear(&said(b"GET /"), WINDOW);
        assert_eq!(flows.unfinished, 1);
        flows.forget(WINDOW + 1, |_, _| false);
        assert_eq!(flows.flows.len(), 1);
        flows.forget(WINDOW + 2, |_, _| true);
        assert_eq!((flows.flows.len(), flows.unfinished), (1, 0));
        flows.forget(WINDOW + 3, |_, _| false);
        assert_eq!(flows.flows.len(), 0);
    }
}
