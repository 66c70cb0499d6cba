#include "threads/threads.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace quaver {
namespace {

// How long a worker looks for the next call, or a caller for its last helper, before it sleeps. The stages of a layer
// follow each other within a few microseconds; waking a sleeper takes about fifty.
constexpr std::chrono::microseconds kPatience{60};

void breathe() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory"); // some ten nanoseconds; `yield` does nothing on most cores
#else
  std::this_thread::yield();
#endif
}

// Spins until ready() or the patience is over; true when ready.
template <class Ready> bool spin(Ready &&ready) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready())
        return true;
      breathe();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

std::atomic<ThreadPool *> shared_pool{nullptr};

// The threads of a pool do not survive a fork, and its mutex may be held: the child forgets it (and its few bytes).
[[maybe_unused]] void forget_pool() { shared_pool.store(nullptr, std::memory_order_release); }

} // namespace

struct ThreadPool::Place {
#if defined(__linux__)
  int cpu = sched_getcpu();
  cpu_set_t allowed{};
  bool known = sched_getaffinity(0, sizeof allowed, &allowed) == 0; // not with more CPUs than the set holds
#endif
};

// A worker may run where the caller it helps may. If it woke on the caller's own CPU it moves to another: the scheduler
// would let the two take turns there for milliseconds. Before it sleeps, that CPU is allowed again.
class ThreadPool::Home {
public:
#if defined(__linux__)
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
#else
  void enter(const Place &) {}
  void sleep() {}
#endif
};

void Crew::take_items(bool leads) {
  Ticket ticket{ticket_.load(std::memory_order_acquire)};
  while (ticket.word != finished && !ticket.empty()) {
    const std::uint64_t left = leads ? ticket.word + 1 : ticket.word - (std::uint64_t{1} << Ticket::bits);
    if (!ticket_.compare_exchange_weak(ticket.word, left, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    {
      struct Done {
        Crew &of;
        ~Done() {
          if (of.open_.fetch_sub(1, std::memory_order_acq_rel) == 1)
            of.open_.notify_all();
        }
      } done{*this};
      try {
        call_(context_, leads ? ticket.front() : ticket.back() - 1);
      } catch (const std::bad_alloc &) {
        out_of_memory_.store(true, std::memory_order_relaxed);
      }
    }
    ticket.word = ticket_.load(std::memory_order_acquire);
  }
}

void Crew::run(int items, Call call, void *context) {
  call_ = call;
  context_ = context;
  open_.store(items, std::memory_order_relaxed);
  const Ticket before{ticket_.load(std::memory_order_relaxed)};
  const std::uint64_t stage = (before.stage() + 1) & (Ticket::mask >> 1);
  ticket_.store(stage << 2 * Ticket::bits | static_cast<std::uint64_t>(items) << Ticket::bits,
                std::memory_order_release);
  ticket_.notify_all();
  {
    struct Await {
      Crew &of;
      ~Await() { of.await_items(); }
    } await{*this};
    take_items(true);
  }
  if (out_of_memory_.load(std::memory_order_relaxed))
    throw std::bad_alloc();
}

// Takes back the items that nobody has begun (there are some when the leader is being unwound) and waits for the
// others.
void Crew::await_items() {
  Ticket ticket{ticket_.load(std::memory_order_acquire)};
  while (!ticket.empty()) {
    const std::uint64_t none = ticket.word + static_cast<std::uint64_t>(ticket.back() - ticket.front());
    if (ticket_.compare_exchange_weak(ticket.word, none, std::memory_order_acq_rel, std::memory_order_acquire)) {
      open_.fetch_sub(ticket.back() - ticket.front(), std::memory_order_acq_rel);
      break;
    }
  }
  if (!spin([this] { return open_.load(std::memory_order_acquire) == 0; }))
    for (int left; (left = open_.load(std::memory_order_acquire)) != 0;)
      open_.wait(left, std::memory_order_acquire);
}

void Crew::finish() {
  ticket_.store(finished, std::memory_order_release);
  ticket_.notify_all();
}

// Waits for a ticket other than the `seen` one; false when there is no more.
bool Crew::await_stage(std::uint64_t seen) {
  if (!spin([&] { return ticket_.load(std::memory_order_acquire) != seen; }))
    ticket_.wait(seen, std::memory_order_acquire);
  return ticket_.load(std::memory_order_acquire) != finished;
}

void Crew::help() {
  for (;;) {
    take_items(false);
    const std::uint64_t seen = ticket_.load(std::memory_order_acquire);
    if (seen == finished || (Ticket{seen}.empty() && !await_stage(seen)))
      return;
  }
}

// Never destroyed: at exit its workers sleep, and the process ends with them.
ThreadPool &ThreadPool::shared() {
  ThreadPool *pool = shared_pool.load(std::memory_order_acquire);
  if (pool != nullptr)
    return *pool;
#if defined(__linux__)
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
#endif
  auto *fresh = new ThreadPool;
  if (shared_pool.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel))
    return *fresh;
  delete fresh;
  return *pool;
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    calls_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread &worker : workers_)
    worker.join();
}

void ThreadPool::run(Job &job) {
  const Place place;
  job.place = &place;
  const int wanted = std::min(job.items, job.width) - 1;
  {
    const std::lock_guard lock(mutex_);
    start_workers(wanted);
    jobs_.push_back(&job);
    calls_.fetch_add(1, std::memory_order_release);
  }
  for (int i = 0; i < wanted; ++i)
    wake_.notify_one();

  {
    struct TakeBack {
      ThreadPool &pool;
      Job &job;
      ~TakeBack() {
        job.next.store(job.items, std::memory_order_relaxed);
        {
          const std::lock_guard lock(pool.mutex_); // from here on nobody joins
          pool.jobs_.erase(std::find(pool.jobs_.begin(), pool.jobs_.end(), &job));
        }
        pool.await_helpers(job);
      }
    } take_back{*this, job};
    job.work(job.led);
  }
  if (job.out_of_memory.load(std::memory_order_relaxed))
    throw std::bad_alloc();
}

void ThreadPool::await_helpers(Job &job) {
  if (spin([&] { return job.helpers.load(std::memory_order_acquire) == 0; })) {
    const std::lock_guard lock(mutex_); // the last helper has let go of the job
    return;
  }
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return job.helpers.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::start_workers(int wanted) {
  try {
    while (static_cast<int>(workers_.size()) < wanted)
      workers_.emplace_back([this] { worker(); });
  } catch (const std::system_error &) {
    // No more threads to be had: the existing ones, or the caller alone, do the work.
  }
}

ThreadPool::Job *ThreadPool::find_job() {
  for (Job *job : jobs_)
    if (job->helpers.load(std::memory_order_relaxed) < job->width - 1 &&
        job->next.load(std::memory_order_relaxed) < job->items)
      return job;
  return nullptr;
}

// Waits for a call after the `seen`th; false when the pool ends.
bool ThreadPool::await_call(unsigned seen, Home &home) {
  if (!spin([&] { return calls_.load(std::memory_order_acquire) != seen; }))
    home.sleep();
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [&] { return stop_ || calls_.load(std::memory_order_relaxed) != seen; });
  return !stop_;
}

void ThreadPool::worker() {
  unsigned seen = 0;
  Home home;
  while (await_call(seen, home)) {
    std::unique_lock lock(mutex_);
    seen = calls_.load(std::memory_order_relaxed);
    while (Job *job = find_job()) {
      job->helpers.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      home.enter(*job->place);
      job->work();
      lock.lock();
      if (job->helpers.fetch_sub(1, std::memory_order_acq_rel) == 1)
        done_.notify_all();
    }
  }
}

} // namespace quaver
