// The instruction sets of x86-64; see kernels/instruction_sets.h. The features are compiler options without their -m,
// and with _ for -.
#pragma once

#define QUAVER_INSTRUCTION_SETS(X)                                                                                     \
  X(amx, avx2 | fma | avx512f | avx512dq | avx512bw | avx512vl | avx512vnni | amx_tile | amx_int8)                     \
  X(avx512vnni, avx2 | fma | avx512f | avx512dq | avx512bw | avx512vl | avx512vnni)                                    \
  X(avxvnni, avx2 | fma | avxvnni)                                                                                     \
  X(avx512, avx2 | fma | avx512f | avx512dq | avx512bw | avx512vl)                                                     \
  X(avx2, avx2 | fma)

// Products of bfloat16, for the tables that name them.
#define QUAVER_BFLOAT16_SETS(B)                                                                                        \
  B(amxbf16, avx2 | fma | avx512f | avx512dq | avx512bw | avx512vl | avx512bf16 | amx_tile | amx_bf16)                 \
  B(avx512bf16, avx2 | fma | avx512f | avx512dq | avx512bw | avx512vl | avx512bf16)
