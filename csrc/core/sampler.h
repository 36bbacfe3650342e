// The whole sampling loop: a recurrent network one step at a time, its output layer, and the choice of each next token.
#pragma once

#include "linear.h"
#include "stepper.h"

namespace rnnfast {

// Logits are divided by the temperature (0: the likeliest token), then the top_k likeliest tokens stay, of those the
// fewest likeliest whose probabilities reach top_p. Ties go to the lower token. What is drawn is a function of (seed,
// sample, position).
struct SamplingRule {
  double temperature;
  int64_t top_k;  // 0: all
  double top_p;   // 1: all
  uint64_t seed;
  int64_t start;  // position of the first token
};

// Chooses from one row of logits after another; has its own memory.
class TokenChooser {
 public:
  explicit TokenChooser(int64_t classes);
  // The token, or -1 where the logits are no numbers to choose by.
  template <class T>
  int32_t choose(const T* logits, const SamplingRule&, int64_t sample, int64_t position);

 private:
  void keep_likeliest(int64_t count);  // of ids_
  void keep_nucleus(double p);
  int64_t classes_;
  std::vector<double> logit_, weight_;  // [classes]; weight_[i] belongs to ids_[i]
  std::vector<int32_t> ids_, heap_;     // tokens that are left, in ascending order; scratch
};

template <class T, class E = T>
class Sampler {
 public:
  // `embedding` (vocabulary, inputs of the network) is copied; null: tokens are one-hot rows. The stepper, which the
  // caller keeps alive, holds the state.
  Sampler(RnnStepper<T, E>& stepper, const T* embedding, std::shared_ptr<const PackedLinear<T>> output,
          int max_threads);

  // Feeds tokens [steps, B].
  void prime(const int32_t* tokens, int64_t steps);
  // ids [length, B]: each is chosen from what the network says after those before it, then fed. -1 where a sample's
  // logits are no numbers; token 0 is fed then.
  void sample(const SamplingRule&, int64_t length, int64_t* ids);

  int64_t batch() const { return stepper_.batch(); }

 private:
  // Makes tokens the input of the next step; this thread's rows.
  void feed(const int32_t* tokens, Span rows);
  bool step(Team& team);
  int region_threads() const;

  RnnStepper<T, E>& stepper_;
  int64_t width_;
  Buffer<T> embedding_, x_, logits_;  // (vocabulary, width); [B, width]; [B, padded vocabulary]
  Buffer<int32_t> token_;             // [B]
  std::shared_ptr<const PackedLinear<T>> output_;
  int max_threads_;
  std::vector<TokenChooser> choosers_;  // one a thread
};

}  // namespace rnnfast
