// Products of bf16 operands: those of an instruction and those that are put together from float arithmetic must have
// the same bits, which are two fused multiply-adds, the high half first, denormals being zero. Each set of kernels is
// compared with that, written down once more here. And rounding to bf16.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <random>
#include <vector>

#include "cpu/kernels.h"

namespace {

using rnnfast::Bf16x2;

constexpr float kSmallest = 0x1p-126f;

float flush(float x) { return std::fabs(x) < kSmallest ? std::copysign(0.0f, x) : x; }
float number(uint16_t bits) { return flush(std::bit_cast<float>(uint32_t{bits} << 16)); }
bool same(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

float multiply_add(float a, float b, float c) {
  c = flush(c);
#if defined(__aarch64__)
  // ARM takes a result for denormal before it is rounded, x86 afterwards.
  const double sum = std::fma(double{a}, double{b}, double{c}), rest = std::fma(double{a}, double{b}, double{c} - sum);
  const double size = std::fabs(sum);
  if (size < double{kSmallest} || (size == double{kSmallest} && rest * sum < 0))
    return std::copysign(0.0f, static_cast<float>(sum));
#endif
  return flush(std::fma(a, b, c));
}

float dot(Bf16x2 a, Bf16x2 b, float c) {
  const auto high = [](Bf16x2 x) { return number(static_cast<uint16_t>(x.bits >> 16)); };
  const auto low = [](Bf16x2 x) { return number(static_cast<uint16_t>(x.bits)); };
  return multiply_add(low(a), low(b), multiply_add(high(a), high(b), c));
}

class Numbers {
 public:
  uint16_t bf16() {
    const uint16_t edge[] = {0,      0x8000, 1,      0x807f, 0x80,   0x8080, 0x3f80, 0xbf80,
                             0x7f80, 0xff80, 0x7fc0, 0x7f7f, 0xff7f, 0x0100, 0x1f80, 0x5f80};
    const auto random = static_cast<uint16_t>(engine_());
    switch (engine_() % 4) {
      case 0:
        return edge[engine_() % 16];
      case 1:
        return random;
      default:  // near one
        return static_cast<uint16_t>((random & 0x807f) | (120 + engine_() % 12) << 7);
    }
  }
  float single() {
    const auto low = static_cast<uint32_t>(engine_());
    return std::bit_cast<float>((uint32_t{bf16()} << 16) | (engine_() % 8 != 0 ? low & 0xffff : 0));
  }
  Bf16x2 pair(int depth) { return {(depth > 1 ? uint32_t{bf16()} << 16 : 0) | bf16()}; }

 private:
  std::mt19937_64 engine_{1};
};

int failures = 0;

void products() {
  const auto& k = rnnfast::kernels<float, Bf16x2>();
  // Without a fused multiply-add the product is rounded by itself, which shows where it is no normal number.
  const bool fused = std::strcmp(k.isa, "scalar") != 0 && std::strcmp(k.isa, "sse42") != 0;
  constexpr int64_t kPanels = 4096;
  const int64_t L = k.lanes, n = kPanels * L;
  Numbers numbers;
  std::vector<Bf16x2> w(static_cast<size_t>(n));
  std::vector<float> init(static_cast<size_t>(n)), out(static_cast<size_t>(n));
  int64_t compared = 0;
  for (int round = 0; round < 40; ++round) {
    const Bf16x2 x = numbers.pair(k.depth);
    for (int64_t i = 0; i < n; ++i)
      w[static_cast<size_t>(i)] = numbers.pair(k.depth), init[static_cast<size_t>(i)] = numbers.single();
    rnnfast::GemmArgs<float, Bf16x2> g{};
    g.n = 1, g.runs = 1, g.run_length = 1, g.run_stride = 0;
    g.a = {&x, 1, nullptr}, g.b = w.data();
    g.init = {init.data(), n, nullptr}, g.init_panel = L;
    g.out = {out.data(), n, nullptr}, g.out_panel = L, g.width = -1;
    rnnfast::parallel(1, [&](rnnfast::Team& team) { k.gemm(g, {0, 1}, {0, kPanels}, team); });
    for (size_t i = 0; i < out.size(); ++i) {
      const auto normal = [&](int shift) {
        const float a = number(static_cast<uint16_t>(x.bits >> shift)),
                    b = number(static_cast<uint16_t>(w[i].bits >> shift));
        const double p = std::fabs(double{a} * double{b});
        return p == 0 || std::isnan(p) || (p >= double{kSmallest} && p < 0x1p128) || std::isinf(a) || std::isinf(b);
      };
      if (!fused && !(normal(0) && normal(16))) continue;
      ++compared;
      const float want = dot(x, w[i], init[i]);
      if (!same(out[i], want) && ++failures <= 20)
        std::printf("%08x . %08x + %a = %a, expected %a\n", x.bits, w[i].bits, static_cast<double>(init[i]),
                    static_cast<double>(out[i]), static_cast<double>(want));
    }
  }
  std::printf("%s: %lld products of pairs\n", k.isa, static_cast<long long>(compared));
}

uint16_t nearest(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto down = static_cast<uint16_t>(bits >> 16);
  if (std::isnan(x)) return down | 0x40;
  const uint32_t rest = bits & 0xffff;
  return static_cast<uint16_t>(down + (rest > 0x8000 || (rest == 0x8000 && (down & 1) != 0) ? 1 : 0));
}

void rounding() {
  const auto& k = rnnfast::kernels<float, Bf16x2>();
  Numbers numbers;
  const int64_t n = 100003, width = (n + 63) / k.depth;
  std::vector<float> in;
  for (int64_t i = 0; i < n; ++i)
    in.push_back(i % 5 == 0 ? std::bit_cast<float>(uint32_t{numbers.bf16()} << 16 | 0x8000) : numbers.single());
  std::vector<Bf16x2> out(static_cast<size_t>(width + 16));
  rnnfast::parallel(1, [&](rnnfast::Team&) { k.to_operands(in.data(), n, out.data(), width / 16 * 16); });
  for (int64_t i = 0; i < width / 16 * 16 * k.depth; ++i) {
    const uint32_t pair = out[static_cast<size_t>(i / k.depth)].bits;
    const auto got = static_cast<uint16_t>(k.depth > 1 && i % 2 != 0 ? pair >> 16 : pair);
    const uint16_t want = i < n ? nearest(in[static_cast<size_t>(i)]) : 0;
    if (got != want && ++failures <= 20)
      std::printf("number %lld becomes %04x, expected %04x\n", static_cast<long long>(i), got, want);
  }
}

}  // namespace

int main() try {
  products();
  rounding();
  if (failures > 0) std::printf("%d values are wrong\n", failures);
  return failures > 0;
} catch (const std::exception& error) {  // the instruction set that RNNFAST_ISA asks for is not there
  std::printf("%s\n", error.what());
  return 1;
}
