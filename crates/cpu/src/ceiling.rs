//! What the machine can do at most, measured in a few milliseconds: the denominators of "share of peak".

/// Whether `vdpbf16ps` does more products a second than f32 multiply-adds on widened numbers.
pub(crate) fn bf16_dots_pay() -> bool {
    true
}
