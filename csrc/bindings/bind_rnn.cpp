// Recurrent layers: forward, backward, packed weights, single steps.
#include <pybind11/stl.h>

#include <algorithm>
#include <string>

#include "arrays.h"
#include "core/rnn.h"
#include "core/stepper.h"

namespace rnnfast {

CellId cell_of(const std::string& name) {
  for (int id = 0; id < cell_count; ++id)
    if (name == cell_name(static_cast<CellId>(id))) return static_cast<CellId>(id);
  throw py::value_error("no cell is called '" + name + "'");
}

namespace {

template <class T>
using OptionalArrays = std::vector<std::optional<Array<T>>>;

template <class T>
const T* states_or_null(const OptionalArrays<T>& states, int k) {
  return k < static_cast<int>(states.size()) ? data_or_null(states[static_cast<size_t>(k)]) : nullptr;
}

// A layer's cache as Python sees it: opaque, used once unless kept.
template <class T, class E>
struct Cache {
  std::shared_ptr<RnnCache<T, E>> cache;  // null once it is used; shared with the passes that run
  bool batch_first = false, one_hot = false;
  std::optional<Array<T>> x, y;  // those of the call, where they are read in place
};

// A layer's parameters and gradients: fixed NumPy arrays, read and added to where they are.
template <class T, class E>
class Rnn {
 public:
  Rnn(const std::string& cell, int64_t input, int64_t hidden, int layers, int directions, bool recompute,
      OptionalArrays<T> params, OptionalArrays<T> grads)
      : config_{cell_of(cell), input, hidden, layers, directions, 0.0, recompute},
        states_(cell_shape(config_.cell).states),
        params_(std::move(params)),
        grads_(std::move(grads)) {
    const auto gradient = [](std::optional<Array<T>>& a) { return a ? a->mutable_data() : nullptr; };
    for (size_t i = 0; i < params_.size(); i += 4) {
      weights_.push_back({data_or_null(params_[i]), data_or_null(params_[i + 1]), data_or_null(params_[i + 2]),
                          data_or_null(params_[i + 3])});
      gradients_.push_back(
          {gradient(grads_[i]), gradient(grads_[i + 1]), gradient(grads_[i + 2]), gradient(grads_[i + 3])});
    }
  }

  std::shared_ptr<const PackedRnn<T, E>> pack(int threads) const {
    std::shared_ptr<const PackedRnn<T, E>> packed;
    without_gil([&] { packed = pack_rnn<T, E>(config_, weights_.data(), threads); });
    return packed;
  }

  // x (T, B, I), or tokens (T, B); batch first: (B, T, ...). Returns y, the states and, if `keep`, the cache; without
  // `copy` that one may read x, y and the parameters where they are.
  py::tuple forward(const std::optional<Array<T>>& x, const std::optional<Array<int32_t>>& tokens, bool batch_first,
                    const OptionalArrays<T>& state0, const std::optional<Array<int32_t>>& lengths,
                    const std::optional<Array<bool>>& reset, bool keep, bool copy, double dropout, uint64_t seed,
                    uint64_t step, std::shared_ptr<PackedRnn<T, E>> packed, int threads) const {
    const py::array& in_array = x ? static_cast<const py::array&>(*x) : static_cast<const py::array&>(*tokens);
    const int64_t steps = in_array.shape(batch_first ? 1 : 0), batch = in_array.shape(batch_first ? 0 : 1);
    const int64_t width = x ? config_.input : 1, out_width = config_.directions * config_.hidden;
    const auto time = [&](int64_t n) { return batch_first ? n : n * batch; };
    const auto row = [&](int64_t n) { return batch_first ? n * steps : n; };
    RnnInput<T> in{
        {steps, batch, data_or_null(lengths), reinterpret_cast<const uint8_t*>(data_or_null(reset)), time(1), row(1)},
        data_or_null(x),
        data_or_null(tokens),
        {time(width), row(width)}};

    Array<T> y({batch_first ? batch : steps, batch_first ? steps : batch, out_width});
    RnnOutput<T> out{y.mutable_data(), {time(out_width), row(out_width)}, {}};
    const T* state[kMaxStates] = {};
    py::tuple states(states_);
    for (int k = 0; k < states_; ++k) {
      state[k] = states_or_null(state0, k);
      Array<T> last({static_cast<int64_t>(config_.layers) * config_.directions, batch, config_.hidden});
      out.state[k] = last.mutable_data();
      states[static_cast<size_t>(k)] = std::move(last);
    }
    RnnConfig config = config_;
    config.dropout = dropout, config.inputs_stay = config.y_stays = !copy;
    auto cache = std::make_unique<Cache<T, E>>();
    cache->batch_first = batch_first, cache->one_hot = tokens.has_value();
    without_gil([&] {
      if (keep) cache->cache = std::make_shared<RnnCache<T, E>>(in.layout);
      rnn_forward<T, E>(config, weights_.data(), std::move(packed), in, state, out, cache->cache.get(), {seed, step},
                        threads);
    });
    if (keep && !copy) {
      if (cache->cache->x.size() == 0) cache->x = x;
      if (cache->cache->layers.back().y.size() == 0) cache->y = y;
    }
    return py::make_tuple(std::move(y), std::move(states), keep ? py::cast(std::move(cache)) : py::none());
  }

  // Returns dx (None for tokens) and the gradients of the initial states, where wanted; adds to the parameters'
  // gradients or, without `accumulate`, takes their place.
  py::tuple backward(Cache<T, E>& of, const std::optional<StridedRows<T>>& dy, const OptionalArrays<T>& dstate,
                     bool want_dx, bool want_dstate0, bool keep, bool accumulate, int threads) const {
    if (of.cache == nullptr) throw py::value_error("cache is in use by another thread, or used");
    const std::shared_ptr<RnnCache<T, E>> shared = keep ? of.cache : std::move(of.cache);
    const std::optional<Array<T>> x = keep ? of.x : std::exchange(of.x, {}), y = keep ? of.y : std::exchange(of.y, {});
    const bool whole = keep || shared.use_count() > 1;  // a pass of another thread still reads it
    RnnCache<T, E>& cache = *shared;
    const Schedule& schedule = cache.schedule;
    const int64_t steps = schedule.steps(), batch = schedule.batch();
    const auto time = [&](int64_t n) { return of.batch_first ? n : n * batch; };
    const auto row = [&](int64_t n) { return of.batch_first ? n * steps : n; };
    RnnBackward<T> io{};
    const int64_t out_width = config_.directions * config_.hidden;
    io.x = data_or_null(x), io.x_strides = {time(config_.input), row(config_.input)};
    io.y = data_or_null(y), io.y_strides = {time(out_width), row(out_width)};
    if (dy) {
      const auto stride = [&](int axis) { return dy->strides(axis) / static_cast<int64_t>(sizeof(T)); };
      io.dy = dy->data(), io.dy_strides = {stride(of.batch_first ? 1 : 0), stride(of.batch_first ? 0 : 1)};
    }
    py::object dx = py::none();
    T* over_x = whole || of.batch_first || !want_dx ? nullptr : place_for_dx(cache);
    Buffer<T>* owner = nullptr;
    if (over_x != nullptr) {
      if constexpr (std::is_same_v<T, E>) dx = array_of(cache.x, {steps, batch, config_.input}, owner);
      io.dx = over_x, io.dx_strides = io.x_strides;
    } else if (want_dx && !of.one_hot) {
      Array<T> made({of.batch_first ? batch : steps, of.batch_first ? steps : batch, config_.input});
      io.dx = made.mutable_data(), io.dx_strides = io.x_strides;
      dx = std::move(made);
    }
    py::tuple dstates(want_dstate0 ? states_ : 0);
    for (int k = 0; k < states_; ++k) {
      io.dstate_n[k] = states_or_null(dstate, k);
      if (!want_dstate0) continue;
      Array<T> first({static_cast<int64_t>(config_.layers) * config_.directions, batch, config_.hidden});
      io.dstate0[k] = first.mutable_data();
      dstates[static_cast<size_t>(k)] = std::move(first);
    }
    io.gradients = gradients_.data(), io.weights = weights_.data(), io.assign = !accumulate;
    without_gil([&] { rnn_backward<T, E>(cache, io, whole, threads); });
    if constexpr (std::is_same_v<T, E>) {
      if (owner != nullptr) *owner = std::move(cache.x);
    }
    return py::make_tuple(std::move(dx), std::move(dstates));
  }

  const RnnConfig& config() const { return config_; }

 private:
  RnnConfig config_;
  int states_;
  OptionalArrays<T> params_, grads_;
  std::vector<RnnWeights<T>> weights_;
  std::vector<RnnGradients<T>> gradients_;
};

template <class T>
bool is_row_array(const py::handle& object, int64_t batch, int64_t width) {
  if (!py::isinstance<Array<T>>(object)) return false;
  const auto array = py::reinterpret_borrow<py::array>(object);
  return (array.ndim() == 2 && array.shape(0) == batch && array.shape(1) == width) ||
         (array.ndim() == 1 && batch == 1 && array.shape(0) == width);
}

// A stream's step as the caller has it: None where an argument needs converting or is wrong, which Python then sorts
// out.
template <class T, class E>
py::object stream_step(RnnStepper<T, E>& stepper, const py::object& x, const py::object& out) {
  const int64_t batch = stepper.batch(), hidden = stepper.config().hidden;
  const bool tokens = py::isinstance<Array<int32_t>>(x);
  if (!tokens && !is_row_array<T>(x, batch, stepper.config().input)) return py::none();
  auto in = py::reinterpret_borrow<py::array>(x);
  if (!is_aligned(in)) in = tokens ? py::array(Array<int32_t>(x)) : py::array(Array<T>(x));
  if (tokens && (in.ndim() != 1 || in.shape(0) != batch)) return py::none();
  std::vector<int32_t> ids;  // a copy, since the caller's may change once they have been checked
  if (tokens) ids.assign(static_cast<const int32_t*>(in.data()), static_cast<const int32_t*>(in.data()) + batch);
  for (const int32_t id : ids)
    if (id < 0 || id >= stepper.config().input) return py::none();
  py::object y = out;
  if (out.is_none()) {
    y = in.ndim() == 1 && !tokens ? Array<T>(hidden) : Array<T>({batch, hidden});
  } else {
    const auto given = py::reinterpret_borrow<py::array>(out);
    if (!is_row_array<T>(out, batch, hidden) || !given.writeable() || !is_aligned(given)) return py::none();
  }
  T* to = static_cast<T*>(py::reinterpret_borrow<py::array>(y).mutable_data());
  const T* values = tokens ? nullptr : static_cast<const T*>(in.data());
  without_gil([&] {
    if (parallel(stepper.threads(), [&](Team& team) { stepper.step(values, tokens ? ids.data() : nullptr, team); }))
      throw Interrupted();
    for (int64_t b = 0; b < batch; ++b) std::copy_n(stepper.output(b), hidden, to + b * hidden);
  });
  return y;
}

template <class T, class E>
void bind_type(py::module_& m, const std::string& suffix) {
  using Packed = PackedRnn<T, E>;
  py::class_<Packed, std::shared_ptr<Packed>>(m, ("PackedRnn" + suffix).c_str())
      .def_property_readonly("nbytes", &Packed::bytes);
  py::class_<Cache<T, E>>(m, ("RnnCache" + suffix).c_str())
      .def_property_readonly("used", [](const Cache<T, E>& c) { return c.cache == nullptr; })
      .def_property_readonly("shape",
                             [](const Cache<T, E>& c) {  // (T, B)
                               return py::make_tuple(c.cache->schedule.steps(), c.cache->schedule.batch());
                             })
      .def_property_readonly("nbytes", [](const Cache<T, E>& c) { return c.cache != nullptr ? c.cache->bytes() : 0; });
  py::class_<RnnStepper<T, E>>(m, ("RnnStepper" + suffix).c_str())
      .def("step", stream_step<T, E>, py::arg("x"), py::arg("out") = py::none())
      .def("get_state",
           [](const RnnStepper<T, E>& s, int k) {
             Array<T> state({static_cast<int64_t>(s.config().layers), s.batch(), s.config().hidden});
             s.get_state(k, state.mutable_data());
             return state;
           })
      .def("set_state", [](RnnStepper<T, E>& s, int k,
                           const std::optional<Array<T>>& state) { s.set_state(k, data_or_null(state)); })
      .def("reset_row", &RnnStepper<T, E>::reset_row);
  py::class_<Rnn<T, E>>(m, ("Rnn" + suffix).c_str())
      .def(py::init<const std::string&, int64_t, int64_t, int, int, bool, OptionalArrays<T>, OptionalArrays<T>>())
      .def("pack", [](const Rnn<T, E>& r, int threads) { return std::const_pointer_cast<Packed>(r.pack(threads)); })
      .def("forward", &Rnn<T, E>::forward, py::arg("x"), py::arg("tokens"), py::arg("batch_first"), py::arg("state"),
           py::arg("lengths"), py::arg("reset"), py::arg("keep"), py::arg("copy"), py::arg("dropout"), py::arg("seed"),
           py::arg("step"), py::arg("packed"), py::arg("threads"))
      .def("backward", &Rnn<T, E>::backward, py::arg("cache"), py::arg("dy"), py::arg("dstate"), py::arg("want_dx"),
           py::arg("want_dstate0"), py::arg("keep"), py::arg("accumulate"), py::arg("threads"))
      .def(
          "stepper",
          [](const Rnn<T, E>& r, std::shared_ptr<Packed> packed, int64_t batch, int threads, bool in_loops) {
            return std::make_unique<RnnStepper<T, E>>(r.config(), std::move(packed), batch, threads, in_loops);
          },
          py::arg("packed"), py::arg("batch"), py::arg("threads"), py::arg("in_loops"));
}

}  // namespace

void bind_rnn(py::module_& m) {
  py::list cells;
  for (int id = 0; id < cell_count; ++id) cells.append(cell_name(static_cast<CellId>(id)));
  m.attr("cells") = py::tuple(cells);
  bind_type<float, float>(m, "32");
  bind_type<double, double>(m, "64");
  bind_type<float, Bf16x2>(m, "Bf16");
}

}  // namespace rnnfast
