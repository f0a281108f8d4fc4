#![no_main]

libfuzzer_sys::fuzz_target!(
    init: lastmile_fuzz::write_seeds(&lastmile_fuzz::WINDOWS),
    |data: &[u8]| (lastmile_fuzz::WINDOWS.run)(data)
);
