#include "packed.h"

#include <algorithm>

#include "linear.h"
#include "plan.h"

namespace rnnfast {

namespace {

template <class T>
int64_t panels_of(int64_t units) {
  const int64_t lanes = kernels<T>().lanes;
  return (units + lanes - 1) / lanes;
}

// Where there is a place for them.
template <class T, class E>
void pack_transposed(const RnnConfig& config, const RnnWeights<T>& from, int64_t width, E* w, E* r, const Team& team) {
  const Kernels<T, E>& k = kernels<T, E>();
  const CellShape cell = cell_shape(config.cell);
  const auto own = [&](int64_t units) { return part_of(panels_of<T>(units), team.id, team.count); };
  if (r != nullptr) k.pack_transposed(from.w_hh, config.hidden, config.hidden, cell.recurrent, r, own(config.hidden));
  if (w != nullptr) k.pack_transposed(from.w_ih, config.hidden, width, cell.input, w, own(width));
}

}  // namespace

template <class T, class E>
std::shared_ptr<PackedRnn<T, E>> empty_pack(const RnnConfig& config, const PackParts& parts) {
  const CellShape cell = cell_shape(config.cell);
  const int64_t L = kernels<T>().lanes, depth = kernels<T, E>().depth, panels = panels_of<T>(config.hidden);
  constexpr bool same = std::is_same_v<T, E>;
  const auto transposed = [&](int64_t inputs, const Run& run) {
    return panels_of<T>(inputs) * panels * run.count * L / depth * L;
  };
  const auto forward = [&](int64_t inputs, const Run& run, bool wanted, bool back) {
    const int64_t own = wanted ? panels * ((inputs + depth - 1) / depth) * run.count * L : 0;
    return Buffer<E>(parts.in_turn && back ? std::max(own, transposed(inputs, run)) : own);
  };
  auto packed = std::make_shared<PackedRnn<T, E>>();
  packed->zeros = Buffer<T>(panels * cell.pre_activations * L);
  std::fill_n(packed->zeros.data(), packed->zeros.size(), T(0));
  packed->zero_row = Buffer<E>(packed->zeros.size() / depth);
  std::fill_n(packed->zero_row.data(), packed->zero_row.size(), E{});
  packed->first_columns = parts.first_columns;
  const bool shared = parts.held < config.layers * config.directions;
  for (int64_t index = 0; index < parts.held; ++index) {
    const int layer = static_cast<int>(index / config.directions);
    int64_t columns = layer == 0 ? parts.first_columns : config.input_of(layer);
    if (shared && config.layers > 1) columns = std::max(columns, config.input_of(1));
    const bool first = same && parts.one_hot && layer == 0;
    typename PackedRnn<T, E>::Layer to;
    to.w = forward(columns, cell.input, first || parts.w(layer) || (shared && parts.above), parts.w_back(layer));
    if (!same && layer == 0 && parts.one_hot)
      to.w_columns = Buffer<T>(panels * parts.first_columns * cell.input.count * L);
    to.r = forward(config.hidden, cell.recurrent, parts.recurrent, parts.backward);
    to.bias = Buffer<T>(panels * cell.pre_activations * L);
    if (parts.backward && !parts.in_turn) to.r_back = Buffer<E>(transposed(config.hidden, cell.recurrent));
    if (parts.w_back(layer) && !parts.in_turn) to.w_back = Buffer<E>(transposed(config.input_of(layer), cell.input));
    packed->layers.push_back(std::move(to));
  }
  return packed;
}

template <class T, class E>
void pack_part(const RnnConfig& config, const PackParts& parts, const RnnWeights<T>* weights, const int32_t* ids,
               int64_t index, PackedRnn<T, E>& packed, const Team& team) {
  const Kernels<T, E>& k = kernels<T, E>();
  const CellShape cell = cell_shape(config.cell);
  const Span span = part_of(panels_of<T>(config.hidden), team.id, team.count);
  auto& to = packed.of(index);
  const RnnWeights<T>& from = weights[index];
  const int layer = static_cast<int>(index) / config.directions;
  const int64_t width = config.input_of(layer);
  if (parts.w(layer)) k.pack(from.w_ih, config.hidden, width, cell.input, to.w.data(), span);
  T* columns = to.w_columns.data();
  if constexpr (std::is_same_v<T, E>) columns = parts.w(layer) ? nullptr : to.w.data();  // the same numbers
  if (layer == 0 && parts.one_hot && columns != nullptr)
    k.pack_columns(from.w_ih, config.hidden, width, ids, packed.first_columns, cell.input, columns, span);
  if (parts.recurrent) k.pack(from.w_hh, config.hidden, config.hidden, cell.recurrent, to.r.data(), span);
  k.pack_bias(from.b_ih, cell.input, from.b_hh, cell.recurrent, config.hidden, cell.pre_activations, to.bias.data(),
              span);
  pack_transposed(config, from, width, to.w_back.data(), to.r_back.data(), team);
}

template <class T, class E>
void pack_in_turn(const RnnConfig& config, const PackParts& parts, const RnnWeights<T>* weights, int layer,
                  PackedRnn<T, E>& packed, const Team& team) {
  for (int d = 0; d < config.directions; ++d) {
    const int index = layer * config.directions + d;
    auto& to = packed.of(index);
    pack_transposed<T, E>(config, weights[index], config.input_of(layer), parts.w_back(layer) ? to.w.data() : nullptr,
                          to.r.data(), team);
  }
}

template <class T, class E>
void leave_backward(const RnnConfig& config, const PackParts& parts, PackedRnn<T, E>& packed) {
  for (size_t i = 0; i < packed.layers.size(); ++i) {
    auto& layer = packed.layers[i];
    if (parts.in_turn) layer.r_back = std::move(layer.r);
    if (parts.in_turn && parts.w_back(static_cast<int>(i) / config.directions)) layer.w_back = std::move(layer.w);
    layer.w = {}, layer.w_columns = {}, layer.r = {};
  }
}

void number_tokens(const Schedule& schedule, const int32_t* tokens, const Strides& strides, int64_t vocabulary,
                   Buffer<int32_t>& token, Buffer<int32_t>& ids) {
  std::vector<int32_t> place(static_cast<size_t>(vocabulary), -1);
  token = Buffer<int32_t>(schedule.rows());
  std::vector<int32_t> seen;
  schedule.each_row(0, schedule.longest(), [&](int64_t row, int64_t t, int64_t j) {
    const int32_t id = tokens[schedule.place(strides, row, t, j)];
    token[row] = id;
    if (place[static_cast<size_t>(id)] < 0) {
      place[static_cast<size_t>(id)] = 0;
      seen.push_back(id);
    }
  });
  std::sort(seen.begin(), seen.end());
  ids = Buffer<int32_t>(static_cast<int64_t>(seen.size()));
  for (size_t u = 0; u < seen.size(); ++u) {
    ids[static_cast<int64_t>(u)] = seen[u];
    place[static_cast<size_t>(seen[u])] = static_cast<int32_t>(u);
  }
  for (int64_t r = 0; r < token.size(); ++r) token[r] = place[static_cast<size_t>(token[r])];
}

template <class T, class E>
size_t PackedRnn<T, E>::bytes() const {
  size_t sum = zeros.bytes() + zero_row.bytes();
  for (const Layer& l : layers)
    sum += l.w.bytes() + l.w_columns.bytes() + l.r.bytes() + l.bias.bytes() + l.w_back.bytes() + l.r_back.bytes();
  return sum;
}

template <class T, class E>
std::shared_ptr<const PackedRnn<T, E>> pack_rnn(const RnnConfig& config, const RnnWeights<T>* weights, int threads) {
  const int64_t all = config.layers * config.directions;
  const PackParts parts{.first_columns = config.input,
                        .dense = true,
                        .one_hot = true,
                        .above = true,
                        .recurrent = true,
                        .backward = false,
                        .dx = false,
                        .in_turn = false,
                        .held = all};
  auto packed = empty_pack<T, E>(config, parts);
  constexpr double kRows = 16;  // whose product takes about as long as packing
  const double flops = 2 * kRows * static_cast<double>(weights_of(config, false));
  parallel(threads_for(flops, threads), [&](Team& team) {
    for (int64_t index = 0; index < all; ++index) pack_part(config, parts, weights, nullptr, index, *packed, team);
  });
  return packed;
}

#define RNNFAST_INSTANTIATE(T, E)                                                                             \
  template struct PackedRnn<T, E>;                                                                            \
  template std::shared_ptr<PackedRnn<T, E>> empty_pack(const RnnConfig&, const PackParts&);                   \
  template void pack_part(const RnnConfig&, const PackParts&, const RnnWeights<T>*, const int32_t*, int64_t,  \
                          PackedRnn<T, E>&, const Team&);                                                     \
  template void pack_in_turn(const RnnConfig&, const PackParts&, const RnnWeights<T>*, int, PackedRnn<T, E>&, \
                             const Team&);                                                                    \
  template void leave_backward(const RnnConfig&, const PackParts&, PackedRnn<T, E>&);                         \
  template std::shared_ptr<const PackedRnn<T, E>> pack_rnn(const RnnConfig&, const RnnWeights<T>*, int);
RNNFAST_INSTANTIATE(float, float)
RNNFAST_INSTANTIATE(double, double)
RNNFAST_INSTANTIATE(float, Bf16x2)

}  // namespace rnnfast
