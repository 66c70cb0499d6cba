#include "engine/model.h"

namespace quaver {

int Model::outputs() const {
  if (words.linear != nullptr)
    return words.linear->outputs();
  for (auto step = head.rbegin(); step != head.rend(); ++step)
    if (step->dense != nullptr)
      return step->dense->outputs();
  return geometry.hidden * static_cast<int>(geometry.pooling.size());
}

std::size_t Model::weight_bytes() const {
  std::size_t bytes = embeddings.projection == nullptr ? 0 : embeddings.projection->bytes();
  for (const Layer &layer : layers) {
    for (const LinearPtr *linear :
         {&layer.qkv, &layer.out, &layer.up, &layer.down, &layer.input.project, &layer.input.gate, &layer.input.out})
      bytes += *linear == nullptr ? 0 : (*linear)->bytes();
    for (const auto *positions : {&layer.position_queries, &layer.position_keys})
      for (const LinearPtr &head : *positions)
        bytes += head->bytes();
  }
  return bytes;
}

} // namespace quaver
