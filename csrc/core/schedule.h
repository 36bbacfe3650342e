// Which rows a batch of sequences has.
//
// Sequences are sorted by length, longest first, so that those still running at time t are the first active[t]; row
// offset[t] + j is time t of sorted sequence j. There are sum(lengths) rows, and no work is done for any other. A
// direction that runs backwards in time starts sequence j at time length[j] - 1.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../cpu/kernels.h"

namespace rnnfast {

// From one (time t, sequence b) to another in an array of the caller: t * time + b * batch. Or, where `row` is not 0,
// the array has no room for times past a sequence's end: its rows are those of the schedule, in the same order.
struct Strides {
  int64_t time, batch, row = 0;
};

// A batch as the caller has it: element (t, b) at t * stride_time + b * stride_batch.
struct BatchLayout {
  int64_t steps, batch;
  const int32_t* lengths;  // [batch] in 0 .. steps, or null: all have `steps`
  const uint8_t* reset;    // bool at (t, b), or null
  int64_t reset_stride_time, reset_stride_batch;
};

class Schedule {
 public:
  explicit Schedule(const BatchLayout& layout);

  ScheduleView view() const;
  int64_t steps() const { return steps_; }  // of the caller
  int64_t batch() const { return batch_; }
  int64_t rows() const { return offset_.back(); }
  bool ragged() const { return ragged_; }
  // Where the caller has sorted sequence j.
  int64_t caller(int64_t j) const { return ragged_ ? order_[static_cast<std::size_t>(j)] : j; }
  int64_t length(int64_t j) const { return length_[static_cast<std::size_t>(j)]; }
  // Where an array of the caller has time t of sorted sequence j, which is this row.
  int64_t place(const Strides& strides, int64_t row, int64_t t, int64_t j) const {
    return strides.row != 0 ? row * strides.row : t * strides.time + caller(j) * strides.batch;
  }

  // f(row, time, j) for the rows of times [begin, end).
  template <class F>
  void each_row(int64_t begin, int64_t end, F&& f) const {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t j = 0; j < active_[static_cast<std::size_t>(t)]; ++j)
        f(offset_[static_cast<std::size_t>(t)] + j, t, j);
  }
  // f(j) for the sorted sequences that have ended by this time of the caller's.
  template <class F>
  void each_ended(int64_t time, F&& f) const {
    for (int64_t j = time < longest() ? active_[static_cast<std::size_t>(time)] : 0; j < batch_; ++j) f(j);
  }
  int64_t longest() const { return static_cast<int64_t>(active_.size()) - 1; }

 private:
  int64_t steps_, batch_;
  bool ragged_;
  std::vector<int32_t> order_, length_, active_;  // active_ has one more entry than there are times, 0
  std::vector<int64_t> offset_;
  std::vector<uint8_t> cut_;
};

// Where row `row` of a schedule lies.
template <class T>
T* row_at(const Rows<T>& rows, int64_t row) {
  return rows.index != nullptr ? rows.index[row] : rows.base + row * rows.stride;
}

// The schedule's rows in an array of the caller whose rows have `width` numbers, from number `first` of each on;
// `index` for where they do not lie side by side in that order.
template <class T>
Rows<T> rows_in_place(const Schedule& schedule, T* array, const Strides& strides, int64_t width, int64_t first,
                      std::vector<T*>& index) {
  if (schedule.rows() == 0) return {};
  const bool in_order = strides.row != 0
                            ? strides.row == width
                            : !schedule.ragged() && strides.batch == width && strides.time == schedule.batch() * width;
  if (in_order) return {array + first, width, nullptr};
  index.resize(static_cast<size_t>(schedule.rows()));
  schedule.each_row(0, schedule.longest(), [&](int64_t row, int64_t t, int64_t j) {
    index[static_cast<size_t>(row)] = array + schedule.place(strides, row, t, j) + first;
  });
  return {nullptr, 0, index.data()};
}

// A thread's share of the zeros that an array of the caller gets past the sequences' ends, where it has room for them.
template <class T>
void clear_past_ends(const Schedule& schedule, T* array, const Strides& strides, int64_t width, const Team& team) {
  if (array == nullptr || strides.row != 0) return;
  for (int64_t t = team.id; t < schedule.steps(); t += team.count)  // in turn: later times have more of them
    schedule.each_ended(t, [&](int64_t j) { std::fill_n(array + schedule.place(strides, 0, t, j), width, T(0)); });
}

}  // namespace rnnfast
