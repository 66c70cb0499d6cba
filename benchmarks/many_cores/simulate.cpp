// Batches on machines with many cores, in simulated time: the engine's own schedule, stages and items, kernels that
// cost what `measure` found instead of computing, and threads that cost what a hand-over does (simulated_threads.cpp).
//
//   simulate < costs       `make many-cores` builds it; benchmarks/many_cores.py runs it and says what the lines mean
//
// Reads the lines of `measure`, and of the machines to simulate:
//   machine NAME THREADS LINE_NS CLAIM_NS WAKE_NS NOTIFY_NS AWAKE READ_GB_PER_S KERNELS_FASTER
// Writes for each machine, model and batch: MACHINE MODEL BATCH THREADS_USED TEAMS NS_ONE NS WORK_NS
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>

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

std::map<std::pair<int, bool>, Curve> linear; // by depth and whether there is an activation: of rows
std::map<int, Curve> attention;               // by D: of keys
std::map<int, double> keys, values;           // by D
Curve quantize, norm;                         // of columns
double read_rate = 1e9;                       // bytes of weights per nanosecond and core
double faster = 1.0;

void add(double nanoseconds) { spent += nanoseconds / faster; }

const Curve &linear_of(int depth, Activation act) {
  const auto found = linear.find({depth, act != Activation::none});
  return (found != linear.end() ? found : linear.find({depth, act == Activation::none}))->second;
}

KernelTable priced(const KernelTable &like) {
  KernelTable k = like;
  k.name = "priced";
  k.enter = k.leave = nullptr;
  k.quantize_rows = [](const float *, std::ptrdiff_t, int rows, int cols, std::uint8_t *, std::ptrdiff_t, float *,
                       std::int32_t *) noexcept { add(rows * at(quantize, cols)); };
  k.linear_int8 = [](const Int8Rows &, int rows, const ResidualRows &residuals, const Int8Weights &w, int first,
                     int last, float *, std::ptrdiff_t, Activation act) noexcept {
    const double panel = at(linear_of(w.depth, act), rows + residuals.rows);
    spent += (last - first) * std::max(panel / faster, w.depth * kPanel / read_rate);
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
  double rate, faster;
};

} // namespace

int main() {
  std::vector<Simulated> machines;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string kind, name;
    words >> kind;
    if (kind == "linear") {
      int depth, rows;
      double ns;
      words >> depth >> name >> rows >> ns;
      linear[{depth, name != "none"}][rows] = ns;
    } else if (kind == "attend") {
      int d, length;
      words >> d >> length >> attention[d][length];
    } else if (kind == "keys" || kind == "values") {
      int d;
      words >> d;
      words >> (kind == "keys" ? keys : values)[d];
    } else if (kind == "quantize" || kind == "norm") {
      int columns;
      words >> columns;
      words >> (kind == "quantize" ? quantize : norm)[columns];
    } else if (kind == "machine") {
      Simulated m;
      words >> m.name >> m.threads >> m.costs.line >> m.costs.claim >> m.costs.wake >> m.costs.notify >>
          m.costs.awake >> m.rate >> m.faster;
      machines.push_back(m);
    }
  }
  const KernelTable table = priced(scalar_kernels);
  for (const Shape &shape : kShapes) {
    Tables tables;
    const Encoder encoder(model_of(shape, table, tables));
    for (const Simulated &m : machines)
      for (const Batch &batch : batches()) {
        machine = m.costs;
        faster = m.faster;
        std::vector<float> vectors(area(batch.view().sequences, shape.hidden));
        // One core has the cache's whole bandwidth.
        read_rate = 1e9;
        spent = 0.0;
        encoder.encode(batch.view(), 1, vectors.data(), [] { return false; });
        const double one = take_spent();
        read_rate = m.rate;
        call_end = call_work = 0.0;
        call_threads = call_teams = 1;
        encoder.encode(batch.view(), m.threads, vectors.data(), [] { return false; });
        if (call_threads == 1)
          call_end = call_work = take_spent();
        std::string name = batch.name;
        std::replace(name.begin(), name.end(), ' ', '-');
        std::printf("%s %s %s %d %d %.0f %.0f %.0f\n", m.name.c_str(), shape.name, name.c_str(), call_threads,
                    call_teams, one, call_end, call_work);
        std::fflush(stdout);
      }
  }
}
