#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lorafit_fuzz::adapter(data));
