#include "dropout.h"

#include <algorithm>
#include <cmath>

namespace rnnfast {

uint32_t dropout_threshold(double p) {
  return static_cast<uint32_t>(std::min(std::round(p * 4294967296.0), 4294967295.0));
}

template <class T>
void drop_rows(const RnnConfig& config, const Schedule& schedule, uint64_t seed, uint64_t step, int layer, Span times,
               const T* in, T* out) {
  const int64_t hidden = config.hidden, width = config.directions * hidden;
  DropoutKey key{seed, step, 0, dropout_threshold(config.dropout)};
  const T scale = static_cast<T>(1.0 / (1.0 - config.dropout));
  schedule.each_row(times.begin, times.end, [&](int64_t row, int64_t t, int64_t j) {
    for (int d = 0; d < config.directions; ++d) {
      key.stream = static_cast<uint32_t>(layer * 2 + d);
      const int64_t at = row * width + d * hidden;
      kernels<T>().dropout(in + at, out + at, hidden, key, t, static_cast<uint32_t>(schedule.caller(j)), scale);
    }
  });
}

template void drop_rows(const RnnConfig&, const Schedule&, uint64_t, uint64_t, int, Span, const float*, float*);
template void drop_rows(const RnnConfig&, const Schedule&, uint64_t, uint64_t, int, Span, const double*, double*);

}  // namespace rnnfast
