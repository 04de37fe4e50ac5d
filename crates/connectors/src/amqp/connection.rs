//! Connecting to the broker, declaring what is needed, and what the broker's errors mean for the sink.

use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind as Lapin, ExchangeKind};
use millstream_core::units::redact_url;
use millstream_core::{Error, Result};

use super::config::{AmqpSinkConfig, ExchangeType};

/// A connection with one channel that confirms what is published. Dropping it closes both.
pub(super) struct Link {
    pub(super) channel: Channel,
    /// Held, because the last handle closes the connection.
    _connection: Connection,
}

impl Link {
    /// Connects and declares.
    ///
    /// # Errors
    /// `Retry` where the broker can't be reached, `Config` where it refuses user, vhost, exchange or queue.
    pub(super) async fn open(config: &AmqpSinkConfig, name: &str) -> Result<Self> {
        let wait = config.connect_timeout;
        match tokio::time::timeout(wait.0, Self::open_patiently(config, name)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(e)) => Err(explain(&e, config).context(format!("connect to {}", redact_url(config.url.expose())))),
            Err(_) => Err(Error::retry(format!(
                "connect to {}: no connection within {wait} (`connect_timeout`)",
                redact_url(config.url.expose())
            ))),
        }
    }

    async fn open_patiently(config: &AmqpSinkConfig, name: &str) -> lapin::Result<Self> {
        let properties = ConnectionProperties::default().with_connection_name(format!("millstream {name}").into());
        let connection = Connection::connect(config.url.expose(), properties).await?;
        let channel = connection.create_channel().await?;
        declare(&channel, config).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { channel, _connection: connection })
    }

    /// True until the broker or the network has closed it.
    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }
}

/// Logs in and looks whether the exchange is there, without declaring anything.
///
/// # Errors
/// As of [`Link::open`].
pub(crate) async fn probe(config: &AmqpSinkConfig) -> Result<String> {
    let log_in = async {
        let properties = ConnectionProperties::default().with_connection_name("millstream probe".into());
        let connection = Connection::connect(config.url.expose(), properties).await?;
        let channel = connection.create_channel().await?;
        if !config.declare && !config.exchange.is_empty() {
            let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let kind = exchange_kind(config.exchange_type);
            channel.exchange_declare(config.exchange.as_str().into(), kind, options, FieldTable::default()).await?;
        }
        connection.close(200, "OK".into()).await
    };
    let logged_in = tokio::time::timeout(config.connect_timeout.0, log_in).await;
    let place = redact_url(config.url.expose());
    match logged_in {
        Ok(Ok(())) => Ok(format!("{place} answers")),
        Ok(Err(e)) => Err(explain(&e, config).context(format!("connect to {place}"))),
        Err(_) => Err(Error::retry(format!("connect to {place}: no connection within `connect_timeout`"))),
    }
}

async fn declare(channel: &Channel, config: &AmqpSinkConfig) -> lapin::Result<()> {
    let exchange = config.exchange.as_str();
    if !exchange.is_empty() {
        // Exchanges that begin with `amq.` are the broker's own: they can only be looked up.
        let passive = !config.declare || exchange.starts_with("amq.");
        let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(exchange.into(), exchange_kind(config.exchange_type), options, FieldTable::default())
            .await?;
    }
    for queue in &config.queues {
        let name = queue.name.as_str();
        channel.queue_declare(name.into(), QueueDeclareOptions::durable(), FieldTable::default()).await?;
        for key in queue.routing_keys.iter().filter(|_| !exchange.is_empty()) {
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            channel.queue_bind(name.into(), exchange.into(), key.as_str().into(), options, arguments).await?;
        }
    }
    Ok(())
}

fn exchange_kind(kind: ExchangeType) -> ExchangeKind {
    match kind {
        ExchangeType::Topic => ExchangeKind::Topic,
        ExchangeType::Direct => ExchangeKind::Direct,
        ExchangeType::Fanout => ExchangeKind::Fanout,
        ExchangeType::Headers => ExchangeKind::Headers,
    }
}

/// What an error means. What only a person can change is `Config`, anything else `Retry`. Reply codes:
/// <https://www.rabbitmq.com/amqp-0-9-1-reference#constants>. Messages of the broker hold no passwords.
pub(super) fn explain(error: &lapin::Error, config: &AmqpSinkConfig) -> Error {
    let Lapin::ProtocolError(reply) = error.kind() else {
        return Error::retry(match error.kind() {
            Lapin::IOError(e) => format!("RabbitMQ can't be reached: {e}"),
            Lapin::MissingHeartbeatError => "RabbitMQ has gone silent".into(),
            _ => format!("the connection to RabbitMQ is broken: {error}"),
        });
    };
    let text = reply.get_message();
    match reply.get_id() {
        403 => Error::config(format!(
            "RabbitMQ refuses access ({text}): check user and password in `url`, and the user's permissions"
        )),
        404 if !config.declare => Error::config(format!(
            "RabbitMQ lacks what this sink needs ({text}): create it there, or set `declare: true`"
        )),
        406 => Error::config(format!(
            "RabbitMQ has an exchange or queue of this name with other settings ({text}): write the same `exchange_type` \
             here, take another name, delete it there, or set `declare: false`"
        )),
        // Also sent where a limit of connections is reached, which passes.
        530 if !text.as_str().contains("limit") => Error::config(format!(
            "RabbitMQ does not allow this ({text}): check the vhost at the end of `url` (`/` is written %2f)"
        )),
        code => Error::retry(format!("RabbitMQ answers {code}: {text}")),
    }
}

/// The size that the broker grants a message, where that is what the error says.
pub(super) fn message_size_limit(error: &lapin::Error) -> Option<usize> {
    let Lapin::ProtocolError(reply) = error.kind() else { return None };
    let text = reply.get_message().as_str();
    if reply.get_id() != 406 || !text.contains("message size") {
        return None;
    }
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).next_back()
}
