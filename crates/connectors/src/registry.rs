//! The sources and sinks there are, told apart by `type`. A new one is its folder, and one line here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::connector::{SinkSettings, SourceSettings};
use crate::{amqp, feed, file, http, stdout, websocket};

/// The enum of some settings, and the match that says who answers for each.
macro_rules! registry {
    ($(#[$about:meta])* $name:ident: $answers:ident { $($(#[$doc:meta])* $variant:ident($settings:ty),)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "type", rename_all = "snake_case")]
        pub enum $name {
            $($(#[$doc])* $variant($settings),)*
        }

        impl $name {
            /// Who answers for these settings.
            pub fn settings(&self) -> &dyn $answers {
                match self {
                    $(Self::$variant(settings) => settings,)*
                }
            }
        }
    };
}

registry! {
    /// The settings of a source.
    SourceConfig: SourceSettings {
        /// Files.
        File(file::FileSourceConfig),
        /// Records pushed to this server over HTTP.
        Http(http::push::HttpPushConfig),
        /// RSS, Atom and JSON feeds: each new or changed entry once. The fields of an entry are in `docs/decoding.md`.
        Feed(feed::FeedSourceConfig),
        /// A WebSocket.
        Websocket(websocket::WebsocketSourceConfig),
        /// An HTTP answer that does not end.
        HttpStream(http::stream::HttpStreamSourceConfig),
    }
}

registry! {
    /// The settings of a sink.
    SinkConfig: SinkSettings {
        /// RabbitMQ, or another AMQP 0-9-1 broker.
        Amqp(amqp::AmqpSinkConfig),
        /// A web service (webhook).
        Http(http::sink::HttpSinkConfig),
        /// Files in a folder.
        File(file::FileSinkConfig),
        /// Standard output.
        Stdout(stdout::StdoutSinkConfig),
    }
}

#[cfg(test)]
mod tests;
