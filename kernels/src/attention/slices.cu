// The attention of `kernel.cu` for heads of up to 256 values. Three tiles of such rows do not fit 48 KB of shared memory,
// so only what a block keeps all along stays there whole: its queries (forward), its keys and values (gradient of keys),
// its queries and their d_out (gradient of queries). What it walks over passes through one place in slices of SLICE
// columns, first for the scores, then again for the sums. Follows `tiles.cuh`.
//
// A whole tile is [SLICES, rows, SLICE]. Slices that begin at head_dim or beyond are neither loaded nor computed, so a
// head of 160 values costs three quarters of one of 256.

constexpr int SLICE = 64, SLICES = 4, GROUPS = SLICE / 4, COUNT = SLICE / 16;

/// Columns SLICE c .. of rows first .. first + ROWS; those from `end` and `head_dim` on are zero.
template <int ROWS>
__device__ __forceinline__ void load_slice(float4* to, const float* x, int c, int first, int end, int stride,
                                           int head_dim, bool wide) {
  // what follows from the thread is computed at every load: the compiler would keep it, and there is no register left
  int thread = threadIdx.x;
  asm volatile("" : "+r"(thread));
  constexpr int STEP = THREADS / GROUPS;
  int g = thread % GROUPS, row = thread / GROUPS, from = (first + row) * stride;
#pragma unroll 4
  for (int r = row; r < ROWS; r += STEP, from += STEP * stride) {
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (first + r < end) v = fetch4(x + from, c * SLICE + 4 * g, head_dim, wide);
    to[r * GROUPS + (g ^ swap<SLICE>(r))] = v;
  }
}

template <int ROWS>
__device__ __forceinline__ void load_whole(float4* to, const float* x, int first, int end, int stride, int head_dim,
                                           bool wide) {
  for (int c = 0; c * SLICE < head_dim; c++)
    load_slice<ROWS>(to + c * ROWS * GROUPS, x, c, first, end, stride, head_dim, wide);
}

/// s[i][j] = <row ty + 8 i of a, row tx + 16 j of b>. One is whole in shared memory; the other, of ROWS rows of x from
/// `first` on, passes through `slice`. Everybody must be done with `slice` before, and is after.
template <int I, int J, int ROWS, bool A_IS_WHOLE>
__device__ __forceinline__ void dots_of_slices(const float4* whole, float4* slice, const float* x, int first, int end,
                                               int stride, int head_dim, bool wide, int ty, int tx,
                                               float (&s)[I][J]) {
  constexpr int WHOLE_ROWS = A_IS_WHOLE ? I * TY : J * TX;
  clear_scores<I, J>(s);
#pragma unroll 1
  for (int c = 0; c * SLICE < head_dim; c++) {
    load_slice<ROWS>(slice, x, c, first, end, stride, head_dim, wide);
    __syncthreads();
    const float4* kept = whole + c * WHOLE_ROWS * GROUPS;
    add_dots<I, J, SLICE>(A_IS_WHOLE ? kept : slice, A_IS_WHOLE ? slice : kept, ty, tx, s);
    __syncthreads();
  }
}

/// acc[c][i][column of slice c] += sum over r < ROWS of w[ty + 8 i, r] x[first + r, column]; x passes through `slice`.
/// Everybody must be done with `slice` before, and may be at work on it after. The first barrier also shows `w` to all.
template <int I, int ROWS>
__device__ __forceinline__ void accumulate_slices(const float4* w, float4* slice, const float* x, int first, int end,
                                                  int stride, int head_dim, bool wide, int ty, int tx,
                                                  float (&acc)[SLICES][I][COUNT]) {
#pragma unroll
  for (int c = 0; c < SLICES; c++) {
    if (c * SLICE >= head_dim) break;
    if (c > 0) __syncthreads();
    load_slice<ROWS>(slice, x, c, first, end, stride, head_dim, wide);
    __syncthreads();
    accumulate<I, ROWS, SLICE>(w, slice, ty, tx, acc[c]);
  }
}

template <int I> __device__ __forceinline__ void clear_slices(float (&acc)[SLICES][I][COUNT]) {
#pragma unroll
  for (int c = 0; c < SLICES; c++) clear<I, SLICE>(acc[c]);
}

template <int I>
__device__ __forceinline__ void write_slices(float* to, int stride, int first, int end, int head_dim, int ty, int tx,
                                             const float (&acc)[SLICES][I][COUNT], const float (&factor)[I]) {
#pragma unroll
  for (int c = 0; c < SLICES; c++)
    write<I, SLICE>(to + c * SLICE, stride, first, end, head_dim - c * SLICE, ty, tx, acc[c], factor);
}

/// Block (query tile, head, sequence).
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_256(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                  const int* __restrict__ starts, const int2* __restrict__ entries, const Bits* __restrict__ bits,
                  float* __restrict__ out, float* __restrict__ lse, int q_len, int k_len, int group_size, int head_dim,
                  int q_stride, int kv_stride, int flags, float scale) {
  constexpr int BQ = 32, BK = 32, I = BQ / TY, J = BK / TX;
  DYNAMIC_SHARED(float4, memory);
  float4 *q_tile = memory, *slice = q_tile + SLICES * BQ * GROUPS, *p_tile = slice + BK * GROUPS;
  int ty = threadIdx.x / TX, tx = threadIdx.x % TX;
  int q0 = blockIdx.x * BQ, head = blockIdx.y, heads = gridDim.y;
  int q_row = blockIdx.z * q_len;
  int kv_at = blockIdx.z * k_len * kv_stride + head / group_size * head_dim;
  bool wide = flags & WIDE;
  load_whole<BQ>(q_tile, q + q_row * q_stride + head * head_dim, q0, q_len, q_stride, head_dim, wide);

  float acc[SLICES][I][COUNT], top[I], total[I];
  clear_slices<I>(acc);
#pragma unroll
  for (int i = 0; i < I; i++) top[i] = LOWEST, total[i] = 0.0f;
  float to_log2 = scale * LOG2E;
  int tiles = (q_len + MASK_TILE - 1) / MASK_TILE;
  int list = (flags & SHARED_MASK ? 0 : blockIdx.z * tiles) + q0 / MASK_TILE;
  for (int e = starts[list]; e < starts[list + 1]; e++) {
    int2 entry = entries[e];
    for (int k0 = entry.x * MASK_TILE; k0 < min(k_len, (entry.x + 1) * MASK_TILE); k0 += BK) {
      unsigned open = open_pairs<I, J>(bits, entry.y, q0, k0, q_len, k_len, ty, tx);
      // also: everybody is done with the previous values
      if (!__syncthreads_or(open != 0)) continue;
      float s[I][J];
      dots_of_slices<I, J, BK, true>(q_tile, slice, k + kv_at, k0, k_len, kv_stride, head_dim, wide, ty, tx, s);
#pragma unroll
      for (int i = 0; i < I; i++) {
        float shrink = raise_top<J>(s[i], open >> J * i, to_log2, top[i]);
        total[i] *= shrink;
#pragma unroll
        for (int c = 0; c < SLICES * COUNT; c++) acc[c / COUNT][i][c % COUNT] *= shrink;
        put_weights<J, BK>(p_tile, ty + TY * i, tx, s[i], open >> J * i, top[i], total[i]);
      }
      accumulate_slices<I, BK>(p_tile, slice, v + kv_at, k0, k_len, kv_stride, head_dim, wide, ty, tx, acc);
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
  write_slices<I>(out, heads * head_dim, q0, q_len, head_dim, ty, tx, acc, factor);
}

/// dk and dv: block (key tile, kv head, sequence), over the query heads of the group and the queries that see it.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_backward_keys_256(const float* __restrict__ d_out, const float* __restrict__ q,
                                const float* __restrict__ k, const float* __restrict__ v,
                                const float* __restrict__ lse, const float* __restrict__ delta,
                                const int* __restrict__ starts, const int2* __restrict__ entries,
                                const Bits* __restrict__ bits, float* __restrict__ dk, float* __restrict__ dv,
                                int length, int group_size, int head_dim, int stride, int flags, float scale) {
  constexpr int BQ = 32, BK = 16, I = BQ / TY, J = BK / TX, KI = BK / TY;
  DYNAMIC_SHARED(float4, memory);
  float4 *k_tile = memory, *v_tile = k_tile + SLICES * BK * GROUPS, *slice = v_tile + SLICES * BK * GROUPS;
  // [BK keys, BQ queries]: P and dS
  float4 *p_tile = slice + BQ * GROUPS, *s_tile = p_tile + BK * BQ / 4;
  int ty = threadIdx.x / TX, tx = threadIdx.x % TX;
  int k0 = blockIdx.x * BK, kv_head = blockIdx.y, heads = gridDim.y * group_size, width = heads * head_dim;
  int row = blockIdx.z * length;
  bool wide = flags & WIDE;
  int kv_at = row * stride + kv_head * head_dim;
  load_whole<BK>(k_tile, k + kv_at, k0, length, stride, head_dim, wide);
  load_whole<BK>(v_tile, v + kv_at, k0, length, stride, head_dim, wide);
  float d_key[SLICES][KI][COUNT], d_value[SLICES][KI][COUNT], one[KI];
  clear_slices<KI>(d_key);
  clear_slices<KI>(d_value);
#pragma unroll
  for (int i = 0; i < KI; i++) one[i] = 1.0f;
  int tiles = (length + MASK_TILE - 1) / MASK_TILE;
  int list = (flags & SHARED_MASK ? 0 : blockIdx.z * tiles) + k0 / MASK_TILE;
  for (int head = kv_head * group_size; head < (kv_head + 1) * group_size; head++) {
    const float *q_rows = q + row * stride + head * head_dim, *o_rows = d_out + row * width + head * head_dim;
    for (int e = starts[list]; e < starts[list + 1]; e++) {
      int2 entry = entries[e];
      for (int q0 = entry.x * MASK_TILE; q0 < min(length, (entry.x + 1) * MASK_TILE); q0 += BQ) {
        unsigned open = open_pairs<I, J>(bits, entry.y, q0, k0, length, length, ty, tx);
        // also: everybody is done with the previous slice and weights
        if (!__syncthreads_or(open != 0)) continue;
        float s[I][J], dp[I][J], row_lse[I], row_delta[I];
        dots_of_slices<I, J, BQ, false>(k_tile, slice, q_rows, q0, length, stride, head_dim, wide, ty, tx, s);
        dots_of_slices<I, J, BQ, false>(v_tile, slice, o_rows, q0, length, width, head_dim, wide, ty, tx, dp);
        row_values<I>(lse, row * heads + head, q0, length, heads, ty, row_lse);
        row_values<I>(delta, row * heads + head, q0, length, heads, ty, row_delta);
        score_gradients<I, J>(s, dp, open, row_lse, row_delta, scale);
#pragma unroll
        for (int i = 0; i < I; i++)
#pragma unroll
          for (int j = 0; j < J; j++) {
            value<BQ>(p_tile, tx + TX * j, ty + TY * i) = s[i][j];
            value<BQ>(s_tile, tx + TX * j, ty + TY * i) = dp[i][j];
          }
        accumulate_slices<KI, BQ>(p_tile, slice, o_rows, q0, length, width, head_dim, wide, ty, tx, d_value);
        __syncthreads();
        accumulate_slices<KI, BQ>(s_tile, slice, q_rows, q0, length, stride, head_dim, wide, ty, tx, d_key);
      }
    }
  }
  write_slices<KI>(dk + kv_at, stride, k0, length, head_dim, ty, tx, d_key, one);
  write_slices<KI>(dv + kv_at, stride, k0, length, head_dim, ty, tx, d_value, one);
}

/// dq: block (query tile, head, sequence), over the keys it sees.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_backward_queries_256(const float* __restrict__ d_out, const float* __restrict__ q,
                                   const float* __restrict__ k, const float* __restrict__ v,
                                   const float* __restrict__ lse, const float* __restrict__ delta,
                                   const int* __restrict__ starts, const int2* __restrict__ entries,
                                   const Bits* __restrict__ bits, float* __restrict__ dq, int length, int group_size,
                                   int head_dim, int stride, int flags, float scale) {
  constexpr int BQ = 16, BK = 32, I = BQ / TY, J = BK / TX;
  DYNAMIC_SHARED(float4, memory);
  float4 *q_tile = memory, *o_tile = q_tile + SLICES * BQ * GROUPS, *slice = o_tile + SLICES * BQ * GROUPS;
  // [BQ queries, BK keys]: dS
  float4* s_tile = slice + BK * GROUPS;
  int ty = threadIdx.x / TX, tx = threadIdx.x % TX;
  int q0 = blockIdx.x * BQ, head = blockIdx.y, heads = gridDim.y, width = heads * head_dim;
  int row = blockIdx.z * length;
  bool wide = flags & WIDE;
  int q_at = row * stride + head * head_dim, kv_at = row * stride + head / group_size * head_dim;
  load_whole<BQ>(q_tile, q + q_at, q0, length, stride, head_dim, wide);
  load_whole<BQ>(o_tile, d_out + row * width + head * head_dim, q0, length, width, head_dim, wide);
  float d_query[SLICES][I][COUNT], one[I], row_lse[I], row_delta[I];
  clear_slices<I>(d_query);
  row_values<I>(lse, row * heads + head, q0, length, heads, ty, row_lse);
  row_values<I>(delta, row * heads + head, q0, length, heads, ty, row_delta);
#pragma unroll
  for (int i = 0; i < I; i++) one[i] = 1.0f;
  int tiles = (length + MASK_TILE - 1) / MASK_TILE;
  int list = (flags & SHARED_MASK ? 0 : blockIdx.z * tiles) + q0 / MASK_TILE;
  for (int e = starts[list]; e < starts[list + 1]; e++) {
    int2 entry = entries[e];
    for (int k0 = entry.x * MASK_TILE; k0 < min(length, (entry.x + 1) * MASK_TILE); k0 += BK) {
      unsigned open = open_pairs<I, J>(bits, entry.y, q0, k0, length, length, ty, tx);
      // also: everybody is done with the previous slice
      if (!__syncthreads_or(open != 0)) continue;
      float s[I][J], dp[I][J];
      dots_of_slices<I, J, BK, true>(q_tile, slice, k + kv_at, k0, length, stride, head_dim, wide, ty, tx, s);
      dots_of_slices<I, J, BK, true>(o_tile, slice, v + kv_at, k0, length, stride, head_dim, wide, ty, tx, dp);
      score_gradients<I, J>(s, dp, open, row_lse, row_delta, scale);
#pragma unroll
      for (int i = 0; i < I; i++)
#pragma unroll
        for (int j = 0; j < J; j++) value<BK>(s_tile, ty + TY * i, tx + TX * j) = dp[i][j];
      accumulate_slices<I, BK>(s_tile, slice, k + kv_at, k0, length, stride, head_dim, wide, ty, tx, d_query);
    }
  }
  write_slices<I>(dq + q_at, stride, q0, length, head_dim, ty, tx, d_query, one);
}
