// Seeded faults: the checks of this folder are themselves checked. Each kernel is right unless it
// is asked to be faulty; the result of a right one is compared with the host's.
#include <memory>
#include <string>

#include "../../csrc/host_emulation/cuda_emulation.h"
#include "emulation_tests.h"

namespace sdd::emulation {
namespace {

constexpr int kBlock = 64;

void expect(const char* fault, float result, float expected) {
  if (result == expected) return;
  throw WrongResult(std::string(fault) + ": the kernel gave " + std::to_string(result) +
                    ", the host " + std::to_string(expected));
}

// Sums x: [kBlock]. Faulty: no barrier between the steps of the tree.
__global__ void __launch_bounds__(kBlock)
    missing_barrier(const float* __restrict__ x, float* __restrict__ sum, bool faulty) {
  __shared__ float part[kBlock];
  const int t = int(threadIdx.x);
  part[t] = x[t];
  __syncthreads();
  for (int half = kBlock / 2; half > 0; half /= 2) {
    if (t < half) part[t] += part[t + half];
    if (!faulty) __syncthreads();
  }
  if (t == 0) *sum = part[0];
}

void run_missing_barrier(bool faulty) {
  float x[kBlock], sum = 0;
  for (int i = 0; i < kBlock; ++i) x[i] = float(i);
  emulate(missing_barrier, 1, kBlock, x, &sum, faulty);
  expect("missing_barrier", sum, kBlock * (kBlock - 1) / 2);
}

// Doubles n elements, four at a time. Faulty: one vector too many.
__global__ void __launch_bounds__(kBlock) global_overrun(float4* x, int n, bool faulty) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n / 4 + int(faulty)) {
    const float4 v = x[i];
    x[i] = make_float4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w);
  }
}

void run_global_overrun(bool faulty) {
  constexpr int n = 4 * 2 * kBlock - 4;
  const std::unique_ptr<float4[]> x(new float4[n / 4]);
  for (int i = 0; i < n / 4; ++i) x[i] = make_float4(1, 1, 1, 1);
  emulate(global_overrun, 2, kBlock, x.get(), n, faulty);
  expect("global_overrun", x[n / 4 - 1].w, 2);
}

// Reverses x: [kBlock] through shared memory. Faulty: from one past the last.
__global__ void __launch_bounds__(kBlock) shared_overrun(float* x, bool faulty) {
  __shared__ float tile[kBlock];
  const int t = int(threadIdx.x);
  tile[t] = x[t];
  __syncthreads();
  x[t] = tile[kBlock - 1 - t + int(faulty)];
}

void run_shared_overrun(bool faulty) {
  float x[kBlock];
  for (int i = 0; i < kBlock; ++i) x[i] = float(i);
  emulate(shared_overrun, 1, kBlock, x, faulty);
  expect("shared_overrun", x[0], kBlock - 1);
}

// Sums the x of the first 16 lanes. Faulty: the mask names the whole warp, of which half is not
// there.
__global__ void wrong_shuffle_mask(const float* x, float* sum, bool faulty) {
  const int lane = int(threadIdx.x);
  if (lane >= 16) return;
  float s = x[lane];
  for (int step = 8; step > 0; step /= 2) {
    s += __shfl_xor_sync(faulty ? 0xffffffffu : 0xffffu, s, step);
  }
  if (lane == 0) *sum = s;
}

void run_wrong_shuffle_mask(bool faulty) {
  float x[32], sum = 0;
  for (int i = 0; i < 32; ++i) x[i] = float(i);
  emulate(wrong_shuffle_mask, 1, 32, x, &sum, faulty);
  expect("wrong_shuffle_mask", sum, 120);
}

// Doubles n elements. Faulty: threads without an element leave before the barrier.
__global__ void __launch_bounds__(kBlock) divergent_barrier(float* x, int n, bool faulty) {
  __shared__ float tile[kBlock];
  const int t = int(threadIdx.x);
  if (faulty && t >= n) return;
  tile[t] = t < n ? x[t] : 0.0f;
  __syncthreads();
  if (t < n) x[t] = tile[t] + tile[t];
}

void run_divergent_barrier(bool faulty) {
  float x[kBlock];
  for (int i = 0; i < kBlock; ++i) x[i] = float(i);
  emulate(divergent_barrier, 1, kBlock, x, kBlock - 1, faulty);
  expect("divergent_barrier", x[1], 2);
}

// Counts the threads of each block. Faulty: the count starts with what the memory holds.
__global__ void uninitialized_shared(int* count, bool faulty) {
  __shared__ int total;
  if (threadIdx.x == 0 && !faulty) total = 0;
  __syncthreads();
  __atomic_fetch_add(&total, 1, __ATOMIC_RELAXED);
  __syncthreads();
  if (threadIdx.x == 0) count[blockIdx.x] = total;
}

void run_uninitialized_shared(bool faulty) {
  int count[3] = {};
  emulate(uninitialized_shared, 3, kBlock, count, faulty);
  for (int c : count) expect("uninitialized_shared", float(c), kBlock);
}

// Elements x: [2 * kBlock]. Faulty: each block writes the first number of the next one too.
__global__ void __launch_bounds__(kBlock) racing_blocks(float* x, bool faulty) {
  const unsigned i = blockIdx.x * kBlock + threadIdx.x;
  x[i] = float(i);
  if (faulty && threadIdx.x == kBlock - 1 && blockIdx.x + 1 < gridDim.x) x[i + 1] = float(i);
}

void run_racing_blocks(bool faulty) {
  float x[2 * kBlock];
  emulate(racing_blocks, 2, kBlock, x, faulty);
  expect("racing_blocks", x[kBlock], kBlock);
}

}  // namespace

void run_fault(const char* name, bool faulty) {
  const std::string wanted(name);
  if (wanted == "missing_barrier") return run_missing_barrier(faulty);
  if (wanted == "global_overrun") return run_global_overrun(faulty);
  if (wanted == "shared_overrun") return run_shared_overrun(faulty);
  if (wanted == "wrong_shuffle_mask") return run_wrong_shuffle_mask(faulty);
  if (wanted == "divergent_barrier") return run_divergent_barrier(faulty);
  if (wanted == "uninitialized_shared") return run_uninitialized_shared(faulty);
  if (wanted == "racing_blocks") return run_racing_blocks(faulty);
  throw std::invalid_argument("no fault is named " + wanted);
}

}  // namespace sdd::emulation
