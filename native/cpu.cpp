#include "cpu.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace quaver {
namespace {

#if defined(__x86_64__)

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned sub) {
  Registers r;
  if (__get_cpuid_max(leaf & 0x80000000u, nullptr) < leaf)
    return r;
  __cpuid_count(leaf, sub, r.eax, r.ebx, r.ecx, r.edx);
  return r;
}

bool bit(unsigned word, int n) { return (word >> n & 1u) != 0; }

// The register states that the operating system saves on a context switch; 0 without OSXSAVE.
unsigned saved_states() {
  if (!bit(cpuid(1, 0).ecx, 27))
    return 0;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

struct Features {
  bool avx2, avxvnni, avx512vnni;
};

// Each line asks for the bits behind the compiler flags of that file, see CMakeLists.txt.
Features detect() {
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0), seven_one = cpuid(7, 1);
  const unsigned states = saved_states();
  const bool ymm = (states & 0x06u) == 0x06u, zmm = (states & 0xe6u) == 0xe6u;
  Features f;
  f.avx2 = ymm && bit(one.ecx, 28) && bit(one.ecx, 12) && bit(seven.ebx, 5); // avx, fma, avx2
  f.avxvnni = f.avx2 && bit(seven_one.eax, 4);
  f.avx512vnni = f.avx2 && zmm && bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) &&
                 bit(seven.ebx, 31) && bit(seven.ecx, 11); // f, dq, bw, vl, vnni
#ifdef QUAVER_EVEX
  f.avxvnni = f.avx512vnni; // the same instruction in another encoding
#endif
  return f;
}

#endif

} // namespace

const std::vector<InstructionSet> &instruction_sets() {
  static const std::vector<InstructionSet> sets = [] {
    std::vector<InstructionSet> found;
#if defined(__x86_64__)
    const Features f = detect();
#ifdef QUAVER_EMULATE
    constexpr bool emulated = true; // these two files were compiled without a single instruction that a CPU could lack
#else
    constexpr bool emulated = false;
#endif
    found.push_back({&avx512vnni_kernels, f.avx512vnni || emulated});
    found.push_back({&avxvnni_kernels, f.avxvnni || emulated});
    found.push_back({&avx2_kernels, f.avx2});
#endif
    found.push_back({&scalar_kernels, true});
    return found;
  }();
  return sets;
}

std::string cpu_name() {
#if defined(__x86_64__)
  if (cpuid(0x80000000u, 0).eax >= 0x80000004u) {
    char text[49] = {};
    for (unsigned i = 0; i < 3; ++i) {
      const Registers r = cpuid(0x80000002u + i, 0);
      const unsigned words[4] = {r.eax, r.ebx, r.ecx, r.edx};
      std::memcpy(text + 16 * i, words, sizeof words);
    }
    std::string name(text);
    const auto first = name.find_first_not_of(' '), last = name.find_last_not_of(' ');
    if (first != std::string::npos)
      return name.substr(first, last - first + 1);
  }
#endif
  return "unknown CPU";
}

} // namespace quaver
