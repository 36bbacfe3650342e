// Recurrent layers over arrays of another library, each given by its address in the call that uses it: weights may have
// moved since the last one, and neither a view nor an owner has to be made for any of them. 0 is no array.
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <unordered_map>

#include "arrays.h"
#include "core/rnn.h"

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

// One forward call as Python gives it.
struct BorrowedInput {
  int64_t steps, batch;
  uintptr_t x;                   // T (T, B, I), or int32 (T, B) where `tokens`
  bool tokens;                   // integers that stand for one-hot rows
  Strides x_strides, y_strides;  // row != 0: x and y are packed
  uintptr_t lengths;             // int32 (B,); where x is packed int64 (T,), how many sequences each step has
  uintptr_t reset;
  Strides reset_strides;
};

// What backward needs of a forward call. `place` is a byte that stands for it in the other library: whoever holds an
// array at its address has what `find` finds, whoever holds a copy does not.
template <class T, class E>
struct BorrowedCache {
  std::unique_ptr<RnnCache<T, E>> cache;  // null once it is used
  uint8_t place = 0;

  BorrowedCache() { all()[&place] = this; }
  ~BorrowedCache() { all().erase(&place); }
  BorrowedCache(const BorrowedCache&) = delete;
  BorrowedCache& operator=(const BorrowedCache&) = delete;

  static std::unordered_map<const uint8_t*, BorrowedCache*>& all() {  // guarded by the GIL
    static std::unordered_map<const uint8_t*, BorrowedCache*> caches;
    return caches;
  }
};

template <class T, class E>
class BorrowedRnn {
 public:
  using Cache = BorrowedCache<T, E>;
  using Packed = PackedRnn<T, E>;

  BorrowedRnn(const std::string& cell, int64_t input, int64_t hidden, int layers, int directions, bool bias)
      : config_{cell_of(cell), input, hidden, layers, directions, 0.0, false}, bias_(bias) {}

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
    RnnInput<T> in{{call.steps, call.batch, pointer<const int32_t>(call.lengths), pointer<const uint8_t>(call.reset),
                    call.reset_strides.time, call.reset_strides.batch},
                   call.tokens ? nullptr : pointer<const T>(call.x),
                   call.tokens ? pointer<const int32_t>(call.x) : nullptr,
                   call.x_strides};
    if (call.x_strides.row != 0) {
      counted = lengths_of(pointer<const int64_t>(call.lengths), call.steps, call.batch);
      in.layout.lengths = counted.data();
    }
    RnnOutput<T> out{pointer<T>(y), call.y_strides, {}};
    const T* first[kMaxStates] = {};
    fill_states(first, state0);
    fill_states(out.state, state_n);
    RnnConfig config = config_;
    config.dropout = dropout;
    auto cache = keep ? std::make_unique<Cache>() : nullptr;
    without_gil([&] {
      if (keep) cache->cache = std::make_unique<RnnCache<T, E>>(in.layout);
      rnn_forward<T, E>(config, from.data(), std::move(packed), in, first, out, keep ? cache->cache.get() : nullptr,
                        {seed, 0}, threads);
    });
    if (!keep) return py::none();
    uint8_t* place = &cache->place;
    return py::array_t<uint8_t>({1}, {1}, place, py::cast(std::move(cache)));
  }

  // The cache whose place is at this address, if it can still be used.
  static bool has(uintptr_t place) { return find(place) != nullptr; }

  // Adds to the gradients of weights, writes dx and dstate0.
  void backward(uintptr_t place, uintptr_t dy, const Strides& dy_strides, const Addresses& dstate_n, uintptr_t dx,
                const Strides& dx_strides, const Addresses& dstate0, const Addresses& gradients, bool keep,
                int threads) const {
    Cache* of = find(place);
    if (of == nullptr) throw py::value_error("cache is in use by another thread, or used");
    RnnCache<T, E>& cache = *of->cache;
    const std::unique_ptr<RnnCache<T, E>> used = keep ? nullptr : std::move(of->cache);
    const std::vector<RnnGradients<T>> to = weights_of<RnnGradients<T>, T>(gradients);
    RnnBackward<T> io{};
    io.dy = pointer<const T>(dy), io.dy_strides = dy_strides;
    io.dx = pointer<T>(dx), io.dx_strides = dx_strides;
    fill_states(io.dstate_n, dstate_n);
    fill_states(io.dstate0, dstate0);
    io.gradients = to.data();
    without_gil([&] { rnn_backward<T, E>(cache, io, keep, threads); });
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

  static std::vector<int32_t> lengths_of(const int64_t* sequences, int64_t steps, int64_t batch) {
    std::vector<int32_t> lengths(static_cast<size_t>(batch));
    for (int64_t t = 0; t < steps; ++t) std::fill_n(lengths.begin(), sequences[t], static_cast<int32_t>(t + 1));
    return lengths;
  }

  RnnConfig config_;
  bool bias_;
};

template <class T, class E>
void bind_type(py::module_& m, const std::string& suffix) {
  using Cache = BorrowedCache<T, E>;
  using Rnn = BorrowedRnn<T, E>;
  py::class_<Cache>(m, ("BorrowedCache" + suffix).c_str());
  py::class_<Rnn>(m, ("BorrowedRnn" + suffix).c_str())
      .def(py::init<const std::string&, int64_t, int64_t, int, int, bool>(), py::arg("cell"), py::arg("input"),
           py::arg("hidden"), py::arg("layers"), py::arg("directions"), py::arg("bias"))
      .def("pack", &Rnn::pack, py::arg("weights"))
      .def("forward", &Rnn::forward, py::arg("weights"), py::arg("input"), py::arg("state0"), py::arg("y"),
           py::arg("state_n"), py::arg("keep"), py::arg("dropout"), py::arg("seed"), py::arg("packed"),
           py::arg("threads"))
      .def_static("has", &Rnn::has, py::arg("place"))
      .def("backward", &Rnn::backward, py::arg("place"), py::arg("dy"), py::arg("dy_strides"), py::arg("dstate_n"),
           py::arg("dx"), py::arg("dx_strides"), py::arg("dstate0"), py::arg("gradients"), py::arg("keep"),
           py::arg("threads"));
}

}  // namespace

void bind_borrowed(py::module_& m) {
  py::class_<Strides>(m, "Strides")
      .def(py::init([](int64_t time, int64_t batch, int64_t row) { return Strides{time, batch, row}; }),
           py::arg("time"), py::arg("batch"), py::arg("row") = 0);
  py::class_<BorrowedInput>(m, "BorrowedInput")
      .def(py::init([](int64_t steps, int64_t batch, uintptr_t x, bool tokens, const Strides& x_strides,
                       const Strides& y_strides, uintptr_t lengths, uintptr_t reset, const Strides& reset_strides) {
             return BorrowedInput{steps, batch, x, tokens, x_strides, y_strides, lengths, reset, reset_strides};
           }),
           py::arg("steps"), py::arg("batch"), py::arg("x"), py::arg("tokens"), py::arg("x_strides"),
           py::arg("y_strides"), py::arg("lengths"), py::arg("reset"), py::arg("reset_strides"));
  bind_type<float, float>(m, "32");
  bind_type<double, double>(m, "64");
  bind_type<float, Bf16x2>(m, "Bf16");
}

}  // namespace rnnfast
