//! Certificate revocation lists (RFC 5280 section 5), out of files and directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;

use crate::tls_config::{PemSource, TlsConfigError};

/// The first byte of DER, which no PEM text begins with.
const DER_SEQUENCE: u8 = 0x30;

/// Which CRLs there are, and what they are asked.
#[derive(Clone, Debug, Default)]
pub struct CrlOptions {
    /// Files with CRLs in PEM, or one in DER.
    pub files: Vec<PemSource>,
    /// Directories of such files: all that is in them.
    pub directories: Vec<PathBuf>,
    /// Only the peer's own certificate is looked for, not its intermediates.
    pub own_only: bool,
    /// A CRL counts beyond its nextUpdate.
    pub accept_expired: bool,
}

impl CrlOptions {
    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty()
    }

    /// The files that count in a directory of them, as far as they can be seen.
    pub fn files_in(directory: &Path) -> Vec<PathBuf> {
        files_of(directory).unwrap_or_default()
    }

    /// All of them.
    ///
    /// # Errors
    /// The first file that is missing, or is no CRL; a directory without any.
    pub(crate) fn read(
        &self,
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsConfigError> {
        let mut all = Vec::new();
        for file in &self.files {
            all.extend(lists(file, roots, provider)?);
        }
        for directory in &self.directories {
            for file in files_of(directory)? {
                all.extend(lists(&PemSource::File(file), roots, provider)?);
            }
        }
        Ok(all)
    }
}

/// All files of a directory but hidden ones.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, TlsConfigError> {
    let wrong = |what: String| TlsConfigError::File { file: directory.into(), what };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| wrong(error.to_string()))? {
        let file = entry.map_err(|error| wrong(error.to_string()))?.path();
        // What a volume of Kubernetes keeps its versions in begins with a dot.
        if file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        // A link that leads nowhere is a list that is missing, and no reason to let in whom it revokes.
        match fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => files.push(file),
            Ok(_) => {}
            Err(error) => return Err(PemSource::File(file).error(error)),
        }
    }
    if files.is_empty() {
        return Err(wrong("there is no CRL in it".into()));
    }
    files.sort();
    Ok(files)
}

fn lists(
    file: &PemSource,
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsConfigError> {
    let bytes = file.read()?;
    let lists: Vec<_> = if bytes.first() == Some(&DER_SEQUENCE) {
        vec![CertificateRevocationListDer::from(bytes)]
    } else {
        let lists: Result<_, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        lists.map_err(|error| file.error(format!("not valid PEM: {error}")))?
    };
    if lists.is_empty() {
        return Err(file.error("contains no CRL (-----BEGIN X509 CRL-----, or DER)"));
    }
    for (index, list) in lists.iter().enumerate() {
        // Which of many it cannot use, a verifier does not say.
        let alone = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
        if let Err(error) = alone.with_crls([list.clone()]).build() {
            return Err(file.error(format!("CRL {} cannot be used: {error}", index + 1)));
        }
    }
    Ok(lists)
}
