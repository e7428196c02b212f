// Columns of rows into rows of another width: fills key and value caches.
#include "cuda.cuh"

/// dst[r, 0 .. cols] = src[r, 0 .. cols], rows `*_stride` apart
template <int V>
__device__ __forceinline__ void copy(const float* src, int src_stride, float* dst, int dst_stride, int rows, int cols) {
  int packs = cols / V;
  size_t total = static_cast<size_t>(rows) * packs;
  for (size_t t = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; t < total;
       t += static_cast<size_t>(gridDim.x) * blockDim.x) {
    size_t row = t / packs, at = t % packs * V;
    Pack<V>::load(src + row * src_stride + at).store(dst + row * dst_stride + at);
  }
}
extern "C" __global__ void __launch_bounds__(256)
    copy_columns(const float* __restrict__ src, int src_stride, float* __restrict__ dst, int dst_stride, int rows,
                 int cols) {
  copy<1>(src, src_stride, dst, dst_stride, rows, cols);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_columns_wide(const float* __restrict__ src, int src_stride, float* __restrict__ dst, int dst_stride, int rows,
                      int cols) {
  copy<4>(src, src_stride, dst, dst_stride, rows, cols);
}
