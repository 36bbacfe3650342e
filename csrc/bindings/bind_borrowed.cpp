// Recurrent layers over arrays of another library, each given by its address in the call that uses it: weights may have
// moved since the last one, and neither a view nor an owner has to be made for any of them. 0 is no array.
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <unordered_map>

#include "arrays.h"
#include "core/rnn.h"
#include "dlpack.h"

namespace rnnfast {

CellId cell_of(const std::string& name);

namespace {

using Addresses = std::vector<uintptr_t>;

template <class P>
P* pointer(uintptr_t address) {
  return reinterpret_cast<P*>(address);  // NOLINT
}

template <class P>
void fill_states(P** to, const Addresses& from) {
  for (size_t k = 0; k < from.size(); ++k) to[k] = pointer<P>(from[k]);
}

// How sequences lie in x and y.
enum class Form { sequences, batch_first, packed, step };  // (T, B, I), (B, T, I), (sum of lengths, I), (B, I)

Form form_of(const std::string& name) {
  return name == "sequences"     ? Form::sequences
         : name == "batch first" ? Form::batch_first
         : name == "packed"      ? Form::packed
                                 : Form::step;
}

// An array's first two strides in elements; the last axis is dense.
struct Borrowed {
  uintptr_t address;
  int64_t first, second;
};

// One forward call as Python gives it.
struct BorrowedInput {
  int64_t steps, batch;
  Borrowed x;         // of T, or of int32 where `tokens`
  bool tokens;        // integers that stand for one-hot rows
  uintptr_t lengths;  // int32 (B,); of packed rows int64 (T,), how many sequences each step has
  Borrowed reset;     // bool (T, B) or (B, T)
};

// What backward needs of a forward call. `place` is a byte that stands for it in the other library: whoever holds an
// array at its address has what `find` finds, whoever holds a copy does not.
template <class T, class E>
struct BorrowedCache {
  std::shared_ptr<RnnCache<T, E>> cache;  // null once it is used; shared with the passes that run
  uint8_t place = 0;

  BorrowedCache() { all()[&place] = this; }
  ~BorrowedCache() { all().erase(&place); }
  BorrowedCache(const BorrowedCache&) = delete;
  BorrowedCache& operator=(const BorrowedCache&) = delete;

  static std::unordered_map<const uint8_t*, BorrowedCache*>& all() {               // guarded by the GIL
    static auto* caches = new std::unordered_map<const uint8_t*, BorrowedCache*>;  // outlives every cache
    return *caches;
  }
};

template <class T, class E>
class BorrowedRnn {
 public:
  using Cache = BorrowedCache<T, E>;
  using Packed = PackedRnn<T, E>;

  BorrowedRnn(const std::string& cell, int64_t input, int64_t hidden, int layers, int directions, bool bias,
              const std::string& form)
      : config_{cell_of(cell), input, hidden, layers, directions, 0.0, false, false},
        bias_(bias),
        form_(form_of(form)) {}

  // Of the weights in a list of tensors, where each is a dense array of T with the right shape; else None. `functions`:
  // DLPack's, of the tensors' class `tensor`.
  py::object addresses(const py::type& tensor, const py::object& functions, const py::list& weights) const {
    const dlpack::Functions* dlpack = dlpack::functions_of(functions);
    const size_t each = bias_ ? 4 : 2;
    if (dlpack == nullptr || weights.size() != each * static_cast<size_t>(config_.layers * config_.directions))
      return py::none();
    const int64_t rows = cell_shape(config_.cell).gates * config_.hidden;
    py::list found(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      const int layer = static_cast<int>(i / each) / config_.directions;
      const int64_t shape[] = {rows, i % each == 0 ? config_.input_of(layer) : config_.hidden};
      PyObject* weight = weights[i].ptr();
      if (!PyObject_TypeCheck(weight, reinterpret_cast<PyTypeObject*>(tensor.ptr()))) return py::none();  // NOLINT
      const uintptr_t address = dlpack::dense<T>(*dlpack, weight, shape, i % each < 2 ? 2 : 1);
      if (address == 0) return py::none();
      found[i] = py::int_(address);
    }
    return found;
  }

  std::shared_ptr<Packed> pack(const Addresses& weights) const {
    const std::vector<RnnWeights<T>> from = weights_of<RnnWeights<T>, const T>(weights);
    std::shared_ptr<const Packed> packed;
    without_gil([&] { packed = pack_rnn<T, E>(config_, from.data()); });
    return std::const_pointer_cast<Packed>(packed);
  }

  // Writes y and the last states; returns an array on the cache's place if `keep`.
  py::object forward(const Addresses& weights, const BorrowedInput& call, const Addresses& state0, uintptr_t y,
                     const Addresses& state_n, bool keep, double dropout, uint64_t seed, std::shared_ptr<Packed> packed,
                     int threads) const {
    const std::vector<RnnWeights<T>> from = weights_of<RnnWeights<T>, const T>(weights);
    std::vector<int32_t> counted;
    const Strides reset = strides(call.reset);
    RnnInput<T> in{{call.steps, call.batch, pointer<const int32_t>(call.lengths),
                    pointer<const uint8_t>(call.reset.address), reset.time, reset.batch},
                   call.tokens ? nullptr : pointer<const T>(call.x.address),
                   call.tokens ? pointer<const int32_t>(call.x.address) : nullptr,
                   strides(call.x)};
    if (form_ == Form::packed) {
      counted = lengths_of(pointer<const int64_t>(call.lengths), call.steps, call.batch);
      in.layout.lengths = counted.data();
    }
    RnnOutput<T> out{pointer<T>(y), dense(config_.directions * config_.hidden, call.steps, call.batch), {}};
    const T* first[kMaxStates] = {};
    fill_states(first, state0);
    fill_states(out.state, state_n);
    RnnConfig config = config_;
    config.dropout = dropout;
    auto cache = keep ? std::make_unique<Cache>() : nullptr;
    without_gil([&] {
      if (keep) cache->cache = std::make_shared<RnnCache<T, E>>(in.layout);
      rnn_forward<T, E>(config, from.data(), std::move(packed), in, first, out, keep ? cache->cache.get() : nullptr,
                        {seed, 0}, threads);
    });
    if (!keep) return py::none();
    uint8_t* place = &cache->place;
    return py::array_t<uint8_t>({1}, {1}, place, py::cast(std::move(cache)));
  }

  // Writes the gradients of weights, dx (dense) and dstate0; false, and nothing is written, where there is no cache any
  // more at this place.
  bool backward(uintptr_t place, const Borrowed& dy, const Addresses& dstate_n, uintptr_t dx, const Addresses& dstate0,
                const Addresses& gradients, bool keep, int threads) const {
    Cache* of = find(place);
    if (of == nullptr) return false;
    const std::shared_ptr<RnnCache<T, E>> cache = keep ? of->cache : std::move(of->cache);
    const bool whole = keep || cache.use_count() > 1;  // a pass of another thread still reads it
    const std::vector<RnnGradients<T>> to = weights_of<RnnGradients<T>, T>(gradients);
    RnnBackward<T> io{};
    io.dy = pointer<const T>(dy.address), io.dy_strides = strides(dy);
    io.dx = pointer<T>(dx), io.dx_strides = dense(config_.input, cache->schedule.steps(), cache->schedule.batch());
    fill_states(io.dstate_n, dstate_n);
    fill_states(io.dstate0, dstate0);
    io.gradients = to.data();
    without_gil([&] {
      clear(to);
      rnn_backward<T, E>(*cache, io, whole, threads);
    });
    return true;
  }

 private:
  static Cache* find(uintptr_t place) {
    const auto found = Cache::all().find(pointer<const uint8_t>(place));
    return found != Cache::all().end() && found->second->cache != nullptr ? found->second : nullptr;
  }

  // w_ih, w_hh and where there are biases b_ih, b_hh of each layer and direction.
  template <class Weights, class P>
  std::vector<Weights> weights_of(const Addresses& from) const {
    const size_t each = bias_ ? 4 : 2;
    std::vector<Weights> to;
    for (size_t i = 0; i + each <= from.size(); i += each)
      to.push_back({pointer<P>(from[i]), pointer<P>(from[i + 1]), bias_ ? pointer<P>(from[i + 2]) : nullptr,
                    bias_ ? pointer<P>(from[i + 3]) : nullptr});
    return to;
  }

  Strides strides(const Borrowed& array) const {
    switch (form_) {
      case Form::batch_first:
        return {array.second, array.first};
      case Form::packed:
        return {0, 0, array.first};
      case Form::step:
        return {0, array.first};
      default:
        return {array.first, array.second};
    }
  }
  // Of an array whose last axis has `width` numbers.
  Strides dense(int64_t width, int64_t steps, int64_t batch) const {
    const bool by_time = form_ == Form::sequences, by_batch = form_ == Form::batch_first;
    return strides({0, by_time ? batch * width : by_batch ? steps * width : width, width});
  }

  // The core adds to them.
  void clear(const std::vector<RnnGradients<T>>& gradients) const {
    const int64_t rows = cell_shape(config_.cell).gates * config_.hidden;
    for (size_t i = 0; i < gradients.size(); ++i) {
      const RnnGradients<T>& to = gradients[i];
      const int64_t input = config_.input_of(static_cast<int>(i) / config_.directions);
      if (to.w_ih != nullptr) std::fill_n(to.w_ih, rows * input, T(0));
      if (to.w_hh != nullptr) std::fill_n(to.w_hh, rows * config_.hidden, T(0));
      for (T* bias : {to.b_ih, to.b_hh})
        if (bias != nullptr) std::fill_n(bias, rows, T(0));
    }
  }

  static std::vector<int32_t> lengths_of(const int64_t* sequences, int64_t steps, int64_t batch) {
    std::vector<int32_t> lengths(static_cast<size_t>(batch));
    for (int64_t t = 0; t < steps; ++t) std::fill_n(lengths.begin(), sequences[t], static_cast<int32_t>(t + 1));
    return lengths;
  }

  RnnConfig config_;
  bool bias_;
  Form form_;
};

template <class T, class E>
void bind_type(py::module_& m, const std::string& suffix) {
  using Cache = BorrowedCache<T, E>;
  using Rnn = BorrowedRnn<T, E>;
  py::class_<Cache>(m, ("BorrowedCache" + suffix).c_str());
  py::class_<Rnn>(m, ("BorrowedRnn" + suffix).c_str())
      .def(py::init<const std::string&, int64_t, int64_t, int, int, bool, const std::string&>(), py::arg("cell"),
           py::arg("input"), py::arg("hidden"), py::arg("layers"), py::arg("directions"), py::arg("bias"),
           py::arg("form"))
      .def("addresses", &Rnn::addresses, py::arg("tensor"), py::arg("functions"), py::arg("weights"))
      .def("pack", &Rnn::pack, py::arg("weights"))
      .def("forward", &Rnn::forward, py::arg("weights"), py::arg("input"), py::arg("state0"), py::arg("y"),
           py::arg("state_n"), py::arg("keep"), py::arg("dropout"), py::arg("seed"), py::arg("packed"),
           py::arg("threads"))
      .def("backward", &Rnn::backward, py::arg("place"), py::arg("dy"), py::arg("dstate_n"), py::arg("dx"),
           py::arg("dstate0"), py::arg("gradients"), py::arg("keep"), py::arg("threads"));
}

}  // namespace

void bind_borrowed(py::module_& m) {
  py::class_<Borrowed>(m, "Borrowed")
      .def(py::init([](uintptr_t address, int64_t first, int64_t second) { return Borrowed{address, first, second}; }),
           py::arg("address"), py::arg("first") = 0, py::arg("second") = 0);
  py::class_<BorrowedInput>(m, "BorrowedInput")
      .def(py::init([](int64_t steps, int64_t batch, const Borrowed& x, bool tokens, uintptr_t lengths,
                       const Borrowed& reset) { return BorrowedInput{steps, batch, x, tokens, lengths, reset}; }),
           py::arg("steps"), py::arg("batch"), py::arg("x"), py::arg("tokens"), py::arg("lengths"), py::arg("reset"));
  bind_type<float, float>(m, "32");
  bind_type<double, double>(m, "64");
  bind_type<float, Bf16x2>(m, "Bf16");
}

}  // namespace rnnfast
