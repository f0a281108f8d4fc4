#![no_main]

libfuzzer_sys::fuzz_target!(
    init: lastmile_fuzz::write_seeds(&lastmile_fuzz::QUIC),
    |data: &[u8]| (lastmile_fuzz::QUIC.run)(data)
);
