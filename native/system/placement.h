// Which CPUs a thread may run on. Linux lets a worker keep away from its caller's CPU and within its caller's mask; the
// portable form leaves both to the system.
#pragma once

#if defined(__linux__) && !defined(QUAVER_PORTABLE)
#include <pthread.h>
#include <sched.h>
#endif

namespace quaver {

#if defined(__linux__) && !defined(QUAVER_PORTABLE)

// A thread's CPU and those it may use.
class Place {
  friend class WorkerCpus;
  int cpu = sched_getcpu();
  cpu_set_t allowed{};
  bool known = sched_getaffinity(0, sizeof allowed, &allowed) == 0; // not with more CPUs than the set holds
};

// A worker may run where the caller it helps may. If it woke on the caller's own CPU it moves to another: the scheduler
// would let the two take turns there for milliseconds. Before it sleeps, that CPU is allowed again.
class WorkerCpus {
public:
  void enter(const Place &caller) {
    if (!caller.known)
      return;
    if (!here_.known || !CPU_EQUAL(&here_.allowed, &caller.allowed)) {
      here_ = caller;
      widen();
    }
    if (caller.cpu < 0 || caller.cpu != sched_getcpu())
      return;
    cpu_set_t others = caller.allowed;
    CPU_CLR(caller.cpu, &others);
    if (CPU_COUNT(&others) > 0)
      narrow_ = pthread_setaffinity_np(pthread_self(), sizeof others, &others) == 0;
  }
  void sleep() {
    if (narrow_)
      widen();
  }

private:
  // A CPU that was taken away in the meantime makes this fail; then the system has chosen others.
  void widen() {
    pthread_setaffinity_np(pthread_self(), sizeof here_.allowed, &here_.allowed);
    narrow_ = false;
  }

  Place here_;
  bool narrow_ = false;
};

#else

class Place {};

class WorkerCpus {
public:
  void enter(const Place &) {}
  void sleep() {}
};

#endif

} // namespace quaver
