// The test harness: count failures, print where, return them from main.
//
// Why not doctest or Catch2: `make` installs everything with pip, without root, and no package there carries their
// header for every Python that we support.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "cpu.h"

namespace quaver::testing {

inline int failures = 0;
inline int checks = 0;

#define CHECK(condition, ...)                                                                                          \
  do {                                                                                                                 \
    ++quaver::testing::checks;                                                                                         \
    if (!(condition)) {                                                                                                \
      if (++quaver::testing::failures <= 20) {                                                                         \
        std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                                    \
        std::printf(__VA_ARGS__);                                                                                      \
        std::printf("\n");                                                                                             \
      }                                                                                                                \
    }                                                                                                                  \
  } while (0)

inline int report(const char *name) {
  std::printf("%s: %d checks, %d failed\n", name, checks, failures);
  return failures == 0 ? 0 : 1;
}

// An array that ends where an unreadable page begins: one element too far is a crash, not a lucky read.
template <class T> class Guarded {
public:
  explicit Guarded(std::size_t size) : size_(size) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = (size * sizeof(T) + page - 1) / page * page;
    length_ = bytes + page;
    map_ = static_cast<char *>(mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (map_ == MAP_FAILED || mprotect(map_ + bytes, page, PROT_NONE) != 0)
      std::abort();
    data_ = reinterpret_cast<T *>(map_ + bytes - size * sizeof(T));
  }
  ~Guarded() { munmap(map_, length_); }
  Guarded(const Guarded &) = delete;
  Guarded &operator=(const Guarded &) = delete;

  T *data() { return data_; }
  const T *data() const { return data_; }
  std::size_t size() const { return size_; }
  T &operator[](std::size_t i) { return data_[i]; }
  const T &operator[](std::size_t i) const { return data_[i]; }
  T *begin() { return data_; }
  T *end() { return data_ + size_; }
  const T *begin() const { return data_; }
  const T *end() const { return data_ + size_; }

private:
  std::size_t size_, length_;
  char *map_;
  T *data_;
};

inline std::mt19937 generator(20240314);

template <class Array> void fill_normal(Array &values, float deviation) {
  std::normal_distribution<float> normal(0.0f, deviation);
  for (auto &v : values)
    v = normal(generator);
}

template <class Array> void fill_integers(Array &values, int low, int high) {
  std::uniform_int_distribution<int> uniform(low, high);
  using T = std::remove_reference_t<decltype(values[0])>;
  for (auto &v : values)
    v = static_cast<T>(uniform(generator));
}

// Emulated, a test takes tens of times as long. With QUAVER_TEST_SHARE=7 it goes through one in seven of its shapes
// where these are many: no list of sizes there has a multiple of seven, so each size is still met. Without it, all.
inline int test_share() {
  static const int share = [] {
    const char *text = std::getenv("QUAVER_TEST_SHARE");
    return text == nullptr ? 1 : std::max(std::atoi(text), 1);
  }();
  return share;
}
inline bool left_out() {
  static int shape = 0;
  return shape++ % test_share() != 0;
}

// The tables that this CPU can run, of the instruction sets that the command line names, else of all.
inline std::vector<const KernelTable *> available_kernels(int count = 0, char **names = nullptr) {
  std::vector<const KernelTable *> tables;
  int known = 1;
  for (const InstructionSet &set : instruction_sets()) {
    bool wanted = count < 2;
    for (int i = 1; i < count; ++i)
      if (std::strcmp(names[i], set.kernels->name) == 0) {
        wanted = true;
        ++known;
      }
    if (wanted && set.available && request_permission(*set.kernels).empty())
      tables.push_back(set.kernels);
    else if (wanted)
      std::printf("%s: this CPU cannot run it\n", set.kernels->name);
  }
  if (count >= 2 && known != count) {
    std::printf("an argument names no instruction set of this architecture\n");
    std::exit(2);
  }
  return tables;
}

// Products of bfloat16 that go with a table and run here, or null; those that several tables name, with the last of
// these alone.
inline const BFloat16Kernels *bfloat16_kernels(const KernelTable &table) {
  const BFloat16Kernels *found = nullptr;
  for (const InstructionSet &set : instruction_sets())
    if (set.kernels == &table && set.bfloat16)
      found = table.bfloat16;
    else if (set.bfloat16 && set.kernels->bfloat16 == found)
      found = nullptr;
  return found;
}

} // namespace quaver::testing
