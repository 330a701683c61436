//! One HTTP GET to a running heliostat, over a plain TCP connection. The
//! commands that ask a server need nothing more, so no HTTP client is linked
//! into the binary for them.

use anyhow::{Context, bail};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long to wait for the connection, and for each read.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 256 << 20;

/// Asks `base` (`http://HOST:PORT`) for `path_and_query` (`/api/v1/plan`).
/// Returns the status and the body.
///
/// Fails when nobody listens there, when the answer breaks off, or when it is
/// not HTTP. A status other than 200 is an answer, not a failure.
pub fn get(base: &str, path_and_query: &str) -> anyhow::Result<(u16, String)> {
    let authority = authority(base)?;
    let nobody = || {
        format!(
            "no heliostat answers at {base}; start one with `heliostat run` or `heliostat demo`, or name another with --server"
        )
    };
    let address = authority
        .to_socket_addrs()
        .with_context(|| format!("the address {authority} cannot be resolved"))?
        .next()
        .with_context(nobody)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(nobody)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!(
        "GET {path_and_query} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).with_context(nobody)?;
    let mut answer = Vec::new();
    match stream.take(MAX_ANSWER).read_to_end(&mut answer) {
        Ok(_) => {}
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            bail!(
                "{base} took the question but gave no whole answer within {} s",
                PATIENCE.as_secs()
            )
        }
        Err(e) => return Err(e).with_context(|| format!("the answer of {base} broke off")),
    }
    parse(&answer).with_context(|| format!("the answer of {base} is not understood"))
}

/// Writes `text` so that it can stand as a value in a query.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `HOST:PORT` of a base address; port 80 where none is given.
fn authority(base: &str) -> anyhow::Result<String> {
    if base.starts_with("https://") {
        bail!(
            "`{base}`: https is not spoken here; use http:// (heliostat listens on the loopback)"
        );
    }
    let rest = base.strip_prefix("http://").unwrap_or(base);
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.is_empty() || authority.contains(char::is_whitespace) {
        bail!("`{base}` is no server's address; write it like http://127.0.0.1:8080");
    }
    // `[::1]` ends in a bracket: a colon inside the brackets is no port.
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if has_port && !authority.ends_with(']') {
        Ok(authority.to_owned())
    } else {
        Ok(format!("{authority}:80"))
    }
}

/// Status and body of a whole HTTP/1.1 answer.
fn parse(answer: &[u8]) -> anyhow::Result<(u16, String)> {
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("it has no end of headers")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .filter(|line| line.starts_with("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse::<u16>().ok())
        .context("its first line is not an HTTP status")?;
    let header = |name: &str| {
        head.split("\r\n").skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let raw = &answer[end + 4..];
    let body = if header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        dechunk(raw)?
    } else if let Some(length) = header("content-length") {
        let length: usize = length
            .parse()
            .with_context(|| format!("its Content-Length `{length}` is no number"))?;
        raw.get(..length)
            .with_context(|| format!("it broke off after {} of {length} bytes", raw.len()))?
            .to_vec()
    } else {
        raw.to_vec()
    };
    let body = String::from_utf8(body).context("its body is not UTF-8")?;
    Ok((status, body))
}

/// Joins the chunks of a chunked body.
fn dechunk(mut raw: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = raw
            .windows(2)
            .position(|w| w == b"\r\n")
            .context("a chunk has no size")?;
        let size = std::str::from_utf8(&raw[..line])
            .ok()
            .map(|text| text.split(';').next().unwrap_or_default().trim())
            .and_then(|text| usize::from_str_radix(text, 16).ok())
            .context("the size of a chunk is no hexadecimal number")?;
        raw = &raw[line + 2..];
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(raw.get(..size).context("it broke off within a chunk")?);
        raw = size
            .checked_add(2)
            .and_then(|next| raw.get(next..))
            .context("it broke off between chunks")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answer_once(answer: &'static [u8]) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                asked.push(byte[0]);
            }
            stream.write_all(answer).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (base, server)
    }

    #[test]
    fn reads_a_body_with_a_length() {
        let (base, server) =
            answer_once(b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello and more");
        let (status, body) = get(&base, "/api/v1/plan?x=1").unwrap();
        assert_eq!((status, body.as_str()), (404, "hello"));
        assert!(
            server
                .join()
                .unwrap()
                .starts_with("GET /api/v1/plan?x=1 HTTP/1.1\r\n")
        );
    }

    #[test]
    fn reads_chunks() {
        let (base, server) = answer_once(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nhel-\r\n2\r\nlo\r\n0\r\n\r\n",
        );
        assert_eq!(get(&base, "/").unwrap(), (200, "hel-lo".to_owned()));
        server.join().unwrap();
    }

    #[test]
    fn says_that_nobody_answers_and_what_to_do() {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let error = get(&format!("http://{free}"), "/").unwrap_err();
        assert!(error.to_string().contains("heliostat run"), "{error}");
    }

    #[test]
    fn refuses_what_breaks_off_or_is_no_http() {
        for bad in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
            b"HTTP/1.1 200 OK\r\n",
            b"SSH-2.0-x\r\n\r\n",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(get("https://127.0.0.1:1", "/").is_err());
        assert!(get("http://", "/").is_err());
    }

    #[test]
    fn escapes_what_a_query_cannot_hold() {
        assert_eq!(escape("job:a b&c"), "job:a%20b%26c");
    }
}
