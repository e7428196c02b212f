// out = softmax(scale q k^T) v under a compiled mask, and its gradients (Dao, arXiv 2307.08691), for heads of up to 128
// values: scores exist for one tile at a time, backward recomputes them from the log-sum-exp. Follows `tiles.cuh`.
//
// Rows of D values are zero beyond head_dim, so one kernel serves every head_dim up to D. Two backward kernels, one over
// keys and one over queries, compute the scores twice and need no atomics: the bits of a gradient do not depend on the
// order of blocks.

// ---- forward: block (query tile, head, sequence) ----

template <int D, int BQ, int BK>
__device__ __forceinline__ void forward(const float* q, const float* k, const float* v, Live live, float* out,
                                        float* lse, int q_len, int k_len, int group_size, int head_dim, int q_stride,
                                        int kv_stride, int flags, float scale) {
  constexpr int I = BQ / TY, J = BK / TX;
  DYNAMIC_SHARED(float4, memory);
  float4* q_tile = memory;
  // the keys' place serves for the weights once the scores are known
  float4* k_tile = q_tile + BQ * D / 4;
  float4* v_tile = k_tile + (D > BQ ? D : BQ) * BK / 4;
  int ty = threadIdx.x / TX, tx = threadIdx.x % TX;
  int q0 = blockIdx.x * BQ, head = blockIdx.y, heads = gridDim.y;
  int q_row = blockIdx.z * q_len;
  int kv_at = blockIdx.z * k_len * kv_stride + head / group_size * head_dim;
  bool wide = flags & WIDE;
  load_tile<BQ, D>(q_tile, q + q_row * q_stride + head * head_dim, q0, q_len, q_stride, head_dim, wide);

  float acc[I][D / 16], top[I], total[I];
  clear<I, D>(acc);
#pragma unroll
  for (int i = 0; i < I; i++) top[i] = LOWEST, total[i] = 0.0f;
  float to_log2 = scale * LOG2E;
  int tiles = (q_len + MASK_TILE - 1) / MASK_TILE;
  int list = (flags & SHARED_MASK ? 0 : blockIdx.z * tiles) + q0 / MASK_TILE;
  for (int e = live.starts[list]; e < live.starts[list + 1]; e++) {
    int2 entry = live.entries[e];
    for (int k0 = entry.x * MASK_TILE; k0 < min(k_len, (entry.x + 1) * MASK_TILE); k0 += BK) {
      unsigned open = open_pairs<I, J>(live.bits, entry.y, q0, k0, q_len, k_len, ty, tx);
      // also: everybody is done with the previous tile
      if (!__syncthreads_or(open != 0)) continue;
      load_tile<BK, D>(k_tile, k + kv_at, k0, k_len, kv_stride, head_dim, wide);
      load_tile<BK, D>(v_tile, v + kv_at, k0, k_len, kv_stride, head_dim, wide);
      __syncthreads();
      float s[I][J];
      dots<I, J, D>(q_tile, k_tile, ty, tx, s);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < I; i++) {
        float shrink = raise_top<J>(s[i], open >> J * i, to_log2, top[i]);
        total[i] *= shrink;
#pragma unroll
        for (int c = 0; c < D / 16; c++) acc[i][c] *= shrink;
        put_weights<J, BK>(k_tile, ty + TY * i, tx, s[i], open >> J * i, top[i], total[i]);
      }
      // a row of weights is written and read by one half of a warp
      __syncwarp();
      accumulate<I, BK, D>(k_tile, v_tile, ty, tx, acc);
    }
  }
  float factor[I];
#pragma unroll
  for (int i = 0; i < I; i++) {
    float sum = row_sum(total[i]);
    factor[i] = sum > 0.0f ? 1.0f / sum : 0.0f;
    int query = q0 + ty + TY * i;
    if (tx == 0 && query < q_len)
      lse[(q_row + query) * heads + head] = sum > 0.0f ? (top[i] + log2f(sum)) * LN2 : negative_infinity();
  }
  out += q_row * heads * head_dim + head * head_dim;
  write<I, D>(out, heads * head_dim, q0, q_len, head_dim, ty, tx, acc, factor);
}

#define FORWARD(name, d, bq, bk)                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                        \
      name(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,                 \
           const int* __restrict__ starts, const int2* __restrict__ entries, const Bits* __restrict__ bits,       \
           float* __restrict__ out, float* __restrict__ lse, int q_len, int k_len, int group_size, int head_dim,  \
           int q_stride, int kv_stride, int flags, float scale) {                                                 \
    forward<d, bq, bk>(q, k, v, Live{starts, entries, bits}, out, lse, q_len, k_len, group_size, head_dim, q_stride, \
                       kv_stride, flags, scale);                                                                  \
  }
FORWARD(attention_32, 32, 64, 64)
FORWARD(attention_64, 64, 64, 64)
FORWARD(attention_128, 128, 32, 32)

// ---- backward ----

/// delta[row, head] = <d_out, out>, a warp each
extern "C" __global__ void __launch_bounds__(256)
    attention_delta(const float* __restrict__ d_out, const float* __restrict__ out, float* __restrict__ delta,
                    int count, int head_dim) {
  int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int i = blockIdx.x * warps + threadIdx.x / 32; i < count; i += gridDim.x * warps) {
    size_t at = static_cast<size_t>(i) * head_dim;
    float sum = 0.0f;
    for (int c = lane; c < head_dim; c += 32) sum = fmaf(d_out[at + c], out[at + c], sum);
    sum = warp_sum(sum);
    if (lane == 0) delta[i] = sum;
  }
}

/// dk and dv: block (key tile, kv head, sequence), over the query heads of the group and the queries that see it.
template <int D, int B>
__device__ __forceinline__ void backward_keys(const float* d_out, const float* q, const float* k, const float* v,
                                              const float* lse, const float* delta, Live live, float* dk, float* dv,
                                              int length, int group_size, int head_dim, int stride, int flags,
                                              float scale) {
  constexpr int I = B / TY, J = B / TX;
  DYNAMIC_SHARED(float4, memory);
  float4 *k_tile = memory, *v_tile = k_tile + B * D / 4, *q_tile = v_tile + B * D / 4, *o_tile = q_tile + B * D / 4;
  // [B keys, B queries]: P and dS
  float4 *p_tile = o_tile + B * D / 4, *s_tile = p_tile + B * B / 4;
  int ty = threadIdx.x / TX, tx = threadIdx.x % TX;
  int k0 = blockIdx.x * B, kv_head = blockIdx.y, heads = gridDim.y * group_size, width = heads * head_dim;
  int row = blockIdx.z * length;
  bool wide = flags & WIDE;
  int kv_at = row * stride + kv_head * head_dim;
  load_tile<B, D>(k_tile, k + kv_at, k0, length, stride, head_dim, wide);
  load_tile<B, D>(v_tile, v + kv_at, k0, length, stride, head_dim, wide);
  float d_key[I][D / 16], d_value[I][D / 16], one[I];
  clear<I, D>(d_key);
  clear<I, D>(d_value);
#pragma unroll
  for (int i = 0; i < I; i++) one[i] = 1.0f;
  int tiles = (length + MASK_TILE - 1) / MASK_TILE;
  int list = (flags & SHARED_MASK ? 0 : blockIdx.z * tiles) + k0 / MASK_TILE;
  for (int head = kv_head * group_size; head < (kv_head + 1) * group_size; head++) {
    for (int e = live.starts[list]; e < live.starts[list + 1]; e++) {
      int2 entry = live.entries[e];
      for (int q0 = entry.x * MASK_TILE; q0 < min(length, (entry.x + 1) * MASK_TILE); q0 += B) {
        unsigned open = open_pairs<I, J>(live.bits, entry.y, q0, k0, length, length, ty, tx);
        if (!__syncthreads_or(open != 0)) continue;
        load_tile<B, D>(q_tile, q + row * stride + head * head_dim, q0, length, stride, head_dim, wide);
        load_tile<B, D>(o_tile, d_out + row * width + head * head_dim, q0, length, width, head_dim, wide);
        __syncthreads();
        float s[I][J], dp[I][J], row_lse[I], row_delta[I];
        row_values<I>(lse, row * heads + head, q0, length, heads, ty, row_lse);
        row_values<I>(delta, row * heads + head, q0, length, heads, ty, row_delta);
        dots<I, J, D>(q_tile, k_tile, ty, tx, s);
        dots<I, J, D>(o_tile, v_tile, ty, tx, dp);
        score_gradients<I, J>(s, dp, open, row_lse, row_delta, scale);
#pragma unroll
        for (int i = 0; i < I; i++)
#pragma unroll
          for (int j = 0; j < J; j++) {
            value<B>(p_tile, tx + TX * j, ty + TY * i) = s[i][j];
            value<B>(s_tile, tx + TX * j, ty + TY * i) = dp[i][j];
          }
        __syncthreads();
        accumulate<I, B, D>(p_tile, o_tile, ty, tx, d_value);
        accumulate<I, B, D>(s_tile, q_tile, ty, tx, d_key);
      }
    }
  }
  write<I, D>(dk + kv_at, stride, k0, length, head_dim, ty, tx, d_key, one);
  write<I, D>(dv + kv_at, stride, k0, length, head_dim, ty, tx, d_value, one);
}

/// dq: block (query tile, head, sequence), over the keys it sees.
template <int D, int B>
__device__ __forceinline__ void backward_queries(const float* d_out, const float* q, const float* k, const float* v,
                                                 const float* lse, const float* delta, Live live, float* dq,
                                                 int length, int group_size, int head_dim, int stride, int flags,
                                                 float scale) {
  constexpr int I = B / TY, J = B / TX;
  DYNAMIC_SHARED(float4, memory);
  float4 *q_tile = memory, *o_tile = q_tile + B * D / 4, *k_tile = o_tile + B * D / 4, *v_tile = k_tile + B * D / 4;
  // [B queries, B keys]: dS
  float4* s_tile = v_tile + B * D / 4;
  int ty = threadIdx.x / TX, tx = threadIdx.x % TX;
  int q0 = blockIdx.x * B, head = blockIdx.y, heads = gridDim.y, width = heads * head_dim;
  int row = blockIdx.z * length;
  bool wide = flags & WIDE;
  int q_at = row * stride + head * head_dim, kv_at = row * stride + head / group_size * head_dim;
  load_tile<B, D>(q_tile, q + q_at, q0, length, stride, head_dim, wide);
  load_tile<B, D>(o_tile, d_out + row * width + head * head_dim, q0, length, width, head_dim, wide);
  float d_query[I][D / 16], one[I], row_lse[I], row_delta[I];
  clear<I, D>(d_query);
  row_values<I>(lse, row * heads + head, q0, length, heads, ty, row_lse);
  row_values<I>(delta, row * heads + head, q0, length, heads, ty, row_delta);
#pragma unroll
  for (int i = 0; i < I; i++) one[i] = 1.0f;
  int tiles = (length + MASK_TILE - 1) / MASK_TILE;
  int list = (flags & SHARED_MASK ? 0 : blockIdx.z * tiles) + q0 / MASK_TILE;
  for (int e = live.starts[list]; e < live.starts[list + 1]; e++) {
    int2 entry = live.entries[e];
    for (int k0 = entry.x * MASK_TILE; k0 < min(length, (entry.x + 1) * MASK_TILE); k0 += B) {
      unsigned open = open_pairs<I, J>(live.bits, entry.y, q0, k0, length, length, ty, tx);
      if (!__syncthreads_or(open != 0)) continue;
      load_tile<B, D>(k_tile, k + kv_at, k0, length, stride, head_dim, wide);
      load_tile<B, D>(v_tile, v + kv_at, k0, length, stride, head_dim, wide);
      __syncthreads();
      float s[I][J], dp[I][J];
      dots<I, J, D>(q_tile, k_tile, ty, tx, s);
      dots<I, J, D>(o_tile, v_tile, ty, tx, dp);
      score_gradients<I, J>(s, dp, open, row_lse, row_delta, scale);
#pragma unroll
      for (int i = 0; i < I; i++)
#pragma unroll
        for (int j = 0; j < J; j++) value<B>(s_tile, ty + TY * i, tx + TX * j) = dp[i][j];
      // a row of dS is written and read by one half of a warp
      __syncwarp();
      accumulate<I, B, D>(s_tile, k_tile, ty, tx, d_query);
    }
  }
  write<I, D>(dq + q_at, stride, q0, length, head_dim, ty, tx, d_query, one);
}

#define BACKWARD(keys, queries, d, b)                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                         \
      keys(const float* __restrict__ d_out, const float* __restrict__ q, const float* __restrict__ k,              \
           const float* __restrict__ v, const float* __restrict__ lse, const float* __restrict__ delta,            \
           const int* __restrict__ starts, const int2* __restrict__ entries, const Bits* __restrict__ bits,        \
           float* __restrict__ dk, float* __restrict__ dv, int length, int group_size, int head_dim, int stride,   \
           int flags, float scale) {                                                                               \
    backward_keys<d, b>(d_out, q, k, v, lse, delta, Live{starts, entries, bits}, dk, dv, length, group_size,       \
                        head_dim, stride, flags, scale);                                                           \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                         \
      queries(const float* __restrict__ d_out, const float* __restrict__ q, const float* __restrict__ k,           \
              const float* __restrict__ v, const float* __restrict__ lse, const float* __restrict__ delta,         \
              const int* __restrict__ starts, const int2* __restrict__ entries, const Bits* __restrict__ bits,     \
              float* __restrict__ dq, int length, int group_size, int head_dim, int stride, int flags,             \
              float scale) {                                                                                       \
    backward_queries<d, b>(d_out, q, k, v, lse, delta, Live{starts, entries, bits}, dq, length, group_size,        \
                           head_dim, stride, flags, scale);                                                        \
  }
BACKWARD(attention_backward_keys_32, attention_backward_queries_32, 32, 32)
BACKWARD(attention_backward_keys_64, attention_backward_queries_64, 64, 32)
BACKWARD(attention_backward_keys_128, attention_backward_queries_128, 128, 16)
