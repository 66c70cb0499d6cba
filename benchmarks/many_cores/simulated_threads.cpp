// Threads that do not exist: what threads/threads.cpp does, in simulated time. It is linked in its place, so that the
// engine's own code decides on chunks, teams, stages and items.
//
// The same code decides here and there who leads and who helps (threads/threads.h), which items are whose, whom a
// thread wakes and how long it waits (threads/rules.h). What this file says itself is what that takes:
//   joining and leaving  the pool's mutex is free, then three cache lines: its own, the count of helpers, the call
//   a stage              the leader writes a home for each member; a member reads the stage's number and its home
//   an item              one atomic operation at home, two cache lines elsewhere
//   the end of a stage   a look at all homes, then the count of open items, one member after the other
//   sleep                who waits longer than kPatience runs machine.wake after it is notified
// Left out: several calls at a time, a thread that takes a second seat because nobody else came, the CPUs that a worker
// keeps away from, threads that the system does not run.
//
// Each leader of a team runs in a thread of its own, one at a time, the one whose clock is behind all others; it
// computes the items of all members of its team, each at the time of that member's clock. An item costs what the
// kernels in it add to `spent`.
#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <queue>
#include <set>
#include <vector>

#include "clock.h"
#include "threads/rules.h"
#include "threads/threads.h"

namespace quaver {

using namespace many_cores;

namespace {

constexpr double patience = std::chrono::duration<double, std::nano>(kPatience).count();

// When a thread goes on that waits from `since` until `until`.
double after_waiting(double since, double until) {
  return std::max(since, until + (until - since > patience ? machine.wake : 0.0));
}

// When a thread that wants the pool's mutex `at` some time has let go of it; `free` is when it is free.
double pass_mutex(double &free, double at) { return free = std::max(free, at) + 3 * machine.line; }

struct Members {
  std::vector<double> arrivals{0.0}; // of the helpers, behind a place for the leader
  std::vector<double> clocks{};      // when each member is free; the leader first. Empty before the first stage.
  int leader = 0;                    // its seat
  double end = 0.0;                  // of the leader's work
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

// The clock of the simulated thread that runs.
double now() {
  const double own = take_spent();
  work += own;
  return own_clock += own;
}

} // namespace

void Crew::help() {
  if (width_ > 1)
    crews[this].arrivals.push_back(arrivals[static_cast<std::size_t>(own_seat)]);
}

void Crew::finish() {
  Members &members = crews[this];
  members.leader = own_seat;
  members.end = now();
}

void Crew::run(int items, Call call, void *context) {
  Members &members = crews[this];
  std::vector<double> &clocks = members.clocks;
  if (clocks.empty()) { // seats are taken in the order of arrivals
    std::sort(members.arrivals.begin() + 1, members.arrivals.end());
    clocks = members.arrivals;
  }
  own_clock = now();
  // The leader writes every home; those who wait see the stage's number change, then read their home.
  own_clock += machine.claim * width_;
  clocks.front() = own_clock;
  bool notified = false; // who waited too long sleeps, and one call wakes all that do
  for (std::size_t m = 1; m < clocks.size(); ++m) {
    notified |= own_clock - clocks[m] > patience;
    clocks[m] = after_waiting(clocks[m], own_clock + 2 * machine.line);
  }
  own_clock += notified ? machine.notify : 0.0;
  clocks.front() = own_clock;

  struct Range {
    int front, back;
  };
  std::vector<Range> homes;
  for (int h = 0; h < width_; ++h)
    homes.push_back({home_edge(items, width_, h), home_edge(items, width_, h + 1)});
  const auto from = [&homes](int home, bool front) {
    Range &left = homes[static_cast<std::size_t>(home)];
    return left.front == left.back ? -1 : front ? left.front++ : --left.back;
  };
  std::vector<ItemSearch> searches;
  for (std::size_t m = 0; m < clocks.size(); ++m)
    searches.emplace_back(static_cast<int>(m), width_);
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
    const int item = searches[m].next(from);
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
    clocks[m] = before + cost + (searches[m].at_home() ? machine.claim : 2 * machine.line);
    ++done[m];
  }
  own_clock = after_waiting(clocks.front(), last + machine.line);
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
  waiting[now()].push_back(own_seat);
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

namespace {

// When each worker has joined a call that began at 0, and the caller begins to work: workers wake workers.
std::vector<double> join(int seats) {
  std::vector<double> joined{0.0};
  double mutex = pass_mutex(joined.front(), 0.0); // the caller publishes the call
  std::priority_queue<double, std::vector<double>, std::greater<>> coming;
  for (int worker = 1; machine.awake && worker < seats; ++worker)
    coming.push(mutex + machine.line);
  int asleep = seats - 1;
  const auto wake = [&](double from) {
    const int workers = take_sleepers(asleep);
    for (int i = 1; !machine.awake && i <= workers; ++i)
      coming.push(from + i * machine.notify + machine.wake);
    return from + (machine.awake ? 0.0 : workers * machine.notify);
  };
  joined.front() = wake(joined.front());
  while (static_cast<int>(joined.size()) < seats) {
    const double at = coming.top();
    coming.pop();
    joined.push_back(wake(pass_mutex(mutex, at)));
  }
  return joined;
}

} // namespace

void ThreadPool::run(Job &job) {
  call_threads = job.seats;
  arrivals = join(job.seats);
  crews.clear();
  waiting.clear();
  leaders.clear();
  work = 0.0;
  running = job.seats;
  double end = 0.0; // of the caller's work
  std::vector<std::thread> threads;
  for (int seat = 0; seat < job.seats; ++seat)
    threads.emplace_back([&, seat] {
      std::unique_lock lock(baton);
      own_seat = seat;
      own_clock = arrivals[static_cast<std::size_t>(seat)];
      spent = 0.0;
      job.call(job.context, seat); // a leader gives the baton away in take_item and has it again behind
      if (seat == 0)
        end = now();
      --running;
      turn.notify_all();
    });
  for (std::thread &thread : threads)
    thread.join();
  // The caller takes the call back: who has not joined by then does not. It goes on when all others have left, and each
  // of them takes the mutex for that.
  double mutex = 0.0;
  const double back = pass_mutex(mutex, end);
  std::vector<double> leaving;
  for (const auto &[crew, members] : crews) {
    for (std::size_t m = 1; m < members.arrivals.size(); ++m)
      if (members.arrivals[m] < end)
        leaving.push_back(after_waiting(members.clocks.empty() ? members.arrivals[m] : members.clocks[m],
                                        members.end + machine.line));
    if (members.leader > 0 && arrivals[static_cast<std::size_t>(members.leader)] < end)
      leaving.push_back(members.end);
  }
  std::sort(leaving.begin(), leaving.end());
  mutex = 0.0;
  double last = back;
  for (const double at : leaving)
    last = std::max(last, pass_mutex(mutex, at));
  call_teams = static_cast<int>(leaders.size());
  call_work = work;
  call_end = after_waiting(back, last + machine.line);
}

} // namespace quaver
