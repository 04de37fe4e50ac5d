//! Server-sent events: lines to events. Rules:
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>.

use std::time::Duration;

use super::lines::Line;
use crate::format::framing::{KEPT_BYTES_MAX, too_large};
use millstream_core::Failure;

/// The type of an event for which the server says none.
const DEFAULT_KIND: &str = "message";

/// The event that is being received, and what outlives it.
#[derive(Debug)]
pub(crate) struct Events {
    max_record: usize,
    /// The data lines so far, each with a line feed behind it.
    data: Vec<u8>,
    /// How much data there was; more than `data` holds where it is too large.
    size: u64,
    /// The type of the event; empty where none was said.
    kind: Vec<u8>,
    /// The id that the next event, or none, will make the last one.
    id: Vec<u8>,
    /// How long the server wants to be left alone before it is connected to again.
    pub retry: Duration,
}

/// An event's data, with the id that it makes the last one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub data: Vec<u8>,
    /// `message` where the server says none.
    pub kind: String,
    pub refused: Option<Failure>,
}

impl Events {
    /// `last_id` is sent by servers that go on behind it, and stays until they say another.
    pub(crate) fn new(max_record: usize, last_id: Vec<u8>) -> Self {
        Self { max_record, data: Vec::new(), size: 0, kind: Vec::new(), id: last_id, retry: Duration::ZERO }
    }

    /// The last id that the server has said. It counts from the empty line behind its event on.
    pub(crate) fn id(&self) -> &[u8] {
        &self.id
    }

    /// Takes a line. `Some(event)`: it was the empty line that ends an event; the event may have no data.
    pub(crate) fn take(&mut self, line: &Line) -> Option<Option<Event>> {
        let (line, size) = match line {
            Line::Whole(line) => (line, line.len() as u64),
            Line::TooLarge { kept, size } => (kept, *size),
        };
        if line.is_empty() {
            return Some(self.finish());
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                self.size += size - (line.len() - value.len()) as u64 + 1;
                let limit = if self.size > self.max_record as u64 + 1 { KEPT_BYTES_MAX } else { usize::MAX };
                let room = limit.saturating_sub(self.data.len()).min(value.len());
                self.data.extend_from_slice(&value[..room]);
                self.data.push(b'\n');
                self.data.truncate(limit);
            }
            b"id" if !value.contains(&0) => self.id = value.to_vec(),
            b"retry" => {
                let digits = value.iter().all(u8::is_ascii_digit);
                if let Some(ms) = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok())
                {
                    self.retry = Duration::from_millis(ms);
                }
            }
            b"event" => self.kind = value.to_vec(),
            // A comment (no name), or something to come.
            _ => {}
        }
        None
    }

    /// Forgets the event that has begun: the stream broke. `last_id` is the one of the last whole event.
    pub(crate) fn clear(&mut self, last_id: &[u8]) {
        (self.data, self.size, self.kind) = (Vec::new(), 0, Vec::new());
        self.id = last_id.to_vec();
    }

    fn finish(&mut self) -> Option<Event> {
        let (mut data, size) = (std::mem::take(&mut self.data), std::mem::take(&mut self.size));
        let kind = std::mem::take(&mut self.kind);
        if size == 0 {
            return None;
        }
        let size = size - 1; // Without the last line feed.
        data.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        let refused = (size > self.max_record as u64).then(|| too_large(size, self.max_record));
        let kind = if kind.is_empty() { DEFAULT_KIND.into() } else { String::from_utf8_lossy(&kind).into_owned() };
        Some(Event { data, kind, refused })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn events(text: &str, max_record: usize) -> (Vec<Event>, Events) {
        let mut events = Events::new(max_record, Vec::new());
        let lines = text.split_terminator('\n').map(|line| Line::Whole(Bytes::copy_from_slice(line.as_bytes())));
        let found = lines.filter_map(|line| events.take(&line)).flatten().collect();
        (found, events)
    }

    #[test]
    fn the_examples_of_the_specification() {
        let (found, _) = events("data: YHOO\ndata: +2\ndata: 10\n\n", 100);
        assert_eq!(found, [Event { data: b"YHOO\n+2\n10".to_vec(), kind: "message".into(), refused: None }]);
        let (found, state) =
            events(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n", 100);
        assert_eq!(
            found.iter().map(|e| e.data.as_slice()).collect::<Vec<_>>(),
            [b"first event".as_slice(), b"second event"]
        );
        assert_eq!(state.id(), b"");
        let (found, _) = events("data\n\ndata\ndata\n\ndata:", 100);
        assert_eq!(found.iter().map(|e| e.data.as_slice()).collect::<Vec<_>>(), [b"".as_slice(), b"\n"]);
    }

    #[test]
    fn a_type_counts_for_one_event_and_a_wait_is_of_digits_only() {
        let (found, state) =
            events("event: add\ndata: 1\n\nevent: gone\n\ndata: 2\n\nretry: 7\n\nretry: +9\nretry:\nid: a\0b\n\n", 9);
        let kinds: Vec<_> = found.iter().map(|e| (e.kind.as_str(), e.data.as_slice())).collect();
        assert_eq!(kinds, [("add", b"1".as_slice()), ("message", b"2")]);
        assert_eq!((state.id(), state.retry), (b"".as_slice(), Duration::from_millis(7)));
    }

    #[test]
    fn an_event_over_the_limit_is_refused() {
        let (found, _) = events("data: 123\ndata: 456\n\ndata: 1234567\n\nid: 7\nretry: 1500\nretry: x\n\n", 6);
        assert_eq!(found.iter().map(|e| e.refused.is_some()).collect::<Vec<_>>(), [true, true]);
        let (found, state) = events("data: 123456\n\nid: 7\nretry: 1500\nretry: x\n\n", 6);
        assert!(found[0].refused.is_none());
        assert_eq!((state.id(), state.retry), (b"7".as_slice(), Duration::from_millis(1500)));
    }
}
