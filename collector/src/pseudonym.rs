//! Who ran a job becomes a pseudonym before anything is stored: HMAC-SHA-256
//! (RFC 2104, FIPS 180-4) under a key that lies outside the store. Without the
//! key a list of account names cannot be tried against the pseudonyms; with
//! the key thrown away nothing leads back to a person.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Bytes of the digest that are kept: 128 bits, far beyond collision among accounts.
const KEPT_BYTES: usize = 16;

/// Turns names into pseudonyms.
#[derive(Clone)]
pub struct Pseudonymiser {
    key: [u8; KEY_BYTES],
}

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PseudonymError {
    /// Reading or creating failed.
    #[error("the pseudonym key {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Others could read it.
    #[error(
        "the pseudonym key {path} can be read by others (mode {mode:03o}); run `chmod 600 {path}`, and consider it known if others use this machine"
    )]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key.
    #[error(
        "the pseudonym key {path} must hold 64 hexadecimal digits; restore it from a backup, or delete it to start with new pseudonyms"
    )]
    Malformed {
        /// The file.
        path: String,
    },
    /// No randomness to be had.
    #[error("the system gives no random numbers for a new key: {0}")]
    Random(String),
}

impl Pseudonymiser {
    /// Reads the key file, or creates one with a random key and mode 0600.
    pub fn open(key_file: &Path) -> Result<Self, PseudonymError> {
        let io = |source| PseudonymError::Io {
            path: key_file.display().to_string(),
            source,
        };
        let mut key = [0; KEY_BYTES];
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(key_file);
        match created {
            Ok(mut file) => {
                getrandom::fill(&mut key).map_err(|e| PseudonymError::Random(e.to_string()))?;
                file.write_all(hex(&key).as_bytes()).map_err(io)?;
                file.sync_all().map_err(io)?;
                if let Some(parent) = key_file.parent() {
                    heliostat_store::framed_log::sync_directory(parent).map_err(io)?;
                }
                Ok(Self { key })
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let mut file = std::fs::File::open(key_file).map_err(io)?;
                let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(PseudonymError::Exposed {
                        path: key_file.display().to_string(),
                        mode,
                    });
                }
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(io)?;
                match unhex(text.trim()) {
                    Some(key) => Ok(Self { key }),
                    None => Err(PseudonymError::Malformed {
                        path: key_file.display().to_string(),
                    }),
                }
            }
            Err(error) => Err(io(error)),
        }
    }

    /// The pseudonym of a name: 32 hexadecimal digits, the same for the same
    /// name and key.
    pub fn pseudonym(&self, name: &str) -> String {
        // HMAC takes keys of any length, so this cannot fail; were it to, a
        // constant would still not give a name away.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            return "0".repeat(2 * KEPT_BYTES);
        };
        mac.update(name.as_bytes());
        hex(&mac.finalize().into_bytes()[..KEPT_BYTES])
    }
}

impl std::fmt::Debug for Pseudonymiser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must not reach a log.
        f.write_str("Pseudonymiser")
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; KEY_BYTES]> {
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        return None;
    }
    let mut key = [0; KEY_BYTES];
    for (place, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_published_vector() {
        // RFC 4231, test case 2, with the key padded by zeros: HMAC pads short
        // keys with zeros itself, so the result is the published one.
        let mut key = [0; KEY_BYTES];
        key[..4].copy_from_slice(b"Jefe");
        let pseudonymiser = Pseudonymiser { key };
        assert_eq!(
            pseudonymiser.pseudonym("what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c7"
        );
    }

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = Pseudonymiser::open(&path).unwrap().pseudonym("alice");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(
            Pseudonymiser::open(&path).unwrap().pseudonym("alice"),
            first
        );
        let other = Pseudonymiser::open(&dir.path().join("other")).unwrap();
        assert_ne!(other.pseudonym("alice"), first);
    }

    #[test]
    fn refuses_a_key_that_others_can_read_and_one_that_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        Pseudonymiser::open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Pseudonymiser::open(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "not hex").unwrap();
        assert!(matches!(
            Pseudonymiser::open(&path),
            Err(PseudonymError::Malformed { .. })
        ));
    }
}
