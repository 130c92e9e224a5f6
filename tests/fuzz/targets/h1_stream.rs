//! A stream of bytes is read as the same requests however it arrives, and every head that is let
//! through is plainly one request to a second, plainer reader: lines end in CR LF, one framing, a
//! path for a target.

#![no_main]

use foretoken::server::head::{
    Framing, MAX_FORM_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, read, read_chunks,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    // Whatever follows a request that is not answered is another matter; a loop has 16 at a time.
    for _ in 0..16 {
        let Some(taken) = one(rest) else { return };
        assert!(taken > 0 && taken <= rest.len());
        rest = &rest[taken..];
    }
});

/// Reads one request; how many bytes it takes, or `None` where the connection waits or ends.
fn one(bytes: &[u8]) -> Option<usize> {
    let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
    let verdict = read(bytes, &mut headers);
    match &verdict {
        // Waiting must come to an end, and for ever is no verdict.
        Ok(None) => assert!(bytes.len() < MAX_HEAD_BYTES && !ends_a_head(bytes)),
        // More bytes never make a refused head a good one.
        Err(_) => {
            let mut more = bytes.to_vec();
            more.extend_from_slice(b"\r\n\r\n");
            let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
            assert!(
                read(&more, &mut headers).is_err(),
                "{}",
                bytes.escape_ascii()
            );
        }
        Ok(Some(_)) => {}
    }
    let (head, count) = verdict.ok()??;
    let (text, body) = bytes.split_at(head.len);
    plain(text, head.method, head.target, &headers[..count], head.body);
    // Bytes behind a head are none of its business, and fewer bytes never make it another one.
    let mut again = [(&b""[..], &b""[..]); MAX_HEADERS];
    let alone = read(text, &mut again).expect("a good head is good alone");
    let (alone, alone_count) = alone.expect("and whole");
    assert_eq!(
        (alone.len, alone.body, alone_count),
        (head.len, head.body, count)
    );
    for cut in [text.len() / 2, text.len() - 1] {
        let mut again = [(&b""[..], &b""[..]); MAX_HEADERS];
        let part = read(&text[..cut], &mut again).expect("a good head is good so far");
        assert!(part.is_none());
    }
    let taken = match head.body {
        Framing::None => 0,
        Framing::Length(length) => {
            assert!(length <= MAX_FORM_BYTES);
            length
        }
        Framing::Chunked => chunked(body)?,
    };
    (taken <= body.len()).then_some(head.len + taken)
}

fn ends_a_head(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|w| w == b"\r\n\r\n")
}

/// One letter for each byte, so that values which are no UTF-8 can be looked at, too.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

fn plain(text: &[u8], method: &[u8], target: &[u8], headers: &[(&[u8], &[u8])], framing: Framing) {
    let shown = text.escape_ascii();
    assert!(
        text.len() <= MAX_HEAD_BYTES && text.ends_with(b"\r\n\r\n"),
        "{shown}"
    );
    let text = latin(text);
    let body = text.strip_suffix("\r\n\r\n").unwrap_or_default();
    assert!(!body.contains("\r\n\r\n"), "{shown}");
    let mut lines = body.split("\r\n");
    let (method, target) = (str::from_utf8(method), str::from_utf8(target));
    let (method, target) = (method.expect("a method"), target.expect("a target"));
    let first = lines.next().unwrap_or_default();
    let versions = ["HTTP/1.0", "HTTP/1.1"].map(|v| format!("{method} {target} {v}"));
    assert!(versions.iter().any(|line| line == first), "{shown}");
    assert!(
        !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase()),
        "{shown}"
    );
    let visible = |b: u8| (0x21..0x7f).contains(&b) && b != b'#';
    assert!(
        target.starts_with('/') && target.bytes().all(visible),
        "{shown}"
    );
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    let mut count = 0;
    for line in lines {
        assert!(!line.contains(['\r', '\n', '\0']), "{shown}");
        let (name, value) = line.split_once(':').expect("a colon");
        let (given, given_value) = headers[count];
        assert_eq!(name, latin(given), "{shown}");
        assert_eq!(
            value.trim_matches([' ', '\t']),
            latin(given_value),
            "{shown}"
        );
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        assert!(!name.is_empty() && name.bytes().all(token), "{shown}");
        if name.eq_ignore_ascii_case("content-length") {
            lengths.push(value.trim_matches([' ', '\t']).to_owned());
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            codings.push(value.trim_matches([' ', '\t']).to_ascii_lowercase());
        }
        count += 1;
    }
    assert_eq!(count, headers.len(), "{shown}");
    match framing {
        Framing::None => assert!(lengths.is_empty() && codings.is_empty(), "{shown}"),
        Framing::Length(length) => {
            assert!(
                lengths == [length.to_string()] && codings.is_empty(),
                "{shown}"
            );
        }
        Framing::Chunked => {
            assert!(lengths.is_empty() && codings == ["chunked"], "{shown}");
            assert!(first.ends_with("1.1"), "{shown}");
        }
    }
}

/// Reads chunks, and reads what came out of them again.
fn chunked(body: &[u8]) -> Option<usize> {
    let mut form = Vec::new();
    let taken = read_chunks(body, &mut form).ok()??;
    assert!(form.len() <= MAX_FORM_BYTES);
    assert!(
        body[..taken].ends_with(b"0\r\n\r\n"),
        "{}",
        body.escape_ascii()
    );
    // The last byte decides: without it nothing is over.
    let mut less = Vec::new();
    assert_eq!(read_chunks(&body[..taken - 1], &mut less), Ok(None));
    let mut plainly = Vec::new();
    let mut rest = &body[..taken];
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = str::from_utf8(&rest[..end]).expect("digits");
        let size = usize::from_str_radix(size, 16).expect("a size");
        plainly.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
    assert_eq!(plainly, form);
    Some(taken)
}
