// Kernels for the tests of the shim: one buffer of 64 words, blocks of 64 threads.
#include "cuda.cuh"

extern "C" __global__ void votes(int* x) {
  int i = threadIdx.x, lane = i % 32;
  unsigned low = __ballot_sync(ALL, lane < 8 && i < 32);
  int any = __syncthreads_or(i == 63), all = __syncthreads_and(i != 63), odd = __syncthreads_count(i % 2);
  if (lane == 0) x[i] = low;
  if (i == 0) x[1] = any, x[2] = all, x[3] = odd;
}
extern "C" __global__ void shuffles(int* x) {
  int v = x[threadIdx.x];
  int a = __shfl_xor_sync(ALL, v, 16), b = __shfl_up_sync(ALL, v, 1), c = __shfl_down_sync(ALL, v, 1, 8);
  x[threadIdx.x] = a + 100 * b + 10000 * c + 1000000 * __shfl_sync(ALL, v, 5);
}
extern "C" __global__ void atomics(int* x) {
  atomicAdd(x, 1);
  atomicMax(x + 1, static_cast<int>(threadIdx.x));
  atomicAdd(reinterpret_cast<float*>(x + 2), 0.5f);
}
extern "C" __global__ void dot8(int* x) {
  int packed = 1 | 0xfe << 8 | 3 << 16 | static_cast<int>(0x80u << 24);
  x[threadIdx.x] = __dp4a(packed, packed, x[threadIdx.x]);
}
extern "C" __global__ void statics(int* x) {
  __shared__ float s[64];
  float before = s[threadIdx.x];
  s[threadIdx.x] = 1.0f;
  int fresh = __syncthreads_and(before != before);
  if (threadIdx.x == 0) x[blockIdx.x] = fresh;
}
extern "C" __global__ void half_a_barrier(int*) {
  if (threadIdx.x < 32) __syncthreads();  // half
}
extern "C" __global__ void two_barriers(int*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
extern "C" __global__ void lost_lane(int* x) {
  if (threadIdx.x % 32 != 7) x[threadIdx.x] = __shfl_xor_sync(ALL, 1, 1);
}
extern "C" __global__ void misaligned(int* x) { store4(reinterpret_cast<float*>(x) + 1, make_float4(0, 0, 0, 0)); }
extern "C" __global__ void outside(int* x) { x[64 + threadIdx.x % 2] = 1; }

__device__ int deep(int n) {
  volatile char here[1024];
  for (int i = 0; i < 1024; i++) here[i] = static_cast<char>(n);
  return n == 0 ? here[0] : deep(n - 1) + here[0];
}
extern "C" __global__ void too_much_stack(int* x) { x[threadIdx.x] = threadIdx.x == 9 ? deep(70) : 0; }
