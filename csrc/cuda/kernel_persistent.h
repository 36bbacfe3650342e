// R on the chip for all steps although no single SM could hold it: a block keeps the rows (backward: the columns) of
// its units in registers, takes h (backward: da) of its sequences from L2 at each step, and waits for the other blocks
// of its batch group at one barrier a step. The grid is unit_groups x batch_groups blocks, all of them resident.
//
// A row of R lies over the 32 lanes of a warp, so a sequence's h is read once from shared memory for all rows of the
// warp, four numbers a lane, without bank conflicts. Sums of 32 (row, sequence) pairs are then added over the lanes by
// 31 shuffles, which leave one pair in each lane. Backward K is G times as long, and lies over all 256 threads.
#pragma once

#include "grid.h"
#include "kernel_common.h"

namespace rnnfast::cuda {

template <class Cell, int N>  // N: numbers of a row of R in a lane
struct PersistentSize {
  static constexpr int G = Traits<Cell>::G;
  static constexpr int warp_units = N <= 16 ? 8 / G : (G <= 4 ? 4 / G : 1);
  static constexpr int rows = G * warp_units;        // of R, in a warp
  static constexpr int slots = rows <= 4 ? 4 : 8;    // rows, or the next power of two
  static constexpr int sequences = 32 / slots;       // whose sums are added over the lanes together
  static constexpr int units = warp_units * kWarps;  // of a block
  static constexpr int width = 32 * N;               // H, padded
  // A sequence's pre-activations are [unit][gate], three gates in the room of four, to be read as one word; from one
  // sequence to the next so far that a warp writes the `slots` of each without a bank conflict.
  static constexpr int room = G == 3 ? 4 : G;
  static constexpr int pre_stride = (room * units + 31 - slots) / 32 * 32 + slots;
  // Backward: k = i * 256 + thread, a thread has them for all of the block's units.
  static constexpr int k_thread = (G * N + 7) / 8;
  static constexpr int k_width = k_thread * kThreads;
  static constexpr int back_sequences = units >= 32 ? 1 : 32 / units;
  static constexpr int batches = units * back_sequences / 32;
};

// Of 32 sums in each lane, lane l gets the total of number l. All numbers are added in the same order. Each round
// exchanges half of what a lane still has; a template, because a loop over rounds would put the array into memory.
template <int half = 16>
RNNFAST_DEVICE float add_over_lanes(float (&v)[32]) {
  const bool upper = (lane_index() & half) != 0;
  RNNFAST_UNROLL
  for (int i = 0; i < half; ++i) {
    const float own = upper ? v[i + half] : v[i], other = upper ? v[i] : v[i + half];
    v[i] = own + shuffle_xor(kFullMask, other, half);
  }
  if constexpr (half > 1) return add_over_lanes<half / 2>(v);
  return v[0];
}

// The same for the first `few` numbers alone, in lanes 0 .. few - 1 (and again in the others): each total has the same
// bits as from add_over_lanes.
template <int few, int half = 16>
RNNFAST_DEVICE float add_few_over_lanes(float (&v)[32]) {
  if constexpr (half < few) {
    return add_over_lanes<half>(v);
  } else {
    RNNFAST_UNROLL
    for (int i = 0; i < few; ++i) v[i] = v[i] + shuffle_xor(kFullMask, v[i], half);
    return add_few_over_lanes<few, half / 2>(v);
  }
}

// row[k .. k + 4), zeros from `width` on; rows are aligned where their width is a multiple of four.
RNNFAST_DEVICE Float4 load_four(const float* row, int k, int width) {
  if (width % 4 == 0) return k < width ? load<Float4>(row + k) : Float4{0, 0, 0, 0};
  return {k < width ? row[k] : 0.0f, k + 1 < width ? row[k + 1] : 0.0f, k + 2 < width ? row[k + 2] : 0.0f,
          k + 3 < width ? row[k + 3] : 0.0f};
}

// to[n][0 .. padded) = row(n)[0 .. width), which other blocks wrote, and zeros where there is no row. Behind the
// threads' backs where rows are aligned, as one group of copies; else in batches of loads. `somewhere`: any address.
template <class Row>
RNNFAST_DEVICE void load_rows(float* to, int count, int width, int padded, const float* somewhere, Row row) {
  constexpr int kAhead = 4;
  const int quads = padded / 4, all = count * quads;
  if (width % 4 == 0) {
    for (int i = thread_index(); i < all; i += kThreads) {
      const int k = i % quads * 4;
      const float* from = k < width ? row(i / quads) : nullptr;
      async_copy16(to + i / quads * padded + k, from != nullptr ? from + k : somewhere, from != nullptr ? 16 : 0);
    }
    return;
  }
  for (int i0 = thread_index(); i0 < all; i0 += kThreads * kAhead) {
    Float4 v[kAhead];
    RNNFAST_UNROLL
    for (int a = 0; a < kAhead; ++a) {
      const int i = i0 + a * kThreads, k = i % quads * 4;
      v[a] = Float4{0, 0, 0, 0};
      if (i >= all || k >= width) continue;
      const float* from = row(i / quads);
      if (from == nullptr) continue;
      v[a].x = load_l2<float>(from + k);
      if (k + 1 < width) v[a].y = load_l2<float>(from + k + 1);
      if (k + 2 < width) v[a].z = load_l2<float>(from + k + 2);
      if (k + 3 < width) v[a].w = load_l2<float>(from + k + 3);
    }
    RNNFAST_UNROLL
    for (int a = 0; a < kAhead; ++a) {
      const int i = i0 + a * kThreads;
      if (i < all) store(to + i / quads * padded + i % quads * 4, v[a]);
    }
  }
}

// Calls load(n0, n1) for up to four parts of `rows` sequences, then use(n0, n1) for each, behind a barrier, as soon as
// it has come: the rest is still on its way. Parts are of whole multiples of `granule`.
template <int granule, class Load, class Use>
RNNFAST_DEVICE void in_parts(int rows, Load load, Use use) {
  constexpr int kParts = 4;
  const int part = round_up((rows + kParts - 1) / kParts, granule), end = round_up(rows, granule);
  for (int i = 0; i < kParts; ++i) {
    if (i * part < end) load(i * part, i * part + part < end ? i * part + part : end);
    async_commit();
  }
  const auto take = [&](int i) {
    block_barrier();
    use(i * part, i * part + part < end ? i * part + part : end);
  };
  async_wait<3>();
  take(0);
  async_wait<2>();
  if (part < end) take(1);
  async_wait<1>();
  if (2 * part < end) take(2);
  async_wait<0>();
  if (3 * part < end) take(3);
}

// pre[n ..][unit][gate] of `sequences` sequences, Size::sequences or 1, from h [sequence][width].
template <class Size, int N, int sequences>
RNNFAST_DEVICE void forward_sums(const float (&w)[Size::rows][N], const float* h, float* pre, int first) {
  float sum[32] = {};
  RNNFAST_UNROLL
  for (int i = 0; i < N; i += 4) {
    RNNFAST_UNROLL
    for (int n = 0; n < sequences; ++n) {
      const Float4 v = load<Float4>(h + n * Size::width + (i / 4 * 32 + lane_index()) * 4);
      RNNFAST_UNROLL
      for (int r = 0; r < Size::rows; ++r) {
        float& to = sum[n * Size::slots + r];
        to = multiply_add(w[r][i], v.x, to);
        to = multiply_add(w[r][i + 1], v.y, to);
        to = multiply_add(w[r][i + 2], v.z, to);
        to = multiply_add(w[r][i + 3], v.w, to);
      }
    }
  }
  const float total = sequences == 1 ? add_few_over_lanes<Size::slots>(sum) : add_over_lanes(sum);
  const int n = lane_index() / Size::slots, r = lane_index() % Size::slots;
  const int unit = warp_index() * Size::warp_units + r / Size::G;
  if (n < sequences && r < Size::rows) pre[(first + n) * Size::pre_stride + unit * Size::room + r % Size::G] = total;
}

// This warp's part of the sums [sequence][unit] of Size::back_sequences sequences from da [sequence][k_width].
template <class Size>
RNNFAST_DEVICE void backward_sums(const float (&w)[Size::k_thread][Size::units], const float* da, float* sums) {
  float sum[Size::batches][32] = {};
  RNNFAST_UNROLL
  for (int i = 0; i < Size::k_thread; ++i) {
    RNNFAST_UNROLL
    for (int n = 0; n < Size::back_sequences; ++n) {
      const float v = da[n * Size::k_width + i * kThreads + thread_index()];
      RNNFAST_UNROLL
      for (int u = 0; u < Size::units; ++u) {
        const int at = n * Size::units + u;
        sum[at / 32][at % 32] = multiply_add(w[i][u], v, sum[at / 32][at % 32]);
      }
    }
  }
  RNNFAST_UNROLL
  for (int batch = 0; batch < Size::batches; ++batch) sums[batch * 32 + lane_index()] = add_over_lanes(sum[batch]);
}

template <class Cell, int N>
RNNFAST_KERNEL(kThreads, 1)
persistent_forward(ForwardLaunch p) {
  using Size = PersistentSize<Cell, N>;
  constexpr int G = Size::G, W = Size::width;
  const ForwardParams& f = p.f;
  const int hidden = static_cast<int>(f.hidden), chunk = p.grid.chunk, stride = p.grid.batch_groups;
  const int group = block_index() / p.grid.unit_groups, first_unit = block_index() % p.grid.unit_groups * Size::units;
  float* h = shared<float>();  // [chunk][W]
  float* pre = h + chunk * W;  // [chunk][pre_stride]

  float w[Size::rows][N];
  RNNFAST_UNROLL
  for (int r = 0; r < Size::rows; ++r) {
    const int unit = first_unit + warp_index() * Size::warp_units + r / G;
    const float* from = f.r + (int64_t{r % G} * hidden + unit) * hidden;
    RNNFAST_UNROLL
    for (int i = 0; i < N; i += 4) {
      const int k = (i / 4 * 32 + lane_index()) * 4;
      const Float4 four = load_four(from, k, unit < hidden ? hidden : 0);
      w[r][i] = four.x, w[r][i + 1] = four.y, w[r][i + 2] = four.z, w[r][i + 3] = four.w;
    }
  }
  const int own_n = thread_index() / Size::units, own_unit = first_unit + thread_index() % Size::units;
  GridBarrier barrier(p.grid.arrived + group * 32, p.grid.unit_groups);

  const int all = count_at(f.seq, 0, group, stride);
  for (int64_t s = 0;; ++s) {
    const int count = count_of(f.seq, s, all, group, stride);
    if (count == 0) return;
    ForwardUnit<Cell> early;
    if (own_n < count && own_unit < hidden) early = load_unit<Cell>(f, s, group + int64_t{own_n} * stride, own_unit);
    if (s > 0) barrier.wait();
    for (int begin = 0; begin < count; begin += chunk) {
      const int rows = count - begin < chunk ? count - begin : chunk;
      in_parts<Size::sequences>(
          rows,
          [&](int n0, int n1) {
            load_rows(h + n0 * W, n1 - n0, hidden, W, f.r, [&](int n) {
              return n0 + n < rows ? h_before(f, s, group + int64_t{begin + n0 + n} * stride) : nullptr;
            });
          },
          [&](int n0, int n1) {
            for (int n = n0; n < n1; n += Size::sequences) {
              if (rows - n > 1) {
                forward_sums<Size, N, Size::sequences>(w, h + n * W, pre, n);
              } else {
                forward_sums<Size, N, 1>(w, h + n * W, pre, n);
              }
            }
          });
      block_barrier();
      for (int pair = thread_index(); pair < rows * Size::units; pair += kThreads) {
        const int n = begin + pair / Size::units, unit = first_unit + pair % Size::units;
        if (unit >= hidden) continue;
        if (begin > 0 || pair != thread_index()) early = load_unit<Cell>(f, s, group + int64_t{n} * stride, unit);
        const float* own = pre + pair / Size::units * Size::pre_stride + pair % Size::units * Size::room;
        float product[4];
        if constexpr (Size::room == 4) {  // one word at a time, every fourth bank would be read
          const Float4 four = load<Float4>(own);
          product[0] = four.x, product[1] = four.y, product[2] = four.z, product[3] = four.w;
        } else {
          RNNFAST_UNROLL
          for (int gate = 0; gate < G; ++gate) product[gate] = own[gate];
        }
        finish_unit<Cell>(f, early, unit, [&](int gate) { return product[gate]; });
      }
    }
    barrier.arrive();
  }
}

template <class Cell, int N>
RNNFAST_KERNEL(kThreads, 1)
persistent_backward(BackwardLaunch p) {
  using Size = PersistentSize<Cell, N>;
  constexpr int G = Size::G, U = Size::units, W = Size::k_width;
  const BackwardParams& b = p.b;
  const int hidden = static_cast<int>(b.hidden), chunk = p.grid.chunk, stride = p.grid.batch_groups;
  const int group = block_index() / p.grid.unit_groups, first_unit = block_index() % p.grid.unit_groups * U;
  float* da = shared<float>();   // [chunk][W]
  float* sums = da + chunk * W;  // [warp][chunk][U]

  float w[Size::k_thread][U];
  RNNFAST_UNROLL
  for (int i = 0; i < Size::k_thread; ++i) {
    const int k = i * kThreads + thread_index();
    RNNFAST_UNROLL
    for (int u = 0; u < U; ++u)
      w[i][u] = k < G * hidden && first_unit + u < hidden ? b.r[int64_t{k} * hidden + first_unit + u] : 0.0f;
  }
  const int own_n = thread_index() / U, own_unit = first_unit + thread_index() % U;

  bool first = true;
  const int all = count_at(b.seq, 0, group, stride);
  GridBarrier barrier(p.grid.arrived + group * 32, p.grid.unit_groups);
  for (int64_t s = b.seq.steps - 1; s >= -1; --s) {
    const int count = count_of(b.seq, s < 0 ? 0 : s, all, group, stride);
    if (count == 0) continue;
    BackwardUnit<Cell> early;
    if (s >= 0 && own_n < count && own_unit < hidden)
      early = load_unit<Cell>(b, s, group + int64_t{own_n} * stride, own_unit);
    if (!first) barrier.wait();
    first = false;
    for (int begin = 0; begin < count; begin += chunk) {
      const int rows = count - begin < chunk ? count - begin : chunk;
      in_parts<Size::back_sequences>(
          rows,
          [&](int n0, int n1) {
            load_rows(da + n0 * W, n1 - n0, G * hidden, W, b.r, [&](int n) -> const float* {
              const int64_t j = group + int64_t{begin + n0 + n} * stride;
              if (n0 + n >= rows || j >= active_at(b.seq, s + 1) || cut_before(b.seq, s + 1, j)) return nullptr;
              return b.dah + row_of(b.seq, s + 1, j) * G * hidden;
            });
          },
          [&](int n0, int n1) {
            for (int n = n0; n < n1; n += Size::back_sequences)
              backward_sums<Size>(w, da + n * W, sums + (warp_index() * chunk + n) * U);
          });
      block_barrier();
      for (int pair = thread_index(); pair < rows * U; pair += kThreads) {
        const int64_t j = group + int64_t{begin + pair / U} * stride;
        const int unit = first_unit + pair % U;
        if (unit >= hidden) continue;
        float product = 0;
        RNNFAST_UNROLL
        for (int warp = 0; warp < kWarps; ++warp) product += sums[warp * chunk * U + pair];
        if (s < 0) {
          b.carry[0][j * hidden + unit] += product;
          continue;
        }
        if (begin > 0 || pair != thread_index()) early = load_unit<Cell>(b, s, j, unit);
        finish_unit<Cell>(b, early, j, unit, product, [](int, float) {});
      }
    }
    if (s >= 0) barrier.arrive();
  }
}

}  // namespace rnnfast::cuda
