// GELU in the tanh form and its gradient, four values a thread.
#include "cuda.cuh"

extern "C" __global__ void __launch_bounds__(256)
    gelu(const float* __restrict__ x, float* __restrict__ y, int length) {
  for (int at = (blockIdx.x * blockDim.x + threadIdx.x) * 4; at < length; at += gridDim.x * blockDim.x * 4) {
    if (at + 4 <= length) {
      Pack<4> v = Pack<4>::load(x + at);
#pragma unroll
      for (int e = 0; e < 4; e++) v.x[e] = gelu_value(v.x[e]);
      v.store(y + at);
    } else {
      for (int i = at; i < length; i++) y[i] = gelu_value(x[i]);
    }
  }
}

/// d = dy gelu'(x)
extern "C" __global__ void __launch_bounds__(256)
    gelu_backward(const float* __restrict__ dy, const float* __restrict__ x, float* __restrict__ d, int length) {
  for (int at = (blockIdx.x * blockDim.x + threadIdx.x) * 4; at < length; at += gridDim.x * blockDim.x * 4) {
    if (at + 4 <= length) {
      Pack<4> v = Pack<4>::load(x + at), g = Pack<4>::load(dy + at);
#pragma unroll
      for (int e = 0; e < 4; e++) g.x[e] *= gelu_slope(v.x[e]);
      g.store(d + at);
    } else {
      for (int i = at; i < length; i++) d[i] = dy[i] * gelu_slope(x[i]);
    }
  }
}
