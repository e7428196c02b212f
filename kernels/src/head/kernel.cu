// The head's rows, one block a row of logits z [rows, vocab] that a matrix product left in a scratch tile: statistics
// for decoding, or log-probability, entropy and gradient for training. Forbidden ids become minus infinity first.
//
// Sums run online (Milakov and Gimelshein, arXiv 1805.02867): one pass gives maximum, s = sum e^d, t = sum e^d d with
// d = z - maximum, and lse = maximum + ln s, entropy = ln s - t / s. Threads and warps are merged in a fixed order.
#include "cuda.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;

struct Moments {
  float top, s, t, tempered;
};

/// As if the maximum had been `top`, which is not lower.
__device__ __forceinline__ Moments rebased(Moments m, float top, float inverse) {
  float shift = m.top - top, e = expf(shift);
  return {top, m.s * e, (m.t + shift * m.s) * e, m.tempered * expf(shift * inverse)};
}
__device__ __forceinline__ Moments merged(Moments a, Moments b, float inverse) {
  float top = fmaxf(a.top, b.top);
  a = rebased(a, top, inverse), b = rebased(b, top, inverse);
  return {top, a.s + b.s, a.t + b.t, a.tempered + b.tempered};
}

/// Moments of a row; every thread returns the same. `inverse` = 1 / temperature, read only if TEMPERED.
template <bool TEMPERED>
__device__ __forceinline__ Moments moments(const float* z, int vocab, float inverse, Moments* shared) {
  Moments m = {LOWEST, 0.0f, 0.0f, 0.0f};
  for (int v = threadIdx.x; v < vocab; v += THREADS) {
    float x = z[v];
    if (x > m.top) m = rebased(m, x, inverse);
    // minus infinity contributes nothing: clamp before the product
    float d = fmaxf(x - m.top, -100.0f), e = expf(d);
    m.s += e;
    m.t = fmaf(e, d, m.t);
    if (TEMPERED) m.tempered += expf((x - m.top) * inverse);
  }
#pragma unroll
  for (int by = 16; by > 0; by /= 2) {
    Moments other = {__shfl_xor_sync(ALL, m.top, by), __shfl_xor_sync(ALL, m.s, by), __shfl_xor_sync(ALL, m.t, by),
                     TEMPERED ? __shfl_xor_sync(ALL, m.tempered, by) : 0.0f};
    m = merged(m, other, inverse);
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = m;
  __syncthreads();
  m = shared[0];
  for (int w = 1; w < WARPS; w++) m = merged(m, shared[w], inverse);
  return m;
}

__device__ __forceinline__ void forbid(float* z, const unsigned* ids, int count) {
  for (int i = threadIdx.x; i < count; i += THREADS) z[ids[i]] = negative_infinity();
  __syncthreads();
}

/// Sum over the block in a fixed order, once a kernel; every thread returns the same.
__device__ __forceinline__ float2 block_sum(float2 v, float2* shared) {
  v = make_float2(warp_sum(v.x), warp_sum(v.y));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  v = shared[0];
  for (int w = 1; w < WARPS; w++) v = make_float2(v.x + shared[w].x, v.y + shared[w].y);
  return v;
}

/// What a row's noise adds to the loss (`head/mixture.rs`).
struct Mixed {
  float divergence;
  /// sum of p g, and p g of the target and of the observed symbol beyond what every symbol has
  float mean, at_target, at_observed;
};

__device__ __forceinline__ Mixed mixed(const float* z, int vocab, float lse, int target, float alpha, float beta,
                                       int observed, float2* shared) {
  float a = alpha / beta;
  float2 sums = make_float2(0.0f, 0.0f);
  for (int v = threadIdx.x; v < vocab; v += THREADS) {
    float p = expf(z[v] - lse);
    sums.x += log1pf(a * p);
    sums.y += p * beta / (alpha * p + beta);
  }
  sums = block_sum(sums, shared);
  float p = expf(z[target] - lse), q = alpha * p + beta;
  Mixed m;
  m.divergence = (alpha + beta) * logf((alpha + beta) / q) - beta * fmaxf(sums.x - log1pf(a * p), 0.0f);
  m.at_target = -p * alpha * alpha / q;
  m.mean = m.at_target - alpha * sums.y;
  m.at_observed = 0.0f;
  if (observed >= 0) {
    float p = expf(z[observed] - lse), q = alpha * p + beta;
    float r = (observed == target ? alpha + beta : beta) / q;
    // neither r near 1 nor r near 0 may lose its digits
    m.divergence += (r - 1.0f) - (r > 0.5f ? log1pf(r - 1.0f) : logf(r));
    m.at_observed = p * alpha * (1.0f - r) / q;
    m.mean += m.at_observed;
  }
  return m;
}

/// rows [n, 7]: target (bits), c = dL / d ln p(target), e = dL / d entropy, then the noise: alpha, beta, the observed
/// symbol (bits, -1 = none) and its weight w, beta = 0 where there is none. With `backward` z becomes dL / dz:
/// dz_j = c ([j = target] - p_j) - e p_j (ln p_j + entropy) + w p_j (g_j - mean).
extern "C" __global__ void __launch_bounds__(THREADS)
    head_loss(float* z, const float* __restrict__ rows, const unsigned* __restrict__ forbidden, int n_forbidden,
              float* __restrict__ log_p, float* __restrict__ entropies, float* __restrict__ divergences, int vocab,
              int backward) {
  __shared__ Moments shared[WARPS];
  __shared__ float2 pairs[WARPS];
  int row = blockIdx.x;
  z += static_cast<size_t>(row) * vocab;
  forbid(z, forbidden, n_forbidden);
  Moments m = moments<false>(z, vocab, 1.0f, shared);
  rows += 7 * row;
  int target = __float_as_int(rows[0]), observed = __float_as_int(rows[5]);
  float c = rows[1], e = rows[2], alpha = rows[3], beta = rows[4], w = rows[6];
  float log_s = logf(m.s), lse = m.top + log_s, entropy = fmaxf(log_s - m.t / m.s, 0.0f);
  Mixed noise = {0.0f, 0.0f, 0.0f, 0.0f};
  if (beta > 0.0f) noise = mixed(z, vocab, lse, target, alpha, beta, observed, pairs);
  if (threadIdx.x == 0) {
    log_p[row] = z[target] - lse;
    entropies[row] = entropy;
    divergences[row] = noise.divergence;
  }
  if (!backward) return;
  __syncthreads();
  for (int v = threadIdx.x; v < vocab; v += THREADS) {
    float x = z[v], l = fmaxf(x - lse, -100.0f), p = expf(l);
    float d = -p * (c + e * (l + entropy)) + (v == target ? c : 0.0f);
    if (beta > 0.0f) {
      d -= w * p * (alpha * beta / (alpha * p + beta) + noise.mean);
      d += w * ((v == target ? noise.at_target : 0.0f) + (v == observed ? noise.at_observed : 0.0f));
    }
    z[v] = x == negative_infinity() ? 0.0f : d;
  }
}

/// Distillation (`head/distill.rs`): KL(softmax(t / T) || softmax(z / T)) of every row of two tiles of logits, inverse =
/// 1 / T. With `backward` z becomes slope (p - q) / T.
extern "C" __global__ void __launch_bounds__(THREADS)
    head_distill(float* z, float* t, const float* __restrict__ slopes, const unsigned* __restrict__ forbidden,
                 int n_forbidden, float* __restrict__ divergences, int vocab, float inverse, int backward) {
  __shared__ Moments shared[WARPS];
  __shared__ float2 pairs[WARPS];
  int row = blockIdx.x;
  z += static_cast<size_t>(row) * vocab;
  t += static_cast<size_t>(row) * vocab;
  forbid(z, forbidden, n_forbidden);
  forbid(t, forbidden, n_forbidden);
  // every thread goes on with the values it scales here
  for (int v = threadIdx.x; v < vocab; v += THREADS) {
    z[v] *= inverse;
    t[v] *= inverse;
  }
  Moments m = moments<false>(z, vocab, 1.0f, shared);
  float lse = m.top + logf(m.s);
  __syncthreads();
  m = moments<false>(t, vocab, 1.0f, shared);
  float teacher = m.top + logf(m.s);
  float2 sum = make_float2(0.0f, 0.0f);
  for (int v = threadIdx.x; v < vocab; v += THREADS) {
    float l = fmaxf(z[v] - lse, -100.0f), k = fmaxf(t[v] - teacher, -100.0f);
    sum.x += expf(k) * (k - l);
  }
  sum = block_sum(sum, pairs);
  if (threadIdx.x == 0) divergences[row] = fmaxf(sum.x, 0.0f);
  if (!backward) return;
  float c = slopes[row] * inverse;
  for (int v = threadIdx.x; v < vocab; v += THREADS) z[v] = c * (expf(z[v] - lse) - expf(t[v] - teacher));
}

// ---- ranking: the largest (value, lowest id) as one 64-bit number ----

typedef unsigned long long Rank;

/// 0 for minus infinity and for what is no number.
__device__ __forceinline__ Rank rank_of(float x, unsigned id) {
  if (!(x > negative_infinity())) return 0;
  // minus zero ties with zero
  unsigned bits = __float_as_uint(x + 0.0f);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<Rank>(bits) << 32 | (0xffffffffu - id);
}
__device__ __forceinline__ unsigned id_of(Rank r) { return 0xffffffffu - static_cast<unsigned>(r); }

/// The best rank below `limit` of the row; every thread returns the same.
__device__ __forceinline__ Rank best_below(const float* z, int vocab, Rank limit, Rank* shared) {
  Rank best = 0;
  for (int v = threadIdx.x; v < vocab; v += THREADS) {
    Rank r = rank_of(z[v], v);
    if (r < limit && r > best) best = r;
  }
#pragma unroll
  for (int by = 16; by > 0; by /= 2) {
    Rank other = __shfl_xor_sync(ALL, best, by);
    if (other > best) best = other;
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = best;
  __syncthreads();
  for (int w = 0; w < WARPS; w++)
    if (shared[w] > best) best = shared[w];
  __syncthreads();
  return best;
}

// ---- the token race: argmin over v of ln E_v - z_v / T with keyed exponentials (`rng.rs`, `head/race.rs`) ----

/// Philox4x32-10
__device__ __forceinline__ uint4 philox(uint2 key, uint4 c) {
#pragma unroll
  for (int i = 0; i < 10; i++) {
    c = make_uint4(__umulhi(0xCD9E8D57u, c.z) ^ c.y ^ key.x, 0xCD9E8D57u * c.z,
                   __umulhi(0xD2511F53u, c.x) ^ c.w ^ key.y, 0xD2511F53u * c.x);
    key.x += 0x9E3779B9u;
    key.y += 0xBB67AE85u;
  }
  return c;
}

/// u = (hi 2^32 + lo + 1/2) 2^-64
__device__ __forceinline__ float uniform(unsigned hi, unsigned lo) {
  return hi * (1.0f / 4294967296.0f) + (lo + 0.5f) * (1.0f / 18446744073709551616.0f);
}
/// E = -ln(1 - u); 1 - u is the uniform of the inverted bits
__device__ __forceinline__ float exponential(unsigned hi, unsigned lo) {
  float u = uniform(hi, lo);
  if (u < 1e-2f) return u * (1.0f + u * (0.5f + u * (1.0f / 3.0f + u * 0.25f)));
  return -logf(uniform(~hi, ~lo));
}

struct Race {
  float first, second;
  unsigned winner;
};
__device__ __forceinline__ Race merged(Race a, Race b) {
  bool left = a.first < b.first || (a.first == b.first && a.winner <= b.winner);
  Race first = left ? a : b, other = left ? b : a;
  first.second = fminf(first.second, other.first);
  return first;
}

__device__ __forceinline__ Race race(const float* z, int vocab, float inverse, uint2 seed, unsigned position,
                                     unsigned step, unsigned tail, Race* shared) {
  Race best = {-negative_infinity(), -negative_infinity(), 0xffffffffu};
  for (int pair = threadIdx.x; 2 * pair < vocab; pair += THREADS) {
    uint4 r = philox(seed, make_uint4(pair, position, step, tail));
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int v = 2 * pair + half;
      if (v >= vocab || !(z[v] > negative_infinity())) continue;
      float key = logf(half ? exponential(r.z, r.w) : exponential(r.x, r.y)) - z[v] * inverse;
      best = merged(best, Race{key, -negative_infinity(), static_cast<unsigned>(v)});
    }
  }
#pragma unroll
  for (int by = 16; by > 0; by /= 2)
    best = merged(best, Race{__shfl_xor_sync(ALL, best.first, by), __shfl_xor_sync(ALL, best.second, by),
                             __shfl_xor_sync(ALL, best.winner, by)});
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = best;
  __syncthreads();
  best = shared[0];
  for (int w = 1; w < WARPS; w++) best = merged(best, shared[w]);
  return best;
}

/// Statistics rows [rows, 12 + 2 top_k] as `head/mod.rs` lays them out; keys [rows, 4]: position, step, sequence,
/// current id. inverse = 1 / temperature, 0 = greedy. `tail` is the stream of the race in the top byte.
extern "C" __global__ void __launch_bounds__(THREADS)
    head_statistics(float* z, const unsigned* __restrict__ forbidden, int n_forbidden,
                    const unsigned* __restrict__ keys, float* __restrict__ out, int vocab, int top_k, float inverse,
                    unsigned seed_low, unsigned seed_high, unsigned tail) {
  __shared__ Moments sums[WARPS];
  __shared__ Rank ranks[WARPS];
  __shared__ Race races[WARPS];
  int row = blockIdx.x;
  z += static_cast<size_t>(row) * vocab;
  keys += 4 * row;
  out += static_cast<size_t>(row) * (12 + 2 * top_k);
  forbid(z, forbidden, n_forbidden);
  bool greedy = inverse == 0.0f;
  Moments m = greedy ? moments<false>(z, vocab, 1.0f, sums) : moments<true>(z, vocab, inverse, sums);

  unsigned argmax = 0;
  float first = negative_infinity(), second = negative_infinity();
  Rank limit = ~0ull;
  for (int i = 0; i < max(2, top_k); i++) {
    Rank r = best_below(z, vocab, limit, ranks);
    unsigned id = r ? id_of(r) : 0;
    float logit = r ? z[id] : negative_infinity();
    // nothing is below 0: the remaining ranks are empty
    limit = r;
    if (i == 0) argmax = id, first = logit;
    if (i == 1) second = logit;
    if (i < top_k && threadIdx.x == 0) {
      out[12 + i] = __uint_as_float(id);
      out[12 + top_k + i] = logit;
    }
  }

  float log_s = logf(m.s), lse = m.top + log_s, lse_t = lse, margin = first - second;
  unsigned candidate = argmax;
  if (!greedy) {
    Race r = race(z, vocab, inverse, make_uint2(seed_low, seed_high), keys[0], keys[1], tail | (keys[2] & 0xffffffu),
                  races);
    if (r.winner != 0xffffffffu) candidate = r.winner;
    margin = r.second - r.first;
    lse_t = m.top * inverse + logf(m.tempered);
  }
  if (threadIdx.x == 0) {
    out[0] = lse;
    out[1] = first;
    out[2] = __uint_as_float(argmax);
    out[3] = second;
    out[4] = fmaxf(log_s - m.t / m.s, 0.0f);
    out[5] = keys[3] < static_cast<unsigned>(vocab) ? z[keys[3]] : negative_infinity();
    out[6] = __uint_as_float(candidate);
    out[7] = z[candidate];
    out[8] = lse_t;
    out[9] = margin;
    out[10] = out[11] = 0.0f;
  }
}
