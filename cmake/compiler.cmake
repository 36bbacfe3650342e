# Flags that every source of the project is compiled with, as the target rnnfast_flags; and OpenMP for one of them.

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 11)
  message(FATAL_ERROR "rnnfast needs GCC 11 or newer, found ${CMAKE_CXX_COMPILER_VERSION}")
elseif(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  message(FATAL_ERROR "rnnfast needs clang 14 or newer, found ${CMAKE_CXX_COMPILER_VERSION}")
elseif(MSVC)
  message(FATAL_ERROR "rnnfast needs GCC or clang; on Windows, build it inside WSL")
endif()

add_library(rnnfast_flags INTERFACE)
target_compile_options(
  rnnfast_flags
  INTERFACE -Wall -Wextra
            # A fused multiply-add happens where the source says fma() and nowhere else: every template instance then
            # gives the same bits.
            -ffp-contract=off
            -fno-math-errno
            # No path of the machine that builds ends up in the binary.
            -ffile-prefix-map=${CMAKE_CURRENT_SOURCE_DIR}/=)
if(RNNFAST_WERROR)
  target_compile_options(rnnfast_flags INTERFACE -Werror)
endif()

if(RNNFAST_SANITIZE)
  target_compile_options(
    rnnfast_flags INTERFACE -fsanitize=${RNNFAST_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
  target_link_options(rnnfast_flags INTERFACE -fsanitize=${RNNFAST_SANITIZE})
endif()

find_package(Threads REQUIRED)
target_link_libraries(rnnfast_flags INTERFACE Threads::Threads)

# csrc/cpu/parallel.cpp is all that OpenMP compiles: everything else is plain C++.
function(rnnfast_use_openmp target)
  if(RNNFAST_USE_OPENMP)
    find_package(OpenMP COMPONENTS CXX)
  endif()
  if(RNNFAST_USE_OPENMP AND OpenMP_CXX_FOUND)
    set_source_files_properties(
      ${PROJECT_SOURCE_DIR}/csrc/cpu/parallel.cpp
      PROPERTIES COMPILE_OPTIONS "${OpenMP_CXX_FLAGS}"
                 COMPILE_DEFINITIONS RNNFAST_OPENMP=1
                 INCLUDE_DIRECTORIES "${OpenMP_CXX_INCLUDE_DIRS}")
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_link_options(${target} PUBLIC -fopenmp)  # finds the static library where that is wanted
    else()
      target_link_libraries(${target} PUBLIC ${OpenMP_CXX_LIBRARIES})
    endif()
    message(STATUS "rnnfast: OpenMP ${OpenMP_CXX_VERSION}")
  else()
    message(STATUS "rnnfast: no OpenMP, everything will run on one thread")
  endif()
endfunction()
