// The threads of the block at hand: which of them can run, and how one gives way to another. State
// of the one file that includes it, cuda_emulation.cpp.
#pragma once

#include <bit>
#include <exception>
#include <mutex>
#include <string>

#include "fiber.h"
#include "grid.h"
#include "messages.h"

namespace sdd::emulation {
namespace {

constexpr int kWarp = 32;
constexpr int kMaxWarps = kMaxThreads / kWarp;

struct Unwind {};  // thrown in every waiting thread of a block after an error

// A lane at a shuffle.
struct Arrival {
  unsigned mask;
  int source;  // the lane that it reads
  uint64_t value;
  uint64_t result;
  Where where;
};

// Sets of lanes.
struct Warp {
  unsigned exists;
  unsigned runnable;  // not begun, or freed from a wait
  unsigned exited;
  unsigned at_barrier;
  unsigned at_shuffle;
};

std::mutex one_launch;
Schedule schedule = Schedule::kForward;
uint64_t seed = 0;
Random random_numbers;
Counts total;

// The block at hand.
int n_threads, n_warps, n_exited, n_at_barrier;
uint3 index_of[kMaxThreads];
Fiber* fiber_of[kMaxThreads];  // null: not begun
Arrival arrival[kMaxThreads];
Warp warps[kMaxWarps];
unsigned runnable_warps;
Where barrier_where;
bool block_synchronized;  // by a barrier
int current;              // the thread that runs
void (*thread_function)(void*);
void* thread_arguments;
std::exception_ptr error;  // the first; from then on the block is only unwound

Fiber fibers[kMaxThreads];
Fiber* idle[kMaxThreads];
int n_idle;
Fiber main_fiber;
Fiber* running;

char sync_of_launch, sync_of_block;  // addresses, for TSan

int choose(unsigned set) {
  switch (schedule) {
    case Schedule::kForward:
      return std::countr_zero(set);
    case Schedule::kReverse:
      return 31 - std::countl_zero(set);
    case Schedule::kRandom:
      break;
  }
  const int shift = int(random_numbers.next() & 31);
  return (std::countr_zero(std::rotr(set, shift)) + shift) & 31;
}

[[noreturn]] void fail(const std::string& what) {
  throw Error("block " + text(blockIdx) + ", thread " + text(index_of[current]) + ": " + what);
}

// Takes a thread out of those that can run; -1 when there is none.
int pick() {
  if (runnable_warps == 0) return -1;
  const int w = choose(runnable_warps);
  const int lane = choose(warps[w].runnable);
  warps[w].runnable &= ~(1u << lane);
  if (warps[w].runnable == 0) runnable_warps &= ~(1u << w);
  return w * kWarp + lane;
}

void make_runnable(int w, unsigned lanes) {
  warps[w].runnable |= lanes;
  if (warps[w].runnable != 0) runnable_warps |= 1u << w;
}

void set_current(int thread) {
  current = thread;
  threadIdx = index_of[thread];
}

void go_to(Fiber* to) {
  Fiber* from = running;
  running = to;
  switch_fiber(from, to);
}

void go_to_thread(int thread) {
  if (fiber_of[thread] == nullptr) {
    fiber_of[thread] = fibers_are_threads() ? &fibers[thread] : idle[--n_idle];
  }
  set_current(thread);
  go_to(fiber_of[thread]);
}

std::string waiting_threads() {
  std::string list;
  int n = 0;
  for (int t = 0; t < n_threads; ++t) {
    const Warp& warp = warps[t / kWarp];
    const unsigned bit = 1u << t % kWarp;
    if (((warp.at_barrier | warp.at_shuffle) & bit) == 0 || ++n > 4) continue;
    const bool at_shuffle = (warp.at_shuffle & bit) != 0;
    list += "; thread " + text(index_of[t]) + " at " + (at_shuffle ? kShuffle : "__syncthreads()") +
            ", " + text(at_shuffle ? arrival[t].where : barrier_where);
  }
  return "no thread of the block can run" + list + (n > 4 ? "; and others" : "");
}

// Until another thread, or this one, has made this thread runnable.
void wait() {
  const int next = pick();
  if (next == current) return;
  if (next < 0) fail(waiting_threads());
  go_to_thread(next);
  if (error) throw Unwind{};
}

}  // namespace
}  // namespace sdd::emulation
