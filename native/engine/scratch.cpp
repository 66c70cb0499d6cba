#include "engine/scratch.h"

#include "threads/sleep.h"

namespace quaver {
namespace {

// Bytes that a thread keeps between calls: enough for a chunk, or one text of 512 tokens, of any common model.
constexpr std::size_t kKept = 24 << 20;

} // namespace

Scratch &scratch() {
  thread_local Scratch buffers;
  return buffers;
}

Activations &activations() {
  thread_local Activations buffers;
  return buffers;
}

AtWork::AtWork(const KernelTable &kernels) : kernels_(kernels) {
  if (kernels_.enter != nullptr)
    kernels_.enter();
  around_sleep = {kernels_.leave, kernels_.enter};
}

AtWork::~AtWork() {
  around_sleep = {};
  if (kernels_.leave != nullptr)
    kernels_.leave();
  if (scratch().bytes() + activations().bytes() <= kKept)
    return;
  scratch() = {};
  activations() = {};
}

} // namespace quaver
