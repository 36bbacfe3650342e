// Products with weights as the caller has them, which are needed once: they are read once and not written at all.
#pragma once

#include "gemm.h"

namespace rnnfast::RNNFAST_TARGET {

// With rows in the lanes instead of units, weights need no packing: an element at a time is multiplied by those of all
// rows, which are packed as [k][rows] instead. Each sum is the same chain of fused multiply-adds.
template <class T>
struct Across {
  using V = Vec<T>;
  static constexpr int L = V::lanes, kMost = 3;  // vectors of rows
  static constexpr int kUnits = L < kAccumulators / kMost ? L : kAccumulators / kMost;
  static_assert(L % kUnits == 0, "a panel has no part of a tile");

  // Packing takes as long as the product of some 12 rows, and here lanes without a row are lost.
  static bool pays(int64_t rows) { return rows <= kMost * L && (L - rows % L) % L < (L + 1) / 2; }

  // sums[unit][Q][L] += weight[unit][k] x[k][Q][L], of kUnits units.
  template <int Q>
  static void tile(const T* const (&weight)[kUnits], const T* x, int64_t length, T* sums) {
    constexpr int kLine = 64 / static_cast<int>(sizeof(T));
    V sum[kUnits][Q];
#pragma GCC unroll 16
    for (int u = 0; u < kUnits; ++u)
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) sum[u][q] = V::load(sums + (u * Q + q) * L);
    const T* w[kUnits];
#pragma GCC unroll 16
    for (int u = 0; u < kUnits; ++u) w[u] = weight[u];
    for (int64_t k = 0; k < length;) {
#pragma GCC unroll 16
      for (int u = 0; u < kUnits; ++u) __builtin_prefetch(w[u] + k + 4 * kLine);
      const int64_t end = length - k < kLine ? length : k + kLine;
      for (; k < end; ++k, x += Q * L) {
        V row[Q];
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) row[q] = V::load(x + q * L);
#pragma GCC unroll 16
        for (int u = 0; u < kUnits; ++u) {
          const V element(w[u][k]);
#pragma GCC unroll 4
          for (int q = 0; q < Q; ++q) sum[u][q] = fma(row[q], element, sum[u][q]);
        }
      }
    }
#pragma GCC unroll 16
    for (int u = 0; u < kUnits; ++u)
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) sum[u][q].store(sums + (u * Q + q) * L);
  }

  // to[i][Q][L]: element first + i of L rows, from `row` on, side by side; the last row stands for those behind it.
  static void load_across(const Rows<const T>& from, Span rows, int64_t row, int64_t first, int q, T* to) {
    V block[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i] = V::load(row_of(from, row + i < rows.end ? row + i : rows.end - 1) + first);
    transpose(block);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i].store(to + i * q * L);
  }

  // The other way round; there is nothing behind the last row.
  static void store_across(const T* sums, int q, const Rows<T>& out, Span rows, int64_t row, int64_t offset) {
    V block[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i] = V::load(sums + i * q * L);
    transpose(block);
    for (int i = 0; i < L && row + i < rows.end; ++i) block[i].store(row_of(out, row + i) + offset);
  }

  // Columns [k, k + length) of L rows as x[k][Q][L].
  static void pack_rows(const Rows<const T>& a, Span rows, int64_t row, int64_t k, int64_t length, int q, T* x) {
    int64_t c = 0;
    for (; c + L <= length; c += L) load_across(a, rows, row, k + c, q, x + c * q * L);
    for (; c < length; ++c)
      for (int i = 0; i < L; ++i) x[c * q * L + i] = row_of(a, row + i < rows.end ? row + i : rows.end - 1)[k + c];
  }

  template <int Q>
  static void gemm_of(const GemmArgs<T, T>& g, const UnpackedWeights<T>& u, T* scratch, Span rows, Span panels,
                      int64_t first_panel, Team& team) {
    alignas(64) T sums[L * Q * L];
    const int64_t block = kUnpackedBytes / (Q * L * static_cast<int64_t>(sizeof(T))) / L * L;
    for (int64_t k = 0; k < g.run_length; k += block) {
      const int64_t length = g.run_length - k < block ? g.run_length - k : block;
      const Rows<const T> so_far = k == 0 ? g.init : Rows<const T>{g.out.base, g.out.stride, g.out.index};
      for (int q = 0; q < Q; ++q) pack_rows(g.a, rows, rows.begin + q * L, k, length, Q, scratch + q * L);
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const int64_t left = u.hidden - (first_panel + panel) * L;
        for (int n = 0; n < g.n; ++n) {
          const int64_t in = panel * g.init_panel + n * L, out = panel * g.out_panel + n * L;
          for (int q = 0; q < Q; ++q) load_across(so_far, rows, rows.begin + q * L, k == 0 ? in : out, Q, sums + q * L);
          const T* weight = u.weight + weight_row(u.run, n, u.hidden, first_panel + panel, L, 0) * u.width + k;
          for (int unit = 0; unit < L && unit < left; unit += kUnits) {
            const T* w[kUnits];  // behind the last unit it again: nothing reads those sums
            for (int i = 0; i < kUnits; ++i) w[i] = weight + (unit + i < left ? unit + i : left - 1) * u.width;
            tile<Q>(w, scratch, length, sums + unit * Q * L);
          }
          for (int q = 0; q < Q; ++q) store_across(sums + q * L, Q, g.out, rows, rows.begin + q * L, out);
        }
        if (kernel_stopped(team)) return;
      }
    }
  }

  static void gemm(const GemmArgs<T, T>& g, const UnpackedWeights<T>& u, T* scratch, Span rows, Span panels,
                   int64_t first_panel, Team& team) {
    constexpr void (*of[kMost])(const GemmArgs<T, T>&, const UnpackedWeights<T>&, T*, Span, Span, int64_t, Team&) = {
        gemm_of<1>, gemm_of<2>, gemm_of<3>};
    of[(rows.end - rows.begin - 1) / L](g, u, scratch, rows, panels, first_panel, team);
  }
};

// The product of a few rows: blocks of weights become columns in registers and go no further.
template <class T>
struct FewRows {
  using V = Vec<T>;
  static constexpr int L = V::lanes, kHalf = L / 2;
  static constexpr int kMost = L / 2;  // more rows fill the lanes of Across
  // Where vectors are cache lines; with AVX2, SSE4.2 or one number at a time packing is up to 1.4 times as fast.
  static constexpr bool kPays = sizeof(V) == 64;

  template <int M>
  static void gemm_of(const GemmArgs<T, T>& g, const UnpackedWeights<T>& u, Span rows, Span panels, int64_t first_panel,
                      Team& team) {
    constexpr int64_t kAhead = 4 * L;
    const T* a[M];
    for (int m = 0; m < M; ++m) a[m] = row_of(g.a, rows.begin + m);
    const auto weights_of = [&](int64_t panel, int n) {
      return u.weight + weight_row(u.run, n, u.hidden, first_panel + panel, L, 0) * u.width;
    };
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
      const int64_t left = u.hidden - (first_panel + panel) * L;
      for (int n = 0; n < g.n; ++n) {
        const T* w = weights_of(panel, n);
        const T* next = n + 1 < g.n ? weights_of(panel, n + 1) : panel + 1 < panels.end ? weights_of(panel + 1, 0) : w;
        V sum[M];
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) sum[m] = V::load(row_of(g.init, rows.begin + m) + panel * g.init_panel + n * L);
        int64_t k = 0;
        for (; left >= L && k + L <= u.width; k += L) {
          const T* ahead = k + kAhead < u.width ? w + k + kAhead : next + (k + kAhead - u.width);
          V block[2][kHalf];  // both at once, while their lines are in L1
#pragma GCC unroll 8
          for (int i = 0; i < kHalf; ++i) {
            const T *low = w + i * u.width + k, *high = low + kHalf * u.width;
            __builtin_prefetch(ahead + i * u.width);
            __builtin_prefetch(ahead + (i + kHalf) * u.width);
            block[0][i] = V::load_halves(low, high), block[1][i] = V::load_halves(low + kHalf, high + kHalf);
          }
#pragma GCC unroll 2
          for (int half = 0; half < 2; ++half) {
            transpose(block[half]);
#pragma GCC unroll 8
            for (int i = 0; i < kHalf; ++i)
#pragma GCC unroll 8
              for (int m = 0; m < M; ++m) sum[m] = fma(V(a[m][k + half * kHalf + i]), block[half][i], sum[m]);
          }
        }
        while (k < u.width) {
          const int numbers = static_cast<int>(u.width - k < L ? u.width - k : L);
          alignas(64) T column[L][L];
          load_edge(w + k, u.width, left, numbers, column);
          for (int i = 0; i < numbers; ++i, ++k)
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) sum[m] = fma(V(a[m][k]), V::load(column[i]), sum[m]);
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) sum[m].store(row_of(g.out, rows.begin + m) + panel * g.out_panel + n * L);
      }
      if (kernel_stopped(team)) return;
    }
  }

  template <int M = kMost>
  static void gemm(const GemmArgs<T, T>& g, const UnpackedWeights<T>& u, Span rows, Span panels, int64_t first_panel,
                   Team& team) {
    if constexpr (M > 1)
      if (rows.end - rows.begin < M) return gemm<M - 1>(g, u, rows, panels, first_panel, team);
    gemm_of<M>(g, u, rows, panels, first_panel, team);
  }
};

// gemm with weights as the caller has them. The product's panel 0 is `first_panel` of the weights.
template <class T, class E>
void gemm_unpacked(const GemmArgs<T, E>& g, const UnpackedWeights<T>& u, E* scratch, Span rows, Span panels,
                   int64_t first_panel, Team& team) {
  constexpr int L = Vec<T>::lanes, D = depth<E>;
  if (rows.begin >= rows.end) return;
  if constexpr (same_type<T, E>) {
    if constexpr (FewRows<T>::kPays)
      if (rows.end - rows.begin <= FewRows<T>::kMost) return FewRows<T>::gemm(g, u, rows, panels, first_panel, team);
    if (Across<T>::pays(rows.end - rows.begin)) return Across<T>::gemm(g, u, scratch, rows, panels, first_panel, team);
  }
  constexpr int kVectors = 8;  // side by side: enough chains of fmas, and blocks of many columns in the scratch
  const int64_t most = kVectors / g.n;
  const Tiling tiling(rows.end - rows.begin, g.n, most < panels.end - panels.begin ? most : panels.end - panels.begin);
  const int64_t column_bytes = tiling.panels * g.n * L * static_cast<int64_t>(sizeof(E));
  const int64_t block = kUnpackedBytes / column_bytes / L * L;
  Tile<T, E> t;
  t.runs = 1, t.run_stride = 0, t.b = scratch, t.init_panel = g.init_panel, t.out_panel = g.out_panel;
  for (int64_t panel = panels.begin; panel < panels.end; panel += tiling.panels) {
    const int q_count = static_cast<int>(panels.end - panel < tiling.panels ? panels.end - panel : tiling.panels);
    for (int64_t k = 0; k < g.run_length; k += block) {
      t.run_length = g.run_length - k < block ? g.run_length - k : block;
      t.b_panel = t.run_length * g.n * L;
      const int64_t columns = u.width - k * D < t.run_length * D ? u.width - k * D : t.run_length * D;
      for (int q = 0; q < q_count; ++q)
        pack_panel(u.weight + k * D, u.hidden, u.width, nullptr, columns, u.run, scratch + q * t.b_panel,
                   first_panel + panel + q);
      for (int64_t i = 0; i < tiling.tiles; ++i) {
        const int64_t row = rows.begin + tiling.begin(i);
        const int m_count = static_cast<int>(tiling.begin(i + 1) - tiling.begin(i));
        for (int m = 0; m < m_count; ++m) {
          t.a[m] = row_of(g.a, row + m) + k;
          t.out[m] = row_of(g.out, row + m) + panel * g.out_panel;
          t.init[m] = k == 0 ? row_of(g.init, row + m) + panel * g.init_panel : t.out[m];
        }
        if (k > 0) t.init_panel = g.out_panel;
        run_tile(t, m_count, g.n, q_count);
      }
    }
    t.init_panel = g.init_panel;
    if (kernel_stopped(team)) return;
  }
}

// The product with transposed weights, as gradients of inputs need it, from the weights as the caller has them; k is
// cut where panels of hidden units end (and where k goes in blocks, one of those), and the rows of a panel lie side by
// side.
template <class T, class E>
void gemm_transposed_unpacked(const GemmArgs<T, E>& g, const UnpackedWeights<T>& u, E* scratch, Span rows, Span panels,
                              Team& team) {
  constexpr int L = Vec<T>::lanes;
  if (rows.begin >= rows.end) return;
  constexpr int64_t kRuns = kBlockOfK > 1 ? 2 : 1;
  const Tiling tiling(rows.end - rows.begin, 1, panels.end - panels.begin);
  const int64_t full_panels = g.width / L;
  GemmArgs<T, E> further = g;  // adds to what is there
  further.init = {g.out.base, g.out.stride, g.out.index}, further.init_panel = g.out_panel;
  Tile<T, E> t;
  t.run_length = g.run_length, t.run_stride = g.run_stride;
  t.b = scratch, t.out_panel = g.out_panel;
  for (int64_t run = 0; run < g.runs; run += kRuns) {
    const GemmArgs<T, E>& from = run == 0 ? g : further;
    t.runs = g.runs - run < kRuns ? g.runs - run : kRuns;
    t.b_panel = t.runs * g.run_length * L;
    t.init_panel = from.init_panel;
    for (int64_t panel = panels.begin; panel < panels.end;) {
      const int64_t end = panel >= full_panels || panels.end < full_panels ? panels.end : full_panels;
      const int64_t q = end - panel < tiling.panels ? end - panel : tiling.panels;
      for (int64_t i = 0; i < t.runs; ++i)
        pack_transposed_panel(u.weight, u.hidden, u.width, u.run, run + i, {panel, panel + q},
                              scratch + i * g.run_length * L, t.b_panel);
      for (int64_t i = 0; i < tiling.tiles; ++i) {
        const int64_t row = rows.begin + tiling.begin(i);
        const int m_count = static_cast<int>(tiling.begin(i + 1) - tiling.begin(i));
        for (int m = 0; m < m_count; ++m) t.a[m] = row_of(g.a, row + m) + run * g.run_stride;
        if (panel >= full_panels) {
          gemm_ragged_panel(from, t, row, m_count, panel);
          continue;
        }
        for (int m = 0; m < m_count; ++m) {
          t.init[m] = row_of(from.init, row + m) + panel * from.init_panel;
          t.out[m] = row_of(g.out, row + m) + panel * g.out_panel;
        }
        run_tile(t, m_count, 1, static_cast<int>(q));
      }
      panel += q;
    }
    if (kernel_stopped(team)) return;
  }
}

}  // namespace rnnfast::RNNFAST_TARGET
