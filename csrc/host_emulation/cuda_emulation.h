// What a .cu file sees in place of nvcc and the CUDA runtime when g++ compiles it for the CPU:
//
//   g++ -x c++ -std=c++20 -DSDD_HOST_EMULATION -Wno-unknown-pragmas
//       -isystem <CUDA toolkit>/include kernel.cu cuda_emulation.cpp
//
// The kernel itself is not changed. Each CUDA thread is a fiber (a stack of its own, switched to by
// hand); the blocks run one after another, all on the OS thread that calls emulate().
//
// What it tells, by an Error out of emulate() that names block, thread and line:
//   - a launch of no threads, of too many, or of a grid that the hardware does not take;
//   - a __syncthreads() that not every thread of the block reaches at the same line;
//   - a shuffle whose mask lacks the caller, names lanes that do not exist, have exited or wait
//     elsewhere, or differs from lane to lane; lanes at different lines; a shuffle from a lane
//     outside the mask;
//   - a block in which no thread can run.
// What the sanitizers tell: reads and writes past an allocation (address), past a __shared__ array
// (undefined: bounds, and address), and data races within a block (thread). Under the thread
// sanitizer each CUDA thread is a thread to it, and only __syncthreads() and the end of a block
// that had one order them: a shuffle orders no memory, as in CUDA. There cuda_emulation.cpp must be
// compiled without -fsanitize=thread and linked with it. What the schedule tells: a result that
// depends on the order of threads or blocks. Run a kernel under every Schedule and demand the same
// bits.
// __shared__ memory holds 0xff bytes (NaN, -1) when a block begins, so nothing is left in it by the
// block before. Kernels with __shared__ arrays belong in an unnamed namespace: elsewhere the arrays
// of a template get sections of their own, about which the assembler warns.
//
// What is not modeled:
//   - races between blocks: they run one at a time. The thread sanitizer does report those of
//     kernels without barriers and shared memory; it takes all other blocks for ordered;
//   - memory order: every write is seen at once, by all. A flag that is waited for in a loop hangs,
//     as nothing else runs meanwhile;
//   - that lanes run in step: a shuffle waits for the lanes of its mask, nothing else does;
//   - dynamic shared memory and its limit, registers, occupancy, bank conflicts, time;
//   - alignment of vectors, but for -fsanitize=undefined;
//   - contraction into fused multiply-adds, and what no kernel here uses: other shuffles, votes,
//     __syncwarp(), atomics, fences, mma, cp.async, TMA, clusters, cooperative groups, inline PTX.
// __CUDACC__ and __CUDA_ARCH__ are not defined.
#pragma once

#include <cuda_runtime_api.h>
#include <math.h>
#include <vector_functions.h>

#include <concepts>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __launch_bounds__
#undef __noinline__  // the standard library writes __attribute__((__noinline__))
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
// The attribute gathers the arrays in one section, which the runtime finds and fills. It is the one
// that GCC heeds inside templates: it drops section("...") there.
#if __has_attribute(noinit)
#define __shared__ static __attribute__((noinit))
#else
#define __shared__ static
#endif

// One CUDA thread at a time, so these are plain variables. Hidden: not those of another library.
extern __attribute__((visibility("hidden"))) uint3 threadIdx;
extern __attribute__((visibility("hidden"))) uint3 blockIdx;
extern __attribute__((visibility("hidden"))) dim3 blockDim;
extern __attribute__((visibility("hidden"))) dim3 gridDim;

namespace sdd::emulation {

// What a kernel or its launch did wrong.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Which of the threads that can run does run next, and which block follows: the lowest, the
// highest, or a pseudo-random one. The same seed gives the same order in every launch.
enum class Schedule { kForward, kReverse, kRandom };
void set_schedule(Schedule schedule, uint64_t seed = 0);

struct Counts {
  int64_t launches = 0;
  int64_t threads = 0;   // CUDA threads begun
  int64_t barriers = 0;  // __syncthreads() passed, by a block each
  dim3 grid{0, 0, 0};    // of the last launch
  dim3 block{0, 0, 0};
};
Counts counts();
void reset_counts();
inline int64_t launches() { return counts().launches; }

namespace detail {

void run(dim3 grid, dim3 block, void (*thread)(void*), void* arguments);
void block_barrier(std::source_location where);
uint64_t shuffle_xor(unsigned mask, uint64_t value, int lanes, std::source_location where);

template <class... P>
struct Call {
  void (*kernel)(P...);
  std::tuple<P...> arguments;

  static void thread(void* call) {
    static_cast<const Call*>(call)->unpack(std::index_sequence_for<P...>());
  }
  template <size_t... I>
  void unpack(std::index_sequence<I...>) const {
    kernel(std::get<I>(arguments)...);
  }
};

template <class T>
concept Shuffled =
    std::is_trivially_copyable_v<T> && (sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);

}  // namespace detail

// kernel<<<grid, block>>>(arguments...), finished on return. Throws Error.
template <class... P, class... A>
void emulate(void (*kernel)(P...), dim3 grid, dim3 block, A... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "the kernel takes another number of arguments");
  detail::Call<P...> call{kernel, std::tuple<P...>(arguments...)};
  detail::run(grid, block, detail::Call<P...>::thread, &call);
}

}  // namespace sdd::emulation

// `where` is never given.
inline void __syncthreads(std::source_location where = std::source_location::current()) {
  sdd::emulation::detail::block_barrier(where);
}

template <sdd::emulation::detail::Shuffled T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes,
                         std::source_location where = std::source_location::current()) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = sdd::emulation::detail::shuffle_xor(mask, bits, lanes, where);
  memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

// Arithmetic that CUDA adds to the host's mathematics.
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
template <std::integral T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <std::integral T>
inline T max(T a, T b) {
  return a < b ? b : a;
}
