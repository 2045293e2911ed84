//! What a client proves itself with: files of the pod, else what the code says. Never part of a configuration, a message or a log.

use std::fmt;
use std::path::{Path, PathBuf};

use mq_protocol::body::SecurityProtocol;
use mq_protocol::limits::MAX_BODY_BYTES;
use serde::Deserialize;

use crate::config::Config;

const USERNAME: &str = "username";
const PASSWORD: &str = "password";
/// The names of a Kubernetes Secret of type `kubernetes.io/tls`.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const CA: &str = "ca.crt";
/// How often reading begins anew because the files were replaced meanwhile.
const ATTEMPTS: usize = 3;

/// A secret text. `Debug` does not show it, and it cannot be serialized.
///
/// ```
/// let password = mq_agent::Password::from("secret");
/// assert_eq!(format!("{password:?}"), "Password(***)");
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(***)")
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// User name and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: Password,
}

/// A certificate with those that lead to its authority, and its key, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    pub(crate) chain: String,
    pub(crate) key: Password,
}

/// Where credentials are looked for.
#[derive(Debug, Clone)]
pub(crate) struct CredentialFiles {
    folder: PathBuf,
    username: Option<String>,
    password: Option<Password>,
}

/// What was found there at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    folder: PathBuf,
    username: Option<String>,
    password: Option<Password>,
    files: Files,
}

/// The files; the error of one that is there and cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Files {
    username: Option<String>,
    password: Option<Password>,
    certificate: Option<String>,
    key: Option<Password>,
    ca: Option<String>,
    problem: Option<String>,
}

impl CredentialFiles {
    pub(crate) fn new(folder: &Path, config: &Config) -> Self {
        let (username, password) = (config.sasl_username.clone(), config.sasl_password.clone());
        Self { folder: folder.to_owned(), username, password }
    }

    /// What has to be watched: the folder, and the one that it lies in. In a projected volume the folder itself is a link that is
    /// replaced.
    pub(crate) fn watched(&self) -> Vec<PathBuf> {
        let parent = self.folder.parent().map(Path::to_owned);
        std::iter::once(self.folder.clone()).chain(parent).collect()
    }

    pub(crate) fn read(&self) -> Credentials {
        let (folder, username, password) = (self.folder.clone(), self.username.clone(), self.password.clone());
        Credentials { files: self.files(), folder, username, password }
    }

    /// All files from one state of the volume: it is replaced as a whole, by swapping a link.
    fn files(&self) -> Files {
        let mut files = Files::default();
        for _ in 0..ATTEMPTS {
            let Some(state) = self.state() else { return Files::default() };
            files = Files::read(&state);
            if self.state().as_ref() == Some(&state) {
                break;
            }
        }
        files
    }

    fn state(&self) -> Option<PathBuf> {
        let data = self.folder.join("..data");
        data.canonicalize().or_else(|_| self.folder.canonicalize()).ok()
    }
}

impl Files {
    fn read(folder: &Path) -> Self {
        let mut problem = None;
        let mut text = |name: &str| {
            read(&folder.join(name)).unwrap_or_else(|found| {
                problem.get_or_insert(found);
                None
            })
        };
        // Editors and `echo` end a file with a line break that belongs to nobody's password.
        let line = |text: String| {
            text.strip_suffix('\n').map_or_else(|| text.clone(), |line| line.trim_end_matches('\r').to_owned())
        };
        let username = text(USERNAME).map(line);
        let password = text(PASSWORD).map(line).map(Password);
        let (certificate, key, ca) = (text(CERTIFICATE), text(KEY).map(Password), text(CA));
        Self { username, password, certificate, key, ca, problem }
    }
}

impl Credentials {
    /// The login of a protocol that has SASL: the pair of files, or without both of them the pair in code.
    pub(crate) fn login(&self, protocol: SecurityProtocol) -> Result<Login, String> {
        self.readable()?;
        let files = &self.files;
        let in_files = files.username.is_some() || files.password.is_some();
        let (username, password) =
            if in_files { (&files.username, &files.password) } else { (&self.username, &self.password) };
        let missing = |field: &str, name: &str, other: &str| {
            let path = self.folder.join(name);
            if in_files {
                format!(
                    "{} is there and {} is not; a Secret with both is needed",
                    self.folder.join(other).display(),
                    path.display()
                )
            } else {
                format!(
                    "securityProtocol is {protocol} and there is neither {field} nor {}; mount a Secret with username and password there",
                    path.display()
                )
            }
        };
        let username = username.clone().ok_or_else(|| missing("saslUsername", USERNAME, PASSWORD))?;
        let password = password.clone().ok_or_else(|| missing("saslPassword", PASSWORD, USERNAME))?;
        for (what, text) in [("user name", username.as_str()), ("password", password.reveal())] {
            if text.is_empty() || text.contains('\0') {
                let origin = if in_files { self.folder.display().to_string() } else { "the code".to_owned() };
                return Err(format!("the SASL {what} in {origin} is empty or contains a zero byte"));
            }
        }
        Ok(Login { username, password })
    }

    /// What the client shows to a broker that asks for a certificate, if it has one.
    pub(crate) fn certificate(&self) -> Result<Option<ClientCertificate>, String> {
        self.readable()?;
        match (&self.files.certificate, &self.files.key) {
            (None, None) => Ok(None),
            (Some(chain), Some(key)) => Ok(Some(ClientCertificate { chain: chain.clone(), key: key.clone() })),
            (found, _) => {
                let (is, is_not) = if found.is_some() { (CERTIFICATE, KEY) } else { (KEY, CERTIFICATE) };
                let (is, is_not) = (self.folder.join(is), self.folder.join(is_not));
                Err(format!("{} is there and {} is not; a Secret with both is needed", is.display(), is_not.display()))
            }
        }
    }

    /// The authorities of the pod's own choice.
    pub(crate) fn ca(&self) -> Result<Option<&str>, String> {
        self.readable()?;
        Ok(self.files.ca.as_deref())
    }

    fn readable(&self) -> Result<(), String> {
        self.files.problem.clone().map_or(Ok(()), Err)
    }
}

fn read(path: &Path) -> Result<Option<String>, String> {
    let unreadable = |why: String| format!("{} cannot be read: {why}", path.display());
    match std::fs::metadata(path) {
        Ok(found) if found.len() > MAX_BODY_BYTES as u64 => {
            return Err(unreadable(format!("it has {} bytes, more than {MAX_BODY_BYTES}", found.len())));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(unreadable(error.to_string())),
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    String::from_utf8(bytes).map(Some).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SASL: SecurityProtocol = SecurityProtocol::SaslSsl;

    fn in_code() -> Config {
        serde_json::from_str(r#"{"saslUsername": "code", "saslPassword": "code-secret"}"#).unwrap()
    }

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn files_are_taken_before_code_and_only_as_a_pair() {
        let folder = tempfile::tempdir().unwrap();
        let files = CredentialFiles::new(folder.path(), &in_code());
        assert_eq!(files.read().login(SASL).unwrap().username, "code");
        write(folder.path(), &[(USERNAME, "file\n")]);
        let error = files.read().login(SASL).unwrap_err();
        assert!(error.contains("username is there") && error.contains("password is not"), "{error}");
        write(folder.path(), &[(PASSWORD, "file-secret\r\n")]);
        let login = files.read().login(SASL).unwrap();
        assert_eq!((login.username.as_str(), login.password.reveal()), ("file", "file-secret"));
    }

    #[test]
    fn what_is_missing_is_named_with_both_places() {
        let nowhere = CredentialFiles::new(Path::new("/nonexistent/credentials"), &Config::default());
        let error = nowhere.read().login(SASL).unwrap_err();
        let words =
            "securityProtocol is SASL_SSL and there is neither saslUsername nor /nonexistent/credentials/username";
        assert!(error.starts_with(words), "{error}");
        assert_eq!(nowhere.read().certificate(), Ok(None));
    }

    #[test]
    fn half_a_certificate_and_an_unreadable_file_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let files = CredentialFiles::new(folder.path(), &Config::default());
        write(folder.path(), &[(KEY, "PEM")]);
        let error = files.read().certificate().unwrap_err();
        assert!(error.contains("tls.key is there") && error.contains("tls.crt is not"), "{error}");
        std::fs::write(folder.path().join(CA), [0xff]).unwrap();
        let error = files.read().ca().unwrap_err();
        assert!(error.contains("ca.crt cannot be read: it is not UTF-8"), "{error}");
    }

    #[test]
    fn a_mounted_volume_is_read_in_one_state() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("credentials");
        for state in ["one", "two"] {
            std::fs::create_dir_all(volume.join(state)).unwrap();
            write(&volume.join(state), &[(USERNAME, state), (PASSWORD, state)]);
        }
        let files = CredentialFiles::new(&volume, &Config::default());
        for state in ["one", "two"] {
            std::os::unix::fs::symlink(state, volume.join("..data_tmp")).unwrap();
            std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
            let login = files.read().login(SASL).unwrap();
            assert_eq!((login.username.as_str(), login.password.reveal()), (state, state));
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[(USERNAME, "u"), (PASSWORD, "hidden"), (KEY, "hidden"), (CERTIFICATE, "c")]);
        let config: Config = serde_json::from_str(r#"{"saslPassword": "hidden"}"#).unwrap();
        let files = CredentialFiles::new(folder.path(), &config);
        let shown = format!("{config:?} {files:?} {:?} {:?}", files.read(), files.read().login(SASL));
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
