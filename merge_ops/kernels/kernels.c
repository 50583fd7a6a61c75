/* The kernels of kernels_torch.py, compiled: the same operations on the same float32 numbers in the same order, so the
 * same bits (compile without contraction of a*b + c and without -ffast-math). A step of STEP elements is carried through
 * in registers, from the inputs to the result, which goes to memory past the cache: nobody reads it again soon, and a
 * store through the cache would first read what it overwrites. Plans that share inputs take turns on tiles that stay in
 * the first-level cache: each input is read from memory once. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, STEP = 2 * LANES, TILE = 1024 };
enum { FLOAT32, BFLOAT16, FLOAT16, MIXED };
enum { LINEAR_COMBINATION, SIGN_CONSENSUS };
enum { MASS, COUNT, CHANGE };
enum { ALL = 65536 };

/* The compiler cuts these to the processor's vectors. Those in memory may lie anywhere. */
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef int16_t shorts __attribute__((vector_size(2 * LANES)));

struct tensor {
  char *data;
  int32_t dtype;
};

/* One model in one plan. */
struct term {
  float weight, threshold, ceiling, factor;
  uint64_t key;
  const char *places; /* uint16 for each element, to be looked up in kept and factors; NULL where all are alike */
  const int32_t *kept;
  const float *factors;
  int32_t grains;
};

struct plan {
  int32_t form, task_vectors, elect, normalize, vote;
  float base, lambda, rounding, least_spread;
  const struct term *terms;
  struct tensor out;
};

/* One tensor: so many plans over the same base and k models. Spans are counted through all tensors. */
struct work {
  int64_t size, first_span, plans, k;
  const struct plan *plan;
  const struct tensor *models;
  struct tensor base;
};

/* A step in registers. */
struct wide {
  floats a, b;
};

INLINE float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE struct wide all(float value) {
  floats each = value - (floats){0};
  return (struct wide){each, each};
}

INLINE floats where(ints mask, floats yes, floats no) { return (floats)((mask & (ints)yes) | (~mask & (ints)no)); }

INLINE floats unless(ints mask, floats value) { return (floats)(~mask & (ints)value); }

INLINE floats magnitude(floats value) { return (floats)((words)value & 0x7FFFFFFF); }

/* Between 16 and 32 bits: the compiler's own way takes three instructions where the processor has one. */
INLINE words widened(halves bits) {
#ifdef __AVX512F__
  return (words)_mm512_cvtepu16_epi32((__m256i)bits);
#else
  return __builtin_convertvector(bits, words);
#endif
}

INLINE ints widened_signed(shorts values) {
#ifdef __AVX512F__
  return (ints)_mm512_cvtepi16_epi32((__m256i)values);
#else
  return __builtin_convertvector(values, ints);
#endif
}

INLINE halves narrowed(words bits) {
#ifdef __AVX512F__
  return (halves)_mm512_cvtepi32_epi16((__m512i)bits);
#else
  return __builtin_convertvector(bits, halves);
#endif
}

INLINE floats load_floats(const void *from) {
  floats value;
  memcpy(&value, from, sizeof value);
  return value;
}

INLINE floats load_bfloat16(const char *from) {
  halves bits;
  memcpy(&bits, from, sizeof bits);
  return (floats)(widened(bits) << 16);
}

INLINE floats load_float16(const char *from) {
  _Float16 narrow[LANES];
  float value[LANES];
  memcpy(narrow, from, sizeof narrow);
  for (int l = 0; l < LANES; l++) value[l] = narrow[l];
  return load_floats(value);
}

INLINE struct wide load(const char *from, int dtype) {
  if (dtype == FLOAT32) return (struct wide){load_floats(from), load_floats(from + 4 * LANES)};
  if (dtype == BFLOAT16) return (struct wide){load_bfloat16(from), load_bfloat16(from + 2 * LANES)};
  return (struct wide){load_float16(from), load_float16(from + 2 * LANES)};
}

/* Round to nearest, ties to even; not-a-number stays that. */
INLINE halves to_bfloat16(floats value) {
  words bits = (words)value;
  words rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  words nan = (words)(value != value);
  return narrowed((rounded & ~nan) | (nan & 0x7FC0));
}

INLINE void put(char *to, const void *bytes, int size, int past_cache) {
#if defined(__AVX512F__)
  if (past_cache)
    for (int i = 0; i < size; i += 64) _mm512_stream_si512((void *)(to + i), _mm512_loadu_si512((char *)bytes + i));
  else
#elif defined(__AVX__)
  if (past_cache)
    for (int i = 0; i < size; i += 32)
      _mm256_stream_si256((__m256i *)(to + i), _mm256_loadu_si256((__m256i *)((char *)bytes + i)));
  else
#elif defined(__SSE2__)
  if (past_cache)
    for (int i = 0; i < size; i += 16)
      _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((__m128i *)((char *)bytes + i)));
  else
#endif
    memcpy(to, bytes, size);
}

INLINE void store(char *to, int dtype, struct wide value, int past_cache) {
  if (dtype == FLOAT32) {
    put(to, &value, sizeof value, past_cache);
  } else if (dtype == BFLOAT16) {
    halves bits[2] = {to_bfloat16(value.a), to_bfloat16(value.b)};
    put(to, bits, sizeof bits, past_cache);
  } else {
    float wide[STEP];
    _Float16 narrow[STEP];
    memcpy(wide, &value, sizeof wide);
    for (int l = 0; l < STEP; l++) narrow[l] = wide[l];
    put(to, narrow, sizeof narrow, past_cache);
  }
}

INLINE int bytes_of(int dtype) { return dtype == FLOAT32 ? 4 : 2; }

INLINE const char *at(struct tensor t, int dtype, int64_t place) { return t.data + place * bytes_of(dtype); }

/* What is summed up: -0 to begin with, to which a term is added without a change. */
INLINE struct wide added(struct wide total, struct wide x, struct wide base, int task_vectors, float c) {
  if (task_vectors) x.a -= base.a, x.b -= base.b;
  return (struct wide){total.a + x.a * c, total.b + x.b * c};
}

INLINE struct wide linear_combination(const struct work *w, const struct plan *p, int64_t place, int dtype) {
  struct wide base = all(0), total = all(-0.0f);
  int none = 1;
  if (w->base.data) {
    base = load(at(w->base, dtype == MIXED ? w->base.dtype : dtype, place), dtype == MIXED ? w->base.dtype : dtype);
    if (p->base != 0) total = added(total, base, base, 0, p->base), none = 0;
  }
  for (int64_t i = 0; i < w->k; i++) {
    float c = p->terms[i].weight;
    if (c == 0) continue;
    int own = dtype == MIXED ? w->models[i].dtype : dtype;
    total = added(total, load(at(w->models[i], own, place), own), base, p->task_vectors && w->base.data, c);
    none = 0;
  }
  return none ? all(0) : total;
}

/* The words of keep_mask in random.py for a step: each serves two elements. */
INLINE words mask_words(uint64_t key, int64_t start) {
  uint64_t place = (uint64_t)start / 2, epoch = place >> 32;
  uint32_t low = (uint32_t)(key + epoch), high = (uint32_t)((key >> 32) ^ epoch);
  words x = ((words){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + (uint32_t)place) * 0x9E3779B1u + low;
  x = ((x ^ (x >> 16)) * 0x7FEB352Du) ^ high;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

/* Sums of each sign, so that the elected one need only be picked. Comparisons let not-a-number into both. */
struct sums {
  floats total, positive, negative, above, below;
};

INLINE void add_part(struct sums *s, floats delta, const struct term *t, ints dropped, int elect, int vote) {
  floats size = magnitude(delta), zero = {0};
  floats kept = unless((size < t->threshold) | (size > t->ceiling) | dropped, delta), part = kept * t->factor;
  if (vote != COUNT) s->total += vote == MASS ? part : kept;
  if (elect) {
    ints less = part < zero, more = part > zero;
    if (vote == COUNT) s->total += (floats)(more & (ints)(zero + 1)) - (floats)(less & (ints)(zero + 1));
    s->positive += unless(less, part);
    s->negative += unless(more, part);
    s->above += (floats)(more & (ints)(zero + t->weight));
    s->below += (floats)(less & (ints)(zero + t->weight));
  }
}

INLINE floats elected(const struct sums *s, int normalize, float rounding) {
  floats zero = {0};
  ints plus = s->total >= zero;
  floats total = where(plus, s->positive, s->negative);
  if (!normalize) return total;
  floats divisor = where(plus, s->above, s->below);
  return total / where(magnitude(divisor) <= rounding, zero + 1, divisor);
}

/* Whether the random draws of a step drop its elements. */
struct drops {
  ints a, b;
};

INLINE struct drops drawn(const struct term *t, int64_t place, ints kept_a, ints kept_b) {
  words random = mask_words(t->key, place);
  shorts half[2];
  memcpy(half, &random, sizeof half);
  return (struct drops){widened_signed(half[0]) >= kept_a, widened_signed(half[1]) >= kept_b};
}

INLINE ints looked_up(const void *table, words places) {
#ifdef __AVX512F__
  return (ints)_mm512_i32gather_epi32((__m512i)places, table, 4);
#else
  ints found;
  for (int l = 0; l < LANES; l++) memcpy((char *)&found + 4 * l, (const char *)table + 4 * places[l], 4);
  return found;
#endif
}

/* A drop by place, with the factor of each. */
INLINE struct drops drawn_by_place(const struct term *t, int64_t place, struct wide *factors) {
  halves half[2];
  memcpy(half, t->places + 2 * place, sizeof half);
  words a = widened(half[0]), b = widened(half[1]);
  *factors = (struct wide){(floats)looked_up(t->factors, a), (floats)looked_up(t->factors, b)};
  return drawn(t, place, looked_up(t->kept, a), looked_up(t->kept, b));
}

INLINE struct wide task_vector(const struct work *w, int64_t i, int64_t place, struct wide base, int dtype) {
  int own = dtype == MIXED ? w->models[i].dtype : dtype;
  struct wide x = load(at(w->models[i], own, place), own);
  return (struct wide){x.a - base.a, x.b - base.b};
}

/* Where the task vectors' squared distances to their mean sum to less than the plan asks for. */
INLINE struct drops little_spread(const struct work *w, const struct plan *p, int64_t place, struct wide base, int dtype) {
  struct wide mean = task_vector(w, 0, place, base, dtype), sum = {0};
  float share = (float)(1.0 / (double)w->k);
  for (int64_t i = 1; i < w->k; i++) {
    struct wide delta = task_vector(w, i, place, base, dtype);
    mean.a += delta.a, mean.b += delta.b;
  }
  mean.a *= share, mean.b *= share;
  for (int64_t i = 0; i < w->k; i++) {
    struct wide delta = task_vector(w, i, place, base, dtype);
    delta.a -= mean.a, delta.b -= mean.b;
    sum.a += delta.a * delta.a, sum.b += delta.b * delta.b;
  }
  return (struct drops){sum.a < p->least_spread, sum.b < p->least_spread};
}

INLINE struct wide sign_consensus(const struct work *w, const struct plan *p, int64_t place, int64_t start, int dtype,
                                  int elect) {
  int own = dtype == MIXED ? w->base.dtype : dtype;
  struct wide base = load(at(w->base, own, place), own);
  struct sums a = {0}, b = {0};
  struct drops little = {0};
  if (p->least_spread > 0) little = little_spread(w, p, place, base, dtype);
  for (int64_t i = 0; i < w->k; i++) {
    const struct term *t = p->terms + i;
    struct wide delta = task_vector(w, i, place, base, dtype);
    struct drops drop = {0};
    if (t->places) {
      struct wide factors;
      drop = drawn_by_place(t, start + place, &factors);
      delta.a = unless(drop.a, delta.a) * factors.a, delta.b = unless(drop.b, delta.b) * factors.b;
    } else if (t->grains < ALL) {
      ints kept = (ints){0} + (t->grains - ALL / 2);
      drop = drawn(t, start + place, kept, kept);
    }
    add_part(&a, delta.a, t, drop.a | little.a, elect, p->vote);
    add_part(&b, delta.b, t, drop.b | little.b, elect, p->vote);
  }
  if (elect) a.total = elected(&a, p->normalize, p->rounding), b.total = elected(&b, p->normalize, p->rounding);
  return (struct wide){a.total * p->lambda + base.a, b.total * p->lambda + base.b};
}

/* Elements first to last, in whole steps; the tensors' data begin at element start of the whole tensor. */
INLINE void walk(const struct work *w, const struct plan *p, int64_t first, int64_t last, int64_t start, int dtype) {
  int out = dtype == MIXED ? p->out.dtype : dtype;
  int past_cache = (uintptr_t)p->out.data % 64 == 0;
  for (int64_t place = first; place < last; place += STEP) {
    struct wide value = p->form == LINEAR_COMBINATION ? linear_combination(w, p, place, dtype)
                        : p->elect                    ? sign_consensus(w, p, place, start, dtype, 1)
                                                      : sign_consensus(w, p, place, start, dtype, 0);
    store(p->out.data + place * bytes_of(out), out, value, past_cache);
  }
}

/* The compiler makes a walk of its own for each dtype that all tensors may have. */
static void walk_plan(const struct work *w, const struct plan *p, int64_t first, int64_t last, int64_t start) {
  int dtype = p->out.dtype, same = !w->base.data || w->base.dtype == dtype;
  for (int64_t i = 0; i < w->k; i++) same &= w->models[i].dtype == dtype;
  if (same && dtype == FLOAT32)
    walk(w, p, first, last, start, FLOAT32);
  else if (same && dtype == BFLOAT16)
    walk(w, p, first, last, start, BFLOAT16);
  else
    walk(w, p, first, last, start, MIXED);
}

/* Fewer elements than a step: copied to where there is room for a whole one. Returns nonzero where memory is out. */
static int walk_rest(const struct work *w, int64_t first, int64_t last) {
  struct tensor *models = malloc(w->k * sizeof *models);
  char *room = calloc(w->k + 2, STEP * sizeof(float)), *next = room;
  int failed = !models || !room;
  struct work rest = *w;
  for (int64_t i = -1; i < w->k && !failed; i++, next += STEP * sizeof(float)) {
    struct tensor from = i < 0 ? w->base : w->models[i];
    int bytes = bytes_of(from.dtype);
    if (from.data) memcpy(next, from.data + first * bytes, (last - first) * bytes);
    *(i < 0 ? &rest.base : models + i) = (struct tensor){from.data ? next : NULL, from.dtype};
  }
  rest.models = models;
  for (const struct plan *p = w->plan; p < w->plan + w->plans && !failed; p++) {
    struct plan own = *p;
    int bytes = bytes_of(p->out.dtype);
    own.out.data = next;
    walk_plan(&rest, &own, 0, STEP, first);
    memcpy(p->out.data + first * bytes, next, (last - first) * bytes);
  }
  free(models);
  free(room);
  return failed;
}

/* Elements start to end of one tensor, for every plan. */
static int walk_span(const struct work *w, int64_t start, int64_t end) {
  int64_t whole = end - (end - start) % STEP;
  for (int64_t first = start; first < whole; first += TILE) {
    int64_t last = whole - first < TILE ? whole : first + TILE;
    for (const struct plan *p = w->plan; p < w->plan + w->plans; p++) walk_plan(w, p, first, last, 0);
  }
  return whole < end && walk_rest(w, whole, end);
}

/* Spans of any of the tensors until none is left; next is shared by the threads. Returns nonzero where memory is out. */
int combine(const struct work *works, int64_t count, int64_t span, int64_t *next) {
  const struct work *w = works, *end = works + count;
  int failed = 0;
  while (!failed) {
    int64_t mine = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
    while (w < end && w->first_span + (w->size + span - 1) / span <= mine) w++;
    if (w == end) break;
    int64_t start = (mine - w->first_span) * span;
    failed = walk_span(w, start, w->size - start < span ? w->size : start + span);
  }
#ifdef __SSE2__
  _mm_sfence();
#endif
  return failed;
}

/* The tile as float32: where it lies, or cast into the buffer. */
static const float *load_tile(struct tensor from, int64_t start, int64_t n, float *restrict buffer) {
  const char *data = from.data + start * bytes_of(from.dtype);
  if (from.dtype == FLOAT32) return (const float *)data;
  if (from.dtype == BFLOAT16)
    for (int64_t j = 0; j < n; j++) buffer[j] = from_bits((uint32_t)((const uint16_t *)data)[j] << 16);
  else
    for (int64_t j = 0; j < n; j++) buffer[j] = ((const _Float16 *)data)[j];
  return buffer;
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
