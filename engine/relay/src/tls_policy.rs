//! Which suites and groups may be agreed on, by their names at IANA.

use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::ring::{ALL_CIPHER_SUITES, ALL_KX_GROUPS, default_provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{NamedGroup, SupportedCipherSuite};

use crate::config::ConfigError;
use crate::keys::suite_name;

/// A cipher suite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suite(SupportedCipherSuite);

/// A group for the key exchange.
#[derive(Clone, Copy, Debug)]
pub struct Group(&'static dyn SupportedKxGroup);

/// What may be agreed on, the preferred one first; nothing named: all that is spoken.
#[derive(Clone, Debug, Default)]
pub struct TlsPolicy {
    /// Cipher suites, of both versions together.
    pub suites: Vec<Suite>,
    /// Groups.
    pub groups: Vec<Group>,
}

impl TlsPolicy {
    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = default_provider();
        if !self.suites.is_empty() {
            provider.cipher_suites = self.suites.iter().map(|suite| suite.0).collect();
        }
        if !self.groups.is_empty() {
            provider.kx_groups = self.groups.iter().map(|group| group.0).collect();
        }
        Arc::new(provider)
    }
}

impl FromStr for Suite {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let found = ALL_CIPHER_SUITES.iter().find(|suite| suite_name(**suite) == text);
        found.copied().map(Self).ok_or_else(|| {
            let all: Vec<_> = ALL_CIPHER_SUITES.iter().map(|suite| suite_name(*suite)).collect();
            ConfigError(format!("'{text}' is none of the cipher suites {}", all.join(", ")))
        })
    }
}

/// IANA's names (RFC 8422 section 5.1.1).
fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "x25519",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        _ => "another group",
    }
}

impl FromStr for Group {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let found = ALL_KX_GROUPS.iter().find(|group| group_name(group.name()) == text);
        found.copied().map(Self).ok_or_else(|| {
            let all: Vec<_> = ALL_KX_GROUPS.iter().map(|group| group_name(group.name())).collect();
            ConfigError(format!("'{text}' is none of the groups {}", all.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_and_groups_have_the_names_that_iana_gave_them() {
        for name in [
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        ] {
            assert!(name.parse::<Suite>().is_ok(), "{name}");
        }
        for name in ["x25519", "secp256r1", "secp384r1"] {
            assert!(name.parse::<Group>().is_ok(), "{name}");
        }
        let error = "AES128-SHA".parse::<Suite>().unwrap_err().to_string();
        assert!(error.contains("is none of the cipher suites TLS_"), "{error}");
        assert!("P-521".parse::<Group>().unwrap_err().to_string().contains("x25519, secp256r1, secp384r1"));
        let policy = TlsPolicy {
            suites: vec!["TLS_CHACHA20_POLY1305_SHA256".parse().unwrap()],
            groups: vec!["secp384r1".parse().unwrap(), "x25519".parse().unwrap()],
        };
        let provider = policy.provider();
        assert!(provider.cipher_suites.len() == 1 && provider.kx_groups.len() == 2);
        assert_eq!(provider.kx_groups[0].name(), NamedGroup::secp384r1);
    }
}
