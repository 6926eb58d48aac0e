//! Certificate revocation lists (RFC 5280 section 5), out of files and directories.

use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

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
            let wrong = |what: String| TlsConfigError::File { file: directory.clone(), what };
            let mut files = Vec::new();
            for entry in fs::read_dir(directory).map_err(|error| wrong(error.to_string()))? {
                let file = entry.map_err(|error| wrong(error.to_string()))?.path();
                // What a volume of Kubernetes keeps its versions in begins with a dot.
                let is_hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
                if is_hidden {
                    continue;
                }
                match fs::metadata(&file) {
                    Ok(metadata) if metadata.is_file() => files.push(file),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        tracing::warn!("{}: leads nowhere: this CRL is left out", file.display());
                    }
                    Err(error) => return Err(PemSource::File(file).error(error)),
                }
            }
            files.sort();
            let before = all.len();
            for file in files {
                all.extend(lists(&PemSource::File(file), roots, provider)?);
            }
            if all.len() == before {
                return Err(wrong("there is no CRL in it".into()));
            }
        }
        Ok(all)
    }
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
