/* The kernels of kernels_torch.py, compiled: the same operations on the same float32 numbers in the same order, so the
 * same bits (compile without contraction of a*b + c and without -ffast-math). The walk is in tiles that stay in the
 * first-level cache: each input is read from memory once, however many plans share it. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Arrays in a row are STRIDE apart: loads a multiple of 4096 bytes behind a store would wait for it. */
enum { TILE = 512, STRIDE = TILE + 48 };
enum { FLOAT32, BFLOAT16, FLOAT16 };
enum { LINEAR_COMBINATION, SIGN_CONSENSUS };

struct tensor {
  void *data;
  int32_t dtype;
};

struct sparsity {
  float threshold, ceiling, factor;
  int32_t grains;
  uint64_t key;
};

struct plan {
  int32_t form, task_vectors, elect, normalize;
  float base, lambda, rounding;
  const float *weights;
  const struct sparsity *sparsity;
  struct tensor out;
};

/* Aligned, for a vector that straddles two lines of the cache costs twice. */
struct scratch {
  _Alignas(64) float total[STRIDE], positive[STRIDE], negative[STRIDE], above[STRIDE], below[STRIDE];
  uint32_t words[TILE / 2];
};

static float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* Round to nearest, ties to even; not-a-number stays that. */
static uint16_t to_bfloat16(float value) {
  uint32_t bits = to_bits(value);
  uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return value != value ? 0x7FC0 : rounded;
}

/* The tile as float32: where it lies, or cast into the buffer. */
static const float *load(struct tensor from, int64_t start, int64_t n, float *restrict buffer) {
  if (from.dtype == FLOAT32) return (const float *)from.data + start;
  if (from.dtype == BFLOAT16) {
    const uint16_t *restrict data = (const uint16_t *)from.data + start;
    for (int64_t j = 0; j < n; j++) buffer[j] = from_bits((uint32_t)data[j] << 16);
    return buffer;
  }
  const _Float16 *restrict data = (const _Float16 *)from.data + start;
  for (int64_t j = 0; j < n; j++) buffer[j] = data[j];
  return buffer;
}

static void store(struct tensor to, int64_t start, int64_t n, const float *restrict values) {
  if (to.dtype == FLOAT32) {
    memcpy((float *)to.data + start, values, n * sizeof(float));
  } else if (to.dtype == BFLOAT16) {
    uint16_t *restrict data = (uint16_t *)to.data + start;
    for (int64_t j = 0; j < n; j++) data[j] = to_bfloat16(values[j]);
  } else {
    _Float16 *restrict data = (_Float16 *)to.data + start;
    for (int64_t j = 0; j < n; j++) data[j] = values[j];
  }
}

/* The loops ask what does not change within them: the compiler makes a loop of each answer. */
static void add_term(float *restrict total, int first, const float *restrict x, float c, const float *restrict base,
                     int64_t n) {
  for (int64_t j = 0; j < n; j++) {
    float term = c * (base ? x[j] - base[j] : x[j]);
    total[j] = first ? term : total[j] + term;
  }
}

static void linear_combination(const struct plan *p, const float *base, const float *const *models, int64_t k,
                               int64_t n, struct scratch *s) {
  int first = 1;
  if (base && p->base != 0) add_term(s->total, 1, base, p->base, NULL, n), first = 0;
  for (int64_t i = 0; i < k; i++) {
    if (p->weights[i] == 0) continue;
    add_term(s->total, first, models[i], p->weights[i], p->task_vectors ? base : NULL, n);
    first = 0;
  }
  if (first) memset(s->total, 0, sizeof s->total);
}

/* The words of keep_mask in random.py: each serves two elements. */
static void mask_words(uint32_t *restrict words, uint64_t key, int64_t start) {
  uint64_t place = (uint64_t)start / 2, epoch = place >> 32;
  uint32_t low = (uint32_t)(key + epoch), high = (uint32_t)((key >> 32) ^ epoch);
  for (uint32_t j = 0; j < TILE / 2; j++) {
    uint32_t x = ((uint32_t)place + j) * 0x9E3779B1u + low;
    x = ((x ^ (x >> 16)) * 0x7FEB352Du) ^ high;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    words[j] = x ^ (x >> 16);
  }
}

/* Sums of each sign, so that the elected one need only be picked. Comparisons let not-a-number into both. */
static inline __attribute__((always_inline)) void add_part(struct scratch *restrict s, const float *restrict x,
                                                           const float *restrict base, struct sparsity sparse,
                                                           float weight, int drop, int elect, int64_t n) {
  const int16_t *restrict halves = (const int16_t *)s->words;
  const int16_t cut = (int16_t)(sparse.grains - 32768);
  for (int64_t j = 0; j < n; j++) {
    float delta = x[j] - base[j], size = fabsf(delta);
    delta = size < sparse.threshold || size > sparse.ceiling ? 0 : delta;
    if (drop) delta = halves[j] < cut ? delta : 0;
    float part = delta * sparse.factor;
    s->total[j] += part;
    if (elect) {
      s->positive[j] += part < 0 ? 0 : part;
      s->negative[j] += part > 0 ? 0 : part;
      s->above[j] += part > 0 ? weight : 0;
      s->below[j] += part < 0 ? weight : 0;
    }
  }
}

static void elect(struct scratch *restrict s, int normalize, float rounding, int64_t n) {
  for (int64_t j = 0; j < n; j++) {
    int plus = s->total[j] >= 0;
    float divisor = plus ? s->above[j] : s->below[j];
    float total = plus ? s->positive[j] : s->negative[j];
    divisor = normalize && !(fabsf(divisor) <= rounding) ? divisor : 1;
    s->total[j] = total / divisor;
  }
}

static void sign_consensus(const struct plan *p, const float *base, const float *const *models, int64_t k,
                           int64_t start, int64_t n, struct scratch *s) {
  memset(s, 0, offsetof(struct scratch, words));
  for (int64_t i = 0; i < k; i++) {
    struct sparsity sparse = p->sparsity[i];
    int drop = sparse.grains < 65536;
    if (drop) mask_words(s->words, sparse.key, start);
    if (drop && p->elect) add_part(s, models[i], base, sparse, p->weights[i], 1, 1, n);
    if (drop && !p->elect) add_part(s, models[i], base, sparse, p->weights[i], 1, 0, n);
    if (!drop && p->elect) add_part(s, models[i], base, sparse, p->weights[i], 0, 1, n);
    if (!drop && !p->elect) add_part(s, models[i], base, sparse, p->weights[i], 0, 0, n);
  }
  if (p->elect) elect(s, p->normalize, p->rounding, n);
  for (int64_t j = 0; j < n; j++) s->total[j] = s->total[j] * p->lambda + base[j];
}

/* Elements start to end (start a multiple of TILE) of every plan's out. Returns nonzero where memory is out. */
int combine(const struct plan *plans, int64_t count, struct tensor base, const struct tensor *models, int64_t k,
            int64_t start, int64_t end) {
  float *buffers = aligned_alloc(64, (k + 1) * STRIDE * sizeof(float));
  const float **tiles = malloc((k + 1) * sizeof *tiles);
  struct scratch s;
  if (!buffers || !tiles) {
    free(buffers);
    free(tiles);
    return 1;
  }
  for (; start < end; start += TILE) {
    int64_t n = end - start < TILE ? end - start : TILE;
    const float *b = base.data ? load(base, start, n, buffers + k * STRIDE) : NULL;
    for (int64_t i = 0; i < k; i++) tiles[i] = load(models[i], start, n, buffers + i * STRIDE);
    for (const struct plan *p = plans; p < plans + count; p++) {
      if (p->form == LINEAR_COMBINATION)
        linear_combination(p, b, tiles, k, n, &s);
      else
        sign_consensus(p, b, tiles, k, start, n, &s);
      store(p->out, start, n, s.total);
    }
  }
  free(buffers);
  free(tiles);
  return 0;
}

static double dot(const double *restrict a, const double *restrict b, int64_t n) {
  double lanes[8] = {0}, total = 0;
  int64_t j = 0;
  for (; j + 8 <= n; j += 8)
    for (int l = 0; l < 8; l++) lanes[l] += a[j + l] * b[j + l];
  for (; j < n; j++) lanes[0] += a[j] * b[j];
  for (int l = 0; l < 8; l++) total += lanes[l];
  return total;
}

/* Adds to sums (k by k, the upper half) the inner products of elements start to end, less the base's where it has data.
 * Returns nonzero where memory is out. */
int gram(struct tensor base, const struct tensor *tensors, int64_t k, int64_t start, int64_t end, double *sums) {
  double *wide = aligned_alloc(64, k * TILE * sizeof(double));
  _Alignas(64) float zero[TILE] = {0}, buffer[TILE], base_buffer[TILE];
  if (!wide) return 1;
  for (; start < end; start += TILE) {
    int64_t n = end - start < TILE ? end - start : TILE;
    const float *b = base.data ? load(base, start, n, base_buffer) : zero;
    for (int64_t i = 0; i < k; i++) {
      const float *x = load(tensors[i], start, n, buffer);
      for (int64_t j = 0; j < n; j++) wide[i * TILE + j] = (double)x[j] - (double)b[j];
    }
    for (int64_t i = 0; i < k; i++)
      for (int64_t j = i; j < k; j++) sums[i * k + j] += dot(wide + i * TILE, wide + j * TILE, n);
  }
  free(wide);
  return 0;
}
