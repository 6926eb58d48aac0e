//! The options about certificate revocation lists, of both modes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sealane_relay::{CrlOptions, PemSource};

#[derive(Args, Debug)]
pub(crate) struct CrlArguments {
    /// Refuse certificates that a CRL in this file revokes, PEM or DER; repeatable. There must be one of each issuer
    #[arg(long, value_name = "FILE", help_heading = "Revocation")]
    crl_file: Vec<PathBuf>,

    /// The same for all files in this directory; repeatable
    #[arg(long, value_name = "DIRECTORY", help_heading = "Revocation")]
    crl_dir: Vec<PathBuf>,

    /// Which certificates CRLs are asked about: the peer's whole chain, or its own only
    #[arg(long, value_enum, value_name = "WHICH", default_value = "chain", help_heading = "Revocation")]
    crl_check: Which,

    /// What becomes of a certificate whose CRL has expired
    #[arg(long, value_enum, value_name = "VERDICT", default_value = "refuse", help_heading = "Revocation")]
    crl_expired: Expired,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Which {
    Chain,
    Own,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Expired {
    Refuse,
    Accept,
}

impl CrlArguments {
    /// What they come to. `pem` says where the text of a named file is.
    pub(crate) fn options(&self, pem: fn(PathBuf) -> PemSource) -> CrlOptions {
        CrlOptions {
            files: self.crl_file.iter().cloned().map(pem).collect(),
            directories: self.crl_dir.clone(),
            own_only: self.crl_check == Which::Own,
            accept_expired: self.crl_expired == Expired::Accept,
        }
    }

    /// The directories that are named.
    pub(crate) fn directories(&self) -> &[PathBuf] {
        &self.crl_dir
    }

    /// The files that are named.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.crl_file
    }
}
