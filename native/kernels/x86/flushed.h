// Numbers as the instructions of bfloat16 take and give them, MXCSR aside: denormal ones are zero. For emulation.
#pragma once

#include <cstdint>

namespace quaver {
namespace {

inline float flushed(float v) { return __builtin_fabsf(v) < 0x1p-126f ? __builtin_copysignf(0.0f, v) : v; }

// The number whose upper half is a bfloat16; the lower half is zero.
inline float widened(std::uint32_t upper) { return flushed(__builtin_bit_cast(float, upper)); }

// a * b + c, rounded once.
inline float flushed_fma(float a, float b, float c) { return flushed(__builtin_fmaf(a, b, c)); }

} // namespace
} // namespace quaver
