//! The known_hosts file of OpenSSH: whether the key that a host shows is the one that a person vouched for.
//!
//! Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT". Plain names, patterns, `[host]:port`, hashed names and `@revoked` are
//! understood; `@cert-authority` lines are passed over, for libssh2 knows no host certificates. Pure but for
//! [`KnownHosts::read`].

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// The largest file that is read.
const FILE_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// The lines of one or more known_hosts files.
#[derive(Debug, Clone)]
pub struct KnownHosts {
    /// The file that is named in messages.
    pub file: PathBuf,
    text: String,
}

/// What the files say of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the one that is listed.
    Known,
    /// No key of this type is listed for the host.
    Unknown,
    /// Another key of this type is listed, or this one is revoked.
    Changed,
}

/// The key that a host showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// The key as it goes over the wire (RFC 4253, section 6.6): it begins with the name of its type.
    pub bytes: Vec<u8>,
}

impl HostKey {
    /// The type, as known_hosts names it, such as `ssh-ed25519`.
    pub fn algorithm(&self) -> &str {
        let length = self.bytes.get(..4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(u32::from_be_bytes);
        length
            .and_then(|length| self.bytes.get(4..4 + usize::try_from(length.min(64)).ok()?))
            .and_then(|name| std::str::from_utf8(name).ok())
            .unwrap_or("unknown")
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.bytes)))
    }
}

/// A host and its port, as known_hosts writes them: `host`, or `[host]:port` where it is not 22.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name or address.
    pub name: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            22 => formatter.write_str(&self.name),
            port => write!(formatter, "[{}]:{port}", self.name),
        }
    }
}

impl KnownHosts {
    /// Reads the given file; without one, the user's and then the system's. A file that is not there knows nobody.
    pub fn read(given: Option<&Path>) -> Self {
        let files: Vec<PathBuf> = match given {
            Some(file) => vec![file.to_owned()],
            None => std::env::home_dir()
                .map(|home| home.join(".ssh/known_hosts"))
                .into_iter()
                .chain([PathBuf::from("/etc/ssh/ssh_known_hosts")])
                .collect(),
        };
        let mut text = String::new();
        for file in &files {
            let mut bytes = Vec::new();
            let read = std::fs::File::open(file).and_then(|file| file.take(FILE_LIMIT_BYTES).read_to_end(&mut bytes));
            if read.is_ok() {
                text.push_str(&String::from_utf8_lossy(&bytes));
                text.push('\n');
            }
        }
        Self { file: files.into_iter().next().unwrap_or_default(), text }
    }

    /// From a text.
    pub fn parse(file: PathBuf, text: &str) -> Self {
        Self { file, text: text.to_owned() }
    }

    /// What is known of this key of this host. A revocation anywhere wins; then any line that lists the key.
    pub fn verdict(&self, host: &Host, key: &HostKey) -> Verdict {
        let mut verdict = Verdict::Unknown;
        for line in self.text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut fields = line.split_ascii_whitespace().peekable();
            let marker = fields.next_if(|field| field.starts_with('@'));
            let (Some(patterns), Some(algorithm), Some(encoded)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if algorithm != key.algorithm() || !names(patterns, host) {
                continue;
            }
            let same = STANDARD.decode(encoded).is_ok_and(|bytes| bytes == key.bytes);
            match (marker, same) {
                (Some("@revoked"), true) => return Verdict::Changed,
                (Some(_), _) => {}
                (None, true) => verdict = Verdict::Known,
                (None, false) if verdict == Verdict::Unknown => verdict = Verdict::Changed,
                (None, false) => {}
            }
        }
        verdict
    }
}

/// Whether the first field of a line names the host. A negated pattern that matches wins over all others.
fn names(patterns: &str, host: &Host) -> bool {
    let name = host.to_string().to_ascii_lowercase();
    if let Some(hashed) = patterns.strip_prefix("|1|") {
        return is_hash_of(hashed, &name);
    }
    let mut found = false;
    for pattern in patterns.split(',') {
        match pattern.strip_prefix('!') {
            Some(negated) if matches(negated.to_ascii_lowercase().as_bytes(), name.as_bytes()) => return false,
            Some(_) => {}
            None => found |= matches(pattern.to_ascii_lowercase().as_bytes(), name.as_bytes()),
        }
    }
    found
}

/// `|1|SALT|HASH`: HMAC-SHA1 of the name, keyed with the salt.
fn is_hash_of(hashed: &str, name: &str) -> bool {
    let Some((salt, hash)) = hashed.split_once('|') else { return false };
    let (Ok(salt), Ok(hash)) = (STANDARD.decode(salt), STANDARD.decode(hash)) else { return false };
    let Ok(mut mac) = Hmac::<sha1::Sha1>::new_from_slice(&salt) else { return false };
    mac.update(name.as_bytes());
    mac.verify_slice(&hash).is_ok()
}

/// `*` and `?` patterns; linear, for it goes back to the last `*` only.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position, mut star) = (0, 0, None);
    while position < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, position));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[position] => {
                at += 1;
                position += 1;
            }
            _ => match star {
                Some((star_at, star_position)) => {
                    at = star_at + 1;
                    position = star_position + 1;
                    star = Some((star_at, position));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(algorithm: &str, body: &[u8]) -> HostKey {
        let mut bytes = u32::try_from(algorithm.len()).expect("short").to_be_bytes().to_vec();
        bytes.extend_from_slice(algorithm.as_bytes());
        bytes.extend_from_slice(body);
        HostKey { bytes }
    }

    fn hashed(name: &str) -> String {
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"salt").expect("any length will do");
        mac.update(name.as_bytes());
        format!("|1|{}|{}", STANDARD.encode(b"salt"), STANDARD.encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn lines_vouch_for_exactly_the_host_and_key_that_they_list() {
        let good = key("ssh-ed25519", b"good");
        let encoded = STANDARD.encode(&good.bytes);
        let bad = STANDARD.encode(key("ssh-ed25519", b"bad").bytes);
        let line = |host: &str, key: &str| format!("{host} ssh-ed25519 {key}\n");
        let cases = [
            ("nothing", String::new(), Verdict::Unknown),
            ("the same", line("git.example.org", &encoded), Verdict::Known),
            ("upper case", line("GIT.example.org", &encoded), Verdict::Known),
            ("another key", line("git.example.org", &bad), Verdict::Changed),
            ("old and new", line("git.example.org", &bad) + &line("git.example.org", &encoded), Verdict::Known),
            ("another host", line("example.org", &encoded), Verdict::Unknown),
            ("another port", line("[git.example.org]:2222", &encoded), Verdict::Unknown),
            ("pattern", line("*.example.org", &encoded), Verdict::Known),
            ("negated", line("*.example.org,!git.example.org", &encoded), Verdict::Unknown),
            ("hashed", line(&hashed("git.example.org"), &encoded), Verdict::Known),
            ("hashed other", line(&hashed("example.org"), &encoded), Verdict::Unknown),
            ("revoked", line("git.example.org", &encoded) + "@revoked " + &line("*", &encoded), Verdict::Changed),
            ("authority", "@cert-authority ".to_owned() + &line("*", &encoded), Verdict::Unknown),
            ("junk", "|1|x\n\u{0}\n@revoked\ngit.example.org ssh-ed25519 !!!\n".to_owned(), Verdict::Changed),
        ];
        for (name, text, expected) in cases {
            let hosts = KnownHosts::parse(PathBuf::from("known_hosts"), &text);
            let host = Host { name: "git.example.org".to_owned(), port: 22 };
            assert_eq!(hosts.verdict(&host, &good), expected, "{name}");
        }
    }

    #[test]
    fn a_port_is_part_of_the_name() {
        let good = key("ssh-rsa", b"good");
        let text = format!("{} ssh-rsa {}", hashed("[127.0.0.1]:2222"), STANDARD.encode(&good.bytes));
        let hosts = KnownHosts::parse(PathBuf::new(), &text);
        assert_eq!(hosts.verdict(&Host { name: "127.0.0.1".to_owned(), port: 2222 }, &good), Verdict::Known);
        assert_eq!(hosts.verdict(&Host { name: "127.0.0.1".to_owned(), port: 22 }, &good), Verdict::Unknown);
    }

    #[test]
    fn a_key_that_is_cut_off_has_no_type() {
        for bytes in [vec![], vec![0, 0, 0], vec![255, 255, 255, 255], vec![0, 0, 0, 9, b'a']] {
            assert_eq!(HostKey { bytes }.algorithm(), "unknown");
        }
    }
}
