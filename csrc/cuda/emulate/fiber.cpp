#include "fiber.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

#if defined(RNNFAST_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace rnnfast::emulate {
namespace {

constexpr size_t kMostStacks = 1 << 17;
constexpr uint64_t kCanary = 0x5ca1ab1e0ddba11;

extern "C" void rnnfast_switch_stack(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.type rnnfast_switch_stack, @function
rnnfast_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size rnnfast_switch_stack, .-rnnfast_switch_stack
)");
constexpr size_t kSaved = 8;      // words: the registers, the return address, and one that aligns
constexpr size_t kEntryWord = 6;  // the return address among them
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.type rnnfast_switch_stack, %function
rnnfast_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size rnnfast_switch_stack, .-rnnfast_switch_stack
)");
constexpr size_t kSaved = 20;
constexpr size_t kEntryWord = 11;
#else
#error the emulator knows x86-64 and aarch64; another processor needs its rnnfast_switch_stack here
#endif

}  // namespace

void Stacks::reserve(size_t count) {
  if (count > kMostStacks) throw std::bad_alloc();
  if (begin_ != 0) return;
  size_ = (kMostStacks + 1) * kStride;  // addresses only; memory comes with the first touch
  void* p = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  begin_ = reinterpret_cast<uintptr_t>(p) + kStride;  // the lowest one may be overrun, too
}

void Stacks::prepare(Context& context, size_t i, void (*entry)()) {
  const uintptr_t low = bottom(i), top = (low + kStackBytes) & ~uintptr_t{63};
#if defined(RNNFAST_ASAN)
  __asan_unpoison_memory_region(reinterpret_cast<void*>(low), kStackBytes);
  context.bottom = reinterpret_cast<void*>(low);
  context.size = kStackBytes;
  context.fake_stack = nullptr;
#endif
  *reinterpret_cast<uint64_t*>(low) = kCanary;
  void** frame = reinterpret_cast<void**>(top) - kSaved;
  std::memset(frame, 0, kSaved * sizeof *frame);
  frame[kEntryWord] = reinterpret_cast<void*>(entry);
  context.stack_pointer = frame;
}

bool Stacks::intact(size_t i) const { return *reinterpret_cast<const uint64_t*>(bottom(i)) == kCanary; }

#if defined(RNNFAST_ASAN)

static Context* switched_from;

void switch_context(Context& from, Context& to) {
  switched_from = &from;
  __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.size);
  rnnfast_switch_stack(&from.stack_pointer, to.stack_pointer);
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(from.fake_stack, &bottom, &size);
  switched_from->bottom = bottom, switched_from->size = size;
}

void on_entry() {
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  switched_from->bottom = bottom, switched_from->size = size;
}

#else

void switch_context(Context& from, Context& to) { rnnfast_switch_stack(&from.stack_pointer, to.stack_pointer); }
void on_entry() {}

#endif

}  // namespace rnnfast::emulate
