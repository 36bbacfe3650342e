// Attention, and the search for sequences.
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>

#include "arrays.h"
#include "core/beam.h"

namespace rnnfast {

namespace {

using Lengths = Array<int32_t>;

template <class T>
AttentionInput<T> attention_input(const Array<T>& query, const Array<T>& keys, const Array<T>& values,
                                  const std::optional<Lengths>& lengths, const std::optional<Array<T>>& v) {
  return {query.shape(0),        keys.shape(0), query.shape(1), query.shape(2), values.shape(2),
          data_or_null(lengths), query.data(),  keys.data(),    values.data(),  data_or_null(v)};
}

template <class T>
py::tuple attend(const Array<T>& query, const Array<T>& keys, const Array<T>& values,
                 const std::optional<Lengths>& lengths, const std::optional<Array<T>>& v, int threads) {
  const AttentionInput<T> in = attention_input(query, keys, values, lengths, v);
  Array<T> context({in.queries, in.batch, in.values}), weights({in.queries, in.batch, in.keys});
  T *c = context.mutable_data(), *w = weights.mutable_data();
  without_gil([&] { attention_forward(in, c, w, threads); });
  return py::make_tuple(std::move(context), std::move(weights));
}

template <class T>
py::tuple attend_back(const Array<T>& dcontext, const Array<T>& weights, const Array<T>& query, const Array<T>& keys,
                      const Array<T>& values, const std::optional<Lengths>& lengths, const std::optional<Array<T>>& v,
                      int threads) {
  const AttentionInput<T> in = attention_input(query, keys, values, lengths, v);
  Array<T> dquery({in.queries, in.batch, in.width}), dkeys({in.keys, in.batch, in.width}),
      dvalues({in.keys, in.batch, in.values});
  std::optional<Array<T>> dv;
  if (v) dv.emplace(in.width);
  const AttentionGradients<T> out{dquery.mutable_data(), dkeys.mutable_data(), dvalues.mutable_data(),
                                  dv ? dv->mutable_data() : nullptr};
  without_gil([&] { attention_backward(in, weights.data(), dcontext.data(), out, threads); });
  return py::make_tuple(std::move(dquery), std::move(dkeys), std::move(dvalues), std::move(dv));
}

template <class T>
Array<T> tanh_of(const Array<T>& x, int threads) {
  Array<T> y(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  T* to = y.mutable_data();
  without_gil([&] { tanh_values(x.data(), x.size(), to, threads); });
  return y;
}

template <class T>
using Packed = std::shared_ptr<PackedLinear<T>>;

// The hypotheses of a search: tokens (sources, n_best, longest) and -1 behind them, their number (-1: there is no such
// hypothesis), scores, ranks, attention (sources, n_best, longest + 1, keys), and which sources failed.
template <class T, class E>
py::tuple results_of(const BeamSearch<T, E>& search, int64_t n_best, bool attention) {
  const int64_t B = search.sources(), S = search.keys();
  int64_t longest = 0;
  for (int64_t b = 0; b < B; ++b)
    for (const Hypothesis& h : search.hypotheses(b)) longest = std::max(longest, h.steps);
  Array<int32_t> tokens({B, n_best, longest}), lengths({B, n_best});
  Array<double> scores({B, n_best}), ranks({B, n_best});
  std::optional<Array<T>> weights;
  if (attention) weights.emplace(std::vector<py::ssize_t>{B, n_best, longest + 1, S});
  Array<bool> failed(B);
  std::fill_n(tokens.mutable_data(), tokens.size(), -1), std::fill_n(lengths.mutable_data(), lengths.size(), -1);
  std::fill_n(scores.mutable_data(), scores.size(), -std::numeric_limits<double>::infinity());
  std::fill_n(ranks.mutable_data(), ranks.size(), -std::numeric_limits<double>::infinity());
  if (attention) std::fill_n(weights->mutable_data(), weights->size(), T(0));
  for (int64_t b = 0; b < B; ++b) {
    failed.mutable_data()[b] = search.failed(b);
    int64_t at = b * n_best;
    for (const Hypothesis& h : search.hypotheses(b)) {
      search.tokens(b, h, tokens.mutable_data() + at * longest);
      lengths.mutable_data()[at] = static_cast<int32_t>(h.steps);
      scores.mutable_data()[at] = h.score, ranks.mutable_data()[at] = h.rank;
      if (attention) search.attention(b, h, weights->mutable_data() + at * (longest + 1) * S);
      ++at;
    }
  }
  return py::make_tuple(std::move(tokens), std::move(lengths), std::move(scores), std::move(ranks), std::move(weights),
                        std::move(failed));
}

template <class T, class E>
py::tuple search(RnnStepper<T, E>& stepper, const std::optional<Array<T>>& embedding, const Packed<T>& output,
                 const std::optional<Array<T>>& keys, const std::optional<Array<T>>& values,
                 const std::optional<Lengths>& lengths, const std::optional<Array<T>>& v, const Packed<T>& query,
                 const Packed<T>& joined, const BeamRule& rule, int threads) {
  AttentionInput<T> memory{};
  if (keys)
    memory = {1,       keys->shape(0), keys->shape(1), keys->shape(2), values->shape(2), data_or_null(lengths),
              nullptr, keys->data(),   values->data(), data_or_null(v)};
  const DecoderParts<T> parts{data_or_null(embedding), keys ? &memory : nullptr, query, joined, output};
  std::unique_ptr<BeamSearch<T, E>> found;
  without_gil([&] {
    found = std::make_unique<BeamSearch<T, E>>(stepper, parts, rule, threads);
    found->run();
  });
  return results_of(*found, rule.n_best, rule.keep_attention);
}

template <class T, class E>
void bind_search(py::module_& m) {
  using namespace py::literals;
  const auto a = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("beam_search", search<T, E>, "stepper"_a, a("embedding"), "output"_a, a("keys"), a("values"), a("lengths"),
        a("v"), "query"_a, "joined"_a, "rule"_a, "threads"_a);
}

template <class T>
void bind_type(py::module_& m) {
  using namespace py::literals;
  const auto a = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("attention_forward", attend<T>, a("query"), a("keys"), a("values"), a("lengths"), a("v"), "threads"_a);
  m.def("attention_backward", attend_back<T>, a("dcontext"), a("weights"), a("query"), a("keys"), a("values"),
        a("lengths"), a("v"), "threads"_a);
  m.def("tanh", tanh_of<T>, a("x"), "threads"_a);
}

}  // namespace

void bind_seq2seq(py::module_& m) {
  using namespace py::literals;
  py::class_<BeamRule>(m, "BeamRule")
      .def(py::init([](int64_t width, int64_t n_best, int64_t min_length, int64_t max_length, double length_penalty,
                       bool attention) {
             return BeamRule{width, n_best, min_length, max_length, length_penalty, attention};
           }),
           py::kw_only(), "width"_a, "n_best"_a, "min_length"_a, "max_length"_a, "length_penalty"_a, "attention"_a);
  bind_type<float>(m);
  bind_type<double>(m);
  bind_search<float, float>(m);
  bind_search<double, double>(m);
  bind_search<float, Bf16x2>(m);
}

}  // namespace rnnfast
