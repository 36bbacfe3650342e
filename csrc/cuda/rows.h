// What happens to rows around the recurrence: between the caller's layout and packed rows, shifted by a step, dropped,
// added up. Each function launches one or two kernels on the stream. No sum uses atomics: parts are added in order.
#pragma once

#include "memory.h"
#include "params.h"

namespace rnnfast::cuda {

// Where row r lies: at base + r * row + t * time + b * batch, for time t of the caller's sequence b.
template <class T>
struct Place {
  T* base;
  int64_t row, time, batch;
};

// Which (t, b) a row is. Where `uniform`, t = r / batch; else time[r], and j = r - offset[t].
struct RowMap {
  int64_t rows, batch;
  bool uniform;
  const int32_t* time;    // [rows]
  const int64_t* offset;  // [steps]
  const int32_t* order;   // [batch] the caller's sequence of each sorted one, or null: the same
};

void copy_rows(const RowMap&, int64_t width, Place<const float> from, Place<float> to, Stream);

// to[r] = the state h before row r's step, zeros where a cut lies. Also of a step s alone: see first_operand.
struct BeforeParams {
  Sequences seq;
  RowMap map;
  int64_t hidden;
  const float* state0[1];
  const float* y;
  int64_t y_stride;
  float* to;  // [rows][H]
};
void rows_before(const BeforeParams&, Stream);
void first_operand(const BeforeParams&, Stream);  // [batch][H] for step 0

// to(b) = the last row of each sequence, or its first state where it has no step; for every state at once.
struct LastParams {
  Sequences seq;
  int64_t hidden;
  const int32_t* order;
  struct State {
    const float* rows;  // row -> [H] at row * stride; or with by_sequence [B][H]
    int64_t stride;
    bool by_sequence;
    const float* state0;  // [B][H] or null: zeros
    float* to;            // [B][H], the caller's order, or null
  } state[kStates];
};
void last_rows(const LastParams&, Stream);

// The outputs [rows][D * H] of a layer through its dropout mask: core/dropout.h.
struct DropParams {
  RowMap map;
  int64_t hidden;
  int directions;
  uint64_t seed, step;
  uint32_t stream, threshold;  // stream of direction 0
  float scale;
  const float* from;
  float* to;  // may be `from`
};
void drop_rows(const DropParams&, Stream);

// to [n][m] (+)= the transpose of from [m][n], of which each number is rounded to bf16 first where `round`.
void transpose(const float* from, int64_t m, int64_t n, float* to, bool add, Stream, bool round = false);

// to [rows][padded] = from [rows][width] rounded, zeros from `width` on.
void round_rows(const float* from, int64_t rows, int64_t width, Bf16* to, int64_t padded, Stream);

// A float array [rows][width] as products take it: where it lies, or rounded into memory of its own.
class Operand {
 public:
  Operand(const float* from, int64_t rows, int64_t width, bool bf16, const Context& context)
      : from_(from), rounded_(context, bf16 ? rows * width : 0) {
    if (bf16) round_rows(from, rows, width, rounded_.data(), width, context.stream);
  }
  const void* data() const { return rounded_.size() > 0 ? static_cast<const void*>(rounded_.data()) : from_; }

 private:
  const float* from_;
  DeviceBuffer<Bf16> rounded_;
};

// Sums of the columns of from [rows][n], in two steps: partial [column_sum_parts(rows)][n] gets those of some rows
// each; to0 and to1 [n] (or null) += those of few rows.
int64_t column_sum_parts(int64_t rows);
void column_sums(const float* from, int64_t rows, int64_t n, float* partial, Stream);
void add_column_sums(const float* from, int64_t rows, int64_t n, float* to0, float* to1, Stream);

// to [tokens][n] (+)= the sums of the rows of each token; every element is written.
void token_sums(const float* from, const int32_t* token, int64_t rows, int64_t tokens, int64_t n, float* to, bool add,
                Stream);

}  // namespace rnnfast::cuda
