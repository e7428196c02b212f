// out = softmax(scale q k^T) v under a compiled mask, and its gradients (Dao, arXiv 2307.08691): scores exist for one
// tile at a time, backward recomputes them from the log-sum-exp.
//
// A block has 128 threads as TY x TX = 8 x 16 and works on BQ queries and BK keys at a time: thread (ty, tx) owns
// queries ty + 8 i and keys tx + 16 j of a score tile, and D / 16 columns of an accumulator's rows ty + 8 i. Rows of D
// values are zero beyond head_dim, so one kernel serves every head_dim up to D. Tiles lie in shared memory with their
// 16-byte groups permuted by row, so that neither walks along rows nor along columns meet in a bank.
//
// The mask is a list of live 64 x 64 tiles: those of query tile t of sequence b are entries[starts[i] ..
// starts[i + 1]] with i = (shared ? 0 : b) tiles + t, each {key tile, index of its bits or -1 for a full one}; bits
// are one 64-bit word a query. Empty tiles cost nothing. The gradient of keys and values walks over the transposed
// list. Two backward kernels, one over keys and one over queries, compute the scores twice and need no atomics: the
// bits of a gradient do not depend on the order of blocks.
#include "cuda.cuh"

constexpr int TX = 16, TY = 8, THREADS = TX * TY, MASK_TILE = 64;
constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f;

typedef unsigned long long Bits;

/// The permutation of a row's 16-byte groups, for rows of WIDTH values: group g of row r lies at g ^ swap(r).
template <int WIDTH> __device__ __forceinline__ int swap(int r) { return r & (WIDTH / 4 > 8 ? 7 : WIDTH / 4 - 1); }
template <int WIDTH> __device__ __forceinline__ float& value(float4* tile, int r, int c) {
  return reinterpret_cast<float*>(tile + r * (WIDTH / 4) + (c / 4 ^ swap<WIDTH>(r)))[c % 4];
}

/// Rows first .. first + ROWS of x, those from `end` on and columns from `head_dim` on are zero.
template <int ROWS, int D>
__device__ __forceinline__ void load_tile(float4* tile, const float* x, int first, int end, int stride, int head_dim,
                                          bool wide) {
  constexpr int GROUPS = D / 4, STEP = THREADS / GROUPS;
  int g = threadIdx.x % GROUPS, row = threadIdx.x / GROUPS;
  x += (first + row) * stride;
#pragma unroll 4
  for (int r = row; r < ROWS; r += STEP, x += STEP * stride) {
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (first + r < end) v = fetch4(x, 4 * g, head_dim, wide);
    tile[r * GROUPS + (g ^ swap<D>(r))] = v;
  }
}

/// s[i][j] = <a[ty + 8 i], b[tx + 16 j]> over rows of D values
template <int I, int J, int D>
__device__ __forceinline__ void dots(const float4* a, const float4* b, int ty, int tx, float (&s)[I][J]) {
#pragma unroll
  for (int i = 0; i < I; i++)
#pragma unroll
    for (int j = 0; j < J; j++) s[i][j] = 0.0f;
  // rows 8 and 16 apart are permuted alike
  a += ty * (D / 4), b += tx * (D / 4);
#pragma unroll 1
  for (int g = 0; g < D / 4; g++) {
    const float4 *ag = a + (g ^ swap<D>(ty)), *bg = b + (g ^ swap<D>(tx));
    float4 y[J];
#pragma unroll
    for (int j = 0; j < J; j++) y[j] = bg[TX * j * (D / 4)];
#pragma unroll
    for (int i = 0; i < I; i++) {
      float4 x = ag[TY * i * (D / 4)];
#pragma unroll
      for (int j = 0; j < J; j++)
        s[i][j] = fmaf(x.w, y[j].w, fmaf(x.z, y[j].z, fmaf(x.y, y[j].y, fmaf(x.x, y[j].x, s[i][j]))));
    }
  }
}

/// The columns of a row of D values that thread tx owns: 2 tx of 32, 4 tx of 64, 4 tx and 64 + 4 tx of 128.
template <int D> struct Columns {
  static constexpr int COUNT = D / 16, STEP = COUNT < 4 ? COUNT : 4;
  static __device__ __forceinline__ int of(int tx, int c) { return c / STEP * STEP * TX + tx * STEP + c % STEP; }
  static __device__ __forceinline__ void read(const float4* tile, int r, int tx, float (&x)[COUNT]) {
    if (D == 32) {
      float2 v = reinterpret_cast<const float2*>(tile + r * (D / 4) + (tx / 2 ^ swap<D>(r)))[tx % 2];
      x[0] = v.x, x[1] = v.y;
    } else {
#pragma unroll
      for (int c = 0; c < COUNT; c += 4) {
        float4 v = tile[r * (D / 4) + (of(tx, c) / 4 ^ swap<D>(r))];
        x[c] = v.x, x[c + 1] = v.y, x[(c + 2) % COUNT] = v.z, x[(c + 3) % COUNT] = v.w;
      }
    }
  }
};

/// acc[i][c] += sum over k < K of w[ty + 8 i, k] x[k, column c]; w has rows of K values
template <int I, int K, int D>
__device__ __forceinline__ void accumulate(const float4* w, const float4* x, int ty, int tx,
                                           float (&acc)[I][D / 16]) {
  w += ty * (K / 4);
#pragma unroll 1
  for (int k = 0; k < K; k += 4) {
    const float4* wk = w + (k / 4 ^ swap<K>(ty));
    float y[4][D / 16];
#pragma unroll
    for (int e = 0; e < 4; e++) Columns<D>::read(x, k + e, tx, y[e]);
#pragma unroll
    for (int i = 0; i < I; i++) {
      float4 u = wk[TY * i * (K / 4)];
#pragma unroll
      for (int c = 0; c < D / 16; c++)
        acc[i][c] = fmaf(u.w, y[3][c], fmaf(u.z, y[2][c], fmaf(u.y, y[1][c], fmaf(u.x, y[0][c], acc[i][c]))));
    }
  }
}

template <int I, int D> __device__ __forceinline__ void clear(float (&acc)[I][D / 16]) {
#pragma unroll
  for (int i = 0; i < I; i++)
#pragma unroll
    for (int c = 0; c < D / 16; c++) acc[i][c] = 0.0f;
}

/// to[ty + 8 i][column c] = acc factor[i], rows `stride` apart, rows from `end` and columns from `head_dim` on left out
template <int I, int D>
__device__ __forceinline__ void write(float* to, int stride, int first, int end, int head_dim, int ty, int tx,
                                      const float (&acc)[I][D / 16], const float (&factor)[I]) {
#pragma unroll
  for (int i = 0; i < I; i++) {
    int row = first + ty + TY * i;
    if (row >= end) continue;
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
      int col = Columns<D>::of(tx, c);
      if (col < head_dim) to[row * stride + col] = acc[i][c] * factor[i];
    }
  }
}

/// Which of this thread's pairs are open: bit J i + j for query q0 + ty + 8 i and key k0 + tx + 16 j. `tile` names
/// the words of the mask tile, -1 for a full one.
template <int I, int J>
__device__ __forceinline__ unsigned open_pairs(const Bits* bits, int tile, int q0, int k0, int q_len, int k_len,
                                               int ty, int tx) {
  static_assert(I * J <= 32, "one bit a pair");
  unsigned open = 0;
#pragma unroll 2
  for (int i = 0; i < I; i++) {
    int q = q0 + ty + TY * i;
    if (q >= q_len) continue;
    Bits row = (tile < 0 ? ~0ull : bits[tile * MASK_TILE + q % MASK_TILE]) >> (k0 % MASK_TILE + tx);
#pragma unroll
    for (int j = 0; j < J; j++)
      if (k0 + tx + TX * j < k_len && (row >> (TX * j) & 1)) open |= 1u << (J * i + j);
  }
  return open;
}

/// Over the sixteen threads that share a row.
__device__ __forceinline__ float row_max(float v) {
#pragma unroll
  for (int by = TX / 2; by > 0; by /= 2) v = fmaxf(v, __shfl_xor_sync(ALL, v, by));
  return v;
}
__device__ __forceinline__ float row_sum(float v) {
#pragma unroll
  for (int by = TX / 2; by > 0; by /= 2) v += __shfl_xor_sync(ALL, v, by);
  return v;
}

/// Mask of a batch; the transposed list has the same layout with queries and keys exchanged.
struct Live {
  const int* starts;
  const int2* entries;
  const Bits* bits;
};

constexpr int WIDE = 1, SHARED_MASK = 2;

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
        float most = top[i];
#pragma unroll
        for (int j = 0; j < J; j++) {
          s[i][j] = open >> (J * i + j) & 1 ? s[i][j] * to_log2 : LOWEST;
          most = fmaxf(most, s[i][j]);
        }
        most = row_max(most);
        float shrink = exp2f(top[i] - most);
        top[i] = most;
        total[i] *= shrink;
#pragma unroll
        for (int c = 0; c < D / 16; c++) acc[i][c] *= shrink;
#pragma unroll
        for (int j = 0; j < J; j++) {
          float p = open >> (J * i + j) & 1 ? exp2f(s[i][j] - most) : 0.0f;
          total[i] += p;
          value<BK>(k_tile, ty + TY * i, tx + TX * j) = p;
        }
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

/// From scores and products with d_out to P (in s) and dS (in dp).
template <int I, int J>
__device__ __forceinline__ void score_gradients(float (&s)[I][J], float (&dp)[I][J], unsigned open,
                                                const float (&lse)[I], const float (&delta)[I], float scale) {
#pragma unroll
  for (int i = 0; i < I; i++)
#pragma unroll
    for (int j = 0; j < J; j++) {
      bool is_open = open >> (J * i + j) & 1;
      s[i][j] = is_open ? exp2f((s[i][j] * scale - lse[i]) * LOG2E) : 0.0f;
      dp[i][j] = is_open ? s[i][j] * (dp[i][j] - delta[i]) * scale : 0.0f;
    }
}

/// lse and delta of queries q0 + ty + 8 i; `at` points to the sequence's first row and this head.
template <int I>
__device__ __forceinline__ void row_values(const float* x, int at, int q0, int q_len, int heads, int ty,
                                           float (&to)[I]) {
#pragma unroll
  for (int i = 0; i < I; i++) {
    int query = q0 + ty + TY * i;
    to[i] = query < q_len ? x[at + query * heads] : 0.0f;
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
