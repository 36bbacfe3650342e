// Dropout by counter: an element's fate depends on (seed, step, layer, direction, row, unit) alone, so it is the same
// for any threads, chunks and batch order, and backward draws it again instead of storing it.
#pragma once

#include <algorithm>
#include <cmath>

#include "rnn.h"

namespace rnnfast {

inline uint32_t dropout_threshold(double p) {
  return static_cast<uint32_t>(std::min(std::round(p * 4294967296.0), 4294967295.0));
}

// Row [D * H] of a layer's output at time `time` of the caller's sequence `b`, or of its gradient.
template <class T>
void drop_row(const RnnConfig&, uint64_t seed, uint64_t step, int layer, int64_t time, int64_t b, const T* in, T* out);

// The rows of times [times.begin, times.end), [rows][D * H].
template <class T>
void drop_rows(const RnnConfig&, const Schedule&, uint64_t seed, uint64_t step, int layer, Span times, const T* in,
               T* out);

}  // namespace rnnfast
