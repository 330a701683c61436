//! Who may write samples. With a token configured, whoever bears it, in any of
//! the ways that Prometheus' and InfluxDB's clients know. Without one, only
//! programs on this machine, when the server listens on loopback alone; pages
//! in a browser on this machine are told from programs by what browsers add.

use crate::guard::equal_in_constant_time;
use axum::http::{HeaderMap, StatusCode, header};

/// Why a write is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "writing samples is off: no token is configured, and the server listens beyond loopback; \
         start heliostat with an API token, then send it as bearer token, InfluxDB token or basic password"
    )]
    Off,
    #[error(
        "writing samples needs the API token, and the request bears none or a wrong one; send it as \
         `Authorization: Bearer TOKEN`, `Token TOKEN`, or as the password of basic authentication"
    )]
    Token,
    #[error("pages in a browser may not write samples without the API token")]
    Browser,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Off | Self::Browser => StatusCode::FORBIDDEN,
        }
    }
}

pub(super) fn may_write(
    token: Option<&str>,
    is_loopback: bool,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    match token {
        Some(token) => {
            let given = given_token(headers).ok_or(Refusal::Token)?;
            if equal_in_constant_time(&given, token.as_bytes()) {
                Ok(())
            } else {
                Err(Refusal::Token)
            }
        }
        None if !is_loopback => Err(Refusal::Off),
        // A page elsewhere can make a browser here post text to loopback; it
        // cannot keep the browser from saying so.
        None if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") => {
            Err(Refusal::Browser)
        }
        None => Ok(()),
    }
}

fn given_token(headers: &HeaderMap) -> Option<Vec<u8>> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" | "token" => Some(rest.as_bytes().to_vec()),
        "basic" => {
            let pair = base64(rest)?;
            let colon = pair.iter().position(|b| *b == b':')?;
            Some(pair[colon + 1..].to_vec())
        }
        _ => None,
    }
}

/// Reads base64 of the standard alphabet (RFC 4648, section 4), padded or not.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (count < 6).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn base64_of_the_rfc() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(base64(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(base64("Zm9v!"), None);
        assert_eq!(base64("Z"), None);
    }

    #[test]
    fn the_token_is_taken_in_every_form_that_clients_know() {
        for good in ["Bearer s3", "bearer s3", "Token s3", "Basic dTpzMw=="] {
            let headers = with("authorization", good);
            assert_eq!(may_write(Some("s3"), false, &headers), Ok(()), "{good}");
        }
        for bad in ["Bearer s4", "s3", "Basic czM=", "Digest s3", "Bearer "] {
            let headers = with("authorization", bad);
            // On loopback as well: a token that is configured is needed.
            assert_eq!(
                may_write(Some("s3"), true, &headers),
                Err(Refusal::Token),
                "{bad}"
            );
        }
    }

    #[test]
    fn without_a_token_only_programs_on_this_machine() {
        assert_eq!(may_write(None, true, &HeaderMap::new()), Ok(()));
        assert_eq!(may_write(None, false, &HeaderMap::new()), Err(Refusal::Off));
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
        ] {
            assert_eq!(
                may_write(None, true, &with(name, value)),
                Err(Refusal::Browser)
            );
        }
    }
}
