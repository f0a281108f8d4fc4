//! The reasons why a figure of ours may differ from a reference's. Each is tested on the segments
//! themselves, and explains exactly those it holds for.

/// Whose figure ours is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    Tshark,
    Tcptrace,
}

impl Reference {
    pub const ALL: [Self; 2] = [Self::Tshark, Self::Tcptrace];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tshark => "tshark",
            Self::Tcptrace => "tcptrace",
        }
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    Flows,
    Bytes,
    Frames,
    Retransmitted,
    OutOfOrder,
    HandshakeRtt,
    MinimumRtt,
}

impl Metric {
    pub fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Bytes => "bytes",
            Self::Frames => "frames",
            Self::Retransmitted => "retransmitted",
            Self::OutOfOrder => "out of order",
            Self::HandshakeRtt => "handshake RTT, µs",
            Self::MinimumRtt => "minimum RTT, µs",
        }
    }
}

macro_rules! rules {
    ($($rule:ident: $name:literal, $differs:literal, $right:literal;)*) => {
        /// A reason. Its doc comment is what docs/measurement.md says of it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $differs] $rule,)*
        }

        impl Rule {
            pub const ALL: &[Self] = &[$(Self::$rule,)*];

            /// What a report calls it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$rule => $name,)* }
            }

            /// What differs, and what was tested.
            pub fn differs(self) -> &'static str {
                match self { $(Self::$rule => $differs,)* }
            }

            /// Who is right, and why.
            pub fn right(self) -> &'static str {
                match self { $(Self::$rule => $right,)* }
            }
        }
    };
}

rules! {
    // What counts as data.
    SynAgain: "SYN again",
        "a SYN or SYN-ACK was repeated: the references count it with the data retransmissions (tshark), or with those and FINs (tcptrace); we mark the handshake RTT as unusable instead",
        "both, of different things: there is no data to lose, and a SYN's timer is 1 s, not an RTT's";
    Probe: "keep-alive or probe",
        "one old byte below the next one while nothing is outstanding, or one byte into a closed window: no payload and no retransmission for us",
        "we and tshark for keep-alives (RFC 9293, 3.8.4; nothing was lost); tcptrace knows no keep-alives and counts each as a retransmission. Its payload is never new";
    KeepAliveLooks: "only looks like a keep-alive",
        "one byte just below the highest sequence number that the other side had not acknowledged yet: tshark asks for the position only",
        "we: with data outstanding it is a retransmission of the last byte, and counts";
    AfterProbe: "begins one byte below the next",
        "more than one byte that begin with the last byte sent: tshark takes the first for a window probe's and the rest for new data",
        "we: that byte was sent twice, whatever the reason; without a closed window there was no probe";
    ResetData: "payload of a reset",
        "a RST that carries bytes: the references count them",
        "we: a receiver discards them (RFC 9293, 3.10.7), they are a message for people";
    Unread: "not read: tunnel, fragment or cut header",
        "the packet path does not look into tunnels (GRE, IP in IP, VXLAN, GENEVE, GTP-U), does not put fragments together, and refuses a header that the capture cut; it counts each by reason. tshark decodes them",
        "tshark sees more; ours is deliberate: a flow inside a tunnel has its own vantage";
    CutRecord: "shorter record than packet",
        "the capture says that the packet ended where it was cut, the IP header that it went on (tcpdump: truncated-ip): tshark counts payload up to the end of the record",
        "we and tcptrace: the tool that cut it lost the original length, the header did not";
    Quoted: "quoted in ICMP",
        "an ICMP error quotes the beginning of a segment, which tshark analyses as if it had been sent",
        "we: nobody sent it here";
    ResetAlone: "reset of nothing known",
        "a connection of which only resets, or bare acknowledgements after a reset, are in the capture: no flow begins with one",
        "either: there is no data to measure";
    // Retransmission or reordering.
    OutOfOrderSeen: "out of order by time, though seen before",
        "tshark takes what comes less than the handshake RTT (3 ms without a handshake) after the highest segment for reordering; these bytes had passed here already",
        "we and tcptrace: bytes that pass twice were sent twice. (A network that duplicates packets looks the same to anyone)";
    OutOfOrderOld: "out of order by time, in an old hole",
        "it fills a hole that was open for half an RTT or longer (with timestamps: it was stamped after the hole showed), which is time enough for a retransmission, and less than a handshake RTT passed since the highest segment, which keeps moving",
        "we: the age of the hole is what tells the two apart; the time since the highest segment says how fast the sender sends";
    RetransmissionYoung: "retransmission, in a young hole",
        "it fills a hole younger than half an RTT (with timestamps: it was stamped before the hole showed): no sender can know of a loss so soon; tshark's time since the highest segment was over, or it knew no handshake",
        "we";
    ManyHoles: "more holes than we keep",
        "more than eight holes were open at once: the ones beyond are forgotten, and what fills them counts as a retransmission unless its timestamp shows that it was overtaken",
        "the reference; ours is bounded memory in the kernel, and the number forgotten is counted";
    AcknowledgedUnseen: "acknowledged before it was seen",
        "new bytes that the other side had acknowledged already: tshark calls them spurious. The capture has them in the wrong order, or lacks the first copy",
        "nobody can tell; at our hooks every packet is in order";
    EmptyAhead: "an empty segment ran ahead",
        "tshark takes the sequence number of a segment without data for sent; a FIN or data below it that was never seen then looks repeated. The capture, or the network, changed their order",
        "we: nothing was sent twice";
    Waiting: "before the other direction was seen",
        "until a packet comes back (or 64 passed one way) a flow waits without a state, so that a flood cannot push others out; bytes and frames count, repetitions are not looked for",
        "the reference";
    BelowFirst: "below the first byte seen",
        "the capture begins within a flow, and older bytes follow: lost before it, or reordered around its beginning. We and tshark count a retransmission, tcptrace reordering",
        "nobody can tell";
    FillsAnyAge: "fills a hole, at any age",
        "tcptrace calls everything that fills a never-seen hole out of order, however late it comes",
        "we and tshark: what was sent once the loss could be known is the retransmission of what was lost before the tap. Taken as reordering, losses upstream of a tap vanish";
    PartlySeen: "fills a hole and repeats bytes",
        "a young hole is filled together with bytes that were seen: tcptrace counts the repeated part",
        "either";
    IntoClosedWindow: "into a closed window",
        "data while the last window seen was 0: tcptrace takes all of it for window probes and forgets the bytes",
        "we and tshark: only one byte at the very place is a probe";
    // Where one connection ends and the next begins.
    ForgottenFlow: "remembered from an earlier flow",
        "the reference holds these packets together with a flow that we had closed (after its silence, or at a SYN)",
        "either: the highest sequence number of a connection that was silent that long says little";
    NewConnection: "a new connection for the reference only",
        "the reference begins anew at a SYN with another sequence number; we believe one only where the old flow ended, was silent for 5 s, or the server answers with another number",
        "we: anyone can forge a SYN, and a live endpoint ignores it (RFC 9293, 3.10.7.4)";
    FourMinutes: "a new connection after silence",
        "tcptrace begins a new connection after 240 s without a packet, and forgets the old one",
        "we and tshark: the sequence numbers go on";
    Extensions: "IPv6 extension headers",
        "tcptrace counts IPv6 extension headers as payload, and takes a fragment header for TCP's",
        "we and tshark (RFC 8200, 4)";
    LinkLayer: "a link layer tcptrace cannot read",
        "IP below MPLS, PPPoE or IEEE 802.1ad: tcptrace finds no connection",
        "we and tshark";
    Silence: "closed after silence",
        "no packet for as long as a flow is kept (docs/replay.md): we close it and begin another, the reference goes on",
        "either; a monitor has to forget";
    // RTT.
    HandshakeTwice: "handshake with a repeated SYN",
        "a SYN or SYN-ACK passed more than once: which copy was answered cannot be told, so we give no handshake RTT; the references measure from one of them",
        "we (Karn and Partridge, 1987)";
    HandshakeFollowed: "more than a SYN before the answer",
        "data (TCP Fast Open) or a FIN follows the SYN before the SYN-ACK: ours takes no handshake RTT from it, because among packets that wait for the other direction a second one cannot be told from a second SYN",
        "the reference";
    HandshakePart: "handshake in part",
        "SYN, SYN-ACK or the ACK after them is not in the capture, or not in order: we need all three for the sum, the reference gives what one part took",
        "either";
    OneAtATime: "one sample at a time",
        "the reference's shorter RTT is of a segment that was sent while older data was outstanding: it times every segment, the kernel one a direction at a time",
        "the reference has more samples; ours is a bounded cost a packet and as true. Where ACKs are delayed, timing only the last segment of two gives less than a network RTT plus the wait";
    Karn: "measured on a retransmission",
        "the reference's shorter RTT is between a segment of which a copy was sent before its acknowledgement, and that acknowledgement",
        "we (Karn and Partridge, 1987): the acknowledgement may be the first copy's";
    Dropped: "sample given up",
        "between the reference's segment and its acknowledgement something else was sent again: ours gives the sample under way up, since an acknowledgement may have waited for that",
        "both; ours errs to the careful side";
    ProbeRtt: "RTT of a probe",
        "the reference timed the answer to a keep-alive or probe, or to data before the other direction was known",
        "either: it is an RTT, of a segment that is no data for us";
    ZeroRtt: "less than a microsecond",
        "data and its acknowledgement bear the same time stamp, to the microsecond: we take no sample of 0",
        "neither: the capture's clock is too coarse for it";
    Timestamps: "RTT by timestamps",
        "our shorter RTT is between a new TCP timestamp and its first echo; the references match sequence numbers only",
        "we: it is one more way to measure (Strowes, CACM 2013), within the peer's clock tick";
    Covered: "acknowledged together",
        "our RTT is of a segment that a later acknowledgement covers along with others; the reference only times acknowledgements that end exactly where a segment does",
        "we: that it covers more does not make it wrong, only longer by the peer's wait";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_rule_has_a_name_of_its_own_and_says_who_is_right() {
        let names: HashSet<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        for rule in Rule::ALL {
            for text in [rule.name(), rule.differs(), rule.right()] {
                assert!(!text.is_empty() && !text.contains('|'), "{text}");
            }
        }
    }
}
