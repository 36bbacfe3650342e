// Recurrent networks of several layers and directions on a GPU: core/rnn.h's interface with pointers into device memory
// (but for the layout's `lengths` and `reset`, which the host needs to plan with). Everything is put on the caller's
// stream, and nothing waits for it.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "../core/rnn.h"
#include "launches.h"
#include "rows.h"

namespace rnnfast::cuda {

// A schedule with what kernels read of it, on the device.
class DeviceSchedule {
 public:
  DeviceSchedule(const BatchLayout& layout, const Context& context);

  const Schedule& host() const { return host_; }
  Sequences sequences(bool reverse) const;
  RowMap rows() const;
  RowMap batch() const;           // a row is a sequence
  const int32_t* active() const;  // on the host; null where all sequences are as long
  const int32_t* order() const { return order_; }

 private:
  Schedule host_;
  DeviceBuffer<char> memory_;
  const int64_t* offset_ = nullptr;
  const int32_t *active_ = nullptr, *length_ = nullptr, *order_ = nullptr, *time_ = nullptr;
  const uint8_t* cut_ = nullptr;
};

// Everything that backward needs, in memory of its own; the weights of the forward pass too.
struct DeviceCache {
  DeviceCache(const BatchLayout& layout, const Context& context) : schedule(layout, context) {}
  RnnConfig config{};
  bool bf16 = false;  // products multiply bf16; what is kept here is float
  DeviceSchedule schedule;
  DropoutState dropout{};
  DeviceBuffer<float> x;        // [rows][I]
  DeviceBuffer<int32_t> token;  // [rows], or empty
  struct Layer {
    DeviceBuffer<float> y, out;  // [rows][D * H]; `out` where outputs are dropped
    struct Direction {
      DeviceBuffer<float> w, r;  // as they were: [G * H, I], [G * H, H]
      DeviceBuffer<float> state0[kMaxStates], state[kMaxStates], saved;
    };
    std::vector<Direction> direction;
    const float* outputs() const { return out.size() > 0 ? out.data() : y.data(); }
  };
  std::vector<Layer> layers;
  size_t bytes() const;
};

// The caller's array as copy_rows takes it.
template <class T>
Place<T> place_of(T* base, const Strides& strides) {
  if (strides.row != 0) return {base, strides.row, 0, 0};
  return {base, 0, strides.time, strides.batch};
}

// The mask of a layer's outputs.
DropParams drop_params(const DeviceCache&, int layer, const float* from, float* to);

// Returns the cache if `keep`.
std::unique_ptr<DeviceCache> rnn_forward(const RnnConfig&, const RnnWeights<float>* weights, const RnnInput<float>&,
                                         const float* const state0[kMaxStates], const RnnOutput<float>&, bool keep,
                                         const DropoutState&, Choice, const Context&);

// Leaves the cache as it is, so it may be called again.
void rnn_backward(const DeviceCache&, const RnnBackward<float>&, Recurrence wish, const Context&);

}  // namespace rnnfast::cuda
