//! The CAs that a peer's certificate may lead to, out of files and directories, or the host's.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, RootCertStore};
use sealane_trust::{Purpose, serves, validity};

use crate::tls_config::{PemSource, TlsConfigError, certificates};

/// Hexadecimal digits of the hash that a name in a directory begins with.
const HASH_DIGITS: usize = 8;

/// Which CAs there are; none: the host's.
#[derive(Clone, Debug, Default)]
pub struct CaOptions {
    /// PEM files, each with as many certificates as it likes.
    pub files: Vec<PemSource>,
    /// Directories of PEM files under names that `openssl rehash` gives them: only these are read.
    pub directories: Vec<PathBuf>,
}

/// Only those of one file.
impl From<PemSource> for CaOptions {
    fn from(file: PemSource) -> Self {
        Self { files: vec![file], directories: Vec::new() }
    }
}

impl CaOptions {
    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty()
    }

    /// The files that count in a directory of them, as far as they can be seen.
    pub fn files_in(directory: &Path) -> Vec<PathBuf> {
        hashed_files(directory).unwrap_or_default()
    }

    /// All of them.
    ///
    /// # Errors
    /// The first file that is missing or without a certificate that can be used; a directory without any such file.
    pub(crate) fn read(&self) -> Result<(RootCertStore, Trusted), TlsConfigError> {
        let (mut store, mut trusted) = (RootCertStore::empty(), Trusted::default());
        if self.is_empty() {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                return Err(TlsConfigError::NoRoots(reasons.join("; ")));
            }
        }
        for file in &self.files {
            add(&mut store, &mut trusted, file)?;
        }
        for directory in &self.directories {
            let files = hashed_files(directory)?;
            files.into_iter().try_for_each(|file| add(&mut store, &mut trusted, &PemSource::File(file)))?;
        }
        Ok((store, trusted))
    }
}

/// The certificates that were named, as they are. A peer that shows one of them, byte for byte, need not be certified by anybody:
/// self-signed ones are CAs more often than not, which no chain may end in. Dates, purposes and names count all the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trusted {
    certificates: Vec<CertificateDer<'static>>,
    /// Not where CRLs are asked: whether one of them was revoked only a chain tells.
    suffices: bool,
}

impl Trusted {
    /// The same, where they need no chain, or where they do.
    pub(crate) fn sufficing(self, suffices: bool) -> Self {
        Self { suffices, ..self }
    }

    /// Whether they need no chain.
    pub(crate) fn suffices(&self) -> bool {
        self.suffices
    }

    pub(crate) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|trusted| trusted == certificate)
    }

    /// Whether one of them may be used now, and for this.
    pub(crate) fn check(
        &self,
        certificate: &CertificateDer<'_>,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if !serves(certificate, purpose).map_err(|_| CertificateError::BadEncoding)? {
            return Err(CertificateError::InvalidPurpose.into());
        }
        let (first, last) = validity(certificate).map_err(|_| CertificateError::BadEncoding)?;
        match now.as_secs() {
            now if now < first.0 => Err(CertificateError::NotValidYet.into()),
            now if now > last.0 => Err(CertificateError::Expired.into()),
            _ => Ok(()),
        }
    }
}

/// Adds what is in `file`. Of several certificates, one that cannot be used does no harm.
fn add(store: &mut RootCertStore, trusted: &mut Trusted, file: &PemSource) -> Result<(), TlsConfigError> {
    let before = store.len();
    let mut refused = None;
    for (index, certificate) in certificates(file)?.into_iter().enumerate() {
        trusted.certificates.push(certificate.clone());
        if let Err(error) = store.add(certificate) {
            let name = file.name().display();
            tracing::warn!("{name}: certificate {} cannot be used as a root: {error}", index + 1);
            refused = Some(error);
        }
    }
    match refused {
        Some(error) if store.len() == before => {
            Err(file.error(format!("no certificate in it can be used as a root: {error}")))
        }
        _ => Ok(()),
    }
}

/// The files of a directory that are found by their hash. What is meant for people to see beside them, and CRLs (`.r0`), is
/// not read; a link that leads nowhere is what a removed CA leaves behind.
pub(crate) fn hashed_files(directory: &Path) -> Result<Vec<PathBuf>, TlsConfigError> {
    let wrong = |what: String| TlsConfigError::File { file: directory.into(), what };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| wrong(error.to_string()))? {
        let entry = entry.map_err(|error| wrong(error.to_string()))?;
        if !entry.file_name().to_str().is_some_and(is_hashed) {
            continue;
        }
        let file = entry.path();
        match fs::metadata(&file) {
            Ok(_) => files.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!("{}: leads nowhere: this CA is left out", file.display());
            }
            // That it is not to be had now does not mean that it is not trusted.
            Err(error) => return Err(PemSource::File(file).error(error)),
        }
    }
    if files.is_empty() {
        return Err(wrong(
            "there is no CA in it under a name by its hash (like 9f0b5a3c.0); 'openssl rehash DIRECTORY' makes them"
                .into(),
        ));
    }
    files.sort();
    Ok(files)
}

/// Eight hexadecimal digits, a dot, and a number.
fn is_hashed(name: &str) -> bool {
    let digits = |text: &str, is_digit: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(is_digit);
    name.split_once('.').is_some_and(|(hash, number)| {
        hash.len() == HASH_DIGITS && digits(hash, u8::is_ascii_hexdigit) && digits(number, u8::is_ascii_digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_hashes_are_told_from_others() {
        for name in ["9f0b5a3c.0", "00000000.12"] {
            assert!(is_hashed(name), "{name}");
        }
        for name in ["9f0b5a3c.r0", "9f0b5a3c.", "9f0b5a3.0", "9f0b5a3cc.0", "9f0b5a3g.0", "ca.pem", "9f0b5a3c", ".0"] {
            assert!(!is_hashed(name), "{name}");
        }
    }
}
