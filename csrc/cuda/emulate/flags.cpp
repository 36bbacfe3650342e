// Flags, fences, atomics and asynchronous copies.
//
// A copy is made as late as it may be: when the thread waits for its group. Until then it counts as an access that
// nothing is ordered with, so to read, to overwrite or to forget to wait is a race.
#include <cstring>

#include "access.h"
#include "knowledge.h"
#include "state.h"

namespace rnnfast::emulate {
namespace {

constexpr int kManyLoads = 1 << 20;  // of one flag in a row, without a word that waits

bool reached(const Fiber& fiber) { return static_cast<int>(*fiber.flag - fiber.flag_value) >= 0; }

void count_loads(Fiber& fiber, const unsigned* flag, Where where) {
  static const unsigned* last = nullptr;
  static const Fiber* by = nullptr;
  static int times = 0;
  times = last == flag && by == &fiber ? times + 1 : 0;
  last = flag, by = &fiber;
  if (times > kManyLoads) {
    report("deadlock: " + name_of(fiber) + " loads the same flag for ever at " + describe(where) +
           "; wait_acquire and wait_relaxed let others run");
    stop();
  }
}

void perform(const Copy& copy) {
  end_copy(copy.to, copy.bytes, copy.pc);
  std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.valid));
  std::memset(static_cast<char*>(copy.to) + copy.valid, 0, static_cast<size_t>(copy.bytes - copy.valid));
}

}  // namespace

void device_fence(Where where) {
  const Unwatched unwatched;
  if (left_out(where)) return;
  fence(*self);
}

void store_flag(unsigned* flag, unsigned value, bool release, Where where) {
  const Unwatched unwatched;
  check_atomic(flag, sizeof *flag, true, __builtin_return_address(0));
  release_flag(*self, flag, release && !left_out(where), false);
  *flag = value;
  ++machine.events;
}

void add_flag(unsigned* flag, unsigned value, bool release, Where where) {
  const Unwatched unwatched;
  check_atomic(flag, sizeof *flag, true, __builtin_return_address(0));
  release_flag(*self, flag, release && !left_out(where), true);
  *flag += value;
  ++machine.events;
}

unsigned load_flag(const unsigned* flag, bool acquire, Where where) {
  const Unwatched unwatched;
  check_atomic(flag, sizeof *flag, false, __builtin_return_address(0));
  count_loads(*self, flag, where);
  acquire_flag(*self, flag, acquire && !left_out(where));
  return *flag;
}

void wait_flag(const unsigned* flag, unsigned value, bool acquire, Where where) {
  const Unwatched unwatched;
  check_atomic(flag, sizeof *flag, false, __builtin_return_address(0));
  Fiber& fiber = *self;
  fiber.flag = flag;
  fiber.flag_value = value;
  while (!reached(fiber)) {
    fiber.state = State::at_flag;
    fiber.where = where;
    park();
  }
  acquire_flag(fiber, flag, acquire && !left_out(where));
}

uint64_t atomic_add(void* p, size_t bytes, uint64_t value) {
  const Unwatched unwatched;
  check_atomic(p, static_cast<int>(bytes), true, __builtin_return_address(0));
  auto* flag = static_cast<const unsigned*>(p);
  acquire_flag(*self, flag, false);
  release_flag(*self, flag, false, true);
  ++machine.events;
  uint64_t before = 0;
  std::memcpy(&before, p, bytes);
  const uint64_t after = before + value;
  std::memcpy(p, &after, bytes);
  return before;
}

void async_copy(void* to, const void* from, int valid, Where where) {
  constexpr int bytes = 16;
  const Unwatched unwatched;
  const void* pc = __builtin_return_address(0);
  Fiber& fiber = *self;
  if (valid < 0 || valid > bytes) {
    report(name_of(fiber) + " copies " + std::to_string(valid) + " of 16 bytes at " + describe(where));
    stop();
  }
  begin_copy(to, from, bytes, valid, pc);
  fiber.copies.push_back({to, from, bytes, valid, fiber.group, pc});
}

void async_commit() {
  const Unwatched unwatched;
  ++self->group;
}

void async_wait(int groups, Where where) {
  const Unwatched unwatched;
  if (left_out(where)) return;
  Fiber& fiber = *self;
  size_t left = 0;
  for (const Copy& each : fiber.copies) {
    if (each.group + static_cast<uint32_t>(groups) < fiber.group)
      perform(each);
    else
      fiber.copies[left++] = each;
  }
  fiber.copies.resize(left);
}

}  // namespace rnnfast::emulate
