// CUDA on the CPU, for tests: every thread of a block is a fiber, blocks run one after another, kernels unchanged.
//
// A fiber runs until it waits: at a block barrier, at a warp operation, or at its end. The scheduler takes warps and
// lanes in order or in reverse, and lets a warp run as far as it can; when none can, either everybody stands at the
// same barrier, which then opens, or the launch ends with an error: a barrier that some threads never reach, threads
// at different barriers, a shuffle from a lane outside its mask. Shared memory holds NaN when a block starts, 16-byte accesses must be aligned, and fast
// intrinsics are exact. x86-64 only (the context switch is twelve instructions). One launch at a time.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#ifndef __x86_64__
#error "the fiber shim switches contexts on x86-64 only"
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// statics of one section, so that a block can start with none of its predecessor's values
#define __shared__ static __attribute__((section("hilda_shared")))
#define DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(shim::dynamic_shared)

struct dim3 { unsigned x, y, z; };
struct float2 { float x, y; };
struct int2 { int x, y; };
struct uint2 { unsigned x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern "C" char __start_hilda_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_hilda_shared[] __attribute__((weak, visibility("hidden")));

namespace shim {

constexpr unsigned WARP = 32, MAX_THREADS = 1024;
constexpr size_t STACK = 64 << 10, MAX_SHARED = 48 << 10;
constexpr uint64_t CANARY = 0x5AFE57AC4B0770Full;

enum class State { ready, at_barrier, at_warp, done };

struct Warp {
  uint64_t slots[2][WARP];
  unsigned arrived, wanted;
};

struct Fiber {
  void* stack_pointer;
  dim3 thread;
  unsigned index, lane, exchanges;
  Warp* warp;
  State state;
  int line;
};

// `static`, not `inline`: the loader would make one set of them for all libraries.
static Fiber fibers[MAX_THREADS];
static Warp warps[MAX_THREADS / WARP];
static char* stacks;
static Fiber* current;
static void* scheduler;
static dim3 block, block_size, grid_size;
static unsigned threads, arrived, ended, votes, result;
alignas(128) static char dynamic_memory[MAX_SHARED];
static void* dynamic_shared = dynamic_memory;
static void (*entry)(void**);
static void** arguments;
static char error[512];

// Saves the callee-saved registers on this stack and continues on another.
extern "C" void hilda_switch(void** save, void* load) __attribute__((visibility("hidden")));
asm(R"(
.text
.hidden hilda_switch
.type hilda_switch, @function
hilda_switch:
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
.size hilda_switch, .-hilda_switch
)");

inline void wait() { hilda_switch(&current->stack_pointer, scheduler); }

// The first error ends the launch.
[[gnu::format(printf, 1, 2)]] inline void fail(const char* format, ...) {
  if (!error[0]) {
    int n = snprintf(error, sizeof error, "block (%u, %u, %u): ", block.x, block.y, block.z);
    va_list list;
    va_start(list, format);
    vsnprintf(error + n, sizeof error - n, format, list);
    va_end(list);
  }
  if (current) wait();
}

inline void run_thread() {
  entry(arguments);
  current->state = State::done;
  ended++;
  wait();
}

inline unsigned barrier(int line, bool vote) {
  votes += vote;
  arrived++;
  current->state = State::at_barrier;
  current->line = line;
  wait();
  return result;
}

// Returns when every lane of `mask` has arrived.
inline void warp_barrier(unsigned mask) {
  Warp& w = *current->warp;
  if (!(mask >> current->lane & 1)) fail("lane %u waits for a mask without itself (%08x)", current->lane, mask);
  if (w.arrived && w.wanted != mask) fail("lanes of a warp wait for different masks (%08x, %08x)", w.wanted, mask);
  w.wanted = mask;
  w.arrived |= 1u << current->lane;
  if (w.arrived != mask) {
    current->state = State::at_warp;
    wait();
    return;
  }
  w.arrived = 0;
  Fiber* first = current - current->lane;
  for (unsigned i = 0; i < WARP; i++)
    if (mask >> i & 1) first[i].state = State::ready;
}

// What lane `source` of the warp gives. Two sets of slots in turn: a lane is never two exchanges ahead of another.
template <class T> T exchange(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 8);
  uint64_t* slots = current->warp->slots[current->exchanges++ & 1];
  memcpy(&slots[current->lane], &value, sizeof(T));
  warp_barrier(mask);
  if (!(mask >> source & 1)) fail("a shuffle from lane %u outside the mask %08x", source, mask);
  T out;
  memcpy(&out, &slots[source], sizeof(T));
  return out;
}

inline unsigned ballot(unsigned mask, bool vote) {
  uint64_t* slots = current->warp->slots[current->exchanges++ & 1];
  slots[current->lane] = vote;
  warp_barrier(mask);
  unsigned out = 0;
  for (unsigned i = 0; i < WARP; i++)
    if (mask >> i & 1) out |= static_cast<unsigned>(slots[i] & 1) << i;
  return out;
}

inline void check_aligned(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) fail("a misaligned access of %zu bytes", bytes);
}

inline uint64_t& canary(unsigned i) { return *reinterpret_cast<uint64_t*>(stacks + i * STACK); }

// Opens the barrier if everybody stands at it; false at the end of the block.
inline bool open_barrier() {
  if (!arrived && ended == threads) return false;
  for (unsigned i = 0; i < threads; i++) {
    const Fiber& f = fibers[i];
    if (f.state == State::at_warp) {
      fail("deadlock: thread %u waits for lanes %08x of its warp, %08x came", i, f.warp->wanted, f.warp->arrived);
      return false;
    }
    if (f.state == State::done) {
      unsigned line = 0;
      for (unsigned j = 0; j < threads; j++)
        if (fibers[j].state == State::at_barrier) line = fibers[j].line;
      fail("deadlock: %u of %u threads reached the barrier in line %u, thread %u ended", arrived, threads, line, i);
      return false;
    }
    if (f.line != fibers[0].line) {
      fail("divergent barriers: thread 0 in line %d, thread %u in line %d", fibers[0].line, i, f.line);
      return false;
    }
  }
  result = votes;
  votes = arrived = 0;
  for (unsigned i = 0; i < threads; i++) fibers[i].state = State::ready;
  return true;
}

// Runs every lane of the warp that can; whether any could.
inline bool run_warp(unsigned first, bool reverse) {
  bool ran = false;
  for (unsigned k = 0; k < WARP && !error[0]; k++) {
    Fiber& f = fibers[first + (reverse ? WARP - 1 - k : k)];
    if (f.state != State::ready) continue;
    current = &f;
    hilda_switch(&scheduler, f.stack_pointer);
    current = nullptr;
    // before a neighbour runs on what it may have overwritten
    if (canary(f.index) != CANARY) fail("thread %u left its stack of %zu bytes", f.index, STACK);
    ran = true;
  }
  return ran;
}

inline void run_block(bool reverse) {
  memset(__start_hilda_shared, 0xff, __stop_hilda_shared - __start_hilda_shared);
  memset(dynamic_memory, 0xff, sizeof dynamic_memory);
  votes = arrived = ended = 0;
  for (unsigned i = 0; i < threads; i++) {
    unsigned x = i % block_size.x, y = i / block_size.x % block_size.y, z = i / block_size.x / block_size.y;
    if (i % WARP == 0) warps[i / WARP].arrived = 0;
    fibers[i] = Fiber{nullptr, {x, y, z}, i, i % WARP, 0, &warps[i / WARP], State::ready, 0};
    // as after a call: the return address of run_thread at 16 n + 8
    void** top = reinterpret_cast<void**>(stacks + (i + 1) * STACK - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&run_thread);
    for (int k = 0; k < 6; k++) *--top = nullptr;
    fibers[i].stack_pointer = top;
    canary(i) = CANARY;
  }
  // A warp runs as far as it can before the next one starts: what it does without a block barrier, the others have
  // not begun.
  do {
    for (unsigned w = 0; w < threads; w += WARP)
      while (run_warp(reverse ? threads - WARP - w : w, reverse))
        if (error[0]) return;
  } while (!error[0] && open_barrier());
}

template <class... A, size_t... I> void call(void (*kernel)(A...), void** p, std::index_sequence<I...>) {
  kernel(*static_cast<A*>(p[I])...);
}
template <class... A> void call(void (*kernel)(A...), void** p) {
  call(kernel, p, std::index_sequence_for<A...>());
}

// One letter per parameter: pointer, int, unsigned, float.
template <class T> constexpr char letter() {
  if (std::is_pointer<T>::value) return 'p';
  if (std::is_same<T, int>::value) return 'i';
  if (std::is_same<T, unsigned>::value) return 'u';
  if (std::is_same<T, float>::value) return 'f';
  return '?';
}
template <class... A> const char* signature(void (*)(A...)) {
  static const char letters[] = {letter<A>()..., 0};
  return letters;
}

inline const char* launch(void (*kernel)(void**), void** args, const unsigned* shape, unsigned dynamic, bool reverse) {
  error[0] = 0;
  current = nullptr;
  entry = kernel;
  arguments = args;
  grid_size = {shape[0], shape[1], shape[2]};
  block_size = {shape[3], 1, 1};
  threads = shape[3];
  if (threads % WARP || threads > MAX_THREADS) fail("%u threads a block", threads);
  if (dynamic > MAX_SHARED) fail("%u bytes of shared memory", dynamic);
  if (shape[1] > 65535 || shape[2] > 65535) fail("a grid of %u x %u x %u blocks", shape[0], shape[1], shape[2]);
  if (!stacks) stacks = static_cast<char*>(aligned_alloc(4096, MAX_THREADS * STACK));
  for (block.z = 0; block.z < grid_size.z; block.z++)
    for (block.y = 0; block.y < grid_size.y; block.y++)
      for (block.x = 0; block.x < grid_size.x && !error[0]; block.x++)
        run_block(reverse != ((block.x + block.y + block.z) % 2 == 1));
  return error[0] ? error : nullptr;
}

}  // namespace shim

// For every kernel of a file: how to call it with an array of pointers to its arguments. Nothing else is visible
// outside: each library has fibers of its own.
#define SHIM_EXPORT extern "C" __attribute__((visibility("default")))
#define SHIM_KERNEL(name)                                    \
  SHIM_EXPORT void run_##name(void** p) { shim::call(name, p); } \
  SHIM_EXPORT const char* signature_##name() { return shim::signature(name); }
#define SHIM_LIBRARY                                                                                            \
  SHIM_EXPORT const char* shim_launch(void (*kernel)(void**), void** args, const unsigned* shape, unsigned dynamic, \
                                      int reverse) {                                                            \
    return shim::launch(kernel, args, shape, dynamic, reverse != 0);                                            \
  }

#define threadIdx (shim::current->thread)
#define blockIdx (shim::block)
#define blockDim (shim::block_size)
#define gridDim (shim::grid_size)
#define warpSize 32

#define __syncthreads() ((void)shim::barrier(__LINE__, false))
#define __syncthreads_or(p) (shim::barrier(__LINE__, (p) != 0) != 0)
#define __syncthreads_and(p) (shim::barrier(__LINE__, (p) != 0) == shim::threads)
#define __syncthreads_count(p) static_cast<int>(shim::barrier(__LINE__, (p) != 0))
inline void __syncwarp(unsigned mask = ~0u) { shim::warp_barrier(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  unsigned lane = shim::current->lane;
  return shim::exchange(mask, v, lane / width * width + source % width);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int flip, int width = 32) {
  unsigned lane = shim::current->lane, source = lane ^ flip;
  return shim::exchange(mask, v, source / width <= lane / width ? source : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
  unsigned lane = shim::current->lane;
  return shim::exchange(mask, v, lane % width + by < static_cast<unsigned>(width) ? lane + by : lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
  unsigned lane = shim::current->lane;
  return shim::exchange(mask, v, lane % width >= by ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned mask, int p) { return shim::ballot(mask, p != 0); }
inline int __any_sync(unsigned mask, int p) { return shim::ballot(mask, p != 0) != 0; }
inline int __all_sync(unsigned mask, int p) { return shim::ballot(mask, p != 0) == mask; }

// Fibers are switched nowhere inside: every read-modify-write is one step.
template <class T> T atomicAdd(T* at, T v) { T old = *at; *at = old + v; return old; }
template <class T> T atomicMax(T* at, T v) { T old = *at; *at = old < v ? v : old; return old; }
template <class T> T atomicMin(T* at, T v) { T old = *at; *at = v < old ? v : old; return old; }
template <class T> T atomicExch(T* at, T v) { T old = *at; *at = v; return old; }
template <class T> T atomicCAS(T* at, T seen, T v) { T old = *at; if (old == seen) *at = v; return old; }
inline unsigned atomicOr(unsigned* at, unsigned v) { unsigned old = *at; *at = old | v; return old; }

template <class T> T __ldg(const T* p) { shim::check_aligned(p, alignof(T)); return *p; }
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 255) * (b >> i & 255);
  return c;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
template <class To, class From> To bits_as(From x) { To y; memcpy(&y, &x, sizeof y); return y; }
inline float __int_as_float(int x) { return bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
inline int __float_as_int(float x) { return bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline void sincospif(float x, float* s, float* c) {
  *s = static_cast<float>(sin(M_PI * static_cast<double>(x)));
  *c = static_cast<float>(cos(M_PI * static_cast<double>(x)));
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a < b ? b : a; }
