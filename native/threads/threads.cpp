#include "threads/threads.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "system/fork.h"
#include "system/placement.h"
#include "threads/rules.h"
#include "threads/sleep.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace quaver {
namespace {

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

// The pool's mutex is held for some hundred nanoseconds. Many workers want it when a call begins and when it ends; one
// that slept for it would have to be woken, and then the next one.
std::unique_lock<std::mutex> lock_soon(std::mutex &mutex) {
  std::unique_lock lock(mutex, std::try_to_lock);
  if (!lock.owns_lock() && !spin([&lock] { return lock.try_lock(); }))
    lock.lock();
  return lock;
}

std::atomic<ThreadPool *> shared_pool{nullptr};

// The threads of a pool do not survive a fork, and its mutex may be held: the child forgets it (and its few bytes).
[[maybe_unused]] void forget_pool() { shared_pool.store(nullptr, std::memory_order_release); }

} // namespace

// --- A crew ---------------------------------------------------------------------------------------------------------

// An item of a home, from the front or the back; -1 where there is none.
int Crew::take(Home &home, bool front) {
  Range range{home.left.load(std::memory_order_acquire)};
  while (range.size() > 0) {
    const std::uint64_t left = front ? range.word + 1 : range.word - (std::uint64_t{1} << Range::bits);
    if (home.left.compare_exchange_weak(range.word, left, std::memory_order_acq_rel, std::memory_order_acquire))
      return front ? range.front() : range.back() - 1;
  }
  return -1;
}

// What the homes of a stage still have, the own one first. An item is counted as done at the end: until then the stage
// is not over, so nothing that is taken here belongs to another one.
void Crew::take_items(int member) {
  struct Done {
    Crew &of;
    int items = 0;
    ~Done() {
      if (items > 0 && of.open_.fetch_sub(items, std::memory_order_acq_rel) == items)
        of.open_.notify_all();
    }
  } done{*this};
  ItemSearch search(member, width_);
  const auto from = [this](int home, bool front) { return take(homes_[static_cast<std::size_t>(home)], front); };
  for (int item; (item = search.next(from)) >= 0;) {
    ++done.items;
    try {
      call_(context_, item);
    } catch (const std::bad_alloc &) {
      out_of_memory_.store(true, std::memory_order_relaxed);
    }
  }
}

void Crew::run(int items, Call call, void *context) {
  call_ = call;
  context_ = context;
  open_.store(items, std::memory_order_relaxed);
  const std::uint32_t stage = (stage_.load(std::memory_order_relaxed) + 1) & 0x7fffffff;
  for (int h = 0; h < width_; ++h) {
    const auto bound = [&](int home) { return static_cast<std::uint64_t>(home_edge(items, width_, home)); };
    homes_[static_cast<std::size_t>(h)].left.store(
        std::uint64_t{stage} << 2 * Range::bits | bound(h + 1) << Range::bits | bound(h), std::memory_order_release);
  }
  announce(stage);
  {
    struct Await {
      Crew &of;
      ~Await() { of.await_items(); }
    } await{*this};
    take_items(0);
  }
  if (out_of_memory_.load(std::memory_order_relaxed))
    throw std::bad_alloc();
}

// Takes back the items that nobody has begun (there are some when the leader is being unwound) and waits for the
// others.
void Crew::await_items() {
  for (Home &home : homes_) {
    Range range{home.left.load(std::memory_order_acquire)};
    while (range.size() > 0) {
      const std::uint64_t none = range.word + static_cast<std::uint64_t>(range.size());
      if (home.left.compare_exchange_weak(range.word, none, std::memory_order_acq_rel, std::memory_order_acquire)) {
        open_.fetch_sub(range.size(), std::memory_order_acq_rel);
        break;
      }
    }
  }
  if (spin([this] { return open_.load(std::memory_order_acquire) == 0; }))
    return;
  const Asleep asleep;
  for (int left; (left = open_.load(std::memory_order_acquire)) != 0;)
    open_.wait(left, std::memory_order_acquire);
}

void Crew::finish() { announce(finished); }

// Why not a release store: notify_all wakes nobody if it reads that nobody waits, and x86 may read that before others
// see the store. A member that then begins to wait, with the old stage, would sleep until the next one, or for ever.
void Crew::announce(std::uint32_t stage) {
  stage_.store(stage, std::memory_order_seq_cst);
  stage_.notify_all();
}

// Waits for a stage other than the `seen` one and returns it.
std::uint32_t Crew::await_stage(std::uint32_t seen) {
  std::uint32_t now = seen;
  const auto changed = [&] { return (now = stage_.load(std::memory_order_acquire)) != seen; };
  if (!spin(changed)) {
    const Asleep asleep;
    while (!changed())
      stage_.wait(seen, std::memory_order_acquire);
  }
  return now;
}

void Crew::help() {
  if (width_ == 1)
    return;
  const int member = seats_.fetch_add(1, std::memory_order_relaxed);
  std::uint32_t stage = stage_.load(std::memory_order_acquire);
  while (stage != finished) {
    take_items(member);
    stage = await_stage(stage);
  }
}

// --- The pool -------------------------------------------------------------------------------------------------------

// Never destroyed: at exit its workers sleep, and the process ends with them.
ThreadPool &ThreadPool::shared() {
  ThreadPool *pool = shared_pool.load(std::memory_order_acquire);
  if (pool != nullptr)
    return *pool;
  static const bool registered = (after_fork(forget_pool), true);
  (void)registered;
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

int ThreadPool::take_item(std::atomic<int> &next) { return next.fetch_add(1, std::memory_order_relaxed); }

void ThreadPool::run(Job &job) {
  const Place place;
  job.place = &place;
  int waking;
  {
    const auto lock = lock_soon(mutex_);
    start_workers(job.seats - 1);
    jobs_.push_back(&job);
    calls_.fetch_add(1, std::memory_order_release);
    full_.store(!has_room(job), std::memory_order_relaxed);
    waking = take_sleepers(job.asleep);
  }
  wake(waking);

  {
    struct TakeBack {
      ThreadPool &pool;
      Job &job;
      ~TakeBack() {
        job.next.store(job.seats, std::memory_order_relaxed);
        int waking = 0;
        {
          const auto lock = lock_soon(pool.mutex_); // from here on nobody joins
          pool.jobs_.erase(std::find(pool.jobs_.begin(), pool.jobs_.end(), &job));
          pool.full_.store(false, std::memory_order_relaxed);
          if (!pool.jobs_.empty()) { // there is room for a helper of another call
            pool.calls_.fetch_add(1, std::memory_order_release);
            waking = 1;
          }
        }
        pool.wake(waking);
        pool.await_helpers(job);
      }
    } take_back{*this, job};
    job.work(0);
  }
  if (job.out_of_memory.load(std::memory_order_relaxed))
    throw std::bad_alloc();
}

void ThreadPool::await_helpers(Job &job) {
  if (spin([&] { return job.helpers.load(std::memory_order_acquire) == 0; })) {
    const auto lock = lock_soon(mutex_); // the last helper has let go of the job
    return;
  }
  auto lock = lock_soon(mutex_);
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

void ThreadPool::wake(int workers) {
  for (int i = 0; i < workers; ++i)
    wake_.notify_one();
}

// Callers and helpers of all calls are at most as many threads as this one may have.
bool ThreadPool::has_room(const Job &job) const { return static_cast<int>(jobs_.size()) + helping_ < job.seats; }

ThreadPool::Job *ThreadPool::find_job() {
  for (Job *job : jobs_)
    if (job->next.load(std::memory_order_relaxed) < job->seats && has_room(*job))
      return job;
  return nullptr;
}

// Waits for a call after the `seen`th, or the end of the pool.
std::unique_lock<std::mutex> ThreadPool::await_call(unsigned seen, WorkerCpus &cpus) {
  if (full_.load(std::memory_order_relaxed) || !spin([&] { return calls_.load(std::memory_order_acquire) != seen; }))
    cpus.sleep();
  auto lock = lock_soon(mutex_);
  wake_.wait(lock, [&] { return stop_ || calls_.load(std::memory_order_relaxed) != seen; });
  return lock;
}

void ThreadPool::worker() {
  unsigned seen = 0;
  WorkerCpus cpus;
  for (;;) {
    auto lock = await_call(seen, cpus);
    if (stop_)
      return;
    seen = calls_.load(std::memory_order_relaxed);
    while (Job *job = find_job()) {
      job->helpers.fetch_add(1, std::memory_order_relaxed);
      ++helping_;
      const int seat = job->next.fetch_add(1, std::memory_order_relaxed), waking = take_sleepers(job->asleep);
      lock.unlock();
      wake(waking);
      cpus.enter(*job->place);
      job->work(seat);
      lock = lock_soon(mutex_);
      --helping_;
      if (job->helpers.fetch_sub(1, std::memory_order_acq_rel) == 1)
        done_.notify_all();
    }
  }
}

} // namespace quaver
