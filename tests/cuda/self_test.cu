// The emulation against what the CUDA programming guide says of each primitive, and its errors
// against kernels that each do one thing wrong.
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

// Shuffles.

template <class T>
__global__ void shuffle_all(T* out, unsigned mask, int lanes) {
  const int lane = int(threadIdx.x);
  if (mask >> lane & 1u) out[lane] = __shfl_xor_sync(mask, T(lane + 1), lanes);
}

template <class T>
void check_shuffles() {
  for (const unsigned mask : {kAll, 0xffffu}) {
    for (const int lanes : {0, 1, 3, 5, 15}) {
      T out[32] = {};
      emulate(shuffle_all<T>, 1, 32, out, mask, lanes);
      for (int lane = 0; lane < 32; ++lane) {
        check(out[lane] == T(mask >> lane & 1u ? (lane ^ lanes) + 1 : 0));
      }
    }
  }
}

// Barriers, shared memory: the same bits whatever the order.

__global__ void sum_blocks(const float* x, float* sums, int n) {
  __shared__ float part[32];
  const int t = int(threadIdx.x);
  float s = 0;
  for (int i = int(blockIdx.x * blockDim.x) + t; i < n; i += int(gridDim.x * blockDim.x)) s += x[i];
  for (int step = 16; step > 0; step /= 2) s += __shfl_xor_sync(kAll, s, step);
  if (t % 32 == 0) part[t / 32] = s;
  __syncthreads();
  if (t != 0) return;
  s = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) s += part[w];
  sums[blockIdx.x] = s;
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
    reset_counts();
    emulate(sum_blocks, 7, 160, x.data(), sums, int(x.size()));
    check(counts().barriers == 7);
    const double total = std::accumulate(sums, sums + 7, 0.0);
    if (run == 0) first = total;
    check(total == first);
  }
  check(fabs(first - 9.0945088529844) < 1e-5);  // H(5000)
  set_schedule(Schedule::kForward);
}

// Adds 1, and returns what was there. Atomic for the thread sanitizer alone.
int count(int* n) { return __atomic_fetch_add(n, 1, __ATOMIC_RELAXED); }

__global__ void note_order(int* order, int* n) {
  order[count(n)] = int(blockIdx.x * blockDim.x + threadIdx.x);
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

// What a block left in shared memory is gone in the next, in a template's arrays too.

template <class T>
__global__ void leave_in_shared(T* seen) {
  __shared__ T array[500];
  if (threadIdx.x == 0) seen[blockIdx.x] = array[blockIdx.x * 7 % 500];
  __syncthreads();
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
        __shfl_xor_sync(kAll, lane, 1);
      }
      return;
    case kLacksCaller:
      __shfl_xor_sync(0xfffffff7u, lane, 0);
      return;
    case kNotThere:
      __shfl_xor_sync(kAll, lane, 1);
      return;
    case kExited:
      if (lane > 3) __shfl_xor_sync(kAll, lane, 1);
      return;
    case kMasksDiffer:
      __shfl_xor_sync(lane < 16 ? 0xffffu : kAll, lane, 1);
      return;
    case kOtherLine:
      if (lane < 3) {
        __shfl_xor_sync(kAll, 1.0f, 1);
      } else {
        __shfl_xor_sync(kAll, 1.0f, 1);
      }
      return;
    case kOutsideMask:
      if (lane < 16) __shfl_xor_sync(0xffffu, lane, lane == 0 ? 16 : 0);
      return;
    case kShuffleAndBarrier:
      if (lane < 3) __shfl_xor_sync(kAll, lane, 1);
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
    fails(kBarrierAndShuffle, {"__syncthreads()", "__shfl_xor_sync()"});
    fails(kLacksCaller, {"__shfl_xor_sync()", "lacks the calling lane", "0xfffffff7"});
    fails(kNotThere, {"__shfl_xor_sync()", "does not have", "0xffff0000"}, 16);
    fails(kExited, {"__shfl_xor_sync()", "exit"});
    fails(kMasksDiffer, {"__shfl_xor_sync()", "0x0000ffff", "0xffffffff"});
    fails(kOtherLine, {"__shfl_xor_sync()", "meets lane"});
    fails(kOutsideMask, {"reads lane 16", "0x0000ffff"});
    fails(kShuffleAndBarrier, {"__shfl_xor_sync()", "__syncthreads()"});
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
  ~Guard() { count(n); }
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
  check_shuffles<float>();
  check_shuffles<double>();
  check_orders();
  check_schedules();
  check_shared_is_filled();
  check_errors();
  check_unwinding();
}

}  // namespace sdd::emulation
