// Bank conflicts and sectors, counted for patterns whose counts follow from the documentation.
#include "emulated.h"

namespace {

using namespace rnnfast::cuda;
using emulated::check;
using emulated::Params;

RNNFAST_KERNEL(1024, 1) touch_shared(Params p) {  // x, y: stride and width
  const int t = thread_index(), stride = p.n;
  float* s = shared<float>();
  if (p.y == nullptr) store(s + t * stride, 1.0f);
  if (p.y != nullptr) store(s + t * stride, Float4{1, 2, 3, 4});
}

RNNFAST_KERNEL(1024, 1) touch_global(Params p) {
  const float sum = load<float>(p.x + (thread_index() * p.n) % emulated::kSize);
  if (sum < 0) store(p.y, sum);
}

std::vector<emulated::emulate::AccessCount> count(emulated::Kernel kernel, const Params& params, size_t shared_bytes) {
  emulated::emulate::clear_counts();
  emulated::emulate::options().count = true;
  const std::string report = emulated::run(kernel, {1, 64, false, shared_bytes}, params);
  emulated::emulate::options().count = false;
  check(report.empty(), report);
  return emulated::emulate::counts();
}

void banks(int stride, bool wide, uint64_t passes, uint64_t ideal) {
  const emulated::Arrays a;
  Params params = a.params;
  params.n = stride;
  if (!wide) params.y = nullptr;
  const auto all = count(touch_shared, params, 64 * 1024);
  const std::string name = "stride " + std::to_string(stride) + (wide ? " of 16 bytes" : "");
  check(all.size() == 1 && all[0].shared && all[0].write && all[0].times == 2, name + ": one place, two warps");
  if (all.size() != 1) return;
  check(all[0].bytes == (wide ? 16 : 4), name + ": bytes of a lane");
#if defined(__x86_64__)  // else the program may be a static one for another processor, which addr2line cannot read
  check(all[0].source.find("test_emulate_counts.cpp:") != std::string::npos, name + ": " + all[0].source);
#endif
  check(all[0].passes == 2 * passes && all[0].ideal == 2 * ideal,
        name + ": " + std::to_string(all[0].passes) + " passes, ideal " + std::to_string(all[0].ideal));
}

void sectors(int stride, uint64_t sectors, uint64_t useful) {
  const emulated::Arrays a;
  Params params = a.params;
  params.n = stride;
  const auto all = count(touch_global, params, 0);
  const std::string name = "stride " + std::to_string(stride);
  check(all.size() == 1 && !all[0].shared && !all[0].write && all[0].times == 2, name + ": one place, two warps");
  if (all.size() == 1)
    check(all[0].sectors == 2 * sectors && all[0].useful == 2 * useful,
          name + ": " + std::to_string(all[0].sectors) + " sectors, " + std::to_string(all[0].useful) + " bytes");
}

}  // namespace

int main() {
  banks(1, false, 1, 1);
  banks(2, false, 2, 1);
  banks(32, false, 32, 1);
  banks(33, false, 1, 1);
  banks(4, true, 4, 4);
  banks(32, true, 32, 4);
  banks(36, true, 4, 4);
  sectors(1, 4, 128);
  sectors(8, 32, 128);
  sectors(0, 1, 4);
  sectors(2, 8, 128);
  return emulated::failures > 0;
}
