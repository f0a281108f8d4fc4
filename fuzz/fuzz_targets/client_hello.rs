#![no_main]

libfuzzer_sys::fuzz_target!(
    init: lastmile_fuzz::write_seeds(&lastmile_fuzz::CLIENT_HELLO),
    |data: &[u8]| (lastmile_fuzz::CLIENT_HELLO.run)(data)
);
