// The host's schedule, copied to the device in one piece; nothing at all where every sequence has every step.
#include <cstring>

#include "rnn.h"

namespace rnnfast::cuda {

namespace {

// Arrays one behind the other in one host buffer.
struct Packer {
  std::vector<char> bytes;
  template <class T>
  size_t add(const T* data, size_t count) {
    const size_t at = (bytes.size() + 15) / 16 * 16;
    bytes.resize(at + count * sizeof(T));
    if (count > 0) std::memcpy(bytes.data() + at, data, count * sizeof(T));
    return at;
  }
};

}  // namespace

DeviceSchedule::DeviceSchedule(const BatchLayout& layout, const Context& context) : host_(layout) {
  const ScheduleView view = host_.view();
  const bool ragged = host_.ragged();
  if ((!ragged && view.cut == nullptr) || view.batch == 0) return;
  Packer packer;
  size_t offset = 0, active = 0, length = 0, order = 0, time = 0, cut = 0;
  if (ragged) {
    std::vector<int32_t> caller(static_cast<size_t>(view.batch)), times(static_cast<size_t>(view.rows));
    for (int64_t j = 0; j < view.batch; ++j) caller[static_cast<size_t>(j)] = static_cast<int32_t>(host_.caller(j));
    host_.each_row(0, view.steps,
                   [&](int64_t row, int64_t t, int64_t) { times[static_cast<size_t>(row)] = static_cast<int32_t>(t); });
    const auto steps = static_cast<size_t>(view.steps) + 1;
    offset = packer.add(view.offset, steps), active = packer.add(view.active, steps);
    length = packer.add(view.length, caller.size()), order = packer.add(caller.data(), caller.size());
    time = packer.add(times.data(), times.size());
  }
  if (view.cut != nullptr) cut = packer.add(view.cut, static_cast<size_t>(view.rows));
  memory_ = DeviceBuffer<char>(context, static_cast<int64_t>(packer.bytes.size()));
  const auto packed = std::make_shared<const std::vector<char>>(std::move(packer.bytes));
  copy_async(memory_.data(), packed->data(), packed->size(), context.stream);
  keep_until_copied(packed, context.stream);
  const char* base = memory_.data();
  if (ragged) {
    offset_ = reinterpret_cast<const int64_t*>(base + offset);
    active_ = reinterpret_cast<const int32_t*>(base + active);
    length_ = reinterpret_cast<const int32_t*>(base + length);
    order_ = reinterpret_cast<const int32_t*>(base + order);
    time_ = reinterpret_cast<const int32_t*>(base + time);
  }
  if (view.cut != nullptr) cut_ = reinterpret_cast<const uint8_t*>(base + cut);
}

Sequences DeviceSchedule::sequences(bool reverse) const {
  return {host_.longest(), host_.batch(), host_.rows(), offset_, active_, length_, cut_, !host_.ragged(), reverse};
}

RowMap DeviceSchedule::rows() const { return {host_.rows(), host_.batch(), !host_.ragged(), time_, offset_, order_}; }

RowMap DeviceSchedule::batch() const { return {host_.batch(), host_.batch(), true, nullptr, nullptr, order_}; }

const int32_t* DeviceSchedule::active() const { return host_.ragged() ? host_.view().active : nullptr; }

}  // namespace rnnfast::cuda
