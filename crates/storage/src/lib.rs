//! What Millstream keeps: the durable log, keyed state, and tables.
//!
//! The only crate that names SlateDB and the object store.

pub mod codec;
pub mod keyed;
mod leb128;
pub mod log;
pub mod row;
pub mod state;
pub mod table;
