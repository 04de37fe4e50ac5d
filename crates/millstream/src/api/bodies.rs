//! Reading the body of a request into memory that is taken as it comes.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::paced::TooSlow;
use millstream_engine::room::Share;

/// Bytes that are unpacked before more room is taken for them.
const UNPACK_STEP: usize = 64 << 10;

/// Why there is no body.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// There is no memory for it now.
    NoRoom,
    /// It is larger than that many bytes.
    TooLarge(usize),
    /// It did not arrive in time.
    TooSlow(String),
    /// It broke off, or is not what it says.
    Broken(String),
}

/// All of a body, at most `limit` bytes; each piece waits for its room at most that long.
pub async fn read(body: Body, limit: usize, share: &mut Share, wait: Duration) -> Result<Bytes, Unread> {
    let mut pieces = body.into_data_stream();
    let mut read = BytesMut::new();
    if !share.grow(1, wait).await {
        return Err(Unread::NoRoom);
    }
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            () = share.gives_way() => return Err(Unread::NoRoom),
        };
        let piece = match piece {
            None => break,
            Some(Ok(piece)) => piece,
            Some(Err(e)) if TooSlow::is_cause_of(&e) => return Err(Unread::TooSlow(e.to_string())),
            Some(Err(e)) => return Err(Unread::Broken(format!("the body broke off: {e}"))),
        };
        let bytes = read.len() + piece.len();
        if bytes > limit {
            return Err(Unread::TooLarge(limit));
        }
        if !share.grow(bytes, wait).await {
            return Err(Unread::NoRoom);
        }
        read.extend_from_slice(&piece);
    }
    share.arrived();
    Ok(read.freeze())
}

/// Unpacks a gzip body of one member or several, to at most `limit` bytes, for which it takes room too.
pub async fn unpack(body: Bytes, limit: usize, share: Share) -> Result<(Bytes, Share), Unread> {
    let unpacked = tokio::task::spawn_blocking(move || unpack_at_once(&body, limit, share)).await;
    unpacked.unwrap_or_else(|e| Err(Unread::Broken(format!("unpacking it failed: {e}"))))
}

fn unpack_at_once(body: &[u8], limit: usize, mut share: Share) -> Result<(Bytes, Share), Unread> {
    let mut unpacked = Vec::new();
    let mut stream = flate2::bufread::MultiGzDecoder::new(body);
    loop {
        let step = (&mut stream).take(UNPACK_STEP as u64).read_to_end(&mut unpacked);
        let step = step.map_err(|e| Unread::Broken(format!("the body is no whole gzip: {e}")))?;
        if unpacked.len() > limit {
            return Err(Unread::TooLarge(limit));
        }
        if step == 0 {
            return Ok((unpacked.into(), share));
        }
        if !share.try_grow(body.len() + unpacked.len()) {
            return Err(Unread::NoRoom);
        }
    }
}
