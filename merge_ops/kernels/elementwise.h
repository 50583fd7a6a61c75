/* The functions of the Elementwise plans that have a Form: the same operations as in Python, in the same order. */
#ifndef ELEMENTWISE_H
#define ELEMENTWISE_H

#include "passes.h"

enum { TABLES, VECTORS, LARGEST, SHARED, CONSENSUS, NEAR, DIFFERENCE, FISHER, IMPORTANT };

/* Where the vectors along an axis are in a tensor that is read element by element: lines of inner elements, or of length
 * if the vectors are lines themselves. */
struct place {
  int64_t line, column, width;
};

INLINE struct place place_of(const struct pass *p, int64_t flat) {
  int64_t width = p->inner == 1 ? p->length : p->inner;
  return (struct place){flat / width, flat % width, width};
}

INLINE struct place after(struct place at) {
  for (at.column += LANES; at.column >= at.width; at.line++) at.column -= at.width;
  return at;
}

INLINE int64_t vector_at(const struct pass *p, int64_t line, int64_t column) {
  return p->inner == 1 ? line : line / p->length * p->inner + column;
}

/* The factors of the elements' vectors. */
INLINE floats factors_at(const struct pass *p, const float *factors, struct place at) {
  if (at.column + LANES <= at.width) {
    const float *first = factors + vector_at(p, at.line, at.column);
    return p->inner == 1 ? *first - (floats){0} : load_floats(first);
  }
  float each[LANES];
  int64_t last = (p->size - 1) / at.width; /* a step may go beyond the tensor */
  for (int l = 0; l < LANES; l++) {
    int64_t line = at.line + (at.column + l) / at.width;
    each[l] = factors[vector_at(p, line < last ? line : last, (at.column + l) % at.width)];
  }
  return load_floats(each);
}

INLINE floats elements(struct tensor t, int64_t index, int dtype) {
  int from = dtype == MIXED ? t.dtype : dtype;
  return load_half(at(t, from, index), from);
}

INLINE floats table(const struct pass *p, int64_t i, int64_t index) {
  return load_floats(at(p->models[p->k + i], FLOAT32, index));
}

INLINE floats ones(ints mask) { return (floats)(mask & (ints)((floats){0} + 1)); }

INLINE floats at_least(floats value, float least) { return where(value < least, least - (floats){0}, value); }

/* The sum of the tables with their weights, and the base if there is one. -0 + x is x for every x, including -0. */
INLINE floats sum_of_tables(const struct pass *p, int64_t index, floats base) {
  floats total = -(floats){0};
  for (int64_t i = 0; i < p->tables; i++) total += table(p, i, index) * p->terms[i].weight;
  return p->base.data ? total + base : total;
}

/* rowwise.combination. */
INLINE floats sum_of_vectors(const struct pass *p, int64_t index, struct place at, floats base, int dtype) {
  floats total = {0};
  for (int64_t i = 0; i < p->k; i++) {
    floats x = elements(p->models[i], index, dtype);
    total += factors_at(p, p->factors[i], at) * (p->task_vectors ? x - base : x);
  }
  if (p->task_vectors) return total + base;
  return p->factors[p->k] ? total + factors_at(p, p->factors[p->k], at) * base : total;
}

/* magmax. NaN wins. */
INLINE floats largest(const struct pass *p, int64_t index, floats base, int dtype) {
  floats high = elements(p->models[0], index, dtype) - base, low = high;
  for (int64_t i = 1; i < p->k; i++) {
    floats delta = elements(p->models[i], index, dtype) - base;
    high = where((delta > high) | (delta != delta), delta, high);
    low = where((delta < low) | (delta != delta), delta, low);
  }
  return where(high >= -low, high, low) * p->numbers[0] + base;
}

/* ram and ramplus_tl. */
INLINE floats shared(const struct pass *p, int64_t index, floats base, int dtype) {
  floats total = {0}, single = {0}, count = {0};
  for (int64_t i = 0; i < p->k; i++) {
    floats delta = elements(p->models[i], index, dtype) - base, changed = ones(magnitude(delta) > p->numbers[0]);
    floats change = delta * changed;
    count += changed, total += change, single += change * p->terms[i].weight;
  }
  return where(count == 1, single, total / at_least(count, 1)) + base;
}

/* consensus_ta. */
INLINE floats agreed(const struct pass *p, int64_t index, floats base, int dtype) {
  floats total = {0}, votes = {0};
  for (int64_t i = 0; i < p->k; i++) total += (elements(p->models[i], index, dtype) - base) * p->terms[i].weight;
  for (int64_t i = 0; i < p->k; i++) {
    floats delta = elements(p->models[i], index, dtype) - base;
    votes += ones(magnitude(delta) >= magnitude(total - delta) * p->terms[i].factor);
  }
  return total * ones(votes >= p->numbers[0]) * p->numbers[1] + base;
}

/* nearswap. */
INLINE floats near(const struct pass *p, int64_t index, floats base, int dtype) {
  floats delta = elements(p->models[0], index, dtype) - base;
  floats share = 1 / at_least(magnitude(delta), p->numbers[1]) * p->numbers[0];
  return where(share > 1, 1 - (floats){0}, share) * delta + base;
}

/* train_difference. */
INLINE floats difference(const struct pass *p, int64_t index, floats base, int dtype) {
  floats a = elements(p->models[0], index, dtype), b = elements(p->models[1], index, dtype);
  floats learned = b - base, missing = magnitude(b - a), distance = missing + magnitude(learned);
  return missing / where(distance == 0, 1 - (floats){0}, distance) * learned * p->numbers[0] + a;
}

/* fisher. */
INLINE floats informed(const struct pass *p, int64_t index, int dtype) {
  floats first = elements(p->models[0], index, dtype), total = {0}, divisor = {0};
  for (int64_t i = 0; i < p->k; i++) {
    floats share = at_least(table(p, i, index), p->numbers[0]) * p->terms[i].weight;
    total += share * (elements(p->models[i], index, dtype) - first);
    divisor += share;
  }
  return first + total / divisor;
}

/* arcee_fusion. */
INLINE floats important(const struct pass *p, int64_t index, struct place at, floats base, int dtype) {
  floats x = elements(p->models[0], index, dtype);
  return where(magnitude(x - base) * factors_at(p, p->factors[0], at) >= p->numbers[0], x, base);
}

INLINE floats function(const struct pass *p, int form, int64_t index, struct place at, int dtype) {
  floats base = p->base.data ? elements(p->base, index, dtype) : (floats){0};
  switch (form) {
    case TABLES: return sum_of_tables(p, index, base);
    case VECTORS: return sum_of_vectors(p, index, at, base, dtype);
    case LARGEST: return largest(p, index, base, dtype);
    case SHARED: return shared(p, index, base, dtype);
    case CONSENSUS: return agreed(p, index, base, dtype);
    case NEAR: return near(p, index, base, dtype);
    case DIFFERENCE: return difference(p, index, base, dtype);
    case FISHER: return informed(p, index, dtype);
    default: return important(p, index, at, base, dtype);
  }
}

INLINE void walk_function(const struct pass *p, int form, int64_t first, int64_t last, int64_t start, int dtype) {
  int out = dtype == MIXED ? p->out.dtype : dtype, past_cache = (uintptr_t)p->out.data % 64 == 0;
  struct place at = form == VECTORS || form == IMPORTANT ? place_of(p, start + first) : (struct place){0, 0, LANES};
  words seen = {0};
  for (int64_t index = first; index < last; index += STEP) {
    struct place second = after(at);
    struct wide value = {function(p, form, index, at, dtype), function(p, form, index + LANES, second, dtype)};
    store(p->out.data + index * bytes_of(out), out, value, past_cache);
    seen = and_overflow(seen, value, out);
    at = after(second);
  }
  tell_overflow(p, seen);
}

/* The compiler specializes the walk for each form. */
INLINE void walk_elementwise(const struct pass *p, int form, int64_t first, int64_t last, int64_t start, int dtype) {
  switch (form) {
    case TABLES: return walk_function(p, TABLES, first, last, start, dtype);
    case VECTORS: return walk_function(p, VECTORS, first, last, start, dtype);
    case LARGEST: return walk_function(p, LARGEST, first, last, start, dtype);
    case SHARED: return walk_function(p, SHARED, first, last, start, dtype);
    case CONSENSUS: return walk_function(p, CONSENSUS, first, last, start, dtype);
    case NEAR: return walk_function(p, NEAR, first, last, start, dtype);
    case DIFFERENCE: return walk_function(p, DIFFERENCE, first, last, start, dtype);
    case FISHER: return walk_function(p, FISHER, first, last, start, dtype);
    default: return walk_function(p, IMPORTANT, first, last, start, dtype);
  }
}

#endif
