// The vector intrinsics of x86, or their emulation.
//
// With QUAVER_EMULATE defined, SIMDe gives every intrinsic a portable form, so that the kernels of an instruction set
// that the building machine lacks can be tested on it, bit for bit in the integers. Release builds never define it.
#pragma once

#ifdef QUAVER_EMULATE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#else
#include <immintrin.h>
#endif
