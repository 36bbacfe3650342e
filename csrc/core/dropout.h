// Dropout by counter: an element's fate depends on (seed, step, layer, direction, row, unit) alone, so it is the same
// for any threads, chunks and batch order, and backward draws it again instead of storing it.
#pragma once

#include "rnn.h"

namespace rnnfast {

uint32_t dropout_threshold(double p);

// The rows of times [times.begin, times.end) of a layer's output or of its gradient, [rows][D * H].
template <class T>
void drop_rows(const RnnConfig&, const Schedule&, uint64_t seed, uint64_t step, int layer, Span times, const T* in,
               T* out);

}  // namespace rnnfast
