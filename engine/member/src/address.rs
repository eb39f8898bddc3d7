//! Addresses as people write them.

use std::net::ToSocketAddrs;
use std::path::PathBuf;

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// `unix:PATH`, or a plain path.
    Unix(PathBuf),
}

impl Address {
    /// Reads `HOST:PORT`, `unix:PATH` or a path with a slash.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path);
        }
        if text.contains('/') {
            return Self::unix(text);
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err(format!(
                "`{text}` is not an address; write HOST:PORT or unix:PATH"
            )),
        }
    }

    /// Whether only programs of this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(text) => text
                .to_socket_addrs()
                .is_ok_and(|mut found| found.all(|address| address.ip().is_loopback())),
        }
    }

    fn unix(path: &str) -> Result<Self, String> {
        if path.is_empty() || path.len() > 100 {
            return Err(format!(
                "`{path}` cannot be a socket: its path must have 1 to 100 bytes"
            ));
        }
        Ok(Self::Unix(PathBuf::from(path)))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(text) => f.write_str(text),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(
            Address::parse("127.0.0.1:1"),
            Ok(Address::Tcp("127.0.0.1:1".into()))
        );
        assert_eq!(Address::parse("unix:/a/b"), Ok(Address::Unix("/a/b".into())));
        assert_eq!(Address::parse("/a/b"), Ok(Address::Unix("/a/b".into())));
        assert!(Address::Unix("/a/b".into()).is_local());
        assert!(Address::Tcp("127.0.0.1:1".into()).is_local());
        assert!(!Address::Tcp("0.0.0.0:1".into()).is_local());
        assert!(Address::parse("5432").is_err());
        assert!(Address::parse("host:99999").is_err());
    }
}
