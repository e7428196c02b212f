// Parts of the attention kernels: tiles of rows in shared memory, products of tiles, the mask. The host puts this text
// before each file of kernels in this folder.
//
// A block has 128 threads as TY x TX = 8 x 16 and works on BQ queries and BK keys at a time: thread (ty, tx) owns
// queries ty + 8 i and keys tx + 16 j of a score tile, and D / 16 columns of an accumulator's rows ty + 8 i. Rows of D
// values are zero beyond head_dim. Tiles lie in shared memory with their 16-byte groups permuted by row, so that neither
// walks along rows nor along columns meet in a bank.
//
// The mask is a list of live 64 x 64 tiles: those of query tile t of sequence b are entries[starts[i] ..
// starts[i + 1]] with i = (shared ? 0 : b) tiles + t, each {key tile, index of its bits or -1 for a full one}; bits
// are one 64-bit word a query. Empty tiles cost nothing. The gradient of keys and values walks over the transposed
// list.
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

template <int I, int J> __device__ __forceinline__ void clear_scores(float (&s)[I][J]) {
#pragma unroll
  for (int i = 0; i < I; i++)
#pragma unroll
    for (int j = 0; j < J; j++) s[i][j] = 0.0f;
}

/// s[i][j] += <a[ty + 8 i], b[tx + 16 j]> over rows of D values
template <int I, int J, int D>
__device__ __forceinline__ void add_dots(const float4* a, const float4* b, int ty, int tx, float (&s)[I][J]) {
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

/// As `add_dots`, from zero.
template <int I, int J, int D>
__device__ __forceinline__ void dots(const float4* a, const float4* b, int ty, int tx, float (&s)[I][J]) {
  clear_scores<I, J>(s);
  add_dots<I, J, D>(a, b, ty, tx, s);
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

/// Multiplies a row of scores by `to_log2`, puts LOWEST where the pair is closed, and raises `top` to the largest. Gives
/// what earlier weights of the row must be multiplied by.
template <int J>
__device__ __forceinline__ float raise_top(float (&s)[J], unsigned open, float to_log2, float& top) {
  float most = top;
#pragma unroll
  for (int j = 0; j < J; j++) {
    s[j] = open >> j & 1 ? s[j] * to_log2 : LOWEST;
    most = fmaxf(most, s[j]);
  }
  most = row_max(most);
  float shrink = exp2f(top - most);
  top = most;
  return shrink;
}
/// Weights of this thread's keys in row r of a tile of BK keys, zero where the pair is closed; adds them to `total`.
template <int J, int BK>
__device__ __forceinline__ void put_weights(float4* tile, int r, int tx, const float (&s)[J], unsigned open, float top,
                                            float& total) {
#pragma unroll
  for (int j = 0; j < J; j++) {
    float p = open >> j & 1 ? exp2f(s[j] - top) : 0.0f;
    total += p;
    value<BK>(tile, r, tx + TX * j) = p;
  }
}

/// Mask of a batch; the transposed list has the same layout with queries and keys exchanged.
struct Live {
  const int* starts;
  const int2* entries;
  const Bits* bits;
};

constexpr int WIDE = 1, SHARED_MASK = 2;

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
