//! The options about what may be agreed on with a TLS peer, of both modes.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use sealane_relay::{ConfigError, Group, KeyLogFile, Signature, Signatures, Suite, TlsPolicy, TlsVersions};

use crate::args::Tls;

/// Where other programs that speak TLS look for the name of such a file, too.
const KEY_LOG_VARIABLE: &str = "SSLKEYLOGFILE";

#[derive(Args, Debug)]
pub(crate) struct PolicyArguments {
    /// TLS versions
    #[arg(long, value_enum, value_name = "VERSIONS", default_value = "1.2-1.3", help_heading = "Trust")]
    tls: Tls,

    /// The same by the names of Mozilla's profiles: modern is TLS 1.3 only, intermediate 1.2 and 1.3; 1.2 is always ECDHE with AEAD
    #[arg(long, value_enum, value_name = "PROFILE", conflicts_with = "tls", help_heading = "Trust")]
    tls_profile: Option<Profile>,

    /// Agree on these cipher suites only, the preferred first, by their names at IANA, with commas between them
    #[arg(long, value_name = "SUITES", value_delimiter = ',', value_parser = parse::<Suite>, help_heading = "Trust")]
    tls_suites: Vec<Suite>,

    /// Agree on these groups only, the preferred first: x25519, secp256r1, secp384r1
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', value_parser = parse::<Group>, help_heading = "Trust")]
    tls_groups: Vec<Group>,

    /// Have the handshake signed by these schemes only, by their names at IANA (ecdsa_secp256r1_sha256), by the peer and by us;
    /// the signatures on certificates are another matter
    #[arg(long, value_name = "SCHEMES", value_delimiter = ',', value_parser = parse::<Signature>, help_heading = "Trust")]
    tls_signatures: Vec<Signature>,

    /// Write the secrets of all connections to the file that SSLKEYLOGFILE names, for Wireshark. Whoever has that file reads
    /// all that is sent
    #[arg(long, help_heading = "Trust")]
    allow_key_log: bool,
}

/// Mozilla's, of what is spoken here.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Profile {
    Modern,
    Intermediate,
}

fn parse<T: std::str::FromStr<Err = ConfigError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: ConfigError| error.to_string())
}

impl PolicyArguments {
    pub(crate) fn versions(&self) -> TlsVersions {
        match self.tls_profile {
            None => self.tls.into(),
            Some(Profile::Modern) => TlsVersions::Tls13,
            Some(Profile::Intermediate) => TlsVersions::Both,
        }
    }

    /// What they come to, with the environment.
    ///
    /// # Errors
    /// The file for secrets cannot be opened.
    pub(crate) fn policy(&self) -> Result<TlsPolicy> {
        let signatures = Signatures::only(&self.tls_signatures);
        if self.versions() != TlsVersions::Tls12 && !signatures.sign_tls_13() {
            return Err(ConfigError(
                "--tls-signatures: TLS 1.3 knows none of these: name one of it (rsa_pss_rsae_sha256), or --tls 1.2"
                    .into(),
            )
            .into());
        }
        Ok(TlsPolicy {
            suites: self.tls_suites.clone(),
            groups: self.tls_groups.clone(),
            signatures,
            key_log: self.key_log()?,
        })
    }

    fn key_log(&self) -> Result<Option<Arc<KeyLogFile>>> {
        let named = std::env::var_os(KEY_LOG_VARIABLE).filter(|named| !named.is_empty());
        match (named, self.allow_key_log) {
            (None, false) => Ok(None),
            (None, true) => Err(ConfigError(format!("--allow-key-log: {KEY_LOG_VARIABLE} names no file")).into()),
            (Some(_), false) => {
                tracing::warn!("{KEY_LOG_VARIABLE} is set, and no secret is written to it: that takes --allow-key-log");
                Ok(None)
            }
            (Some(named), true) => {
                let file = Path::new(&named);
                let opened =
                    KeyLogFile::open(file).with_context(|| format!("{KEY_LOG_VARIABLE}: {}", file.display()))?;
                // Whatever else is to be logged, or not.
                if !tracing::enabled!(tracing::Level::ERROR) {
                    let _ = writeln!(
                        io::stderr(),
                        "sealane: the secrets of ALL connections are written to {}",
                        file.display()
                    );
                }
                tracing::error!(
                    "the secrets of ALL connections are written to {}: whoever has it reads what is sent (--allow-key-log)",
                    file.display()
                );
                Ok(Some(Arc::new(opened)))
            }
        }
    }
}
