//! The user and password of a management controller: from the environment or
//! from a file that only its owner may read, never from a configuration file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Environment variable with the user's name.
pub const USER_VARIABLE: &str = "HELIOSTAT_BMC_USER";
/// Environment variable with the password.
pub const PASSWORD_VARIABLE: &str = "HELIOSTAT_BMC_PASSWORD";
/// Longest file of credentials, in bytes.
const LONGEST: u64 = 4096;

/// How long a login that was refused is not tried again: controllers lock an
/// account after a few wrong ones, and with it out whoever would mend it.
const REFUSED: Duration = Duration::from_secs(300);

/// Whether the last login was refused a short while ago.
#[derive(Debug, Default)]
pub(super) struct Refused(Option<Instant>);

impl Refused {
    /// A login was refused.
    pub(super) fn now(&mut self) {
        self.0 = Some(Instant::now());
    }

    /// Whether to leave the controller alone.
    pub(super) fn is_recent(&self) -> bool {
        self.is_recent_at(Instant::now())
    }

    fn is_recent_at(&self, now: Instant) -> bool {
        (self.0).is_some_and(|at| now.saturating_duration_since(at) < REFUSED)
    }
}

/// A user and a password. Their `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct BmcCredentials {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for BmcCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BmcCredentials")
    }
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("the file of credentials {path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Others than the owner may read the file.
    #[error("the file of credentials {path} can be read by others; run `chmod 600 {path}`")]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// The file is not two lines.
    #[error("the file of credentials {path} must have two lines, the user and the password")]
    Shape {
        /// The file.
        path: PathBuf,
    },
    /// One of the two variables is set without the other.
    #[error("set both {USER_VARIABLE} and {PASSWORD_VARIABLE}, or neither")]
    Half,
}

impl BmcCredentials {
    /// From a file of two lines, user and password.
    pub fn from_file(path: &Path) -> Result<Self, CredentialsError> {
        let unreadable = |e: std::io::Error| CredentialsError::Unreadable {
            path: path.to_owned(),
            reason: e.to_string(),
        };
        let path_of = || path.to_owned();
        let meta = std::fs::metadata(path).map_err(unreadable)?;
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(CredentialsError::Open { path: path_of() });
        }
        if meta.len() > LONGEST {
            return Err(CredentialsError::Shape { path: path_of() });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let lines: Vec<&str> = text.lines().collect();
        match lines[..] {
            [user, password] if !user.is_empty() => Ok(Self {
                user: user.to_owned(),
                password: password.to_owned(),
            }),
            _ => Err(CredentialsError::Shape { path: path_of() }),
        }
    }

    /// From what the two environment variables hold; `None` where neither is set.
    pub fn from_variables(
        user: Option<String>,
        password: Option<String>,
    ) -> Result<Option<Self>, CredentialsError> {
        match (user, password) {
            (Some(user), Some(password)) => Ok(Some(Self { user, password })),
            (None, None) => Ok(None),
            _ => Err(CredentialsError::Half),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_for_its_owner_alone_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bmc");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            BmcCredentials::from_file(&path)
        };
        let read = write("root\nhunter 2\n", 0o600).unwrap();
        assert_eq!(
            (read.user.as_str(), read.password.as_str()),
            ("root", "hunter 2")
        );
        assert!(!format!("{read:?}").contains("hunter"));
        let open = write("root\nhunter2\n", 0o640).unwrap_err();
        assert!(open.to_string().contains("chmod 600"), "{open}");
        for bad in ["", "root\n", "\nhunter2\n", "a\nb\nc\n"] {
            assert!(matches!(
                write(bad, 0o600),
                Err(CredentialsError::Shape { .. })
            ));
        }
    }

    #[test]
    fn a_refused_login_rests_for_five_minutes() {
        let mut refused = Refused::default();
        assert!(!refused.is_recent());
        let before = Instant::now();
        refused.now();
        assert!(refused.is_recent() && refused.is_recent_at(before + Duration::from_secs(299)));
        assert!(!refused.is_recent_at(Instant::now() + Duration::from_secs(301)));
    }

    #[test]
    fn variables_come_in_pairs() {
        let text = |t: &str| Some(t.to_owned());
        let both = BmcCredentials::from_variables(text("u"), text("p")).unwrap();
        assert_eq!(both.map(|c| c.password), text("p"));
        assert_eq!(BmcCredentials::from_variables(None, None).unwrap(), None);
        assert!(BmcCredentials::from_variables(text("u"), None).is_err());
        assert!(BmcCredentials::from_variables(None, text("p")).is_err());
    }
}
