// Normalised groups of rows, a warp a group. RMS: n = x s with s = 1 / sqrt(mean(x^2) + eps); layer: n = (x - mean) s
// with s = 1 / sqrt(var + eps). Forward: y = n w + b (+ y). Backward, h = dy w: dx += s (h - mean(h) - n mean(h n))
// (RMS: without mean(h)), dw = sum of dy n, db = sum of dy.
//
// Backward is one pass: a warp walks over its groups and adds to a dw and db of its own in shared memory, where a lane
// owns its columns and needs no barrier; the block's warps are summed at the end into parts [blocks, width], and
// `sum_rows` adds the parts in order. s is recomputed: one read less than a buffer per layer.
#include "cuda.cuh"

constexpr int LAYER = 1, ACCUMULATE = 2;

struct Statistics {
  float mean, s;
};

template <int V>
__device__ __forceinline__ Statistics statistics(const float* x, int width, int flags, float eps, int lane) {
  float mean = 0.0f, squares = 0.0f;
  if (flags & LAYER) {
    for (int c = lane * V; c < width; c += 32 * V) {
      Pack<V> v = Pack<V>::load(x + c);
#pragma unroll
      for (int e = 0; e < V; e++) mean += v.x[e];
    }
    mean = warp_sum(mean) / width;
  }
  for (int c = lane * V; c < width; c += 32 * V) {
    Pack<V> v = Pack<V>::load(x + c);
#pragma unroll
    for (int e = 0; e < V; e++) squares = fmaf(v.x[e] - mean, v.x[e] - mean, squares);
  }
  return {mean, 1.0f / sqrtf(warp_sum(squares) / width + eps)};
}

template <int V>
__device__ __forceinline__ void forward(const float* x, const float* w, const float* b, float* y, int rows, int groups,
                                        int width, int x_stride, int y_stride, int flags, float eps) {
  int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int t = blockIdx.x * warps + threadIdx.x / 32; t < rows * groups; t += gridDim.x * warps) {
    int row = t / groups, at = t % groups * width;
    const float* from = x + static_cast<size_t>(row) * x_stride + at;
    float* to = y + static_cast<size_t>(row) * y_stride + at;
    Statistics of = statistics<V>(from, width, flags, eps, lane);
    for (int c = lane * V; c < width; c += 32 * V) {
      Pack<V> v = Pack<V>::load(from + c), k = Pack<V>::load(w + c), add = {};
      if (b) add = Pack<V>::load(b + c);
#pragma unroll
      for (int e = 0; e < V; e++) v.x[e] = (v.x[e] - of.mean) * of.s * k.x[e] + add.x[e];
      if (flags & ACCUMULATE) {
        add = Pack<V>::load(to + c);
#pragma unroll
        for (int e = 0; e < V; e++) v.x[e] += add.x[e];
      }
      v.store(to + c);
    }
  }
}
extern "C" __global__ void __launch_bounds__(256)
    norm_rows(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b, float* __restrict__ y,
         int rows, int groups, int width, int x_stride, int y_stride, int flags, float eps) {
  forward<1>(x, w, b, y, rows, groups, width, x_stride, y_stride, flags, eps);
}
extern "C" __global__ void __launch_bounds__(256)
    norm_rows_wide(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
              float* __restrict__ y, int rows, int groups, int width, int x_stride, int y_stride, int flags,
              float eps) {
  forward<4>(x, w, b, y, rows, groups, width, x_stride, y_stride, flags, eps);
}

/// Groups [chunk blockIdx.x, + chunk) of all; shared memory holds [warps, width] of dw, then, if `b_parts`, of db.
template <int V>
__device__ __forceinline__ void backward(float* memory, const float* dy, const float* x, const float* w, float* dx,
                                         float* w_parts, float* b_parts, int rows, int groups, int width, int x_stride,
                                         int y_stride, int chunk, int flags, float eps) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  float *dw = memory + warp * width, *db = dw + warps * width;
  for (int c = lane * V; c < width; c += 32 * V) {
    Pack<V>{}.store(dw + c);
    if (b_parts) Pack<V>{}.store(db + c);
  }
  int end = min(rows * groups, (static_cast<int>(blockIdx.x) + 1) * chunk);
  for (int t = blockIdx.x * chunk + warp; t < end; t += warps) {
    int row = t / groups, at = t % groups * width;
    const float* from = x + static_cast<size_t>(row) * x_stride + at;
    const float* up = dy + static_cast<size_t>(row) * y_stride + at;
    float* to = dx + static_cast<size_t>(row) * x_stride + at;
    Statistics of = statistics<V>(from, width, flags, eps, lane);
    float mean = 0.0f, along = 0.0f;
    for (int c = lane * V; c < width; c += 32 * V) {
      Pack<V> g = Pack<V>::load(up + c), k = Pack<V>::load(w + c), v = Pack<V>::load(from + c);
#pragma unroll
      for (int e = 0; e < V; e++) {
        float h = g.x[e] * k.x[e];
        mean += h;
        along = fmaf(h, (v.x[e] - of.mean) * of.s, along);
      }
    }
    mean = flags & LAYER ? warp_sum(mean) / width : 0.0f;
    along = warp_sum(along) / width;
    for (int c = lane * V; c < width; c += 32 * V) {
      Pack<V> g = Pack<V>::load(up + c), k = Pack<V>::load(w + c), v = Pack<V>::load(from + c);
      Pack<V> d = Pack<V>::load(to + c), part = Pack<V>::load(dw + c);
#pragma unroll
      for (int e = 0; e < V; e++) {
        float n = (v.x[e] - of.mean) * of.s;
        d.x[e] += of.s * (g.x[e] * k.x[e] - mean - n * along);
        part.x[e] += g.x[e] * n;
      }
      d.store(to + c);
      part.store(dw + c);
      if (b_parts) {
        part = Pack<V>::load(db + c);
#pragma unroll
        for (int e = 0; e < V; e++) part.x[e] += g.x[e];
        part.store(db + c);
      }
    }
  }
  __syncthreads();
  for (int c = threadIdx.x; c < width; c += blockDim.x) {
    float sum_w = 0.0f, sum_b = 0.0f;
    for (int i = 0; i < warps; i++) {
      sum_w += memory[i * width + c];
      if (b_parts) sum_b += memory[(warps + i) * width + c];
    }
    w_parts[static_cast<size_t>(blockIdx.x) * width + c] = sum_w;
    if (b_parts) b_parts[static_cast<size_t>(blockIdx.x) * width + c] = sum_b;
  }
}
extern "C" __global__ void __launch_bounds__(128)
    norm_rows_backward(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
                  float* __restrict__ dx, float* __restrict__ w_parts, float* __restrict__ b_parts, int rows,
                  int groups, int width, int x_stride, int y_stride, int chunk, int flags, float eps) {
  DYNAMIC_SHARED(float4, memory);
  backward<1>(reinterpret_cast<float*>(memory), dy, x, w, dx, w_parts, b_parts, rows, groups, width, x_stride,
              y_stride, chunk, flags, eps);
}
extern "C" __global__ void __launch_bounds__(128)
    norm_rows_backward_wide(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
                       float* __restrict__ dx, float* __restrict__ w_parts, float* __restrict__ b_parts, int rows,
                       int groups, int width, int x_stride, int y_stride, int chunk, int flags, float eps) {
  DYNAMIC_SHARED(float4, memory);
  backward<4>(reinterpret_cast<float*>(memory), dy, x, w, dx, w_parts, b_parts, rows, groups, width, x_stride,
              y_stride, chunk, flags, eps);
}
