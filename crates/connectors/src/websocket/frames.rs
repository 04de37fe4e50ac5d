//! The bytes of a WebSocket on their way to the library, with every text message made a binary one.
//!
//! The library ends the connection over a text message that is no UTF-8, as the protocol asks (RFC 6455, section 8.1),
//! and the message is gone. A text message differs from a binary one in four bits of its first frame's head, so these
//! are changed here: the record reaches the decoder with its bytes, and is a dead letter where it can't be read.
//!
//! A server's bytes are the head of its HTTP answer, up to the empty line, then frames (RFC 6455, section 5.2):
//! `FIN and opcode (1) · MASK and length (1) · longer length (0, 2 or 8) · key (4, where MASK is set) · payload`.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// A connection whose text messages are read as binary ones.
#[derive(Debug)]
pub(super) struct Frames<S> {
    inner: S,
    place: Place,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the head of the HTTP answer, behind so many bytes of the empty line.
    Head(usize),
    Opcode,
    Length,
    /// Bytes left of the longer length, the length so far, and whether a key follows.
    LongLength(u8, u64, bool),
    /// Bytes left of key and payload; more than none.
    Payload(u64),
}

impl<S> Frames<S> {
    /// `inner` before the handshake.
    pub(super) fn new(inner: S) -> Self {
        Self { inner, place: Place::Head(0) }
    }
}

/// Follows the bytes that have come, and changes opcodes.
fn rewrite(mut place: Place, bytes: &mut [u8]) -> Place {
    let mut rest = bytes;
    while let Some((byte, behind)) = rest.split_first_mut() {
        if let Place::Payload(left) = place {
            let skip = usize::try_from(left).unwrap_or(usize::MAX).min(behind.len() + 1);
            place = payload(left - skip as u64);
            rest = &mut behind[skip - 1..];
            continue;
        }
        place = match place {
            Place::Head(found) => match (*byte, found) {
                (byte, found) if byte == HEAD_END[found] && found + 1 == HEAD_END.len() => Place::Opcode,
                (byte, found) if byte == HEAD_END[found] => Place::Head(found + 1),
                (b'\r', _) => Place::Head(1),
                _ => Place::Head(0),
            },
            Place::Opcode => {
                if *byte & 0x0f == TEXT {
                    *byte = (*byte & 0xf0) | BINARY;
                }
                Place::Length
            }
            Place::Length => {
                let masked = *byte & 0x80 != 0;
                match *byte & 0x7f {
                    126 => Place::LongLength(2, 0, masked),
                    127 => Place::LongLength(8, 0, masked),
                    short => with_key(u64::from(short), masked),
                }
            }
            Place::LongLength(left, length, masked) => {
                let length = (length << 8) | u64::from(*byte);
                if left > 1 { Place::LongLength(left - 1, length, masked) } else { with_key(length, masked) }
            }
            Place::Payload(left) => payload(left - 1),
        };
        rest = behind;
    }
    place
}

fn with_key(length: u64, masked: bool) -> Place {
    payload(length.saturating_add(if masked { 4 } else { 0 }))
}

fn payload(left: u64) -> Place {
    if left == 0 { Place::Opcode } else { Place::Payload(left) }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.place = rewrite(self.place, &mut buf.filled_mut()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer, then: an empty text, a text of 300 bytes that look like heads, a text in two frames with a ping
    /// between them, a masked text, a binary message of 70,000 bytes, a close.
    fn stream(text: u8) -> Vec<u8> {
        let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\n\rx\r\r\n\r\n".to_vec();
        bytes.extend([0x80 | text, 0]);
        bytes.extend([0x80 | text, 126, 1, 44]);
        bytes.extend([0x81; 300]);
        bytes.extend([text, 1, 0x81, 0x89, 1, 0x81, 0x80, 2, 0x81, 0x01]);
        bytes.extend([0x80 | text, 0x82, 0x81, 0x81, 0x81, 0x81, 0x01, 0x02]);
        bytes.extend([0x82, 127, 0, 0, 0, 0, 0, 1, 17, 112]);
        bytes.extend([0x81; 70_000]);
        bytes.extend([0x88, 2, 0x03, 0xf5]);
        bytes
    }

    #[test]
    fn only_the_opcodes_of_texts_are_changed_however_the_bytes_are_cut() {
        for piece in [1, 2, 3, 7, 64, 100_000] {
            let mut bytes = stream(TEXT);
            let mut place = Place::Head(0);
            for part in bytes.chunks_mut(piece) {
                place = rewrite(place, part);
            }
            assert!(bytes == stream(BINARY), "in pieces of {piece}");
            assert_eq!(place, Place::Opcode);
        }
    }
}
