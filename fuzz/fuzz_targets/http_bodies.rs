//! Bodies that the server is sent: records to push, and requests to models in every protocol.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = millstream_fuzz::choice(data) else { return };
    millstream::api::inference::read_every_protocol(choice, body);
});
