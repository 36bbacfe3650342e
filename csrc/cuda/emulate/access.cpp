// Accesses, from the words of device.h and from the compiler: -fsanitize=thread calls __tsan_readN and __tsan_writeN
// before each plain access that could matter. Only that; the library that usually comes with it is not linked.
#include "access.h"

#include <cstring>

#include "counts.h"
#include "memory.h"
#include "races.h"
#include "state.h"

namespace rnnfast::emulate {
namespace {

[[noreturn]] __attribute__((cold, noinline)) void bad_address(uintptr_t a, int bytes, bool write, const void* pc) {
  report("out of bounds: " + name_of(*self) + (write ? " writes " : " reads ") + std::to_string(bytes) + " bytes " +
             why_outside(a, static_cast<size_t>(bytes)),
         pc);
  stop();
}

[[noreturn]] __attribute__((cold, noinline)) void misaligned(uintptr_t a, int bytes, bool write, const void* pc) {
  report("misaligned: " + name_of(*self) + (write ? " writes " : " reads ") + std::to_string(bytes) +
             " bytes at an address that is " + std::to_string(a % static_cast<unsigned>(bytes)) +
             " beyond a multiple of " + std::to_string(bytes),
         pc);
  stop();
}

inline Allocation* allocation_of(uintptr_t a, size_t bytes) {
  Allocation& mine = *self->block->shared;
  if (a >= mine.begin && a + bytes <= mine.end) return &mine;
  return find_global(a, bytes);
}

// `reach` bytes of the `bytes` must be there.
inline void check(uintptr_t a, int bytes, int reach, bool write, Kind kind, const void* pc) {
  Fiber& fiber = *self;
  Allocation* allocation = allocation_of(a, static_cast<size_t>(reach));
  if (allocation == nullptr) {
    if (kind == Kind::plain && machine.stacks.contains(fiber.stack, a)) return;  // a local array
    bad_address(a, bytes, write, pc);
  }
  if (a & static_cast<unsigned>(bytes - 1)) misaligned(a, bytes, write, pc);
  if (counting) count_access(fiber, a, reach, write, allocation->is_shared, pc);
  if (tracked) track(fiber, *allocation, a, reach, write, kind, pc);
}

inline void access(const void* p, int bytes, bool write, const void* pc) {
  if (!watching) return;
  const Unwatched unwatched;
  ++machine.statistics.accesses;
  check(reinterpret_cast<uintptr_t>(p), bytes, bytes, write, Kind::plain, pc);
}

}  // namespace

void check_access(const void* p, int bytes, bool write, const void* pc) {
  check(reinterpret_cast<uintptr_t>(p), bytes, bytes, write, Kind::plain, pc);
}

void check_atomic(const void* p, int bytes, bool write, const void* pc) {
  check(reinterpret_cast<uintptr_t>(p), bytes, bytes, write, Kind::atomic, pc);
}

void begin_copy(const void* to, const void* from, int bytes, int valid, const void* pc) {
  if (valid > 0) check(reinterpret_cast<uintptr_t>(from), bytes, valid, false, Kind::plain, pc);
  const auto a = reinterpret_cast<uintptr_t>(to);
  const Allocation& mine = *self->block->shared;
  if (a < mine.begin || a >= mine.end) {
    report("out of bounds: " + name_of(*self) + " copies asynchronously to what is not its block's shared memory", pc);
    stop();
  }
  check(a, bytes, bytes, true, Kind::begin_copy, pc);
}

void end_copy(const void* to, int bytes, const void* pc) {
  const auto a = reinterpret_cast<uintptr_t>(to);
  if (tracked) track(*self, *self->block->shared, a, bytes, true, Kind::end_copy, pc);
}

#define RNNFAST_PC __builtin_return_address(0)

uint16_t read2(const void* p) {
  access(p, 2, false, RNNFAST_PC);
  return *static_cast<const uint16_t*>(p);
}
uint32_t read4(const void* p) {
  access(p, 4, false, RNNFAST_PC);
  return *static_cast<const uint32_t*>(p);
}
uint64_t read8(const void* p) {
  access(p, 8, false, RNNFAST_PC);
  return *static_cast<const uint64_t*>(p);
}
Wide read16(const void* p) {
  access(p, 16, false, RNNFAST_PC);
  return *static_cast<const Wide*>(p);
}
void write2(void* p, uint16_t value) {
  access(p, 2, true, RNNFAST_PC);
  std::memcpy(p, &value, sizeof value);
}
void write4(void* p, uint32_t value) {
  access(p, 4, true, RNNFAST_PC);
  std::memcpy(p, &value, sizeof value);
}
void write8(void* p, uint64_t value) {
  access(p, 8, true, RNNFAST_PC);
  std::memcpy(p, &value, sizeof value);
}
void write16(void* p, Wide value) {
  access(p, 16, true, RNNFAST_PC);
  std::memcpy(p, &value, sizeof value);
}

// What the compiler calls.
#define RNNFAST_HOOK(name) extern "C" __attribute__((visibility("hidden"))) void __tsan_##name
#define RNNFAST_HOOKS(bytes)                                                                  \
  RNNFAST_HOOK(read##bytes)(const void* p) { access(p, bytes, false, RNNFAST_PC); }           \
  RNNFAST_HOOK(write##bytes)(const void* p) { access(p, bytes, true, RNNFAST_PC); }           \
  RNNFAST_HOOK(unaligned_read##bytes)(const void* p) { access(p, bytes, false, RNNFAST_PC); } \
  RNNFAST_HOOK(unaligned_write##bytes)(const void* p) { access(p, bytes, true, RNNFAST_PC); }
RNNFAST_HOOKS(2)
RNNFAST_HOOKS(4)
RNNFAST_HOOKS(8)
RNNFAST_HOOKS(16)
RNNFAST_HOOK(read1)(const void* p) { access(p, 1, false, RNNFAST_PC); }
RNNFAST_HOOK(write1)(const void* p) { access(p, 1, true, RNNFAST_PC); }

static void access_range(const char* p, size_t bytes, bool write, const void* pc) {
  for (size_t done = 0; done < bytes;) {
    const size_t a = reinterpret_cast<uintptr_t>(p) + done, left = bytes - done;
    const int step = a % 4 == 0 && left >= 4 ? 4 : a % 2 == 0 && left >= 2 ? 2 : 1;
    access(p + done, step, write, pc);
    done += static_cast<size_t>(step);
  }
}
RNNFAST_HOOK(read_range)(const char* p, size_t bytes) { access_range(p, bytes, false, RNNFAST_PC); }
RNNFAST_HOOK(write_range)(const char* p, size_t bytes) { access_range(p, bytes, true, RNNFAST_PC); }
RNNFAST_HOOK(init)() { tracked = true; }
RNNFAST_HOOK(func_entry)(const void*) {}
RNNFAST_HOOK(func_exit)() {}
RNNFAST_HOOK(vptr_update)(const void*, const void*) {}
RNNFAST_HOOK(vptr_read)(const void*) {}
extern "C" __attribute__((visibility("hidden"))) void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  access_range(static_cast<const char*>(from), bytes, false, RNNFAST_PC);
  access_range(static_cast<const char*>(to), bytes, true, RNNFAST_PC);
  return std::memcpy(to, from, bytes);
}
extern "C" __attribute__((visibility("hidden"))) void* __tsan_memset(void* to, int byte, size_t bytes) {
  access_range(static_cast<const char*>(to), bytes, true, RNNFAST_PC);
  return std::memset(to, byte, bytes);
}

}  // namespace rnnfast::emulate
