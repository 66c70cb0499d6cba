// Threads that do not exist: what threads/threads.cpp does, in simulated time. It is linked in its place, so that the
// engine's own code decides on chunks, teams, stages and items.
//
// Each leader of a team runs in a thread of its own, one at a time, the one whose clock is behind all others; it
// computes the items of all members of its team, each at the time of that member's clock. An item costs what the
// kernels in it add to `spent`.
#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "clock.h"
#include "threads/threads.h"

namespace quaver {

using namespace many_cores;

namespace {

struct Members {
  std::vector<double> clocks{0.0}; // when each is free; the leader first
};

std::mutex baton; // held by the simulated thread that runs
std::condition_variable turn;
std::map<Crew *, Members> crews;
std::map<double, std::vector<int>> waiting; // leaders that want an item, by their clocks
std::vector<double> arrivals;               // of the seats
int running = 0;                            // seats that neither ended nor wait
std::set<int> leaders;                      // seats that lead
double work = 0.0;

thread_local int own_seat = 0;
thread_local double own_clock = 0.0;

} // namespace

void Crew::help() {
  if (width_ > 1)
    crews[this].clocks.push_back(arrivals[static_cast<std::size_t>(own_seat)]);
}

void Crew::finish() {}

void Crew::run(int items, Call call, void *context) {
  std::vector<double> &clocks = crews[this].clocks;
  const double own = take_spent();
  work += own;
  own_clock += own;
  // The leader writes every home; those who wait see the stage's number change, then read their home.
  own_clock += machine.claim * width_;
  clocks.front() = own_clock;
  bool notified = false; // who waited too long sleeps, and one call wakes all that do
  for (std::size_t m = 1; m < clocks.size(); ++m) {
    const bool sleeps = own_clock - clocks[m] > machine.patience;
    clocks[m] = std::max(clocks[m], own_clock + 2 * machine.line + (sleeps ? machine.wake : 0.0));
    notified |= sleeps;
  }
  own_clock += notified ? machine.notify : 0.0;
  clocks.front() = own_clock;

  struct Range {
    int front, back;
  };
  std::vector<Range> homes;
  for (int h = 0; h < width_; ++h) {
    const auto bound = [&](int place) { return static_cast<int>(std::int64_t{items} * place / width_); };
    homes.push_back({bound(h), bound(h + 1)});
  }
  std::vector<std::size_t> active(clocks.size());
  for (std::size_t m = 0; m < active.size(); ++m)
    active[m] = m;
  std::vector<int> done(clocks.size(), 0);
  double counter = 0.0, last = clocks.front(); // when the count of open items is free, and reaches zero
  int open = items;
  while (!active.empty()) {
    const auto next = std::min_element(active.begin(), active.end(),
                                       [&](std::size_t a, std::size_t b) { return clocks[a] < clocks[b]; });
    const std::size_t m = *next;
    if (open == 0 && done[m] == 0 && m != 0) { // came too late
      active.erase(next);
      continue;
    }
    int item = -1;
    bool stolen = false;
    for (int i = 0; i < width_ && item < 0; ++i) {
      Range &home = homes[(m + static_cast<std::size_t>(i)) % homes.size()];
      if (home.front == home.back)
        continue;
      stolen = i > 0;
      item = stolen ? --home.back : home.front++;
    }
    if (item < 0) { // look at all homes, count what was done
      clocks[m] += machine.line * (1 + width_ / 8.0);
      if (done[m] > 0) {
        counter = std::max(counter, clocks[m]) + machine.line;
        clocks[m] = counter;
        open -= done[m];
        last = counter;
      }
      active.erase(next);
      continue;
    }
    const double before = clocks[m];
    call(context, item);
    const double cost = take_spent();
    work += cost;
    clocks[m] = before + cost + (stolen ? 2 * machine.line : machine.claim);
    ++done[m];
  }
  const bool slept = last - clocks.front() > machine.patience;
  own_clock = std::max(clocks.front(), last + machine.line + (slept ? machine.wake : 0.0));
  clocks.front() = own_clock;
}

ThreadPool &ThreadPool::shared() {
  static ThreadPool pool;
  return pool;
}

ThreadPool::~ThreadPool() = default;

// A leader takes an item when no other leader is behind it.
int ThreadPool::take_item(std::atomic<int> &next) {
  std::unique_lock lock(baton, std::adopt_lock);
  const double own = take_spent();
  work += own;
  own_clock += own;
  waiting[own_clock].push_back(own_seat);
  leaders.insert(own_seat);
  --running;
  turn.notify_all();
  turn.wait(lock, [] { return running == 0 && waiting.begin()->second.front() == own_seat; });
  auto &first = waiting.begin()->second;
  first.erase(first.begin());
  if (first.empty())
    waiting.erase(waiting.begin());
  ++running;
  lock.release();
  own_clock += machine.line;
  return next.fetch_add(1);
}

void ThreadPool::run(Job &job) {
  // When each seat is taken: workers wake workers.
  arrivals.assign(1, 0.0);
  constexpr int woken = 3;
  if (machine.awake)
    arrivals.resize(static_cast<std::size_t>(job.seats), 4 * machine.line);
  for (std::size_t from = 0; arrivals.size() < static_cast<std::size_t>(job.seats); ++from)
    for (int i = 1; i <= woken && arrivals.size() < static_cast<std::size_t>(job.seats); ++i)
      arrivals.push_back(arrivals[from] + i * machine.notify + machine.wake);
  std::sort(arrivals.begin() + 1, arrivals.end());
  crews.clear();
  waiting.clear();
  leaders.clear();
  work = 0.0;
  running = job.seats;
  std::vector<double> ends(static_cast<std::size_t>(job.seats), 0.0);
  std::vector<std::thread> threads;
  for (int seat = 0; seat < job.seats; ++seat)
    threads.emplace_back([&, seat] {
      std::unique_lock lock(baton);
      own_seat = seat;
      own_clock = arrivals[static_cast<std::size_t>(seat)] +
                  (seat == 0 && !machine.awake ? std::min(job.seats - 1, woken) * machine.notify : 0.0);
      spent = 0.0;
      job.call(job.context, seat); // a leader gives the baton away in take_item and has it again behind
      const double own = take_spent();
      work += own;
      ends[static_cast<std::size_t>(seat)] = own_clock + own;
      --running;
      turn.notify_all();
    });
  for (std::thread &thread : threads)
    thread.join();
  // A helper ends with its leader.
  call_teams = static_cast<int>(leaders.size());
  call_threads = job.seats;
  call_work = work;
  call_end = *std::max_element(ends.begin(), ends.begin() + job.seats) + 2 * machine.line;
}

} // namespace quaver
