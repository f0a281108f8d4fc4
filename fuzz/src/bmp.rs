//! A router's BMP stream to the table that readers hold.

use lastmile::path::{
    Publisher, SourceTable,
    bmp::{Counters, Decoder, MAX_MESSAGE, Message},
    rib::{Rib, RouterId},
};

use super::announce::{
    IPV4, IPV6, Width, as_path, attribute, bmp, communities, large_communities, mp_reach,
    mp_unreach, next_hop, nlri, nlri_of_path, open, origin, per_peer, update,
};
use super::recorded;

/// First byte: bytes read at once, and whether the router begins anew in the middle. The rest is
/// the stream.
pub fn run(data: &[u8]) {
    let Some((&[how], stream)) = data.split_first_chunk() else {
        return;
    };
    let at_once = usize::from(how & 0x7f) + 1;
    let sessions: Vec<&[u8]> = if how & 0x80 == 0 {
        vec![stream]
    } else {
        let (first, second) = stream.split_at(stream.len() / 2);
        vec![first, second]
    };

    let mut site = Site::new();
    for session in sessions {
        let whole = decode(session, session.len().max(1));
        let pieces = decode(session, at_once);
        assert_eq!(whole, pieces, "where reads end makes no difference");
        let (messages, counters, _) = whole;
        assert!(messages.len() as u64 + counters.not_understood == counters.messages);
        site.session(&messages);
    }
    site.end();
}

/// Messages, counters, and whether the stream broke.
fn decode(stream: &[u8], at_once: usize) -> (Vec<Message>, Counters, bool) {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for piece in stream.chunks(at_once) {
        decoder.push(piece);
        while let Some(read) = decoder.next() {
            match read {
                Ok(Ok(message)) => messages.push(message),
                Ok(Err(_)) => {}
                Err(_) => return (messages, decoder.counters(), true),
            }
        }
        assert!(decoder.pending() < MAX_MESSAGE);
    }
    (messages, decoder.counters(), false)
}

/// Everything behind the decoder.
struct Site {
    rib: Rib,
    router: RouterId,
    publisher: Publisher,
}

impl Site {
    fn new() -> Self {
        let mut rib = Rib::default();
        let router = rib.router("192.0.2.100").expect("the first one");
        Self {
            rib,
            router,
            publisher: Publisher::default(),
        }
    }

    fn session(&mut self, messages: &[Message]) {
        self.rib.connected(self.router);
        for message in messages {
            if self.rib.apply(self.router, message).is_err() {
                break;
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        let changes = self.rib.take_changes();
        self.publisher
            .publish(changes)
            .expect("nobody holds a table");
        let table = self.publisher.current();
        check(&self.rib, &table);
        drop(table);
        assert!(self.publisher.catch_up());
    }

    /// What is not said again goes, to the last byte that is counted.
    fn end(mut self) {
        self.rib.connected(self.router);
        self.rib.sweep(self.router);
        self.publish();
        assert!(self.publisher.current().is_empty());
        let size = self.rib.size();
        assert_eq!((size.routes, size.prefixes, size.tables), (0, 0, 0));
        assert!(!self.rib.has_old_routes(self.router));
    }
}

fn check(rib: &Rib, table: &SourceTable) {
    let size = rib.size();
    let mut routes = 0;
    for (prefix, path) in table.iter() {
        assert_eq!(rib.best(&prefix).as_ref(), Some(path), "{prefix}");
        let ways = rib.ways(&prefix);
        assert_eq!(ways.iter().filter(|way| way.is_best).count(), 1);
        routes += ways.len();
        let found = table.lookup(prefix.addr()).expect("it is there");
        assert!(found.0.prefix_len() >= prefix.prefix_len());
    }
    // Those of a table that is not the router's best one are not published.
    assert!(table.len() <= size.prefixes && size.prefixes <= size.routes);
    assert!(routes <= size.routes);
    assert!(!rib.has_changes());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let east = per_peer(0, 0x40, [192, 0, 2, 1].into(), 64_999);
    let west = per_peer(
        0,
        0x80,
        "2001:db8::2".parse().expect("right"),
        4_200_000_000,
    );
    let old = per_peer(0, 0x20, [192, 0, 2, 3].into(), 65_003);
    let own = per_peer(3, 0, [0; 4].into(), 64_500);
    let vrf = {
        let mut header = per_peer(1, 0, [192, 0, 2, 1].into(), 64_999);
        header[9] = 7;
        header
    };
    let initiation = {
        let mut body = vec![0, 2, 0, 2];
        body.extend(b"r1");
        body.extend([0, 1, 0, 3]);
        body.extend(b"FRR");
        bmp(4, &body)
    };
    let up = |peer: &[u8], add_path| {
        let local = [&[0; 16][..], &[0, 179, 0xc0, 0]].concat();
        let opens = [open(64_500, add_path), open(64_999, add_path)].concat();
        bmp(3, &[peer, &local, &opens].concat())
    };
    let routes = |peer: &[u8], update: &[u8]| bmp(0, &[peer, update].concat());
    let usual = |path: &[u32]| {
        [
            origin(0),
            as_path(Width::Four, path, &[]),
            next_hop([192, 0, 2, 1]),
            communities(&[64_500 << 16 | 100, 7]),
            large_communities(&[[64_500, 1, 2]]),
        ]
        .concat()
    };
    let announced = [
        nlri("198.51.100.0/24"),
        nlri("10.0.0.0/8"),
        nlri("0.0.0.0/0"),
    ]
    .concat();
    let to_v4 = update(&[], &usual(&[64_999, 64_501]), &announced);
    let v6_hop = [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[1]].concat();
    let to_v6 = {
        let reach = mp_reach(IPV6, 1, &v6_hop, &nlri("2001:db8:100::/40"));
        let attributes = [usual(&[4_200_000_000, 64_501]), reach].concat();
        update(&[], &attributes, &[])
    };
    let labelled = {
        let mut bytes = vec![24 + 24, 0, 1, 0x01];
        bytes.extend(&nlri("198.51.100.0/24")[1..]);
        let reach = mp_reach(IPV4, 4, &[192, 0, 2, 9], &bytes);
        update(&[], &[usual(&[64_999]), reach].concat(), &[])
    };
    let several = [
        nlri_of_path(1, "198.51.100.0/24"),
        nlri_of_path(2, "198.51.100.0/24"),
    ]
    .concat();
    let aggregated = {
        let attributes = [
            origin(2),
            as_path(Width::Two, &[65_003, 23_456], &[1, 2]),
            attribute(0xc0, 17, &[2, 1, 0xfa, 0x56, 0xea, 1]),
            next_hop([192, 0, 2, 3]),
            attribute(0x80, 4, &[0, 0, 0, 9]),
            attribute(0x40, 5, &[0, 0, 0, 200]),
        ]
        .concat();
        update(&[], &attributes, &nlri("203.0.113.0/25"))
    };
    let withdrawn = update(&nlri("10.0.0.0/8"), &[], &[]);
    let gone_v6 = update(&[], &mp_unreach(IPV6, 1, &nlri("2001:db8:100::/40")), &[]);
    let end_of_rib = update(&[], &[], &[]);
    let statistics = {
        let values = [
            0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 5, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9,
        ];
        bmp(1, &[&east[..], &values].concat())
    };
    let down = |peer: &[u8]| bmp(2, &[peer, &[1]].concat());
    let goodbye = bmp(5, &[0, 1, 0, 2, 0, 0]);

    let streams = [
        vec![initiation.clone(), up(&east, false), routes(&east, &to_v4)],
        vec![
            routes(&east, &to_v4),
            routes(&west, &to_v6),
            routes(&east, &withdrawn),
            routes(&west, &gone_v6),
            down(&east),
        ],
        vec![
            up(&east, true),
            routes(&east, &update(&[], &usual(&[64_999]), &several)),
        ],
        vec![
            routes(&own, &to_v4),
            routes(&east, &to_v4),
            routes(&own, &labelled),
        ],
        vec![routes(&old, &aggregated), routes(&vrf, &to_v4), statistics],
        vec![
            routes(&east, &to_v4),
            routes(&east, &end_of_rib),
            routes(&east, &to_v4),
            routes(&east, &end_of_rib),
        ],
        vec![initiation, bmp(6, &east), goodbye],
    ];
    let real = recorded::bmp();
    let streams = streams.iter().map(|stream| stream.concat()).chain(real);
    streams
        .zip(0u8..)
        .map(|(stream, number)| {
            // In pieces, and every third one in two sessions.
            let how = number.wrapping_mul(11) & 0x7f | u8::from(number % 3 == 2) << 7;
            [&[how][..], &stream].concat()
        })
        .collect()
}
