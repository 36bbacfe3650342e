// What a call's tensors are to the core: read, compared with the network and with each other, copied where their
// numbers do not lie as the kernels need them.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>

#include "core/rnn.h"
#include "tensors.h"

namespace rnnfast {

CellId cell_of(const std::string& name);

// How sequences lie in x and y.
enum class Form { sequences, batch_first, packed, step };  // (T, B, I), (B, T, I), (sum of lengths, I), (B, I)

inline Form form_of(const std::string& name) {
  return name == "sequences"     ? Form::sequences
         : name == "batch first" ? Form::batch_first
         : name == "packed"      ? Form::packed
                                 : Form::step;
}

// What a call's tensors say of each other.
struct Extent {
  int64_t steps = 0, batch = 0;
  Shape y, state;
};

// One forward call's tensors as the core takes them.
template <class T>
struct RnnCall {
  Owners copies;
  std::vector<RnnWeights<T>> weights;
  Extent extent;
  RnnInput<T> in{};
  std::vector<int32_t> tokens, lengths;
  const T* state0[kMaxStates] = {};
  uint64_t seed = 0;
};

template <class T>
class TensorReader {
 public:
  // `network`: of the fields of Network in Python.
  TensorReader(std::shared_ptr<const Tensors> tensors, const py::object& network)
      : tensors_(std::move(tensors)),
        config_{cell_of(network.attr("cell").cast<std::string>()),
                network.attr("input_size").cast<int64_t>(),
                network.attr("hidden_size").cast<int64_t>(),
                network.attr("num_layers").cast<int>(),
                network.attr("directions").cast<int>(),
                network.attr("dropout").cast<double>(),
                false,
                true,
                false},  // others may write to y, as to that of torch.nn
        shape_(cell_shape(config_.cell)),
        bias_(network.attr("bias").cast<bool>()),
        form_(form_of(network.attr("form").cast<std::string>())) {}

  const Tensors& tensors() const { return *tensors_; }
  const RnnConfig& config() const { return config_; }
  int states() const { return shape_.states; }
  size_t each() const { return bias_ ? 4 : 2; }  // weights of a layer and direction
  size_t layers() const { return static_cast<size_t>(config_.layers * config_.directions); }
  int first_state() const { return form_ == Form::step ? 1 : 0; }  // a cell's y is its state 0

  // Of weight i of the network.
  Shape shape_of(size_t i) const {
    const int64_t rows = shape_.gates * config_.hidden;
    const int layer = static_cast<int>(i / each()) / config_.directions;
    return i % each() == 0   ? Shape{rows, config_.input_of(layer)}
           : i % each() == 1 ? Shape{rows, config_.hidden}
                             : Shape{rows};
  }

  // Items `first` and those that follow.
  bool take_weights(const Items& from, size_t first, std::vector<RnnWeights<T>>& weights, Owners& copies) const {
    if (from.size() != first + each() * layers()) return false;
    weights.reserve(layers());
    for (size_t at = 0; at < each() * layers(); at += each()) {
      RnnWeights<T> to{};
      const T** const own[] = {&to.w_ih, &to.w_hh, &to.b_ih, &to.b_hh};
      for (size_t i = 0; i < each(); ++i) {
        View view;
        if (!tensors_->read_dense(from[first + at + i], 0, view, copies) || !view.holds<T>()) return false;
        if (!(view.shape == shape_of(at + i))) return false;
        *own[i] = view.data<T>();
      }
      weights.push_back(to);
    }
    return true;
  }

  // Rows of x for products: each is dense.
  bool take_rows(py::handle x, View& view, Owners& copies) const {
    const int inputs = view.holds<T>() ? 1 : 0;
    return tensors_->make_dense(x, form_ == Form::packed ? 0 : std::max(view.shape.axes - inputs, 0), view, copies);
  }

  // x, lengths and resets.
  bool take_input(py::handle x, const Items& given, RnnCall<T>& call) const {
    View view, lengths, reset, seed;
    if (!tensors_->read(x, view)) return false;
    const bool tokens = !view.holds<T>();
    if (!take_rows(x, view, call.copies)) return false;
    BatchLayout& layout = call.in.layout;
    if (!given[0].is_none() && !tensors_->read_dense(given[0], 0, lengths, call.copies)) return false;
    if (form_ == Form::packed) {
      if (!lengths.holds<int64_t>() || lengths.shape.axes != 1) return false;
      call.lengths = lengths_of(lengths, view.shape[0]);
      call.extent = extent_of(view, lengths.shape[0], static_cast<int64_t>(call.lengths.size()));
    } else {
      call.extent = extent_of(view, 0, 0);
    }
    if (call.extent.steps == 0 || (!tokens && view.shape[view.shape.axes - 1] != config_.input)) return false;
    layout.steps = call.extent.steps, layout.batch = call.extent.batch;
    if (form_ != Form::packed && lengths.address != nullptr) {
      if (!lengths.holds<int32_t>() || !(lengths.shape == Shape{layout.batch})) return false;
      call.lengths.assign(lengths.data<const int32_t>(), lengths.data<const int32_t>() + layout.batch);
      check_lengths(call.lengths, layout.steps);
    }
    if (!call.lengths.empty()) layout.lengths = call.lengths.data();
    if (!given[1].is_none()) {
      const bool by_batch = form_ == Form::batch_first;
      if (!tensors_->read_dense(given[1], 2, reset, call.copies) || !reset.holds<bool>() || reset.shape.axes != 2)
        return false;
      const Strides strides = strides_of(reset);
      if (!(reset.shape == (by_batch ? Shape{layout.batch, layout.steps} : Shape{layout.steps, layout.batch})))
        return false;
      layout.reset = reset.data<const uint8_t>();
      layout.reset_stride_time = strides.time, layout.reset_stride_batch = strides.batch;
    }
    if (!given[2].is_none()) {
      if (!tensors_->read_dense(given[2], 0, seed, call.copies) || !seed.holds<int64_t>()) return false;
      call.seed = static_cast<uint64_t>(*seed.data<const int64_t>());
    }
    call.in.strides = strides_of(view);
    if (tokens) return take_tokens(view, call);
    call.in.x = view.data<const T>();
    return true;
  }

  // Without any they are zeros.
  bool take_state(const Items& from, RnnCall<T>& call) const {
    if (from.size() != 0 && from.size() != static_cast<size_t>(shape_.states)) return false;
    for (size_t k = 0; k < from.size(); ++k) {
      View view;
      if (!tensors_->read_dense(from[k], 0, view, call.copies) || !view.holds<T>()) return false;
      if (!(view.shape == call.extent.state)) return false;
      call.state0[k] = view.data<const T>();
    }
    return true;
  }

  bool take_slopes(const Items& from, const Extent& extent, RnnBackward<T>& io, Owners& copies) const {
    for (size_t i = 0; i < from.size(); ++i) {
      if (from[i].is_none()) continue;
      View view;
      const int free_axes = i > 0 || form_ == Form::packed ? 0 : extent.y.axes - 1;
      if (!tensors_->read_dense(from[i], free_axes, view, copies) || !view.holds<T>()) return false;
      if (!(view.shape == (i == 0 ? extent.y : extent.state))) return false;
      if (i == 0)
        io.dy = view.data<const T>(), io.dy_strides = strides_of(view);
      else
        io.dstate_n[i - 1 + first_state()] = view.data<const T>();
    }
    return true;
  }

  // Without steps where x has no such axes. Packed rows do not say how many steps and sequences they are.
  Extent extent_of(const View& x, int64_t steps, int64_t batch) const {
    const int before = x.shape.axes - (x.holds<T>() ? 1 : 0);  // axes before that of the inputs
    const int64_t width = config_.directions * config_.hidden, blocks = config_.layers * config_.directions;
    Extent to;
    if (form_ == Form::packed) {
      if (before == 1) to = {steps, batch, {x.shape[0], width}, {blocks, batch, config_.hidden}};
    } else if (form_ == Form::step) {
      if (before == 1) to = {1, x.shape[0], {x.shape[0], width}, {x.shape[0], width}};
    } else if (before == 2) {
      const bool by_batch = form_ == Form::batch_first;
      to = {x.shape[by_batch ? 1 : 0], x.shape[by_batch ? 0 : 1], {x.shape[0], x.shape[1], width}, {}};
      to.state = {blocks, to.batch, config_.hidden};
    }
    return to;
  }

  Strides strides_of(const View& array) const {
    const int64_t first = array.strides[0], second = array.strides[1];
    switch (form_) {
      case Form::packed:
        return {0, 0, array.shape[1]};
      case Form::step:
        return {0, first};
      case Form::batch_first:
        return {second, first};
      default:
        return {first, second};
    }
  }

 private:
  // Integers that stand for one-hot rows; what lies past a sequence's end may be anything.
  bool take_tokens(const View& from, RnnCall<T>& call) const {
    if (form_ == Form::packed || (from.code != dlpack::kInt && from.code != dlpack::kUnsigned)) return false;
    call.tokens.resize(static_cast<size_t>(from.shape.size()));
    const int64_t first = from.shape.axes > 1 ? from.shape[1] : 1;
    View dense;
    dense.strides[0] = first, dense.strides[1] = 1;
    const Strides to = call.in.strides = strides_of(dense);
    const Strides strides = strides_of(from);
    for (int64_t b = 0; b < call.extent.batch; ++b) {
      const int64_t steps = call.lengths.empty() ? call.extent.steps : call.lengths[static_cast<size_t>(b)];
      for (int64_t t = 0; t < steps; ++t) {
        int64_t token = 0;
        if (!number_at(from, t * strides.time + b * strides.batch, token)) return false;
        if (token < 0 || token >= config_.input)
          throw py::value_error("input of integers must hold tokens in 0 .. " + std::to_string(config_.input - 1) +
                                ", got " + std::to_string(token));
        call.tokens[static_cast<size_t>(t * to.time + b * to.batch)] = static_cast<int32_t>(token);
      }
    }
    call.in.tokens = call.tokens.data();
    return true;
  }

  static bool number_at(const View& from, int64_t at, int64_t& to) {
    if (from.holds<int64_t>())
      to = from.data<const int64_t>()[at];
    else if (from.holds<int32_t>())
      to = from.data<const int32_t>()[at];
    else if (from.holds<int16_t>())
      to = from.data<const int16_t>()[at];
    else if (from.holds<int8_t>())
      to = from.data<const int8_t>()[at];
    else if (from.holds<uint8_t>())
      to = from.data<const uint8_t>()[at];
    else
      return false;
    return true;
  }

  // Of the sequences of packed rows, from how many of them each step has.
  static std::vector<int32_t> lengths_of(const View& running, int64_t rows) {
    const auto* const first = running.data<const int64_t>();
    const std::vector<int64_t> at(first, first + running.shape[0]);  // a copy: others may write to it meanwhile
    bool right =
        !at.empty() && at.back() > 0 && std::is_sorted(at.begin(), at.end(), std::greater<>()) && at[0] <= rows;
    int64_t sum = 0;
    for (size_t t = 0; right && t < at.size(); ++t) sum += at[t];
    if (!right || sum != rows)
      throw py::value_error("batch_sizes of a PackedSequence must not increase, be positive and add up to its " +
                            std::to_string(rows) + " rows");
    std::vector<int32_t> lengths(static_cast<size_t>(at[0]));
    for (size_t t = 0; t < at.size(); ++t) std::fill_n(lengths.begin(), at[t], static_cast<int32_t>(t + 1));
    return lengths;
  }

  static void check_lengths(const std::vector<int32_t>& lengths, int64_t steps) {
    for (const int32_t n : lengths)
      if (n < 0 || n > steps)
        throw py::value_error("lengths must be in 0 .. " + std::to_string(steps) + ", got " + std::to_string(n));
  }

  std::shared_ptr<const Tensors> tensors_;
  RnnConfig config_;
  CellShape shape_;
  bool bias_;
  Form form_;
};

}  // namespace rnnfast
