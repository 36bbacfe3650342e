// The persistent recurrence in bf16 on tensor cores: a block keeps the rows of R (backward: the columns) of its 16
// units in registers, as the left operands of mma, for all steps. k is dealt to the eight warps in blocks of 32, so
// each warp takes its own part of h (backward: da) of 8 sequences a tile from L2 straight into the right operands, and
// nobody else in the block reads it. Each warp leaves its sums in shared memory, where the thread that owns a
// (sequence, unit) pair adds them in order and applies the cell.
//
// What other blocks read is in `operand`, rounded, zeros where nothing passes from one step to the next: two halves,
// of which a step writes one while others may still read the other, so one barrier a step is enough.
#pragma once

#include "grid.h"
#include "kernel_common.h"

namespace rnnfast::cuda {

constexpr int kTileSequences = 8, kTiles = kTensorSequences / kTileSequences;
constexpr int kAtOnce = 4;  // blocks of k that are fetched before they are multiplied

// The left operands of 16 rows in this warp's blocks of k, each two mma. A lane takes 16 bytes, k = 8 q .. 8 q + 7 of a
// block (q = lane % 4), of a row: what the instruction calls k = 2 q, 2 q + 1, 2 q + 8, 2 q + 9 is 8 q .. 8 q + 3 in
// the first mma and 8 q + 4 .. 8 q + 7 in the second. The right operands lie so too, and a sum does not mind.
template <int blocks>
using Left = uint32_t[blocks][2][4];

RNNFAST_DEVICE int first_k(int block) { return (block * kWarps + warp_index()) * kTensorK + lane_index() % 4 * 8; }

// matrix [rows][padded], of which rows and columns beyond the end are zeros.
template <int blocks>
RNNFAST_DEVICE void load_left(Left<blocks>& a, const Bf16* matrix, int rows, int padded) {
  RNNFAST_UNROLL
  for (int i = 0; i < blocks; ++i) {
    const int k = first_k(i), row = lane_index() / 4;
    UInt4 low{}, high{};
    if (k < padded && row < rows) low = load<UInt4>(matrix + row * padded + k);
    if (k < padded && row + 8 < rows) high = load<UInt4>(matrix + (row + 8) * padded + k);
    a[i][0][0] = low.x, a[i][0][1] = high.x, a[i][0][2] = low.y, a[i][0][3] = high.y;
    a[i][1][0] = low.z, a[i][1][1] = high.z, a[i][1][2] = low.w, a[i][1][3] = high.w;
  }
}

// sums[warp][tile][m] are 16 units of 8 sequences; exchanged within a unit so that neither who writes pairs of
// sequences nor who reads single units meets a bank conflict.
RNNFAST_DEVICE int sum_at(int unit, int sequence) { return unit * kTileSequences + (sequence ^ unit / 4 * 2); }

template <int M>
RNNFAST_DEVICE int tile_at(int warp, int tile, int m) {
  return ((warp * kTiles + tile) * M + m) * kTensorUnits * kTileSequences;
}

// This warp's part of the sums of M x 16 rows and `count` sequences, whose operands [padded] begin at `first` and lie
// `pitch` numbers apart.
template <int M, int blocks>
RNNFAST_DEVICE void tensor_sums(const Left<blocks> (&a)[M], int padded, int count, const Bf16* first, int64_t pitch,
                                float* sums) {
  float d[kTiles][M][4] = {};
  const int n = lane_index() / 4;
  const Bf16* mine = first + n * pitch + first_k(0);
  const auto there = [&](int i) { return first_k(i) < padded; };  // the same for a whole warp, as mma wants it
  RNNFAST_UNROLL
  for (int i0 = 0; i0 < blocks; i0 += kAtOnce) {
    if (!there(i0)) break;  // without this, more would be fetched ahead than there are registers for
    UInt4 b[kAtOnce][kTiles];
    RNNFAST_UNROLL
    for (int i = 0; i < kAtOnce; ++i) RNNFAST_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      b[i][tile] = UInt4{};
      if (tile * kTileSequences + n < count && there(i0 + i))
        b[i][tile] = load_l2<UInt4>(mine + tile * kTileSequences * pitch + (i0 + i) * kWarps * kTensorK);
    }
    RNNFAST_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (!there(i0 + i)) continue;
      RNNFAST_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile * kTileSequences >= count) continue;
        RNNFAST_UNROLL
        for (int m = 0; m < M; ++m) {
          mma_bf16(d[tile][m], a[m][i0 + i][0], {b[i][tile].x, b[i][tile].y});
          mma_bf16(d[tile][m], a[m][i0 + i][1], {b[i][tile].z, b[i][tile].w});
        }
      }
    }
  }
  const int unit = lane_index() / 4, sequence = lane_index() % 4 * 2;
  RNNFAST_UNROLL
  for (int tile = 0; tile < kTiles; ++tile) {
    if (tile * kTileSequences >= count) continue;
    RNNFAST_UNROLL
    for (int m = 0; m < M; ++m) {
      float* to = sums + tile_at<M>(warp_index(), tile, m);
      store(to + sum_at(unit, sequence), Float2{d[tile][m][0], d[tile][m][1]});
      store(to + sum_at(unit + 8, sequence), Float2{d[tile][m][2], d[tile][m][3]});
    }
  }
}

template <int M>
RNNFAST_DEVICE float tensor_total(const float* sums, int n, int unit, int m) {
  float total = 0;
  RNNFAST_UNROLL
  for (int warp = 0; warp < kWarps; ++warp)
    total += sums[tile_at<M>(warp, n / kTileSequences, m) + sum_at(unit, n % kTileSequences)];
  return total;
}

template <class Cell>
RNNFAST_KERNEL(kThreads, 1)
tensor_forward(ForwardLaunch p) {
  constexpr int G = Traits<Cell>::G;
  const ForwardParams& f = p.f;
  const int hidden = static_cast<int>(f.hidden), padded = p.bf16.padded, stride = p.grid.batch_groups;
  const int group = block_index() / p.grid.unit_groups, first_unit = block_index() % p.grid.unit_groups * kTensorUnits;
  const int64_t half = f.seq.batch * padded, pitch = int64_t{stride} * padded;
  float* sums = shared<float>();

  Left<kTensorBlocks> a[G];
  RNNFAST_UNROLL
  for (int gate = 0; gate < G; ++gate)
    load_left(a[gate], p.bf16.r + (int64_t{gate} * hidden + first_unit) * padded, hidden - first_unit, padded);
  const int own_n = thread_index() / kTensorUnits, own_unit = thread_index() % kTensorUnits;
  const int unit = first_unit + own_unit;
  GridBarrier barrier(p.grid.arrived + group * 32, p.grid.unit_groups);

  const int all = count_at(f.seq, 0, group, stride);
  for (int64_t s = 0;; ++s) {
    const int count = count_of(f.seq, s, all, group, stride);
    if (count == 0) return;
    ForwardUnit<Cell> early;
    if (own_n < count && unit < hidden) early = load_unit<Cell>(f, s, group + int64_t{own_n} * stride, unit);
    if (s > 0) barrier.wait();
    const Bf16* from = p.bf16.operand + s % 2 * half + group * padded;
    for (int begin = 0; begin < count; begin += kTensorSequences) {
      if (begin > 0) block_barrier();
      tensor_sums<G, kTensorBlocks>(a, padded, count - begin, from + begin * pitch, pitch, sums);
      block_barrier();
      if (begin + own_n >= count || unit >= hidden) continue;
      const int64_t j = group + int64_t{begin + own_n} * stride;
      if (begin > 0) early = load_unit<Cell>(f, s, j, unit);
      const float h =
          finish_unit<Cell>(f, early, unit, [&](int gate) { return tensor_total<G>(sums, own_n, own_unit, gate); });
      const bool cut = j < active_at(f.seq, s + 1) && cut_before(f.seq, s + 1, j);
      p.bf16.operand[(s + 1) % 2 * half + j * padded + unit] = to_bf16(cut ? 0.0f : h);
    }
    barrier.arrive();
  }
}

template <class Cell>
RNNFAST_KERNEL(kThreads, 1)
tensor_backward(BackwardLaunch p) {
  constexpr int G = Traits<Cell>::G;
  const BackwardParams& b = p.b;
  const int hidden = static_cast<int>(b.hidden), padded = p.bf16.padded, stride = p.grid.batch_groups;
  const int group = block_index() / p.grid.unit_groups, first_unit = block_index() % p.grid.unit_groups * kTensorUnits;
  const int64_t half = b.seq.batch * padded, pitch = int64_t{stride} * padded;
  float* sums = shared<float>();

  Left<G * kTensorBlocks> a[1];
  load_left(a[0], p.bf16.r + int64_t{first_unit} * padded, hidden - first_unit, padded);
  const int own_n = thread_index() / kTensorUnits, own_unit = thread_index() % kTensorUnits;
  const int unit = first_unit + own_unit;

  bool first = true;
  const int all = count_at(b.seq, 0, group, stride);
  GridBarrier barrier(p.grid.arrived + group * 32, p.grid.unit_groups);
  for (int64_t s = b.seq.steps - 1; s >= -1; --s) {
    const int count = count_of(b.seq, s < 0 ? 0 : s, all, group, stride);
    if (count == 0) continue;
    BackwardUnit<Cell> early;
    if (s >= 0 && own_n < count && unit < hidden) early = load_unit<Cell>(b, s, group + int64_t{own_n} * stride, unit);
    if (!first) barrier.wait();
    first = false;
    const Bf16* from = p.bf16.operand + (s + 1) % 2 * half + group * padded;
    for (int begin = 0; begin < count; begin += kTensorSequences) {
      if (begin > 0) block_barrier();
      tensor_sums<1, G * kTensorBlocks>(a, padded, count - begin, from + begin * pitch, pitch, sums);
      block_barrier();
      if (begin + own_n >= count || unit >= hidden) continue;
      const int64_t j = group + int64_t{begin + own_n} * stride;
      const float product = tensor_total<1>(sums, own_n, own_unit, 0);
      if (s < 0) {
        b.carry[0][j * hidden + unit] += product;
        continue;
      }
      if (begin > 0) early = load_unit<Cell>(b, s, j, unit);
      finish_unit<Cell>(
          b, early, j, unit, product,
          [&](int gate, float da) { p.bf16.operand[s % 2 * half + j * padded + gate * hidden + unit] = to_bf16(da); },
          [](float da) { return to_float(to_bf16(da)); });
    }
    if (s >= 0) barrier.arrive();
  }
}

}  // namespace rnnfast::cuda
