#include "knowledge.h"

#include <algorithm>
#include <bitset>
#include <deque>
#include <unordered_map>

namespace rnnfast::emulate {
namespace {

std::deque<Knowledge> all_knowledge;  // of this launch
std::unordered_map<const unsigned*, const Knowledge*> flags;

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
  add(k.spans, {block, fiber.thread, fiber.thread, fiber.clock});
  drop_obsolete(k, block, fiber.barrier_clock);
  return keep(std::move(k));
}

}  // namespace

void forget_knowledge() {
  all_knowledge.clear();
  flags.clear();
}

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
  if (++clock >= kMostClock) {
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
