// Rotary embedding in place: component i of a head turns with i + head_dim / 2 by position theta^(-2 i / head_dim).
//
// `turns` [head_dim / 2] holds theta^(-2 i / head_dim) / 2 pi in f64. Three f64 operations find the fraction of a
// turn exactly; the sine and cosine of it are f32 work. `sign` = -1 turns back (the backward pass).
#include "cuda.cuh"

/// One thread: V pairs of one head of one row.
template <int V>
__device__ __forceinline__ void rope(float* x, const unsigned* positions, const double* turns, int rows, int stride,
                                     int col, int heads, int half, float sign) {
  int packs = half / V;
  size_t total = static_cast<size_t>(rows) * heads * packs;
  for (size_t t = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; t < total;
       t += static_cast<size_t>(gridDim.x) * blockDim.x) {
    int i = t % packs * V, head = t / packs % heads, row = t / packs / heads;
    float* at = x + static_cast<size_t>(row) * stride + col + head * 2 * half + i;
    double position = positions[row];
    Pack<V> a = Pack<V>::load(at), b = Pack<V>::load(at + half);
#pragma unroll
    for (int e = 0; e < V; e++) {
      double turn = position * turns[i + e];
      float sine, cosine, p = a.x[e], q = b.x[e];
      sincospif(2.0f * static_cast<float>(turn - rint(turn)), &sine, &cosine);
      sine *= sign;
      a.x[e] = p * cosine - q * sine;
      b.x[e] = q * cosine + p * sine;
    }
    a.store(at);
    b.store(at + half);
  }
}
extern "C" __global__ void __launch_bounds__(256)
    rope_rows(float* __restrict__ x, const unsigned* __restrict__ positions, const double* __restrict__ turns, int rows,
              int stride, int col, int heads, int half, float sign) {
  rope<1>(x, positions, turns, rows, stride, col, heads, half, sign);
}
extern "C" __global__ void __launch_bounds__(256)
    rope_rows_wide(float* __restrict__ x, const unsigned* __restrict__ positions, const double* __restrict__ turns,
                   int rows, int stride, int col, int heads, int half, float sign) {
  rope<4>(x, positions, turns, rows, stride, col, heads, half, sign);
}
