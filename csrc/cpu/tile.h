// The microkernel: M rows by Q panels of N vectors of a matrix product, the accumulators in registers.
//
// Every product of the library ends here or in weight_tile: the input and recurrent products of a forward step (N = a
// unit's pre-activations), the gradient of h and of x (N = 1, Q panels). An output is one chain of fused multiply-adds
// in the order of k whatever M and Q are, so a row has the same bits alone and in a batch. M * N * Q accumulators
// leave room for a panel's weights and one broadcast; a step of k reads N * Q vectors of weights and M elements.
#pragma once

#include "vec_bf16.h"

namespace rnnfast::RNNFAST_TARGET {

constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;

// What the next tiles need of weights that do not fit L2: a cache line of it, or less, is brought there at each step of
// k. Processors foresee what one tile reads in order, but not the next panel while many rows pass this one, and waiting
// for L3 takes up to a third of the time. Several lines at once, every few steps, would be in the way of other loads.
struct Ahead {
  const char* next = nullptr;
  int64_t step = 0;  // bytes
  Ahead() = default;
  // `bytes` from `weights` on, in `steps` steps of k; all weights of the product take `all` bytes.
  RNNFAST_INLINE Ahead(const void* weights, int64_t bytes, int64_t steps, int64_t all)
      : next(static_cast<const char*>(weights)) {
    constexpr int64_t kMost = 128;  // beyond it too few of the lines would come to be worth their turn
    if (all > core_cache_bytes() && bytes <= kMost * steps) step = bytes / steps;
  }
};

template <class T, class E>
struct Tile {
  const E* a[kMaxTileRows];
  int64_t runs, run_length, run_stride;
  const E* b;  // [k][N][L], panels b_panel apart
  int64_t b_panel;
  const T* init[kMaxTileRows];
  int64_t init_panel;
  T* out[kMaxTileRows];
  int64_t out_panel;
  Ahead ahead;
};

template <class T, class E, int M, int N, int Q>
void tile(Tile<T, E>& t) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V sum[M][Q * N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < Q * N; ++j) sum[m][j] = V::load(t.init[m] + j / N * t.init_panel + j % N * L);

  const E* a[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) a[m] = t.a[m];
  const E* b = t.b;
  const int64_t b_panel = t.b_panel, length = t.run_length;
  // Where nothing is needed, a line that is in L1 anyway: a prefetch costs less than a branch.
  const char* ahead = t.ahead.step > 0 ? t.ahead.next : reinterpret_cast<const char*>(b);
  for (int64_t run = 0; run < t.runs; ++run) {
    if (run + 1 < t.runs)  // runs lie far apart, where no processor foresees the next one
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
        for (int64_t k = 0; k < length; k += 64 / static_cast<int64_t>(sizeof(E)))
          __builtin_prefetch(a[m] + t.run_stride + k);
    for (int64_t k = 0; k < length; ++k) {
      __builtin_prefetch(ahead, 0, 2);
      ahead += t.ahead.step;
      Vec<E> w[Q * N];
#pragma GCC unroll 16
      for (int j = 0; j < Q * N; ++j) w[j] = Vec<E>::load(b + j / N * b_panel + j % N * L);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Vec<E> x(a[m][k]);
#pragma GCC unroll 16
        for (int j = 0; j < Q * N; ++j) sum[m][j] = fma(x, w[j], sum[m][j]);
      }
      b += N * L;
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) a[m] += t.run_stride;
  }

#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < Q * N; ++j) sum[m][j].store(t.out[m] + j / N * t.out_panel + j % N * L);
  t.ahead.next = ahead;
}

// The same with the roles of the weight gradient: the sum runs over rows k, x[k][0 .. M) times da[k]; the result
// is added to out, so that a block's sum is complete before it joins those of the earlier blocks.
template <class T, class E>
struct WeightTile {
  const E* x;  // [count][M]
  int64_t count;
  const E* da;  // [N][L] a row
  int64_t da_row, da_panel;
  T* out;  // [M][N][L], panels out_panel apart
  int64_t out_panel;
};

template <class T, class E, int M, int N, int Q>
void weight_tile(const WeightTile<T, E>& t) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V sum[M][Q * N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < Q * N; ++j) {
      sum[m][j] = V(0);
      __builtin_prefetch(t.out + j / N * t.out_panel + (m * N + j % N) * L, 1);
    }
  const E *x = t.x, *da = t.da;
  const int64_t da_row = t.da_row, da_panel = t.da_panel;
  for (int64_t k = 0; k < t.count; ++k) {
    Vec<E> w[Q * N];
#pragma GCC unroll 16
    for (int j = 0; j < Q * N; ++j) w[j] = Vec<E>::load(da + j / N * da_panel + j % N * L);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Vec<E> element(x[m]);
#pragma GCC unroll 16
      for (int j = 0; j < Q * N; ++j) sum[m][j] = fma(element, w[j], sum[m][j]);
    }
    x += M;
    da += da_row;
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < Q * N; ++j) {
      T* out = t.out + j / N * t.out_panel + (m * N + j % N) * L;
      (V::load(out) + sum[m][j]).store(out);
    }
}

constexpr int max_tile_rows(int vectors) {
  return vectors > kAccumulators ? 0 : kAccumulators / vectors > kMaxTileRows ? kMaxTileRows : kAccumulators / vectors;
}

// Shapes that fit the registers, by [Q - 1][M - 1]; null where they do not.
template <class T, class E, int N>
struct Tiles {
  using Fn = void (*)(Tile<T, E>&);
  using WeightFn = void (*)(const WeightTile<T, E>&);

  template <int M, int Q>
  static constexpr Fn at() {
    if constexpr (M <= max_tile_rows(N * Q)) {
      return tile<T, E, M, N, Q>;
    } else {
      return nullptr;
    }
  }
  template <int M, int Q>
  static constexpr WeightFn weight_at() {
    // Several panels only where one is narrow: the gradient never lacks rows.
    if constexpr (M <= max_tile_rows(N * Q) && (N == 1 || Q == 1)) {
      return weight_tile<T, E, M, N, Q>;
    } else {
      return nullptr;
    }
  }
#define RNNFAST_ROWS(f, Q) {f<1, Q>(), f<2, Q>(), f<3, Q>(), f<4, Q>(), f<5, Q>(), f<6, Q>(), f<7, Q>(), f<8, Q>()}
  static constexpr Fn table[kMaxTilePanels][kMaxTileRows] = {RNNFAST_ROWS(at, 1), RNNFAST_ROWS(at, 2),
                                                             RNNFAST_ROWS(at, 3), RNNFAST_ROWS(at, 4)};
  static constexpr WeightFn weight_table[kMaxTilePanels][kMaxTileRows] = {
      RNNFAST_ROWS(weight_at, 1), RNNFAST_ROWS(weight_at, 2), RNNFAST_ROWS(weight_at, 3), RNNFAST_ROWS(weight_at, 4)};
#undef RNNFAST_ROWS
};

template <class T, class E>
RNNFAST_INLINE typename Tiles<T, E, 1>::Fn tile_of(int rows, int n, int panels) {
  switch (n) {
    case 1:
      return Tiles<T, E, 1>::table[panels - 1][rows - 1];
    case 2:
      return Tiles<T, E, 2>::table[panels - 1][rows - 1];
    case 3:
      return Tiles<T, E, 3>::table[panels - 1][rows - 1];
    default:
      return Tiles<T, E, 4>::table[panels - 1][rows - 1];
  }
}

template <class T, class E>
RNNFAST_INLINE typename Tiles<T, E, 1>::WeightFn weight_tile_of(int rows, int n, int panels) {
  switch (n) {
    case 1:
      return Tiles<T, E, 1>::weight_table[panels - 1][rows - 1];
    case 2:
      return Tiles<T, E, 2>::weight_table[panels - 1][rows - 1];
    case 3:
      return Tiles<T, E, 3>::weight_table[panels - 1][rows - 1];
    default:
      return Tiles<T, E, 4>::weight_table[panels - 1][rows - 1];
  }
}

// How `rows` rows and panels of N vectors are cut into tiles: as few tiles as the registers allow, of equal size
// (25 rows are 5 x 5, not 4 x 6 + 1), and for few rows several panels, so that enough chains hide the latency of an
// fma and each row's element is broadcast once for all of them.
struct Tiling {
  int64_t tiles, rows;
  int panels;
  RNNFAST_INLINE Tiling(int64_t rows_, int n, int64_t max_panels) : rows(rows_), panels(1) {
    const int narrow = max_panels < kMaxTilePanels ? static_cast<int>(max_panels) : kMaxTilePanels;
    int limit = max_tile_rows(n);
    if (n == 1) {
      panels = narrow > 0 ? narrow : 1;
      limit = max_tile_rows(panels);
    }
    tiles = (rows + limit - 1) / limit;
    const int64_t largest = tiles > 0 ? (rows + tiles - 1) / tiles : 1;
    while (n > 1 && panels < narrow && (panels + 1) * n * largest <= kAccumulators) ++panels;
  }
  RNNFAST_INLINE int64_t begin(int64_t i) const { return rows * i / tiles; }
};

}  // namespace rnnfast::RNNFAST_TARGET
