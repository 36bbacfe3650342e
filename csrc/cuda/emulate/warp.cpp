// Barriers of a block and of a warp, and what a warp does together. A thread that comes to one leaves its arguments in
// its Fiber and waits; the last one to come does the work for all.
#include <cstring>

#include "access.h"
#include "counts.h"
#include "knowledge.h"
#include "state.h"

namespace rnnfast::emulate {
namespace {

bool same(Where a, Where b) { return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0); }

Fiber& lane_of(Block& block, int warp, int lane) { return block.fibers[warp * kLanes + lane]; }

float bf16(uint32_t pair, int high) {
  const uint32_t bits = high != 0 ? pair & 0xffff0000u : pair << 16;
  return std::bit_cast<float>(bits);
}

// a[m][k], b[k][n] and d[m][n] lie in lanes and registers as device.h says. The sum is taken in the order of k.
void multiply(Block& block, int warp) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const Fiber& fiber = lane_of(block, warp, lane);
    const int g = lane / 4, q = lane % 4;
    for (int i = 0; i < 8; ++i) a[g + 8 * (i / 2 % 2)][2 * q + i % 2 + 8 * (i / 4)] = bf16(fiber.a[i / 2], i % 2);
    for (int i = 0; i < 4; ++i) b[2 * q + i % 2 + 8 * (i / 2)][g] = bf16(fiber.b[i / 2], i % 2);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    float* d = lane_of(block, warp, lane).d;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      float sum = d[i];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      d[i] = sum;
    }
  }
}

void exchange(Block& block, int warp, const WarpOperation& operation) {
  uint64_t values[kLanes];
  for (int lane = 0; lane < kLanes; ++lane)
    if (operation.mask >> lane & 1) values[lane] = lane_of(block, warp, lane).value;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(operation.mask >> lane & 1)) continue;
    Fiber& fiber = lane_of(block, warp, lane);
    if (!(operation.mask >> fiber.source & 1)) {
      report(name_of(fiber) + " reads lane " + std::to_string(fiber.source) + ", which the mask of the shuffle at " +
             describe(operation.where) + " does not name");
      stop();
    }
    fiber.value = values[fiber.source];
  }
}

void vote(Block& block, int warp, const WarpOperation& operation) {
  unsigned yes = 0;
  for (int lane = 0; lane < kLanes; ++lane)
    if (operation.mask >> lane & 1 && lane_of(block, warp, lane).value != 0) yes |= 1u << lane;
  const unsigned result = operation.kind == WarpOperation::ballot ? yes
                          : operation.kind == WarpOperation::any  ? yes != 0
                                                                  : yes == operation.mask;
  for (int lane = 0; lane < kLanes; ++lane)
    if (operation.mask >> lane & 1) lane_of(block, warp, lane).value = result;
}

void complete(Block& block, int warp, const WarpOperation& operation) {
  switch (operation.kind) {
    case WarpOperation::sync:
      join_warp(block, warp, operation.mask);
      break;
    case WarpOperation::shuffle:
      exchange(block, warp, operation);
      break;
    case WarpOperation::mma:
      multiply(block, warp);
      break;
    default:
      vote(block, warp, operation);
  }
}

void check_mask(const Warp& warp, unsigned mask, int lane, Where where) {
  const char* wrong = nullptr;
  if (!(mask >> lane & 1)) wrong = "does not name the thread itself";
  if (mask & ~warp.lanes) wrong = "names lanes that the block does not have";
  if (mask & warp.exited) wrong = "names lanes that have returned";
  if (wrong == nullptr) return;
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  report("the mask " + std::string(text) + " at " + describe(where) + ", used by " + name_of(*self) + ", " + wrong);
  stop();
}

void come_together(WarpOperation::Kind kind, unsigned mask, Where where) {
  Fiber& fiber = *self;
  Block& block = *fiber.block;
  const int number = fiber.thread / kLanes, lane = fiber.thread % kLanes;
  Warp& warp = block.warps[static_cast<size_t>(number)];
  check_mask(warp, mask, lane, where);
  size_t i = 0;
  for (const WarpOperation& each : warp.pending) {
    if (each.mask == mask && each.kind == kind && same(each.where, where)) break;
    if (each.mask >> lane & 1 && each.arrived & mask)  // the two wait for each other
    {
      report("divergent warp: " + name_of(fiber) + " is at " + describe(where) +
             ", while other lanes of its mask wait at " + describe(each.where) +
             (each.mask != mask ? " with another mask" : ""));
      stop();
    }
    ++i;
  }
  if (i == warp.pending.size()) warp.pending.push_back({kind, mask, 0, where});
  WarpOperation& operation = warp.pending[i];
  operation.arrived |= 1u << lane;
  fiber.state = State::at_warp;
  fiber.where = where;
  if (operation.arrived == mask) {
    const WarpOperation done = operation;
    warp.pending.erase(warp.pending.begin() + static_cast<std::ptrdiff_t>(i));
    complete(block, number, done);
    make_runnable(block, number * kLanes, mask);
  }
  park();
}

}  // namespace

void block_barrier(Where where) {
  const Unwatched unwatched;
  if (left_out(where)) return;
  Fiber& fiber = *self;
  Block& block = *fiber.block;
  if (block.exited > 0) {
    report("divergent barrier: " + name_of(fiber) + " is at " + describe(where) + ", but " +
           std::to_string(block.exited) + " threads of the block have returned");
    stop();
  }
  if (block.arrived == 0) block.where = where;
  if (!same(block.where, where)) {
    report("divergent barrier: " + name_of(fiber) + " is at " + describe(where) + ", others of its block at " +
           describe(block.where));
    stop();
  }
  fiber.state = State::at_barrier;
  fiber.where = where;
  if (++block.arrived == machine.shape->threads) {
    block.arrived = 0;
    join_block(block);
    count_block(block);
    make_all_runnable(block);
  }
  park();
}

void warp_sync(unsigned mask, Where where) {
  const Unwatched unwatched;
  if (left_out(where)) return;
  come_together(WarpOperation::sync, mask, where);
}

uint64_t shuffle(unsigned mask, uint64_t value, int source_lane, Where where) {
  const Unwatched unwatched;
  self->value = value;
  self->source = source_lane;
  come_together(WarpOperation::shuffle, mask, where);
  return self->value;
}

unsigned vote(Vote kind, unsigned mask, bool yes, Where where) {
  const Unwatched unwatched;
  self->value = yes;
  const auto operation = kind == Vote::ballot ? WarpOperation::ballot
                         : kind == Vote::any  ? WarpOperation::any
                                              : WarpOperation::all;
  come_together(operation, mask, where);
  return static_cast<unsigned>(self->value);
}

void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, Where where) {
  const Unwatched unwatched;
  self->d = d, self->a = a, self->b = b;
  come_together(WarpOperation::mma, ~0u, where);
}

}  // namespace rnnfast::emulate
