#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hookmoat::fuzz::run("broker_message", data));
