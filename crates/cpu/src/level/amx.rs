//! Whether this process may use the tile unit (Intel AMX).
//!
//! The processor must have tiles of the size that the kernels expect (CPUID), the system must save them (XCR0) and must
//! have permitted them: Linux allocates the 8 KiB of a thread's tiles when it first uses them, and only for processes that
//! have asked (`arch_prctl`). It keeps the permission with the process, for threads that run already as for those that
//! start later, and refuses it where a thread's signal stack is too small for what a signal would then save. (Those of
//! Rust's threads are made by the size that the kernel names, which counts the tiles.)

use std::sync::OnceLock;

/// Whether tiles are there and permitted; asks the system the first time.
pub(crate) fn has_tiles() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| processor_has_tiles() && system_saves_tiles() && permitted())
}

/// `amx-tile` and `amx-bf16`, and eight tiles of sixteen rows of 64 bytes (palette 1), multiplied by 16 × 64 bytes.
fn processor_has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// Bits of EDX of leaf 7.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// Bit of ECX of leaf 1: XGETBV may be used.
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(0).eax < 0x1e || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    if features & (AMX_BF16 | AMX_TILE) != AMX_BF16 | AMX_TILE || __cpuid_count(0x1d, 0).eax < 1 {
        return false;
    }
    let (palette, unit) = (__cpuid_count(0x1d, 1), __cpuid_count(0x1e, 0));
    let (tile_bytes, row_bytes) = (palette.eax >> 16, palette.ebx & 0xffff);
    let (tiles, rows) = (palette.ebx >> 16, palette.ecx & 0xffff);
    let (most_k, most_n) = (unit.ebx & 0xff, unit.ebx >> 8 & 0xffff);
    tiles >= 8 && rows >= 16 && row_bytes >= 64 && tile_bytes >= 1024 && most_k >= 16 && most_n >= 64
}

/// Whether the system saves the tiles' configuration and contents: XCR0 bits 17 and 18.
fn system_saves_tiles() -> bool {
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: register 0 exists where XGETBV may be used, which CPUID said.
        unsafe { std::arch::x86_64::_xgetbv(0) }
    }
    const TILES: u64 = 0b11 << 17;
    // SAFETY: as above.
    std::arch::is_x86_feature_detected!("xsave") && unsafe { enabled() } & TILES == TILES
}

/// Asks for the permission, and asks again whether it was given.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    /// Of `arch_prctl`, from the kernel's `asm/prctl.h`.
    const GET_PERMISSION: libc::c_long = 0x1022;
    const REQUEST_PERMISSION: libc::c_long = 0x1023;
    /// Number of the tiles' contents among the extended states.
    const TILE_DATA: libc::c_long = 18;
    let mut states = 0u64;
    // SAFETY: the first call changes what the kernel saves of this process, the second writes one word to `states`.
    let answers = unsafe {
        let request = libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
        (request, libc::syscall(libc::SYS_arch_prctl, GET_PERMISSION, &raw mut states))
    };
    answers == (0, 0) && states >> TILE_DATA & 1 == 1
}

/// Other systems are not asked: none was tried.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}
