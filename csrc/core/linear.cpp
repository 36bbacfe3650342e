#include "linear.h"

#include <algorithm>

namespace rnnfast {

template <class T>
PackedLinear<T>::PackedLinear(int64_t in, int64_t out, bool backward)
    : in_(in),
      out_(out),
      lanes_(kernels<T>().lanes),
      panels_((out + lanes_ - 1) / lanes_),
      w_(panels_ * in * lanes_),
      bias_(panels_ * lanes_),
      zeros_(lanes_) {
  std::fill_n(zeros_.data(), lanes_, T(0));
  if (backward) w_back_ = Buffer<T>((in + lanes_ - 1) / lanes_ * panels_ * lanes_ * lanes_);
}

template <class T>
void PackedLinear<T>::pack(const T* weight, const T* bias, const Team& team) {
  const Kernels<T>& k = kernels<T>();
  const Span span = part_of(panels_, team.id, team.count);
  k.pack(weight, out_, in_, run, w_.data(), span);
  k.pack_bias(bias, run, nullptr, run, out_, 1, bias_.data(), span);
  if (w_back_.size() > 0)
    k.pack_transposed(weight, out_, in_, run, w_back_.data(),
                      part_of((in_ + lanes_ - 1) / lanes_, team.id, team.count));
}

template <class T>
void PackedLinear<T>::forward(Rows<const T> x, Rows<T> y, int64_t width, Span rows, Span panels, Team& team) const {
  GemmArgs<T> g{};
  g.n = 1, g.runs = 1, g.run_length = in_, g.run_stride = 0;
  g.a = x, g.b = w_.data();
  g.init = {bias_.data(), 0, nullptr}, g.init_panel = lanes_;
  g.out = y, g.out_panel = lanes_;
  g.width = width;
  kernels<T>().gemm(g, rows, panels, team);
}

template <class T>
void PackedLinear<T>::input_gradient(const T* dy, Rows<T> dx, Span rows, Team& team) const {
  GemmArgs<T> g{};
  g.n = 1, g.runs = 1, g.run_length = padded_out(), g.run_stride = 0;
  g.a = {dy, padded_out(), nullptr}, g.b = w_back_.data();
  g.init = {zeros_.data(), 0, nullptr}, g.init_panel = 0;
  g.out = dx, g.out_panel = lanes_;
  g.width = in_;
  kernels<T>().gemm(g, rows, {0, (in_ + lanes_ - 1) / lanes_}, team);
}

template <class T>
LinearGradients<T>::LinearGradients(const PackedLinear<T>& packed, bool several, int threads)
    : in_(packed.in()),
      out_(packed.out()),
      lanes_(packed.lanes()),
      panels_(packed.panels()),
      dw_(panels_ * in_ * lanes_),
      sums_(panels_ * lanes_) {
  if (several) dw_part_ = Buffer<T>(dw_.size()), sums_part_ = Buffer<T>(sums_.size());
  for (int i = 0; i < threads; ++i) {
    packed_.emplace_back(kMaxTilePanels * kSumBlock * lanes_);
    x_packed_.emplace_back(kSumBlock * in_);
  }
}

template <class T>
void LinearGradients<T>::add(const T* dy, Rows<const T> x, int64_t rows, bool first, Team& team) {
  const Kernels<T>& k = kernels<T>();
  WeightGradientArgs<T> args{};
  args.rows = rows, args.inputs = in_, args.x = x;
  args.da = dy, args.da_row = panels_ * lanes_, args.da_panel = lanes_, args.first = 0, args.n = 1;
  args.gradient = first ? dw_.data() : dw_part_.data();
  args.packed = packed_[static_cast<size_t>(team.id)].data();
  args.x_packed = x_packed_[static_cast<size_t>(team.id)].data();
  // Panels where every thread gets some, else inputs; the sum over rows is never split.
  const bool by_panel = panels_ >= kMaxTilePanels * team.count;
  const Span own = part_of(panels_, team.id, team.count);
  const Span panels = by_panel ? own : Span{0, panels_};
  const Span inputs = by_panel ? Span{0, in_} : part_of(in_, team.id, team.count);
  k.weight_gradient(args, panels, inputs, team);
  k.sum_rows(dy, args.da_row, args.da_panel, nullptr, rows, 1, false, first ? sums_.data() : sums_part_.data(), own);
  if (first) return;
  const OpsKernels<T>& ops = ops_kernels<T>();
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    const int64_t at = (panel * in_ + inputs.begin) * lanes_;
    ops.add(dw_.data() + at, dw_part_.data() + at, (inputs.end - inputs.begin) * lanes_);
  }
  ops.add(sums_.data() + own.begin * lanes_, sums_part_.data() + own.begin * lanes_, (own.end - own.begin) * lanes_);
}

template <class T>
void LinearGradients<T>::commit(T* dweight, T* dbias, const Team& team) const {
  const Kernels<T>& k = kernels<T>();
  const Span panels = part_of(panels_, team.id, team.count);
  const Run run = PackedLinear<T>::run;
  if (dweight != nullptr)
    k.add_gradient({dw_.data(), lanes_, in_ * lanes_, false}, out_, in_, nullptr, in_, run, dweight, panels);
  if (dbias != nullptr) k.add_gradient({sums_.data(), 0, lanes_, false}, out_, 1, nullptr, 1, run, dbias, panels);
}

template <class T>
std::shared_ptr<PackedLinear<T>> pack_linear(const T* weight, const T* bias, int64_t in, int64_t out, bool backward,
                                             int threads) {
  auto packed = std::make_shared<PackedLinear<T>>(in, out, backward);
  const int64_t rows = backward ? 32 : 16;  // whose product takes about as long as packing
  parallel(threads_for(packed->flops(rows), threads), [&](Team& team) { packed->pack(weight, bias, team); });
  return packed;
}

namespace {

// An array's rows as the kernels take them: the chosen ones by their addresses.
template <class T>
class ChosenRows {
 public:
  ChosenRows(T* base, int64_t width, const RowChoice& rows) : base_(base), width_(width), rows_(rows) {
    if (rows.chosen == nullptr || base == nullptr) return;
    for (int64_t i = 0; i < rows.count; ++i) index_.push_back(base + rows.chosen[i] * width);
  }
  Rows<T> view() const { return {base_, width_, rows_.chosen != nullptr ? index_.data() : nullptr}; }
  T* operator[](int64_t i) const {
    return rows_.chosen != nullptr ? index_[static_cast<size_t>(i)] : base_ + i * width_;
  }
  // This thread's share of the rows that were not chosen: those before each of its chosen ones.
  void zero_others(const Team& team) const {
    if (rows_.chosen == nullptr) return;
    const Span own = part_of(rows_.count, team.id, team.count);
    int64_t next = own.begin > 0 ? rows_.chosen[own.begin - 1] + 1 : 0;
    for (int64_t i = own.begin; i < own.end; ++i) {
      zero(next, rows_.chosen[i]);
      next = rows_.chosen[i] + 1;
    }
    if (team.id == team.count - 1) zero(next, rows_.all);
  }

 private:
  void zero(int64_t begin, int64_t end) const { std::fill(base_ + begin * width_, base_ + end * width_, T(0)); }

  T* base_;
  int64_t width_;
  const RowChoice& rows_;
  std::vector<T*> index_;
};

}  // namespace

template <class T>
void linear_forward(const PackedLinear<T>& packed, const T* x, const RowChoice& rows, T* y, int threads) {
  const ChosenRows<const T> from(x, packed.in(), rows);
  const ChosenRows<T> to(y, packed.out(), rows);
  const bool stopped = parallel(threads_for(packed.flops(rows.count), threads), [&](Team& team) {
    // Rows are dealt out, or panels where each thread would have only few rows.
    const bool by_row = rows.count >= kMaxTileRows * team.count;
    const Span own = by_row ? part_of(rows.count, team.id, team.count) : Span{0, rows.count};
    const Span panels = by_row ? Span{0, packed.panels()} : part_of(packed.panels(), team.id, team.count);
    packed.forward(from.view(), to.view(), packed.out(), own, panels, team);
    to.zero_others(team);
  });
  if (stopped) throw Interrupted();
}

template <class T>
void linear_backward(const PackedLinear<T>& packed, const LinearBackward<T>& io, int threads) {
  const int64_t out = packed.out(), padded = packed.padded_out(), count = io.rows.count;
  threads = threads_for(2 * packed.flops(count), threads);
  LinearGradients<T> gradients(packed, false, threads);
  const ChosenRows<const T> given(io.dy, out, io.rows), x(io.x, packed.in(), io.rows);
  const ChosenRows<T> dx(io.dx, packed.in(), io.rows);
  const bool copied = out != padded || io.rows.chosen != nullptr;
  Buffer<T> copy;
  if (copied) copy = Buffer<T>(count * padded);
  const bool stopped = parallel(threads, [&](Team& team) {
    const Span rows = part_of(count, team.id, team.count);
    for (int64_t r = rows.begin; copied && r < rows.end; ++r) {
      std::copy_n(given[r], out, copy.data() + r * padded);
      std::fill_n(copy.data() + r * padded + out, padded - out, T(0));
    }
    const T* dy = copied ? copy.data() : io.dy;
    if (io.dx != nullptr) {
      packed.input_gradient(dy, dx.view(), rows, team);
      dx.zero_others(team);
    }
    if (team_barrier(team)) return;
    gradients.add(dy, x.view(), count, true, team);
    if (team_barrier(team)) return;
    gradients.commit(io.dweight, io.dbias, team);
  });
  if (stopped) throw Interrupted();
}

#define RNNFAST_INSTANTIATE(T)                                                                            \
  template class PackedLinear<T>;                                                                         \
  template class LinearGradients<T>;                                                                      \
  template std::shared_ptr<PackedLinear<T>> pack_linear(const T*, const T*, int64_t, int64_t, bool, int); \
  template void linear_forward(const PackedLinear<T>&, const T*, const RowChoice&, T*, int);              \
  template void linear_backward(const PackedLinear<T>&, const LinearBackward<T>&, int);
RNNFAST_INSTANTIATE(float)
RNNFAST_INSTANTIATE(double)

}  // namespace rnnfast
