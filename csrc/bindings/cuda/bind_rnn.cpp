// Recurrent layers on a device. Python has checked every argument.
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "common.h"
#include "cuda/rnn.h"

namespace rnnfast::cuda {

namespace {

using Addresses = std::vector<uintptr_t>;  // 0: null

CellId cell_of(const std::string& name) {
  for (int id = 0; id < cell_count; ++id)
    if (name == cell_name(static_cast<CellId>(id))) return static_cast<CellId>(id);
  throw py::value_error("no cell is called '" + name + "'");
}

Recurrence recurrence_of(const std::string& name) {
  for (const auto r : {Recurrence::automatic, Recurrence::small, Recurrence::persistent, Recurrence::step})
    if (name == recurrence_name(r)) return r;
  throw py::value_error("recurrence must be 'automatic', 'small', 'persistent' or 'step', got '" + name + "'");
}

uintptr_t at(const Addresses& of, size_t i) { return i < of.size() ? of[i] : 0; }

// How the rows of a batch lie: (T, B), (B, T), or all that there are, a step's sequences side by side, the longest
// first.
enum class Form { sequences, batch_first, packed };

Form form_of(const std::string& name) {
  if (name == "sequences") return Form::sequences;
  if (name == "batch first") return Form::batch_first;
  if (name == "packed") return Form::packed;
  throw py::value_error("form must be 'sequences', 'batch first' or 'packed', got '" + name + "'");
}

// A batch as Python passes it.
struct BatchShape {
  int64_t steps, batch;
  Form form;

  // Of arrays with so many numbers a row.
  Strides strides(int64_t width) const {
    switch (form) {
      case Form::packed:
        return {0, 0, width};
      case Form::batch_first:
        return {width, steps * width};
      default:
        return {batch * width, width};
    }
  }
};

struct Cache {
  std::shared_ptr<DeviceCache> cache;  // null once it is used
  Form form;
  Stream stream;  // that its memory goes back to
};

class Rnn {
 public:
  Rnn(const std::string& cell, int64_t input, int64_t hidden, int layers, int directions, bool bf16)
      : config_{cell_of(cell), input, hidden, layers, directions, 0.0, false, false}, bf16_(bf16) {}

  // params: the addresses of w_ih, w_hh, b_ih, b_hh of each layer and direction; x or tokens; y and the last states.
  py::object forward(const Addresses& params, uintptr_t x, uintptr_t tokens, int64_t steps, int64_t batch,
                     const std::string& form, const Addresses& state0, const std::optional<Array<int32_t>>& lengths,
                     const std::optional<Array<bool>>& reset, uintptr_t y, const Addresses& last, bool keep,
                     double dropout, uint64_t seed, uint64_t step, const std::string& recurrence, uintptr_t stream,
                     const py::object& allocate) const {
    const BatchShape s{steps, batch, form_of(form)};
    const Strides of_reset = s.strides(1);
    const int64_t width = x != 0 ? config_.input : 1, out_width = config_.directions * config_.hidden;
    std::vector<RnnWeights<float>> weights;
    for (size_t i = 0; i < params.size(); i += 4)
      weights.push_back({pointer<float>(params[i]), pointer<float>(params[i + 1]), pointer<float>(params[i + 2]),
                         pointer<float>(params[i + 3])});
    const RnnInput<float> in{
        {steps, batch, lengths ? lengths->data() : nullptr,
         reset ? reinterpret_cast<const uint8_t*>(reset->data()) : nullptr, of_reset.time, of_reset.batch},
        pointer<float>(x),
        pointer<int32_t>(tokens),
        s.strides(width)};
    RnnOutput<float> out{pointer<float>(y), s.strides(out_width), {}};
    const float* first[kMaxStates] = {};
    for (size_t k = 0; k < kMaxStates; ++k)
      first[k] = pointer<float>(at(state0, k)), out.state[k] = pointer<float>(at(last, k));
    RnnConfig config = config_;
    config.dropout = dropout;
    const Context context{stream_of(stream), allocator_of(allocate, stream_of(stream))};
    const Choice choice{recurrence_of(recurrence), bf16_};
    std::unique_ptr<DeviceCache> cache;
    without_gil([&] {
      const Turn turn(context.stream, nullptr);  // of parameters and whatever else Python put on the default stream
      cache = rnn_forward(config, weights.data(), in, first, out, keep, {seed, step}, choice, context);
    });
    if (!keep) return py::none();
    return py::cast(std::make_unique<Cache>(Cache{std::move(cache), s.form, context.stream}));
  }

  // grads as params, added to; dx and dstate0 (addresses or 0) are assigned.
  void backward(Cache& of, const Addresses& grads, uintptr_t dy, const Addresses& dstate, uintptr_t dx,
                const Addresses& dstate0, bool keep, const std::string& recurrence, uintptr_t stream,
                const py::object& allocate) const {
    if (of.cache == nullptr) throw py::value_error("cache is in use by another thread, or used");
    // Taken while the GIL is held: another thread may want it too.
    const std::shared_ptr<DeviceCache> cache = keep ? of.cache : std::move(of.cache);
    const Schedule& schedule = cache->schedule.host();
    const BatchShape s{schedule.steps(), schedule.batch(), of.form};
    const int64_t out_width = config_.directions * config_.hidden;
    std::vector<RnnGradients<float>> gradients;
    for (size_t i = 0; i < grads.size(); i += 4)
      gradients.push_back({pointer<float>(grads[i]), pointer<float>(grads[i + 1]), pointer<float>(grads[i + 2]),
                           pointer<float>(grads[i + 3])});
    RnnBackward<float> io{};
    io.dy = pointer<float>(dy), io.dy_strides = s.strides(out_width);
    io.dx = pointer<float>(dx), io.dx_strides = s.strides(config_.input);
    for (size_t k = 0; k < kMaxStates; ++k)
      io.dstate_n[k] = pointer<float>(at(dstate, k)), io.dstate0[k] = pointer<float>(at(dstate0, k));
    io.gradients = gradients.data();
    const Context context{stream_of(stream), allocator_of(allocate, stream_of(stream))};
    const Recurrence wish = recurrence_of(recurrence);
    without_gil([&] {
      const Turn turn(context.stream, nullptr), of_cache(context.stream, of.stream);
      rnn_backward(*cache, io, wish, context);
    });
  }

 private:
  RnnConfig config_;
  bool bf16_;
};

py::dict describe(const LaunchPlan& plan) {
  py::dict d;
  d["recurrence"] = recurrence_name(plan.kind), d["blocks"] = plan.blocks, d["shared_bytes"] = plan.shared_bytes;
  d["unit_groups"] = plan.grid.unit_groups, d["batch_groups"] = plan.grid.batch_groups, d["chunk"] = plan.grid.chunk;
  return d;
}

}  // namespace

void bind_rnn(py::module_& m) {
  py::class_<Cache>(m, "Cache")
      .def_property_readonly("used", [](const Cache& c) { return c.cache == nullptr; })
      .def_property_readonly("nbytes", [](const Cache& c) { return c.cache != nullptr ? c.cache->bytes() : 0; });
  py::class_<Rnn>(m, "Rnn")
      .def(py::init<const std::string&, int64_t, int64_t, int, int, bool>())
      .def("forward", &Rnn::forward, py::arg("params"), py::arg("x"), py::arg("tokens"), py::arg("steps"),
           py::arg("batch"), py::arg("form"), py::arg("state0"), py::arg("lengths"), py::arg("reset"), py::arg("y"),
           py::arg("last"), py::arg("keep"), py::arg("dropout"), py::arg("seed"), py::arg("step"),
           py::arg("recurrence"), py::arg("stream"), py::arg("allocate"))
      .def("backward", &Rnn::backward, py::arg("cache"), py::arg("grads"), py::arg("dy"), py::arg("dstate"),
           py::arg("dx"), py::arg("dstate0"), py::arg("keep"), py::arg("recurrence"), py::arg("stream"),
           py::arg("allocate"));
  m.def(
      "plan",
      [](const std::string& cell, int64_t hidden, int64_t batch, const std::string& recurrence, bool bf16) {
        const CellKernels& kernels = cell_kernels(cell_of(cell));
        const Choice choice{recurrence_of(recurrence), bf16};
        return py::make_tuple(describe(plan_forward(kernels, hidden, batch, choice)),
                              describe(plan_backward(kernels, hidden, batch, choice)));
      },
      py::arg("cell"), py::arg("hidden"), py::arg("batch"), py::arg("recurrence") = "automatic",
      py::arg("bf16") = false, "How a layer's forward and backward recurrences would run.");
}

}  // namespace rnnfast::cuda
