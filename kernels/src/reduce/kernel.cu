// Sum of squares in a fixed order: a block sums 4096 values in f32 and writes its part, one block adds the parts in
// f64. The order depends on the length alone.
#include "cuda.cuh"

constexpr int THREADS = 256, CHUNK = 4096;

/// parts[block] = sum of x^2 over the block's chunk
extern "C" __global__ void __launch_bounds__(THREADS)
    square_parts(const float* __restrict__ x, float* __restrict__ parts, int length) {
  __shared__ float warps[THREADS / 32];
  int begin = blockIdx.x * CHUNK, end = min(length, begin + CHUNK);
  float sum = 0.0f;
  for (int at = begin + threadIdx.x * 4; at < end; at += THREADS * 4) {
    float4 v = fetch4(x, at, end, true);
    sum += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    sum = 0.0f;
    for (int i = 0; i < THREADS / 32; i++) sum += warps[i];
    parts[blockIdx.x] = sum;
  }
}

/// out[0] = sum of `count` parts, in f64 (as two words)
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_parts(const float* __restrict__ parts, double* __restrict__ out, int count) {
  __shared__ double sums[THREADS];
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += THREADS) sum += parts[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) *out = sums[0];
}

/// out[c] += sum over p of parts[p, c], in order
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_rows(const float* __restrict__ parts, float* __restrict__ out, int count, int width) {
  int c = blockIdx.x * THREADS + threadIdx.x;
  if (c >= width) return;
  float sum = 0.0f;
  for (int p = 0; p < count; p++) sum += parts[static_cast<size_t>(p) * width + c];
  out[c] += sum;
}
