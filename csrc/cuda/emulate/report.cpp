// Words for reports: which thread, which line.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "state.h"

namespace rnnfast::emulate {
namespace {

extern "C" __attribute__((visibility("hidden"))) void rnnfast_emulate_anchor() {}  // in the module of the kernels

// What addr2line makes of an address, if it is there and the sources were compiled with -g1.
std::string ask(const char* module, uintptr_t address) {
  char command[4096];
  const int n = std::snprintf(command, sizeof command, "addr2line -Csfi -e '%s' 0x%zx 2>/dev/null", module, address);
  if (n <= 0 || n >= static_cast<int>(sizeof command) || std::strchr(module, '\'') != nullptr) return "";
  FILE* pipe = popen(command, "r");
  if (pipe == nullptr) return "";
  std::string text, line;
  char buffer[1024];
  for (int lines = 0; std::fgets(buffer, sizeof buffer, pipe) != nullptr; ++lines) {
    line = buffer;
    line = line.substr(0, line.find_first_of("\n("));  // a discriminator tells copies of a line apart
    if (lines % 2 == 0) line = buffer;
    while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
    text += lines == 0 ? line : lines % 2 == 1 ? " at " + line : " in " + line;
  }
  pclose(pipe);
  return text.find("??") == std::string::npos ? text : "";
}

}  // namespace

int32_t short_pc(const void* pc) {
  return static_cast<int32_t>(reinterpret_cast<intptr_t>(pc) - reinterpret_cast<intptr_t>(&rnnfast_emulate_anchor));
}

std::string source_at(int32_t pc) {
  return source_of(reinterpret_cast<const void*>(reinterpret_cast<intptr_t>(&rnnfast_emulate_anchor) + pc));
}

std::string source_of(const void* pc) {
  const auto address = reinterpret_cast<uintptr_t>(pc) - 1;  // the call, not where it returns to
  Dl_info info = {};
  dladdr(reinterpret_cast<const void*>(address), &info);  // finds nothing in a static program
  const uintptr_t offset = address - reinterpret_cast<uintptr_t>(info.dli_fbase);
  std::string text;
  if (info.dli_fname != nullptr) text = ask(info.dli_fname, offset);
  if (text.empty() && info.dli_fname != nullptr) text = ask(info.dli_fname, address);  // linked to a fixed address
  if (!text.empty()) return text;
  char plain[64];
  std::snprintf(plain, sizeof plain, "code at 0x%zx", offset);
  return plain;
}

std::string name_of(const Fiber& fiber) {
  return "block " + std::to_string(fiber.block->number) + " thread " + std::to_string(fiber.thread);
}

std::string describe(Where where) {
  const char* slash = std::strrchr(where.file, '/');
  return std::string(slash != nullptr ? slash + 1 : where.file) + ":" + std::to_string(where.line);
}

}  // namespace rnnfast::emulate
