// Runs a CUDA kernel's source unchanged on the CPU: each thread of a block is a fibre, a barrier hands over to the next.
// Blocks run one after the other. `backwards` reverses the order of threads: a missing barrier then changes the result.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __constant__ static
#define __host__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
struct Index { int x, y, z; };
static Index threadIdx, blockIdx;
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
template <typename T> static inline T __ldg(const T* p) { return *p; }
alignas(16) static float shared_memory[256 * 1024 / 4];
#define SHARED(name) float* name = shared_memory

// A fibre begins on a stack of its own by setcontext, which asks the operating system twice; all changes after that are
// jumps, which ask nothing.
struct Fibre {
  jmp_buf at;
  ucontext_t start;
  enum { NEW, WAITING, DONE } state;
};
static Fibre fibres[1024];  // as many threads as a block may have
static jmp_buf scheduler;
static const size_t STACK = 64 * 1024;

static void __syncthreads() {
  const int me = threadIdx.x;
  if (!_setjmp(fibres[me].at)) _longjmp(scheduler, 1);
  threadIdx.x = me;
}

// Goes on with a fibre until it waits at a barrier or ends.
static void resume(int thread) {
  threadIdx = {thread, 0, 0};
  Fibre& fibre = fibres[thread];
  if (_setjmp(scheduler)) return;
  if (fibre.state == Fibre::WAITING) _longjmp(fibre.at, 1);
  fibre.state = Fibre::WAITING;
  setcontext(&fibre.start);
}

// The kernel, with parameter i from parameters[i]. (C++'s own headers would take longer to compile than all else.)
template <size_t... I> struct Indices {};
template <size_t N, size_t... I> struct UpTo : UpTo<N - 1, N - 1, I...> {};
template <size_t... I> struct UpTo<0, I...> { using Type = Indices<I...>; };
template <typename... T, size_t... I> static void call(void (*kernel)(T...), void** parameters, Indices<I...>) {
  kernel(*(T*)parameters[I]...);
}

// parameters: as those of cuLaunchKernel, the address of each parameter's value.
template <typename... T> static void run_blocks(int blocks, int threads, int backwards, void (*kernel)(T...), void** parameters) {
  static void (*body)(T...);
  static void** fed;
  body = kernel;
  fed = parameters;
  char* stacks = (char*)malloc(threads * STACK);
  if (!stacks) abort();
  for (int block = 0; block < blocks; ++block) {
    blockIdx = {block, 0, 0};
    for (float& value : shared_memory) value = NAN;  // what nobody wrote must not matter
    for (int i = 0; i < threads; ++i) {
      fibres[i].state = Fibre::NEW;
      ucontext_t& start = fibres[i].start;
      getcontext(&start);
      start.uc_stack.ss_sp = stacks + i * STACK;
      start.uc_stack.ss_size = STACK;
      start.uc_link = nullptr;
      makecontext(&start, +[]() {
        call(body, fed, typename UpTo<sizeof...(T)>::Type());
        fibres[threadIdx.x].state = Fibre::DONE;
        _longjmp(scheduler, 1);
      }, 0);
    }
    for (int left = threads; left;) {
      for (int i = 0; i < threads; ++i) {
        const int thread = backwards ? threads - 1 - i : i;
        if (fibres[thread].state == Fibre::DONE) continue;
        resume(thread);
        left -= fibres[thread].state == Fibre::DONE;
      }
    }
  }
  free(stacks);
}
