// The emulation against what the CUDA programming guide says of each primitive, and its errors
// against kernels that each do one thing wrong.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "../../csrc/host_emulation/cuda_emulation.h"
#include "emulation_tests.h"

namespace sdd::emulation {
namespace {

constexpr unsigned kAll = 0xffffffffu;

void check(bool right, const std::string& what = "",
           std::source_location where = std::source_location::current()) {
  if (right) return;
  throw std::logic_error("self_test.cu:" + std::to_string(where.line()) + ": " + what);
}

// What emulate() says when the kernel is wrong must hold each of these.
template <class... A, class... P>
void check_fails(std::vector<std::string> words, void (*kernel)(P...), dim3 grid, dim3 block,
                 A... arguments) {
  std::string said;
  try {
    emulate(kernel, grid, block, arguments...);
  } catch (const Error& e) {
    said = e.what();
  }
  for (const std::string& word : words) {
    check(said.find(word) != std::string::npos, "\"" + said + "\" lacks \"" + word + "\"");
  }
}

// Indices.

__global__ void number_threads(int* out) {
  const unsigned b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[b * blockDim.x * blockDim.y * blockDim.z + t] += int(b * 1000 + t);
}

void check_indices() {
  std::vector<int> out(3 * 2 * 5 * 4 * 3 * 2);
  reset_counts();
  emulate(number_threads, dim3(3, 2, 5), dim3(4, 3, 2), out.data());
  for (int i = 0; i < int(out.size()); ++i) check(out[i] == i / 24 * 1000 + i % 24);
  const Counts c = counts();
  check(c.launches == 1 && launches() == 1 && c.threads == 720 && c.barriers == 0);
  check(c.grid.x == 3 && c.grid.y == 2 && c.grid.z == 5 && c.block.x == 4 && c.block.y == 3);
}

// Shuffles and votes.

template <class T>
__global__ void shuffle_all(T* out, int operand, int width) {
  const int lane = int(threadIdx.x);
  const T mine = T(float(lane + 1));
  out[lane] = __shfl_sync(kAll, mine, operand, width);
  out[32 + lane] = __shfl_up_sync(kAll, mine, operand, width);
  out[64 + lane] = __shfl_down_sync(kAll, mine, operand, width);
  out[96 + lane] = __shfl_xor_sync(kAll, mine, operand, width);
}

template <class T>
void check_shuffles() {
  for (int width : {1, 2, 8, 32}) {
    for (int operand : {0, 1, 3, 5, 16, 31}) {
      T out[128];
      emulate(shuffle_all<T>, 1, 32, out, operand, width);
      for (int lane = 0; lane < 32; ++lane) {
        const int part = lane / width;
        const auto same_part = [&](int from) { return from >= 0 && from / width == part; };
        const int up = lane - operand, down = lane + operand, other = lane ^ operand;
        const auto is = [](T value, int from) { return float(value) == float(from + 1); };
        check(is(out[lane], part * width + operand % width));
        check(is(out[32 + lane], same_part(up) ? up : lane));
        check(is(out[64 + lane], same_part(down) ? down : lane));
        check(is(out[96 + lane], other / width <= part ? other : lane));
      }
    }
  }
}

__global__ void vote(unsigned* ballot, int* any, int* all, unsigned set) {
  const int lane = int(threadIdx.x);
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;  // two operations at a time
  const int mine = set >> lane & 1u;
  ballot[lane] = __ballot_sync(half, mine);
  any[lane] = __any_sync(half, mine);
  all[lane] = __all_sync(half, mine);
}

void check_votes() {
  for (unsigned set : {0u, 1u, 0x80000000u, 0xffffu, 0xfffeffffu, kAll}) {
    unsigned ballot[32];
    int any[32], all[32];
    emulate(vote, 1, 32, ballot, any, all, set);
    for (int lane = 0; lane < 32; ++lane) {
      const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
      check(ballot[lane] == (set & half));
      check(any[lane] == ((set & half) != 0) && all[lane] == ((set & half) == half));
    }
  }
}

// Barriers, atomics, shared memory: the same bits whatever the order.

__global__ void sum_blocks(const float* x, float* sums, int n, unsigned* ticket, double* total) {
  __shared__ float part[32];
  __shared__ unsigned place;
  const int t = int(threadIdx.x);
  float s = 0;
  for (int i = int(blockIdx.x * blockDim.x) + t; i < n; i += int(gridDim.x * blockDim.x)) s += x[i];
  for (int step = 16; step > 0; step /= 2) s += __shfl_xor_sync(kAll, s, step);
  if (t % 32 == 0) part[t / 32] = s;
  __syncthreads();
  if (t == 0) {
    s = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) s += part[w];
    sums[blockIdx.x] = s;
    __threadfence();
    place = atomicAdd(ticket, 1u);
  }
  __syncthreads();
  if (place + 1 == gridDim.x && t == 0) {
    double all = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) all += sums[b];
    *total = all;
  }
}

void check_orders() {
  std::vector<float> x(5000);
  for (size_t i = 0; i < x.size(); ++i) x[i] = 1.0f / float(i + 1);
  double first = 0;
  for (int run = 0; run < 12; ++run) {
    set_schedule(run == 0   ? Schedule::kForward
                 : run == 1 ? Schedule::kReverse
                            : Schedule::kRandom,
                 run);
    float sums[7];
    unsigned ticket = 0;
    double total = 0;
    reset_counts();
    emulate(sum_blocks, 7, 160, x.data(), sums, int(x.size()), &ticket, &total);
    check(counts().barriers == 14 && ticket == 7);
    if (run == 0) first = total;
    check(total == first);
  }
  check(fabs(first - 9.0945088529844) < 1e-5);  // H(5000)
  set_schedule(Schedule::kForward);
}

__global__ void note_order(int* order, int* n) {
  order[atomicAdd(n, 1)] = int(blockIdx.x * blockDim.x + threadIdx.x);
}

void check_schedules() {
  std::vector<int> sorted(6 * 40);
  std::iota(sorted.begin(), sorted.end(), 0);
  const auto order_of = [&](Schedule schedule, uint64_t seed) {
    set_schedule(schedule, seed);
    std::vector<int> order(sorted.size());
    int n = 0;
    emulate(note_order, 6, 40, order.data(), &n);
    return order;
  };
  check(order_of(Schedule::kForward, 0) == sorted);
  check(order_of(Schedule::kReverse, 0) == std::vector<int>(sorted.rbegin(), sorted.rend()));
  const std::vector<int> one = order_of(Schedule::kRandom, 1);
  check(one != sorted && one == order_of(Schedule::kRandom, 1));
  check(one != order_of(Schedule::kRandom, 2));
  std::vector<int> found = one;
  std::sort(found.begin(), found.end());
  check(found == sorted);
  set_schedule(Schedule::kForward);
}

template <class T>
__global__ void add_all(T* sum) {
  atomicAdd(sum, T(threadIdx.x));
}

template <class T>
void check_atomic_add() {
  T sum = 0;
  emulate(add_all<T>, 2, 100, &sum);
  check(sum == T(9900));
}

// What a block left in shared memory is gone in the next, in a template's arrays too.

template <class T>
__global__ void leave_in_shared(T* seen) {
  __shared__ T array[500];
  if (threadIdx.x == 0) seen[blockIdx.x] = array[blockIdx.x * 7 % 500];
  __syncwarp();
  for (int i = int(threadIdx.x); i < 500; i += 32) array[i] = T(1);
}

void check_shared_is_filled() {
#if defined(__linux__) && __has_attribute(noinit)
  float seen[20];
  emulate(leave_in_shared<float>, 20, 32, seen);
  for (float x : seen) check(x != x);
  int seen_int[20];
  emulate(leave_in_shared<int>, 20, 32, seen_int);
  for (int x : seen_int) check(x == -1);
#endif
}

// Errors.

__global__ void nothing() {}

enum Wrong {
  kExit,
  kTwoBarriers,
  kBarrierAndShuffle,
  kLacksCaller,
  kNotThere,
  kExited,
  kMasksDiffer,
  kOtherLine,
  kOutsideMask,
  kBadWidth,
  kShuffleAndBarrier,
  kHalfWaits
};

__global__ void go_wrong(int wrong) {
  const int lane = int(threadIdx.x);
  switch (wrong) {
    case kExit:
      if (lane == 3) return;
      __syncthreads();
      return;
    case kTwoBarriers:
      if (lane == 3) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      return;
    case kBarrierAndShuffle:
      if (lane == 3) {
        __syncthreads();
      } else {
        __shfl_sync(kAll, lane, 0);
      }
      return;
    case kLacksCaller:
      __syncwarp(0xfffffff7u);
      return;
    case kNotThere:
      __any_sync(kAll, 1);
      return;
    case kExited:
      if (lane > 3) __ballot_sync(kAll, 1);
      return;
    case kMasksDiffer:
      __all_sync(lane < 16 ? 0xffffu : kAll, 1);
      return;
    case kOtherLine:
      if (lane < 3) {
        __shfl_down_sync(kAll, 1.0f, 1);
      } else {
        __shfl_down_sync(kAll, 1.0f, 1);
      }
      return;
    case kOutsideMask:
      if (lane < 16) __shfl_sync(0xffffu, lane, 16);
      return;
    case kBadWidth:
      __shfl_up_sync(kAll, lane, 1, 12);
      return;
    case kShuffleAndBarrier:
      if (lane < 3) __syncwarp();
      __syncthreads();
      return;
    case kHalfWaits:
      if (lane < 16) __shfl_xor_sync(kAll, lane, 1);
  }
}

void check_errors() {
  for (const Schedule order : {Schedule::kForward, Schedule::kReverse, Schedule::kRandom}) {
    set_schedule(order, 5);
    const auto fails = [](Wrong wrong, std::vector<std::string> words, int block = 32) {
      words.push_back("block (0, 0, 0), thread (");
      words.push_back("self_test.cu:");
      check_fails(words, go_wrong, 1, block, int(wrong));
    };
    fails(kExit, {"exit", "__syncthreads()", "every thread"});
    fails(kTwoBarriers, {"__syncthreads()", "in the one at"});
    fails(kBarrierAndShuffle, {"__syncthreads()", "__shfl_sync()"});
    fails(kLacksCaller, {"__syncwarp()", "lacks the calling lane", "0xfffffff7"});
    fails(kNotThere, {"__any_sync()", "does not have", "0xffff0000"}, 16);
    fails(kExited, {"__ballot_sync()", "exit"});
    fails(kMasksDiffer, {"__all_sync()", "0x0000ffff", "0xffffffff"});
    fails(kOtherLine, {"__shfl_down_sync()", "meets lane"});
    fails(kOutsideMask, {"reads lane 16", "0x0000ffff"});
    fails(kBadWidth, {"__shfl_up_sync()", "width 12"});
    fails(kShuffleAndBarrier, {"__syncwarp()", "__syncthreads()"});
    fails(kHalfWaits, {"__shfl_xor_sync()", "exit"});
  }
  set_schedule(Schedule::kForward);
  check_fails({"at most 1024"}, nothing, 1, dim3(32, 33));
  check_fails({"64 along z"}, nothing, 1, dim3(1, 1, 65));
  check_fails({"block is empty"}, nothing, 1, dim3(32, 0));
  check_fails({"grid is empty", "(1, 0, 1)"}, nothing, dim3(1, 0), 32);
  check_fails({"65535"}, nothing, dim3(1, 65536), 32);
  check_fails({"65535"}, nothing, dim3(1, 1, 65536), 32);
  emulate(nothing, dim3(1, 65535), 1);
  emulate(nothing, 1, 1024);
}

// A thread that is unwound runs its destructors.

struct Guard {
  int* n;
  ~Guard() { atomicAdd(n, 1); }
};

__global__ void hold(int* n) {
  const Guard guard{n};
  if (threadIdx.x < 40) __syncthreads();
}

void check_unwinding() {
  int n = 0;
  check_fails({"__syncthreads()"}, hold, 1, 64, &n);
  check(n == 41);  // 40 wait, one exits, the others never begin
}

}  // namespace

void self_test() {
  set_schedule(Schedule::kForward);
  check_indices();
  check_shuffles<int>();
  check_shuffles<unsigned>();
  check_shuffles<long long>();
  check_shuffles<float>();
  check_shuffles<double>();
  check_shuffles<__half>();
  check_shuffles<__nv_bfloat16>();
  check_votes();
  check_orders();
  check_schedules();
  check_atomic_add<int>();
  check_atomic_add<unsigned>();
  check_atomic_add<unsigned long long>();
  check_atomic_add<float>();
  check_atomic_add<double>();
  check_shared_is_filled();
  check_errors();
  check_unwinding();
}

}  // namespace sdd::emulation
