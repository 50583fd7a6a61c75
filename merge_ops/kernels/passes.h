/* Passes over memory: what they are, and how a step of their elements is loaded into registers and stored. */
#ifndef PASSES_H
#define PASSES_H

#include "tensors.h"

/* One model's term in a plan. */
struct term {
  float weight, threshold, ceiling, factor;
  uint64_t key;
  const char *places; /* uint16 for each element, an index into kept and factors; NULL if all elements are alike */
  const int32_t *kept;
  const float *factors;
  int32_t grains;
};

/* One pass: the plan of one tensor, its base, its k models and its output. Spans are numbered through all passes.
 *
 * Some forms also have tables, which are float32 tensors behind the models, and factors: for a model, a number for each
 * vector along an axis of this length, of which inner elements follow each other. overflow is set to 1 if a result is
 * not finite, and otherwise stays 0, unless elements that only fill a step up are not finite. */
struct pass {
  int64_t size, first_span, k, tables, inner, length;
  const struct term *terms;
  const struct tensor *models;
  const float *const *factors;
  int32_t *overflow;
  struct tensor base, out;
  int32_t form, task_vectors, elect, normalize, vote;
  float base_coefficient, lambda, rounding, least_spread, numbers[2];
};

/* One step in registers: its first and its second half. Of a pass whose tensors all are in bfloat16, the elements with
 * even and with odd indices: so each conversion is one instruction. */
struct wide {
  floats a, b;
};

INLINE struct wide all(float value) {
  floats each = value - (floats){0};
  return (struct wide){each, each};
}

INLINE floats where(ints mask, floats yes, floats no) { return (floats)((mask & (ints)yes) | (~mask & (ints)no)); }

INLINE floats unless(ints mask, floats value) { return (floats)(~mask & (ints)value); }

INLINE floats magnitude(floats value) { return (floats)((words)value & 0x7FFFFFFF); }

/* Conversions between 16 and 32 bits. The compiler's own code takes three instructions where the processor has one. */
INLINE words widened(halves bits) {
#ifdef __AVX512F__
  return (words)_mm512_cvtepu16_epi32((__m256i)bits);
#elif defined(__AVX2__)
  return (words)_mm256_cvtepu16_epi32((__m128i)bits);
#else
  return __builtin_convertvector(bits, words);
#endif
}

INLINE ints widened_signed(shorts values) {
#ifdef __AVX512F__
  return (ints)_mm512_cvtepi16_epi32((__m256i)values);
#elif defined(__AVX2__)
  return (ints)_mm256_cvtepi16_epi32((__m128i)values);
#else
  return __builtin_convertvector(values, ints);
#endif
}

INLINE halves narrowed(words bits) {
#ifdef __AVX512F__
  return (halves)_mm512_cvtepi32_epi16((__m512i)bits);
#elif defined(__AVX2__)
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)bits, (__m256i)bits), 8);
  return (halves)_mm256_castsi256_si128(packed);
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

INLINE floats load_half(const char *from, int dtype) {
  if (dtype == FLOAT32) return load_floats(from);
  return dtype == BFLOAT16 ? load_bfloat16(from) : load_float16(from);
}


/* Rounds to nearest, ties to even, in the upper 16 bits; the lower ones are arbitrary. NaN stays NaN. */
INLINE words rounded(floats value) {
  words bits = (words)value, nan = (words)(value != value), up = bits + 0x7FFF + ((bits >> 16) & 1);
  return (up & ~nan) | (nan & 0x7FC00000);
}

INLINE halves to_bfloat16(floats value) { return narrowed(rounded(value) >> 16); }

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

/* What was stored, and the results that are infinite or NaN in this dtype: then the highest bit of a lane is set. */
INLINE words and_overflow(words seen, struct wide value, int dtype) {
  uint32_t infinite = dtype == FLOAT32 ? 0x7F800000 : dtype == BFLOAT16 ? 0x7F7F8000 : 0x477FF000; /* rounded */
  uint32_t room = 0x80000000u - infinite;
  return seen | ((words)magnitude(value.a) + room) | ((words)magnitude(value.b) + room);
}

INLINE void tell_overflow(const struct pass *p, words seen) {
  uint32_t any = 0;
  for (int l = 0; l < LANES; l++) any |= seen[l];
  if (any >> 31) __atomic_store_n(p->overflow, 1, __ATOMIC_RELAXED);
}

INLINE const char *at(struct tensor t, int dtype, int64_t index) { return t.data + index * bytes_of(dtype); }

INLINE struct wide load(struct tensor t, int64_t index, int dtype) {
  int from = dtype == MIXED ? t.dtype : dtype;
  const char *data = at(t, from, index);
  if (dtype != BFLOAT16) return (struct wide){load_half(data, from), load_half(data + bytes_of(from) * LANES, from)};
  words bits;
  memcpy(&bits, data, sizeof bits);
  return (struct wide){(floats)(bits << 16), (floats)(bits & 0xFFFF0000)};
}

/* Stores what load gave the form of. */
INLINE void store_loaded(struct tensor t, int64_t index, int dtype, struct wide value, int past_cache) {
  int to = dtype == MIXED ? t.dtype : dtype;
  char *data = t.data + index * bytes_of(to);
  if (dtype != BFLOAT16) return store(data, to, value, past_cache);
  words bits = rounded(value.a) >> 16 | (rounded(value.b) & 0xFFFF0000);
  put(data, &bits, sizeof bits, past_cache);
}

#endif
