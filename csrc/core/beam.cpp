#include "beam.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>

namespace rnnfast {

namespace {

constexpr int64_t kBlockRows = 256;  // whose products share what they read of the weights

}  // namespace

template <class T, class E>
BeamSearch<T, E>::BeamSearch(RnnStepper<T, E>& stepper, const DecoderParts<T>& parts, const BeamRule& rule,
                             int max_threads)
    : stepper_(stepper),
      parts_(parts),
      rule_(rule),
      sources_(stepper.batch() / rule.width),
      classes_(parts.output->out()),
      inputs_(stepper.config().input),
      block_(std::min(sources_, std::max<int64_t>(kBlockRows / rule.width, 1))),
      token_(stepper.batch()),
      source_(static_cast<size_t>(sources_)) {
  const int64_t K = rule.width, H = stepper.config().hidden, S = keys(), lanes = kernels<T>().lanes;
  const int64_t rows = block_ * K;
  if (parts.embedding != nullptr) x_ = Buffer<T>(stepper.batch() * inputs_);
  double flops = parts.output->flops(stepper.batch());
  if (parts.memory != nullptr) {
    AttentionInput<T> one = *parts.memory;
    one.queries = K;
    flops += one.flops() + parts.joined->flops(stepper.batch());
    for (int64_t b = 0; b < sources_; ++b) {
      memory_.emplace_back(one.length_of(b), one.width, one.values, one.v != nullptr);
      memory_.back().load(one, b);
    }
  }
  // A step that is split has no room for more threads than it was planned for.
  threads_ = stepper_.threads() > 1 ? stepper_.threads() : threads_for(flops, max_threads);
  if (parts.query != nullptr) query_ = Buffer<T>(rows * parts.query->out());
  if (parts.memory != nullptr)
    joined_ = Buffer<T>(rows * parts.joined->in()), features_ = Buffer<T>(rows * parts.joined->out());
  logits_ = Buffer<T>(rows * parts.output->padded_out());
  for (Source& s : source_) s.score.reserve(static_cast<size_t>(K)), s.done.reserve(static_cast<size_t>(2 * K));
  for (int64_t i = 0; i < threads_; ++i) {
    Workspace w;
    if (parts.memory != nullptr) w.weights = Buffer<T>(K * (S + lanes));
    w.rows = Buffer<T>(K * (H + lanes));
    w.denominator = Buffer<T>(K), w.target_logit = Buffer<T>(K);
    w.zero = Buffer<int32_t>(K);
    std::fill_n(w.zero.data(), K, 0);
    w.candidates.reserve(static_cast<size_t>(2 * K + 1)), w.parent.reserve(static_cast<size_t>(K));
    workspace_.push_back(std::move(w));
  }
}

template <class T, class E>
void BeamSearch<T, E>::run() {
  const auto end = static_cast<int32_t>(classes_ - 1);
  for (int64_t r = 0; r < stepper_.batch(); ++r) feed(r, end);
  for (Source& s : source_) s.score.assign(1, 0.0);
  slot_.resize(static_cast<size_t>(sources_));
  std::iota(slot_.begin(), slot_.end(), 0);
  stepper_.set_rows(sources_);
  make_room(0);
  const bool stopped = parallel(static_cast<int>(threads_), [&](Team& team) {
    for (int64_t i = 0; i <= rule_.max_length && !slot_.empty(); ++i) {
      if (step(team)) return;
      const auto slots = static_cast<int64_t>(slot_.size());
      for (int64_t first = 0; first < slots; first += block_)
        if (extend({first, std::min(first + block_, slots)}, i, team)) return;
      if (team.id == 0) {
        close_gaps();
        if (i == 0) spread();
        if (!slot_.empty()) make_room(i + 1);
        stepper_.set_rows(static_cast<int64_t>(slot_.size()) * spacing_);
      }
      if (team_barrier(team)) return;
    }
  });
  if (stopped) throw Interrupted();
  if (out_of_memory_) throw std::bad_alloc();
  for (Source& s : source_) {
    std::stable_sort(s.done.begin(), s.done.end(),
                     [](const Hypothesis& a, const Hypothesis& b) { return a.rank > b.rank; });
    if (s.done.size() > static_cast<size_t>(rule_.n_best)) s.done.resize(static_cast<size_t>(rule_.n_best));
  }
}

// For what is kept of step i: few searches come near max_length. In a region nothing may be thrown, so that a search
// without room ends as one without sources does.
template <class T, class E>
void BeamSearch<T, E>::make_room(int64_t i) {
  const auto size = static_cast<size_t>(at(i + 1, 0, 0));
  try {
    history_token_.resize(size), parent_.resize(size);
    if (rule_.keep_attention) history_attention_.resize(size * static_cast<size_t>(keys()));
  } catch (const std::bad_alloc&) {
    out_of_memory_ = true;
    slot_.clear();
  }
}

// Slots whose sources are finished get the last ones that go on, so that the rows of all that do are the first.
template <class T, class E>
void BeamSearch<T, E>::close_gaps() {
  const auto is_over = [this](int64_t b) { return source_[static_cast<size_t>(b)].finished; };
  for (size_t slot = 0; slot < slot_.size();) {
    if (!is_over(slot_[slot])) {
      ++slot;
      continue;
    }
    const auto last = static_cast<int64_t>(slot_.size()) - 1, gap = static_cast<int64_t>(slot);
    if (gap != last) {
      stepper_.copy_rows(last * spacing_, gap * spacing_, spacing_);
      for (int64_t r = 0; r < rule_.width; ++r) feed(gap * rule_.width + r, token_[last * rule_.width + r]);
      slot_[slot] = slot_.back();
    }
    slot_.pop_back();
  }
}

// After the first step, which is of one row a source: all rows of a source begin where that one is.
template <class T, class E>
void BeamSearch<T, E>::spread() {
  spacing_ = rule_.width;
  for (auto slot = static_cast<int64_t>(slot_.size()); slot-- > 0;)  // from the last: none is written over too early
    for (int64_t r = rule_.width; r-- > 0;)
      if (slot * spacing_ + r != slot) stepper_.copy_rows(slot, slot * spacing_ + r, 1);
}

template <class T, class E>
bool BeamSearch<T, E>::step(Team& team) {
  return x_.size() > 0 ? stepper_.step(x_.data(), nullptr, team) : stepper_.step(nullptr, token_.data(), team);
}

template <class T, class E>
void BeamSearch<T, E>::feed(int64_t row, int32_t token) {
  token_[row] = token;
  if (x_.size() > 0) std::copy_n(parts_.embedding + token * inputs_, inputs_, x_.data() + row * inputs_);
}

// y = x W^T + b, or tanh of it, of a block's rows by all threads: each takes panels where there are some for every one,
// so that they read the weights once between them. True if the region shall stop.
template <class T, class E>
bool BeamSearch<T, E>::product(const PackedLinear<T>& layer, Rows<const T> x, Rows<T> y, int64_t width, int64_t rows,
                               bool with_tanh, Team& team) const {
  const bool by_panel = layer.panels() >= kMaxTilePanels * team.count;
  const Span own = part_of(by_panel ? layer.panels() : rows, team.id, team.count);
  const Span r = by_panel ? Span{0, rows} : own, panels = by_panel ? own : Span{0, layer.panels()};
  layer.forward(x, y, width, r, panels, team);
  const int64_t first = panels.begin * layer.lanes(), end = std::min(panels.end * layer.lanes(), layer.out());
  for (int64_t i = r.begin; with_tanh && i < r.end; ++i) {
    T* const of = y.base + i * y.stride + first;
    kernels<T>().math(MathFunction::tanh, of, of, end - first);
  }
  return team_barrier(team);
}

// The logits of a block's rows.
template <class T, class E>
bool BeamSearch<T, E>::logits(Span slots, int64_t i, Team& team) {
  const int64_t rows = (slots.end - slots.begin) * spacing_, width = parts_.output->padded_out();
  const Rows<const T> all = stepper_.outputs();
  Rows<const T> h{all.base + slots.begin * spacing_ * all.stride, all.stride, nullptr};
  if (parts_.memory != nullptr) {
    Rows<const T> query = h;
    if (parts_.query != nullptr) {
      const int64_t out = parts_.query->out();
      if (product(*parts_.query, h, {query_.data(), out, nullptr}, out, rows, false, team)) return true;
      query = {query_.data(), out, nullptr};
    }
    const Span own = part_of(slots.end - slots.begin, team.id, team.count);
    for (int64_t n = own.begin; n < own.end; ++n) attend(slots.begin + n, n * spacing_, query, h, i, team);
    if (team_barrier(team)) return true;
    const int64_t in = parts_.joined->in(), out = parts_.joined->out();
    if (product(*parts_.joined, {joined_.data(), in, nullptr}, {features_.data(), out, nullptr}, out, rows, true, team))
      return true;
    h = {features_.data(), out, nullptr};
  }
  return product(*parts_.output, h, {logits_.data(), width, nullptr}, -1, rows, false, team);
}

// [context; h] of a slot's rows, the block's from `first`.
template <class T, class E>
void BeamSearch<T, E>::attend(int64_t slot, int64_t first, Rows<const T> query, Rows<const T> h, int64_t i,
                              Team& team) {
  const int64_t b = slot_[static_cast<size_t>(slot)], joined = parts_.joined->in(), S = keys();
  const AttentionMemory<T>& memory = memory_[static_cast<size_t>(b)];
  T* const weights = workspace_[static_cast<size_t>(team.id)].weights.data();
  T* const to = joined_.data() + first * joined;
  memory.attend(query.base + first * query.stride, query.stride, parts_.memory->v, spacing_, weights, to, joined, team);
  for (int64_t r = 0; r < spacing_; ++r)
    std::copy_n(h.base + (first + r) * h.stride, stepper_.config().hidden, to + r * joined + parts_.memory->values);
  const auto alive = static_cast<int64_t>(source_[static_cast<size_t>(b)].score.size());
  for (int64_t r = 0; rule_.keep_attention && r < alive; ++r)
    std::copy_n(weights + r * memory.padded(), parts_.memory->length_of(b),
                history_attention_.data() + at(i, b, r) * S);
}

// A block of slots gets its next tokens. True if the region shall stop.
template <class T, class E>
bool BeamSearch<T, E>::extend(Span slots, int64_t i, Team& team) {
  if (logits(slots, i, team)) return true;
  Workspace& w = workspace_[static_cast<size_t>(team.id)];
  const int64_t width = parts_.output->padded_out();
  const Span own = part_of(slots.end - slots.begin, team.id, team.count);
  for (int64_t n = own.begin; n < own.end; ++n) {
    const int64_t slot = slots.begin + n;
    Source& s = source_[static_cast<size_t>(slot_[static_cast<size_t>(slot)])];
    CrossEntropyArgs<T> args{};
    args.classes = classes_, args.logits = logits_.data() + n * spacing_ * width, args.stride = width;
    args.target = w.zero.data(), args.denominator = w.denominator.data(), args.target_logit = w.target_logit.data();
    ops_kernels<T>().cross_entropy(args, 0, static_cast<int64_t>(s.score.size()));
    if (collect(s, i, args.logits, w)) {
      choose(slot, i, w);
      s.finished = settled(s);
    } else {
      s.failed = s.finished = true;
    }
  }
  return team_barrier(team);
}

// The 2 * width best continuations of a source's rows, in order: among them are `width` that do not end. False where
// logits are no numbers.
template <class T, class E>
bool BeamSearch<T, E>::collect(const Source& s, int64_t i, const T* logits, Workspace& w) const {
  const auto limit = static_cast<size_t>(2 * rule_.width);
  const int64_t first = i == rule_.max_length ? classes_ - 1 : 0;
  const int64_t last = i < rule_.min_length ? classes_ - 1 : classes_;
  w.candidates.clear();
  for (size_t r = 0; r < s.score.size(); ++r) {
    const auto most = static_cast<double>(*std::max_element(logits, logits + classes_));
    const double log_sum = std::log(static_cast<double>(w.denominator[static_cast<int64_t>(r)]));
    if (!std::isfinite(most) || !std::isfinite(log_sum)) return false;
    for (int64_t c = first; c < last; ++c) {
      const double log_probability = (static_cast<double>(logits[c]) - most) - log_sum;
      const Candidate one{s.score[r] + log_probability, static_cast<int32_t>(r), static_cast<int32_t>(c)};
      if (w.candidates.size() == limit && !(one < w.candidates.front())) continue;
      w.candidates.push_back(one);  // a heap whose front is the worst
      std::push_heap(w.candidates.begin(), w.candidates.end());
      if (w.candidates.size() <= limit) continue;
      std::pop_heap(w.candidates.begin(), w.candidates.end());
      w.candidates.pop_back();
    }
    logits += parts_.output->padded_out();
  }
  std::sort_heap(w.candidates.begin(), w.candidates.end());
  return true;
}

// Of the continuations, those that are done and those that go on, whose states and tokens are the next step's.
template <class T, class E>
void BeamSearch<T, E>::choose(int64_t slot, int64_t i, Workspace& w) {
  const int64_t b = slot_[static_cast<size_t>(slot)];
  Source& s = source_[static_cast<size_t>(b)];
  s.score.clear(), w.parent.clear();
  for (size_t rank = 0; rank < w.candidates.size(); ++rank) {
    const Candidate& c = w.candidates[rank];
    if (c.token == classes_ - 1) {
      if (rank < static_cast<size_t>(rule_.width)) s.done.push_back({c.score, rank_of(c.score, i + 1), i, c.row});
    } else if (s.score.size() < static_cast<size_t>(rule_.width)) {
      const auto row = static_cast<int64_t>(s.score.size());
      const auto kept = static_cast<size_t>(at(i, b, row));
      history_token_[kept] = c.token, parent_[kept] = c.row;
      s.score.push_back(c.score), w.parent.push_back(c.row);
      feed(slot * rule_.width + row, c.token);
    }
  }
  if (i > 0)  // else all parents are the one row that there was
    stepper_.gather_rows(slot * spacing_, w.parent.data(), static_cast<int64_t>(w.parent.size()), w.rows.data());
}

// Whether the n_best best of a source are known: no row can come to a better rank, for its score only falls.
template <class T, class E>
bool BeamSearch<T, E>::settled(const Source& s) const {
  if (s.score.empty() || s.done.size() >= static_cast<size_t>(rule_.width)) return true;
  const double best = rank_of(s.score.front(), rule_.max_length + 1);
  const auto is_better = [&](const Hypothesis& h) { return h.rank >= best; };
  return std::count_if(s.done.begin(), s.done.end(), is_better) >= rule_.n_best;
}

template <class T, class E>
double BeamSearch<T, E>::rank_of(double score, int64_t n) const {
  return score / std::pow((5.0 + static_cast<double>(n)) / 6.0, rule_.length_penalty);
}

template <class T, class E>
void BeamSearch<T, E>::tokens(int64_t b, const Hypothesis& of, int32_t* out) const {
  int32_t row = of.row;
  for (int64_t i = of.steps; i-- > 0;) {
    const auto kept = static_cast<size_t>(at(i, b, row));
    out[i] = history_token_[kept], row = parent_[kept];
  }
}

template <class T, class E>
void BeamSearch<T, E>::attention(int64_t b, const Hypothesis& of, T* out) const {
  const int64_t S = keys();
  int32_t row = of.row;
  for (int64_t i = of.steps;; row = parent_[static_cast<size_t>(at(i, b, row))]) {
    std::copy_n(history_attention_.data() + at(i, b, row) * S, S, out + i * S);
    if (i-- == 0) return;
  }
}

template class BeamSearch<float>;
template class BeamSearch<double>;
template class BeamSearch<float, Bf16x2>;

}  // namespace rnnfast
