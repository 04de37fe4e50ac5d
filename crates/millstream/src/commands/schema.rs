//! `millstream schema`.

use millstream_core::Result;

use super::print_json;
use crate::config::schema::json_schema;

pub fn run() -> Result<()> {
    print_json(&json_schema())
}
