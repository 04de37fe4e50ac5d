//! TLS on the server's connections, with certificates that are replaced while it runs.
//!
//! The files are watched ([`super::files`]). A pair that does not fit together, or can't be read, leaves the one before
//! in force and says so. Connections that are open keep what they were opened with.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use millstream_core::{Clock, Error, Result, SystemClock};
use parking_lot::RwLock;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files::{Contents, Files};
use super::listen::Transport;

const CERT: usize = 0;
const KEY: usize = 1;
const CLIENT_CA: usize = 2;
/// A certificate that ends sooner than that is spoken of.
const ENDS_SOON_SECONDS: i64 = 14 * 24 * 3600;

/// The way in: HTTP as it is, or within TLS.
#[derive(Debug, Clone)]
pub enum Entrance {
    /// HTTP.
    Plain,
    /// HTTPS.
    Tls(Arc<Tls>),
}

/// Which files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate and those of its authorities, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authorities of clients' certificates, PEM: where set, every client must show one.
    pub client_ca: Option<PathBuf>,
}

/// Shakes hands.
#[derive(Debug)]
pub struct Tls {
    config: RwLock<Arc<ServerConfig>>,
    files: Files,
}

impl Entrance {
    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls(_) => "https",
        }
    }
}

impl Tls {
    /// Reads the files, and reads them again whenever they change.
    ///
    /// # Errors
    /// `Config`: one can't be read, or they are no certificate and its key.
    pub fn open(files: TlsFiles) -> Result<Arc<Self>> {
        let mut named = vec![("--tls-cert", files.cert), ("--tls-key", files.key)];
        named.extend(files.client_ca.map(|path| ("--tls-client-ca", path)));
        let files = Files::new(named);
        let contents = files.read()?;
        let config = config(&files, &contents)?;
        files.warn_where_readable(KEY);
        let tls = Arc::new(Self { config: RwLock::new(config), files: files.clone() });
        files.watch(&contents, Arc::downgrade(&tls), |tls, contents| {
            *tls.config.write() = config_of(tls, contents)?;
            Ok(())
        });
        Ok(tls)
    }

    /// Shakes hands on a new connection. Without a deadline: that is the listener's.
    ///
    /// # Errors
    /// The peer speaks no TLS, has no certificate where one is asked for, or goes away.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config.read().clone();
        TlsAcceptor::from(config).accept(socket).await
    }
}

impl Transport for Entrance {
    type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

    async fn accept(&self, socket: TcpStream) -> io::Result<Self::Stream> {
        match self {
            Self::Plain => Ok(Either::Left(socket)),
            Self::Tls(tls) => Ok(Either::Right(Box::new(tls.accept(socket).await?))),
        }
    }

    fn certificate(stream: &Self::Stream) -> Option<Arc<str>> {
        let Either::Right(stream) = stream else { return None };
        let certificate = stream.get_ref().1.peer_certificates()?.first()?;
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        // It goes into logs.
        Some(parsed.subject().to_string().replace(char::is_control, "?").into())
    }
}

fn config_of(tls: &Tls, contents: &Contents) -> Result<Arc<ServerConfig>> {
    config(&tls.files, contents)
}

/// What connections are opened with.
fn config(files: &Files, contents: &Contents) -> Result<Arc<ServerConfig>> {
    let content = |index: usize| contents.get(index).map_or(&[][..], Vec::as_slice);
    let chain = certificates(&files.named(CERT), content(CERT))?;
    let key = PrivateKeyDer::from_pem_slice(content(KEY)).map_err(|e| {
        let named = files.named(KEY);
        let is_encrypted = content(KEY).windows(21).any(|text| text == b"ENCRYPTED PRIVATE KEY");
        Error::config(match e {
            _ if is_encrypted => {
                format!("{named}: the key is encrypted; `openssl pkey -in …` writes it without a password")
            }
            pem::Error::NoItemsFound => {
                format!("{named}: there is no private key in it (`-----BEGIN PRIVATE KEY-----`)")
            }
            e => format!("{named}: it is no PEM: {e}"),
        })
    })?;
    say_when_it_ends(&files.named(CERT), &chain[0]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| Error::bug("versions of TLS").caused_by(e))?;
    let builder = match contents.get(CLIENT_CA) {
        None => builder.with_no_client_auth(),
        Some(content) => {
            let named = files.named(CLIENT_CA);
            let mut roots = RootCertStore::empty();
            for authority in certificates(&named, content)? {
                roots.add(authority).map_err(|e| Error::config(format!("{named}: it can't be an authority: {e}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| Error::config(format!("{named}: {e}")))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => {
            Error::config(format!("{} is not the key of {}", files.named(KEY), files.named(CERT)))
        }
        e => Error::config(format!("{}, {}: {e}", files.named(CERT), files.named(KEY))),
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// At least one.
fn certificates(named: &str, content: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let all = all.map_err(|e| Error::config(format!("{named}: it is no PEM: {e}")))?;
    if all.is_empty() {
        let message = format!("{named}: there is no certificate in it (PEM, `-----BEGIN CERTIFICATE-----`)");
        return Err(Error::config(message));
    }
    Ok(all)
}

fn say_when_it_ends(named: &str, certificate: &CertificateDer<'_>) {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return };
    let (ends, now) = (parsed.validity().not_after, SystemClock.now_us() / 1_000_000);
    if ends.timestamp() < now {
        tracing::warn!("{named}: the certificate has ended ({ends}): clients will not take it");
    } else if ends.timestamp() < now + ENDS_SOON_SECONDS {
        tracing::warn!("{named}: the certificate ends soon ({ends})");
    }
}
