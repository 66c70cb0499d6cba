// What a thread undoes before it sleeps in the midst of its work, and does again before it goes on.
//
// Kernels may hold registers from call to call, such as AMX's tiles. A thread that sleeps with them makes each switch
// to another thread save them, and keeps its core from its deepest sleep.
#pragma once

namespace quaver {

struct AroundSleep {
  void (*before)() noexcept = nullptr;
  void (*after)() noexcept = nullptr;
};
inline thread_local constinit AroundSleep around_sleep{};

// For as long as a thread sleeps.
class Asleep {
public:
  Asleep() {
    if (around_sleep.before != nullptr)
      around_sleep.before();
  }
  ~Asleep() {
    if (around_sleep.after != nullptr)
      around_sleep.after();
  }
  Asleep(const Asleep &) = delete;
  Asleep &operator=(const Asleep &) = delete;
};

} // namespace quaver
