// What a child process must do after a fork. The portable form is for systems without one.
#pragma once

#if !defined(_WIN32) && !defined(QUAVER_PORTABLE)
#include <pthread.h>
#endif

namespace quaver {

// Call `forget` in every child process that is forked from now on. Once for the process.
inline void after_fork([[maybe_unused]] void (*forget)()) {
#if !defined(_WIN32) && !defined(QUAVER_PORTABLE)
  pthread_atfork(nullptr, nullptr, forget);
#endif
}

} // namespace quaver
