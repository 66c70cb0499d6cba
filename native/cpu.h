// Which instruction sets this build has, and which of them this CPU and operating system allow.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.h"

namespace quaver {

struct InstructionSet {
  const KernelTable *kernels;
  bool available;        // the CPU has every feature that the file was compiled for, and the system saves the registers
  std::string refusal{}; // why the system does not let this process use what the CPU has; empty otherwise
  bool bfloat16 = false; // whether the set is available, with products of bfloat16, kernels->bfloat16
};

// Every instruction set of this build, the best first; the last is "scalar", which is always available. The first call
// asks the system for what needs its permission, once for the process.
const std::vector<InstructionSet> &instruction_sets();

// What the CPU calls itself, for reports.
std::string cpu_name();

} // namespace quaver
