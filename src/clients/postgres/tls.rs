//! What the URL says about TLS, as libpq reads it: `disable`, `prefer` (the default) and `require` encrypt or not and check no
//! certificate; `verify-full` checks it and the host's name; `verify-ca` is taken as `verify-full`, which is stricter.
//! `sslrootcert=FILE` replaces the machine's roots.
//!
//! Source: <https://www.postgresql.org/docs/current/libpq-ssl.html>.

use std::path::Path;
use std::sync::Arc;

use reqwest::Url;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::base::secret::Secret;

const APPLICATION: &str = "nightcrew";
const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);
/// What a URL of another form is told. Never a part of it.
const FORM: &str =
    "the secret is no address of a database: `postgres://user:password@host:5432/database?sslmode=verify-full`";

/// The connection that a URL describes. Errors, for people, without any part of the URL.
pub(super) fn config(secret: &Secret, base: &Path) -> Result<(Config, MakeRustlsConnect), String> {
    let mut url = Url::parse(secret.expose()).map_err(|_| FORM.to_owned())?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(FORM.to_owned());
    }
    let (mut mode, mut roots, mut kept) = (None, None, Vec::new());
    for (key, value) in url.query_pairs().into_owned() {
        match key.as_str() {
            "sslmode" => mode = Some(value),
            "sslrootcert" => roots = Some(value),
            _ => kept.push((key, value)),
        }
    }
    url.set_query(None);
    if !kept.is_empty() {
        // Not as a form writes it: a `+` would be a plus.
        let written: Vec<String> =
            kept.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value))).collect();
        url.set_query(Some(&written.join("&")));
    }
    let mut config: Config = url.as_str().parse().map_err(|_| FORM.to_owned())?;
    let (ssl, checked) = match mode.as_deref() {
        Some("disable") => (SslMode::Disable, false),
        None | Some("prefer" | "allow") => (SslMode::Prefer, false),
        Some("require") => (SslMode::Require, roots.is_some()),
        Some("verify-ca" | "verify-full") => (SslMode::Require, true),
        Some(_) => return Err("`sslmode` is one of disable, prefer, require, verify-full".to_owned()),
    };
    config.ssl_mode(ssl).application_name(APPLICATION);
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let tls = match (checked, roots) {
        (false, _) => MakeRustlsConnect::new(
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider))).with_no_client_auth(),
        ),
        (true, Some(file)) if file != "system" => {
            MakeRustlsConnect::new(builder.with_root_certificates(roots_in(&base.join(file))?).with_no_client_auth())
        }
        (true, _) => {
            super::super::install_tls();
            let roots = MakeRustlsConnect::with_native_certs();
            roots.map_err(|_| "this machine has no TLS roots: install ca-certificates".to_owned())?.0
        }
    };
    Ok((config, tls))
}

fn escaped(text: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~/".contains(b);
    text.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn roots_in(file: &Path) -> Result<RootCertStore, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("`sslrootcert` {}: {error}", file.display());
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        store.add(certificate).map_err(|error| unreadable(&error))?;
    }
    match store.is_empty() {
        true => Err(unreadable(&"there is no certificate in it")),
        false => Ok(store),
    }
}

/// Takes every certificate: what `sslmode=require` means. The handshake is still signed by its holder.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Config, String> {
        config(&Secret::new(url), Path::new("/nowhere")).map(|(config, _)| config)
    }

    #[test]
    fn the_url_says_how_the_connection_is_encrypted() {
        for (mode, expected) in [
            ("", SslMode::Prefer),
            ("?sslmode=disable", SslMode::Disable),
            ("?sslmode=prefer", SslMode::Prefer),
            ("?sslmode=require", SslMode::Require),
            ("?options=-c%20work_mem%3D4MB&sslmode=require", SslMode::Require),
        ] {
            let config = read(&format!("postgres://u:p%40ss@h:5433/d{mode}")).unwrap();
            assert_eq!((config.get_ssl_mode(), config.get_dbname()), (expected, Some("d")), "{mode}");
            assert_eq!(config.get_password(), Some(b"p@ss".as_slice()));
            assert_eq!(config.get_options(), mode.contains("options").then_some("-c work_mem=4MB"));
        }
    }

    #[test]
    fn nothing_of_a_wrong_url_is_repeated() {
        for url in [
            "hunter2",
            "mysql://u:hunter2@h/d",
            "postgres://u:hunter2@h/d?sslmode=hunter2",
            "postgres://u@h/d?hunter2=1",
        ] {
            let error = read(url).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = read("postgres://u@h/d?sslmode=verify-full&sslrootcert=ca.pem").unwrap_err();
        assert!(error.starts_with("`sslrootcert` /nowhere/ca.pem"), "{error}");
    }
}
