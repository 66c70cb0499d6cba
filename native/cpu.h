// Which instruction sets this build has, and which of them this CPU and operating system allow.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.h"

namespace quaver {

struct InstructionSet {
  const KernelTable *kernels;
  bool available;        // the CPU has every feature that the file was compiled for, and the system saves the registers
  std::string refusal{}; // why the system has no room for the registers that the CPU has; empty otherwise
  bool bfloat16 = false; // whether the set is available, with products of bfloat16, kernels->bfloat16
};

// Every instruction set of this build, the best first; the last is "scalar", which is always available. Looks, and asks
// the system for nothing.
const std::vector<InstructionSet> &instruction_sets();

// Ask the system for what a table needs its permission for, once for the process: before the table's first use. Empty
// where this process, its threads and its children may use it, else why not. (Linux gives the tile registers of AMX
// so.)
std::string request_permission(const KernelTable &kernels);

// What the CPU calls itself, for reports.
std::string cpu_name();

} // namespace quaver
