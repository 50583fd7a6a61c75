/* Tensors in memory, and what all kernels read them by. */
#ifndef TENSORS_H
#define TENSORS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { STEP = 2 * LANES, TILE = 1024 };
enum { FLOAT32, BFLOAT16, FLOAT16, MIXED };

/* One of the processor's vectors each: compilers split longer ones badly. Data in memory need not be aligned to them. */
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef int16_t shorts __attribute__((vector_size(2 * LANES)));

struct tensor {
  char *data;
  int32_t dtype;
};

INLINE float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE int bytes_of(int dtype) { return dtype == FLOAT32 ? 4 : 2; }

/* Returns the tile as float32: a pointer to the tensor's own data, or to the buffer after a cast. */
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

#endif
