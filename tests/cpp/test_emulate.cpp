#include <cstdio>
#include <chrono>
#include <vector>
#include <cmath>

#include "cuda/device.h"
#include "cuda/emulate/emulate.h"
#include "cuda/runtime.h"

using namespace rnnfast::cuda;
namespace emulate = rnnfast::emulate;
struct P { float* x; float* y; unsigned* flag; int n, steps; bool skip; };

RNNFAST_KERNEL(256, 1) sums(P p) {
  float* s = shared<float>();
  const int t = thread_index();
  s[t] = p.x[block_x() * block_threads() + t];
  if (!p.skip) block_barrier();
  float sum = 0;
  for (int i = 0; i < block_threads(); ++i) sum += s[i];
  for (int i = 16; i > 0; i /= 2) sum += shuffle_xor(kFullMask, sum, i);
  p.y[block_x() * block_threads() + t] = sum;
}
RNNFAST_KERNEL(256, 1) steps(P p) {
  GridBarrier grid(p.flag, grid_x());
  const int n = grid_x() * block_threads(), me = block_x() * block_threads() + thread_index();
  float* from = p.x; float* to = p.y;
  for (int s = 0; s < p.steps; ++s) {
    to[me] = load_l2<float>(from + (me + 37) % n) + 1;
    if (!p.skip) grid.sync(); else block_barrier();
    float* other = from; from = to; to = other;
  }
}
int main() {
  int n = 256 * 8;
  auto* x = (float*)allocate_async(n * 4, nullptr); auto* y = (float*)allocate_async(n * 4, nullptr); auto* f = (unsigned*)allocate_async(4, nullptr);
  for (int i = 0; i < n; ++i) x[i] = 1;
  *f = 0;
  launch("sums", sums, {8, 1, 1, 256, 1024, nullptr}, P{x, y, f, n, 0, false});
  std::printf("%g\n", double(y[77]));
  auto t0 = std::chrono::steady_clock::now();
  if (!launch_cooperative("steps", steps, {8, 1, 1, 256, 0, nullptr}, P{x, y, f, n, 1000, false})) return 1;
  auto t1 = std::chrono::steady_clock::now();
  std::printf("%g %f s %zu switches %zu accesses\n", double(x[5]), std::chrono::duration<double>(t1 - t0).count(), emulate::statistics().switches, emulate::statistics().accesses);
  try { launch("sums", sums, {8, 1, 1, 256, 1024, nullptr}, P{x, y, f, n, 0, true}); } catch (emulate::Fault& e) { std::puts(e.what()); }
  try { *f = 0; (void)launch_cooperative("steps", steps, {8, 1, 1, 256, 0, nullptr}, P{x, y, f, n, 100, true}); } catch (emulate::Fault& e) { std::puts(e.what()); }
  try { launch("sums", sums, {9, 1, 1, 256, 1024, nullptr}, P{x, y, f, n, 0, false}); } catch (emulate::Fault& e) { std::puts(e.what()); }
  try { launch("sums", sums, {8, 1, 1, 256, 1020, nullptr}, P{x, y, f, n, 0, false}); } catch (emulate::Fault& e) { std::puts(e.what()); }
}
