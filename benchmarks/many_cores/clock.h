// The time of the simulation.
#pragma once

namespace quaver::many_cores {

// What work cost since somebody last asked, in nanoseconds, of the simulated thread that runs.
inline thread_local double spent = 0.0;

inline double take_spent() {
  const double taken = spent;
  spent = 0.0;
  return taken;
}

// What handing over costs, in nanoseconds.
struct Machine {
  double line = 60.0;      // a cache line from another core
  double claim = 20.0;     // an item at home
  double wake = 50'000.0;  // from a notification until a sleeping thread runs
  double notify = 3'000.0; // to notify one
  bool awake = false;      // workers look for a call when it comes
};
inline Machine machine;

// What the last call took, and what its threads computed.
inline double call_end = 0.0, call_work = 0.0;
inline int call_threads = 1, call_teams = 1;

} // namespace quaver::many_cores
