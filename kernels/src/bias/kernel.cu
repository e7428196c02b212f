// Bias of a linear layer: y[r] += b, and its gradient in parts: sums over chunks of rows, which `sum_rows` adds in order.
#include "cuda.cuh"

template <int V> __device__ __forceinline__ void add(float* y, const float* b, int rows, int width) {
  int packs = width / V;
  size_t total = static_cast<size_t>(rows) * packs;
  for (size_t t = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; t < total;
       t += static_cast<size_t>(gridDim.x) * blockDim.x) {
    Pack<V> v = Pack<V>::load(y + t * V), k = Pack<V>::load(b + t % packs * V);
#pragma unroll
    for (int e = 0; e < V; e++) v.x[e] += k.x[e];
    v.store(y + t * V);
  }
}
extern "C" __global__ void __launch_bounds__(256)
    add_bias(float* __restrict__ y, const float* __restrict__ b, int rows, int width) {
  add<1>(y, b, rows, width);
}
extern "C" __global__ void __launch_bounds__(256)
    add_bias_wide(float* __restrict__ y, const float* __restrict__ b, int rows, int width) {
  add<4>(y, b, rows, width);
}

/// parts[y, c] = sum of dy[r, c] over rows [chunk y, + chunk); a thread a column
extern "C" __global__ void __launch_bounds__(256)
    bias_parts(const float* __restrict__ dy, float* __restrict__ parts, int rows, int width, int chunk) {
  int c = blockIdx.x * blockDim.x + threadIdx.x, end = min(rows, (static_cast<int>(blockIdx.y) + 1) * chunk);
  if (c >= width) return;
  float sum = 0.0f;
  for (int r = blockIdx.y * chunk; r < end; r++) sum += dy[static_cast<size_t>(r) * width + c];
  parts[static_cast<size_t>(blockIdx.y) * width + c] = sum;
}
