// A stack with what it takes to leave it and to come back, told to whichever sanitizer is loaded.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// Null where the process runs without that sanitizer.
extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake, const void* low,
                                                          size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake, const void** low,
                                                           size_t* size);
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_set_fiber_name(void* fiber, const char* name);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* address);
__attribute__((weak)) void __tsan_release(void* address);
}

namespace sdd::emulation {
namespace {

struct Fiber {
  const void* low = nullptr;  // the stack, above its guard page
  size_t size = 0;
  void* fake_stack = nullptr;  // of the address sanitizer
  void* tsan = nullptr;
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

// What the address sanitizer adds to a frame does not fit the stack of a plain build.
constexpr size_t kPlainStack = 64 * 1024;
constexpr size_t kSanitizedStack = 256 * 1024;

Fiber* left;  // by the last switch
Fiber* entered;
void (*fiber_function)();

bool fibers_are_threads() { return __tsan_create_fiber != nullptr; }

void landed() {
  if (__sanitizer_finish_switch_fiber == nullptr) return;
  // Where the OS thread's own stack lies is learned when it is left for the first time.
  __sanitizer_finish_switch_fiber(entered->fake_stack, &left->low, &left->size);
}

void fiber_main() {
  landed();
  fiber_function();
}

#if defined(__x86_64__)

// Saves what the calling convention gives to the caller of a function; the rest is dead at a call.
extern "C" __attribute__((visibility("hidden"))) void sdd_switch_stack(void** from, void* to);
asm(R"(
  .text
  .p2align 4
  .hidden sdd_switch_stack
  .globl sdd_switch_stack
  .type sdd_switch_stack, @function
sdd_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size sdd_switch_stack, . - sdd_switch_stack
)");

void set_up(Fiber* fiber, char* top) {
  // From here sdd_switch_stack pops six registers and the address of fiber_main, which finds a
  // return address of zero above it: there the unwinder stops. top is a multiple of 16, and so the
  // stack is aligned as at any call.
  void** slot = reinterpret_cast<void**>(top);
  *--slot = nullptr;
  *--slot = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--slot = nullptr;
  fiber->stack_pointer = slot;
}

void switch_stack(Fiber* from, Fiber* to) {
  sdd_switch_stack(&from->stack_pointer, to->stack_pointer);
}

#else

void set_up(Fiber* fiber, char* top) {
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = const_cast<void*>(fiber->low);
  fiber->context.uc_stack.ss_size = size_t(top - static_cast<const char*>(fiber->low));
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, fiber_main, 0);
}

void switch_stack(Fiber* from, Fiber* to) { swapcontext(&from->context, &to->context); }

#endif

// Once per fiber; number tells them apart. The stack is ours for good: the next launch reuses it.
void prepare_fiber(Fiber* fiber, int number, void (*function)()) {
  if (fiber->low != nullptr) return;
  fiber_function = function;
  const bool sanitized = fibers_are_threads() || __sanitizer_start_switch_fiber != nullptr;
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  fiber->size = sanitized ? kSanitizedStack : kPlainStack;
  void* memory = mmap(nullptr, page + fiber->size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, page, PROT_NONE);  // an overflow faults
  fiber->low = static_cast<char*>(memory) + page;
  // Begun at different offsets in their pages, the stacks do not fall into the same cache sets.
  const size_t offset = size_t(number) * 320 % 4096 / 64 * 64;
  set_up(fiber, static_cast<char*>(memory) + page + fiber->size - offset);
  if (fibers_are_threads()) {
    fiber->tsan = __tsan_create_fiber(0);
    __tsan_set_fiber_name(fiber->tsan, ("CUDA thread " + std::to_string(number)).c_str());
  }
}

// Names the stack at hand, of the OS thread.
void enter_from(Fiber* main) {
  if (fibers_are_threads()) main->tsan = __tsan_get_current_fiber();
}

constexpr unsigned kNoSync = 1;  // a switch orders nothing

void switch_fiber(Fiber* from, Fiber* to) {
  left = from;
  entered = to;
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(&from->fake_stack, to->low, to->size);
  }
  if (fibers_are_threads()) __tsan_switch_to_fiber(to->tsan, kNoSync);
  switch_stack(from, to);
  landed();
}

void tsan_release(const Fiber& fiber, char* object) {
  __tsan_switch_to_fiber(fiber.tsan, kNoSync);
  __tsan_release(object);
}

void tsan_acquire(const Fiber& fiber, char* object) {
  __tsan_switch_to_fiber(fiber.tsan, kNoSync);
  __tsan_acquire(object);
}

// A barrier among these fibers, one of which is at hand: to the thread sanitizer, what each did
// before comes before what any does from now on.
void tsan_order(const Fiber* fibers, int n, const Fiber* at_hand, char* object) {
  if (!fibers_are_threads()) return;
  for (int i = 0; i < n; ++i) tsan_release(fibers[i], object);
  for (int i = 0; i < n; ++i) tsan_acquire(fibers[i], object);
  __tsan_switch_to_fiber(at_hand->tsan, kNoSync);
}

// A block begins: what the OS thread did, and through it the blocks before, comes first.
void tsan_begin(const Fiber* fibers, int n, const Fiber* main, char* object) {
  if (!fibers_are_threads()) return;
  __tsan_release(object);
  for (int i = 0; i < n; ++i) tsan_acquire(fibers[i], object);
  __tsan_switch_to_fiber(main->tsan, kNoSync);
}

// A block has ended: the OS thread, and through it the next block, comes after.
void tsan_end(const Fiber* fibers, int n, const Fiber* main, char* object) {
  if (!fibers_are_threads()) return;
  for (int i = 0; i < n; ++i) tsan_release(fibers[i], object);
  __tsan_switch_to_fiber(main->tsan, kNoSync);
  __tsan_acquire(object);
}

}  // namespace
}  // namespace sdd::emulation
