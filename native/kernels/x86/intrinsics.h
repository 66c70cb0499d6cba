// The vector intrinsics of x86, or their emulation.
//
// With QUAVER_EMULATE defined, SIMDe replaces every intrinsic by portable code. Kernels of an instruction set that this
// machine lacks can then be tested on it, bit for bit in the integers. Release builds never define it.
#pragma once

#ifdef QUAVER_EMULATE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#else
#include <immintrin.h>
#endif
