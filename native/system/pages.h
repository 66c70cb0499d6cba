// Memory from the system: on a boundary, in pages that are zero without being written, in huge pages. The portable form
// has aligned memory alone.
#pragma once

#include <cstddef>
#include <cstdlib>

#if defined(_WIN32)
#include <malloc.h>
#elif defined(__linux__) && !defined(QUAVER_PORTABLE)
#include <sys/mman.h>
#endif

namespace quaver {

// `bytes` on a multiple of `alignment`, which divides them; null where there is no memory. Any contents.
inline void *take_aligned(std::size_t alignment, std::size_t bytes) {
#if defined(_WIN32)
  return _aligned_malloc(bytes, alignment);
#else
  return std::aligned_alloc(alignment, bytes);
#endif
}

inline void give_aligned(void *memory) {
#if defined(_WIN32)
  _aligned_free(memory);
#else
  std::free(memory);
#endif
}

#if defined(__linux__) && !defined(QUAVER_PORTABLE)

inline constexpr bool kMapsPages = true;

// Zeroed pages, huge ones where the system has them; null where there is no memory.
inline void *map_pages(std::size_t bytes) {
  void *pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED)
    return nullptr;
  madvise(pages, bytes, MADV_HUGEPAGE); // no effect where the system has none
  return pages;
}

inline void unmap_pages(void *pages, std::size_t bytes) { munmap(pages, bytes); }

// Ask for huge pages behind memory that is there.
inline void prefer_huge_pages(void *memory, std::size_t bytes) { madvise(memory, bytes, MADV_HUGEPAGE); }

#else

inline constexpr bool kMapsPages = false; // then nobody calls the next two

inline void *map_pages(std::size_t) { return nullptr; }
inline void unmap_pages(void *, std::size_t) {}
inline void prefer_huge_pages(void *, std::size_t) {}

#endif

} // namespace quaver
