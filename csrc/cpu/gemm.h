// Products and sums over all rows of a layer: what is not in the loop over time.
#pragma once

#include "pack.h"
#include "tile.h"

namespace rnnfast::RNNFAST_TARGET {

// The last panel of a row whose width is no multiple of L: through a copy, so that nothing behind the row is touched.
template <class T, class E>
void gemm_ragged_panel(const GemmArgs<T, E>& g, Tile<T, E>& t, int64_t row, int rows, int64_t panel) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  alignas(64) T copy[kTileRows][L];
  const int valid = static_cast<int>(g.width - panel * L);
  for (int m = 0; m < rows; ++m) {
    V::load_first(row_of(g.init, row + m) + panel * g.init_panel, valid).store(copy[m]);
    t.init[m] = t.out[m] = copy[m];
  }
  run_tile(t, rows, 1, 1);
  for (int m = 0; m < rows; ++m) V::load(copy[m]).store_first(row_of(g.out, row + m) + panel * g.out_panel, valid);
}

// How k is cut where the weights of a few panels do not fit L2: after `size` runs or, where there is one, so many
// columns of it. The sums wait in the output, and are the same.
struct Cut {
  bool by_run;
  int64_t count, size;
  // step_bytes: of the weights at one k
  RNNFAST_INLINE Cut(int64_t runs, int64_t run_length, int64_t step_bytes, int64_t part_bytes)
      : by_run(runs > 1), count(by_run ? runs : run_length), size(count) {
    const int64_t bytes = step_bytes * (by_run ? run_length : 1);
    if (count * bytes <= core_cache_bytes() / 2) return;
    size = part_bytes > bytes * kBlockOfK ? part_bytes / bytes / kBlockOfK * kBlockOfK : kBlockOfK;
  }
};

template <class T, class E>
void gemm(const GemmArgs<T, E>& g, Span rows, Span panels, Team& team) {
  constexpr int L = Vec<T>::lanes;
  constexpr int64_t kWeightBytes = 256 * 1024;  // of a group of panels that all rows pass while it is in L2
  constexpr int64_t kTilesPerPoll = 64;         // at most a millisecond
  if (rows.begin >= rows.end) return;
  const Tiling tiling(rows.end - rows.begin, g.n, panels.end - panels.begin);
  const int64_t panel_size = g.runs * g.run_length * g.n * L,
                panel_bytes = panel_size * static_cast<int64_t>(sizeof(E));
  int64_t group = kWeightBytes / (panel_bytes + 1);
  group = group < tiling.panels ? tiling.panels : group / tiling.panels * tiling.panels;
  const Cut cut(g.runs, g.run_length, group * g.n * L * static_cast<int64_t>(sizeof(E)), kWeightBytes);
  const int64_t full_panels = g.width < 0 ? panels.end : g.width / L;
  GemmArgs<T, E> part = g;  // with what has been summed so far
  int64_t passed = 0;       // tiles

  Tile<T, E> t;
  t.run_stride = g.run_stride, t.b_panel = panel_size, t.out_panel = g.out_panel;
  for (int64_t first = panels.begin; first < panels.end; first += group) {
    const int64_t last = first + group < panels.end ? first + group : panels.end;
    const int64_t following = last + group < panels.end ? group : panels.end - last;
    const int64_t steps = g.runs * g.run_length, turns = (last - first + tiling.panels - 1) / tiling.panels;
    t.ahead = Ahead();
    if (cut.size >= cut.count)
      t.ahead = Ahead(g.b + last * panel_size, following * panel_bytes, steps * turns * tiling.tiles,
                      (panels.end - panels.begin) * panel_bytes + g.others);
    for (int64_t k = 0; k < cut.count || k == 0; k += cut.size) {
      const int64_t size = cut.count - k < cut.size ? cut.count - k : cut.size;
      t.runs = cut.by_run ? size : g.runs, t.run_length = cut.by_run ? g.run_length : size;
      if (k == 0) {
        part.init = g.init, part.init_panel = g.init_panel;
      } else {
        part.init = {g.out.base, g.out.stride, g.out.index}, part.init_panel = g.out_panel;
      }
      t.init_panel = part.init_panel;
      const int64_t a_begin = k * (cut.by_run ? g.run_stride : 1);
      const E* b = g.b + k * (cut.by_run ? g.run_length : 1) * g.n * L;
      for (int64_t i = 0; i < tiling.tiles; ++i) {
        const int64_t row = rows.begin + tiling.begin(i);
        const int m_count = static_cast<int>(tiling.begin(i + 1) - tiling.begin(i));
        for (int m = 0; m < m_count; ++m) t.a[m] = row_of(g.a, row + m) + a_begin;
        for (int64_t panel = first; panel < last;) {
          t.b = b + panel * panel_size;
          if (panel >= full_panels) {
            gemm_ragged_panel(part, t, row, m_count, panel);
            ++panel;
            continue;
          }
          const int64_t end = last < full_panels ? last : full_panels;
          const int q = static_cast<int>(end - panel < tiling.panels ? end - panel : tiling.panels);
          for (int m = 0; m < m_count; ++m) {
            t.init[m] = row_of(part.init, row + m) + panel * part.init_panel;
            t.out[m] = row_of(g.out, row + m) + panel * g.out_panel;
          }
          run_tile(t, m_count, g.n, q);
          panel += q;
        }
        if (++passed % kTilesPerPoll == 0 && kernel_stopped(team)) return;
      }
    }
  }
}

// Numbers of a row and of the next one as what a weight tile multiplies: those of a pair of rows in one element.
template <class E>
inline constexpr int row_pair = 1;
template <>
inline constexpr int row_pair<Bf16x2> = 2;
template <class T>
RNNFAST_INLINE Vec<T> of_rows(const T* row, const T*) {
  return Vec<T>::load(row);
}
RNNFAST_INLINE VecB of_rows(const Bf16x2* row, const Bf16x2* next) {
  return pair(load_operand(row), next != nullptr ? load_operand(next) : VecF(0.0f));
}

template <class T, class E>
void pair_rows(Rows<const E> in, int64_t width, E* out, int64_t stride, Span rows) {
  constexpr int L = Vec<E>::lanes, R = row_pair<E>;
  for (int64_t r = rows.begin; r < rows.end; r += R) {
    const E *row = row_of(in, r), *next = r + 1 < rows.end ? row_of(in, r + 1) : nullptr;
    E* to = out + r / R * stride;
    for (int64_t i = 0; i < width; i += L, row += operands<E>) {
      of_rows(row, next).store(to + i);
      if (next != nullptr) next += operands<E>;
    }
  }
}

template <class T, class E>
void weight_gradient(const WeightGradientArgs<T, E>& g, Span panels, Span inputs, Team& team) {
  using V = Vec<T>;
  constexpr int L = V::lanes, R = row_pair<E>, W = operands<E>;
  if (inputs.begin >= inputs.end) return;
  const int64_t out_panel = g.inputs * g.n * L, packed_panel = kSumBlock / R * g.n * L;
  const int width = g.n == 1 ? balanced_panels(panels.end - panels.begin) : 1;  // panels at a time
  WeightTile<T, E> t;
  t.out_panel = out_panel;
  int64_t end = g.rows, row0;
  do {  // the last block first, as backward makes them; without rows an empty one, whose sums are zeros
    row0 = end > 0 ? (end - 1) / kSumBlock * kSumBlock : 0;
    const int64_t rows = end - row0;
    t.count = (rows + R - 1) / R;
    int64_t packed_tiles = 0;
    for (int64_t panel = panels.begin; panel < panels.end; panel += width) {
      const int q_count = static_cast<int>(panels.end - panel < width ? panels.end - panel : width);
      for (int q = 0; !g.add && end == g.rows && q < q_count; ++q) {
        T* out = g.gradient + (panel + q) * out_panel;
        for (int64_t i = inputs.begin * g.n * L; i < inputs.end * g.n * L; i += L) V(T(0)).store(out + i);
      }
      const InputTiles tiling(inputs.end - inputs.begin, g.n * q_count);
      if (packed_tiles != tiling.tiles) pack_inputs(g.x, row0 / R, t.count, inputs.begin, tiling, g.x_packed);
      packed_tiles = tiling.tiles;
      for (int64_t k = 0; g.packed != nullptr && k < t.count; ++k) {
        for (int q = 0; q < q_count; ++q) {
          const E* from = g.da + (row0 + k * R) * g.da_row + (panel + q) * g.da_panel + g.first * W;
          const E* next = k * R + R > rows ? nullptr : from + (R - 1) * g.da_row;
          for (int n = 0; n < g.n; ++n)
            of_rows(from + n * W, next == nullptr ? nullptr : next + n * W)
                .store(g.packed + q * packed_panel + (k * g.n + n) * L);
        }
      }
      for (int64_t k = t.count; g.packed != nullptr && k % kBlockOfK != 0; ++k)
        for (int q = 0; q < q_count; ++q)
          for (int n = 0; n < g.n; ++n) Vec<E>(E{}).store(g.packed + q * packed_panel + (k * g.n + n) * L);
      if (g.packed != nullptr) {
        t.da = g.packed, t.da_row = g.n * L, t.da_panel = packed_panel;
      } else {
        t.da = g.da + row0 * g.da_row + panel * g.da_panel + g.first * L, t.da_row = g.da_row, t.da_panel = g.da_panel;
      }
      for (int64_t i = 0; i < tiling.tiles; ++i) {
        t.x = g.x_packed + tiling.place(i, t.count);
        t.out = g.gradient + panel * out_panel + (inputs.begin + tiling.begin(i)) * g.n * L;
        run_weight_tile(t, static_cast<int>(tiling.columns(i)), g.n, q_count);
      }
      if (kernel_stopped(team)) return;
    }
    end = row0;
  } while (end > 0);
}

// Number i of a row of operands, and the first `count` numbers of a vector of them.
template <class T>
RNNFAST_INLINE T number_of(const T* row, int64_t i) {
  return row[i];
}
RNNFAST_INLINE float number_of(const Bf16x2* row, int64_t i) {
  const uint32_t bits = row[i / depth<Bf16x2>].bits;
  return __builtin_bit_cast(float, i % depth<Bf16x2> != 0 ? bits & 0xffff0000u : bits << 16);
}
template <class T>
RNNFAST_INLINE Vec<T> load_first(const T* p, int count) {
  return Vec<T>::load_first(p, count);
}
RNNFAST_INLINE VecF load_first(const Bf16x2* p, int) { return load_operand(p); }

// Rows of a weight's gradient, those of U neighbouring units: `da` is of the first, `to` where it goes.
template <int U, class T, class E>
RNNFAST_INLINE void add_products_of_units(const WeightGradientArgs<T, E>& g, const E* da, int lane, T* to) {
  using V = Vec<T>;
  constexpr int L = V::lanes, W = operands<E>, Q = 4;  // vectors of inputs at a time
  int64_t i = 0;
  for (; i + Q * L <= g.inputs; i += Q * L) {
    V sum[U][Q];
    for (int u = 0; u < U; ++u)
      for (int q = 0; q < Q; ++q) sum[u][q] = V(T(0));
    for (int64_t r = 0; r < g.rows; ++r) {
      const E* x = row_of(g.x, r) + i / L * W;
      V input[Q];
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) input[q] = load_operand(x + q * W);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) {
        const V element(number_of(da + r * g.da_row, lane + u));
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) sum[u][q] = fma(input[q], element, sum[u][q]);
      }
    }
    for (int u = 0; u < U; ++u) {
      T* out = to + u * g.inputs + i;
      for (int q = 0; q < Q; ++q) ((g.add ? V::load(out + q * L) : V(T(0))) + sum[u][q]).store(out + q * L);
    }
  }
  for (; i < g.inputs; i += L) {
    const int count = static_cast<int>(g.inputs - i < L ? g.inputs - i : L);
    V sum[U];
    for (int u = 0; u < U; ++u) sum[u] = V(T(0));
    for (int64_t r = 0; r < g.rows; ++r) {
      const V input = load_first(row_of(g.x, r) + i / L * W, count);
      for (int u = 0; u < U; ++u) sum[u] = fma(input, V(number_of(da + r * g.da_row, lane + u)), sum[u]);
    }
    for (int u = 0; u < U; ++u) {
      T* out = to + u * g.inputs + i;
      ((g.add ? V::load_first(out, count) : V(T(0))) + sum[u]).store_first(out, count);
    }
  }
}

template <class T, class E>
void add_products(const WeightGradientArgs<T, E>& g, int64_t hidden, const Run& run, T* d_weight, Span panels) {
  constexpr int L = Vec<T>::lanes, U = kRegisters == 32 ? 4 : 2;  // with Q sums each, which hide an fma's latency
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    const int units = static_cast<int>(hidden - panel * L < L ? hidden - panel * L : L);
    for (int n = 0; n < g.n; ++n) {
      const E* da = g.da + panel * g.da_panel + (g.first + n) * operands<E>;
      T* to = d_weight + weight_row(run, n, hidden, panel, L, 0) * g.inputs;
      int lane = 0;
      for (; lane + U <= units; lane += U) add_products_of_units<U>(g, da, lane, to + lane * g.inputs);
      for (; lane < units; ++lane) add_products_of_units<1>(g, da, lane, to + lane * g.inputs);
    }
  }
}

template <class T, class E, int P>
void sum_rows_of_panel(const E* da, const int32_t* order, int64_t count, int64_t row_size, bool add, T* out) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V total[P];
  for (int p = 0; p < P; ++p) total[p] = add ? V::load(out + p * L) : V(T(0));
  for (int64_t end = count, row0; end > 0; end = row0) {
    row0 = (end - 1) / kSumBlock * kSumBlock;
    V sum[P];
    for (int p = 0; p < P; ++p) sum[p] = V(T(0));
    for (int64_t r = row0; r < end; ++r) {
      const E* row = da + (order != nullptr ? order[r] : r) * row_size;
      for (int p = 0; p < P; ++p) sum[p] = sum[p] + load_operand(row + p * operands<E>);
    }
    for (int p = 0; p < P; ++p) total[p] = total[p] + sum[p];
  }
  for (int p = 0; p < P; ++p) total[p].store(out + p * L);
}

template <class T, class E>
void sum_rows(const E* da, int64_t da_row, int64_t da_panel, const int32_t* order, int64_t count, int pre_activations,
              bool add, T* out, Span panels) {
  static constexpr void (*sum[kMaxPre])(const E*, const int32_t*, int64_t, int64_t, bool, T*) = {
      sum_rows_of_panel<T, E, 1>, sum_rows_of_panel<T, E, 2>, sum_rows_of_panel<T, E, 3>, sum_rows_of_panel<T, E, 4>};
  for (int64_t panel = panels.begin; panel < panels.end; ++panel)
    sum[pre_activations - 1](da + panel * da_panel, order, count, da_row, add,
                             out + panel * pre_activations * Vec<T>::lanes);
}

}  // namespace rnnfast::RNNFAST_TARGET
