// Gated units: y[r, i] = f(g) u with g = gate_up[r, i], u = gate_up[r, width + i], and the gradient. f is silu (gate 0)
// or gelu in the tanh form (gate 1). One thread V values.
#include "cuda.cuh"

template <int V>
__device__ __forceinline__ void forward(const float* gate_up, float* y, int rows, int width, int gate) {
  int packs = width / V;
  size_t total = static_cast<size_t>(rows) * packs;
  for (size_t t = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; t < total;
       t += static_cast<size_t>(gridDim.x) * blockDim.x) {
    size_t row = t / packs, i = t % packs * V;
    const float* at = gate_up + row * 2 * width + i;
    Pack<V> g = Pack<V>::load(at), u = Pack<V>::load(at + width);
#pragma unroll
    for (int e = 0; e < V; e++)
      g.x[e] = (gate ? gelu_value(g.x[e]) : g.x[e] / (1.0f + expf(-g.x[e]))) * u.x[e];
    g.store(y + row * width + i);
  }
}
template <int V>
__device__ __forceinline__ void backward(const float* dy, const float* gate_up, float* d, int rows, int width,
                                         int gate) {
  int packs = width / V;
  size_t total = static_cast<size_t>(rows) * packs;
  for (size_t t = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; t < total;
       t += static_cast<size_t>(gridDim.x) * blockDim.x) {
    size_t row = t / packs, i = t % packs * V, at = row * 2 * width + i;
    Pack<V> g = Pack<V>::load(gate_up + at), u = Pack<V>::load(gate_up + at + width);
    Pack<V> y = Pack<V>::load(dy + row * width + i);
#pragma unroll
    for (int e = 0; e < V; e++) {
      float x = g.x[e], value, slope;
      if (gate) {
        value = gelu_value(x), slope = gelu_slope(x);
      } else {
        float s = 1.0f / (1.0f + expf(-x));
        value = x * s, slope = s * (1.0f + x * (1.0f - s));
      }
      g.x[e] = y.x[e] * u.x[e] * slope;
      u.x[e] = y.x[e] * value;
    }
    g.store(d + at);
    u.store(d + at + width);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    glu(const float* __restrict__ gate_up, float* __restrict__ y, int rows, int width, int gate) {
  forward<1>(gate_up, y, rows, width, gate);
}
extern "C" __global__ void __launch_bounds__(256)
    glu_wide(const float* __restrict__ gate_up, float* __restrict__ y, int rows, int width, int gate) {
  forward<4>(gate_up, y, rows, width, gate);
}
extern "C" __global__ void __launch_bounds__(256)
    glu_backward(const float* __restrict__ dy, const float* __restrict__ gate_up, float* __restrict__ d, int rows,
                 int width, int gate) {
  backward<1>(dy, gate_up, d, rows, width, gate);
}
extern "C" __global__ void __launch_bounds__(256)
    glu_backward_wide(const float* __restrict__ dy, const float* __restrict__ gate_up, float* __restrict__ d, int rows,
                      int width, int gate) {
  backward<4>(dy, gate_up, d, rows, width, gate);
}
