// Paints one image row of a gated PixelCNN for every entry of a launch: bundle.proto, `Kernel`, says what the parameters are.
// A block of threads owns S samples from the states of the rows above to the painted row, and talks to no other block.
//
//   vertical stack, whole width at once: a warp owns (sample, tile of columns), a lane some output channels of it
//   links of every horizontal layer -> scratch in global memory
//   pixel by pixel: horizontal stack, head, draw: a warp owns an eighth of the summands, a lane some output channels of all S
//
// The same source is compiled for the GPU (NVRTC) and for the CPU (g++, on_cpu.h). Every product is an explicit fmaf and
// every sum has one order, which depends neither on S nor on the tiles: bytes are those of any block size. exp and log are
// our own, and no compiler may contract a product and a sum (-fmad=false, -ffp-contract=off), so that both builds agree.
//
// Letters as in pixelcnn_rows.py: H, W, C image axes, K levels, D channels of the net (padded, see packing.py), R rows and FC
// columns of the first vertical window, P pixels of the first horizontal one, DH head channels, LV and LH layers, S samples
// of a block. Sizes, and offsets OFF_* into the weights, come from the generated config.h.
//
// A level's features go into the net by products with constant matrices. So the weights hold those products, a row for each
// level and a row of zeros, number K, for what lies outside the image: the net takes the row instead of multiplying.
#ifdef ON_CPU
#include "on_cpu.h"
#else
#define SHARED(name) extern __shared__ __align__(16) float name[]
typedef unsigned char uint8_t;
typedef long long int64_t;
#endif
#include "config.h"

#define THREADS 256
#define WARPS 8
#define ENTRIES (K + 1)          // rows of a table of levels
#define TOLD (LABELS ? LABELS : 1)  // rows of a table of what a gate is told: bias and label

__host__ __device__ constexpr int up(int value, int step) { return (value + step - 1) / step * step; }
__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }
__host__ __device__ constexpr int divisor(int value, int most) { return value % most ? divisor(value, most - 1) : most; }

__constant__ const int links_of[LH] = {LINKS};         // the vertical layer that each horizontal one is told of
__constant__ const int rows_back[LV] = {ROWS_BACK};    // how many rows up each vertical layer looks
__constant__ const int state_at[LV] = {STATE_AT};      // where its rows lie in a sample's state
__constant__ const int columns_apart[LV] = {COLUMNS};  // how many columns the taps of its window lie apart

// A sample of this block, in shared memory.
struct Sample {
  int slot, row, label;
  float inverse;  // one over its temperature
  __device__ int64_t first() const { return ((int64_t)slot * H + row) * W * C; }  // value of its row, of whole images
};
// What is fed, whole images.
struct Fed {
  const uint8_t *given, *known;
  const float* uniforms;
};

// The number of this thread, read anew: the compiler cannot know that it is the same number, so it keeps nothing that it
// has computed of it before. (Else it keeps the addresses of the second half of the work through the first, whose sums need
// all registers: 40 bytes were spilled with 8 samples a block.)
__device__ int thread_anew() {
#ifdef ON_CPU
  return threadIdx.x;
#else
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#endif
}

// ------------------------------------------------------------------------------------------------ own exp, log, gate
__device__ float bits_to_float(int bits) { float f; memcpy(&f, &bits, 4); return f; }
__device__ int float_to_bits(float f) { int bits; memcpy(&bits, &f, 4); return bits; }

// Below -87 exactly 0: a level of no probability is never drawn. Right to 1 ulp or so otherwise.
__device__ float exp_(float x) {
  if (!(x > -87.0f)) return 0.0f;
  if (x > 88.0f) x = 88.0f;
  float n = rintf(x * 1.44269504f);
  float r = fmaf(n, -0.693145752f, x);
  r = fmaf(n, -1.42860677e-6f, r);
  float p = 1.98412698e-4f;
  p = fmaf(p, r, 1.38888889e-3f);
  p = fmaf(p, r, 8.33333333e-3f);
  p = fmaf(p, r, 4.16666667e-2f);
  p = fmaf(p, r, 1.66666667e-1f);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r, 1.0f);
  p = fmaf(p, r, 1.0f);
  return p * bits_to_float(((int)n + 127) << 23);
}

__device__ float log_(float x) {  // of normal positive numbers
  int bits = float_to_bits(x);
  int e = ((bits - 0x3f3504f3) >> 23);
  float m = bits_to_float(bits - (e << 23));  // sqrt(1/2) to sqrt(2)
  float s = (m - 1.0f) / (m + 1.0f), z = s * s;
  float p = fmaf(z, 0.111111111f, 0.142857143f);
  p = fmaf(p, z, 0.2f);
  p = fmaf(p, z, 0.333333333f);
  p = fmaf(p * z, s, s);
  return fmaf((float)e, 0.693147181f, 2.0f * p);
}

// log(1 + exp(x)), without losing the digits of a small one: 2 artanh(q / (2 + q)) is log(1 + q).
__device__ float softplus(float x) {
  float q = exp_(-fabsf(x)), s = q / (2.0f + q), z = s * s;
  float p = 0.0666666667f;
  p = fmaf(p, z, 0.0769230769f);
  p = fmaf(p, z, 0.0909090909f);
  p = fmaf(p, z, 0.111111111f);
  p = fmaf(p, z, 0.142857143f);
  p = fmaf(p, z, 0.2f);
  p = fmaf(p, z, 0.333333333f);
  return fmaxf(x, 0.0f) + 2.0f * fmaf(p * z, s, s);
}

__device__ float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }

// tanh(a)·sigmoid(b), with one division.
__device__ float gate(float a, float b) {
  a = fminf(fmaxf(a, -15.0f), 15.0f);
  b = fminf(fmaxf(b, -60.0f), 60.0f);
  float t = exp_(-2.0f * a), u = exp_(-b);
  return (1.0f - t) / ((1.0f + t) * (1.0f + u));
}

// ------------------------------------------------------------------------------------------------------- wide accesses
template <int N> __device__ void get(float (&to)[N], const float* from) {  // shared or global, aligned to its width
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N / 4; ++i) {
      float4 v = ((const float4*)from)[i];
      to[4 * i] = v.x; to[4 * i + 1] = v.y; to[4 * i + 2] = v.z; to[4 * i + 3] = v.w;
    }
  } else if constexpr (N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      float2 v = ((const float2*)from)[i];
      to[2 * i] = v.x; to[2 * i + 1] = v.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = from[i];
  }
}
template <int N> __device__ void get_weights(float (&to)[N], const float* from) {  // read-only global memory
  if constexpr (N == 4) { float4 v = __ldg((const float4*)from); to[0] = v.x; to[1] = v.y; to[2] = v.z; to[3] = v.w; }
  else if constexpr (N == 2) { float2 v = __ldg((const float2*)from); to[0] = v.x; to[1] = v.y; }
  else to[0] = __ldg(from);
}
template <int N> __device__ void put(float* to, const float (&from)[N]) {
  if constexpr (N == 4) *(float4*)to = float4{from[0], from[1], from[2], from[3]};
  else if constexpr (N == 2) *(float2*)to = float2{from[0], from[1]};
  else to[0] = from[0];
}

// ------------------------------------------------------------------------------------------------------ vertical stack
// Shared memory: rows of one channel after another, [S][channel][STRIDE], column w at PAD + w. The zeros left of a row are
// those right of the row before it.
constexpr int TILES = (W + TW - 1) / TW;
constexpr int LEVELS = TILES * TW + FC - 1;  // of a row of levels, outside ones included
constexpr int OWN = S * D * STRIDE;          // of all samples; behind the last row come zeros too
constexpr int CHUNKS = NPW / (32 * VV), OUT_CHUNKS = NPP / (32 * VP);
// Weights of so many channels are held: each is fetched again, for a later channel, as soon as it was used. A channel of a
// wide tile is so much arithmetic that one other hides the cache's latency; of a narrow one it takes three.
constexpr int HELD = TW > 16 ? 2 : 4;

// acc[column][v] += the window's sum at the tile's columns: summands in the order row, channel, column of the window.
// Column t of the window at the tile's column c reads x[START + c + t·APART] of each channel; rows lie row_step apart.
template <int ROWS, int COLS, int APART, int START, int V, int NP>
__device__ void windows(float (&acc)[TW][V], const float* x, int row_step, int stride, const float* weights) {
  static_assert(D % HELD == 0, "channels come in groups");
  float w[HELD][COLS][V];
#pragma unroll
  for (int g = 0; g < HELD; ++g)
#pragma unroll
    for (int t = 0; t < COLS; ++t) get_weights(w[g][t], weights + (t * D + g) * NP);
#pragma unroll 1
  for (int r = 0; r < ROWS; ++r) {
    const float* row = x + r * row_step;
#pragma unroll 1
    for (int ch = 0; ch < D; ch += HELD) {
      const int after = ch + HELD < D ? r * COLS * D + ch + HELD : (r + 1 < ROWS ? (r + 1) * COLS * D : 0);
#pragma unroll
      for (int g = 0; g < HELD; ++g) {
        const float* channel = row + (ch + g) * stride;
        if constexpr (APART == 1) {  // one piece has what all columns of the window read
          constexpr int SKIP = START % 4;
          float in[up(SKIP + TW + COLS - 1, 4)];
          get(in, channel + START - SKIP);
#pragma unroll
          for (int t = 0; t < COLS; ++t)
#pragma unroll
            for (int c = 0; c < TW; ++c)
#pragma unroll
              for (int v = 0; v < V; ++v) acc[c][v] = fmaf(in[SKIP + c + t], w[g][t][v], acc[c][v]);
        } else {
#pragma unroll
          for (int t = 0; t < COLS; ++t) {
            const int skip = (START + t * APART) % 4;
            float in[TW + 4];
            get(in, channel + START + t * APART - skip);
#pragma unroll
            for (int c = 0; c < TW; ++c)
#pragma unroll
              for (int v = 0; v < V; ++v) acc[c][v] = fmaf(in[skip + c], w[g][t][v], acc[c][v]);
          }
        }
#pragma unroll
        for (int t = 0; t < COLS; ++t) get_weights(w[g][t], weights + (after + t * D + g) * NP);
      }
    }
  }
}

// A warp's part of a product over the tiles of all samples: sample, first column and the lane's first output channel.
struct Item {
  int s, c0, n;
  __device__ Item(int item, int chunks, int lanes)
      : s(item / (TILES * chunks)), c0(item / chunks % TILES * TW), n((item % chunks * 32 + (int)threadIdx.x % 32) * lanes) {}
};

// Gates of one item to gated [S][D][GATED], given sums without bias and label.
__device__ void put_gates(float* gated, const float (&acc)[TW][VV], const float* told, const Sample* samples, Item at) {
  float shift[VV];
  get_weights(shift, told + (int64_t)samples[at.s].label * NPW + at.n);
#pragma unroll
  for (int v = 0; v < VV; v += 2)
    if ((at.n + v) / 2 < D)
#pragma unroll
      for (int c = 0; c < TW; ++c)
        gated[(at.s * D + (at.n + v) / 2) * GATED + at.c0 + c] = gate(acc[c][v] + shift[v], acc[c][v + 1] + shift[v + 1]);
}

// The projection of the gates, plus `here` unless that is null, to `out`; between two barriers.
__device__ void project_gates(const float* gated, const float* here, float* out, const float* weights, int count) {
  __syncthreads();
#pragma unroll 1
  for (int item = threadIdx.x / 32; item < count * TILES * OUT_CHUNKS; item += WARPS) {
    const Item at(item, OUT_CHUNKS, VP);
    float acc[TW][VP] = {};
    windows<1, 1, 1, 0, VP, NPP>(acc, gated + at.s * D * GATED + at.c0, 0, GATED, weights + at.n);
#pragma unroll
    for (int v = 0; v < VP; ++v)
      if (at.n + v < D)
#pragma unroll
        for (int c = 0; c < TW; ++c)
          if (at.c0 + c < W) {
            const int to = (at.s * D + at.n + v) * STRIDE + PAD + at.c0 + c;
            out[to] = (here ? here[to] : 0.0f) + acc[c][v];
          }
  }
  __syncthreads();
}

// The first layer: of levels [S][R][LEVELS][C], to `out`.
__device__ void first_layer(const int* levels, float* gated, float* out, const float* weights, const Sample* samples, int count) {
  const float *table = weights + OFF_V0, *told = table + R * FC * C * ENTRIES * NPW, *project = told + TOLD * NPW;
#pragma unroll 1
  for (int item = threadIdx.x / 32; item < count * TILES * CHUNKS; item += WARPS) {
    const Item at(item, CHUNKS, VV);
    float acc[TW][VV] = {};
#pragma unroll 1
    for (int tap = 0; tap < R * FC * C; ++tap) {
      const int r = tap / (FC * C), first = (at.s * R + r) * LEVELS * C + at.c0 * C + tap % (FC * C);
#pragma unroll
      for (int c = 0; c < TW; ++c) {
        float row[VV];
        get_weights(row, table + (tap * ENTRIES + levels[first + c * C]) * NPW + at.n);
#pragma unroll
        for (int v = 0; v < VV; ++v) acc[c][v] += row[v];
      }
    }
    put_gates(gated, acc, told, samples, at);
  }
  project_gates(gated, nullptr, out, project, count);
}

// A later layer, of the row `above` and the own row `here`; its output overwrites `above`, once all gates are done.
template <int APART>
__device__ void later_layer(float* above, const float* here, float* gated, const float* weights, const Sample* samples, int count) {
  const float *told = weights + 6 * D * NPW, *project = told + TOLD * NPW;
#pragma unroll 1
  for (int item = threadIdx.x / 32; item < count * TILES * CHUNKS; item += WARPS) {
    const Item at(item, CHUNKS, VV);
    float acc[TW][VV] = {};
    windows<2, 3, APART, PAD - APART, VV, NPW>(acc, above + at.s * D * STRIDE + at.c0, (int)(here - above), STRIDE, weights + at.n);
    put_gates(gated, acc, told, samples, at);
  }
  project_gates(gated, here, above, project, count);
}
// For each way that the columns of a window lie apart there is code of its own: offsets in registers are constants.
template <int... EACH>
__device__ void later_layer_of(int apart, float* above, const float* here, float* gated, const float* weights, const Sample* samples, int count) {
  ((apart == EACH ? later_layer<EACH>(above, here, gated, weights, samples, count) : (void)0), ...);
}

// What the horizontal layers that are told of vertical layer `layer` are told: link, bias and label, to [W][LH][S][NPW].
__device__ void put_links(const float* seen, int layer, const float* weights, float* links, const Sample* samples, int count) {
#pragma unroll 1
  for (int i = 0; i < LH; ++i) {
    if (links_of[i] != layer) continue;
    const float *own = weights + OFF_LINK + i * STEP_LINK, *told = own + D * NPW;
#pragma unroll 1
    for (int item = threadIdx.x / 32; item < count * TILES * CHUNKS; item += WARPS) {
      const Item at(item, CHUNKS, VV);
      float acc[TW][VV] = {}, shift[VV];
      windows<1, 1, 1, PAD, VV, NPW>(acc, seen + at.s * D * STRIDE + at.c0, 0, STRIDE, own + at.n);
      get_weights(shift, told + (int64_t)samples[at.s].label * NPW + at.n);
#pragma unroll
      for (int c = 0; c < TW; ++c) {
        if (at.c0 + c >= W) break;
        float sum[VV];
#pragma unroll
        for (int v = 0; v < VV; ++v) sum[v] = acc[c][v] + shift[v];
        put(links + ((int64_t)((at.c0 + c) * LH + i) * S + at.s) * NPW + at.n, sum);
      }
    }
  }
}

// The rows of levels above, a ring of bytes at the end of a sample's state, and where row r is in it.
__device__ uint8_t* levels_of(float* states, const Sample& sample, int row) {
  return (uint8_t*)(states + (int64_t)sample.slot * STATE + STATE_LEVELS) + row % R * W * C;
}

__device__ void vertical(float* shared, const float* weights, float* states, float* links, const Sample* samples, int count) {
  float *a = shared, *b = a + ROW_BUFFER, *gated = b + ROW_BUFFER;
  for (int i = threadIdx.x; i < 2 * ROW_BUFFER + S * D * GATED; i += THREADS) shared[i] = 0.0f;
  int* levels = (int*)a;  // zeroed and filled by the same threads
  for (int i = threadIdx.x; i < count * R * LEVELS * C; i += THREADS) {
    const Sample& sample = samples[i / (R * LEVELS * C)];
    const int row = sample.row - R + i / (LEVELS * C) % R, w = i / C % LEVELS - FC / 2;
    levels[i] = row >= 0 && w >= 0 && w < W ? levels_of(states, sample, row)[w * C + i % C] : K;
  }
  __syncthreads();
  first_layer(levels, gated, b, weights, samples, count);
  put_links(b, 0, weights, links, samples, count);
#pragma unroll 1
  for (int layer = 1; layer < LV; ++layer) {
    // b: this layer's input row. Into a comes the one that its window looks up at, and b takes its place in the state.
    const int back = rows_back[layer];
    for (int i = threadIdx.x; i < ROW_BUFFER; i += THREADS) {
      const int s = i / (D * STRIDE), ch = i / STRIDE % D, w = i % STRIDE - PAD;
      float value = 0.0f;
      if (s < count && w >= 0 && w < W) {
        const Sample& sample = samples[s];
        float* kept = states + (int64_t)sample.slot * STATE + state_at[layer] + ((sample.row % back) * D + ch) * W + w;
        if (sample.row >= back) value = *kept;
        *kept = b[i];
      }
      a[i] = value;
    }
    __syncthreads();
    later_layer_of<APARTS>(columns_apart[layer], a, b, gated, weights + OFF_V + (layer - 1) * STEP_V, samples, count);
    put_links(a, layer, weights, links, samples, count);
    float* swap = a; a = b; b = swap;
  }
  __syncthreads();
}

// ----------------------------------------------------------------------------------------------------- pixel by pixel
// A product [KN, NP] for all samples: a warp has an eighth of the summands, a lane V columns of a chunk of 32 V. Weights of
// the first step are fetched ahead, over the barriers before; those of a small product are all of them.
template <int KN, int NP, int V> struct Product {
  static constexpr int PIECES = NP / (32 * V), MINE = KN / WARPS;
  static constexpr int GROUP = PIECES == 1 && MINE <= 16 ? MINE : divisor(MINE, 8), GROUPS = MINE / GROUP;
  static_assert(KN % WARPS == 0 && NP % (32 * V) == 0, "pad it");
  float w[GROUP][V];
  __device__ void fetch(const float* weights, int step = 0) {
    const int first = threadIdx.x / 32 * MINE + step % GROUPS * GROUP, n = (step / GROUPS * 32 + threadIdx.x % 32) * V;
#pragma unroll
    for (int k = 0; k < GROUP; ++k) get_weights(w[k], weights + (first + k) * NP + n);
  }
  // parts[warp][S][NP] = this warp's part of the sums. in [MINE][S]: its summands.
  __device__ void multiply(const float* in, const float* weights, float* parts) {
#pragma unroll 1
    for (int piece = 0; piece < PIECES; ++piece) {
      float acc[S][V] = {};
      if constexpr (GROUPS == 1 && PIECES == 1) {
        add(acc, in, w);
      } else {
#pragma unroll 1
        for (int group = 0; group < GROUPS; ++group) {
          float now[GROUP][V];
#pragma unroll
          for (int k = 0; k < GROUP; ++k)
#pragma unroll
            for (int v = 0; v < V; ++v) now[k][v] = w[k][v];
          const int step = piece * GROUPS + group + 1;
          if (step < PIECES * GROUPS) fetch(weights, step);
          add(acc, in + group * GROUP * S, now);
        }
      }
#pragma unroll
      for (int s = 0; s < S; ++s)
        put(parts + (threadIdx.x / 32 * S + s) * NP + (piece * 32 + threadIdx.x % 32) * V, acc[s]);
    }
  }
  __device__ static void add(float (&acc)[S][V], const float* in, const float (&by)[GROUP][V]) {
#pragma unroll
    for (int k = 0; k < GROUP; ++k) {
      float x[S];
      get(x, in + k * S);
#pragma unroll
      for (int s = 0; s < S; ++s)
#pragma unroll
        for (int v = 0; v < V; ++v) acc[s][v] = fmaf(x[s], by[k][v], acc[s][v]);
    }
  }
};
template <int NP> __device__ float sum_of(const float* parts, int s, int n) {
  float sum = parts[s * NP + n];
#pragma unroll
  for (int k = 1; k < WARPS; ++k) sum += parts[(k * S + s) * NP + n];
  return sum;
}
// A product whose weights are not worth fetching ahead, of in [KN][S]; before a barrier.
template <int KN, int NP, int V> __device__ void product(const float* in, const float* weights, float* parts) {
  Product<KN, NP, V> own;
  own.fetch(weights);
  own.multiply(in + threadIdx.x / 32 * own.MINE * S, weights, parts);
}

__device__ int level_of(uint8_t byte) { return (int)rintf((float)byte * (K - 1) / 255.0f); }
__device__ uint8_t byte_of(int level) { return (uint8_t)rintf((float)level * 255.0f / (K - 1)); }

// Whether a value is free; else `level` becomes that of the given byte.
__device__ bool is_free(const Fed& fed, int64_t at, int& level) {
  if (!fed.known[at]) return true;
  level = level_of(fed.given[at]);
  return false;
}

// Each of the draws is called by all threads, with numbers [NUMBERS][S] of value i of each sample's row, and has thread s
// put the level of sample s into levels[s] and add the level's log-likelihood to its `score`, where the value is free.

// K = 2: one number, the logit of level 0 over level 1.
__device__ void draw_bit(const float* numbers, const Fed& fed, const Sample* samples, int count, int i, int* levels, float& score) {
  if (threadIdx.x >= count) return;
  const int s = threadIdx.x;
  const int64_t at = samples[s].first() + i;
  const float most = fmaxf(numbers[s], 0.0f);
  const float zero = exp_((numbers[s] - most) * samples[s].inverse), one = exp_((0.0f - most) * samples[s].inverse);
  int level = zero <= fed.uniforms[at] * (zero + one);
  if (is_free(fed, at, level)) score -= softplus(level ? numbers[s] : -numbers[s]);
  levels[s] = level;
}

// A logit for each level: the level is the number of cumulated probabilities that are <= u. Sums over levels have two
// steps, of groups of BUNCH levels and of groups, so that many threads share them.
constexpr int BUNCH = 16, BUNCHES = (K + BUNCH - 1) / BUNCH;
__device__ void draw_level(const float* numbers, float* work, const Fed& fed, const Sample* samples, int count, int i, int* levels,
                           float& score) {
  float *mosts = work, *sums = mosts + BUNCHES * S, *plain_sums = sums + BUNCHES * S;
  float *shares = plain_sums + BUNCHES * S, *plain = shares + K * S;
  for (int at = threadIdx.x; at < BUNCHES * S; at += THREADS) {
    const int s = at % S, first = at / S * BUNCH;
    float most = numbers[first * S + s];
    for (int k = first + 1; k < K && k < first + BUNCH; ++k) most = fmaxf(most, numbers[k * S + s]);
    mosts[at] = most;
  }
  __syncthreads();
  for (int at = threadIdx.x; at < K * S; at += THREADS) {
    const int s = at % S;
    float most = mosts[s];
    for (int b = 1; b < BUNCHES; ++b) most = fmaxf(most, mosts[b * S + s]);
    shares[at] = exp_((numbers[at] - most) * (s < count ? samples[s].inverse : 1.0f));
    plain[at] = exp_(numbers[at] - most);
  }
  __syncthreads();
  for (int at = threadIdx.x; at < BUNCHES * S; at += THREADS) {
    const int s = at % S, first = at / S * BUNCH;
    float sum = 0.0f, plain_sum = 0.0f;
    for (int k = first; k < K && k < first + BUNCH; ++k) {
      sum += shares[k * S + s];
      plain_sum += plain[k * S + s];
    }
    sums[at] = sum;
    plain_sums[at] = plain_sum;
  }
  __syncthreads();
  if (threadIdx.x >= count) return;
  const int s = threadIdx.x;
  const int64_t at = samples[s].first() + i;
  float total = 0.0f, plain_total = 0.0f, most = mosts[s];
  for (int b = 0; b < BUNCHES; ++b) {
    total += sums[b * S + s];
    plain_total += plain_sums[b * S + s];
    most = fmaxf(most, mosts[b * S + s]);
  }
  const float bound = fed.uniforms[at] * total;
  int bunch = 0;
  float before = 0.0f;
  while (bunch + 1 < BUNCHES && before + sums[bunch * S + s] <= bound) before += sums[bunch++ * S + s];
  int level = bunch * BUNCH;
  float within = shares[level * S + s];
  while (level + 1 < K && before + within <= bound) within += shares[++level * S + s];
  if (is_free(fed, at, level)) score += numbers[level * S + s] - most - log_(plain_total);
  levels[s] = level;
}

#if MIXTURES
// M logistics, as values.LogisticMixture draws and scores. Numbers are logits, positions in levels and rates, M of each.
constexpr int M = MIXTURES, COARSE = (K + STEP - 1) / STEP - 1, FINE = STEP - 1;
__device__ float mixed(const float* shares, const float* sharpness, const float* positions, float threshold, int s) {
  float sum = 0.0f;
  for (int m = 0; m < M; ++m)
    sum = fmaf(shares[m * S + s], sigmoid(sharpness[m * S + s] * (threshold - positions[m * S + s])), sum);
  return sum;
}
__device__ void draw_mixture(const float* numbers, float* work, const Fed& fed, const Sample* samples, int count, int i, int* levels,
                             float& score) {
  const float *logits = numbers, *positions = numbers + M * S, *rates = numbers + 2 * M * S;
  float *shares = work, *plain = shares + M * S, *sharpness = plain + M * S, *warm = sharpness + M * S;
  int *coarse = (int*)(warm + M * S), *fine = coarse + COARSE * S;
  for (int at = threadIdx.x; at < M * S; at += THREADS) {
    const int s = at % S;
    const float inverse = s < count ? samples[s].inverse : 1.0f;
    float most = logits[s], sum = 0.0f, plain_sum = 0.0f;
    for (int m = 1; m < M; ++m) most = fmaxf(most, logits[m * S + s]);
    for (int m = 0; m < M; ++m) {
      sum += exp_((logits[m * S + s] - most) * inverse);
      plain_sum += exp_(logits[m * S + s] - most);
    }
    shares[at] = exp_((logits[at] - most) * inverse) / sum;
    plain[at] = logits[at] - most - log_(plain_sum);
    sharpness[at] = softplus(fmaxf(rates[at], LEAST_RATE));
    warm[at] = sharpness[at] * inverse;
  }
  __syncthreads();
  for (int at = threadIdx.x; at < COARSE * count; at += THREADS) {
    const int s = at % count, t = at / count;
    const float cdf = mixed(shares, warm, positions, (float)(STEP * (t + 1)) - 0.5f, s);
    coarse[t * S + s] = cdf <= fed.uniforms[samples[s].first() + i];
  }
  __syncthreads();
  for (int at = threadIdx.x; at < FINE * count; at += THREADS) {
    const int s = at % count, t = at / count;
    int block = 0;
    for (int j = 0; j < COARSE; ++j) block += coarse[j * S + s];
    const float cdf = mixed(shares, warm, positions, (float)(STEP * block + t) + 0.5f, s);
    fine[t * S + s] = cdf <= fed.uniforms[samples[s].first() + i];
  }
  __syncthreads();
  if (threadIdx.x < count) {
    const int s = threadIdx.x;
    int block = 0, within = 0;
    for (int j = 0; j < COARSE; ++j) block += coarse[j * S + s];
    for (int j = 0; j < FINE; ++j) within += fine[j * S + s];
    int level = STEP * block + within < K - 1 ? STEP * block + within : K - 1;
    is_free(fed, samples[s].first() + i, level);
    levels[s] = level;
  }
  __syncthreads();
  for (int at = threadIdx.x; at < M * count; at += THREADS) {
    const int s = at % count, m = at / count;
    const float offset = (float)levels[s] - positions[m * S + s], rate = fmaxf(rates[m * S + s], LEAST_RATE);
    const float below_upper = -softplus(-sharpness[m * S + s] * (offset + 0.5f));
    const float above_lower = -softplus(sharpness[m * S + s] * (offset - 0.5f));
    const float within = below_upper + above_lower - softplus(-rate);
    plain[m * S + s] += levels[s] == 0 ? below_upper : (levels[s] == K - 1 ? above_lower : within);
  }
  __syncthreads();
  if (threadIdx.x < count && !fed.known[samples[threadIdx.x].first() + i]) {
    const int s = threadIdx.x;
    float most = plain[s], sum = 0.0f;
    for (int m = 1; m < M; ++m) most = fmaxf(most, plain[m * S + s]);
    for (int m = 0; m < M; ++m) sum += exp_(plain[m * S + s] - most);
    score += most + log_(sum);
  }
}
#endif

constexpr int MOST = larger(larger(NPW, NPP), larger(NPH, NPN));
struct Shared {  // offsets in floats
  static constexpr int before = 0;                                     // [LH-1][2][D][S] inputs of later layers, of two pixels
  static constexpr int gated = before + (LH - 1) * 2 * D * S;          // [D][S]
  static constexpr int stream = gated + D * S;                         // [D][S]
  static constexpr int hidden = stream + D * S;                        // [C·DH][S]
  static constexpr int channel = hidden + C * DH * S;                  // [DHP][S]
  static constexpr int numbers = channel + DHP * S;                    // [NPN][S]
  static constexpr int work = numbers + NPN * S;                       // [WORK][S] of the draws
  static constexpr int levels = work + WORK * S;                       // [P+W][C][S] int: P pixels outside, and this row
  static constexpr int parts = up(levels + (P + W) * C * S, 4);        // [WARPS][S][MOST]
  static constexpr int size = parts + WARPS * S * MOST;
};

__device__ void pixels(float* shared, const float* weights, float* states, const float* links, const Fed& fed,
                       const Sample* samples, int count, uint8_t* image, float* log_likelihood) {
  const int thread = thread_anew(), warp = thread / 32;
  float *gated = shared + Shared::gated, *stream = shared + Shared::stream, *hidden = shared + Shared::hidden;
  float *channel = shared + Shared::channel, *numbers = shared + Shared::numbers, *work = shared + Shared::work;
  float* parts = shared + Shared::parts;
  int* levels = (int*)(shared + Shared::levels);
  for (int i = thread; i < Shared::levels; i += THREADS) shared[i] = 0.0f;
  for (int i = thread; i < (P + W) * C * S; i += THREADS) levels[i] = K;
  __syncthreads();
  float score = 0.0f;  // of thread s: the log-likelihood of sample s

  constexpr int GATES = up(S * D, THREADS) / THREADS;  // of a thread
  Product<2 * D, NPW, VW> window;                      // of the later layers, which take turns
  Product<D, NPP, VP> project;
  const float* horizontal = weights + OFF_H;
  if (LH > 1) window.fetch(horizontal);
#pragma unroll 1
  for (int w = 0; w < W; ++w) {
#pragma unroll 1
    for (int i = 0; i < LH; ++i) {
      const float *own = horizontal + (i - 1) * STEP_H, *first = weights + OFF_H0;
      const float* own_project = i ? own + 2 * D * NPW : first + P * C * ENTRIES * NPW;
      project.fetch(own_project);
      const float* told = links + ((int64_t)w * LH + i) * S * NPW;
      float here[GATES][2];  // sums of this thread's gates; what they are told is fetched early
#pragma unroll
      for (int j = 0; j < GATES; ++j)
        if (thread + j * THREADS < S * D) get(here[j], told + (thread + j * THREADS) / D * NPW + (thread + j * THREADS) % D * 2);
      float* now = shared + Shared::before + ((i - 1) * 2 + w % 2) * D * S;  // this pixel's input of layer i, if i > 0
      float* then = shared + Shared::before + ((i - 1) * 2 + 1 - w % 2) * D * S;
      if (i) {
        constexpr int MINE = 2 * D / WARPS;
        window.multiply(warp < WARPS / 2 ? then + warp * MINE * S : now + (warp - WARPS / 2) * MINE * S, own, parts);
        window.fetch(horizontal + (i + 1 < LH ? i : 0) * STEP_H);  // the next layer's, over the barriers
        __syncthreads();
      }
#pragma unroll
      for (int j = 0; j < GATES; ++j) {
        const int at = thread + j * THREADS, s = at / D, n = at % D;
        if (at >= S * D) continue;
        if (i) {
          here[j][0] += sum_of<NPW>(parts, s, 2 * n);
          here[j][1] += sum_of<NPW>(parts, s, 2 * n + 1);
        } else {
          for (int tap = 0; tap < P * C; ++tap) {
            float row[2];
            get_weights(row, first + (tap * ENTRIES + levels[(w * C + tap) * S + s]) * NPW + 2 * n);
            here[j][0] += row[0];
            here[j][1] += row[1];
          }
        }
        gated[n * S + s] = gate(here[j][0], here[j][1]);
      }
      __syncthreads();
      project.multiply(gated + warp * D / WARPS * S, own_project, parts);
      __syncthreads();
      float* next = i + 1 < LH ? shared + Shared::before + (i * 2 + w % 2) * D * S : stream;
      for (int at = thread; at < S * D; at += THREADS) {
        const int s = at / D, n = at % D;
        const float sum = sum_of<NPP>(parts, s, n) + (i ? now[n * S + s] : 0.0f);
        next[n * S + s] = i + 1 < LH ? sum : fmaxf(sum, 0.0f);
      }
      __syncthreads();
    }
    product<D, NPH, VH>(stream, weights + OFF_HIDDEN, parts);
    __syncthreads();
    for (int at = thread; at < S * C * DH; at += THREADS) {
      const int s = at / (C * DH), n = at % (C * DH);
      hidden[n * S + s] = sum_of<NPH>(parts, s, n) + __ldg(weights + OFF_HIDDEN + D * NPH + n);
    }
    __syncthreads();
#pragma unroll 1
    for (int c = 0; c < C; ++c) {
      int* pixel = levels + (P + w) * C * S;
      for (int at = thread; at < S * DH; at += THREADS) {
        const int s = at / DH, n = at % DH;
        float sum = hidden[(c * DH + n) * S + s];
        for (int k = 0; k < c; ++k)
          sum += __ldg(weights + OFF_EARLIER + ((c * (c - 1) / 2 + k) * ENTRIES + pixel[k * S + s]) * DH + n);
        channel[n * S + s] = fmaxf(sum, 0.0f);
      }
      __syncthreads();
      const float* last = weights + OFF_NUMBERS + c * STEP_NUMBERS;
      product<DHP, NPN, VN>(channel, last, parts);
      __syncthreads();
      for (int at = thread; at < S * NUMBERS; at += THREADS)
        numbers[at] = sum_of<NPN>(parts, at % S, at / S) + __ldg(last + DHP * NPN + at / S);
      __syncthreads();
#if MIXTURES
      draw_mixture(numbers, work, fed, samples, count, w * C + c, pixel + c * S, score);
#else
      if constexpr (K == 2) draw_bit(numbers, fed, samples, count, w * C + c, pixel + c * S, score);
      else draw_level(numbers, work, fed, samples, count, w * C + c, pixel + c * S, score);
#endif
      __syncthreads();
    }
  }
  if (thread < count) log_likelihood[samples[thread].slot] = score;
  for (int i = thread; i < count * W * C; i += THREADS) {
    const Sample& sample = samples[i / (W * C)];
    const int level = levels[(P * C + i % (W * C)) * S + i / (W * C)];
    const int64_t at = sample.first() + i % (W * C);
    image[at] = fed.known[at] ? fed.given[at] : byte_of(level);
    levels_of(states, sample, sample.row)[i % (W * C)] = (uint8_t)level;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    paint_row(const float* __restrict__ weights, float* states, float* scratch, const uint8_t* given, const uint8_t* known,
              const float* uniforms, const float* temperature,
#if LABELS
              const int64_t* label,
#endif
              uint8_t* image, float* log_likelihood, const int* entries, int batch) {
  SHARED(shared);
  Sample* samples = (Sample*)shared;
  const int begin = blockIdx.x * S, count = batch - begin < S ? batch - begin : S;
  if (threadIdx.x < count) {
    Sample& sample = samples[threadIdx.x];
    sample.slot = entries[2 * (begin + threadIdx.x)];
    sample.row = entries[2 * (begin + threadIdx.x) + 1];
    sample.inverse = 1.0f / fmaxf(temperature[sample.slot], 1e-30f);
#if LABELS
    sample.label = (int)label[sample.slot];
#else
    sample.label = 0;
#endif
  }
  __syncthreads();
  float* rest = shared + 4 * S;
  scratch += (int64_t)blockIdx.x * W * LH * S * NPW;
  vertical(rest, weights, states, scratch, samples, count);
  pixels(rest, weights, states, scratch, Fed{given, known, uniforms}, samples, count, image, log_likelihood);
}

// What packing.py says, too.
static_assert(SHARED_BYTES == 4 * (4 * S + larger(2 * ROW_BUFFER + S * D * GATED, Shared::size)), "shared memory");
static_assert(SCRATCH_BYTES == 4LL * W * LH * S * NPW, "scratch");
static_assert(STRIDE >= TILES * TW + PAD && STRIDE % 4 == 0 && ROW_BUFFER >= OWN + PAD + 4, "rows and the zeros between them");
static_assert(ROW_BUFFER >= S * R * LEVELS * C && GATED >= TILES * TW && GATED % 4 == 0, "rows of levels and gates");

#ifdef ON_CPU
extern "C" void launch(int blocks, int backwards, void** parameters) {
  run_blocks(blocks, THREADS, backwards, paint_row, parameters);
}
#endif
