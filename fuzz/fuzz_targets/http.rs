#![no_main]

libfuzzer_sys::fuzz_target!(
    init: lastmile_fuzz::write_seeds(&lastmile_fuzz::HTTP),
    |data: &[u8]| (lastmile_fuzz::HTTP.run)(data)
);
