// All of R in the shared memory of every block, each of which takes a slice of the batch through all steps in one
// launch: no other block is ever waited for, so a step costs two block barriers and what it computes.
//
// The eight warps deal the columns of the product in tiles of 32, and what warps are left split k: lane = column, so
// that reading R has no bank conflicts, while h (or da) is the same word for all lanes. Each part of k leaves its sums
// in shared memory, where the thread that owns a (sequence, unit) pair adds them in order and applies the cell.
// Shared memory: R [K][columns], operand [chunk][K], sums [parts of k][chunk][columns].
#pragma once

#include "kernel_common.h"

namespace rnnfast::cuda {

constexpr int kSmallRows = 4;  // sequences that share a read of R

// The sizes of a launch, for host and device. `gates` columns groups of `units` each.
struct SmallLayout {
  int k, units, gates, tiles, parts, k_part;
  RNNFAST_INLINE SmallLayout(int k_size, int unit_count, int gate_count)
      : k(round_up(k_size, 4)), units(round_up(unit_count, 32)), gates(gate_count), tiles(units / 32) {
    parts = tiles < kWarps ? kWarps / tiles : 1;
    k_part = round_up((k + parts - 1) / parts, 4);
  }
  RNNFAST_INLINE int columns() const { return gates * units; }
  SmallSize floats() const { return {int64_t{k} * columns(), int64_t{k} + int64_t{parts} * columns()}; }
};

// One tile of columns of ROWS sequences over k in [begin, end).
template <int G, int ROWS>
RNNFAST_DEVICE void small_tile(const SmallLayout& size, const float* column, const float* operand, float* sums,
                               int begin, int end) {
  const int columns = size.columns();
  float sum[ROWS][G] = {};
  for (int k = begin; k < end; k += 4) {
    float w[4][G];
    RNNFAST_UNROLL
    for (int i = 0; i < 4; ++i) RNNFAST_UNROLL
    for (int g = 0; g < G; ++g) w[i][g] = column[(k + i) * columns + g * size.units];
    RNNFAST_UNROLL
    for (int n = 0; n < ROWS; ++n) {
      const Float4 h = load<Float4>(operand + n * size.k + k);
      const float value[4] = {h.x, h.y, h.z, h.w};
      RNNFAST_UNROLL
      for (int i = 0; i < 4; ++i) RNNFAST_UNROLL
      for (int g = 0; g < G; ++g) sum[n][g] = multiply_add(value[i], w[i][g], sum[n][g]);
    }
  }
  RNNFAST_UNROLL
  for (int n = 0; n < ROWS; ++n) RNNFAST_UNROLL
  for (int g = 0; g < G; ++g) sums[n * columns + g * size.units] = sum[n][g];
}

// sums[part][n][gate][unit] of `count` sequences: operand [n][k] times matrix [k][gate][unit].
template <int G>
RNNFAST_DEVICE void small_product(const SmallLayout& size, const float* matrix, const float* operand, float* sums,
                                  int count, int chunk) {
  const int part = size.tiles < kWarps ? warp_index() / size.tiles : 0, columns = size.columns();
  if (part >= size.parts) return;
  const int begin = part * size.k_part, end = begin + size.k_part < size.k ? begin + size.k_part : size.k;
  for (int tile = size.tiles < kWarps ? warp_index() % size.tiles : warp_index(); tile < size.tiles; tile += kWarps) {
    const int at = tile * 32 + lane_index();
    for (int n = 0; n < count; n += kSmallRows) {
      float* to = sums + (part * chunk + n) * columns + at;
      if (count - n > 1) {
        small_tile<G, kSmallRows>(size, matrix + at, operand + n * size.k, to, begin, end);
      } else {
        small_tile<G, 1>(size, matrix + at, operand + n * size.k, to, begin, end);
      }
    }
  }
}

// The sums of all parts of k of one unit, `from` its first: at most kWarps parts, whose loads do not wait for each
// other.
template <int G>
RNNFAST_DEVICE void small_totals(const SmallLayout& size, const float* from, int chunk, float (&total)[G]) {
  float value[kWarps][G];
  RNNFAST_UNROLL
  for (int part = 0; part < kWarps; ++part) RNNFAST_UNROLL
  for (int g = 0; g < G; ++g) {
    value[part][g] = 0;
    if (part < size.parts) value[part][g] = from[part * chunk * size.columns() + g * size.units];
  }
  RNNFAST_UNROLL
  for (int g = 0; g < G; ++g) {
    total[g] = value[0][g];
    RNNFAST_UNROLL
    for (int part = 1; part < kWarps; ++part) total[g] += value[part][g];
  }
}

// from [rows][width] into to [k][units], zeros around it.
RNNFAST_DEVICE void small_load(const float* from, int rows, int width, int gates, int units, int k, float* to) {
  const int columns = gates * units;
  for (int i = thread_index(); i < k * columns; i += kThreads) {
    const int row = i / columns, gate = i % columns / units, unit = i % units;
    to[i] = row < rows && unit < width ? from[(int64_t{row} * gates + gate) * width + unit] : 0.0f;
  }
}

template <class Cell>
RNNFAST_KERNEL(kThreads, 1)
small_forward(ForwardLaunch p) {
  constexpr int G = Traits<Cell>::G;
  const ForwardParams& f = p.f;
  const int hidden = static_cast<int>(f.hidden), chunk = p.grid.chunk, first = block_index(), stride = grid_blocks();
  const SmallLayout size(hidden, hidden, G);
  float* matrix = shared<float>();
  float* operand = matrix + size.k * size.columns();
  float* sums = operand + chunk * size.k;
  small_load(f.r, hidden, hidden, G, size.units, size.k, matrix);
  for (int i = thread_index(); i < chunk * size.k; i += kThreads) {
    const int64_t j = first + int64_t{i / size.k} * stride;
    const int unit = i % size.k;
    const float* h = j < active_at(f.seq, 0) && unit < hidden ? h_before(f, 0, j) : nullptr;
    operand[i] = h != nullptr ? h[unit] : 0.0f;
  }
  const int own_n = thread_index() / size.units, own_unit = thread_index() % size.units;  // this thread's first pair
  const int all = count_at(f.seq, 0, first, stride);
  for (int64_t s = 0;; ++s) {
    const int count = count_of(f.seq, s, all, first, stride);
    if (count == 0) return;
    ForwardUnit<Cell> early;  // fetched while the product runs
    const bool own = own_n < count && own_unit < hidden;
    if (own) early = load_unit<Cell>(f, s, first + int64_t{own_n} * stride, own_unit);
    block_barrier();
    small_product<G>(size, matrix, operand, sums, count, chunk);
    block_barrier();
    for (int pair = thread_index(); pair < count * size.units; pair += kThreads) {
      const bool mine = pair == thread_index();
      const int n = mine ? own_n : pair / size.units, unit = mine ? own_unit : pair % size.units;
      if (unit >= hidden) continue;
      const int64_t j = first + int64_t{n} * stride;
      if (!mine) early = load_unit<Cell>(f, s, j, unit);
      float total[G];
      small_totals<G>(size, sums + n * size.columns() + unit, chunk, total);
      const float h = finish_unit<Cell>(f, early, unit, [&](int gate) { return total[gate]; });
      const bool cut = f.seq.cut != nullptr && j < active_at(f.seq, s + 1) && cut_before(f.seq, s + 1, j);
      operand[n * size.k + unit] = cut ? 0.0f : h;
    }
  }
}

template <class Cell>
RNNFAST_KERNEL(kThreads, 1)
small_backward(BackwardLaunch p) {
  constexpr int G = Traits<Cell>::G;
  const BackwardParams& b = p.b;
  const int hidden = static_cast<int>(b.hidden), chunk = p.grid.chunk, first = block_index(), stride = grid_blocks();
  const SmallLayout size(G * hidden, hidden, 1);
  float* matrix = shared<float>();
  float* operand = matrix + size.k * size.columns();
  float* sums = operand + chunk * size.k;
  small_load(b.r, G * hidden, hidden, 1, size.units, size.k, matrix);
  for (int i = thread_index(); i < chunk * size.k; i += kThreads) operand[i] = 0;
  const int own_n = thread_index() / size.units, own_unit = thread_index() % size.units;
  const int all = count_at(b.seq, 0, first, stride);
  for (int64_t s = b.seq.steps - 1; s >= -1; --s) {
    const int count = count_of(b.seq, s < 0 ? 0 : s, all, first, stride);
    if (count == 0) continue;
    BackwardUnit<Cell> early;
    if (s >= 0 && own_n < count && own_unit < hidden)
      early = load_unit<Cell>(b, s, first + int64_t{own_n} * stride, own_unit);
    block_barrier();
    small_product<1>(size, matrix, operand, sums, count, chunk);
    block_barrier();
    for (int pair = thread_index(); pair < count * size.units; pair += kThreads) {
      const bool mine = pair == thread_index();
      const int n = mine ? own_n : pair / size.units, unit = mine ? own_unit : pair % size.units;
      if (unit >= hidden) continue;
      const int64_t j = first + int64_t{n} * stride;
      float product[1];
      small_totals<1>(size, sums + n * size.columns() + unit, chunk, product);
      if (s < 0) {
        b.carry[0][j * hidden + unit] += product[0];
        continue;
      }
      if (!mine) early = load_unit<Cell>(b, s, j, unit);
      finish_unit<Cell>(b, early, j, unit, product[0],
                        [&](int gate, float da) { operand[n * size.k + gate * hidden + unit] = da; });
    }
  }
}

}  // namespace rnnfast::cuda
