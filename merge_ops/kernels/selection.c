/* Selection by rank, as in selection.py: how often each digit occurs among the keys of a tensor's elements, without a
 * copy of the keys. A tile of numbers stays in the first-level cache. */
#include "tensors.h"

enum { MAGNITUDE, SPREAD, IMPORTANCE };
enum { PLACE_BITS = 40, HELD = 1 << 23, SHORT_ROW = 64, RANKS = 65536 };

/* The elements' numbers: |x - b|, or the spread of k task vectors, or |x - b| times the factor of the element's row. */
struct numbers {
  int64_t size, k, row;
  const struct tensor *models;
  struct tensor base;
  const float *factors;
  int32_t kind;
};

/* Keys are counted by (key >> shift) - first, if that is in [0, count), for each of the firsts. */
struct digit {
  int64_t count, ranges;
  const int64_t *firsts;
  int32_t shift;
};

/* Room for the numbers of one tile, then for a tile of each task vector. */
static float *room_for(const struct numbers *of) { return aligned_alloc(64, (of->k + 1) * TILE * sizeof(float)); }

/* The operations of spread_of in torch_backend.py, in the same order. */
static void spreads(const struct numbers *of, int64_t n, const float *restrict deltas, float *restrict out) {
  float mean[TILE], share = (float)(1.0 / (double)of->k);
  memcpy(mean, deltas, n * sizeof(float));
  for (int64_t i = 1; i < of->k; i++)
    for (int64_t j = 0; j < n; j++) mean[j] += deltas[i * TILE + j];
  for (int64_t j = 0; j < n; j++) mean[j] *= share;
  for (int64_t j = 0; j < n; j++) out[j] = 0;
  for (int64_t i = 0; i < of->k; i++)
    for (int64_t j = 0; j < n; j++) {
      float apart = deltas[i * TILE + j] - mean[j];
      out[j] += apart * apart;
    }
}

static void weigh(const struct numbers *of, int64_t start, int64_t n, float *out) {
  for (int64_t j = 0; j < n;) {
    int64_t row = (start + j) / of->row, rest = (row + 1) * of->row - start, end = rest < n ? rest : n;
    float factor = of->factors[row];
    for (; j < end; j++) out[j] *= factor;
  }
}

/* Writes the numbers of the elements from start to the room, and each task vector behind them if they are spreads. */
static void load_numbers(const struct numbers *of, int64_t start, int64_t n, float *restrict room) {
  _Alignas(64) float buffer[TILE], base_buffer[TILE];
  const float *b = load_tile(of->base, start, n, base_buffer);
  for (int64_t i = 0; i < of->k; i++) {
    const float *x = load_tile(of->models[i], start, n, buffer);
    float *restrict delta = room + (i + 1) * TILE;
    if (of->kind == SPREAD)
      for (int64_t j = 0; j < n; j++) delta[j] = x[j] - b[j];
    else
      for (int64_t j = 0; j < n; j++) room[j] = fabsf(x[j] - b[j]);
  }
  if (of->kind == SPREAD) spreads(of, n, room + TILE, room);
  if (of->kind == IMPORTANCE) weigh(of, start, n, room);
}

/* Makes keys of numbers: integers in the same order. Only an importance may be negative; a NaN is never. */
INLINE void to_keys(const struct numbers *of, int64_t n, int32_t *restrict keys) {
  if (of->kind == IMPORTANCE)
    for (int64_t j = 0; j < n; j++) keys[j] ^= (keys[j] >> 31) & 0x7FFFFFFF;
  else
    for (int64_t j = 0; j < n; j++) keys[j] &= 0x7FFFFFFF;
}

/* Counts all keys of a tile. A place has the count in its upper bits, and the sum of the keys' lower bits below. Zeros
 * get places of their own behind the others, in turn: a place that is added to twice at once is waited for. */
static void count_all(const int32_t *restrict keys, int64_t n, struct digit d, uint64_t *restrict table) {
  _Alignas(64) uint32_t places[TILE], lows[TILE];
  uint32_t mask = ((uint32_t)1 << d.shift) - 1, first = d.firsts[0], spare = d.count;
  for (int64_t j = 0; j < n; j++) {
    uint32_t place = (uint32_t)(keys[j] >> d.shift) - first;
    places[j] = keys[j] ? place : spare + (j & (LANES - 1));
    lows[j] = keys[j] & mask;
  }
#pragma GCC unroll 8
  for (int64_t j = 0; j < n; j++) table[places[j]] += ((uint64_t)1 << PLACE_BITS) + lows[j];
}

/* Writes the places below count of one step behind each other. Returns how many there are. */
INLINE int64_t packed(const uint32_t *places, uint32_t count, uint32_t *to) {
#ifdef __AVX512F__
  __m512i all = _mm512_loadu_si512(places);
  __mmask16 mine = _mm512_cmplt_epu32_mask(all, _mm512_set1_epi32(count));
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(mine, all));
  return __builtin_popcount(mine);
#else
  int64_t found = 0;
  for (int l = 0; l < LANES; l++) found += places[l] < count;
  if (!found) return 0;
  found = 0;
  for (int l = 0; l < LANES; l++) to[found] = places[l], found += places[l] < count;
  return found;
#endif
}

/* Counts the few keys of a tile that are in one of the ranges, by their last digit, which has no bits below. */
static void count_some(const int32_t *restrict keys, int64_t n, struct digit d, uint64_t *restrict table) {
  _Alignas(64) uint32_t places[TILE + LANES], mine[TILE + LANES];
  for (int64_t i = 0; i < d.ranges; i++, table += d.count) {
    uint32_t first = d.firsts[i];
    int64_t found = 0;
    for (int64_t j = 0; j < n; j++) places[j] = (uint32_t)keys[j] - first;
    for (int64_t j = n; j % LANES; j++) places[j] = d.count;
    for (int64_t j = 0; j < n; j += LANES) found += packed(places + j, d.count, mine + found);
    for (int64_t j = 0; j < found; j++) table[mine[j]] += (uint64_t)1 << PLACE_BITS;
  }
}

static void flush(uint64_t *table, int64_t n, int64_t *counts, int64_t *lows) {
  for (int64_t i = 0; i < n; i++)
    if (table[i]) {
      __atomic_fetch_add(counts + i, (int64_t)(table[i] >> PLACE_BITS), __ATOMIC_RELAXED);
      __atomic_fetch_add(lows + i, (int64_t)(table[i] & (((uint64_t)1 << PLACE_BITS) - 1)), __ATOMIC_RELAXED);
    }
}

/* Adds to the digit's counts, and to the sums of the lower bits, for spans until none is left: count of each for each
 * range. The threads share all but the structs. Zeros are left out where the digit takes all keys. Returns nonzero if out of memory. */
int count_keys(const struct numbers *of, struct digit d, int64_t span, int64_t *next, int64_t *counts, int64_t *lows) {
  int64_t held = 0, places = d.ranges * d.count, start;
  uint64_t *table = calloc(places + LANES, sizeof *table);
  float *room = room_for(of);
  int failed = !table || !room, all = d.count << d.shift >= (int64_t)1 << 31;
  int64_t tile = all ? TILE / 4 : TILE; /* all counts take most of the first-level cache */
  while (!failed && (start = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED) * span) < of->size) {
    int64_t end = of->size - start < span ? of->size : start + span;
    for (int64_t at = start; at < end; at += tile) {
      int64_t n = end - at < tile ? end - at : tile;
      int32_t *keys = (int32_t *)room;
      load_numbers(of, at, n, room);
      to_keys(of, n, keys);
      (all ? count_all : count_some)(keys, n, d, table);
    }
    if ((held += span) + span <= HELD) continue;
    flush(table, places, counts, lows);
    memset(table, held = 0, places * sizeof *table);
  }
  if (!failed) flush(table, places, counts, lows);
  free(table);
  free(room);
  return failed;
}

/* Adds each task vector's sum of squares to sums, over the elements start to end whose spread is at least least.
 * Returns nonzero if out of memory. */
int energies(const struct numbers *of, float least, int64_t start, int64_t end, double *sums) {
  _Alignas(64) double wide[TILE];
  float *room = room_for(of);
  if (!room) return 1;
  for (; start < end; start += TILE) {
    int64_t n = end - start < TILE ? end - start : TILE;
    load_numbers(of, start, n, room);
    for (int64_t i = 0; i < of->k; i++) {
      const float *delta = room + (i + 1) * TILE;
      for (int64_t j = 0; j < n; j++) {
        uint32_t bits, kept = -(uint32_t)!(room[j] < least); /* not a condition, which compilers make a branch */
        memcpy(&bits, delta + j, sizeof bits);
        wide[j] = from_bits(bits & kept);
      }
      sums[i] += dot(wide, wide, n);
    }
  }
  free(room);
  return 0;
}

/* Adds, for each of k models, the number of elements start to end that it and others changed by more than epsilon, and
 * the number of those that it changed alone. */
void changes(struct tensor base, const struct tensor *models, int64_t k, float epsilon, int64_t start, int64_t end,
             int64_t *counts) {
  _Alignas(64) float buffer[TILE], base_buffer[TILE];
  _Alignas(64) int32_t changed[TILE];
  for (; start < end; start += TILE) {
    int64_t n = end - start < TILE ? end - start : TILE;
    const float *b = load_tile(base, start, n, base_buffer);
    memset(changed, 0, sizeof changed);
    for (int64_t i = 0; i < k; i++) {
      const float *x = load_tile(models[i], start, n, buffer);
      for (int64_t j = 0; j < n; j++) changed[j] += fabsf(x[j] - b[j]) > epsilon;
    }
    for (int64_t i = 0; i < k; i++) {
      const float *x = load_tile(models[i], start, n, buffer);
      int32_t shared = 0, single = 0;
      for (int64_t j = 0; j < n; j++) {
        int32_t mine = fabsf(x[j] - b[j]) > epsilon;
        shared += mine & (changed[j] > 1), single += mine & (changed[j] == 1);
      }
      counts[2 * i] += shared, counts[2 * i + 1] += single;
    }
  }
}

/* A key with the element's index in its row. */
struct place {
  uint32_t key, index;
};

static struct place *sorted_short(struct place *row, int64_t n) {
  for (int64_t i = 1; i < n; i++) {
    struct place moved = row[i];
    int64_t j = i;
    for (; j > 0 && row[j - 1].key > moved.key; j--) row[j] = row[j - 1];
    row[j] = moved;
  }
  return row;
}

/* Sorts by the lowest bits first; equal keys stay in order. Returns the one of the two arrays that has the result. */
static struct place *sorted(struct place *row, struct place *other, int64_t n) {
  enum { DIGITS = 3, BITS = 11, DIGIT = 1 << BITS };
  if (n <= SHORT_ROW) return sorted_short(row, n);
  uint32_t ends[DIGITS][DIGIT] = {{0}};
  for (int64_t i = 0; i < n; i++)
    for (int d = 0; d < DIGITS; d++) ends[d][row[i].key >> d * BITS & (DIGIT - 1)]++;
  for (int d = 0; d < DIGITS; d++) {
    uint32_t before = 0;
    for (int v = 0; v < DIGIT; v++) {
      uint32_t count = ends[d][v];
      ends[d][v] = before;
      before += count;
    }
    for (int64_t i = 0; i < n; i++) other[ends[d][row[i].key >> d * BITS & (DIGIT - 1)]++] = row[i];
    struct place *swapped = row;
    row = other, other = swapped;
  }
  return row;
}

/* Writes the rank of each element's number in its row, for blocks of rows until none is left. Rows longer than RANKS
 * share ranks. Returns nonzero if out of memory. */
int row_ranks(const struct numbers *of, int64_t rows, int64_t *next, uint16_t *ranks) {
  int64_t n = of->row, first;
  struct place *places = malloc(2 * n * sizeof *places);
  float *room = room_for(of);
  int failed = !places || !room;
  while (!failed && (first = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED) * rows * n) < of->size)
    for (int64_t row = first; row < of->size && row < first + rows * n; row += n) {
      for (int64_t at = 0; at < n; at += TILE) {
        int64_t count = n - at < TILE ? n - at : TILE;
        load_numbers(of, row + at, count, room);
        to_keys(of, count, (int32_t *)room);
        for (int64_t j = 0; j < count; j++) places[at + j] = (struct place){((uint32_t *)room)[j], at + j};
      }
      struct place *order = sorted(places, places + n, n);
      for (int64_t i = 0; i < n; i++) ranks[row + order[i].index] = n <= RANKS ? i : i * (RANKS - 1) / (n - 1);
    }
  free(places);
  free(room);
  return failed;
}
