// Arrays are cut into blocks of a fixed size, which are dealt to threads: the bits of a sum do not depend on how many.
#include "optim.h"

#include <algorithm>

#include "buffer.h"

namespace rnnfast {

namespace {

constexpr int64_t kBlock = 8192;          // elements
constexpr int64_t kBlocksForThreads = 8;  // below it a second thread costs more than it brings, even one that is awake

// f(array, first element, elements, index of the block) for this thread's blocks of all arrays.
template <class Arrays, class F>
void each_block(const Arrays& arrays, int threads, F&& f) {
  int64_t blocks = 0;
  for (const auto& array : arrays) blocks += (array.size + kBlock - 1) / kBlock;
  parallel(blocks < kBlocksForThreads ? 1 : threads, [&](Team& team) {
    const Span own = part_of(blocks, team.id, team.count);
    int64_t index = 0;
    for (const auto& array : arrays) {
      const int64_t count = (array.size + kBlock - 1) / kBlock;
      const int64_t end = std::min(index + count, own.end);
      for (int64_t i = std::max(index, own.begin); i < end; ++i) {
        const int64_t first = (i - index) * kBlock;
        f(array, first, std::min(kBlock, array.size - first), i);
      }
      index += count;
    }
  });
}

}  // namespace

template <class T>
void optimiser_step(const OptimiserStep& step, const std::vector<OptimiserArrays<T>>& arrays, int threads) {
  const auto update = ops_kernels<T>().update[static_cast<int>(rule_of(step.kind))];
  const UpdateArgs<T> common = coefficients<T>(step);
  each_block(arrays, threads, [&](const OptimiserArrays<T>& array, int64_t first, int64_t size, int64_t) {
    UpdateArgs<T> u = common;
    u.param = array.param + first;
    u.grad = array.grad + first;
    for (int k = 0; k < kMaxOptimiserStates; ++k)
      u.state[k] = array.state[k] != nullptr ? array.state[k] + first : nullptr;
    u.size = size;
    update(u);
  });
}

template <class T>
double sum_of_squares(const std::vector<Values<T>>& arrays, int threads) {
  int64_t blocks = 0;
  for (const auto& array : arrays) blocks += (array.size + kBlock - 1) / kBlock;
  Buffer<double> sums(blocks);
  each_block(arrays, threads, [&](const Values<T>& array, int64_t first, int64_t size, int64_t index) {
    sums[index] = ops_kernels<T>().sum_of_squares(array.data + first, size);
  });
  double total = 0;
  for (int64_t i = 0; i < blocks; ++i) total += sums[i];
  return total;
}

template <class T>
void scale_values(const std::vector<Values<T>>& arrays, double factor, int threads) {
  each_block(arrays, threads, [&](const Values<T>& array, int64_t first, int64_t size, int64_t) {
    ops_kernels<T>().scale(array.data + first, size, static_cast<T>(factor));
  });
}

template <class T>
void clip_values(const std::vector<Values<T>>& arrays, double limit, int threads) {
  each_block(arrays, threads, [&](const Values<T>& array, int64_t first, int64_t size, int64_t) {
    ops_kernels<T>().clip(array.data + first, size, static_cast<T>(limit));
  });
}

#define RNNFAST_INSTANTIATE(T)                                                                     \
  template void optimiser_step(const OptimiserStep&, const std::vector<OptimiserArrays<T>>&, int); \
  template double sum_of_squares(const std::vector<Values<T>>&, int);                              \
  template void scale_values(const std::vector<Values<T>>&, double, int);                          \
  template void clip_values(const std::vector<Values<T>>&, double, int);
RNNFAST_INSTANTIATE(float)
RNNFAST_INSTANTIATE(double)

}  // namespace rnnfast
