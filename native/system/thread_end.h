// A thread that the system may end while it is inside a call, and a symbol of this process by its name. The portable
// form knows neither.
#pragma once

#include <chrono>
#include <thread>

#if !defined(_WIN32) && !defined(QUAVER_PORTABLE)
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace quaver {

// Null where there is none.
inline void *find_symbol([[maybe_unused]] const char *name) {
#if !defined(_WIN32) && !defined(QUAVER_PORTABLE)
  return dlsym(RTLD_DEFAULT, name);
#else
  return nullptr;
#endif
}

[[noreturn]] inline void sleep_for_ever(void *) {
  for (;;)
    std::this_thread::sleep_for(std::chrono::hours(1));
}

// Call call(); a thread that is ended inside it sleeps until the process ends, without leaving a frame: pthread_exit
// calls clean-up handlers first, and this one never returns.
template <class Call> void or_sleep(Call &&call) {
#if !defined(_WIN32) && !defined(QUAVER_PORTABLE)
  pthread_cleanup_push(sleep_for_ever, nullptr);
  call();
  pthread_cleanup_pop(0);
#else
  call();
#endif
}

} // namespace quaver
