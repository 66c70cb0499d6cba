// What the pool and its crews decide, without threads and memory: whose items a member takes, whom a thread wakes, how
// long it waits. benchmarks/many_cores/simulated_threads.cpp runs the same rules in simulated time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace quaver {

// How long a worker looks for the next call, or a caller for its last helper, before it sleeps. The stages of a layer
// follow each other within a few microseconds; waking a sleeper takes about fifty.
inline constexpr std::chrono::microseconds kPatience{60};

// Workers that a caller wakes, and that each worker wakes in turn: four rounds for 96. Waking one costs some
// microseconds, and each takes about fifty to begin.
inline constexpr int kWoken = 3;

// How many workers a thread wakes for a call, of those that nobody has woken for it: they are fewer then.
inline int take_sleepers(int &asleep) {
  const int workers = std::min(asleep, kWoken);
  asleep -= workers;
  return workers;
}

// The items of home h in a stage: [home_edge(items, width, h), home_edge(items, width, h + 1)).
inline int home_edge(int items, int width, int home) { return static_cast<int>(std::int64_t{items} * home / width); }

// Where a member of a crew looks for items of a stage: at home from the front, then in the homes of the others from the
// back, those behind it first. A member without a home, which came as one too many, takes all from the back.
class ItemSearch {
public:
  ItemSearch(int member, int width) : member_(member), width_(width) {}

  // take(home, front) takes an item of a home, -1 where there is none left. -1 when no home has any.
  template <class Take> int next(Take &&take) {
    for (; passed_ < width_; ++passed_)
      if (const int item = take((member_ + passed_) % width_, at_home()); item >= 0)
        return item;
    return -1;
  }

  bool at_home() const { return passed_ == 0 && member_ < width_; }

private:
  const int member_, width_;
  int passed_ = 0; // homes that have no items left
};

} // namespace quaver
