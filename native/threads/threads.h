// The worker pool: one for the process, shared by every encoder.
//
// A call hands over items and works on them itself; workers that are free help. Nothing waits for a worker that the
// operating system does not run: the caller can finish alone, so other programs cost their share and no more. Workers
// look for the next call for some microseconds and then sleep: an idle pool uses no CPU. Threads start with the first
// call that wants them. After a fork the child builds its own pool when it first needs one.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

namespace quaver {

// Threads that go through many short stages together. Handing one over costs some hundred nanoseconds while helpers
// spin: they stay with the crew from stage to stage instead of being called for each.
//
// One thread leads and publishes stages. It takes items like everyone else and waits only for items that a helper has
// begun. The leader takes items from the front, helpers take them from the back: with one helper, each core reads in
// the next stage what it wrote in this one.
class Crew {
  // The stage's number and the items [front, back) that nobody has taken, in one word: a taken item belongs to
  // this stage.
  struct Ticket {
    std::uint64_t word;
    static constexpr int bits = 20;
    static constexpr std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
    int front() const { return static_cast<int>(word & mask); }
    int back() const { return static_cast<int>(word >> bits & mask); }
    bool empty() const { return front() >= back(); }
    std::uint64_t stage() const { return word >> 2 * bits; }
  };

public:
  // For the leader: calls work(item) once for each item in [0, items), returns when all are done. Throws std::bad_alloc
  // when an item did, here or elsewhere. Whatever else unwinds the leader leaves only when no helper works any more.
  template <class Work> void run(int items, Work &&work) {
    using Plain = std::remove_reference_t<Work>;
    constexpr int most = static_cast<int>(Ticket::mask);
    for (int first = 0; first < items; first += most) {
      auto part = [first, &work](int item) { static_cast<Plain &>(work)(first + item); };
      run(
          std::min(items - first, most),
          [](void *context, int item) { (*static_cast<decltype(part) *>(context))(item); }, &part);
    }
  }

  // For a helper: takes items of every stage until the leader has finished.
  void help();
  // For the leader: no more stages.
  void finish();

private:
  using Call = void (*)(void *, int);
  static constexpr std::uint64_t finished = ~std::uint64_t{0};

  void run(int items, Call call, void *context);
  void take_items(bool leads);
  void await_items();
  bool await_stage(std::uint64_t seen);

  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<int> open_{0}; // items that are not done
  std::atomic<bool> out_of_memory_{false};
  Call call_ = nullptr;
  void *context_ = nullptr;
};

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
  // and run throws it when nobody works any more. What else unwinds the calling thread (pthread_exit does) also waits
  // for the helpers: they use objects on its stack.
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

  // Calls lead(crew) on the calling thread, with at most width - 1 workers as helpers of the crew; width > 1. A worker
  // calls help(crew), which calls crew.help() in turn.
  template <class Lead, class Help> void together(int width, Lead &&lead, Help &&help) {
    struct Context {
      Crew crew;
      std::remove_reference_t<Lead> &lead;
      std::remove_reference_t<Help> &help;
    } context{{}, lead, help};
    Job job(
        width, width,
        [](void *pointer, int item) {
          auto &[crew, program, helper] = *static_cast<Context *>(pointer);
          if (item != 0) {
            helper(crew);
            return;
          }
          struct Finish {
            Crew &of;
            ~Finish() { of.finish(); }
          } finish{crew};
          program(crew);
        },
        &context);
    job.next = 1; // the caller leads, whoever comes first
    job.led = true;
    run(job);
  }
  template <class Lead> void together(int width, Lead &&lead) {
    together(width, lead, [](Crew &crew) { crew.help(); });
  }

private:
  struct Place; // a thread's CPU and those it may use
  class Home;   // where a worker may run
  struct Job {
    using Call = void (*)(void *, int);
    Job(int items, int width, Call call, void *context) : items(items), width(width), call(call), context(context) {}

    void work(bool leads = false) {
      try {
        if (leads)
          call(context, 0);
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
    const Place *place = nullptr; // of the caller
    bool led = false;             // item 0 is the caller's
  };

  void run(Job &job);
  void await_helpers(Job &job);
  void start_workers(int wanted);
  void worker();
  Job *find_job();
  bool await_call(unsigned seen, Home &home);

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<Job *> jobs_;
  std::vector<std::thread> workers_;
  std::atomic<unsigned> calls_{0}; // grows with each job; a spinning worker watches it
  bool stop_ = false;
};

} // namespace quaver
