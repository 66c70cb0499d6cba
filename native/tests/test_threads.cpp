// The worker pool and its crews: every item once, several callers at a time, exceptions, many short calls, and a child
// after fork.
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "check.h"
#include "threads/rules.h"
#include "threads/threads.h"

using namespace quaver;

namespace {

// A member alone takes every item once: those at home from the front, then those of each other home from the back.
void test_homes() {
  for (const int width : {1, 2, 3, 28})
    for (const int items : {1, 2, 27, 28, 29, 200})
      for (int member = 0; member <= width; ++member) { // the last one came as one too many
        std::vector<std::pair<int, int>> homes;
        for (int h = 0; h < width; ++h)
          homes.emplace_back(home_edge(items, width, h), home_edge(items, width, h + 1));
        CHECK(homes.front().first == 0 && homes.back().second == items, "%d items, width %d", items, width);
        std::vector<int> expected;
        for (int i = 0; i < width; ++i) {
          const auto [first, last] = homes[static_cast<std::size_t>((member + i) % width)];
          CHECK((last - first) * width < items + width && (last - first + 1) * width > items, "%d items, width %d",
                items, width);
          for (int k = 0; k < last - first; ++k)
            expected.push_back(i == 0 && member < width ? first + k : last - 1 - k);
        }
        std::vector<int> taken;
        ItemSearch search(member, width);
        const auto take = [&](int home, bool front) {
          auto &[first, last] = homes[static_cast<std::size_t>(home)];
          return first == last ? -1 : front ? first++ : --last;
        };
        for (int item; (item = search.next(take)) >= 0;)
          taken.push_back(item);
        CHECK(taken == expected, "%d items, width %d, member %d", items, width, member);
      }
}

// Workers wake workers: each of 95 is woken once, within four rounds.
void test_waking() {
  int asleep = 95, woken = 0, rounds = 0;
  for (int awake = 1; asleep > 0; ++rounds) {
    int came = 0;
    for (int thread = 0; thread < awake; ++thread)
      came += take_sleepers(asleep);
    woken += came;
    awake = came;
  }
  CHECK(woken == 95 && rounds == 4 && take_sleepers(asleep) == 0, "%d woken in %d rounds", woken, rounds);
}

void test_every_item_once(ThreadPool &pool) {
  for (const int items : {0, 1, 2, 3, 17, 1000})
    for (const int width : {1, 2, 3, 8}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(items));
      pool.run(items, width, [&](int i) { seen[static_cast<std::size_t>(i)].fetch_add(1); });
      for (int i = 0; i < items; ++i)
        CHECK(seen[static_cast<std::size_t>(i)] == 1, "items %d width %d item %d: %d times", items, width, i,
              seen[static_cast<std::size_t>(i)].load());
    }
}

void test_results_are_visible(ThreadPool &pool) {
  // Plain memory written by helpers is read by the caller: a missing barrier shows under ThreadSanitizer.
  std::vector<int> values(64);
  for (int round = 0; round < 2000; ++round) {
    pool.run(64, 4, [&](int i) { values[static_cast<std::size_t>(i)] = round + i; });
    long sum = 0;
    for (const int v : values)
      sum += v;
    CHECK(sum == 64L * round + 63 * 32, "round %d", round);
  }
}

void test_width_is_held(ThreadPool &pool) {
  std::atomic<int> working{0}, most{0};
  pool.run(200, 2, [&](int) {
    const int now = working.fetch_add(1) + 1;
    int seen = most.load();
    while (now > seen && !most.compare_exchange_weak(seen, now)) {
    }
    std::this_thread::yield();
    working.fetch_sub(1);
  });
  CHECK(most <= 2, "%d at once", most.load());
}

void test_callers_at_once(ThreadPool &pool) {
  std::vector<std::thread> callers;
  std::atomic<long> total{0};
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int round = 0; round < 300; ++round)
        pool.run(16, 3, [&](int i) { total.fetch_add(i); });
    });
  for (std::thread &caller : callers)
    caller.join();
  CHECK(total == 4L * 300 * 120, "%ld", total.load());
}

void test_out_of_memory(ThreadPool &pool) {
  for (int round = 0; round < 50; ++round) {
    bool thrown = false;
    try {
      pool.run(32, 4, [&](int i) {
        if (i == round % 32)
          throw std::bad_alloc();
      });
    } catch (const std::bad_alloc &) {
      thrown = true;
    }
    CHECK(thrown, "round %d", round);
  }
  test_every_item_once(pool);
}

void help(Crew &crew) { crew.help(); }

// One crew of all threads.
template <class Lead> void together(ThreadPool &pool, int width, Lead &&lead) {
  pool.together(1, width, 1, [&](int, Crew &crew) { lead(crew); }, help);
}

// More items than a range has numbers for.
void test_crew_with_many_items(ThreadPool &pool) {
  constexpr int items = (1 << 21) + 3;
  std::atomic<long> total{0};
  together(pool, 2,
           [&](Crew &crew) { crew.run(items, [&](int i) { total.fetch_add(i, std::memory_order_relaxed); }); });
  CHECK(total == static_cast<long>(items) * (items - 1) / 2, "%ld", total.load());
}

void test_crew(ThreadPool &pool) {
  // Every stage sees what all items of the one before have written.
  for (const int width : {2, 3, 8})
    for (const int items : {1, 2, 5, 64}) {
      std::vector<long> values(static_cast<std::size_t>(items), 0), next(values);
      const auto caller = std::this_thread::get_id();
      bool led_by_caller = false;
      together(pool, width, [&](Crew &crew) {
        led_by_caller = std::this_thread::get_id() == caller;
        for (int stage = 0; stage < 300; ++stage) {
          crew.run(items, [&](int i) {
            next[static_cast<std::size_t>(i)] = 1 + values[static_cast<std::size_t>((i + 1) % items)];
          });
          std::swap(values, next);
        }
      });
      CHECK(led_by_caller, "width %d items %d", width, items);
      for (const long v : values)
        CHECK(v == 300, "width %d items %d: %ld stages", width, items, v);
    }
}

void test_crews_at_once(ThreadPool &pool) {
  std::vector<std::thread> callers;
  std::atomic<long> total{0};
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round)
        together(pool, 3, [&](Crew &crew) {
          for (int stage = 0; stage < 5; ++stage)
            crew.run(4, [&](int i) { total.fetch_add(i); });
        });
    });
  for (std::thread &caller : callers)
    caller.join();
  CHECK(total == 4L * 100 * 5 * 6, "%ld", total.load());
}

// Several teams: each item once and led by one thread, each crew as wide as planned, stages that see the one before.
void test_teams(ThreadPool &pool) {
  for (const int threads : {1, 2, 3, 5, 8, 31, 64})
    for (const int teams : {1, 2, 3, 7, 31})
      for (const int items : {1, 2, 9, 40}) {
        if (teams > threads)
          continue;
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(items));
        std::atomic<int> wrong{0};
        pool.together(
            teams, threads, items,
            [&](int item, Crew &crew) {
              seen[static_cast<std::size_t>(item)].fetch_add(1);
              wrong += crew.width() == threads / teams || (crew.width() == threads / teams + 1 && threads % teams > 0)
                           ? 0
                           : 1;
              std::vector<int> values(37, 0), next(values);
              for (int stage = 0; stage < 5; ++stage) {
                crew.run(37, [&](int i) {
                  next[static_cast<std::size_t>(i)] = 1 + values[static_cast<std::size_t>((i + 11) % 37)];
                });
                std::swap(values, next);
              }
              for (const int v : values)
                wrong += v == 5 ? 0 : 1;
            },
            help);
        CHECK(wrong == 0, "%d threads in %d teams: %d wrong", threads, teams, wrong.load());
        for (int i = 0; i < items; ++i)
          CHECK(seen[static_cast<std::size_t>(i)] == 1, "%d threads in %d teams: item %d %d times", threads, teams, i,
                seen[static_cast<std::size_t>(i)].load());
      }
}

// Out of memory in one team: the others end, too, and the caller hears of it.
void test_teams_out_of_memory(ThreadPool &pool) {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> led{0};
    bool thrown = false;
    try {
      pool.together(
          3, 7, 1000,
          [&](int, Crew &crew) {
            const int number = ++led;
            crew.run(8, [&](int i) {
              if (number == 4 && i == round % 8)
                throw std::bad_alloc();
            });
          },
          help);
    } catch (const std::bad_alloc &) {
      thrown = true;
    }
    CHECK(thrown, "round %d: %d items", round, led.load());
  }
  test_teams(pool);
}

// Callers and helpers of several calls are at most as many as one of them asks for; a call that is left alone gets
// helpers again.
void test_callers_share_threads(ThreadPool &pool) {
  constexpr int width = 3;
  pool.run(64, 8, [](int) { std::this_thread::sleep_for(std::chrono::microseconds(200)); }); // there are more workers
  std::atomic<int> working{0}, most{0}, helped{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < width; ++c)
    callers.emplace_back([&, c] {
      const auto caller = std::this_thread::get_id();
      for (int round = 0; round < 20; ++round)
        pool.run(c == 0 ? 200 : 10, width, [&](int) {
          const int now = working.fetch_add(1) + 1;
          int seen = most.load();
          while (now > seen && !most.compare_exchange_weak(seen, now)) {
          }
          std::this_thread::sleep_for(std::chrono::microseconds(50));
          working.fetch_sub(1);
          helped += std::this_thread::get_id() == caller ? 0 : 1;
        });
    });
  for (std::thread &caller : callers)
    caller.join();
  // A caller that begins is not kept waiting, so two helpers that came before it make some more for a while.
  CHECK(most < 2 * width, "%d at once", most.load());
  CHECK(helped > 0, "%d items by helpers", helped.load());
}

void test_crew_out_of_memory(ThreadPool &pool) {
  for (int round = 0; round < 50; ++round) {
    int stages = 0;
    bool thrown = false;
    try {
      together(pool, 3, [&](Crew &crew) {
        for (; stages < 10; ++stages)
          crew.run(8, [&](int i) {
            if (stages == 4 && i == round % 8)
              throw std::bad_alloc();
          });
      });
    } catch (const std::bad_alloc &) {
      thrown = true;
    }
    CHECK(thrown && stages == 4, "round %d: %d stages", round, stages);
  }
  test_crew(pool);
}

// A helper that waits long enough to sleep is woken by the next stage and by the end.
void test_crew_sleeps(ThreadPool &pool) {
  std::atomic<int> done{0};
  together(pool, 2, [&](Crew &crew) {
    for (int stage = 0; stage < 5; ++stage) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      crew.run(2, [&](int) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        done.fetch_add(1);
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  });
  CHECK(done == 10, "%d", done.load());
}

// What unwinds the caller waits for the helpers that work on its stack, be it an exception that nobody expects or the
// end of the thread.
template <class Call> void test_unwinding(const char *what, Call &&call) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> working{0}, begun{0};
    bool left_alone = false;
    std::thread caller([&] {
      struct Look {
        std::atomic<int> &working;
        bool &alone;
        ~Look() { alone = working == 0; }
      } look{working, left_alone};
      const auto thread = std::this_thread::get_id();
      auto work = [&](int) {
        if (std::this_thread::get_id() == thread) {
          for (int i = 0; i < 100 && begun == 0; ++i) // let a helper begin, if there is one
            std::this_thread::sleep_for(std::chrono::microseconds(100));
          call.leave();
        }
        begun.fetch_add(1);
        working.fetch_add(1);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        working.fetch_sub(1);
      };
      call(work);
    });
    caller.join();
    CHECK(left_alone, "%s round %d: %d at work", what, round, working.load());
    CHECK(begun < 1000, "%s round %d: %d items", what, round, begun.load()); // those left are left out
  }
}

struct Throws {
  ThreadPool &pool;
  bool crew;
  void leave() { throw 7; }
  template <class Work> void operator()(Work &work) {
    try {
      if (crew)
        together(pool, 3, [&](Crew &c) { c.run(1000, work); });
      else
        pool.run(1000, 3, work);
    } catch (int) {
    }
  }
};

struct Exits : Throws {
  void leave() { pthread_exit(nullptr); }
  template <class Work> void operator()(Work &work) {
    if (crew)
      together(pool, 3, [&](Crew &c) { c.run(1000, work); });
    else
      pool.run(1000, 3, work);
  }
};

void test_unwinding_callers(ThreadPool &pool) {
  for (const bool crew : {false, true}) {
    test_unwinding(crew ? "crew throws" : "throws", Throws{pool, crew});
#if defined(__GLIBC__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
    test_unwinding(crew ? "crew exits" : "exits", Exits{{pool, crew}});
#endif
  }
  test_every_item_once(pool);
  test_crew(pool);
}

#if defined(__linux__) && !defined(QUAVER_PORTABLE)
cpu_set_t allowed(pthread_t thread) {
  cpu_set_t set;
  CPU_ZERO(&set);
  pthread_getaffinity_np(thread, sizeof set, &set);
  return set;
}

// A worker that made room for its caller may use all CPUs again once it sleeps; one that helps a caller of few CPUs
// stays on those.
void test_affinity() {
  const cpu_set_t all = allowed(pthread_self());
  if (CPU_COUNT(&all) < 2)
    return;
  ThreadPool pool;
  std::atomic<bool> helped{false};
  pthread_t helper{};
  const auto caller = std::this_thread::get_id();
  const auto call = [&](auto &&by_helper) {
    helped = false;
    pool.run(2, 2, [&](int) {
      if (std::this_thread::get_id() != caller) {
        helper = pthread_self();
        by_helper();
        helped = true;
      } else {
        for (int i = 0; i < 2000 && !helped; ++i)
          std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    });
    return helped.load();
  };
  bool narrowed = false;
  if (!call([] {}))
    return; // no helper came: a busy machine
  for (int round = 0; round < 50 && !narrowed; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1)); // the helper sleeps
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    pthread_setaffinity_np(helper, sizeof here, &here); // so that it wakes beside its caller
    call([&] {
      const cpu_set_t now = allowed(pthread_self());
      narrowed = CPU_COUNT(&now) == CPU_COUNT(&all) - 1;
    });
  }
  for (int i = 0; i < 2000; ++i) {
    const cpu_set_t now = allowed(helper);
    if (!narrowed || CPU_EQUAL(&now, &all))
      break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const cpu_set_t after = allowed(helper);
  CHECK(!narrowed || CPU_EQUAL(&after, &all), "%d of %d CPUs", CPU_COUNT(&after), CPU_COUNT(&all));

  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; CPU_COUNT(&one) == 0; ++cpu)
    if (CPU_ISSET(cpu, &all))
      CPU_SET(cpu, &one);
  pthread_setaffinity_np(pthread_self(), sizeof one, &one);
  bool within = true;
  const bool came = call([&] {
    const cpu_set_t now = allowed(pthread_self());
    within = CPU_EQUAL(&now, &one);
  });
  pthread_setaffinity_np(pthread_self(), sizeof all, &all);
  CHECK(!came || within, "a helper outside of its caller's CPUs");
}
#endif

// ThreadSanitizer's runtime does not follow a fork of a process with threads; the portable form does not, either.
#if !defined(__SANITIZE_THREAD__) && !defined(QUAVER_PORTABLE)
void test_fork() {
  std::atomic<int> done{0};
  ThreadPool::shared().run(8, 4, [&](int) { done.fetch_add(1); });
  const pid_t child = fork();
  if (child == 0) {
    std::atomic<int> inside{0};
    ThreadPool::shared().run(8, 4, [&](int) { inside.fetch_add(1); });
    together(ThreadPool::shared(), 3, [&](Crew &crew) { crew.run(8, [&](int) { inside.fetch_add(1); }); });
    _exit(inside == 16 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child ended with status %d", status);
}
#endif

} // namespace

int main() {
  test_homes();
  test_waking();
  {
    ThreadPool pool;
    test_every_item_once(pool);
    test_results_are_visible(pool);
    test_width_is_held(pool);
    test_callers_at_once(pool);
    test_out_of_memory(pool);
    test_crew(pool);
    test_crew_with_many_items(pool);
    test_crews_at_once(pool);
    test_crew_out_of_memory(pool);
    test_teams(pool);
    test_teams_out_of_memory(pool);
    test_callers_share_threads(pool);
    test_crew_sleeps(pool);
    test_unwinding_callers(pool);
  }
#if defined(__linux__) && !defined(QUAVER_PORTABLE)
  test_affinity();
#endif
#if !defined(__SANITIZE_THREAD__) && !defined(QUAVER_PORTABLE)
  test_fork();
#endif
  return quaver::testing::report("threads");
}
