/* The kernels of torch_backend.py in C. They do the same operations on the same float32 numbers in the same order, so
 * they give the same bits. Compile without contraction of a*b + c and without -ffast-math.
 *
 * A step of STEP elements stays in registers from the inputs to the result. The result is stored past the cache: it is
 * not read again soon, and a store through the cache would first read the memory that it overwrites. */
#include "elementwise.h"

enum { LINEAR_COMBINATION, SIGN_CONSENSUS, OTHER_FORMS };
enum { MASS, COUNT, CHANGE };
enum { ALL = 65536, SUMS = 64 };

/* Adds one term. The first total is -0, because -0 + x is x for every x, including -0. */
INLINE struct wide added(struct wide total, struct wide x, struct wide base, int task_vectors, float c) {
  if (task_vectors) x.a -= base.a, x.b -= base.b;
  return (struct wide){total.a + x.a * c, total.b + x.b * c};
}

INLINE struct wide linear_combination(const struct pass *p, int64_t index, int dtype) {
  struct wide base = all(0), total = all(-0.0f);
  int empty = 1;
  if (p->base.data) {
    base = load(p->base, index, dtype);
    if (p->base_coefficient != 0) total = added(total, base, base, 0, p->base_coefficient), empty = 0;
  }
  for (int64_t i = 0; i < p->k; i++) {
    float c = p->terms[i].weight;
    if (c == 0) continue;
    total = added(total, load(p->models[i], index, dtype), base, p->task_vectors && p->base.data, c);
    empty = 0;
  }
  return empty ? all(0) : total;
}

static const uint32_t COUNTS[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* The random words of draws in masks.py for one step. Each word serves two elements. */
INLINE words mask_words(uint64_t key, int64_t start) {
  uint64_t word = (uint64_t)start / 2, epoch = word >> 32;
  uint32_t low = (uint32_t)(key + epoch), high = (uint32_t)((key >> 32) ^ epoch);
  words x;
  memcpy(&x, COUNTS, sizeof x);
  x = (x + (uint32_t)word) * 0x9E3779B1u + low;
  x = ((x ^ (x >> 16)) * 0x7FEB352Du) ^ high;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

/* Sums over all terms and over the terms of each sign. NaN is of both signs. */
struct sums {
  floats total, positive, negative, positive_weight, negative_weight;
};

/* What is known of a pass beforehand, so that the compiler leaves out the rest: no signs; no election of signs; any; or
 * those of the methods ties and dare_ties, by mass. */
enum { NO_SIGNS, NO_ELECTION, ELECTION, MEAN_OF_TRIMMED, SUM_OF_DROPPED };

static int kind_of(const struct pass *p) {
  int trims = 0, drops = 0, others = p->vote != MASS || p->least_spread > 0;
  if (p->form == LINEAR_COMBINATION) return NO_SIGNS;
  if (!p->elect) return NO_ELECTION;
  for (int64_t i = 0; i < p->k; i++) {
    const struct term *t = p->terms + i;
    trims |= t->threshold > 0, drops |= t->grains < ALL, others |= t->places || !isinf(t->ceiling);
  }
  if (!others && !drops && p->normalize) return MEAN_OF_TRIMMED;
  return !others && !trims && !p->normalize ? SUM_OF_DROPPED : ELECTION;
}

/* The value, or 0 where it is negative. */
INLINE floats positive(floats value) {
#if defined(__AVX512F__)
  return (floats)_mm512_max_ps((__m512)(floats){0}, (__m512)value);
#elif defined(__AVX__)
  return (floats)_mm256_max_ps((__m256)(floats){0}, (__m256)value);
#else
  return unless(value < (floats){0}, value);
#endif
}

INLINE floats negative(floats value) {
#if defined(__AVX512F__)
  return (floats)_mm512_min_ps((__m512)(floats){0}, (__m512)value);
#elif defined(__AVX__)
  return (floats)_mm256_min_ps((__m256)(floats){0}, (__m256)value);
#else
  return unless(value > (floats){0}, value);
#endif
}

INLINE floats sparse(floats delta, const struct term *t, ints dropped, int kind) {
  if (kind == SUM_OF_DROPPED) return unless(dropped, delta);
  floats size = magnitude(delta);
  if (kind == MEAN_OF_TRIMMED) return unless(size < t->threshold, delta);
  return unless((size < t->threshold) | (size > t->ceiling) | dropped, delta);
}

INLINE void add_term(struct sums *s, floats delta, const struct term *t, ints dropped, int kind, int vote) {
  floats kept = sparse(delta, t, dropped, kind), term = kept * t->factor, zero = {0};
  if (vote != COUNT) s->total += vote == MASS ? term : kept;
  if (kind == NO_ELECTION) return;
  s->positive += positive(term);
  s->negative += negative(term);
  if (kind == SUM_OF_DROPPED) return;
  ints less = term < zero, more = term > zero;
  if (vote == COUNT) s->total += (floats)(more & (ints)(zero + 1)) - (floats)(less & (ints)(zero + 1));
  s->positive_weight += (floats)(more & (ints)(zero + t->weight));
  s->negative_weight += (floats)(less & (ints)(zero + t->weight));
}

INLINE floats elected(const struct sums *s, int normalize, float rounding) {
  floats zero = {0};
  ints plus = s->total >= zero;
  floats total = where(plus, s->positive, s->negative);
  if (!normalize) return total;
  floats divisor = where(plus, s->positive_weight, s->negative_weight);
  return total / where(magnitude(divisor) <= rounding, zero + 1, divisor);
}

/* Masks of the elements of a step that are dropped. */
struct drops {
  ints a, b;
};

/* An element is dropped where its 16 random bits, a number with a sign, are not less than what is kept. */
INLINE struct drops drawn(const struct term *t, int64_t index, ints kept_a, ints kept_b, int dtype) {
  words random = mask_words(t->key, index);
  if (dtype == BFLOAT16) return (struct drops){(ints)(random << 16) >> 16 >= kept_a, (ints)random >> 16 >= kept_b};
  shorts half[2];
  memcpy(half, &random, sizeof half);
  return (struct drops){widened_signed(half[0]) >= kept_a, widened_signed(half[1]) >= kept_b};
}

INLINE ints gathered(const void *table, words indices) {
#ifdef __AVX512F__
  return (ints)_mm512_i32gather_epi32((__m512i)indices, table, 4);
#else
  ints values;
  for (int l = 0; l < LANES; l++) memcpy((char *)&values + 4 * l, (const char *)table + 4 * indices[l], 4);
  return values;
#endif
}

/* A random drop by rank, with the factor of each element. */
INLINE struct drops drawn_by_rank(const struct term *t, int64_t index, struct wide *factors, int dtype) {
  halves half[2];
  words both;
  memcpy(half, t->places + 2 * index, sizeof half);
  memcpy(&both, half, sizeof both);
  words a = dtype == BFLOAT16 ? both & 0xFFFF : widened(half[0]), b = dtype == BFLOAT16 ? both >> 16 : widened(half[1]);
  *factors = (struct wide){(floats)gathered(t->factors, a), (floats)gathered(t->factors, b)};
  return drawn(t, index, gathered(t->kept, a), gathered(t->kept, b), dtype);
}

INLINE struct wide task_vector(const struct pass *p, int64_t i, int64_t index, struct wide base, int dtype) {
  struct wide x = load(p->models[i], index, dtype);
  return (struct wide){x.a - base.a, x.b - base.b};
}

/* Masks of the elements whose task vectors' squared distances to their mean sum to less than least_spread. */
INLINE struct drops below_least_spread(const struct pass *p, int64_t index, struct wide base, int dtype) {
  struct wide mean = task_vector(p, 0, index, base, dtype), sum = {0};
  float share = (float)(1.0 / (double)p->k);
  for (int64_t i = 1; i < p->k; i++) {
    struct wide delta = task_vector(p, i, index, base, dtype);
    mean.a += delta.a, mean.b += delta.b;
  }
  mean.a *= share, mean.b *= share;
  for (int64_t i = 0; i < p->k; i++) {
    struct wide delta = task_vector(p, i, index, base, dtype);
    delta.a -= mean.a, delta.b -= mean.b;
    sum.a += delta.a * delta.a, sum.b += delta.b * delta.b;
  }
  return (struct drops){sum.a < p->least_spread, sum.b < p->least_spread};
}

INLINE struct wide sign_consensus(const struct pass *p, int64_t index, int64_t start, int dtype, int kind) {
  int vote = kind > ELECTION ? MASS : p->vote, normalize = kind == MEAN_OF_TRIMMED || (kind == ELECTION && p->normalize);
  struct wide base = load(p->base, index, dtype);
  struct sums a = {0}, b = {0};
  struct drops close = {0};
  if (kind <= ELECTION && p->least_spread > 0) close = below_least_spread(p, index, base, dtype);
  for (int64_t i = 0; i < p->k; i++) {
    const struct term *t = p->terms + i;
    struct wide delta = task_vector(p, i, index, base, dtype);
    struct drops drop = {0};
    if (kind <= ELECTION && t->places) {
      struct wide factors;
      drop = drawn_by_rank(t, start + index, &factors, dtype);
      delta.a = unless(drop.a, delta.a) * factors.a, delta.b = unless(drop.b, delta.b) * factors.b;
    } else if (kind != MEAN_OF_TRIMMED && t->grains < ALL) {
      ints kept = (ints){0} + (t->grains - ALL / 2);
      drop = drawn(t, start + index, kept, kept, dtype);
    }
    add_term(&a, delta.a, t, drop.a | close.a, kind, vote);
    add_term(&b, delta.b, t, drop.b | close.b, kind, vote);
  }
  if (kind != NO_ELECTION) a.total = elected(&a, normalize, p->rounding), b.total = elected(&b, normalize, p->rounding);
  return (struct wide){a.total * p->lambda + base.a, b.total * p->lambda + base.b};
}

/* Processes the elements first to last, in whole steps. The data pointers point to element start of the tensors. */
INLINE void walk(const struct pass *p, int64_t first, int64_t last, int64_t start, int dtype, int kind) {
  int out = dtype == MIXED ? p->out.dtype : dtype;
  int past_cache = (uintptr_t)p->out.data % 64 == 0;
  words seen = {0};
  for (int64_t index = first; index < last; index += STEP) {
    struct wide value = kind == NO_SIGNS ? linear_combination(p, index, dtype)
                                         : sign_consensus(p, index, start, dtype, kind);
    store_loaded(p->out, index, dtype, value, past_cache);
    seen = and_overflow(seen, value, out);
  }
  tell_overflow(p, seen);
}

INLINE void walk_form(const struct pass *p, int64_t first, int64_t last, int64_t start, int dtype) {
  if (p->form >= OTHER_FORMS) return walk_elementwise(p, p->form - OTHER_FORMS, first, last, start, dtype);
  switch (kind_of(p)) {
    case NO_SIGNS: return walk(p, first, last, start, dtype, NO_SIGNS);
    case NO_ELECTION: return walk(p, first, last, start, dtype, NO_ELECTION);
    case MEAN_OF_TRIMMED: return walk(p, first, last, start, dtype, MEAN_OF_TRIMMED);
    case SUM_OF_DROPPED: return walk(p, first, last, start, dtype, SUM_OF_DROPPED);
    default: return walk(p, first, last, start, dtype, ELECTION);
  }
}

/* The compiler specializes the walk for each dtype that all tensors have in common. */
static void walk_steps(const struct pass *p, int64_t first, int64_t last, int64_t start) {
  int dtype = p->out.dtype, same = !p->base.data || p->base.dtype == dtype;
  for (int64_t i = 0; i < p->k; i++) same &= p->models[i].dtype == dtype;
  if (same && dtype == FLOAT32)
    walk_form(p, first, last, start, FLOAT32);
  else if (same && dtype == BFLOAT16)
    walk_form(p, first, last, start, BFLOAT16);
  else
    walk_form(p, first, last, start, MIXED);
}

/* Processes fewer elements than a step, in copies that are as long as a step. Returns nonzero if out of memory. */
static int walk_remainder(const struct pass *p, int64_t first, int64_t last) {
  int64_t count = p->k + p->tables;
  struct tensor *models = malloc((count + 1) * sizeof *models);
  char *room = calloc(count + 2, STEP * sizeof(float)), *next = room;
  int failed = !models || !room;
  struct pass rest = *p;
  for (int64_t i = -1; i < count && !failed; i++, next += STEP * sizeof(float)) {
    struct tensor from = i < 0 ? p->base : p->models[i];
    int bytes = bytes_of(from.dtype);
    if (from.data) memcpy(next, from.data + first * bytes, (last - first) * bytes);
    *(i < 0 ? &rest.base : models + i) = (struct tensor){from.data ? next : NULL, from.dtype};
  }
  if (!failed) {
    int bytes = bytes_of(p->out.dtype);
    rest.models = models;
    rest.out.data = next;
    walk_steps(&rest, 0, STEP, first);
    memcpy(p->out.data + first * bytes, next, (last - first) * bytes);
  }
  free(models);
  free(room);
  return failed;
}

/* Processes the elements start to end of one tensor. Returns nonzero if out of memory. */
static int walk_span(const struct pass *p, int64_t start, int64_t end) {
  int64_t whole = end - (end - start) % STEP;
  walk_steps(p, start, whole, 0);
  return whole < end && walk_remainder(p, whole, end);
}

/* Processes spans of any pass until none is left. The threads share next. Returns nonzero if out of memory. */
int combine(const struct pass *passes, int64_t count, int64_t span, int64_t *next) {
  const struct pass *p = passes, *end = passes + count;
  int failed = 0;
  while (!failed) {
    int64_t claimed = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
    while (p < end && p->first_span + (p->size + span - 1) / span <= claimed) p++;
    if (p == end) break;
    int64_t start = (claimed - p->first_span) * span;
    failed = walk_span(p, start, p->size - start < span ? p->size : start + span);
  }
#ifdef __SSE2__
  _mm_sfence();
#endif
  return failed;
}

/* Adds the inner products of the elements start to end to sums (k by k, upper half). If the base has data, it is
 * subtracted from every tensor first. Returns nonzero if out of memory. */
int gram(struct tensor base, const struct tensor *tensors, int64_t k, int64_t start, int64_t end, double *sums) {
  double *wide = aligned_alloc(64, k * TILE * sizeof(double));
  _Alignas(64) float zero[TILE] = {0}, buffer[TILE], base_buffer[TILE];
  if (!wide) return 1;
  for (; start < end; start += TILE) {
    int64_t n = end - start < TILE ? end - start : TILE;
    const float *b = base.data ? load_tile(base, start, n, base_buffer) : zero;
    for (int64_t i = 0; i < k; i++) {
      const float *x = load_tile(tensors[i], start, n, buffer);
      for (int64_t j = 0; j < n; j++) wide[i * TILE + j] = (double)x[j] - (double)b[j];
    }
    for (int64_t i = 0; i < k; i++)
      for (int64_t j = i; j < k; j++) sums[i * k + j] += dot(wide + i * TILE, wide + j * TILE, n);
  }
  free(wide);
  return 0;
}

/* The same for each of the rows first to last: [row] k by k. */
int row_grams(struct tensor base, const struct tensor *tensors, int64_t k, int64_t length, int64_t first, int64_t last,
              double *sums) {
  int failed = 0;
  for (int64_t row = first; row < last && !failed; row++)
    failed = gram(base, tensors, k, row * length, (row + 1) * length, sums + row * k * k);
  return failed;
}

/* The same for each of so many columns, over the rows first to last: k by k [column]. */
int column_grams(struct tensor base, const struct tensor *tensors, int64_t k, int64_t columns, int64_t first,
                 int64_t last, double *sums) {
  double *wide = aligned_alloc(64, k * TILE * sizeof(double));
  _Alignas(64) float zero[TILE] = {0}, buffer[TILE], base_buffer[TILE];
  if (!wide) return 1;
  for (int64_t row = first; row < last; row++)
    for (int64_t column = 0; column < columns; column += TILE) {
      int64_t n = columns - column < TILE ? columns - column : TILE, start = row * columns + column;
      const float *b = base.data ? load_tile(base, start, n, base_buffer) : zero;
      for (int64_t i = 0; i < k; i++) {
        const float *x = load_tile(tensors[i], start, n, buffer);
        const double *restrict own = wide + i * TILE;
        for (int64_t j = 0; j < n; j++) wide[i * TILE + j] = (double)x[j] - (double)b[j];
        for (int64_t other = 0; other <= i; other++) {
          double *restrict to = sums + (other * k + i) * columns + column;
          for (int64_t j = 0; j < n; j++) to[j] += own[j] * wide[other * TILE + j];
        }
      }
    }
  free(wide);
  return 0;
}

/* Returns the inner product of a vector and x - b. Products are added in float32, in SUMS sums of TILE / SUMS terms. */
static double dot_difference(const float *restrict vector, const float *restrict x, const float *restrict b, int64_t n) {
  floats sums[SUMS / LANES] = {0};
  double total = 0;
  int64_t j = 0;
  for (; j + SUMS <= n; j += SUMS)
    for (int part = 0; part < SUMS / LANES; part++) {
      int64_t at = j + part * LANES;
      sums[part] += load_floats(vector + at) * (load_floats(x + at) - load_floats(b + at));
    }
  for (; j < n; j++) total += vector[j] * (x[j] - b[j]);
  for (int part = 0; part < SUMS / LANES; part++)
    for (int l = 0; l < LANES; l++) total += sums[part][l];
  return total;
}

/* Adds the inner products of a vector with the base (to the first of sums, if the base has data) and with each of k
 * tensors, less the base if relative, over the elements start to end. */
void inner_products(struct tensor vector, struct tensor base, const struct tensor *tensors, int64_t k, int relative,
                    int64_t start, int64_t end, double *sums) {
  _Alignas(64) float zero[TILE] = {0}, vector_buffer[TILE], base_buffer[TILE], buffer[TILE];
  for (; start < end; start += TILE) {
    int64_t n = end - start < TILE ? end - start : TILE;
    const float *v = load_tile(vector, start, n, vector_buffer);
    const float *b = base.data ? load_tile(base, start, n, base_buffer) : zero;
    if (base.data) sums[0] += dot_difference(v, b, zero, n);
    for (int64_t i = 0; i < k; i++)
      sums[1 + i] += dot_difference(v, load_tile(tensors[i], start, n, buffer), relative ? b : zero, n);
  }
}
