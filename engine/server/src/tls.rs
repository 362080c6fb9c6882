//! From a certificate's files to what accepts TLS connections. It knows no HTTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error as RustlsError, InconsistentKeys, ServerConfig};

use crate::config::TlsFiles;

/// Why a certificate cannot be served.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The certificate's file cannot be read.
    #[error("cannot read the certificate {path}: {why}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key's file cannot be read.
    #[error("cannot read the private key {path}: {why}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key is another certificate's.
    #[error("the private key {key} does not belong to the certificate {certificate}")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The library refuses them.
    #[error("cannot serve the certificate {path}: {why}")]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// The library's words.
        why: String,
    },
}

/// What accepts connections under the certificate.
///
/// # Errors
/// [`TlsError`], in one line that names the file.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(&files.certificate).map_err(|why| TlsError::Certificate {
        path: files.certificate.clone(),
        why,
    })?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::Key {
        path: files.key.clone(),
        why: said(&error, "PRIVATE KEY"),
    })?;
    let unusable = |why: RustlsError| match why {
        RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
        },
        why => TlsError::Unusable {
            path: files.certificate.clone(),
            why: why.to_string(),
        },
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let what = "CERTIFICATE";
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| said(&error, what))?
        .collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(said(&PemError::NoItemsFound, what)),
        Ok(chain) => Ok(chain),
        Err(error) => Err(said(&error, what)),
    }
}

/// One line for people; the library shows raw bytes.
fn said(error: &PemError, what: &str) -> String {
    match error {
        PemError::Io(error) => error.to_string(),
        PemError::NoItemsFound => format!("it holds no `BEGIN {what}` section"),
        PemError::MissingSectionEnd { .. } => "a section has no `END` line".to_owned(),
        PemError::IllegalSectionStart { .. } => "a `BEGIN` line is malformed".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a certificate and a key with these contents.
    fn refusal(name: &str, certificate: Option<&str>, key: &str) -> String {
        let folder = std::env::temp_dir().join(format!("agentlm-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = TlsFiles {
            certificate: folder.join("certificate.pem"),
            key: folder.join("key.pem"),
        };
        if let Some(text) = certificate {
            std::fs::write(&files.certificate, text).unwrap();
        }
        std::fs::write(&files.key, key).unwrap();
        let refused = acceptor(&files).err().map(|error| error.to_string());
        std::fs::remove_dir_all(&folder).unwrap();
        refused
            .expect("it is refused")
            .replace(&format!("{}/", folder.display()), "")
    }

    #[test]
    fn a_bad_file_is_one_line_that_names_it() {
        let section = |what: &str| format!("-----BEGIN {what}-----\nMAAA\n-----END {what}-----\n");
        let certificate = section("CERTIFICATE");
        let cases = [
            (
                "none",
                None,
                String::new(),
                "cannot read the certificate certificate.pem: No such file or directory (os error 2)",
            ),
            (
                "empty",
                Some(""),
                String::new(),
                "cannot read the certificate certificate.pem: it holds no `BEGIN CERTIFICATE` section",
            ),
            (
                "open",
                Some("-----BEGIN CERTIFICATE-----\nMAAA\n"),
                String::new(),
                "cannot read the certificate certificate.pem: a section has no `END` line",
            ),
            (
                "keyless",
                Some(certificate.as_str()),
                certificate.clone(),
                "cannot read the private key key.pem: it holds no `BEGIN PRIVATE KEY` section",
            ),
        ];
        for (name, certificate, key, said) in cases {
            assert_eq!(refusal(name, certificate, &key), said);
        }
        let unusable = refusal("unusable", Some(&certificate), &section("PRIVATE KEY"));
        assert!(
            unusable.starts_with("cannot serve the certificate certificate.pem: ")
                && !unusable.contains('\n'),
            "{unusable}"
        );
    }
}
