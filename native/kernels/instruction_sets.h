// The instruction sets of this architecture, the best first: the only list of them.
//
// X(NAME, FEATURES): CMake reads this file and compiles kernels/x86/NAME.cpp with -mFEATURE for each feature. The file
// defines the table NAME_kernels. cpu.cpp knows the bit of each feature; a CPU that has all of them can run the table.
// "scalar" runs everywhere and is not in the list.
#pragma once

#if defined(__x86_64__)
#define QUAVER_INSTRUCTION_SETS(X)                                                                                     \
  X(avx512vnni, avx2 | fma | avx512f | avx512dq | avx512bw | avx512vl | avx512vnni)                                    \
  X(avxvnni, avx2 | fma | avxvnni)                                                                                     \
  X(avx2, avx2 | fma)
#else
#define QUAVER_INSTRUCTION_SETS(X)
#endif
