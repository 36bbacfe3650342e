#include "sampler.h"

#include <algorithm>
#include <numeric>

#include "random.h"

namespace rnnfast {

namespace {

constexpr uint32_t kSamplingStream = 0x53414D50;  // "SAMP", so that no counter of dropout is met

// In (0, 1).
double uniform(uint64_t seed, int64_t sample, int64_t position) {
  const auto at = static_cast<uint64_t>(position);
  uint32_t counter[4] = {static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), static_cast<uint32_t>(sample),
                         kSamplingStream};
  philox(counter, seed);
  return (static_cast<double>(counter[0]) + 0.5) / 4294967296.0;
}

}  // namespace

TokenChooser::TokenChooser(int64_t classes)
    : classes_(classes), logit_(static_cast<size_t>(classes)), weight_(static_cast<size_t>(classes)) {
  ids_.reserve(static_cast<size_t>(classes));
  heap_.reserve(static_cast<size_t>(classes));
}

void TokenChooser::keep_likeliest(int64_t count) {
  std::nth_element(ids_.begin(), ids_.begin() + count, ids_.end(), [this](int32_t a, int32_t b) {
    const double x = logit_[static_cast<size_t>(a)], y = logit_[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  });
  ids_.resize(static_cast<size_t>(count));
  std::sort(ids_.begin(), ids_.end());
}

// Takes the likeliest from a heap until they reach p, because that is mostly few of many.
void TokenChooser::keep_nucleus(double p) {
  heap_.resize(ids_.size());  // places in ids_
  std::iota(heap_.begin(), heap_.end(), 0);
  const auto less_likely = [this](int32_t a, int32_t b) {
    const double x = logit_[static_cast<size_t>(ids_[static_cast<size_t>(a)])];
    const double y = logit_[static_cast<size_t>(ids_[static_cast<size_t>(b)])];
    return x < y || (x == y && a > b);
  };
  std::make_heap(heap_.begin(), heap_.end(), less_likely);
  const double total = std::accumulate(weight_.begin(), weight_.begin() + static_cast<int64_t>(ids_.size()), 0.0);
  auto end = heap_.end();
  for (double reached = 0; end != heap_.begin() && reached < p; --end) {
    std::pop_heap(heap_.begin(), end, less_likely);
    reached += weight_[static_cast<size_t>(*(end - 1))] / total;
  }
  std::sort(end, heap_.end());
  size_t kept = 0;
  for (; end != heap_.end(); ++end, ++kept) {
    ids_[kept] = ids_[static_cast<size_t>(*end)];
    weight_[kept] = weight_[static_cast<size_t>(*end)];
  }
  ids_.resize(kept);
}

template <class T>
int32_t TokenChooser::choose(const T* logits, const SamplingRule& rule, int64_t sample, int64_t position) {
  size_t best = 0;
  bool numbers = true;
  for (size_t i = 0; i < static_cast<size_t>(classes_); ++i) {
    logit_[i] = static_cast<double>(logits[i]);
    numbers = numbers && logit_[i] == logit_[i];
    if (logit_[i] > logit_[best]) best = i;
  }
  if (!numbers) return -1;
  if (rule.temperature == 0) return static_cast<int32_t>(best);
  ids_.resize(static_cast<size_t>(classes_));
  std::iota(ids_.begin(), ids_.end(), 0);
  if (rule.top_k > 0 && rule.top_k < classes_) keep_likeliest(rule.top_k);
  for (size_t i = 0; i < ids_.size(); ++i)
    weight_[i] = (logit_[static_cast<size_t>(ids_[i])] - logit_[best]) / rule.temperature;
  kernels<double>().math(MathFunction::exp, weight_.data(), weight_.data(), static_cast<int64_t>(ids_.size()));
  if (rule.top_p < 1) keep_nucleus(rule.top_p);

  const double total = std::accumulate(weight_.begin(), weight_.begin() + static_cast<int64_t>(ids_.size()), 0.0);
  if (!(total > 0)) return -1;  // an infinite logit
  const double mark = uniform(rule.seed, sample, position) * total;
  double cumulative = 0;
  for (size_t i = 0; i < ids_.size(); ++i) {
    cumulative += weight_[i];
    if (cumulative > mark) return ids_[i];
  }
  return ids_.back();
}

template <class T, class E>
Sampler<T, E>::Sampler(RnnStepper<T, E>& stepper, const T* embedding, std::shared_ptr<const PackedLinear<T>> output,
                       int max_threads)
    : stepper_(stepper),
      width_(stepper.config().input),
      logits_(stepper.batch() * output->padded_out()),
      token_(stepper.batch()),
      output_(std::move(output)),
      max_threads_(max_threads) {
  const int64_t vocabulary = output_->out();
  if (embedding != nullptr) {
    embedding_ = Buffer<T>(vocabulary * width_);
    std::copy_n(embedding, embedding_.size(), embedding_.data());
    x_ = Buffer<T>(batch() * width_);
  }
  for (int i = 0; i < region_threads(); ++i) choosers_.emplace_back(vocabulary);
}

template <class T, class E>
int Sampler<T, E>::region_threads() const {
  // A step that is split has no room for more threads than it was planned for.
  return stepper_.threads() > 1 ? stepper_.threads() : threads_for(output_->flops(batch()), max_threads_);
}

template <class T, class E>
void Sampler<T, E>::feed(const int32_t* tokens, Span rows) {
  for (int64_t b = rows.begin; b < rows.end; ++b) {
    token_[b] = std::max(tokens[b], 0);
    if (x_.size() > 0) std::copy_n(embedding_.data() + token_[b] * width_, width_, x_.data() + b * width_);
  }
}

template <class T, class E>
bool Sampler<T, E>::step(Team& team) {
  return x_.size() > 0 ? stepper_.step(x_.data(), nullptr, team) : stepper_.step(nullptr, token_.data(), team);
}

template <class T, class E>
void Sampler<T, E>::prime(const int32_t* tokens, int64_t steps) {
  const bool stopped = parallel(stepper_.threads(), [&](Team& team) {
    const Span own = part_of(batch(), team.id, team.count);
    for (int64_t t = 0; t < steps; ++t) {
      feed(tokens + t * batch(), own);
      if ((team.count > 1 && team_barrier(team)) || step(team)) return;
    }
  });
  if (stopped) throw Interrupted();
}

template <class T, class E>
void Sampler<T, E>::sample(const SamplingRule& rule, int64_t length, int64_t* ids) {
  const int64_t B = batch(), width = output_->padded_out();
  const bool stopped = parallel(region_threads(), [&](Team& team) {
    const Span own = part_of(B, team.id, team.count), panels = part_of(output_->panels(), team.id, team.count);
    const auto wait = [&] { return team.count > 1 && team_barrier(team); };
    for (int64_t i = 0; i < length; ++i) {
      output_->forward(stepper_.outputs(), {logits_.data(), width, nullptr}, -1, {0, B}, panels, team);
      if (wait()) return;
      for (int64_t b = own.begin; b < own.end; ++b) {
        const int32_t id =
            choosers_[static_cast<size_t>(team.id)].choose(logits_.data() + b * width, rule, b, rule.start + i);
        ids[i * B + b] = token_[b] = id;
      }
      feed(token_.data(), own);
      if (wait() || step(team)) return;
    }
  });
  if (stopped) throw Interrupted();
}

template class Sampler<float>;
template class Sampler<double>;
template class Sampler<float, Bf16x2>;

}  // namespace rnnfast
