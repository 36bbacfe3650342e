#include "buffer.h"

#include <pthread.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace rnnfast {

namespace {

constexpr size_t kLine = 64;
constexpr size_t kSmall = 64 * 1024;             // below it the system's allocator is as good
constexpr size_t kMostKept = size_t{512} << 20;  // bytes that lie idle at the most

struct Pool {
  std::mutex mutex;
  std::map<size_t, std::vector<void*>> idle;
  size_t kept = 0;
};

// Never destroyed: a buffer may outlive every static object.
Pool& pool() {
  static Pool* p = new Pool;
  return *p;
}

// A child forked while another thread is in here must not find the lock taken.
[[maybe_unused]] const int registered =
    pthread_atfork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); }, [] { pool().mutex.unlock(); });

// Sizes are rounded up by at most an eighth, so that neighbouring lengths share buffers.
size_t rounded(size_t bytes) {
  size_t step = kLine;
  while (step * 16 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

// `bytes`, of which the first `used` are asked for. Large buffers on huge pages, where the system has them: 1 to 3 % of
// a training step with 500 units or more. A tail that does not fill one lies on small pages.
void* allocate(size_t bytes, [[maybe_unused]] size_t used) {
#if defined(__linux__)
  constexpr size_t kHugePage = size_t{2} << 20;
  if (bytes >= 2 * kHugePage) {
    void* memory = nullptr;  // aligned_alloc would want a multiple of the page
    if (posix_memalign(&memory, kHugePage, bytes) != 0) return nullptr;
    madvise(memory, used / kHugePage * kHugePage, MADV_HUGEPAGE);  // a wish: it may fail
    return memory;
  }
#endif
  return std::aligned_alloc(kLine, bytes);
}

}  // namespace

void* pool_allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  if (bytes > SIZE_MAX / 4) throw std::bad_alloc();
  const size_t used = bytes;
  bytes = rounded(bytes);
  if (bytes >= kSmall) {
    Pool& p = pool();
    const std::lock_guard lock(p.mutex);
    const auto found = p.idle.find(bytes);
    if (found != p.idle.end() && !found->second.empty()) {
      void* memory = found->second.back();
      found->second.pop_back();
      p.kept -= bytes;
      return memory;
    }
  }
  void* memory = allocate(bytes, used);
  if (memory == nullptr) {
    pool_clear();
    memory = allocate(bytes, used);
  }
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void pool_free(void* memory, size_t bytes) noexcept {
  if (memory == nullptr) return;
  bytes = rounded(bytes);
  if (bytes >= kSmall) {
    try {
      Pool& p = pool();
      const std::lock_guard lock(p.mutex);
      if (p.kept + bytes <= kMostKept) {
        p.idle[bytes].push_back(memory);
        p.kept += bytes;
        return;
      }
    } catch (...) {  // no memory for the list: let the buffer go instead
    }
  }
  std::free(memory);
}

void pool_clear() noexcept {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  for (auto& [bytes, list] : p.idle)
    for (void* memory : list) std::free(memory);
  p.idle.clear();
  p.kept = 0;
}

}  // namespace rnnfast
