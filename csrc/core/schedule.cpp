#include "schedule.h"

#include <algorithm>
#include <numeric>

namespace rnnfast {

Schedule::Schedule(const BatchLayout& layout) : steps_(layout.steps), batch_(layout.batch), ragged_(false) {
  const auto batch = static_cast<size_t>(batch_);
  length_.assign(batch, static_cast<int32_t>(steps_));
  if (layout.lengths != nullptr) {
    ragged_ = std::any_of(layout.lengths, layout.lengths + batch, [&](int32_t n) { return n != steps_; });
  }
  if (ragged_) {
    order_.resize(batch);
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int32_t a, int32_t b) { return layout.lengths[a] > layout.lengths[b]; });
    for (size_t j = 0; j < batch; ++j) length_[j] = layout.lengths[order_[j]];
  }
  const int64_t longest = batch == 0 ? 0 : length_[0];
  active_.assign(static_cast<size_t>(longest) + 1, 0);
  offset_.assign(static_cast<size_t>(longest) + 1, 0);
  int64_t running = batch_;
  for (size_t t = 0; t < static_cast<size_t>(longest); ++t) {
    while (running > 0 && length_[static_cast<size_t>(running) - 1] <= static_cast<int64_t>(t)) --running;
    active_[t] = static_cast<int32_t>(running);
    offset_[t + 1] = offset_[t] + running;
  }
  if (layout.reset != nullptr) {
    cut_.resize(static_cast<size_t>(rows()));
    each_row(0, longest, [&](int64_t row, int64_t t, int64_t j) {
      cut_[static_cast<size_t>(row)] =
          layout.reset[t * layout.reset_stride_time + caller(j) * layout.reset_stride_batch];
    });
  }
}

ScheduleView Schedule::view() const {
  return {
      longest(), batch_, rows(), offset_.data(), active_.data(), length_.data(), cut_.empty() ? nullptr : cut_.data()};
}

}  // namespace rnnfast
