// The instruction sets of AArch64; see kernels/instruction_sets.h. The features are those that -march takes.
#pragma once

#define QUAVER_INSTRUCTION_SETS(X)                                                                                     \
  X(neon_i8mm, simd | dotprod | i8mm)                                                                                  \
  X(neon_dotprod, simd | dotprod)                                                                                      \
  X(neon, simd)

// Products of bfloat16, for the table that names them.
#define QUAVER_BFLOAT16_SETS(B) B(neon_bf16, simd | bf16)
