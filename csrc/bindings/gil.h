// The interpreter's lock, let go of and taken again.
//
// A daemon thread that asks for the lock while the interpreter ends never gets it. Before 3.14 Python unwinds the
// thread's stack, which must not pass through C++ that has arrays to give back (without the lock) or is noexcept: such
// a thread sleeps here until the process is gone, as Python's later versions have it do.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <exception>

#include "core/error.h"

#ifdef __GLIBCXX__
#include <cxxabi.h>
#endif

namespace rnnfast {

namespace py = pybind11;

// take() asks for the lock.
template <class F>
void or_sleep(F&& take) {
#ifdef __GLIBCXX__
  try {
    take();
  } catch (abi::__forced_unwind&) {
    for (;;) ::pause();
  }
#else
  take();
#endif
}

// Runs f without the lock; what it throws is thrown again with it. A region polls for signals: where a handler has
// raised, its exception (KeyboardInterrupt) is.
template <class F>
void without_gil(F&& f) {
  std::exception_ptr thrown;
  bool interrupted = false;
  PyThreadState* const thread = PyEval_SaveThread();
  try {
    f();
  } catch (const Interrupted&) {
    interrupted = true;
  } catch (...) {
    thrown = std::current_exception();
  }
  or_sleep([&] { PyEval_RestoreThread(thread); });
  if (interrupted) throw py::error_already_set();
  if (thrown != nullptr) std::rethrow_exception(thrown);
}

// Runs f with the lock, from a thread that has it or not.
template <class F>
void with_gil(F&& f) {
  PyGILState_STATE before{};
  or_sleep([&] { before = PyGILState_Ensure(); });
  try {
    f();
  } catch (...) {
    PyGILState_Release(before);
    throw;
  }
  PyGILState_Release(before);
}

}  // namespace rnnfast
