// The instruction sets of this architecture, the best first: the only list of them.
//
// X(NAME, FEATURES): CMake reads the list and compiles NAME.cpp beside it for these features. The file defines the
// table NAME_kernels. cpu.cpp knows each feature; a CPU that has all of them can run the table. "scalar" runs
// everywhere and is not in the list.
//
// B(NAME, FEATURES): the same for products of bfloat16, BFloat16Kernels, which go with some of the sets.
#pragma once

#if defined(__x86_64__)
#include "kernels/x86/instruction_sets.h"
#elif defined(__aarch64__)
#include "kernels/arm/instruction_sets.h"
#else
#define QUAVER_INSTRUCTION_SETS(X)
#define QUAVER_BFLOAT16_SETS(B)
#endif
