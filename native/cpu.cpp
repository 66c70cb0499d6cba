#include "cpu.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <cerrno>

#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <fstream>

#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace quaver {
namespace {

// What this process can use, of the features that the list of this architecture names.
struct Features {
  unsigned usable = 0;
  unsigned refused = 0; // what the CPU has and the system refuses
  std::string refusal{};
};

#if defined(__x86_64__)

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned sub) {
  Registers r;
  if (static_cast<unsigned>(__get_cpuid_max(leaf & 0x80000000u, nullptr)) < leaf) // an int in clang
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

// The features that kernels/x86/instruction_sets.h names.
enum Feature : unsigned {
  avx2 = 1u << 0,
  fma = 1u << 1,
  avxvnni = 1u << 2,
  avx512f = 1u << 3,
  avx512dq = 1u << 4,
  avx512bw = 1u << 5,
  avx512vl = 1u << 6,
  avx512vnni = 1u << 7,
  amx_tile = 1u << 8,
  amx_int8 = 1u << 9,
  avx512bf16 = 1u << 10,
  amx_bf16 = 1u << 11,
};

#if defined(__linux__)
// Of arch_prctl, which headers may be too old for.
constexpr long kSupportedStates = 0x1021, kRequestState = 0x1023; // ARCH_GET_XCOMP_SUPP, ARCH_REQ_XCOMP_PERM
constexpr unsigned kTileData = 18;                                // XFEATURE_XTILEDATA

std::string tile_error(int error, const char *rule) {
  return std::string("Linux refuses the tile registers: ") + std::strerror(error) + "; " + rule;
}
constexpr const char *kTileRule = "Linux 5.16 or later gives them, unless a sandbox forbids arch_prctl";
#endif

// Why no process has the tile registers here; empty where they can be asked for. Linux alone has them.
std::string missing_tiles([[maybe_unused]] unsigned states) {
#if defined(__linux__)
  std::uint64_t supported = 0;
  if (syscall(SYS_arch_prctl, kSupportedStates, &supported) != 0)
    return tile_error(errno, kTileRule);
  if ((supported >> kTileData & 1u) == 0 || (states & 0x60000u) != 0x60000u)
    return "the system does not save the tile registers";
  return {};
#else
  return "this system has no tile registers";
#endif
}

// Ask for the tile registers. Empty where this process, its threads and its children may use them, else why not. A
// process that does not ask gets SIGILL from the first tile.
[[maybe_unused]] std::string tile_refusal() {
#if defined(__linux__)
  if (syscall(SYS_arch_prctl, kRequestState, long{kTileData}) == 0)
    return {};
  const int error = errno;
  return tile_error(error, error == ENOSPC // it checks the stack of every thread
                               ? "an alternate signal stack is too small for them, so create the model before what "
                                 "made that stack"
                               : kTileRule);
#else
  return "this system has no tile registers";
#endif
}

// What the CPU has and the operating system saves.
Features detect() {
  unsigned found = 0, refused = 0;
  std::string refusal;
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
      add(avx512bf16, bit(seven_one.eax, 5));
    }
    if (bit(seven.edx, 24)) {
      const unsigned tiles =
          amx_tile | (bit(seven.edx, 25) ? unsigned{amx_int8} : 0u) | (bit(seven.edx, 22) ? unsigned{amx_bf16} : 0u);
      refusal = missing_tiles(states);
      (refusal.empty() ? found : refused) |= tiles;
    }
  }
#ifdef QUAVER_EVEX // avxvnni.cpp holds the same instruction in AVX-512's encoding
  found &= ~unsigned{avxvnni};
  add(avxvnni, (found & avx512vl) != 0 && (found & avx512vnni) != 0);
#endif
#ifdef QUAVER_EMULATE // everything beyond these two is emulated, see CMakeLists.txt
  constexpr unsigned native = avx2 | fma;
  found = (found & native) == native ? ~0u : found & native;
  refused = 0;
#endif
  return {found, refused, refusal};
}

#elif defined(__aarch64__)

// The features that kernels/arm/instruction_sets.h names.
enum Feature : unsigned {
  simd = 1u << 0, // of every AArch64 CPU
  dotprod = 1u << 1,
  i8mm = 1u << 2,
  bf16 = 1u << 3,
};

#if defined(__APPLE__)
bool has(const char *feature) {
  int value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value != 0;
}
#endif

Features detect() {
  unsigned found = simd;
#if defined(__linux__) // the bits of Linux' asm/hwcap.h, which older systems' headers lack
  found |= (getauxval(AT_HWCAP) >> 20 & 1u) != 0 ? dotprod : 0u;
  found |= (getauxval(AT_HWCAP2) >> 13 & 1u) != 0 ? i8mm : 0u;
  found |= (getauxval(AT_HWCAP2) >> 14 & 1u) != 0 ? bf16 : 0u;
#elif defined(__APPLE__)
  found |= has("hw.optional.arm.FEAT_DotProd") ? dotprod : 0u;
  found |= has("hw.optional.arm.FEAT_I8MM") ? i8mm : 0u;
  found |= has("hw.optional.arm.FEAT_BF16") ? bf16 : 0u;
#endif
  return {found};
}

#else

Features detect() { return {}; }

#endif

// Whether a table has products of bfloat16, and this process can use what they need.
bool has_bfloat16([[maybe_unused]] const KernelTable &table, [[maybe_unused]] const Features &found) {
#define QUAVER_ASK(name, features)                                                                                     \
  if (table.bfloat16 == &name##_kernels)                                                                               \
    return (found.usable & (features)) == (features);
  QUAVER_BFLOAT16_SETS(QUAVER_ASK)
#undef QUAVER_ASK
  return false;
}

} // namespace

std::string request_permission([[maybe_unused]] const KernelTable &kernels) {
#if defined(__x86_64__) && !defined(QUAVER_EMULATE)
  unsigned needed = 0;
#define QUAVER_ASK(name, features)                                                                                     \
  if (&kernels == &name##_kernels)                                                                                     \
    needed = features;
  QUAVER_INSTRUCTION_SETS(QUAVER_ASK)
#undef QUAVER_ASK
  if ((needed & amx_tile) != 0) {
    static const std::string answer = tile_refusal();
    return answer;
  }
#endif
  return {};
}

const std::vector<InstructionSet> &instruction_sets() {
  static const std::vector<InstructionSet> sets = [] {
    std::vector<InstructionSet> listed;
    [[maybe_unused]] const Features found = detect();
#define QUAVER_ADD(name, features)                                                                                     \
  listed.push_back({&name##_kernels, (found.usable & (features)) == (features),                                        \
                    (found.refused & (features)) != 0 ? found.refusal : ""});
    QUAVER_INSTRUCTION_SETS(QUAVER_ADD)
#undef QUAVER_ADD
    listed.push_back({&scalar_kernels, true, {}});
    for (InstructionSet &set : listed)
      set.bfloat16 = set.available && has_bfloat16(*set.kernels, found);
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
#elif defined(__aarch64__) && defined(__linux__)
  // The implementer in bits 24 to 31 and the part in bits 4 to 15 are all that an Arm core says of itself.
  std::ifstream file("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1");
  if (std::string text; file >> text)
    return "Arm core " + text;
#elif defined(__aarch64__) && defined(__APPLE__)
  char text[128] = {};
  std::size_t size = sizeof text - 1;
  if (sysctlbyname("machdep.cpu.brand_string", text, &size, nullptr, 0) == 0)
    return text;
#endif
  return "unknown CPU";
}

} // namespace quaver
