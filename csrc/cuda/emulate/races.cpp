// Data races by happens-before. What a thread knows of the others' accesses is a vector clock, written so that the
// common cases are one comparison:
//
// Each thread has a clock that its accesses are stamped with. A block barrier sets the clocks of the block to one more
// than their maximum, so "what the block did below barrier_clock" is one number, and so is a warp's below warp_clock
// after a warp_sync of all lanes. What is known of other blocks is one number each, shared by all threads of a block
// that learned nothing else (Knowledge, never changed once made). Exact knowledge of single threads in the middle of
// their work, from a flag or a partial warp_sync, is a list of Spans, which the next barrier that is heard of makes
// obsolete.
//
// For each 4 bytes a Cell keeps the last write and the reads since. Reads by several threads of a block are kept as the
// warp's or the block's with the highest clock; by several blocks, as one such entry for each. If a kernel has a race,
// that is found in whichever order the threads run, except for what an exact log of all reads would see beyond that.
#include "races.h"

#include <algorithm>
#include <bitset>
#include <deque>
#include <memory>
#include <unordered_map>

#include "memory.h"
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
int64_t grid_blocks;
std::deque<Knowledge> all_knowledge;  // of this launch
std::unordered_map<const unsigned*, const Knowledge*> flags;
std::vector<uint64_t> read_sets;  // grid_blocks entries each

// ---- knowledge

void add(std::vector<Span>& spans, const Span& span) {
  const auto at = std::lower_bound(spans.begin(), spans.end(), span);
  if (at != spans.end() && !(span < *at))
    at->clock = std::max(at->clock, span.clock);
  else
    spans.insert(at, span);
}

void drop_obsolete(Knowledge& k, uint32_t own_block, uint32_t own_clock) {
  std::erase_if(k.spans, [&](const Span& s) { return s.clock <= (s.block == own_block ? own_clock : k.of(s.block)); });
}

const Knowledge* keep(Knowledge&& k) {
  all_knowledge.push_back(std::move(k));
  return &all_knowledge.back();
}

void join_into(Knowledge& to, const Knowledge& from) {
  if (to.blocks.size() < from.blocks.size()) to.blocks.resize(from.blocks.size());
  for (size_t i = 0; i < from.blocks.size(); ++i) to.blocks[i] = std::max(to.blocks[i], from.blocks[i]);
  for (const Span& each : from.spans) add(to.spans, each);
}

const Knowledge* join(const Knowledge* a, const Knowledge* b, const Fiber& fiber) {
  if (a == b || b == nullptr) return a;
  if (a == nullptr) return b;
  Knowledge both = *a;
  join_into(both, *b);
  drop_obsolete(both, static_cast<uint32_t>(fiber.block->number), fiber.barrier_clock);
  return keep(std::move(both));
}

// All that a thread knows, itself included, for others to take over.
const Knowledge* publish(Fiber& fiber) {
  Knowledge k = fiber.known != nullptr ? *fiber.known : Knowledge{};
  const auto block = static_cast<uint32_t>(fiber.block->number);
  if (k.blocks.size() <= block) k.blocks.resize(block + 1);
  k.blocks[block] = fiber.barrier_clock;
  if (fiber.warp_clock > fiber.barrier_clock) {
    const int first = fiber.thread / kLanes * kLanes;
    add(k.spans, {block, first, first + kLanes - 1, fiber.warp_clock});
  }
  ++fiber.clock;  // what comes after is not covered
  if (fiber.clock > fiber.barrier_clock + 1) add(k.spans, {block, fiber.thread, fiber.thread, fiber.clock});
  add(k.spans, {block, fiber.thread, fiber.thread, fiber.clock});
  drop_obsolete(k, block, fiber.barrier_clock);
  return keep(std::move(k));
}

// ---- is an earlier access ordered before what this thread does now?

bool spans_cover(const Fiber& fiber, uint32_t block, int first, int last, uint32_t clock) {
  if (fiber.known == nullptr || fiber.known->spans.empty()) return false;
  std::bitset<1024> covered;
  for (const Span& each : fiber.known->spans)
    if (each.block == block && each.clock > clock)
      for (int t = std::max(first, each.first); t <= std::min(last, each.last); ++t)
        covered.set(static_cast<size_t>(t));
  const auto own_block = static_cast<uint32_t>(fiber.block->number);
  for (int t = first; t <= last; ++t) {
    const bool mine =
        block == own_block && (t == fiber.thread || (t / kLanes == fiber.thread / kLanes && clock < fiber.warp_clock));
    if (!mine && !covered.test(static_cast<size_t>(t))) return false;
  }
  return true;
}

inline bool ordered(uint64_t e, const Fiber& fiber, int first, int last) {
  const uint32_t block = Epoch::block(e), clock = Epoch::clock(e);
  if (block == static_cast<uint32_t>(fiber.block->number)) {
    if (clock < fiber.barrier_clock) return true;
    if (first == last && first == fiber.thread) return true;
    if (first / kLanes == fiber.thread / kLanes && last / kLanes == first / kLanes && clock < fiber.warp_clock)
      return true;
  } else if (fiber.known != nullptr && clock < fiber.known->of(block)) {
    return true;
  }
  return spans_cover(fiber, block, first, last, clock);
}

inline bool ordered_one(uint64_t e, const Fiber& fiber) {
  const int thread = Epoch::thread(e);
  return ordered(e, fiber, thread, thread);
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
      return ordered(e, fiber, first, last);
    }
    default: {
      if (e & Epoch::group_bit) return false;
      const uint64_t* set = &read_sets[(e & 0xffffffffff) * static_cast<uint64_t>(grid_blocks)];
      return std::all_of(set, set + grid_blocks, [&](uint64_t each) { return ordered_reads(each, fiber); });
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
    const uint64_t set = read_sets.size() / static_cast<uint64_t>(grid_blocks);
    read_sets.resize(read_sets.size() + static_cast<size_t>(grid_blocks));
    read_sets[set * static_cast<uint64_t>(grid_blocks) + Epoch::block(e)] = e;
    e = kSeveral << 62 | tag | set;
  }
  uint64_t& entry = read_sets[(e & 0xffffffffff) * static_cast<uint64_t>(grid_blocks) + own];
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
  cell.read = 0;
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
  if (narrow && a.halves == nullptr) make_halves(a);
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
  all_knowledge.clear();
  flags.clear();
  read_sets.clear();
  grid_blocks = blocks;
  if (++global_tag > Epoch::tag_mask) forget_global_cells(), global_tag = 1;
}

void begin_shared() {
  if (tracked && ++shared_tag > Epoch::tag_mask) forget_shared_cells(), shared_tag = 1;
}

void begin_clock(Fiber& fiber) {
  fiber.clock = 1;
  fiber.barrier_clock = fiber.warp_clock = 0;
  fiber.known = fiber.seen = fiber.fenced = nullptr;
}

void join_block(Block& block) {
  if (!tracked) return;
  const int n = machine.shape->threads;
  uint32_t clock = 0;
  const Knowledge* known = block.fibers[0].known;
  bool all_same = true;
  for (int t = 0; t < n; ++t) {
    clock = std::max(clock, block.fibers[t].clock);
    all_same = all_same && block.fibers[t].known == known;
  }
  if (++clock >= kClockMask) {
    report("more barriers than the race detector can count");
    stop();
  }
  if (!all_same) {
    Knowledge both;
    const Knowledge* last = nullptr;
    for (int t = 0; t < n; ++t)
      if (block.fibers[t].known != nullptr && block.fibers[t].known != last)
        join_into(both, *(last = block.fibers[t].known));
    drop_obsolete(both, static_cast<uint32_t>(block.number), clock);
    known = keep(std::move(both));
  }
  for (int t = 0; t < n; ++t) {
    Fiber& fiber = block.fibers[t];
    fiber.clock = fiber.barrier_clock = clock;
    fiber.warp_clock = 0;
    fiber.known = known;
  }
}

void join_warp(Block& block, int warp, unsigned mask) {
  if (!tracked) return;
  Fiber* lanes = block.fibers + warp * kLanes;
  Knowledge both;
  uint32_t clock = 0;
  bool all_same = true;
  const Knowledge* known = nullptr;
  bool first = true;
  for (int i = 0; i < kLanes; ++i) {
    if (!(mask >> i & 1)) continue;
    if (first) known = lanes[i].known;
    first = false;
    clock = std::max(clock, lanes[i].clock);
    all_same = all_same && lanes[i].known == known;
  }
  ++clock;
  const bool whole = mask == block.warps[static_cast<size_t>(warp)].lanes;
  if (!whole || !all_same) {
    for (int i = 0; i < kLanes; ++i) {
      if (!(mask >> i & 1)) continue;
      const int thread = warp * kLanes + i;
      if (lanes[i].known != nullptr) join_into(both, *lanes[i].known);
      if (whole) continue;
      if (lanes[i].warp_clock > lanes[i].barrier_clock)
        add(both.spans,
            {static_cast<uint32_t>(block.number), warp * kLanes, warp * kLanes + kLanes - 1, lanes[i].warp_clock});
      add(both.spans, {static_cast<uint32_t>(block.number), thread, thread, lanes[i].clock + 1});
    }
    known = keep(std::move(both));
  }
  for (int i = 0; i < kLanes; ++i) {
    if (!(mask >> i & 1)) continue;
    lanes[i].known = known;
    lanes[i].clock = clock;
    if (whole) lanes[i].warp_clock = clock;
  }
}

void fence(Fiber& fiber) {
  if (!tracked) return;
  fiber.known = join(fiber.known, fiber.seen, fiber);
  fiber.seen = nullptr;
  fiber.fenced = publish(fiber);
}

void release_flag(Fiber& fiber, const unsigned* flag, bool release, bool add) {
  if (!tracked) return;
  const Knowledge* mine = release ? publish(fiber) : fiber.fenced;
  const Knowledge*& there = flags[flag];
  there = add ? join(there, mine, fiber) : mine;
  if (add && there == nullptr) there = mine;
}

void acquire_flag(Fiber& fiber, const unsigned* flag, bool acquire) {
  if (!tracked) return;
  const auto found = flags.find(flag);
  if (found == flags.end() || found->second == nullptr) return;
  const Knowledge*& to = acquire ? fiber.known : fiber.seen;
  to = join(to, found->second, fiber);
}

}  // namespace rnnfast::emulate
