//! The options of a server, and of what asks one.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use millstream_core::{Error, Result};

use crate::api::tls::{Entrance, Tls, TlsFiles};
use crate::api::{Auth, Guard};

/// The server's options.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Address and port of the server: an IP address or a name (`localhost:8080`); port 0 takes a free one.
    #[arg(long, env = "MILLSTREAM_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: String,
    /// Ask clients for this bearer token (everything but health). Better set by environment than on the command line.
    #[arg(long, env = "MILLSTREAM_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file of several tokens with roles, read again when it changes. A line each: a name, `read`, `write` or `admin`
    /// (or `read,write`), and the token or `sha256:` and its digest.
    #[arg(long, env = "MILLSTREAM_TOKENS", value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Append a line of JSON for every write of an administrator (redrive, discard, reload of a model).
    #[arg(long, env = "MILLSTREAM_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Serve HTTPS with this certificate (PEM, with those of its authorities behind it), read again when it changes.
    #[arg(long, env = "MILLSTREAM_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM, without a password).
    #[arg(long, env = "MILLSTREAM_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Let only clients in whose certificate is of one of these authorities (PEM), for every route, health too.
    #[arg(long, env = "MILLSTREAM_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Let the server be open to the network without a token: everybody who reaches it may read and write everything.
    #[arg(long, env = "MILLSTREAM_WITHOUT_TOKEN", value_parser = clap::builder::FalseyValueParser::new())]
    pub without_token: bool,
    /// Names under which clients reach the server, beside `localhost` and its addresses: those of a proxy, of a
    /// service. With a comma between them; `*` is any.
    #[arg(long, env = "MILLSTREAM_ALLOWED_HOSTS", value_name = "NAMES", value_delimiter = ',')]
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may ask the server from a browser (CORS): https://board.example.com. With a comma
    /// between them. Default: none but its own page.
    #[arg(long, env = "MILLSTREAM_ALLOWED_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,
}

impl ServerArgs {
    /// Who may ask for what.
    ///
    /// # Errors
    /// `Config`: the server would be open to the network without a token, and nobody said that it may; or a token is
    /// empty, or a file is not as it should be.
    pub fn auth(&self, address: SocketAddr) -> Result<Auth> {
        let token = self.token.as_ref().map(|token| token.trim());
        if token == Some("") {
            return Err(Error::config(
                "MILLSTREAM_TOKEN (--token) is empty: set a long random text, or leave it out on a loopback address",
            ));
        }
        let asks = token.is_some() || self.tokens.is_some() || self.tls_client_ca.is_some();
        if !asks && !address.ip().is_loopback() {
            if !self.without_token {
                return Err(Error::config(format!(
                    "--listen {address} is open to the network, and there is no token: whoever reaches it could read and \
                     write everything. Set MILLSTREAM_TOKEN to a long random text (`openssl rand -hex 32`) that clients \
                     send as `Authorization: Bearer …` (or name a file of several with --tokens); or listen on 127.0.0.1; \
                     or, where something else keeps others away, say so with --without-token"
                )));
            }
            tracing::warn!(%address, "the server is open to the network without a token (--without-token)");
        }
        let asks_for_token = token.is_some() || self.tokens.is_some();
        if asks_for_token && self.tls_cert.is_none() && !address.ip().is_loopback() {
            tracing::warn!(%address, "tokens go over the network as they are: set --tls-cert and --tls-key, or put TLS in front");
        }
        Auth::new(token, self.tokens.as_deref(), self.audit_log.clone())
    }

    /// Who may ask from a browser.
    ///
    /// # Errors
    /// `Config`: a host or an origin is none.
    pub fn guard(&self, address: SocketAddr) -> Result<Guard> {
        Guard::new(&self.listen, address, &self.allowed_hosts, &self.allowed_origins)
    }

    /// HTTP or HTTPS.
    ///
    /// # Errors
    /// `Config`: a file can't be read, or they are no certificate and its key.
    pub fn entrance(&self) -> Result<Entrance> {
        let (Some(cert), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) else { return Ok(Entrance::Plain) };
        let client_ca = self.tls_client_ca.clone();
        Ok(Entrance::Tls(Tls::open(TlsFiles { cert, key, client_ca })?))
    }
}

/// How a server's certificate is checked, and what it is shown.
#[derive(Debug, Clone, Default, Args)]
pub struct ClientTlsArgs {
    /// An authority (PEM) of the server's certificate, beside those that this machine trusts.
    #[arg(long, env = "MILLSTREAM_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate to show to a server that asks for one (--tls-client-ca).
    #[arg(long, env = "MILLSTREAM_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "MILLSTREAM_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl ClientTlsArgs {
    /// A client that keeps to this.
    ///
    /// # Errors
    /// `Config`: a file can't be read, or is not what it should be.
    pub fn over(&self, mut client: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder> {
        let read = |option: &str, path: &PathBuf| {
            let wrong =
                |e: std::io::Error| Error::config(format!("{option} {}: it can't be read: {e}", path.display()));
            std::fs::read(path).map_err(wrong)
        };
        if let Some(path) = &self.ca {
            let wrong = || Error::config(format!("--ca {}: there is no certificate in it (PEM)", path.display()));
            let authorities = reqwest::Certificate::from_pem_bundle(&read("--ca", path)?).map_err(|_| wrong())?;
            if authorities.is_empty() {
                return Err(wrong());
            }
            client = client.tls_certs_merge(authorities);
        }
        if let (Some(cert), Some(key)) = (&self.client_cert, &self.client_key) {
            let mut pem = read("--client-key", key)?;
            pem.push(b'\n');
            pem.extend(read("--client-cert", cert)?);
            let identity = reqwest::Identity::from_pem(&pem).map_err(|e| {
                let (cert, key) = (cert.display(), key.display());
                Error::config(format!("--client-cert {cert}, --client-key {key}: no certificate and its key: {e}"))
            })?;
            client = client.identity(identity);
        }
        Ok(client)
    }
}
