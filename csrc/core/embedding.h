// Rows of a table by token, and their gradient; and dropout of whole arrays.
#pragma once

#include "../cpu/kernels.h"
#include "../cpu/ops_kernels.h"

namespace rnnfast {

// y [rows, width] = the rows `token` of table (vocabulary, width).
template <class T>
void embedding_forward(const T* table, int64_t width, const int32_t* token, int64_t rows, T* y, int threads);

// dtable[token[r]] += dy[r], the rows of one token in order and in blocks: the same bits for any threads.
template <class T>
void embedding_backward(const T* dy, int64_t width, const int32_t* token, int64_t rows, int64_t vocabulary, T* dtable,
                        int threads);

struct DropoutMask {
  double p;  // probability to drop; 1 drops everything
  uint64_t seed, step;
  uint32_t stream;
};

// y (T, B, n) = x * mask / (1 - p); the mask is a function of (seed, step + t, stream, b, unit).
template <class T>
void dropout_values(const T* x, int64_t steps, int64_t batch, int64_t n, const DropoutMask&, T* y, int threads);

}  // namespace rnnfast
