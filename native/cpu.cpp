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

#endif

// The features that kernels/instruction_sets.h names.
enum Feature : unsigned {
  avx2 = 1u << 0,
  fma = 1u << 1,
  avxvnni = 1u << 2,
  avx512f = 1u << 3,
  avx512dq = 1u << 4,
  avx512bw = 1u << 5,
  avx512vl = 1u << 6,
  avx512vnni = 1u << 7,
};

// What the CPU has and the operating system saves.
unsigned detect() {
  unsigned found = 0;
#if defined(__x86_64__)
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0), seven_one = cpuid(7, 1);
  const unsigned states = saved_states();
  const auto add = [&found](Feature feature, bool there) { found |= there ? feature : 0u; };
  if ((states & 0x06u) == 0x06u && bit(one.ecx, 28)) { // xmm and ymm are saved; AVX
    add(avx2, bit(seven.ebx, 5));
    add(fma, bit(one.ecx, 12));
    add(avxvnni, bit(seven_one.eax, 4));
    if ((states & 0xe6u) == 0xe6u) { // zmm as well
      add(avx512f, bit(seven.ebx, 16));
      add(avx512dq, bit(seven.ebx, 17));
      add(avx512bw, bit(seven.ebx, 30));
      add(avx512vl, bit(seven.ebx, 31));
      add(avx512vnni, bit(seven.ecx, 11));
    }
  }
#ifdef QUAVER_EVEX // avxvnni.cpp holds the same instruction in AVX-512's encoding
  found &= ~unsigned{avxvnni};
  add(avxvnni, (found & avx512vl) != 0 && (found & avx512vnni) != 0);
#endif
#endif
#ifdef QUAVER_EMULATE // everything beyond these two is emulated, see CMakeLists.txt
  constexpr unsigned native = avx2 | fma;
  found = (found & native) == native ? ~0u : found & native;
#endif
  return found;
}

} // namespace

const std::vector<InstructionSet> &instruction_sets() {
  static const std::vector<InstructionSet> sets = [] {
    std::vector<InstructionSet> listed;
    [[maybe_unused]] const unsigned there = detect();
#define QUAVER_ADD(name, features) listed.push_back({&name##_kernels, (there & (features)) == (features)});
    QUAVER_INSTRUCTION_SETS(QUAVER_ADD)
#undef QUAVER_ADD
    listed.push_back({&scalar_kernels, true});
    return listed;
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
