// The instruction sets of AArch64; see kernels/instruction_sets.h. The features are those that -march takes.
#pragma once

#define QUAVER_INSTRUCTION_SETS(X)                                                                                     \
  X(neon_i8mm, simd | dotprod | i8mm)                                                                                  \
  X(neon_dotprod, simd | dotprod)                                                                                      \
  X(neon, simd)
