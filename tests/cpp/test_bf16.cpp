// Products of bf16 operands: those of an instruction and those that are put together from float arithmetic must have
// the same bits, which are two fused multiply-adds, the high half first, denormals being zero. AMX goes through k in
// blocks of 16 pairs, a sum of low halves and one of high halves from zero in each. Each set of kernels is compared
// with that, written down once more here. And rounding to bf16.
#include <algorithm>
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

// AMX's sums within a block lose the sign of what is too small.
float unsigned_zero(float x) { return x == 0 ? 0.0f : x; }

// c + the products of `count` pairs, those of b `stride` apart.
float dot(const Bf16x2* a, const Bf16x2* b, int64_t stride, int64_t count, float c, bool amx) {
  const auto high = [](Bf16x2 x) { return number(static_cast<uint16_t>(x.bits >> 16)); };
  const auto low = [](Bf16x2 x) { return number(static_cast<uint16_t>(x.bits)); };
  constexpr int64_t kBlock = 16;
  for (int64_t k = 0; k < count;) {
    if (!amx) {
      c = multiply_add(low(a[k]), low(b[k * stride]), multiply_add(high(a[k]), high(b[k * stride]), c));
      ++k;
      continue;
    }
    float even = 0, odd = 0;
    for (const int64_t end = std::min(k + kBlock, count); k < end; ++k) {
      even = unsigned_zero(multiply_add(low(a[k]), low(b[k * stride]), even));
      odd = unsigned_zero(multiply_add(high(a[k]), high(b[k * stride]), odd));
    }
    c = flush(flush(c) + flush(even + odd));
  }
  return c;
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
  float single_near_one() {
    return std::bit_cast<float>((uint32_t{near_one()} << 16) | (static_cast<uint32_t>(engine_()) & 0xffff));
  }
  float single() {
    const auto low = static_cast<uint32_t>(engine_());
    return std::bit_cast<float>((uint32_t{bf16()} << 16) | (engine_() % 8 != 0 ? low & 0xffff : 0));
  }
  Bf16x2 pair(int depth) { return {(depth > 1 ? uint32_t{bf16()} << 16 : 0) | bf16()}; }
  uint16_t near_one() { return static_cast<uint16_t>((engine_() & 0x807f) | (120 + engine_() % 12) << 7); }
  Bf16x2 pair_near_one(int depth) { return {(depth > 1 ? uint32_t{near_one()} << 16 : 0) | near_one()}; }
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }

 private:
  std::mt19937_64 engine_{1};
};

int failures = 0;
bool has_amx() { return std::strcmp(rnnfast::kernels<float, Bf16x2>().isa, "avx512_amx") == 0; }

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
      const float want = dot(&x, &w[i], 0, 1, init[i], has_amx());
      if (!same(out[i], want) && ++failures <= 20)
        std::printf("%08x . %08x + %a = %a, expected %a\n", x.bits, w[i].bits, static_cast<double>(init[i]),
                    static_cast<double>(out[i]), static_cast<double>(want));
    }
  }
  std::printf("%s: %lld products of pairs\n", k.isa, static_cast<long long>(compared));
}

// Products of every shape of a tile: rows side by side, far apart and anywhere, runs of k, panels of 1 to 4 vectors,
// and rows that end within one.
void shapes() {
  const auto& k = rnnfast::kernels<float, Bf16x2>();
  const int64_t L = k.lanes;
  Numbers numbers;
  int64_t compared = 0;
#ifdef __SANITIZE_ADDRESS__
  constexpr int kRounds = 60;  // takes as long as 400 without
#else
  constexpr int kRounds = 400;
#endif
  for (int round = 0; round < kRounds; ++round) {
    rnnfast::GemmArgs<float, Bf16x2> g{};
    g.n = static_cast<int>(1 + numbers.below(4));
    const bool several = numbers.below(2) == 1;  // as in the gradients of inputs, where a run is a panel's
    g.runs = several ? 1 + numbers.below(5) : 1;
    g.run_length = several ? (1 + numbers.below(4)) * std::max<int64_t>(L / k.depth, 1) : 1 + numbers.below(70);
    const int64_t pairs = g.runs * g.run_length, rows = 1 + numbers.below(40), panels = 1 + numbers.below(6);
    const int64_t a_row = several ? g.run_length + numbers.below(3) : g.run_length + numbers.below(40);
    g.run_stride = several ? rows * a_row : 0;
    const int64_t width = g.n == 1 ? (panels - 1) * L + 1 + numbers.below(L) : panels * g.n * L;
    const int64_t out_row = width + numbers.below(20);
    std::vector<Bf16x2> a(static_cast<size_t>(g.runs * rows * a_row + 64)),
        b(static_cast<size_t>(panels * pairs * g.n * L));
    std::vector<float> init(static_cast<size_t>(rows * out_row)), out(init.size(), 7.0f);
    for (auto& x : a) x = numbers.pair_near_one(k.depth);
    for (auto& x : b) x = numbers.pair_near_one(k.depth);
    for (auto& x : init) x = numbers.single_near_one();
    std::vector<const Bf16x2*> index;
    for (int64_t r = 0; r < rows; ++r) index.push_back(a.data() + numbers.below(rows) * a_row);
    const bool anywhere = numbers.below(3) == 0;
    g.a = {a.data(), a_row, anywhere ? index.data() : nullptr}, g.b = b.data();
    g.init = {init.data(), out_row, nullptr}, g.init_panel = g.n * L;
    g.out = {out.data(), out_row, nullptr}, g.out_panel = g.n * L, g.width = g.n == 1 ? width : -1;
    rnnfast::parallel(1, [&](rnnfast::Team& team) { k.gemm(g, {0, rows}, {0, panels}, team); });

    std::vector<Bf16x2> row(static_cast<size_t>(pairs));
    for (int64_t r = 0; r < rows; ++r) {
      const Bf16x2* from = anywhere ? index[static_cast<size_t>(r)] : a.data() + r * a_row;
      for (int64_t p = 0; p < pairs; ++p)
        row[static_cast<size_t>(p)] = from[p / g.run_length * g.run_stride + p % g.run_length];
      for (int64_t c = 0; c < out_row; ++c) {
        const auto at = static_cast<size_t>(r * out_row + c);
        const int64_t panel = c / (g.n * L), column = panel * pairs * g.n * L + c % (g.n * L);
        const float want = c >= width ? 7.0f : dot(row.data(), b.data() + column, g.n * L, pairs, init[at], has_amx());
        ++compared;
        if (!same(out[at], want) && ++failures <= 20)
          std::printf("%d vectors, %lld runs of %lld pairs, %lld rows: number %lld of row %lld is %a, expected %a\n",
                      g.n, static_cast<long long>(g.runs), static_cast<long long>(g.run_length),
                      static_cast<long long>(rows), static_cast<long long>(c), static_cast<long long>(r),
                      static_cast<double>(out[at]), static_cast<double>(want));
      }
    }
  }
  std::printf("%s: %lld numbers of products of all shapes\n", k.isa, static_cast<long long>(compared));
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
  shapes();
  rounding();
  if (failures > 0) std::printf("%d values are wrong\n", failures);
  return failures > 0;
} catch (const std::exception& error) {  // the instruction set that RNNFAST_ISA asks for is not there
  std::printf("%s\n", error.what());
  return 1;
}
