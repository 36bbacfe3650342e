// The kernels of rows.h. All are bound by memory; threads of a warp take neighbouring columns.
#include "rows.h"

#include <algorithm>

#include "../core/random.h"
#include "kernel_common.h"

namespace rnnfast::cuda {

namespace {

// A block's threads as rows of `columns` neighbours.
struct Shape {
  int columns;
  int64_t blocks;
};

Shape shape_of(int64_t rows, int64_t width) {
  int columns = 32;
  while (columns < kThreads && columns < width) columns *= 2;
  const int64_t per_block = kThreads / columns, blocks = (rows + per_block - 1) / per_block;
  return {columns, std::min<int64_t>(std::max<int64_t>(blocks, 1), int64_t{1} << 20)};
}

// f(row, column) for every element of rows x width.
template <class F>
RNNFAST_DEVICE void each_element(int columns, int64_t rows, int64_t width, F f) {
  const int per_block = kThreads / columns;
  for (int64_t row = int64_t{block_index()} * per_block + thread_index() / columns; row < rows;
       row += int64_t{grid_blocks()} * per_block)
    for (int64_t column = thread_index() % columns; column < width; column += columns) f(row, column);
}

struct TimeOf {
  int64_t t, j, b;
};

RNNFAST_DEVICE TimeOf time_of(const RowMap& map, int64_t row) {
  TimeOf at;
  at.t = map.uniform ? row / map.batch : map.time[row];
  at.j = map.uniform ? row - at.t * map.batch : row - map.offset[at.t];
  at.b = map.order != nullptr ? map.order[at.j] : at.j;
  return at;
}

struct CopyParams {
  RowMap map;
  int64_t width;
  Place<const float> from;
  Place<float> to;
  int columns;
};

RNNFAST_KERNEL(kThreads, 1) copy_kernel(CopyParams p) {
  each_element(p.columns, p.map.rows, p.width, [&](int64_t row, int64_t column) {
    const TimeOf at = time_of(p.map, row);
    p.to.base[row * p.to.row + at.t * p.to.time + at.b * p.to.batch + column] =
        p.from.base[row * p.from.row + at.t * p.from.time + at.b * p.from.batch + column];
  });
}

struct BeforeLaunch {
  BeforeParams p;
  int columns;
  bool first;  // step 0 of every sequence
};

// h_before wants the names of the recurrences' params.
struct BeforeView {
  const Sequences& seq;
  int64_t hidden;
  const float* state0[1];
  const float* y;
  int64_t y_stride;
};

RNNFAST_KERNEL(kThreads, 1) before_kernel(BeforeLaunch l) {
  const BeforeParams& p = l.p;
  const BeforeView view{p.seq, p.hidden, {p.state0[0]}, p.y, p.y_stride};
  each_element(l.columns, l.first ? active_at(p.seq, 0) : p.map.rows, p.hidden, [&](int64_t row, int64_t column) {
    int64_t s = 0, j = row;
    if (!l.first) {
      const TimeOf at = time_of(p.map, row);
      const int64_t length = p.seq.uniform ? p.seq.steps : p.seq.length[at.j];
      j = at.j, s = p.seq.reverse ? length - 1 - at.t : at.t;
    }
    const float* h = h_before(view, s, j);
    p.to[row * p.hidden + column] = h != nullptr ? h[column] : 0.0f;
  });
}

struct LastLaunch {
  LastParams p;
  int columns;
};

RNNFAST_KERNEL(kThreads, 1) last_kernel(LastLaunch l) {
  const LastParams& p = l.p;
  each_element(l.columns, p.seq.batch, p.hidden, [&](int64_t j, int64_t column) {
    const int64_t length = p.seq.uniform ? p.seq.steps : p.seq.length[j];
    const int64_t last = length == 0 ? 0 : row_of(p.seq, length - 1, j);
    for (const LastParams::State& state : p.state) {
      if (state.to == nullptr) continue;
      const float* from = length == 0         ? (state.state0 != nullptr ? state.state0 + j * p.hidden : nullptr)
                          : state.by_sequence ? state.rows + j * p.hidden
                                              : state.rows + last * state.stride;
      const int64_t b = p.order != nullptr ? p.order[j] : j;
      state.to[b * p.hidden + column] = from != nullptr ? from[column] : 0.0f;
    }
  });
}

struct DropLaunch {
  DropParams p;
  int columns;
};

// A counter gives the words of four units, so a thread takes four.
RNNFAST_KERNEL(kThreads, 1) drop_kernel(DropLaunch l) {
  const DropParams& p = l.p;
  const int64_t groups = (p.hidden + 3) / 4;
  each_element(l.columns, p.map.rows, p.directions * groups, [&](int64_t row, int64_t column) {
    const TimeOf at = time_of(p.map, row);
    const uint64_t step = p.step + static_cast<uint64_t>(at.t);
    const int64_t d = column / groups, group = column % groups;
    uint32_t word[4] = {static_cast<uint32_t>(group), static_cast<uint32_t>(at.b), static_cast<uint32_t>(step),
                        (p.stream + static_cast<uint32_t>(d)) << 16 | static_cast<uint32_t>(step >> 32 & 0xffff)};
    philox(word, p.seed);
    for (int64_t i = 0; i < 4 && group * 4 + i < p.hidden; ++i) {
      const int64_t element = row * p.directions * p.hidden + d * p.hidden + group * 4 + i;
      p.to[element] = word[i] >= p.threshold ? p.from[element] * p.scale : 0.0f;
    }
  });
}

struct TransposeParams {
  const float* from;
  int64_t m, n;
  float* to;
  bool add, round;
};

// Through a tile of shared memory, whose odd rows keep both directions free of bank conflicts.
RNNFAST_KERNEL(kThreads, 1) transpose_kernel(TransposeParams p) {
  constexpr int kTile = 32;
  float* tile = shared<float>();
  const int64_t across = (p.n + kTile - 1) / kTile;
  const int64_t i0 = block_index() / across * kTile, j0 = block_index() % across * kTile;
  const int x = thread_index() % kTile, y0 = thread_index() / kTile;
  for (int y = y0; y < kTile; y += kThreads / kTile)
    if (i0 + y < p.m && j0 + x < p.n) {
      const float value = p.from[(i0 + y) * p.n + j0 + x];
      tile[y * (kTile + 1) + x] = p.round ? to_float(to_bf16(value)) : value;
    }
  block_barrier();
  for (int y = y0; y < kTile; y += kThreads / kTile)
    if (j0 + y < p.n && i0 + x < p.m) {
      float& to = p.to[(j0 + y) * p.m + i0 + x];
      to = (p.add ? to : 0.0f) + tile[x * (kTile + 1) + y];
    }
}

struct RoundParams {
  const float* from;
  int64_t rows, width, padded;
  Bf16* to;
  int columns;
};

RNNFAST_KERNEL(kThreads, 1) round_kernel(RoundParams p) {
  each_element(p.columns, p.rows, p.padded, [&](int64_t row, int64_t column) {
    p.to[row * p.padded + column] = to_bf16(column < p.width ? p.from[row * p.width + column] : 0.0f);
  });
}

constexpr int64_t kSumRows = 256;  // of a partial sum

struct ColumnSumParams {
  const float* from;
  int64_t rows, n, block_rows;
  float *to0, *to1;
  bool add;
};

RNNFAST_KERNEL(kThreads, 1) column_sum_kernel(ColumnSumParams p) {
  const int64_t across = (p.n + kThreads - 1) / kThreads, part = block_index() / across;
  const int64_t column = block_index() % across * kThreads + thread_index();
  const int64_t begin = part * p.block_rows, end = begin + p.block_rows < p.rows ? begin + p.block_rows : p.rows;
  if (column >= p.n) return;
  float sum = 0;
  for (int64_t row = begin; row < end; ++row) sum += p.from[row * p.n + column];
  const int64_t at = part * p.n + column;
  if (p.to0 != nullptr) p.to0[at] = (p.add ? p.to0[at] : 0.0f) + sum;
  if (p.to1 != nullptr) p.to1[at] = (p.add ? p.to1[at] : 0.0f) + sum;
}

struct TokenSumParams {
  const float* from;
  const int32_t* token;
  int64_t rows, n;
  float* to;
  bool add;
};

// A block is one token and 256 columns: it looks through all rows, 256 at a time, for those that are its own.
RNNFAST_KERNEL(kThreads, 1) token_sum_kernel(TokenSumParams p) {
  const int64_t across = (p.n + kThreads - 1) / kThreads, token = block_index() / across;
  const int64_t column = block_index() % across * kThreads + thread_index();
  int* mine = shared<int>();
  float sum = 0;
  for (int64_t row0 = 0; row0 < p.rows; row0 += kThreads) {
    const int64_t row = row0 + thread_index();
    mine[thread_index()] = row < p.rows && p.token[row] == token;
    block_barrier();
    if (column < p.n)
      for (int i = 0; i < kThreads; ++i)
        if (mine[i] != 0) sum += p.from[(row0 + i) * p.n + column];
    block_barrier();
  }
  if (column < p.n) p.to[token * p.n + column] = (p.add ? p.to[token * p.n + column] : 0.0f) + sum;
}

int64_t tiles(int64_t n, int64_t of) { return (n + of - 1) / of; }

}  // namespace

void copy_rows(const RowMap& map, int64_t width, Place<const float> from, Place<float> to, Stream stream) {
  if (map.rows == 0) return;
  const Shape shape = shape_of(map.rows, width);
  launch("copy_kernel", copy_kernel, {shape.blocks, kThreads, 0, stream},
         CopyParams{map, width, from, to, shape.columns});
}

void rows_before(const BeforeParams& p, Stream stream) {
  if (p.map.rows == 0) return;
  const Shape shape = shape_of(p.map.rows, p.hidden);
  launch("before_kernel", before_kernel, {shape.blocks, kThreads, 0, stream}, BeforeLaunch{p, shape.columns, false});
}

void first_operand(const BeforeParams& p, Stream stream) {
  const Shape shape = shape_of(p.seq.batch, p.hidden);
  launch("before_kernel", before_kernel, {shape.blocks, kThreads, 0, stream}, BeforeLaunch{p, shape.columns, true});
}

void last_rows(const LastParams& p, Stream stream) {
  if (p.seq.batch == 0) return;
  const Shape shape = shape_of(p.seq.batch, p.hidden);
  launch("last_kernel", last_kernel, {shape.blocks, kThreads, 0, stream}, LastLaunch{p, shape.columns});
}

void drop_rows(const DropParams& p, Stream stream) {
  if (p.map.rows == 0) return;
  const Shape shape = shape_of(p.map.rows, p.directions * ((p.hidden + 3) / 4));
  launch("drop_kernel", drop_kernel, {shape.blocks, kThreads, 0, stream}, DropLaunch{p, shape.columns});
}

void transpose(const float* from, int64_t m, int64_t n, float* to, bool add, Stream stream, bool round) {
  launch("transpose_kernel", transpose_kernel, {tiles(m, 32) * tiles(n, 32), kThreads, 32 * 33 * sizeof(float), stream},
         TransposeParams{from, m, n, to, add, round});
}

void round_rows(const float* from, int64_t rows, int64_t width, Bf16* to, int64_t padded, Stream stream) {
  if (rows == 0) return;
  const Shape shape = shape_of(rows, padded);
  launch("round_kernel", round_kernel, {shape.blocks, kThreads, 0, stream},
         RoundParams{from, rows, width, padded, to, shape.columns});
}

int64_t column_sum_parts(int64_t rows) { return tiles(rows, kSumRows); }

void column_sums(const float* from, int64_t rows, int64_t n, float* partial, Stream stream) {
  if (rows == 0) return;
  launch("column_sum_kernel", column_sum_kernel, {tiles(n, kThreads) * column_sum_parts(rows), kThreads, 0, stream},
         ColumnSumParams{from, rows, n, kSumRows, partial, nullptr, false});
}

void add_column_sums(const float* from, int64_t rows, int64_t n, float* to0, float* to1, Stream stream) {
  if (rows == 0) return;
  launch("column_sum_kernel", column_sum_kernel, {tiles(n, kThreads), kThreads, 0, stream},
         ColumnSumParams{from, rows, n, rows, to0, to1, true});
}

void token_sums(const float* from, const int32_t* token, int64_t rows, int64_t tokens, int64_t n, float* to, bool add,
                Stream stream) {
  launch("token_sum_kernel", token_sum_kernel, {tokens * tiles(n, kThreads), kThreads, kThreads * sizeof(int), stream},
         TokenSumParams{from, token, rows, n, to, add});
}

}  // namespace rnnfast::cuda
