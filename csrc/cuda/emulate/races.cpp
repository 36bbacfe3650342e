// Data races: two accesses to the same bytes, one of them a write, that nothing orders (knowledge.h).
//
// For each 4 bytes a Cell keeps the last write and the reads since. Reads by several lanes are kept as the warp's, by
// several warps as the block's, with the highest clock; by several blocks, as one such entry for each. So a race is
// found in whichever order the threads run; but a load_relaxed is not kept, and a warp of which only some lanes read is
// as one of which all did.
#include "races.h"

#include <algorithm>

#include "knowledge.h"
#include "memory.h"
#include "state.h"

namespace rnnfast::emulate {

namespace {

// Who accessed and when, in a word. Two bits of kind, then:
struct Epoch {
  static constexpr int clock_bits = 28, thread_bits = 10, block_bits = 13, tag_bits = 10;
  static constexpr uint64_t group_bit = uint64_t{1} << (clock_bits + thread_bits + block_bits);
  static constexpr int tag_shift = clock_bits + thread_bits + block_bits + 1;
  static constexpr uint64_t tag_mask = (uint64_t{1} << tag_bits) - 1;

  static uint64_t make(uint64_t kind, uint64_t tag, const Fiber& f) {
    return kind << 62 | tag << tag_shift | uint64_t(f.block->number) << (clock_bits + thread_bits) |
           uint64_t(f.thread) << clock_bits | f.clock;
  }
  static uint64_t kind(uint64_t e) { return e >> 62; }
  static uint64_t tag(uint64_t e) { return e >> tag_shift & tag_mask; }
  static uint32_t clock(uint64_t e) { return static_cast<uint32_t>(e & ((uint64_t{1} << clock_bits) - 1)); }
  static int thread(uint64_t e) { return static_cast<int>(e >> clock_bits & ((1 << thread_bits) - 1)); }
  static uint32_t block(uint64_t e) {
    return static_cast<uint32_t>(e >> (clock_bits + thread_bits) & ((1 << block_bits) - 1));
  }
};
// Kinds of a write, and of reads. `group` is a warp (its first thread), or with group_bit the whole block; `several` is
// an index into sets in place of thread and clock, or with group_bit of blocks that run one at a time and know nothing
// of each other. A write with group_bit is an asynchronous copy under way.
enum : uint64_t { kNone, kPlain, kAtomic };
enum : uint64_t { kOne = 1, kGroup = 2, kSeveral = 3 };

uint32_t global_tag, shared_tag;
int64_t all_blocks;
std::vector<uint64_t> read_sets;  // all_blocks entries each
std::vector<uint64_t> free_sets;  // indices of those that no cell has any more

// ---- is an earlier access ordered before what this thread does now?

inline bool ordered_one(uint64_t e, const Fiber& fiber) {
  const int thread = Epoch::thread(e);
  return ordered(Epoch::block(e), thread, thread, Epoch::clock(e), fiber);
}

constexpr uint64_t kSetMask = (uint64_t{1} << 40) - 1;

uint64_t* set_of(uint64_t e) { return &read_sets[(e & kSetMask) * static_cast<uint64_t>(all_blocks)]; }

uint64_t new_set() {
  if (free_sets.empty()) {
    read_sets.resize(read_sets.size() + static_cast<size_t>(all_blocks));
    return read_sets.size() / static_cast<uint64_t>(all_blocks) - 1;
  }
  const uint64_t set = free_sets.back();
  free_sets.pop_back();
  std::fill_n(set_of(set), all_blocks, 0);
  return set;
}

bool ordered_reads(uint64_t e, const Fiber& fiber) {
  switch (Epoch::kind(e)) {
    case kNone:
      return true;
    case kOne:
      return ordered_one(e, fiber);
    case kGroup: {
      const int threads = machine.shape->threads, first = e & Epoch::group_bit ? 0 : Epoch::thread(e);
      const int last = e & Epoch::group_bit ? threads - 1 : std::min(first + kLanes, threads) - 1;
      return ordered(Epoch::block(e), first, last, Epoch::clock(e), fiber);
    }
    default: {
      if (e & Epoch::group_bit) return false;
      const uint64_t* set = set_of(e);
      return std::all_of(set, set + all_blocks, [&](uint64_t each) { return ordered_reads(each, fiber); });
    }
  }
}

// ---- the reads of a cell

constexpr uint64_t kClockMask = (uint64_t{1} << Epoch::clock_bits) - 1;

constexpr uint64_t kWhereMask =  // tag and block
    ~(kClockMask | uint64_t{3} << 62 | uint64_t{1023} << Epoch::clock_bits | Epoch::group_bit);

// The reads `e` of this thread's block and the read `mine`, as one word.
uint64_t merge_in_block(uint64_t e, uint64_t mine, const Fiber& fiber) {
  if (Epoch::kind(e) == kNone || ordered_reads(e, fiber)) return mine;
  const uint64_t clock = std::max(e & kClockMask, mine & kClockMask);
  const uint64_t where = mine & kWhereMask;
  const bool one_warp = !(e & Epoch::group_bit) && Epoch::thread(e) / kLanes == fiber.thread / kLanes;
  const auto warp = static_cast<uint64_t>(fiber.thread / kLanes * kLanes) << Epoch::clock_bits;
  return kGroup << 62 | where | (one_warp ? warp : Epoch::group_bit) | clock;
}

uint64_t merge(uint64_t e, uint64_t mine, const Fiber& fiber) {
  const auto own = static_cast<uint32_t>(fiber.block->number);
  if (Epoch::kind(e) != kSeveral) {
    if (Epoch::kind(e) == kNone || Epoch::block(e) == own) return merge_in_block(e, mine, fiber);
    if (ordered_reads(e, fiber)) return mine;
  }
  const uint64_t tag = mine & Epoch::tag_mask << Epoch::tag_shift;
  if (!machine.cooperative) return kSeveral << 62 | tag | Epoch::group_bit | (mine & (Epoch::group_bit - 1));
  if (Epoch::kind(e) != kSeveral) {
    const uint64_t before = e;
    e = kSeveral << 62 | tag | new_set();
    set_of(e)[Epoch::block(before)] = before;
  }
  uint64_t& entry = set_of(e)[own];
  entry = merge_in_block(entry, mine, fiber);
  return e;
}

// ---- reports

std::string who(uint64_t e) {
  if (Epoch::kind(e) == kSeveral) return "several blocks";
  const auto number = static_cast<int>(Epoch::block(e));
  const std::string block = "block " + std::to_string(number);
  if (Epoch::kind(e) == kGroup && e & Epoch::group_bit) return "several threads of " + block;
  return block + (Epoch::kind(e) == kGroup ? " warp from thread " : " thread ") + std::to_string(Epoch::thread(e));
}

[[noreturn]] __attribute__((cold, noinline)) void race(const Fiber& fiber, const Allocation& a, uintptr_t address,
                                                       bool write, uint64_t other, bool other_write, int32_t other_pc,
                                                       Kind kind, const void* pc) {
  const bool copying = other_write && other & Epoch::group_bit;
  uint64_t shown = other;
  if (other_write) shown = (other & ~(uint64_t{3} << 62) & ~Epoch::group_bit) | kOne << 62;
  report("race on " + std::string(a.is_shared ? "shared" : "global") + " memory, byte " +
         std::to_string(address - a.begin) + " of " + std::to_string(a.end - a.begin) + ": " + name_of(fiber) +
         (kind == Kind::begin_copy ? " copies to it"
          : write                  ? " writes"
                                   : " reads") +
         " in " + source_of(pc) + "\n  and " + who(shown) +
         (copying       ? " copies to it, not waited for, in "
          : other_write ? " wrote in "
                        : " read in ") +
         source_at(other_pc) + "; nothing orders the two");
  stop();
}

// ---- one access to one cell

inline void read_cell(Fiber& fiber, Allocation& a, Cell& cell, uint64_t tag, uintptr_t address, Kind kind,
                      const void* pc) {
  const uint64_t w = cell.write;
  if (Epoch::kind(w) != kNone && Epoch::tag(w) == tag) {
    const bool both_atomic = kind == Kind::atomic && Epoch::kind(w) == kAtomic;
    if (!both_atomic && (w & Epoch::group_bit || !ordered_one(w, fiber)))
      race(fiber, a, address, false, w, true, cell.write_pc, kind, pc);
  }
  if (kind == Kind::atomic) return;
  const uint64_t mine = Epoch::make(kOne, tag, fiber), before = cell.read;
  if (before == mine) return;
  // Most reads: of the block's, since its last barrier.
  const uint64_t own_group = (mine & kWhereMask) | kGroup << 62 | Epoch::group_bit;
  if ((before & ~kClockMask) == own_group && Epoch::clock(before) >= fiber.barrier_clock) {
    if (Epoch::clock(before) < fiber.clock) cell.read = own_group | fiber.clock;
    return;
  }
  cell.read = Epoch::tag(before) == tag ? merge(before, mine, fiber) : mine;
  cell.read_pc = short_pc(pc);
}

inline void write_cell(Fiber& fiber, Allocation& a, Cell& cell, uint64_t tag, uintptr_t address, Kind kind,
                       const void* pc) {
  const uint64_t mine = Epoch::make(kind == Kind::atomic ? kAtomic : kPlain, tag, fiber);
  const uint64_t w = cell.write, r = cell.read;
  if (kind != Kind::end_copy) {
    if (w == mine && Epoch::tag(r) != tag && kind != Kind::begin_copy) return;
    if (Epoch::kind(w) != kNone && Epoch::tag(w) == tag) {
      const bool both_atomic = kind == Kind::atomic && Epoch::kind(w) == kAtomic;
      if (!both_atomic && (w & Epoch::group_bit || !ordered_one(w, fiber)))
        race(fiber, a, address, true, w, true, cell.write_pc, kind, pc);
    }
    if (Epoch::kind(r) != kNone && Epoch::tag(r) == tag && !ordered_reads(r, fiber))
      race(fiber, a, address, true, r, false, cell.read_pc, kind, pc);
  }
  cell.write = kind == Kind::begin_copy ? mine | Epoch::group_bit : mine;
  cell.write_pc = short_pc(pc);
  if (Epoch::kind(r) == kSeveral && Epoch::tag(r) == tag && !(r & Epoch::group_bit)) free_sets.push_back(r & kSetMask);
  cell.read = 0;
}

// Cells of 2 bytes each, the upper ones copies of the lower ones but for the sets: each is given back once.
void split_cells(Allocation& a, uint64_t tag) {
  make_halves(a);
  const size_t n = (a.end - a.begin + 3) / 4;
  for (size_t i = 0; i < n; ++i) {
    uint64_t& e = a.halves[i].read;
    if (Epoch::kind(e) != kSeveral || Epoch::tag(e) != tag || e & Epoch::group_bit) continue;
    const uint64_t set = new_set();
    std::copy_n(set_of(e), all_blocks,
                read_sets.begin() + static_cast<std::ptrdiff_t>(set * static_cast<uint64_t>(all_blocks)));
    e = (e & ~kSetMask) | set;
  }
}

}  // namespace

void track(Fiber& fiber, Allocation& a, uintptr_t address, int bytes, bool write, Kind kind, const void* pc) {
  if (a.cells == nullptr) make_cells(a);
  const size_t offset = address - a.begin, first = offset / 4, last = (offset + static_cast<size_t>(bytes) - 1) / 4;
  const uint64_t tag = a.is_shared ? shared_tag : global_tag;
  if (a.halves == nullptr && bytes >= 4) {  // most
    for (size_t i = first; i <= last; ++i)
      if (write)
        write_cell(fiber, a, a.cells[i], tag, a.begin + 4 * i, kind, pc);
      else
        read_cell(fiber, a, a.cells[i], tag, a.begin + 4 * i, kind, pc);
    return;
  }
  const bool narrow = bytes < 4 && bytes > 0;
  if (narrow && a.halves == nullptr) split_cells(a, tag);
  for (size_t i = first; i <= last; ++i) {
    const bool low = !narrow || offset % 4 < 2, high = a.halves != nullptr && (!narrow || offset % 4 >= 2);
    Cell* const both[] = {low ? &a.cells[i] : nullptr, high ? &a.halves[i] : nullptr};
    for (Cell* cell : both) {
      if (cell == nullptr) continue;
      if (write)
        write_cell(fiber, a, *cell, tag, a.begin + 4 * i, kind, pc);
      else
        read_cell(fiber, a, *cell, tag, a.begin + 4 * i, kind, pc);
    }
  }
}

void begin_races(int64_t blocks) {
  if (!tracked) return;
  if (blocks >= int64_t{1} << Epoch::block_bits) throw Fault("more blocks than the race detector can tell apart");
  forget_knowledge();
  read_sets.clear();
  free_sets.clear();
  all_blocks = blocks;
  if (++global_tag > Epoch::tag_mask) forget_global_cells(), global_tag = 1;
}

void begin_shared() {
  if (tracked && ++shared_tag > Epoch::tag_mask) forget_shared_cells(), shared_tag = 1;
}

}  // namespace rnnfast::emulate
