// Stacks and the switch between them. Six registers and a stack pointer are all that C++ keeps across a call, so a
// switch costs some nanoseconds; ucontext would make two system calls.
//
// Stacks are small, side by side in one mapping and without guard pages, whose faults would cost more than the kernel;
// a word at the end of each tells an overflow. Their tops are spread over the sets of the cache.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnnfast::emulate {

#if defined(__SANITIZE_ADDRESS__)
#define RNNFAST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RNNFAST_ASAN 1
#endif
#endif

#if defined(RNNFAST_ASAN) || !defined(__OPTIMIZE__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 32 << 10;
#endif
constexpr size_t kStride = kStackBytes + 320;  // no multiple of a page, so that tops do not share the sets of a cache

struct Context {
  void* stack_pointer = nullptr;
#if defined(RNNFAST_ASAN)
  void* fake_stack = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
#endif
};

class Stacks {
 public:
  void reserve(size_t count);  // stacks 0 to count - 1 are there; those in use stay where they are
  void prepare(Context& context, size_t i, void (*entry)());  // the first switch to it calls entry, which never returns
  bool intact(size_t i) const;
  uintptr_t left(size_t i, const void* frame) const { return reinterpret_cast<uintptr_t>(frame) - bottom(i); }
  bool contains(uintptr_t address) const { return address - (begin_ - kStride) < size_; }
  bool contains(size_t i, uintptr_t address) const { return address - bottom(i) < kStackBytes; }

 private:
  uintptr_t bottom(size_t i) const { return begin_ + i * kStride; }
  uintptr_t begin_ = 0;
  size_t size_ = 0;
};

void switch_context(Context& from, Context& to);
void on_entry();  // the first thing that entry does

}  // namespace rnnfast::emulate
