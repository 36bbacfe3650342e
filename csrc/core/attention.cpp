#include "attention.h"

#include <algorithm>

namespace rnnfast {

namespace {

constexpr Run kOne{0, 1, {0}};
template <class T>
alignas(64) constexpr T kZeros[64 / sizeof(T)] = {};

int64_t panels_of(int64_t n, int64_t lanes) { return (n + lanes - 1) / lanes; }

// out [rows][out_stride] = a b for `panels` panels of b, each of k rows; `width` numbers of a row, -1: whole panels.
template <class T>
struct Product {
  const T* a;
  int64_t a_stride, k;
  const T* b;
  int64_t panels;
  T* out;
  int64_t out_stride, width;
};

template <class T>
void multiply(const Product<T>& p, int64_t rows, Team& team) {
  GemmArgs<T> g{};
  g.n = 1, g.runs = 1, g.run_length = p.k;
  g.a = {p.a, p.a_stride, nullptr}, g.b = p.b;
  g.init = {kZeros<T>, 0, nullptr};
  g.out = {p.out, p.out_stride, nullptr}, g.out_panel = kernels<T>().lanes;
  g.width = p.width;
  kernels<T>().gemm(g, {0, rows}, {0, p.panels}, team);
}

// Rows of n numbers that lie `stride` apart, side by side.
template <class T>
void gather_rows(const T* from, int64_t stride, int64_t rows, int64_t n, T* to) {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(from + r * stride, n, to + r * n);
}

template <class T>
void zero_rows(T* rows, int64_t stride, int64_t count, int64_t n) {
  for (int64_t r = 0; r < count; ++r) std::fill_n(rows + r * stride, n, T(0));
}

}  // namespace

template <class T>
AttentionMemory<T>::AttentionMemory(int64_t keys, int64_t width, int64_t values, bool additive)
    : width_(width),
      values_(values),
      lanes_(kernels<T>().lanes),
      additive_(additive),
      rows_(keys * std::max(width, values) + (additive ? keys * width : 0)),
      value_(panels_of(values, lanes_) * panels_of(keys, lanes_) * lanes_ * lanes_) {
  if (!additive) key_ = Buffer<T>(panels_of(keys, lanes_) * width * lanes_);
}

template <class T>
void AttentionMemory<T>::load(const AttentionInput<T>& in, int64_t b) {
  keys_ = in.length_of(b), padded_ = panels_of(keys_, lanes_) * lanes_;
  const Kernels<T>& k = kernels<T>();
  gather_rows(in.key + b * width_, in.batch * width_, keys_, width_, rows_.data());
  if (!additive_) k.pack(rows_.data(), keys_, width_, kOne, key_.data(), {0, padded_ / lanes_});
  T* rows = additive_ ? rows_.data() + keys_ * width_ : rows_.data();
  gather_rows(in.value + b * values_, in.batch * values_, keys_, values_, rows);
  k.pack_transposed(rows, keys_, values_, kOne, value_.data(), {0, panels_of(values_, lanes_)});
}

template <class T>
void AttentionMemory<T>::attend(const T* query, int64_t query_stride, const T* v, int64_t rows, T* weights, T* context,
                                int64_t context_stride, Team& team) const {
  if (keys_ == 0) return zero_rows(context, context_stride, rows, values_);
  if (additive_) {
    AdditiveArgs<T> a{};
    a.queries = rows, a.keys = keys_, a.width = width_;
    a.query = query, a.query_stride = query_stride;
    a.key = rows_.data(), a.key_stride = width_;
    a.v = v, a.score = weights, a.score_stride = padded_;
    ops_kernels<T>().additive_scores(a);
  } else {
    multiply<T>({query, query_stride, width_, key_.data(), padded_ / lanes_, weights, padded_, -1}, rows, team);
  }
  ops_kernels<T>().softmax_rows(weights, rows, keys_, padded_);
  multiply<T>({weights, padded_, padded_, value_.data(), panels_of(values_, lanes_), context, context_stride, values_},
              rows, team);
}

template <class T>
void attention_forward(const AttentionInput<T>& in, T* context, T* weights, int threads) {
  threads = threads_for(in.flops(), threads);
  const int64_t Q = in.queries, B = in.batch, S = in.keys,
                padded = panels_of(S, kernels<T>().lanes) * kernels<T>().lanes;
  std::vector<AttentionMemory<T>> memories;
  std::vector<Buffer<T>> scratch;
  for (int i = 0; i < threads; ++i) {
    memories.emplace_back(S, in.width, in.values, in.v != nullptr);
    scratch.emplace_back(Q * padded);
  }
  const bool stopped = parallel(threads, [&](Team& team) {
    AttentionMemory<T>& memory = memories[static_cast<size_t>(team.id)];
    T* rows = scratch[static_cast<size_t>(team.id)].data();
    const Span own = part_of(B, team.id, team.count);
    for (int64_t b = own.begin; b < own.end && !team_stopped(team); ++b) {
      memory.load(in, b);
      memory.attend(in.query + b * in.width, B * in.width, in.v, Q, rows, context + b * in.values, B * in.values, team);
      const int64_t keys = in.length_of(b);
      for (int64_t t = 0; t < Q; ++t) {
        T* to = weights + (t * B + b) * S;
        std::copy_n(rows + t * memory.padded(), keys, to);
        std::fill(to + keys, to + S, T(0));
      }
    }
  });
  if (stopped) throw Interrupted();
}

namespace {

// One thread's backward pass over one sequence after another.
template <class T>
class SequenceBackward {
 public:
  explicit SequenceBackward(const AttentionInput<T>& in)
      : in_(in),
        lanes_(kernels<T>().lanes),
        most_keys_(panels_of(in.keys, lanes_) * lanes_),
        most_queries_(panels_of(in.queries, lanes_) * lanes_),
        rows_(std::max(most_keys_, most_queries_) * std::max(in.width, in.values)),
        packed_(std::max(most_keys_, most_queries_) * panels_of(std::max(in.width, in.values), lanes_) * lanes_),
        weights_(in.queries * most_keys_),
        d_(in.queries * most_keys_),
        turned_(in.keys * most_queries_) {}

  void run(int64_t b, const T* weights, const T* dcontext, const AttentionGradients<T>& out, T* dv, Team& team) {
    const int64_t B = in_.batch, Q = in_.queries, K = in_.width, E = in_.values;
    b_ = b, keys_ = Q > 0 ? in_.length_of(b) : 0;  // without a query nothing has a gradient
    padded_ = panels_of(keys_, lanes_) * lanes_;
    zero_rows(out.key + (keys_ * B + b) * K, B * K, in_.keys - keys_, K);
    zero_rows(out.value + (keys_ * B + b) * E, B * E, in_.keys - keys_, E);
    if (keys_ == 0) return zero_rows(out.query + b * K, B * K, Q, K);
    for (int64_t t = 0; t < Q; ++t) {
      std::copy_n(weights + (t * B + b) * in_.keys, keys_, weights_.data() + t * padded_);
      std::fill_n(weights_.data() + t * padded_ + keys_, padded_ - keys_, T(0));
    }
    // weights -> dvalue; dcontext -> dweights -> dscores
    sum_over_queries(weights_.data(), dcontext, E, out.value, team);
    gather_rows(in_.value + b * E, B * E, keys_, E, rows_.data());
    kernels<T>().pack(rows_.data(), keys_, E, kOne, packed_.data(), {0, padded_ / lanes_});
    multiply<T>({dcontext + b * E, B * E, E, packed_.data(), padded_ / lanes_, d_.data(), padded_, -1}, Q, team);
    ops_kernels<T>().softmax_back_rows(weights_.data(), d_.data(), Q, padded_);
    if (in_.v != nullptr) return additive(out, dv);
    sum_over_queries(d_.data(), in_.query, K, out.key, team);
    gather_rows(in_.key + b * K, B * K, keys_, K, rows_.data());
    kernels<T>().pack_transposed(rows_.data(), keys_, K, kOne, packed_.data(), {0, panels_of(K, lanes_)});
    multiply<T>({d_.data(), padded_, padded_, packed_.data(), panels_of(K, lanes_), out.query + b * K, B * K, K}, Q,
                team);
  }

 private:
  // to[s] = sum over t of by[t][s] from[t]; `from` (queries, batch, n) and `to` (keys, batch, n) of this sequence
  void sum_over_queries(const T* by, const T* from, int64_t n, T* to, Team& team) {
    const int64_t B = in_.batch, Q = in_.queries, padded = panels_of(Q, lanes_) * lanes_;
    gather_rows(from + b_ * n, B * n, Q, n, rows_.data());
    kernels<T>().pack_transposed(rows_.data(), Q, n, kOne, packed_.data(), {0, panels_of(n, lanes_)});
    for (int64_t s = 0; s < keys_; ++s) {
      T* row = turned_.data() + s * padded;
      for (int64_t t = 0; t < Q; ++t) row[t] = by[t * padded_ + s];
      std::fill(row + Q, row + padded, T(0));
    }
    multiply<T>({turned_.data(), padded, padded, packed_.data(), panels_of(n, lanes_), to + b_ * n, B * n, n}, keys_,
                team);
  }

  void additive(const AttentionGradients<T>& out, T* dv) {
    const int64_t K = in_.width, stride = in_.batch * K, at = b_ * K;
    AdditiveArgs<T> a{};
    a.queries = in_.queries, a.keys = keys_, a.width = K;
    a.query = in_.query + at, a.key = in_.key + at, a.query_stride = a.key_stride = stride;
    a.v = in_.v, a.score = d_.data(), a.score_stride = padded_;
    a.dquery = out.query + at, a.dkey = out.key + at, a.dv = dv;
    ops_kernels<T>().additive_back(a);
  }

  const AttentionInput<T>& in_;
  int64_t lanes_, most_keys_, most_queries_, b_ = 0, keys_ = 0, padded_ = 0;
  Buffer<T> rows_, packed_, weights_, d_, turned_;
};

}  // namespace

template <class T>
void attention_backward(const AttentionInput<T>& in, const T* weights, const T* dcontext,
                        const AttentionGradients<T>& out, int threads) {
  threads = threads_for(2 * in.flops(), threads);
  std::vector<SequenceBackward<T>> passes;
  for (int i = 0; i < threads; ++i) passes.emplace_back(in);
  Buffer<T> dv;  // a row for each sequence, so that the sum does not depend on the threads
  if (in.v != nullptr) dv = Buffer<T>(in.batch * in.width);
  const bool stopped = parallel(threads, [&](Team& team) {
    const Span own = part_of(in.batch, team.id, team.count);
    for (int64_t b = own.begin; b < own.end && !team_stopped(team); ++b) {
      T* row = in.v != nullptr ? dv.data() + b * in.width : nullptr;
      if (row != nullptr) std::fill_n(row, in.width, T(0));
      passes[static_cast<size_t>(team.id)].run(b, weights, dcontext, out, row, team);
    }
  });
  if (stopped) throw Interrupted();
  if (in.v == nullptr) return;
  std::fill_n(out.v, in.width, T(0));
  for (int64_t b = 0; b < in.batch; ++b) ops_kernels<T>().add(out.v, dv.data() + b * in.width, in.width);
}

template <class T>
void tanh_values(const T* x, int64_t n, T* y, int threads) {
  constexpr int64_t kGrain = 4096;
  const bool stopped = parallel(threads_for(30.0 * static_cast<double>(n), threads), [&](Team& team) {
    const Span own = part_of(n, team.id, team.count, kGrain);
    for (int64_t i = own.begin; i < own.end && !team_stopped(team); i += kGrain)
      kernels<T>().math(MathFunction::tanh, x + i, y + i, std::min(kGrain, own.end - i));
  });
  if (stopped) throw Interrupted();
}

#define RNNFAST_INSTANTIATE(T)                                                                                       \
  template class AttentionMemory<T>;                                                                                 \
  template void attention_forward(const AttentionInput<T>&, T*, T*, int);                                            \
  template void attention_backward(const AttentionInput<T>&, const T*, const T*, const AttentionGradients<T>&, int); \
  template void tanh_values(const T*, int64_t, T*, int);
RNNFAST_INSTANTIATE(float)
RNNFAST_INSTANTIATE(double)

}  // namespace rnnfast
