//! Messages that move power are signed, where the site has a key for it.
//!
//! ```text
//! message = "HS1." 64 hexadecimal digits "." content        digits = HMAC-SHA-256(key, topic 0x00 content)
//! ```
//!
//! The topic is signed with the content, so that what was meant for one agent
//! cannot be given to another. What is old is told by sequence, end and fence
//! in the content. Without a key messages go unsigned and are taken as they are.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt::{self, Write as _};
use std::sync::Arc;

const MARK: &[u8] = b"HS1.";
const DIGITS: usize = 64;
/// Fewer bytes are no key.
pub const LEAST_KEY: usize = 16;

/// The key that a site's controllers and agents share; never printed.
#[derive(Clone)]
pub struct SigningKey(Arc<Keyed>);

struct Keyed {
    secret: Vec<u8>,
    begun: Hmac<Sha256>,
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.secret == other.0.secret
    }
}

impl Eq for SigningKey {}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The key is too short.
    #[error("a signing key has at least {LEAST_KEY} bytes")]
    ShortKey,
    /// No signature, and there is a key.
    #[error("it is not signed, though this site signs; give its sender the key")]
    Missing,
    /// Another key, another topic or another content.
    #[error("its signature does not fit; its sender has another key, or it was changed on the way")]
    Wrong,
}

impl SigningKey {
    /// From a shared secret.
    ///
    /// # Errors
    /// When it is too short.
    pub fn new(secret: impl Into<Vec<u8>>) -> Result<Self, SignatureError> {
        let secret = secret.into();
        if secret.len() < LEAST_KEY {
            return Err(SignatureError::ShortKey);
        }
        let begun = Hmac::new_from_slice(&secret).map_err(|_| SignatureError::ShortKey)?;
        Ok(Self(Arc::new(Keyed { secret, begun })))
    }

    fn mac(&self, topic: &str, content: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.begun.clone();
        mac.update(topic.as_bytes());
        mac.update(&[0]);
        mac.update(content);
        mac
    }
}

/// A message with its signature, where there is a key.
pub fn seal(key: Option<&SigningKey>, topic: &str, content: Vec<u8>) -> Vec<u8> {
    let Some(key) = key else { return content };
    let mut head = String::from_utf8_lossy(MARK).into_owned();
    for byte in key.mac(topic, &content).finalize().into_bytes() {
        // Writing to a String cannot fail.
        let _ = write!(head, "{byte:02x}");
    }
    head.push('.');
    [head.as_bytes(), &content].concat()
}

/// The content of a message. With a key it must be signed with that.
///
/// # Errors
/// When there is a key and the signature is missing or wrong.
pub fn open<'a>(
    key: Option<&SigningKey>,
    topic: &str,
    message: &'a [u8],
) -> Result<&'a [u8], SignatureError> {
    let signed = message.strip_prefix(MARK).and_then(|rest| {
        let (digits, rest) = rest.split_at_checked(DIGITS)?;
        Some((digits, rest.strip_prefix(b".")?))
    });
    match (key, signed) {
        (None, None) => Ok(message),
        (None, Some((_, content))) => Ok(content),
        (Some(_), None) => Err(SignatureError::Missing),
        (Some(key), Some((digits, content))) => {
            let tag = bytes_of(digits).ok_or(SignatureError::Wrong)?;
            let mac = key.mac(topic, content);
            mac.verify_slice(&tag).map_err(|_| SignatureError::Wrong)?;
            Ok(content)
        }
    }
}

fn bytes_of(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    (digits.chunks(2))
        .map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: &str) -> SigningKey {
        SigningKey::new(text).unwrap()
    }

    #[test]
    fn a_known_answer() {
        // HMAC-SHA-256 of RFC 4231, test case 1, whose key is 20 bytes of 0x0b.
        let key = SigningKey::new([0x0b; 20]).unwrap();
        let mut mac = key.0.begun.clone();
        mac.update(b"Hi There");
        let tag = mac.finalize().into_bytes();
        assert_eq!(tag[..6], [0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb]);
        // What is signed is topic, a zero byte and content.
        let sealed = seal(Some(&key), "what", b"for".to_vec());
        let mut mac = key.0.begun.clone();
        mac.update(b"what\0for");
        let tag = bytes_of(&sealed[4..68]).unwrap();
        assert!(mac.verify_slice(&tag).is_ok());
    }

    #[test]
    fn without_a_key_everything_is_taken_with_one_only_what_is_signed() {
        let key = key("0123456789abcdef");
        let plain = b"{}".to_vec();
        assert_eq!(
            open(None, "t", &seal(None, "t", plain.clone())),
            Ok(&b"{}"[..])
        );
        let signed = seal(Some(&key), "t", plain.clone());
        assert_eq!(open(None, "t", &signed), Ok(&b"{}"[..]));
        assert_eq!(open(Some(&key), "t", &plain), Err(SignatureError::Missing));
        assert_eq!(SigningKey::new("short"), Err(SignatureError::ShortKey));
        assert!(!format!("{key:?}").contains("0123"));
    }

    proptest! {
        #[test]
        fn a_changed_byte_topic_or_key_is_noticed(
            content in prop::collection::vec(any::<u8>(), 1..80), place: prop::sample::Index, mask in 1u8..,
        ) {
            let key = key("0123456789abcdef");
            let signed = seal(Some(&key), "caps/n1", content.clone());
            prop_assert_eq!(open(Some(&key), "caps/n1", &signed), Ok(&content[..]));
            prop_assert!(open(Some(&key), "caps/n2", &signed).is_err());
            let other = SigningKey::new("0123456789abcdeF").unwrap();
            prop_assert!(open(Some(&other), "caps/n1", &signed).is_err());
            let mut changed = signed.clone();
            let place = place.index(changed.len());
            changed[place] ^= mask;
            prop_assert!(open(Some(&key), "caps/n1", &changed).is_err());
        }
    }
}
