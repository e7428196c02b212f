// AdamW over flat parameters, four values a thread, with the weights' average in the same pass: 28 bytes read and
// written a parameter, 36 with the average, whatever the model.
#include "cuda.cuh"

template <bool EMA>
__device__ __forceinline__ void update(float* w, float g, float* m, float* v, float* ema, float lr, float beta1,
                                       float beta2, float eps, float keep, float inverse1, float inverse2, float scale,
                                       float rate) {
  float x = g * scale;
  *m = beta1 * *m + (1.0f - beta1) * x;
  *v = beta2 * *v + (1.0f - beta2) * x * x;
  *w = *w * keep - lr * (*m * inverse1) / (sqrtf(*v * inverse2) + eps);
  if (EMA) *ema += rate * (*w - *ema);
}

/// keep = 1 - lr decay, inverse = 1 / (1 - beta^t), rate = 1 - decay of the average
template <bool EMA>
__device__ __forceinline__ void sweep(float* w, const float* g, float* m, float* v, float* ema, int length, float lr,
                                      float beta1, float beta2, float eps, float keep, float inverse1, float inverse2,
                                      float scale, float rate) {
  int packs = (length + 3) / 4;
  for (int p = blockIdx.x * blockDim.x + threadIdx.x; p < packs; p += gridDim.x * blockDim.x) {
    int at = p * 4;
    if (at + 4 <= length) {
      Pack<4> pw = Pack<4>::load(w + at), pg = Pack<4>::load(g + at), pm = Pack<4>::load(m + at);
      Pack<4> pv = Pack<4>::load(v + at), pe = {};
      if (EMA) pe = Pack<4>::load(ema + at);
#pragma unroll
      for (int e = 0; e < 4; e++)
        update<EMA>(&pw.x[e], pg.x[e], &pm.x[e], &pv.x[e], &pe.x[e], lr, beta1, beta2, eps, keep, inverse1, inverse2,
                    scale, rate);
      pw.store(w + at);
      pm.store(m + at);
      pv.store(v + at);
      if (EMA) pe.store(ema + at);
    } else {
      for (int i = at; i < length; i++)
        update<EMA>(w + i, g[i], m + i, v + i, ema + i, lr, beta1, beta2, eps, keep, inverse1, inverse2, scale, rate);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256)
    adamw(float* __restrict__ w, const float* __restrict__ g, float* __restrict__ m, float* __restrict__ v, int length,
          float lr, float beta1, float beta2, float eps, float keep, float inverse1, float inverse2, float scale) {
  sweep<false>(w, g, m, v, nullptr, length, lr, beta1, beta2, eps, keep, inverse1, inverse2, scale, 0.0f);
}
extern "C" __global__ void __launch_bounds__(256)
    adamw_average(float* __restrict__ w, const float* __restrict__ g, float* __restrict__ m, float* __restrict__ v,
                  float* __restrict__ ema, int length, float lr, float beta1, float beta2, float eps, float keep,
                  float inverse1, float inverse2, float scale, float rate) {
  sweep<true>(w, g, m, v, ema, length, lr, beta1, beta2, eps, keep, inverse1, inverse2, scale, rate);
}
