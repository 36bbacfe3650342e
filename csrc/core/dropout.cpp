#include "dropout.h"

namespace rnnfast {

template <class T>
void drop_row(const RnnConfig& config, uint64_t seed, uint64_t step, int layer, int64_t time, int64_t b, const T* in,
              T* out) {
  DropoutKey key{seed, step, 0, dropout_threshold(config.dropout)};
  const T scale = static_cast<T>(1.0 / (1.0 - config.dropout));
  for (int d = 0; d < config.directions; ++d) {
    key.stream = static_cast<uint32_t>(layer * 2 + d);
    kernels<T>().dropout(in + d * config.hidden, out + d * config.hidden, config.hidden, key, time,
                         static_cast<uint32_t>(b), scale);
  }
}

template <class T>
void drop_rows(const RnnConfig& config, const Schedule& schedule, uint64_t seed, uint64_t step, int layer, Span times,
               const T* in, T* out) {
  const int64_t width = config.directions * config.hidden;
  schedule.each_row(times.begin, times.end, [&](int64_t row, int64_t t, int64_t j) {
    drop_row(config, seed, step, layer, t, schedule.caller(j), in + row * width, out + row * width);
  });
}

#define RNNFAST_INSTANTIATE(T)                                                                       \
  template void drop_row(const RnnConfig&, uint64_t, uint64_t, int, int64_t, int64_t, const T*, T*); \
  template void drop_rows(const RnnConfig&, const Schedule&, uint64_t, uint64_t, int, Span, const T*, T*);
RNNFAST_INSTANTIATE(float)
RNNFAST_INSTANTIATE(double)

}  // namespace rnnfast
