// The products of pairs of bf16 by AMX: a tile register holds 16 rows of 64 bytes, and one instruction multiplies 16
// rows of a with 16 pairs of k by a vector of b and adds 16 rows of it to out.
//
// An output is a sum over blocks of 16 pairs of k, in their order: the products of a block's low halves as one chain of
// fused multiply-adds from zero, those of its high halves as another, both added, and that to what has been summed. So
// a row has the same bits alone and in a batch, but not those of the other instruction sets, whose chain runs through
// all of k.
//
// Memory is read and written where it is if all 16 rows lie equally far apart and k ends with a block; else by way of a
// copy, which also joins runs of k.
#pragma once

#include "pack.h"
#include "tile.h"

namespace rnnfast::RNNFAST_TARGET {

// The shapes of the registers, as the processor reads them.
struct alignas(64) TileShapes {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
constexpr TileShapes kTileShapes{1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// The instructions work while this lives.
class TileRegisters {
 public:
  TileRegisters() { _tile_loadconfig(&kTileShapes); }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// Registers 0 to 3 are sums, 4 and 5 hold a, 6 and 7 b. The instructions name their register as a constant, and gcc's
// do not say that they read memory.
RNNFAST_INLINE void memory_is_written() { asm volatile("" ::: "memory"); }
#define RNNFAST_REGISTERS(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
template <int I>
RNNFAST_INLINE void load_register(const void* p, int64_t stride) {
#define RNNFAST_LOAD(R) \
  if constexpr (I == R) _tile_loadd(R, p, stride);
  RNNFAST_REGISTERS(RNNFAST_LOAD)
#undef RNNFAST_LOAD
}
template <int I>
RNNFAST_INLINE void store_register(void* p, int64_t stride) {
#define RNNFAST_STORE(R) \
  if constexpr (I == R) _tile_stored(R, p, stride);
  RNNFAST_REGISTERS(RNNFAST_STORE)
#undef RNNFAST_STORE
}
#undef RNNFAST_REGISTERS
template <int I, int A, int B>
RNNFAST_INLINE void add_product() {
#define RNNFAST_DOT(i, a, b) \
  if constexpr (I == i && A == a && B == b) _tile_dpbf16ps(i, a, b);
#define RNNFAST_DOTS(i) RNNFAST_DOT(i, 4, 6) RNNFAST_DOT(i, 4, 7) RNNFAST_DOT(i, 5, 6) RNNFAST_DOT(i, 5, 7)
  RNNFAST_DOTS(0)
  RNNFAST_DOTS(1)
  RNNFAST_DOTS(2)
  RNNFAST_DOTS(3)
#undef RNNFAST_DOTS
#undef RNNFAST_DOT
}

// f<0>() ... f<N - 1>()
template <int N, class F>
RNNFAST_INLINE void each(F&& f) {
  f.template operator()<0>();
  if constexpr (N > 1) f.template operator()<1>();
  if constexpr (N > 2) f.template operator()<2>();
  if constexpr (N > 3) f.template operator()<3>();
}

constexpr int kRows = 16;  // of a register

// Whether that many rows fill a register and lie equally far apart, and how far, in bytes.
template <class P>
RNNFAST_INLINE bool evenly_spaced(P* const* rows, int count, int64_t& stride) {
  if (count < kRows) return false;
  const auto at = [&](int m) { return reinterpret_cast<intptr_t>(rows[m]); };
  stride = at(1) - at(0);
  bool even = true;
  for (int m = 2; m < kRows; ++m) even = even & (at(m) == at(0) + m * stride);
  return even;
}

RNNFAST_INLINE VecB first_pairs(const Bf16x2* p, int64_t count) {
  const auto mask = static_cast<__mmask16>((1u << count) - 1u);
  return VecB(__builtin_bit_cast(VecB::Bits, _mm512_maskz_loadu_epi32(mask, p)));
}

// Pairs k .. k + count of up to 16 rows of a, the rest of the block zeros. Several runs are of a multiple of 8 pairs.
RNNFAST_INLINE void copy_block(const Tile<float, Bf16x2>& t, const Bf16x2* const* a, int rows, int64_t k, int64_t count,
                               Bf16x2* to) {
  if (t.runs == 1) {
    for (int m = 0; m < rows; ++m) first_pairs(a[m] + k, count).store(to + m * kBlockOfK);
    return;
  }
  constexpr int kHalf = kBlockOfK / 2;
  const auto place = [&](int64_t at) { return at / t.run_length * t.run_stride + at % t.run_length; };
  const int64_t low = place(k), high = count > kHalf ? place(k + kHalf) : low;
  const auto half = static_cast<__mmask16>((1u << kHalf) - 1u), upper = static_cast<__mmask16>(half << kHalf);
  for (int m = 0; m < rows; ++m) {
    __m512i v = _mm512_maskz_loadu_epi32(half, a[m] + low);
    if (count > kHalf) v = _mm512_mask_loadu_epi32(v, upper, a[m] + high - kHalf);
    _mm512_storeu_si512(to + m * kBlockOfK, v);
  }
}

// Up to 16 rows of V vectors in the sums from register `First` on, vector j of row(m) at offset at[j]: read and written
// where they are if they are `even`, `stride` bytes apart, else by way of a copy.
template <int First, int V, class Row>
RNNFAST_INLINE void load_sums(int rows, const Row& row, const int64_t (&at)[V], bool even, int64_t stride) {
  constexpr int L = VecF::lanes;
  if (even) return each<V>([&]<int J>() { load_register<First + J>(row(0) + at[J], stride); });
  alignas(64) float copy[V][kRows * L];
  for (int j = 0; j < V; ++j)
    for (int m = 0; m < kRows; ++m) (m < rows ? VecF::load(row(m) + at[j]) : VecF(0.0f)).store(copy[j] + m * L);
  memory_is_written();
  each<V>([&]<int J>() { load_register<First + J>(copy[J], L * sizeof(float)); });
}
template <int First, int V, class Row>
RNNFAST_INLINE void store_sums(int rows, const Row& row, const int64_t (&at)[V], bool even, int64_t stride) {
  constexpr int L = VecF::lanes;
  if (even) {
    each<V>([&]<int J>() { store_register<First + J>(row(0) + at[J], stride); });
  } else {
    alignas(64) float copy[V][kRows * L];
    each<V>([&]<int J>() { store_register<First + J>(copy[J], L * sizeof(float)); });
    memory_is_written();
    for (int j = 0; j < V; ++j)
      for (int m = 0; m < rows; ++m) VecF::load(copy[j] + m * L).store(row(m) + at[j]);
  }
  memory_is_written();
}

// Rows of a tile that its register m has.
RNNFAST_INLINE int rows_of(int rows, int m) { return rows - m * kRows < kRows ? rows - m * kRows : kRows; }

// Adds a product to the sums: M registers of rows by V vectors, from vector `first` of the panels' N * Q on.
template <int M, int V>
void add_products(Tile<float, Bf16x2>& t, int rows, int n, int first) {
  constexpr int L = VecF::lanes;
  alignas(64) Bf16x2 a_copy[M][kRows * kBlockOfK], b_copy[V][kBlockOfK * L];
  const int64_t total = t.runs * t.run_length, b_stride = n * L;
  const Bf16x2 *a[M], *b[V];
  int64_t a_stride[M];
  bool direct = t.runs == 1 || t.run_length % kBlockOfK == 0;
  for (int i = 0; i < M; ++i) {
    a[i] = t.a[i * kRows];
    direct = evenly_spaced(t.a + i * kRows, rows_of(rows, i), a_stride[i]) && direct;
    for (int m = rows_of(rows, i); m < kRows; ++m) VecB(Bf16x2{0}).store(a_copy[i] + m * kBlockOfK);
  }
  for (int j = 0; j < V; ++j) b[j] = t.b + (first + j) / n * t.b_panel + (first + j) % n * L;
  const char* ahead = t.ahead.next;
  const auto fetch_ahead = [&] {
    for (int64_t line = 0; line < kBlockOfK * t.ahead.step; line += 64) __builtin_prefetch(ahead + line, 0, 2);
    ahead += kBlockOfK * t.ahead.step;
  };

  // A block is loaded behind the products of the one before, so that it is there when they end.
  const int64_t of_run = t.run_length / kBlockOfK, blocks = direct ? t.runs * of_run : 0;
  const auto load_b = [&]<int J>() {
    load_register<6 + J % 2>(b[J], b_stride * static_cast<int64_t>(sizeof(Bf16x2)));
    b[J] += kBlockOfK * b_stride;
  };
  const auto load = [&] {
    each<M>([&]<int I>() {
      load_register<4 + I>(a[I], a_stride[I]);
      a[I] += kBlockOfK;
    });
    if constexpr (V <= 2) each<V>(load_b);
  };
  if (blocks > 0) load();
  for (int64_t block = 0, in_run = 0; block < blocks; ++block) {
    fetch_ahead();
    each<V>([&]<int J>() {
      if constexpr (V > 2) load_b.template operator()<J>();
      each<M>([&]<int I>() { add_product<I * V + J, 4 + I, 6 + J % 2>(); });
    });
    if (++in_run == of_run) {
      in_run = 0;
      for (int i = 0; i < M; ++i) a[i] += t.run_stride - t.run_length;
    }
    if (block + 1 < blocks) load();
  }
  for (int64_t k = blocks * kBlockOfK; k < total; k += kBlockOfK) {
    const int64_t count = total - k < kBlockOfK ? total - k : kBlockOfK;
    fetch_ahead();
    each<M>([&]<int I>() { copy_block(t, t.a + I * kRows, rows_of(rows, I), k, count, a_copy[I]); });
    for (int j = 0; j < V; ++j)
      for (int i = 0; count < kBlockOfK && i < kBlockOfK; ++i)
        (i < count ? VecB::load(b[j] + i * b_stride) : VecB(Bf16x2{0})).store(b_copy[j] + i * L);
    memory_is_written();
    each<M>([&]<int I>() { load_register<4 + I>(a_copy[I], kBlockOfK * sizeof(Bf16x2)); });
    each<V>([&]<int J>() {
      const bool copied = count < kBlockOfK;
      load_register<6 + J % 2>(copied ? b_copy[J] : b[J],
                               (copied ? L : b_stride) * static_cast<int64_t>(sizeof(Bf16x2)));
      each<M>([&]<int I>() { add_product<I * V + J, 4 + I, 6 + J % 2>(); });
      b[J] += kBlockOfK * b_stride;
    });
  }
  t.ahead.next = ahead;
}

// The same from init to out.
template <int M, int V>
void amx_tile(Tile<float, Bf16x2>& t, int rows, int n, int first) {
  constexpr int L = VecF::lanes;
  const Tile<float, Bf16x2>& begin = t.before != nullptr ? *t.before : t;
  int64_t init[V], out[V];
  for (int j = 0; j < V; ++j) {
    const int panel = (first + j) / n, vector = (first + j) % n;
    init[j] = panel * begin.init_panel + vector * L;
    out[j] = panel * t.out_panel + vector * L;
  }
  each<M>([&]<int I>() {
    const float* const* from = begin.init + I * kRows;
    int64_t stride = 0;
    const bool even = evenly_spaced(from, rows_of(rows, I), stride);
    load_sums<I * V, V>(rows_of(rows, I), [&](int m) { return from[m]; }, init, even, stride);
  });
  if (t.before != nullptr) add_products<M, V>(*t.before, rows, n, first);
  add_products<M, V>(t, rows, n, first);
  each<M>([&]<int I>() {
    float* const* to = t.out + I * kRows;
    int64_t stride = 0;
    const bool even = evenly_spaced(to, rows_of(rows, I), stride);
    store_sums<I * V, V>(rows_of(rows, I), [&](int m) { return to[m]; }, out, even, stride);
  });
}

// Two registers of rows share what they read of b; then there are sums for two vectors at a time.
RNNFAST_INLINE void run_tile(Tile<float, Bf16x2>& t, int rows, int n, int panels) {
  const int vectors = n * panels;
  if (rows <= kRows) {
    static constexpr void (*tile[])(Tile<float, Bf16x2>&, int, int, int) = {amx_tile<1, 1>, amx_tile<1, 2>,
                                                                            amx_tile<1, 3>, amx_tile<1, 4>};
    return tile[vectors - 1](t, rows, n, 0);
  }
  for (int first = 0; first < vectors; first += 2)
    (vectors - first > 1 ? amx_tile<2, 2> : amx_tile<2, 1>)(t, rows, n, first);
}

template <int V>
void amx_weight_tile(const WeightTile<float, Bf16x2>& t, int rows, int n) {
  constexpr int L = VecF::lanes;
  const int64_t row_size = n * L, stride = row_size * static_cast<int64_t>(sizeof(float));
  int64_t at[V];
  const Bf16x2* da[V];
  for (int j = 0; j < V; ++j) {
    at[j] = j / n * t.out_panel + j % n * L;
    da[j] = t.da + j / n * t.da_panel + j % n * L;
  }
  const auto row = [&](int m) { return t.out + m * row_size; };
  load_sums<0, V>(rows, row, at, rows == kRows, stride);
  const Bf16x2* x = t.x;
  for (int64_t k = 0; k < t.count; k += kBlockOfK, x += kRows * kBlockOfK) {
    load_register<4>(x, kBlockOfK * sizeof(Bf16x2));
    each<V>([&]<int J>() {
      load_register<6 + J % 2>(da[J], t.da_row * static_cast<int64_t>(sizeof(Bf16x2)));
      add_product<J, 4, 6 + J % 2>();
      da[J] += kBlockOfK * t.da_row;
    });
  }
  store_sums<0, V>(rows, row, at, rows == kRows, stride);
}

RNNFAST_INLINE void run_weight_tile(const WeightTile<float, Bf16x2>& t, int rows, int n, int panels) {
  static constexpr void (*tile[])(const WeightTile<float, Bf16x2>&, int, int) = {
      amx_weight_tile<1>, amx_weight_tile<2>, amx_weight_tile<3>, amx_weight_tile<4>};
  tile[n * panels - 1](t, rows, n);
}

// How the inputs of a weight gradient are cut into tiles, each of whose columns of a block of rows are packed as
// [block of k][16 columns][16 k]: tiles of 16 columns, the last one filled up with zeros.
struct InputTiles {
  int64_t tiles, count;
  RNNFAST_INLINE InputTiles(int64_t count_, int) : tiles((count_ + kRows - 1) / kRows), count(count_) {}
  RNNFAST_INLINE int64_t begin(int64_t i) const { return i * kRows; }
  RNNFAST_INLINE int64_t columns(int64_t i) const { return i + 1 < tiles ? kRows : count - begin(i); }
  RNNFAST_INLINE int64_t place(int64_t i, int64_t rows) const {
    return begin(i) * ((rows + kBlockOfK - 1) / kBlockOfK * kBlockOfK);
  }
};

template <class E>
void pack_inputs(Rows<const E> x, int64_t row0, int64_t rows, int64_t first, const InputTiles& tiling, E* packed) {
  for (int64_t i = 0; i < tiling.tiles; ++i) {
    E* to = packed + tiling.place(i, rows);
    for (int64_t k = 0; k < rows; k += kBlockOfK, to += kRows * kBlockOfK) {
      Vec<E> block[kBlockOfK];
      for (int64_t r = 0; r < kBlockOfK; ++r) {
        const E* row = k + r < rows ? row_of(x, row0 + k + r) + first + tiling.begin(i) : nullptr;
        block[r] = row != nullptr ? first_pairs(row, tiling.columns(i)) : Vec<E>(E{});
      }
      transpose(block);
      for (int64_t r = 0; r < kRows; ++r) block[r].store(to + r * kBlockOfK);
    }
  }
}

// As that of tile_vectors.h, of tiles.
template <class T, class E>
int64_t fma_loop(int64_t rounds, E x, T* sink) {
  alignas(64) E numbers[kRows * kBlockOfK];
  for (E& number : numbers) number = x;
  memory_is_written();
  each<4>([&]<int J>() { load_register<J>(sink, 0); });
  load_register<4>(numbers, kBlockOfK * sizeof(E));
  load_register<6>(numbers, kBlockOfK * sizeof(E));
  for (int64_t round = 0; round < rounds; ++round) each<4>([]<int J>() { add_product<J, 4, 6>(); });
  each<4>([&]<int J>() { store_register<J>(sink, 0); });
  return rounds * 4 * kRows * kBlockOfK * Vec<T>::lanes * 2 * depth<E>;
}

// As those without "kernel". In both the caller may run a signal handler, which may use the registers for itself.
RNNFAST_INLINE bool kernel_barrier(Team& team) {
  const bool stop = team_barrier(team);
  _tile_loadconfig(&kTileShapes);
  return stop;
}
RNNFAST_INLINE bool kernel_stopped(Team& team) {
  const bool stop = team_stopped(team);
  _tile_loadconfig(&kTileShapes);
  return stop;
}

// What a table has of a kernel that multiplies.
template <class F, F kernel>
struct Entry;
template <class R, class... Args, R (*kernel)(Args...)>
struct Entry<R (*)(Args...), kernel> {
  static R call(Args... args) {
    const TileRegisters registers;
    return kernel(args...);
  }
};
template <auto kernel>
constexpr auto entry = Entry<decltype(kernel), kernel>::call;

}  // namespace rnnfast::RNNFAST_TARGET
