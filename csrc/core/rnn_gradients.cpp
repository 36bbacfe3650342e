// Backward over all rows at once: the gradients of the weights and of the layers' inputs.
#include <algorithm>

#include "backward_pass.h"
#include "dropout.h"

namespace rnnfast {

template <class T, class E>
void BackwardPass<T, E>::allocate_pairs() {
  const int64_t pairs = (schedule_.rows() + 1) / 2;
  int64_t width = cache_.token.size() > 0 ? 0 : config_.input;
  if (config_.layers > 1) width = std::max(width, out_width());
  x_pairs_ = Buffer<E>(pairs * pair_stride(width));
  h_pairs_ = Buffer<E>(pairs * pair_stride(config_.hidden));
}

template <class T, class E>
void BackwardPass<T, E>::make_pairs(int layer, int d, const Team& team) {
  const Kernels<T, E>& k = kernels<T, E>();
  const Span rows = part_of(schedule_.rows(), team.id, team.count, 2);
  const int64_t hidden = config_.hidden, width = config_.input_of(layer);
  k.pair_rows({nullptr, 0, work(layer, d).h_prev.data()}, hidden, h_pairs_.data(), pair_stride(hidden), rows);
  if (d == 0 && !one_hot(layer)) k.pair_rows(layer_input(layer), width, x_pairs_.data(), pair_stride(width), rows);
}

template <class T, class E>
void BackwardPass<T, E>::group_tokens() {
  group_begin_.assign(static_cast<size_t>(cache_.ids.size()) + 1, 0);
  for (int64_t r = 0; r < cache_.token.size(); ++r) ++group_begin_[static_cast<size_t>(cache_.token[r]) + 1];
  for (size_t u = 1; u < group_begin_.size(); ++u) group_begin_[u] += group_begin_[u - 1];
  group_rows_.resize(static_cast<size_t>(cache_.token.size()));
  std::vector<int64_t> next(group_begin_.begin(), group_begin_.end() - 1);
  for (int64_t r = 0; r < cache_.token.size(); ++r)
    group_rows_[static_cast<size_t>(next[static_cast<size_t>(cache_.token[r])]++)] = static_cast<int32_t>(r);
}

template <class T, class E>
WeightGradientArgs<T, E> BackwardPass<T, E>::input_rows(int layer, int d, const Span& rows) {
  Rows<const E> x = layer_input(layer);
  if (x.index != nullptr)
    x.index += rows.begin;
  else
    x.base += rows.begin * x.stride;
  return weight_gradient_args(cell_.input, x, config_.input_of(layer), rows, work(layer, d));
}

template <class T, class E>
WeightGradientArgs<T, E> BackwardPass<T, E>::recurrent_rows(int layer, int d, const Span& rows) {
  DirectionWork<T, E>& at = work(layer, d);
  return weight_gradient_args(cell_.recurrent, {nullptr, 0, at.h_prev.data() + rows.begin}, config_.hidden, rows, at);
}

template <class T, class E>
WeightGradientArgs<T, E> BackwardPass<T, E>::weight_gradient_args(const Run& run, Rows<const E> x, int64_t inputs,
                                                                  const Span& rows,
                                                                  const DirectionWork<T, E>& at) const {
  WeightGradientArgs<T, E> args{};
  args.rows = rows.end - rows.begin, args.inputs = inputs, args.x = x;
  args.add = rows.end < view_.rows;  // later chunks are there
  args.da = at.da, args.da_row = da_row_, args.da_panel = da_panel_;
  args.first = run.first, args.n = run.count;
  return args;
}

template <class T, class E>
void BackwardPass<T, E>::weight_gradients(int layer, int d, const Span& times, Team& team) {
  const Kernels<T, E>& k = kernels<T, E>();
  DirectionWork<T, E>& at = work(layer, d);
  const Span rows = rows_of(times);
  const auto take = [&](WeightGradientArgs<T, E> args, const Buffer<E>& pairs, T* gradient) {
    if constexpr (!kSame) args.x = {pairs.data(), pair_stride(args.inputs), nullptr};
    args.gradient = gradient, args.packed = packed_[static_cast<size_t>(team.id)].data();
    args.x_packed = x_packed_[static_cast<size_t>(team.id)].data();
    // K is never split: panels, or where these are few, inputs, which are then packed by one thread each. That saves
    // more than da costs, which each thread then reads whole, where that is as narrow as x.
    constexpr int64_t kInputsOfThread = 16;
    const bool narrow = args.n == 1 && args.inputs >= kInputsOfThread * team.count;
    const bool by_panel = plan_.panels >= team.count && !narrow;
    k.weight_gradient(args, by_panel ? part_of(plan_.panels, team.id, team.count) : Span{0, plan_.panels},
                      by_panel ? Span{0, args.inputs} : part_of(args.inputs, team.id, team.count), team);
  };
  const Span panels = part_of(plan_.panels, team.id, team.count);
  k.sum_rows(at.da, da_row_, da_panel_, nullptr, rows.end - rows.begin, cell_.pre_activations, rows.end < view_.rows,
             at.sums.data(), panels);
  if (!few_) take(recurrent_rows(layer, d, rows), h_pairs_, at.dr);
  if (!one_hot(layer)) {
    if (!few_) take(input_rows(layer, d, rows), x_pairs_, at.dw);
    return;
  }
  for (int64_t u = 0; u < cache_.ids.size(); ++u) {
    const int64_t begin = group_begin_[static_cast<size_t>(u)], end = group_begin_[static_cast<size_t>(u) + 1];
    k.sum_rows(at.da, da_row_, da_panel_, group_rows_.data() + begin, end - begin, cell_.pre_activations, false,
               at.dw + u * row_size_, panels);
  }
}

template <class T, class E>
void BackwardPass<T, E>::input_gradient(int layer, int d, const Span& chunk, Team& team) {
  if (layer == 0 && (io_.dx == nullptr || cache_.token.size() > 0)) return;
  const int64_t width = config_.input_of(layer);
  const bool dropped = layer > 0 && config_.dropout > 0;
  const auto own = [&](const Span& all) {
    const Span part = part_of(all.end - all.begin, team.id, team.count);
    return Span{all.begin + part.begin, all.begin + part.end};
  };
  const Span times = own(chunk), rows = dropped ? rows_of(times) : own(rows_of(chunk));
  const Rows<T> out = layer > 0 ? Rows<T>{dy_of(layer - 1), width, nullptr} : dx_;
  GemmArgs<T, E> g{};
  g.n = 1, g.runs = plan_.panels, g.run_length = cell_.input.count * L_ / depth_;
  g.run_stride = da_panel_;
  g.a = {work(layer, d).da + cell_.input.first * L_ / depth_ - rows_of(chunk).begin * da_row_, da_row_, nullptr};
  g.b = weights(layer, d).w_back.data();
  g.init =
      d == 0 ? Rows<const T>{cache_.weights->zeros.data(), 0, nullptr} : Rows<const T>{out.base, out.stride, out.index};
  g.init_panel = d == 0 ? 0 : L_;
  g.out = out, g.out_panel = L_, g.width = width;
  const int64_t panels = (width + L_ - 1) / L_;
  if (cache_.reads_weights()) {
    // Each thread its own columns, so that weights are read once.
    kernels<T, E>().gemm_transposed_unpacked(g, {callers_weights(layer, d).w_ih, config_.hidden, width, cell_.input},
                                             scratch_[static_cast<size_t>(team.id)].view().weights, {0, view_.rows},
                                             part_of(panels, team.id, team.count), team);
    if (dropped && team_barrier(team)) return;
  } else {
    kernels<T, E>().gemm(g, rows, {0, panels}, team);
  }
  if (dropped && d == config_.directions - 1)
    drop_rows(config_, schedule_, cache_.seed, cache_.step, layer - 1, times, out.base, out.base);
}

template <class T, class E>
void BackwardPass<T, E>::commit(const Team& team) {
  const Kernels<T, E>& k = kernels<T, E>();
  const Span panels = part_of(plan_.panels, team.id, team.count);
  for (int layer = 0; layer < config_.layers; ++layer) {
    for (int d = 0; d < config_.directions; ++d) {
      const int index = layer * config_.directions + d;
      const RnnGradients<T>& to = io_.gradients[index];
      DirectionWork<T, E>& at = work(layer, d);
      const int64_t width = config_.input_of(layer);
      const auto add = [&](const Run& run, PackedGradient<T> gradient, int64_t columns, const int32_t* ids,
                           int64_t count, T* gradients) {
        if (gradients != nullptr) k.add_gradient(gradient, config_.hidden, columns, ids, count, run, gradients, panels);
      };
      const auto add_products = [&](const Run& run, WeightGradientArgs<T, E> args, T* gradients) {
        args.add = !io_.assign;
        if (gradients != nullptr) k.add_products(args, config_.hidden, run, gradients, panels);
      };
      const Span rows{0, view_.rows};
      const bool assign = io_.assign;
      if (one_hot(layer)) {
        if (assign && to.w_ih != nullptr) clear(to.w_ih, width, panels);  // tokens that did not occur
        add(cell_.input, {at.dw + cell_.input.first * L_, row_size_, cell_.pre_activations * L_, assign}, width,
            cache_.ids.data(), cache_.ids.size(), to.w_ih);
      } else if (few_) {
        add_products(cell_.input, input_rows(layer, d, rows), to.w_ih);
      } else {
        add(cell_.input, {at.dw, cell_.input.count * L_, width * cell_.input.count * L_, assign}, width, nullptr, width,
            to.w_ih);
      }
      if (few_) {
        add_products(cell_.recurrent, recurrent_rows(layer, d, rows), to.w_hh);
      } else {
        add(cell_.recurrent, {at.dr, cell_.recurrent.count * L_, config_.hidden * cell_.recurrent.count * L_, assign},
            config_.hidden, nullptr, config_.hidden, to.w_hh);
      }
      const int64_t stride = cell_.pre_activations * L_;
      add(cell_.input, {at.sums.data() + cell_.input.first * L_, 0, stride, assign}, 1, nullptr, 1, to.b_ih);
      add(cell_.recurrent, {at.sums.data() + cell_.recurrent.first * L_, 0, stride, assign}, 1, nullptr, 1, to.b_hh);
      copy_dstate0(index, at, part_of(schedule_.batch(), team.id, team.count));
    }
  }
}

template <class T, class E>
void BackwardPass<T, E>::clear(T* gradients, int64_t width, Span panels) const {
  const Span units{panels.begin * L_, std::min(panels.end * L_, config_.hidden)};
  for (int gate = 0; gate < cell_.gates; ++gate)
    std::fill_n(gradients + (gate * config_.hidden + units.begin) * width, (units.end - units.begin) * width, T(0));
}

template <class T, class E>
void BackwardPass<T, E>::copy_dstate0(int64_t index, const DirectionWork<T, E>& at, Span sequences) const {
  for (int k = 0; k < cell_.states; ++k) {
    if (io_.dstate0[k] == nullptr) continue;
    for (int64_t j = sequences.begin; j < sequences.end; ++j)
      std::copy_n(at.dstate[k].data() + j * padded_, config_.hidden,
                  io_.dstate0[k] + (index * schedule_.batch() + schedule_.caller(j)) * config_.hidden);
  }
}

#define RNNFAST_INSTANTIATE(T, E)                                                   \
  template void BackwardPass<T, E>::allocate_pairs();                               \
  template void BackwardPass<T, E>::make_pairs(int, int, const Team&);              \
  template void BackwardPass<T, E>::group_tokens();                                 \
  template void BackwardPass<T, E>::weight_gradients(int, int, const Span&, Team&); \
  template void BackwardPass<T, E>::input_gradient(int, int, const Span&, Team&);   \
  template void BackwardPass<T, E>::commit(const Team&);
RNNFAST_INSTANTIATE(float, float)
RNNFAST_INSTANTIATE(double, double)
RNNFAST_INSTANTIATE(float, Bf16x2)

}  // namespace rnnfast
