// Rows by index and mixtures of rows (`embed/mix.rs`): gathering, and the gradients that add rows into a table.
//
// The order of a sum decides its bits, so no float atomics. Rows of an id are added in two steps, as on the CPU: within
// chunks of 64 rows (scatter_parts), then chunk by chunk to the table (scatter_add_rows), each in ascending order. In both
// the block of row r does the work of a whole id if r is the id's first row, of its chunk or of all, else it ends. It finds
// the id's rows by scanning `ids`, 4 bytes a row that stay in the L2. No sorting, no list to build on the host. An id in
// half of all rows, as the mask is, costs 64 rows and then a value a chunk in a row instead of every row.
#include "cuda.cuh"

/// out[r, i] = scale table[ids[r], i], [rows, width]; a row outside the table gives zeros
template <int V>
__device__ __forceinline__ void gather(const float* table, const unsigned* ids, float* out, int rows, int width,
                                       unsigned table_rows, float scale) {
  int packs = width / V;
  size_t total = static_cast<size_t>(rows) * packs;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < total;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    int row = i / packs, at = i % packs * V;
    unsigned id = ids[row];
    Pack<V> v = {};
    if (id < table_rows) v = Pack<V>::load(table + static_cast<size_t>(id) * width + at);
#pragma unroll
    for (int e = 0; e < V; e++) v.x[e] *= scale;
    v.store(out + static_cast<size_t>(row) * width + at);
  }
}
extern "C" __global__ void __launch_bounds__(256)
    gather_rows(const float* __restrict__ table, const unsigned* __restrict__ ids, float* __restrict__ out, int rows,
                int width, unsigned table_rows, float scale) {
  gather<1>(table, ids, out, rows, width, table_rows, scale);
}
extern "C" __global__ void __launch_bounds__(256)
    gather_rows_wide(const float* __restrict__ table, const unsigned* __restrict__ ids, float* __restrict__ out,
                     int rows, int width, unsigned table_rows, float scale) {
  gather<4>(table, ids, out, rows, width, table_rows, scale);
}

/// Soft embeddings: out[r, i] = scale sum_k weights[r, k] table[ids[r, k], i]; ids and weights [rows, k]
template <int V>
__device__ __forceinline__ void mix(const float* table, const unsigned* ids, const float* weights, float* out, int rows,
                                    int k, int width, unsigned table_rows, float scale) {
  int packs = width / V;
  size_t total = static_cast<size_t>(rows) * packs;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < total;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    int row = i / packs, at = i % packs * V;
    Pack<V> sum = {};
    for (int j = 0; j < k; j++) {
      size_t which = static_cast<size_t>(row) * k + j;
      unsigned id = ids[which];
      if (id >= table_rows) continue;
      Pack<V> v = Pack<V>::load(table + static_cast<size_t>(id) * width + at);
      float w = weights[which] * scale;
#pragma unroll
      for (int e = 0; e < V; e++) sum.x[e] += v.x[e] * w;
    }
    sum.store(out + static_cast<size_t>(row) * width + at);
  }
}
extern "C" __global__ void __launch_bounds__(256)
    mix_rows(const float* __restrict__ table, const unsigned* __restrict__ ids, const float* __restrict__ weights,
             float* __restrict__ out, int rows, int k, int width, unsigned table_rows, float scale) {
  mix<1>(table, ids, weights, out, rows, k, width, table_rows, scale);
}
extern "C" __global__ void __launch_bounds__(256)
    mix_rows_wide(const float* __restrict__ table, const unsigned* __restrict__ ids, const float* __restrict__ weights,
                  float* __restrict__ out, int rows, int k, int width, unsigned table_rows, float scale) {
  mix<4>(table, ids, weights, out, rows, k, width, table_rows, scale);
}

/// d_weights[n] = scale <d[n / k], table[ids[n]]>, one warp a weight
extern "C" __global__ void __launch_bounds__(256)
    mix_weights(const float* __restrict__ table, const unsigned* __restrict__ ids, const float* __restrict__ d,
                float* __restrict__ d_weights, int count, int k, int width, unsigned table_rows, float scale) {
  int warps = gridDim.x * 8;
  for (int n = blockIdx.x * 8 + threadIdx.x / 32; n < count; n += warps) {
    unsigned id = ids[n];
    float sum = 0.0f;
    if (id < table_rows) {
      const float* row = table + static_cast<size_t>(id) * width;
      const float* slope = d + static_cast<size_t>(n / k) * width;
      for (int i = threadIdx.x % 32; i < width; i += 32) sum = fmaf(row[i], slope[i], sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) d_weights[n] = scale * sum;
  }
}

constexpr int THREADS = 128, WARPS = THREADS / 32;
/// Rows of a chunk, and its words of a vote.
constexpr int CHUNK = 64, WORDS = CHUNK / 32;
/// Rows under way at once: one load at a time would wait for each.
constexpr int AT_ONCE = 4;

/// parts[r] = sum of scale d[s], or of scale weights[s] d[s / per], over the rows s of r's chunk with r's id, if r is the
/// first of them; block (row, columns THREADS V y ..)
template <int V>
__device__ __forceinline__ void chunk_sums(unsigned* matches, const float* d, const unsigned* ids, const float* weights,
                                           float* parts, int rows, int per, int width, unsigned table_rows,
                                           float scale) {
  int first = blockIdx.x, start = first / CHUNK * CHUNK, col = (blockIdx.y * THREADS + threadIdx.x) * V;
  unsigned id = ids[first];
  if (id >= table_rows) return;
  int r = start + threadIdx.x;
  bool same = threadIdx.x < CHUNK && r < rows && ids[r] == id;
  if (__syncthreads_or(same && r < first)) return;
  unsigned mine = __ballot_sync(ALL, same);
  if (threadIdx.x % 32 == 0 && threadIdx.x < CHUNK) matches[threadIdx.x / 32] = mine;
  __syncthreads();
  if (col >= width) return;
  Pack<V> sum = {};
  for (int w = 0; w < WORDS; w++) {
    for (unsigned left = matches[w]; left != 0;) {
      Pack<V> v[AT_ONCE];
      float by[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        v[i] = {}, by[i] = 0.0f;
        if (left == 0) continue;
        int row = start + 32 * w + __ffs(left) - 1;
        left &= left - 1;
        by[i] = weights ? weights[row] * scale : scale;
        v[i] = Pack<V>::load(d + static_cast<size_t>(row / per) * width + col);
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
        for (int e = 0; e < V; e++) sum.x[e] += v[i].x[e] * by[i];
    }
  }
  sum.store(parts + static_cast<size_t>(first) * width + col);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    scatter_parts(const float* __restrict__ d, const unsigned* __restrict__ ids, const float* __restrict__ weights,
                  float* __restrict__ parts, int rows, int per, int width, unsigned table_rows, float scale) {
  __shared__ unsigned matches[WORDS];
  chunk_sums<1>(matches, d, ids, weights, parts, rows, per, width, table_rows, scale);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    scatter_parts_wide(const float* __restrict__ d, const unsigned* __restrict__ ids,
                       const float* __restrict__ weights, float* __restrict__ parts, int rows, int per, int width,
                       unsigned table_rows, float scale) {
  __shared__ unsigned matches[WORDS];
  chunk_sums<4>(matches, d, ids, weights, parts, rows, per, width, table_rows, scale);
}

/// table[ids[r]] += the sums of its chunks, which stand at its first row of each; block (row, columns THREADS V y ..)
template <int V>
__device__ __forceinline__ void add_chunks(unsigned* matches, const float* parts, const unsigned* ids, float* table,
                                           int rows, int width, unsigned table_rows) {
  int first = blockIdx.x, col = (blockIdx.y * THREADS + threadIdx.x) * V;
  unsigned id = ids[first];
  if (id >= table_rows) return;
  for (int r0 = 0; r0 < first; r0 += THREADS) {
    int r = r0 + threadIdx.x;
    if (__syncthreads_or(r < first && ids[r] == id)) return;
  }
  float* to = table + static_cast<size_t>(id) * width + col;
  Pack<V> sum = {};
  if (col < width) sum = Pack<V>::load(to);
  for (int r0 = first / CHUNK * CHUNK; r0 < rows; r0 += THREADS) {
    int r = r0 + threadIdx.x;
    unsigned mine = __ballot_sync(ALL, r < rows && ids[r] == id);
    if (threadIdx.x % 32 == 0) matches[threadIdx.x / 32] = mine;
    __syncthreads();
    for (int w = 0; w < WARPS && col < width; w += WORDS) {
      unsigned low = matches[w], high = matches[w + 1];
      if ((low | high) == 0) continue;
      int row = r0 + 32 * w + (low != 0 ? __ffs(low) : 32 + __ffs(high)) - 1;
      Pack<V> v = Pack<V>::load(parts + static_cast<size_t>(row) * width + col);
#pragma unroll
      for (int e = 0; e < V; e++) sum.x[e] += v.x[e];
    }
    __syncthreads();
  }
  if (col < width) sum.store(to);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    scatter_add_rows(const float* __restrict__ parts, const unsigned* __restrict__ ids, float* __restrict__ table,
                     int rows, int width, unsigned table_rows) {
  __shared__ unsigned matches[WARPS];
  add_chunks<1>(matches, parts, ids, table, rows, width, table_rows);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    scatter_add_rows_wide(const float* __restrict__ parts, const unsigned* __restrict__ ids, float* __restrict__ table,
                          int rows, int width, unsigned table_rows) {
  __shared__ unsigned matches[WARPS];
  add_chunks<4>(matches, parts, ids, table, rows, width, table_rows);
}
