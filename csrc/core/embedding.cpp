#include "embedding.h"

#include <algorithm>
#include <vector>

#include "dropout.h"

namespace rnnfast {

namespace {

constexpr int64_t kElementsForThreads = 64 * 1024;

int threads_of(int64_t elements, int threads) { return elements < kElementsForThreads ? 1 : threads; }

}  // namespace

template <class T>
void embedding_forward(const T* table, int64_t width, const int32_t* token, int64_t rows, T* y, int threads) {
  parallel(threads_of(rows * width, threads), [&](Team& team) {
    const Span own = part_of(rows, team.id, team.count);
    for (int64_t r = own.begin; r < own.end; ++r) std::copy_n(table + token[r] * width, width, y + r * width);
  });
}

template <class T>
void embedding_backward(const T* dy, int64_t width, const int32_t* token, int64_t rows, int64_t vocabulary, T* dtable,
                        int threads) {
  // order[begin[v] .. begin[v + 1]): the rows of token v, in order.
  std::vector<int64_t> begin(static_cast<size_t>(vocabulary) + 1, 0);
  for (int64_t r = 0; r < rows; ++r) ++begin[static_cast<size_t>(token[r]) + 1];
  for (size_t v = 0; v < static_cast<size_t>(vocabulary); ++v) begin[v + 1] += begin[v];
  std::vector<int32_t> order(static_cast<size_t>(rows));
  std::vector<int64_t> next(begin.begin(), begin.end() - 1);
  for (int64_t r = 0; r < rows; ++r)
    order[static_cast<size_t>(next[static_cast<size_t>(token[r])]++)] = static_cast<int32_t>(r);
  parallel(threads_of(rows * width, threads), [&](Team& team) {
    const Span own = part_of(rows, team.id, team.count);  // a thread has the tokens whose first row falls into its part
    for (size_t v = 0; v < static_cast<size_t>(vocabulary); ++v)
      if (begin[v] < begin[v + 1] && begin[v] >= own.begin && begin[v] < own.end)
        ops_kernels<T>().add_rows(dtable + static_cast<int64_t>(v) * width, dy, order.data() + begin[v],
                                  begin[v + 1] - begin[v], width);
  });
}

template <class T>
void dropout_values(const T* x, int64_t steps, int64_t batch, int64_t n, const DropoutMask& mask, T* y, int threads) {
  if (mask.p >= 1) {
    std::fill_n(y, steps * batch * n, T(0));
    return;
  }
  const DropoutKey key{mask.seed, mask.step, mask.stream, dropout_threshold(mask.p)};
  const T scale = static_cast<T>(1 / (1 - mask.p));
  parallel(threads_of(steps * batch * n, threads), [&](Team& team) {
    const Span own = part_of(steps * batch, team.id, team.count);
    for (int64_t r = own.begin; r < own.end; ++r)
      kernels<T>().dropout(x + r * n, y + r * n, n, key, r / batch, static_cast<uint32_t>(r % batch), scale);
  });
}

#define RNNFAST_INSTANTIATE(T)                                                                    \
  template void embedding_forward(const T*, int64_t, const int32_t*, int64_t, T*, int);           \
  template void embedding_backward(const T*, int64_t, const int32_t*, int64_t, int64_t, T*, int); \
  template void dropout_values(const T*, int64_t, int64_t, int64_t, const DropoutMask&, T*, int);
RNNFAST_INSTANTIATE(float)
RNNFAST_INSTANTIATE(double)

}  // namespace rnnfast
