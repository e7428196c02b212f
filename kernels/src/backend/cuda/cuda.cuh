// What every kernel shares. All that a `.cu` file may include: NVRTC is given this text, g++ the fiber shim with it.
#pragma once
#ifdef __CUDACC__
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#define CHECK_ALIGNED(p, bytes)
#else
#include "shim.h"
#define CHECK_ALIGNED(p, bytes) shim::check_aligned(p, bytes)
#endif

constexpr unsigned ALL = 0xffffffffu;
/// Stands for minus infinity where a difference of two infinities would be no number.
constexpr float LOWEST = -1e30f;

__device__ __forceinline__ float negative_infinity() { return __int_as_float(static_cast<int>(0xff800000u)); }

__device__ __forceinline__ float4 load4(const float* p) {
  CHECK_ALIGNED(p, 16);
  return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ void store4(float* p, float4 v) {
  CHECK_ALIGNED(p, 16);
  *reinterpret_cast<float4*>(p) = v;
}

/// row[at .. at + 4], zeros from `end` on; `wide` promises that row + at is aligned to 16 bytes.
__device__ __forceinline__ float4 fetch4(const float* row, int at, int end, bool wide) {
  if (wide && at + 4 <= end) return load4(row + at);
  return make_float4(at < end ? row[at] : 0.0f, at + 1 < end ? row[at + 1] : 0.0f, at + 2 < end ? row[at + 2] : 0.0f,
                     at + 3 < end ? row[at + 3] : 0.0f);
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(ALL, v, by);
  return v;
}

/// V consecutive values, V = 1 or 4: one 16-byte access for 4.
template <int V> struct Pack;
template <> struct Pack<1> {
  float x[1];
  static __device__ __forceinline__ Pack load(const float* p) { return {{*p}}; }
  __device__ __forceinline__ void store(float* p) const { *p = x[0]; }
};
template <> struct Pack<4> {
  float x[4];
  static __device__ __forceinline__ Pack load(const float* p) {
    float4 v = load4(p);
    return {{v.x, v.y, v.z, v.w}};
  }
  __device__ __forceinline__ void store(float* p) const { store4(p, make_float4(x[0], x[1], x[2], x[3])); }
};

/// GELU in the tanh form, as `gelu/mod.rs` has it: x sigma(2 u).
__device__ __forceinline__ float gelu_sigmoid(float c) {
  return 1.0f / (1.0f + expf(-1.595769f * (c + 0.044715f * c * c * c)));
}
/// Beyond 12 the sigmoid is 0 or 1 to the last bit, and the cube would overflow.
__device__ __forceinline__ float gelu_value(float x) { return x * gelu_sigmoid(fminf(fmaxf(x, -12.0f), 12.0f)); }
__device__ __forceinline__ float gelu_slope(float x) {
  float c = fminf(fmaxf(x, -12.0f), 12.0f), s = gelu_sigmoid(c);
  return s + c * s * (1.0f - s) * 1.595769f * (1.0f + 0.134145f * c * c);
}
