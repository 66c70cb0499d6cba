// What the kernels and whole calls cost on this machine, as lines of words and nanoseconds:
//
//   linear DEPTH GROUPS ACTIVATION ROWS NS    one panel of 64 outputs, among as many as such a layer has
//   attend D LENGTH NS                 one query of a head
//   keys D NS, values D NS             packing one of them
//   quantize COLUMNS NS, sums COLUMNS NS, norm COLUMNS NS      one row
//   call MODEL BATCH THREADS NS        a whole batch
//
//   measure [seconds per case [kernels]]       `make many-cores` builds and runs it; "kernels" leaves the calls out
//
// Every time is the least of repeated runs, which other programs disturb least: of a kernel on one core, of a call with
// one thread and with two, for batches of at most 8,192 tokens. Calls are repeated for ten times as long.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "cpu.h"
#include "engine/scratch.h"
#include "workload.h"

using namespace quaver;
using namespace quaver::many_cores;

namespace {

double budget = 0.05;

// The nanoseconds of the fastest run.
double least(const std::function<void()> &work, double seconds = budget) {
  double fastest = INFINITY, spent = 0.0;
  work();
  for (int runs = 0; spent < seconds || runs < 3; ++runs) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    fastest = std::min(fastest, took);
    spent += took;
  }
  return 1e9 * fastest;
}

void kernels_of(const KernelTable &k) {
  WeightMemory memory;
  std::vector<float> x(area(1024, 3200), 0.5f), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(i % 97) - 48.0f;
  struct Layer {
    LinearPlace place;
    int depth, outputs;
  };
  std::vector<Layer> layers;
  for (const int hidden : {384, 768})
    layers.insert(layers.end(), {{LinearPlace::qkv, hidden, 3 * hidden},
                                 {LinearPlace::out, hidden, hidden},
                                 {LinearPlace::up, hidden, 4 * hidden},
                                 {LinearPlace::down, 4 * hidden, hidden}});
  for (const Layer &layer : layers) {
    const LinearPtr linear = random_linear(layer.place, layer.outputs, layer.depth, k, memory);
    const auto groups = std::max(group_ends(layer.place, layer.depth).size(), std::size_t{1});
    const Activation activation = layer.place == LinearPlace::up ? Activation::gelu : Activation::none;
    for (const int rows : {1, 2, 3, 4, 5, 6, 8, 12, 16, 18, 19, 24, 32, 37, 48, 64, 73, 86, 96}) {
      const LinearInput input = linear->read(x.data(), row_step(layer.depth), rows, {}, scratch().input);
      linear->prepare(input, 0, rows);
      const double ns =
          least([&] { linear->multiply(input, 0, linear->panels(), y.data(), row_step(layer.outputs), activation); });
      std::printf("linear %d %zu %s %d %.1f\n", layer.depth, groups, activation == Activation::none ? "none" : "gelu",
                  rows, ns / linear->panels());
    }
    std::fflush(stdout);
  }
  for (const int d : {32, 64}) {
    for (const int length : {16, 64, 128, 256, 512}) {
      AttentionHead head{.query = x.data(),
                         .key = x.data() + d,
                         .value = x.data() + 2 * d,
                         .ld = row_step(3 * d),
                         .length = length,
                         .head_size = d};
      const Int8Head packed = scratch().head.fit(length, length, d, k);
      float *scores = scratch().scores.resize(static_cast<std::size_t>(score_floats(k, length)));
      k.pack_keys_int8(head, packed);
      k.pack_values_int8(head, packed);
      k.quantize_rows(head.query, head.ld, length, d, packed.query, round_up(d, kDepthStep), packed.query_scale,
                      packed.query_zero);
      std::printf("attend %d %d %.2f\n", d, length,
                  least([&] { k.attend_int8(head, packed, 0, length, scores, y.data(), d); }) / length);
      if (length == 256) {
        std::printf("keys %d %.2f\n", d, least([&] { k.pack_keys_int8(head, packed); }) / length);
        std::printf("values %d %.2f\n", d, least([&] { k.pack_values_int8(head, packed); }) / length);
      }
    }
  }
  std::vector<std::uint8_t> q(area(96, 3200));
  float scale[96], sums[96];
  std::int32_t zero[96];
  for (const int columns : {32, 64, 192, 320, 384, 704, 768}) {
    std::printf("quantize %d %.2f\n", columns,
                least([&] { k.quantize_rows(x.data(), row_step(columns), 96, columns, q.data(), 3200, scale, zero); }) /
                    96);
    if (columns >= 64)
      std::printf("sums %d %.2f\n", columns, least([&] { k.row_sums(q.data(), 3200, 96, columns, zero, sums); }) / 96);
    if (columns == 384 || columns == 768) {
      const Norm norm = plain_norm(columns);
      std::printf("norm %d %.2f\n", columns, least([&] {
                                               k.add_norm(x.data(), row_step(columns), y.data(), row_step(columns), 96,
                                                          columns, norm.view(), x.data(), row_step(columns));
                                             }) / 96);
    }
  }
}

} // namespace

int main(int argc, char **argv) {
  if (argc > 1)
    budget = std::atof(argv[1]);
  const KernelTable &k =
      *std::find_if(instruction_sets().begin(), instruction_sets().end(), [](const InstructionSet &set) {
         return set.available;
       })->kernels;
  std::printf("isa %s\n", k.name);
  kernels_of(k);
  for (const Shape &shape : kShapes) {
    if (argc > 2)
      break;
    Tables tables;
    const Encoder encoder(model_of(shape, k, tables));
    for (const Batch &batch : batches())
      for (const int threads : {1, 2}) {
        if (batch.ids.size() > 8192)
          continue;
        std::vector<float> vectors(area(batch.view().sequences, shape.hidden));
        const double ns =
            least([&] { encoder.encode(batch.view(), threads, vectors.data(), [] { return false; }); }, 10.0 * budget);
        std::string name = batch.name;
        std::replace(name.begin(), name.end(), ' ', '-');
        std::printf("call %s %s %d %.0f\n", shape.name, name.c_str(), threads, ns);
        std::fflush(stdout);
      }
  }
}
