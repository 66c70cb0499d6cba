// The worker pool: one for the process, shared by every encoder.
//
// A call hands over items and works on them itself; workers that are free help. Nothing waits for a worker that the
// operating system does not run: the caller can finish alone, so other programs cost their share and no more. Workers
// look for the next call for some microseconds and then sleep: an idle pool uses no CPU. Threads start with the first
// call that wants them. After a fork the child builds its own pool when it first needs one.
//
// A call of many workers wakes a few of them, and each of those wakes a few more before it begins. Several calls at
// once share the threads that each of them asks for: their callers count, so callers and helpers together are no more.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

namespace quaver {

class Place;
class WorkerCpus;

// Threads that go through many short stages together. Handing one over costs some hundred nanoseconds while helpers
// spin: they stay with the crew from stage to stage instead of being called for each.
//
// One thread leads and publishes stages. It takes items like everyone else and waits only for items that a helper has
// begun. Each member has a home, a range of every stage's items: neighboring items, about the same ones in each stage,
// so that a core reads what it wrote before. It takes those from the front, then what others have left, from the back.
// Members touch nothing in common while they have items at home; each counts what it did in one step at the end.
class Crew {
public:
  // width >= 1: the leader and the helpers that are expected. A crew of one needs no helper and no memory.
  explicit Crew(int width) : width_(width), homes_(width > 1 ? static_cast<std::size_t>(width) : 0) {}

  int width() const { return width_; }

  // For the leader: calls work(item) once for each item in [0, items), returns when all are done. Throws std::bad_alloc
  // when an item did, here or elsewhere. Whatever else unwinds the leader leaves only when no helper works any more.
  template <class Work> void run(int items, Work &&work) {
    if (width_ == 1 || items == 1) {
      for (int item = 0; item < items; ++item)
        work(item);
      return;
    }
    using Plain = std::remove_reference_t<Work>;
    constexpr int most = static_cast<int>(Range::mask);
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

  void announce(std::uint32_t stage);

  // The stage's number and the items [front, back) that nobody has taken, in one word: a taken item belongs to this
  // stage.
  struct Range {
    std::uint64_t word;
    static constexpr int bits = 20;
    static constexpr std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
    int front() const { return static_cast<int>(word & mask); }
    int back() const { return static_cast<int>(word >> bits & mask); }
    int size() const { return std::max(back() - front(), 0); }
  };
  struct alignas(64) Home {
    std::atomic<std::uint64_t> left{0}; // a Range
  };
  static constexpr std::uint32_t finished = ~std::uint32_t{0};

  void run(int items, Call call, void *context);
  static int take(Home &home, bool front);
  void take_items(int member);
  void await_items();
  std::uint32_t await_stage(std::uint32_t seen);

  const int width_;
  std::vector<Home> homes_;
  alignas(64) std::atomic<std::uint32_t> stage_{0};
  std::atomic<int> seats_{1}; // that are taken
  Call call_ = nullptr;
  void *context_ = nullptr;
  alignas(64) std::atomic<int> open_{0}; // items that are not done
  std::atomic<bool> out_of_memory_{false};
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
    const int threads = std::max(std::min(items, width), 1);
    together(threads, threads, items, [&work](int item, Crew &) { work(item); }, [](Crew &) {});
  }

  // Calls lead(item, crew) once for each item in [0, items): `teams` threads take items, the caller among them, and
  // each leads a crew; the other threads, up to `threads` of all, are helpers of the crews, the same number in each or
  // one more. A helper calls help(crew), which calls crew.help() in turn. 1 <= teams <= threads. Otherwise as `run`.
  template <class Lead, class Help> void together(int teams, int threads, int items, Lead &&lead, Help &&help) {
    if (threads <= 1) {
      Crew alone(1);
      for (int item = 0; item < items; ++item)
        lead(item, alone);
      return;
    }
    struct Context {
      const int items;
      std::remove_reference_t<Lead> &lead;
      std::remove_reference_t<Help> &help;
      std::deque<Crew> crews{};
      std::atomic<int> next{0};
    } context{items, lead, help};
    for (int team = 0; team < teams; ++team)
      context.crews.emplace_back(threads / teams + (team < threads % teams ? 1 : 0));
    Job job(
        threads,
        [](void *pointer, int seat) {
          auto &[all, leads, helps, crews, next] = *static_cast<Context *>(pointer);
          const int count = static_cast<int>(crews.size());
          Crew &crew = crews[static_cast<std::size_t>(seat % count)];
          if (seat >= count) { // every crew has its leader: seats are taken in order
            helps(crew);
            return;
          }
          struct Finish {
            Crew &crew;
            std::atomic<int> &next;
            const int items;
            bool whole = false;
            ~Finish() {
              crew.finish();
              if (!whole)
                next.store(items, std::memory_order_relaxed);
            }
          } finish{crew, next, all};
          for (int item; (item = take_item(next)) < all;)
            leads(item, crew);
          finish.whole = true;
        },
        &context);
    run(job);
  }

private:
  struct Job {
    using Call = void (*)(void *, int);
    Job(int seats, Call call, void *context) : seats(seats), call(call), context(context) {}

    void work(int seat) {
      try {
        for (; seat < seats; seat = next.fetch_add(1, std::memory_order_relaxed))
          call(context, seat);
      } catch (const std::bad_alloc &) {
        out_of_memory.store(true, std::memory_order_relaxed);
        next.store(seats, std::memory_order_relaxed);
      }
    }

    const int seats; // threads; the caller has the first seat
    const Call call;
    void *const context;
    std::atomic<int> next{1};
    std::atomic<int> helpers{0}; // changed under the pool's mutex, read by the spinning caller
    std::atomic<bool> out_of_memory{false};
    int asleep = seats - 1;       // workers that nobody has woken for it; under the pool's mutex
    const Place *place = nullptr; // of the caller
  };

  static int take_item(std::atomic<int> &next);
  void run(Job &job);
  void await_helpers(Job &job);
  void start_workers(int wanted);
  void wake(int workers);
  void worker();
  bool has_room(const Job &job) const;
  Job *find_job();
  std::unique_lock<std::mutex> await_call(unsigned seen, WorkerCpus &cpus);

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<Job *> jobs_;
  int helping_ = 0; // workers that have a job
  std::vector<std::thread> workers_;
  std::atomic<unsigned> calls_{0}; // grows with each job; a spinning worker watches it
  std::atomic<bool> full_{false};  // no worker may help: it need not look for the next call
  bool stop_ = false;
};

} // namespace quaver
