// The worker pool: one for the process, shared by every encoder.
//
// A call hands over items and works on them itself; workers that are free help. Nothing waits for a worker that the
// operating system does not run: the caller can finish alone, so foreign load costs its share and no more. Workers look
// for the next call for some microseconds and then sleep: an idle pool uses no CPU. Threads start with the first call
// that wants them. After a fork the child builds its own pool when it first needs one.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

namespace quaver {

class ThreadPool {
public:
  // The pool of this process.
  static ThreadPool &shared();

  ThreadPool() = default;
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  // Calls work(item) once for each item in [0, items), on the calling thread and at most width - 1 workers; returns
  // when all are done. Several threads may call at once. Work throws std::bad_alloc or nothing; then items are left out
  // and run throws it when nobody works any more.
  template <class Work> void run(int items, int width, Work &&work) {
    if (items <= 1 || width <= 1) {
      for (int item = 0; item < items; ++item)
        work(item);
      return;
    }
    using Plain = std::remove_reference_t<Work>;
    Job job(items, width, [](void *context, int item) { (*static_cast<Plain *>(context))(item); }, &work);
    run(job);
  }

private:
  struct Job {
    using Call = void (*)(void *, int);
    Job(int items, int width, Call call, void *context) : items(items), width(width), call(call), context(context) {}

    void work() {
      try {
        for (int item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;)
          call(context, item);
      } catch (const std::bad_alloc &) {
        out_of_memory.store(true, std::memory_order_relaxed);
        next.store(items, std::memory_order_relaxed);
      }
    }

    const int items, width;
    const Call call;
    void *const context;
    std::atomic<int> next{0};
    std::atomic<int> helpers{0}; // changed under the pool's mutex, read by the spinning caller
    std::atomic<bool> out_of_memory{false};
    int cpu = -1; // where the caller runs
  };

  void run(Job &job);
  void await_helpers(Job &job);
  void start_workers(int wanted);
  void worker();
  Job *find_job();
  bool await_call(unsigned seen);

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<Job *> jobs_;
  std::vector<std::thread> workers_;
  std::atomic<unsigned> calls_{0}; // grows with each job; a spinning worker watches it
  bool stop_ = false;
};

} // namespace quaver
