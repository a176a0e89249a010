// The runtime behind cuda_emulation.h: stacks, the choice of the thread that runs next, barriers.
#include "cuda_emulation.h"

#include "shared_memory.h"
#include "threads.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Hidden: a CUDA runtime in the same process keeps its own.
extern "C" __attribute__((visibility("hidden"))) cudaError_t cudaGetLastError() {
  return cudaSuccess;  // what a launch did wrong is an Error
}

namespace sdd::emulation {
namespace {

// The thread leaves or reaches a barrier: no lane of its warp may be waiting for it elsewhere.
void check_not_awaited(const std::string& instead) {
  const Warp& warp = warps[current / kWarp];
  for (unsigned rest = warp.at_shuffle; rest != 0; rest &= rest - 1) {
    const int other = current / kWarp * kWarp + std::countr_zero(rest);
    if (arrival[other].mask >> current % kWarp & 1u) {
      fail(instead + ", but thread " + text(index_of[other]) + " waits for it in " + kShuffle +
           " with mask " + hex(arrival[other].mask) + " at " + text(arrival[other].where));
    }
  }
}

void check_may_exit() {
  if (n_at_barrier != 0) {
    fail("exits, but " + std::to_string(n_at_barrier) + " threads wait in __syncthreads() at " +
         text(barrier_where) + ", which every thread of the block must reach");
  }
  check_not_awaited("exits");
}

void mark_exited() {
  ++n_exited;
  warps[current / kWarp].exited |= 1u << current % kWarp;
}

// Wakes what waits, so that it throws Unwind, and begins no further thread.
void unwind_block(std::exception_ptr first) {
  if (error) return;
  error = first;
  runnable_warps = 0;
  for (int t = 0; t < n_threads; ++t) {
    Warp& warp = warps[t / kWarp];
    const unsigned bit = 1u << t % kWarp;
    warp.runnable &= ~bit;
    if (t != current && fiber_of[t] != nullptr && (warp.exited & bit) == 0) {
      make_runnable(t / kWarp, bit);
    }
  }
}

// From the first to the last line of the kernel.
void run_current_thread() {
  try {
    thread_function(thread_arguments);
    check_may_exit();
  } catch (const Unwind&) {
  } catch (...) {
    unwind_block(std::current_exception());
  }
  mark_exited();
}

// A fiber runs one thread after another: what never waits needs no stack of its own. The thread
// sanitizer takes a fiber for the thread, so that there each thread has its own.
void run_threads() {
  for (;;) {
    run_current_thread();
    const int next = pick();
    if (next >= 0 && fiber_of[next] == nullptr && !fibers_are_threads()) {
      fiber_of[next] = running;
      set_current(next);
      continue;
    }
    if (!fibers_are_threads()) idle[n_idle++] = running;
    if (next >= 0) {
      go_to_thread(next);
    } else {
      go_to(&main_fiber);
    }
  }
}

void run_block() {
  n_exited = n_at_barrier = 0;
  block_synchronized = false;
  runnable_warps = 0;
  for (int w = 0; w < n_warps; ++w) {
    const int lanes = n_threads - w * kWarp;
    const unsigned all = lanes >= kWarp ? 0xffffffffu : (1u << lanes) - 1;
    warps[w] = Warp{all, 0, 0, 0, 0};
    make_runnable(w, all);
  }
  std::fill_n(fiber_of, n_threads, nullptr);
  go_to_thread(pick());
  total.threads += n_threads;
}

void run_grid(dim3 grid, dim3 block) {
  check_sizes(grid, block);
  random_numbers = Random(seed);
  gridDim = total.grid = grid;
  blockDim = total.block = block;
  ++total.launches;
  n_threads = int(block.x * block.y * block.z);
  n_warps = (n_threads + kWarp - 1) / kWarp;
  int t = 0;
  for (unsigned z = 0; z < block.z; ++z) {
    for (unsigned y = 0; y < block.y; ++y) {
      for (unsigned x = 0; x < block.x; ++x) index_of[t++] = uint3{x, y, z};
    }
  }
  n_idle = 0;
  for (int f = n_threads; f-- > 0;) {
    prepare_fiber(&fibers[f], f, run_threads);
    idle[n_idle++] = &fibers[f];
  }
  enter_from(&main_fiber);
  running = &main_fiber;
  const uint64_t n_blocks = uint64_t(grid.x) * grid.y * grid.z;
  const BlockOrder order(n_blocks, schedule, &random_numbers);
  SharedMemory shared;
  const auto order_after_host = [] { tsan_begin(fibers, n_threads, &main_fiber, &sync_of_launch); };
  const auto order_before_host = [] { tsan_end(fibers, n_threads, &main_fiber, &sync_of_launch); };
  order_after_host();
  for (uint64_t place = 0; place < n_blocks; ++place) {
    const uint64_t b = order.block(place);
    blockIdx =
        uint3{unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
    // The next block uses the shared memory of this one, which is no race. Without such a reason
    // blocks stay unordered, so that the thread sanitizer sees their races.
    if (place > 0 && fibers_are_threads() && (block_synchronized || shared.touched())) {
      order_before_host();
      order_after_host();
    }
    shared.begin_block(place);
    run_block();
    if (error) break;
  }
  order_before_host();
  if (error) std::rethrow_exception(std::exchange(error, nullptr));
}

// All lanes of the mask have arrived.
void complete(int w, unsigned mask) {
  Arrival* const lanes = arrival + w * kWarp;
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    lanes[lane].result = lanes[lanes[lane].source].value;
  }
  warps[w].at_shuffle &= ~mask;
  make_runnable(w, mask);
}

void check_arrival(const Arrival& mine, const Warp& warp, int w) {
  const auto at = [&] { return std::string(kShuffle) + " at " + text(mine.where); };
  const unsigned mask = mine.mask;
  const unsigned bit = 1u << current % kWarp;
  if ((mask & bit) == 0) {
    fail(at() + ": the mask " + hex(mask) + " lacks the calling lane " +
         std::to_string(current % kWarp));
  }
  if (mask & ~warp.exists) {
    fail(at() + ": the mask " + hex(mask) + " names lanes that the block does not have, " +
         hex(mask & ~warp.exists));
  }
  if (mask & warp.exited) {
    fail(at() + ": the mask " + hex(mask) + " names lanes that have exited, " +
         hex(mask & warp.exited));
  }
  if (mask & warp.at_barrier) {
    fail(at() + ": the mask " + hex(mask) + " names lanes that wait in __syncthreads() at " +
         text(barrier_where) + ", " + hex(mask & warp.at_barrier));
  }
  if ((mask >> mine.source & 1u) == 0) {
    fail(at() + ": reads lane " + std::to_string(mine.source) + ", which the mask " + hex(mask) +
         " lacks");
  }
  // Lanes that wait for one another agree, so that one of them speaks for all in the mask.
  const unsigned awaited = warp.at_shuffle & mask;
  for (unsigned rest = (awaited & -awaited) | (warp.at_shuffle & ~mask); rest != 0;
       rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    const Arrival& other = arrival[w * kWarp + lane];
    if ((mask >> lane & 1u) == 0 && (other.mask & bit) == 0) continue;
    if (other.mask == mask && same_line(other.where, mine.where)) continue;
    fail(at() + " with mask " + hex(mask) + " meets lane " + std::to_string(lane) + " with mask " +
         hex(other.mask) + " at " + text(other.where));
  }
}

}  // namespace

void set_schedule(Schedule order, uint64_t order_seed) {
  const std::lock_guard lock(one_launch);
  schedule = order;
  seed = order_seed;
}

Counts counts() {
  const std::lock_guard lock(one_launch);
  return total;
}

void reset_counts() {
  const std::lock_guard lock(one_launch);
  total = Counts();
}

namespace detail {

void run(dim3 grid, dim3 block, void (*thread)(void*), void* arguments) {
  const std::lock_guard lock(one_launch);
  thread_function = thread;
  thread_arguments = arguments;
  run_grid(grid, block);
}

void block_barrier(Where where) {
  const int w = current / kWarp;
  if (n_exited != 0) {
    fail("__syncthreads() at " + text(where) + ": " + std::to_string(n_exited) +
         " threads of the block have exited, and every thread must reach it");
  }
  if (n_at_barrier != 0 && !same_line(where, barrier_where)) {
    fail("__syncthreads() at " + text(where) + ", but " + std::to_string(n_at_barrier) +
         " threads wait in the one at " + text(barrier_where));
  }
  if (warps[w].at_shuffle != 0) check_not_awaited("__syncthreads() at " + text(where));
  barrier_where = where;
  warps[w].at_barrier |= 1u << current % kWarp;
  if (++n_at_barrier == n_threads) {
    n_at_barrier = 0;
    ++total.barriers;
    block_synchronized = true;
    tsan_order(fibers, n_threads, running, &sync_of_block);
    for (int i = 0; i < n_warps; ++i) {
      warps[i].at_barrier = 0;
      make_runnable(i, warps[i].exists);
    }
  }
  wait();
}

uint64_t shuffle_xor(unsigned mask, uint64_t value, int lanes, Where where) {
  const int w = current / kWarp, lane = current % kWarp;
  Warp& warp = warps[w];
  Arrival& mine = arrival[current];
  mine = Arrival{mask, lane ^ (lanes & 31), value, 0, where};
  check_arrival(mine, warp, w);
  warp.at_shuffle |= 1u << lane;
  if ((warp.at_shuffle & mask) == mask) complete(w, mask);
  wait();
  return mine.result;
}

}  // namespace detail
}  // namespace sdd::emulation
