//! Process-wide settings of libtorch that a program makes once, on purpose: threads, denormal numbers; and its memory.

use crate::ffi;

/// Sets how many threads libtorch uses within one operation, in the whole process. Values below one count as one.
///
/// Kernel choices are kept per thread count ([`crate::choice`]), so set it before training starts.
pub fn set_threads(count: i32) {
    tch::set_num_threads(count.max(1));
}

/// How many threads libtorch uses within one operation.
pub fn threads() -> i32 {
    tch::get_num_threads()
}

/// Treats denormal float numbers as zero on the calling thread, which some processors need for speed. Returns whether the
/// processor can.
pub fn set_flush_denormal(on: bool) -> bool {
    ffi::tm_set_flush_denormal(on)
}

/// Gives memory that was freed back to the operating system. The C library keeps it otherwise, for what comes next: after
/// many requests at once that is most of what they took. Takes about a millisecond, more where much is given back.
pub fn trim_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    ffi::malloc_trim(0);
}

/// Whether this build of libtorch has oneDNN's linear, and it is switched on.
pub fn onednn_available() -> bool {
    ffi::tm_onednn_available()
}

/// Whether this processor has the small-matrix kernels behind [`crate::Kernel::Blocked`] and the fused recurrent layers.
pub fn blocked_available() -> bool {
    ffi::tm_blocked_available()
}

/// For tests: lets [`crate::Matrix`] and [`crate::decode`] use the kernels of a level at most: 0 portable, 1 AVX2,
/// 2 AVX-512, 3 AVX512-BF16. Gives the level that they now use, in the whole process.
#[doc(hidden)]
pub fn limit_level(level: i32) -> i32 {
    ffi::tm_limit_level(level)
}
