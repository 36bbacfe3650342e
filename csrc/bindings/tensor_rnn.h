// Recurrent layers over PyTorch's tensors. Each is looked at in the call that uses it: weights may have moved since the
// last one. What the kernels cannot take is left to Python, which knows why; nothing has happened then.
#pragma once

#include <algorithm>
#include <string>
#include <unordered_map>

#include "arrays.h"
#include "tensor_reader.h"

namespace rnnfast {

// What backward needs of a forward call. `place` is a byte that stands for it in the other library: whoever holds a
// tensor at its address has what `find` finds, whoever holds a copy does not.
template <class T, class E>
struct TensorCache {
  std::shared_ptr<RnnCache<T, E>> cache;  // null once it is used; shared with the passes that run
  uint8_t place = 0;

  TensorCache() { all()[&place] = this; }
  ~TensorCache() { all().erase(&place); }
  TensorCache(const TensorCache&) = delete;
  TensorCache& operator=(const TensorCache&) = delete;

  static std::unordered_map<const uint8_t*, TensorCache*>& all() {               // guarded by the GIL
    static auto* caches = new std::unordered_map<const uint8_t*, TensorCache*>;  // outlives every cache
    return *caches;
  }
  static TensorCache* find(const uint8_t* place) {
    const auto found = all().find(place);
    return found != all().end() && found->second->cache != nullptr ? found->second : nullptr;
  }
};

template <class T, class E>
class TensorRnn {
 public:
  using Cache = TensorCache<T, E>;
  using Packed = PackedRnn<T, E>;

  TensorRnn(std::shared_ptr<const Tensors> tensors, py::object network)
      : reader_(std::move(tensors), network), network_(std::move(network)) {}

  py::object network() const { return network_; }

  // None where a tensor is no weight of this network.
  std::shared_ptr<Packed> pack(py::handle weights) const {
    RnnCall<T> call;
    if (!reader_.take_weights(Items(weights), 0, call.weights, call.copies)) return nullptr;
    std::shared_ptr<const Packed> packed;
    const int threads = reader_.tensors().threads();
    without_gil([&] { packed = pack_rnn<T, E>(reader_.config(), call.weights.data(), threads); });
    return std::const_pointer_cast<Packed>(packed);
  }

  // y, the last states and, if `keep`, a tensor that is the cache; None where the kernels cannot take the tensors.
  py::object forward(py::handle x, py::handle state, py::handle weights, py::handle given, bool keep,
                     std::shared_ptr<Packed> packed) const {
    RnnCall<T> call;
    if (!reader_.take_weights(Items(weights), 0, call.weights, call.copies) ||
        !reader_.take_input(x, Items(given), call) || !reader_.take_state(Items(state), call))
      return py::none();
    if (keep) packed = nullptr;  // backward needs weights in its own order
    const py::handle like = Items(weights)[0];
    View view;
    py::list made;
    made.append(reader_.tensors().make(like, call.extent.y, view));
    RnnOutput<T> out{view.data<T>(), reader_.strides_of(view), {}};
    for (int k = reader_.first_state(); k < reader_.states(); ++k) {
      made.append(reader_.tensors().make(like, call.extent.state, view));
      out.state[k] = view.data<T>();
    }
    auto cache = keep ? std::make_unique<Cache>() : nullptr;
    const bool drops = reader_.config().dropout > 0;  // which the core does for a cache alone
    const int threads = reader_.tensors().threads();
    without_gil([&] {
      std::shared_ptr<RnnCache<T, E>> to;
      if (keep || drops) to = std::make_shared<RnnCache<T, E>>(call.in.layout);
      rnn_forward<T, E>(reader_.config(), call.weights.data(), std::move(packed), call.in, call.state0, out, to.get(),
                        {call.seed, 0}, threads);
      if (keep) cache->cache = std::move(to);
    });
    if (keep) {
      uint8_t* const place = &cache->place;
      made.append(reader_.tensors().byte(place, py::cast(std::move(cache))));
    }
    return py::tuple(made);
  }

  // The gradients of `sources`, which are x, the initial states and the weights, as far as they are `wanted`, else
  // None; weights have all or none. `slopes`: those of y and of the last states, None is zeros. False where there is no
  // cache any more at this place, None where the slopes are no tensors that can be read.
  py::object backward(py::handle place, py::handle slopes, py::handle sources, py::handle wanted, bool keep) const {
    const Items from(sources), want(wanted);
    View at, x;
    Cache* const of = reader_.tensors().read(place, at) ? Cache::find(at.data<const uint8_t>()) : nullptr;
    if (of == nullptr) return py::bool_(false);
    const std::shared_ptr<RnnCache<T, E>> cache = of->cache;
    if (!reader_.tensors().read(from[0], x)) return py::none();
    Owners copies;
    RnnBackward<T> io{};
    const Extent extent = reader_.extent_of(x, cache->schedule.steps(), cache->schedule.batch());
    if (!fits(*cache, extent, x)) return py::bool_(false);
    if (!reader_.take_slopes(Items(slopes), extent, io, copies)) return py::none();
    const size_t first_weight = from.size() - reader_.each() * reader_.layers();
    std::vector<RnnWeights<T>> weights;
    if (cache->reads_weights() && !reader_.take_weights(from, first_weight, weights, copies)) return py::none();
    io.weights = weights.data(), io.assign = true;
    if (cache->x.size() == 0 && x.holds<T>()) {
      View rows = x;
      if (!reader_.take_rows(from[0], rows, copies)) return py::none();
      io.x = rows.data<const T>(), io.x_strides = reader_.strides_of(rows);
    }
    py::tuple made(from.size());
    std::vector<T*> to(from.size());
    const auto make = [&](size_t i, const Shape& shape) {
      View view;
      made[i] = reader_.tensors().make(from[first_weight], shape, view);
      to[i] = view.data<T>();
      return reader_.strides_of(view);
    };
    for (size_t i = 0; i < from.size(); ++i) {
      made[i] = py::none();
      if (!want.any(i < first_weight ? i : first_weight, i < first_weight ? i + 1 : from.size())) continue;
      if (i == 0)
        io.dx_strides = make(i, x.shape);
      else
        make(i, i < first_weight ? extent.state : reader_.shape_of(i - first_weight));
    }
    io.dx = to[0];
    for (size_t k = 0; k + 1 < first_weight; ++k) io.dstate0[k] = to[1 + k];
    std::vector<RnnGradients<T>> gradients;
    for (size_t i = first_weight; i < to.size(); i += reader_.each()) {
      const bool bias = reader_.each() == 4;
      gradients.push_back({to[i], to[i + 1], bias ? to[i + 2] : nullptr, bias ? to[i + 3] : nullptr});
    }
    io.gradients = gradients.data();
    if (!keep) of->cache = nullptr;
    const bool whole = keep || cache.use_count() > 1;  // a pass of another thread still reads it
    const int threads = reader_.tensors().threads();
    without_gil([&] { rnn_backward<T, E>(*cache, io, whole, threads); });
    return made;
  }

 private:
  // Whether the cache is one of this network's for such an x.
  bool fits(const RnnCache<T, E>& cache, const Extent& extent, const View& x) const {
    const RnnConfig &own = reader_.config(), &its = cache.config;
    return its.cell == own.cell && its.input == own.input && its.hidden == own.hidden && its.layers == own.layers &&
           its.directions == own.directions && cache.schedule.steps() == extent.steps &&
           cache.schedule.batch() == extent.batch &&
           (x.holds<T>() ? cache.token.size() == 0 && x.shape[x.shape.axes - 1] == own.input
                         : cache.token.size() == cache.schedule.rows());
  }

  TensorReader<T> reader_;
  py::object network_;
};

}  // namespace rnnfast
