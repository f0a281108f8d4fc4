//! Host and path of an HTTP/1 request in clear text (RFC 9112).

use super::{Outcome, host_name};

/// The longest request head that is waited for, bytes: nginx and Apache refuse more than 8 KiB
/// a line.
const HEAD_MAX: usize = 8_192;
/// Header fields in one request: Apache's `LimitRequestFields`.
const FIELDS_MAX: usize = 100;

/// What HTTP/1 methods begin with (RFC 9110, 9; WebDAV is no video).
const METHODS: [&[u8]; 8] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"OPTIONS ",
    b"DELETE ",
    b"CONNECT ",
    b"PATCH ",
];

/// What a path ends with where the answer is a manifest or a piece of a video: HLS (RFC 8216),
/// DASH (ISO/IEC 23009-1) and plain files.
const MEDIA: [&str; 12] = [
    "m3u8", "mpd", "m4s", "m4v", "cmfv", "cmfa", "mp4", "ts", "webm", "flv", "ismv", "mkv",
];

/// A request's head, as far as it says whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// From the `Host` field or an absolute target, without the port.
    pub host: Option<String>,
    /// The path names a manifest or a piece of a video.
    pub is_media: bool,
}

/// The request at the beginning of a TCP connection.
pub fn request(stream: &[u8]) -> Outcome<Request> {
    if stream.is_empty() {
        return Outcome::NeedMore;
    }
    let begins = |method: &&[u8]| {
        let len = method.len().min(stream.len());
        method[..len] == stream[..len]
    };
    if !METHODS.iter().any(begins) {
        return Outcome::NotThis;
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let complete = match request.parse(stream) {
        Ok(status) => status.is_complete(),
        Err(_) => return Outcome::NotThis,
    };
    let target = request.path.unwrap_or("");
    let field = request
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("host"))
        .map(|field| field.value);
    // What is looked for may be there before the end is.
    if !complete && field.is_none() {
        return if stream.len() >= HEAD_MAX {
            Outcome::TooLong
        } else {
            Outcome::NeedMore
        };
    }
    let authority = absolute_authority(target);
    let host = authority
        .map(str::as_bytes)
        .or(field)
        .and_then(|host| host_name(without_port(host)));
    let found = Request {
        host,
        is_media: is_media(target),
    };
    if found.host.is_none() && !found.is_media {
        return Outcome::Absent;
    }
    Outcome::Found(found)
}

/// The authority of an absolute target, as sent to a proxy (RFC 9112, 3.2.2).
fn absolute_authority(target: &str) -> Option<&str> {
    let rest = target.strip_prefix("http://")?;
    rest.split(['/', '?', '#']).next()
}

fn without_port(host: &[u8]) -> &[u8] {
    let host = host.trim_ascii();
    match host.iter().rposition(|&byte| byte == b':') {
        Some(at) if host[at + 1..].iter().all(u8::is_ascii_digit) => &host[..at],
        _ => host,
    }
}

fn is_media(target: &str) -> bool {
    let path = target.split(['?', '#']).next().unwrap_or("");
    let Some((_, extension)) = path.rsplit_once('.') else {
        return false;
    };
    MEDIA
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(host: Option<&str>, is_media: bool) -> Outcome<Request> {
        Outcome::Found(Request {
            host: host.map(str::to_owned),
            is_media,
        })
    }

    #[test]
    fn host_and_path_are_found() {
        let head =
            b"GET /a/seg-1.m4s?x=.html HTTP/1.1\r\nAccept: */*\r\nHOST: Cdn.Example:8080 \r\n\r\n";
        assert_eq!(request(head), found(Some("cdn.example"), true));
        let page = b"GET / HTTP/1.1\r\nHost: www.example\r\n\r\n";
        assert_eq!(request(page), found(Some("www.example"), false));
        let proxied = b"GET http://a.example:80/v.ts HTTP/1.1\r\nHost: b.example\r\n\r\n";
        assert_eq!(request(proxied), found(Some("a.example"), true));
    }

    #[test]
    fn the_rest_of_the_head_is_not_waited_for() {
        let cut = b"GET /index.html HTTP/1.1\r\nHost: www.example\r\nCookie: a";
        assert_eq!(request(cut), found(Some("www.example"), false));
    }

    #[test]
    fn every_beginning_asks_for_more() {
        let head = b"GET /v.mpd HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let host_at = 35;
        for len in 0..host_at {
            assert_eq!(request(&head[..len]), Outcome::NeedMore, "{len}");
        }
    }

    #[test]
    fn without_host_a_path_may_say_it_and_else_nothing_does() {
        assert_eq!(request(b"GET /v.mpd HTTP/1.0\r\n\r\n"), found(None, true));
        assert_eq!(request(b"GET / HTTP/1.0\r\n\r\n"), Outcome::Absent);
    }

    #[test]
    fn what_is_no_request_is_not_waited_for() {
        for other in [
            &b"\x16\x03"[..],
            b"SSH-2.0",
            b"get /",
            b"GET /\x00 HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(request(other), Outcome::NotThis, "{other:02x?}");
        }
        let endless = [b"GET /".to_vec(), vec![b'a'; HEAD_MAX]].concat();
        assert_eq!(request(&endless), Outcome::TooLong);
    }
}
