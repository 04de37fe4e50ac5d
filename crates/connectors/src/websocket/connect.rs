//! Makes a connection: TCP, TLS where the address asks for it, the handshake, and what is sent first.

use std::sync::Arc;

use futures::SinkExt;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_with_config};

use super::frames::Frames;
use crate::http_client::public_addresses;

pub(super) type Socket = WebSocketStream<Frames<MaybeTlsStream<TcpStream>>>;

/// Connects, and sends the messages of `subscribe`.
pub(super) async fn connect(
    request: Request,
    limits: WebSocketConfig,
    subscribe: &[String],
    deny_private: bool,
) -> Result<Socket, WsError> {
    let stream = open(&request, deny_private).await?;
    let (mut socket, _) = client_async_with_config(request, Frames::new(stream), Some(limits)).await?;
    for message in subscribe {
        socket.send(Message::text(message.clone())).await?;
    }
    Ok(socket)
}

async fn open(request: &Request, deny_private: bool) -> Result<MaybeTlsStream<TcpStream>, WsError> {
    let wrong = |what: &'static str| std::io::Error::new(std::io::ErrorKind::InvalidInput, what);
    let uri = request.uri();
    // In the brackets of an address of IPv6 is the address.
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let secure = uri.scheme_str() == Some("wss");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let socket = if deny_private {
        // What was looked at is connected to: asked again, the name might lead elsewhere.
        TcpStream::connect(public_addresses(&host, port).await?.as_slice()).await?
    } else {
        TcpStream::connect((host.as_str(), port)).await?
    };
    socket.set_nodelay(true)?;
    if !secure {
        return Ok(MaybeTlsStream::Plain(socket));
    }
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host).map_err(|_| wrong("the host is no name that a certificate could hold"))?;
    Ok(MaybeTlsStream::Rustls(TlsConnector::from(Arc::new(config)).connect(name, socket).await?))
}
