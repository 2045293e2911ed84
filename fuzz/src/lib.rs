//! What all programs for libFuzzer have in common.

/// The program that hands what libFuzzer makes up to this function. Without `cfg(fuzzing)`, which `make fuzz` sets, there is no libFuzzer.
#[macro_export]
macro_rules! target {
    ($read:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            $read(data);
        });

        #[cfg(not(fuzzing))]
        fn main() -> Result<(), &'static str> {
            Err("compiled without libFuzzer: this is a program of `make fuzz`")
        }
    };
}
