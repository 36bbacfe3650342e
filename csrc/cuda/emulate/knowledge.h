// What a thread knows of the others' accesses: a vector clock, written so that the common cases are one comparison.
//
// Each thread has a clock that its accesses are stamped with. A block barrier sets the clocks of the block to one more
// than their maximum, so "what the block did below barrier_clock" is one number, and so is a warp's below warp_clock
// after a warp_sync of all lanes. What is known of other blocks is one number each, shared by all threads of a block
// that learned nothing else (Knowledge, never changed once made). Exact knowledge of single threads in the middle of
// their work, from a flag or a partial warp_sync, is a list of Spans, which the next barrier that is heard of makes
// obsolete.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "state.h"

namespace rnnfast::emulate {

struct Span {  // accesses of threads first to last of a block below clock
  uint32_t block;
  int first, last;
  uint32_t clock;
  bool operator<(const Span& o) const { return std::tie(block, first, last) < std::tie(o.block, o.first, o.last); }
};

struct Knowledge {
  std::vector<uint32_t> blocks;  // accesses of block b below blocks[b]; empty: nothing
  std::vector<Span> spans;       // sorted
  uint32_t of(uint32_t block) const { return block < blocks.size() ? blocks[block] : 0; }
};

constexpr uint32_t kMostClock = (1u << 28) - 1;

void forget_knowledge();  // of the launch before
void begin_clock(Fiber& fiber);

void join_block(Block& block);  // at a barrier
void join_warp(Block& block, int warp, unsigned mask);
void fence(Fiber& fiber);
void release_flag(Fiber& fiber, const unsigned* flag, bool release, bool add);
void acquire_flag(Fiber& fiber, const unsigned* flag, bool acquire);

bool spans_cover(const Fiber& fiber, uint32_t block, int first, int last, uint32_t clock);

// Whether what threads first to last of a block did at the clock is ordered before what this thread does now.
inline bool ordered(uint32_t block, int first, int last, uint32_t clock, const Fiber& fiber) {
  if (block == static_cast<uint32_t>(fiber.block->number)) {
    if (clock < fiber.barrier_clock) return true;
    if (first == last && first == fiber.thread) return true;
    const int warp = fiber.thread / kLanes;
    if (first / kLanes == warp && last / kLanes == warp && clock < fiber.warp_clock) return true;
  } else if (fiber.known != nullptr && clock < fiber.known->of(block)) {
    return true;
  }
  return spans_cover(fiber, block, first, last, clock);
}

}  // namespace rnnfast::emulate
