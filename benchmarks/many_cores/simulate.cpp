// Batches on machines with many cores, in simulated time: the engine's own schedule, stages and items, kernels that
// cost what `measure` found instead of computing, and threads that cost what a hand-over does (simulated_threads.cpp).
//
//   simulate < costs       `make many-cores` builds it; benchmarks/many_cores.py runs it and says what the lines mean
//
// Reads the lines of `measure`, and of the machines to simulate:
//   machine NAME THREADS LINE_NS CLAIM_NS WAKE_NS NOTIFY_NS AWAKE READ_GB_PER_S READ_ALONE_GB_PER_S KERNELS_FASTER
// where READ is what each core reads while all do, and READ_ALONE what one can read while few others do.
// Writes for each machine, model and batch:
//   MACHINE MODEL BATCH THREADS_USED TEAMS NS_ONE NS WORK_NS BEST_THREADS BEST_NS
// the last two of the fastest of several calls with at most so many threads, for batches of at most 512 tokens: what a
// perfect estimate of the hand-overs would have gained. Otherwise they are those of the call.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "clock.h"
#include "cpu.h"
#include "engine/scratch.h"
#include "workload.h"

using namespace quaver;
using namespace quaver::many_cores;

namespace {

using Curve = std::map<double, double>; // size to nanoseconds

// Linear between what was measured, proportional beyond.
double at(const Curve &curve, double size) {
  const auto above = curve.lower_bound(size);
  if (above == curve.end())
    return curve.rbegin()->second * size / curve.rbegin()->first;
  if (above == curve.begin() || above->first == size)
    return above->second;
  const auto below = std::prev(above);
  return below->second + (above->second - below->second) * (size - below->first) / (above->first - below->first);
}

std::map<std::tuple<int, int, bool>, Curve> linear; // by depth, groups and whether there is an activation: of rows
std::map<int, Curve> attention;                     // by D: of keys
std::map<int, double> keys, values;                 // by D
Curve quantize, sums, norm;                         // of columns
double read_all = 1e9, read_alone = 1e9;            // bytes of weights in a nanosecond: all cores, one core at most
double faster = 1.0;

void add(double nanoseconds) { spent += nanoseconds / faster; }

// `like` has the rates, which a kernel that is `times` as fast multiplies.
KernelTable priced(const KernelTable &like, double times) {
  KernelTable k = scalar_kernels;
  k.name = "priced";
  k.int8_rate = static_cast<int>(like.int8_rate * times);
  k.float32_rate = static_cast<int>(like.float32_rate * times);
  k.enter = k.leave = nullptr;
  k.quantize_rows = [](const float *, std::ptrdiff_t, int rows, int cols, std::uint8_t *, std::ptrdiff_t, float *,
                       std::int32_t *) noexcept { add(rows * at(quantize, cols)); };
  k.linear_int8 = [](const Int8Rows &, int rows, const ResidualRows &residuals, const Int8Weights &w, int first,
                     int last, float *, std::ptrdiff_t, Activation act) noexcept {
    const double panel = at(linear.at({w.depth, w.groups, act != Activation::none}), rows + residuals.rows);
    const double read_rate = std::min(read_alone, read_all / call_threads);
    spent += (last - first) * std::max(panel / faster, w.depth * kPanel / read_rate);
  };
  k.row_sums = [](const std::uint8_t *, std::ptrdiff_t, int rows, int depth, const std::int32_t *, float *) noexcept {
    add(rows * at(sums, depth));
  };
  k.pack_keys_int8 = [](const AttentionHead &head, const Int8Head &) noexcept {
    add(head.length * keys.at(head.head_size));
  };
  k.pack_values_int8 = [](const AttentionHead &head, const Int8Head &) noexcept {
    add(head.length * values.at(head.head_size));
  };
  k.attend_int8 = [](const AttentionHead &head, const Int8Head &, int first, int last, float *, float *,
                     std::ptrdiff_t) noexcept { add((last - first) * at(attention.at(head.head_size), head.length)); };
  k.add_norm = [](float *, std::ptrdiff_t, const float *, std::ptrdiff_t, int rows, int cols, const NormWeights &,
                  float *, std::ptrdiff_t) noexcept { add(rows * at(norm, cols)); };
  return k;
}

struct Simulated {
  std::string name;
  int threads;
  Machine costs;
  double read, alone, faster;
};

void simulate(const Simulated &m, const Shape &shape, const Encoder &encoder, const Batch &batch) {
  machine = m.costs;
  std::vector<float> vectors(area(batch.view().sequences, shape.hidden));
  const auto call = [&](int threads) {
    spent = call_end = call_work = 0.0;
    call_threads = call_teams = 1;
    encoder.encode(batch.view(), threads, vectors.data(), [] { return false; });
    if (call_threads == 1)
      call_end = call_work = take_spent();
    return call_end;
  };
  read_all = m.read * m.threads;
  read_alone = m.alone;
  const double one = call(1);
  std::pair<double, int> best{INFINITY, 0};
  if (batch.ids.size() <= 512)
    for (const int threads : {1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96})
      if (threads <= m.threads) {
        const double took = call(threads);
        best = std::min(best, {took, call_threads});
      }
  call(m.threads);
  best = std::min(best, {call_end, call_threads});
  std::string name = batch.name;
  std::replace(name.begin(), name.end(), ' ', '-');
  std::printf("%s %s %s %d %d %.0f %.0f %.0f %d %.0f\n", m.name.c_str(), shape.name, name.c_str(), call_threads,
              call_teams, one, call_end, call_work, best.second, best.first);
  std::fflush(stdout);
}

} // namespace

int main() {
  std::map<double, std::vector<Simulated>> machines; // by how much faster their kernels are
  const KernelTable *like = nullptr;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string kind, name;
    words >> kind;
    if (kind == "isa") {
      words >> name;
      for (const InstructionSet &set : instruction_sets())
        if (set.kernels->name == name)
          like = set.kernels;
    } else if (kind == "linear") {
      int depth, groups, rows;
      double ns;
      words >> depth >> groups >> name >> rows >> ns;
      linear[{depth, groups, name != "none"}][rows] = ns;
    } else if (kind == "attend") {
      int d, length;
      words >> d >> length >> attention[d][length];
    } else if (kind == "keys" || kind == "values") {
      int d;
      words >> d;
      words >> (kind == "keys" ? keys : values)[d];
    } else if (kind == "quantize" || kind == "sums" || kind == "norm") {
      int columns;
      words >> columns;
      words >> (kind == "quantize" ? quantize : kind == "sums" ? sums : norm)[columns];
    } else if (kind == "machine") {
      Simulated m;
      words >> m.name >> m.threads >> m.costs.line >> m.costs.claim >> m.costs.wake >> m.costs.notify >>
          m.costs.awake >> m.read >> m.alone >> m.faster;
      machines[m.faster].push_back(m);
    }
  }
  if (like == nullptr) {
    std::fprintf(stderr, "the costs must name an instruction set of this build\n");
    return 1;
  }
  for (const auto &[times, group] : machines) {
    const KernelTable table = priced(*like, times);
    faster = times;
    for (const Shape &shape : kShapes) {
      Tables tables;
      const Encoder encoder(model_of(shape, table, tables));
      for (const Simulated &m : group)
        for (const Batch &batch : batches())
          simulate(m, shape, encoder, batch);
    }
  }
}
