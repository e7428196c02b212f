// c[m, n] = (accumulate ? c : 0) + sum over k of A[m, k] B[k, n], rows packed: the three products of a linear layer.
//
//   nt: a [m, k], b [n, k]     nn: a [m, k], b [k, n]     tn: a [k, m], b [k, n]
//
// A block computes a tile of c, 128 x 128 with 256 threads or 64 x 64 with 64; a warp 32 x 64 of it, a thread 8 x 8 as
// two by two groups of 4 x 4, so that four 16-byte reads of shared memory serve 64 multiply-adds without a bank
// conflict. Eight values of k make a stage; while one is computed, the next travels through registers into the
// other half of shared memory: one barrier a stage. The block's part of k is [z chunk, (z + 1) chunk): with more
// than one part (few tiles, long k) the parts go to `c` as [parts, m, n] and `sgemm_sum` adds them in order, so that
// the bits do not depend on which block ends first.
#include "cuda.cuh"

constexpr int STAGE = 8;
/// Keeps rows aligned to 16 bytes and turns the transposing stores into different banks.
constexpr int PAD = 4;
constexpr int ACCUMULATE = 1, WIDE_A = 2, WIDE_B = 4, WIDE_C = 8;

/// Where this thread's pieces of an operand's stage come from. INNER: k runs along the rows in memory.
template <int TILE, int THREADS, bool INNER> struct Operand {
  static constexpr int PIECES = TILE * STAGE / 4 / THREADS;
  const float* data;
  int outer_end, k_end, stride;
  bool wide;
  float4 held[PIECES];

  /// Piece p of the stage at k0: (row of the tile, step of the stage) of its first value.
  static __device__ __forceinline__ int2 place(int p) {
    int i = threadIdx.x + p * THREADS;
    int2 at;
    at.x = INNER ? i / (STAGE / 4) : i % (TILE / 4) * 4;
    at.y = INNER ? i % (STAGE / 4) * 4 : i / (TILE / 4);
    return at;
  }
  __device__ __forceinline__ void fetch(int outer, int k0) {
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
      int2 at = place(p);
      int row = INNER ? outer + at.x : k0 + at.y, col = INNER ? k0 + at.y : outer + at.x;
      held[p] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (row < (INNER ? outer_end : k_end))
        held[p] = fetch4(data + static_cast<size_t>(row) * stride, col, INNER ? k_end : outer_end, wide);
    }
  }
  /// Into [STAGE, TILE + PAD].
  __device__ __forceinline__ void put(float* stage) const {
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
      int2 at = place(p);
      float* to = stage + at.y * (TILE + PAD) + at.x;
      if (INNER) {
        to[0] = held[p].x;
        to[TILE + PAD] = held[p].y;
        to[2 * (TILE + PAD)] = held[p].z;
        to[3 * (TILE + PAD)] = held[p].w;
      } else {
        store4(to, held[p]);
      }
    }
  }
};

template <int TILE, bool A_INNER, bool B_INNER>
__device__ __forceinline__ void sgemm(const float* a, const float* b, float* c, int m, int n, int k, int chunk,
                                      int flags) {
  constexpr int THREADS = TILE * TILE / 64, WARPS_ACROSS = TILE / 64, HALF = STAGE * (TILE + PAD);
  DYNAMIC_SHARED(float4, memory);
  // [2, STAGE, TILE + PAD] of each operand
  float* a_stage = reinterpret_cast<float*>(memory);
  float* b_stage = a_stage + 2 * HALF;

  int row0 = blockIdx.y * TILE, col0 = blockIdx.x * TILE;
  int k_begin = blockIdx.z * chunk, k_end = min(k, k_begin + chunk);
  Operand<TILE, THREADS, A_INNER> x = {a, m, k_end, A_INNER ? k : m, (flags & WIDE_A) != 0};
  Operand<TILE, THREADS, B_INNER> y = {b, n, k_end, B_INNER ? k : n, (flags & WIDE_B) != 0};

  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int my_row = warp / WARPS_ACROSS * 32 + lane / 8 * 4, my_col = warp % WARPS_ACROSS * 64 + lane % 8 * 4;
  float acc[8][8];
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) acc[i][j] = 0.0f;

  x.fetch(row0, k_begin);
  y.fetch(col0, k_begin);
  x.put(a_stage);
  y.put(b_stage);
  __syncthreads();
  int half = 0;
  for (int k0 = k_begin; k0 < k_end; k0 += STAGE) {
    bool more = k0 + STAGE < k_end;
    if (more) {
      x.fetch(row0, k0 + STAGE);
      y.fetch(col0, k0 + STAGE);
    }
    const float* as = a_stage + half * HALF + my_row;
    const float* bs = b_stage + half * HALF + my_col;
#pragma unroll
    for (int step = 0; step < STAGE; step++) {
      float4 a0 = load4(as + step * (TILE + PAD)), a1 = load4(as + step * (TILE + PAD) + 16);
      float4 b0 = load4(bs + step * (TILE + PAD)), b1 = load4(bs + step * (TILE + PAD) + 32);
      float av[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
      float bv[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) acc[i][j] = fmaf(av[i], bv[j], acc[i][j]);
    }
    if (more) {
      half ^= 1;
      x.put(a_stage + half * HALF);
      y.put(b_stage + half * HALF);
      __syncthreads();
    }
  }

  c += static_cast<size_t>(blockIdx.z) * m * n;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int row = row0 + my_row + i % 4 + i / 4 * 16;
    if (row >= m) continue;
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      int col = col0 + my_col + j * 8;
      float* to = c + static_cast<size_t>(row) * n + col;
      if ((flags & WIDE_C) && col + 4 <= n) {
        float4 v = make_float4(acc[i][j], acc[i][j + 1], acc[i][j + 2], acc[i][j + 3]);
        if (flags & ACCUMULATE) {
          float4 old = load4(to);
          v = make_float4(old.x + v.x, old.y + v.y, old.z + v.z, old.w + v.w);
        }
        store4(to, v);
      } else {
#pragma unroll
        for (int e = 0; e < 4; e++)
          if (col + e < n) to[e] = (flags & ACCUMULATE ? to[e] : 0.0f) + acc[i][j + e];
      }
    }
  }
}

#define SGEMM(name, tile, a_inner, b_inner)                                                                    \
  extern "C" __global__ void __launch_bounds__(tile* tile / 64, tile == 128 ? 2 : 8)                           \
      name(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, int m, int n, int k, \
           int chunk, int flags) {                                                                             \
    sgemm<tile, a_inner, b_inner>(a, b, c, m, n, k, chunk, flags);                                             \
  }

SGEMM(sgemm_nt_128, 128, true, true)
SGEMM(sgemm_nn_128, 128, true, false)
SGEMM(sgemm_tn_128, 128, false, false)
SGEMM(sgemm_nt_64, 64, true, true)
SGEMM(sgemm_nn_64, 64, true, false)
SGEMM(sgemm_tn_64, 64, false, false)

/// c[i] = (accumulate ? c[i] : 0) + sum over p of parts[p, i], in order
extern "C" __global__ void __launch_bounds__(256)
    sgemm_sum(const float* __restrict__ parts, float* __restrict__ c, int count, int length, int accumulate) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < length; i += gridDim.x * blockDim.x) {
    float sum = accumulate ? c[i] : 0.0f;
    for (int p = 0; p < count; p++) sum += parts[static_cast<size_t>(p) * length + i];
    c[i] = sum;
  }
}
