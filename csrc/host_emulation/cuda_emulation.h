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
//   - a warp operation whose mask lacks the caller, names lanes that do not exist, have exited or
//     wait elsewhere, or differs from lane to lane; lanes at different lines; a shuffle from a lane
//     outside the mask, or of a width that is no power of two;
//   - a block in which no thread can run.
// What the sanitizers tell: reads and writes past an allocation (address), past a __shared__ array
// (undefined: bounds, and address), and data races within a block (thread). Under the thread
// sanitizer each CUDA thread is a thread to it, and only __syncthreads(), __syncwarp() and the end
// of a block that had one of these order them: a shuffle or a vote orders no memory, as in CUDA.
// There cuda_emulation.cpp must be compiled without -fsanitize=thread and linked with it.
// What the schedule tells: a result that depends on the order of threads or blocks. Run a kernel
// under every Schedule and demand the same bits.
// __shared__ memory holds 0xff bytes (NaN, -1) when a block begins, so nothing is left in it by the
// block before. Kernels with __shared__ arrays belong in an unnamed namespace: elsewhere the arrays
// of a template get sections of their own, about which the assembler warns.
//
// What is not modeled:
//   - races between blocks: they run one at a time. The thread sanitizer does report those of
//     kernels without barriers and shared memory; it takes all other blocks for ordered;
//   - memory order: fences do nothing, every write is seen at once, by all. A flag that is waited
//     for in a loop hangs, as nothing else runs meanwhile; and what atomics and fences alone order
//     inside a block is a race to the thread sanitizer;
//   - that lanes run in step: a warp operation waits for the lanes of its mask, nothing else does;
//   - dynamic shared memory and its limit, registers, occupancy, bank conflicts, time;
//   - alignment of vectors, but for -fsanitize=undefined;
//   - mma, cp.async, TMA, clusters, cooperative groups, inline PTX, __activemask();
//   - the rounding of __expf, __logf, __fdividef, rsqrtf, which are the host's functions here, and
//     contraction into fused multiply-adds.
// __CUDACC__ and __CUDA_ARCH__ are not defined.
#pragma once

#include <cuda_runtime_api.h>
#include <math.h>
#include <vector_functions.h>

#include <bit>
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
#undef __constant__
#undef __grid_constant__
#undef __launch_bounds__
#undef __noinline__  // the standard library writes __attribute__((__noinline__))
#define __global__
#define __device__
#define __host__
#define __grid_constant__
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
inline constexpr int warpSize = 32;

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

enum class WarpOp { kSync, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kBallot, kAny, kAll };

void run(dim3 grid, dim3 block, void (*thread)(void*), void* arguments);
void block_barrier(std::source_location where);
void warp_barrier(unsigned mask, std::source_location where);
unsigned vote(WarpOp op, unsigned mask, bool predicate, std::source_location where);
uint64_t shuffle(WarpOp op, unsigned mask, uint64_t value, int operand, int width,
                 std::source_location where);

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

template <Shuffled T>
inline T shuffle_value(WarpOp op, unsigned mask, T value, int operand, int width,
                       std::source_location where) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = shuffle(op, mask, bits, operand, width, where);
  memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

}  // namespace detail

// kernel<<<grid, block>>>(arguments...), finished on return. Throws Error.
template <class... P, class... A>
void emulate(void (*kernel)(P...), dim3 grid, dim3 block, A... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "the kernel takes another number of arguments");
  detail::Call<P...> call{kernel, std::tuple<P...>(arguments...)};
  detail::run(grid, block, detail::Call<P...>::thread, &call);
}

}  // namespace sdd::emulation

// Barriers and warp operations. `where` is never given.
inline void __syncthreads(std::source_location where = std::source_location::current()) {
  sdd::emulation::detail::block_barrier(where);
}

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       std::source_location where = std::source_location::current()) {
  sdd::emulation::detail::warp_barrier(mask, where);
}

template <sdd::emulation::detail::Shuffled T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize,
                     std::source_location where = std::source_location::current()) {
  using namespace sdd::emulation::detail;
  return shuffle_value(WarpOp::kShuffle, mask, value, lane, width, where);
}

template <sdd::emulation::detail::Shuffled T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                        std::source_location where = std::source_location::current()) {
  using namespace sdd::emulation::detail;
  return shuffle_value(WarpOp::kShuffleUp, mask, value, int(delta), width, where);
}

template <sdd::emulation::detail::Shuffled T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                          std::source_location where = std::source_location::current()) {
  using namespace sdd::emulation::detail;
  return shuffle_value(WarpOp::kShuffleDown, mask, value, int(delta), width, where);
}

template <sdd::emulation::detail::Shuffled T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize,
                         std::source_location where = std::source_location::current()) {
  using namespace sdd::emulation::detail;
  return shuffle_value(WarpOp::kShuffleXor, mask, value, lanes, width, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location where = std::source_location::current()) {
  using namespace sdd::emulation::detail;
  return vote(WarpOp::kBallot, mask, predicate != 0, where);
}

inline int __any_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  using namespace sdd::emulation::detail;
  return vote(WarpOp::kAny, mask, predicate != 0, where) != 0;
}

inline int __all_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  using namespace sdd::emulation::detail;
  return vote(WarpOp::kAll, mask, predicate != 0, where) == mask;
}

unsigned __activemask() = delete;  // says nothing that a kernel may rely on: pass masks

// Fences and atomics. Relaxed, as in CUDA: they order nothing else.
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
  requires(std::same_as<T, int> || std::same_as<T, unsigned> ||
           std::same_as<T, unsigned long long> || std::same_as<T, float> || std::same_as<T, double>)
inline T atomicAdd(T* address, std::type_identity_t<T> value) {
  if constexpr (std::is_integral_v<T>) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
  } else {
    T old, sum;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do {
      sum = old + value;
    } while (
        !__atomic_compare_exchange(address, &old, &sum, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
  }
}

template <class T>
  requires(std::same_as<T, int> || std::same_as<T, unsigned> || std::same_as<T, unsigned long long>)
inline T atomicExch(T* address, std::type_identity_t<T> value) {
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}

template <class T>
  requires(std::same_as<T, int> || std::same_as<T, unsigned> || std::same_as<T, unsigned long long>)
inline T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  __atomic_compare_exchange_n(address, &compare, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return compare;
}

// Loads and stores with a hint for the cache.
template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
inline void __stcs(T* p, std::type_identity_t<T> value) {
  *p = value;
}

// Arithmetic that CUDA adds to the host's mathematics.
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(Wide(a) * b >> 64);
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float rsqrtf(float x) { return float(1.0 / sqrt(double(x))); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __fdividef(float x, float y) { return x / y; }
// The C library declares functions of these names and does not export them.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)

template <class T>
  requires std::is_arithmetic_v<T>
inline T min(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return fmin(a, b);  // the number, where one is a NaN
  } else {
    return b < a ? b : a;
  }
}
template <class T>
  requires std::is_arithmetic_v<T>
inline T max(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return fmax(a, b);
  } else {
    return a < b ? b : a;
  }
}
