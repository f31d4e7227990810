/* What one thread of this processor reaches in hand-tuned loops: one line "name value" each, in FLOP/s or byte/s.

   Usage: peaks [bytes of the working set of the memory patterns, 2^28 by default]

   Bytes are those that the program reads and writes; lines that a cache fetches before it writes them do not count. */
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

typedef float v8 __attribute__((vector_size(32)));

enum { TILE_ROWS = 6, TILE_COLS = 16, TILE_DEPTH = 256, PANELS = 12, TRIES = 12, PASSES = 8 };

static volatile float sink;
static float *x, *y, *z;
static long num_floats, num_repeats;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static float total(v8 v) {
    float sum = 0;
    for (int i = 0; i < 8; i++) sum += v[i];
    return sum;
}

/* Twelve chains in registers: a fused multiply-add takes 4 or 5 cycles and two of them start in each. They
   start from different values, else the compiler would compute one for all. */
static double fma_flops(long n) {
    v8 m = (v8){} + 0.999f, b = (v8){} + 0.001f;
    v8 a0 = b, a1 = 2 * b, a2 = 3 * b, a3 = 4 * b, a4 = 5 * b, a5 = 6 * b;
    v8 a6 = 7 * b, a7 = 8 * b, a8 = 9 * b, a9 = 10 * b, a10 = 11 * b, a11 = 12 * b;
#pragma GCC unroll 8
    for (long i = 0; i < n; i++) {
        a0 = a0 * m + b, a1 = a1 * m + b, a2 = a2 * m + b, a3 = a3 * m + b, a4 = a4 * m + b, a5 = a5 * m + b;
        a6 = a6 * m + b, a7 = a7 * m + b, a8 = a8 * m + b, a9 = a9 * m + b, a10 = a10 * m + b, a11 = a11 * m + b;
    }
    sink = total(a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11);
    return n * 12.0 * 16;
}

/* The inner loop of a matrix product: a tile of 6x16 in registers, both factors packed into panels. */
static void tile(const float *a, const float *b, float *c) {
    v8 c00 = {}, c01 = {}, c10 = {}, c11 = {}, c20 = {}, c21 = {}, c30 = {}, c31 = {}, c40 = {}, c41 = {}, c50 = {}, c51 = {};
#pragma GCC unroll 4
    for (int p = 0; p < TILE_DEPTH; p++, a += TILE_ROWS, b += TILE_COLS) {
        v8 b0 = *(const v8 *)b, b1 = *(const v8 *)(b + 8), r;
        r = _mm256_broadcast_ss(a + 0), c00 += r * b0, c01 += r * b1;
        r = _mm256_broadcast_ss(a + 1), c10 += r * b0, c11 += r * b1;
        r = _mm256_broadcast_ss(a + 2), c20 += r * b0, c21 += r * b1;
        r = _mm256_broadcast_ss(a + 3), c30 += r * b0, c31 += r * b1;
        r = _mm256_broadcast_ss(a + 4), c40 += r * b0, c41 += r * b1;
        r = _mm256_broadcast_ss(a + 5), c50 += r * b0, c51 += r * b1;
    }
    v8 *to = (v8 *)c;
    to[0] = c00, to[1] = c01, to[2] = c10, to[3] = c11, to[4] = c20, to[5] = c21;
    to[6] = c30, to[7] = c31, to[8] = c40, to[9] = c41, to[10] = c50, to[11] = c51;
}

static double tile_flops(long n) {
    for (long i = 0; i < n; i++)
        for (int q = 0; q < PANELS; q++)
            for (int p = 0; p < PANELS; p++)
                tile(x + p * TILE_ROWS * TILE_DEPTH, y + q * TILE_COLS * TILE_DEPTH, z + (q * PANELS + p) * TILE_ROWS * TILE_COLS);
    return n * 2.0 * PANELS * PANELS * TILE_ROWS * TILE_COLS * TILE_DEPTH;
}

static double read_bytes(long n) {
    v8 s0 = {}, s1 = {}, s2 = {}, s3 = {}, s4 = {}, s5 = {}, s6 = {}, s7 = {};
    for (long k = 0; k < n; k++)
        for (long i = 0; i < num_floats; i += 64) {
            const v8 *p = (const v8 *)(x + i);
            s0 += p[0], s1 += p[1], s2 += p[2], s3 += p[3], s4 += p[4], s5 += p[5], s6 += p[6], s7 += p[7];
        }
    sink = total(s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7);
    return n * 4.0 * num_floats;
}

static double copy_bytes(long n) {
    long half = num_floats / 2;
    for (long k = 0; k < n; k++) {
        for (long i = 0; i < half; i += 8) _mm256_store_ps(y + i, _mm256_load_ps(x + i));
        __asm__ volatile("" ::: "memory");
    }
    return n * 8.0 * half;
}

static double copy_nt_bytes(long n) {
    long half = num_floats / 2;
    for (long k = 0; k < n; k++) {
        for (long i = 0; i < half; i += 16) {
            __m256 a = _mm256_load_ps(x + i), b = _mm256_load_ps(x + i + 8);
            _mm256_stream_ps(y + i, a), _mm256_stream_ps(y + i + 8, b);
        }
        _mm_sfence();
    }
    return n * 8.0 * half;
}

static double triad_bytes(long n) {
    long third = num_floats / 3 / 16 * 16;
    __m256 s = _mm256_set1_ps(0.5f);
    for (long k = 0; k < n; k++) {
        for (long i = 0; i < third; i += 8)
            _mm256_store_ps(z + i, _mm256_fmadd_ps(_mm256_load_ps(x + i), s, _mm256_load_ps(y + i)));
        __asm__ volatile("" ::: "memory");
    }
    return n * 12.0 * third;
}

static double triad_nt_bytes(long n) {
    long third = num_floats / 3 / 16 * 16;
    __m256 s = _mm256_set1_ps(0.5f);
    for (long k = 0; k < n; k++) {
        for (long i = 0; i < third; i += 16) {
            __m256 a = _mm256_fmadd_ps(_mm256_load_ps(x + i), s, _mm256_load_ps(y + i));
            __m256 b = _mm256_fmadd_ps(_mm256_load_ps(x + i + 8), s, _mm256_load_ps(y + i + 8));
            _mm256_stream_ps(z + i, a), _mm256_stream_ps(z + i + 8, b);
        }
        _mm_sfence();
    }
    return n * 12.0 * third;
}

static double update_bytes(long n) {
    long half = num_floats / 2;
    __m256 s = _mm256_set1_ps(0.5f);
    for (long k = 0; k < n; k++) {
        for (long i = 0; i < half; i += 8)
            _mm256_store_ps(y + i, _mm256_fmadd_ps(_mm256_load_ps(y + i), s, _mm256_load_ps(x + i)));
        __asm__ volatile("" ::: "memory");
    }
    return n * 12.0 * half;
}

static double fill_bytes(long n) {
    __m256 s = _mm256_set1_ps(0.5f);
    for (long k = 0; k < n; k++) {
        for (long i = 0; i < num_floats; i += 8) _mm256_store_ps(x + i, s);
        __asm__ volatile("" ::: "memory");
    }
    return n * 4.0 * num_floats;
}

static double fill_nt_bytes(long n) {
    __m256 s = _mm256_set1_ps(0.5f);
    for (long k = 0; k < n; k++) {
        for (long i = 0; i < num_floats; i += 16) _mm256_stream_ps(x + i, s), _mm256_stream_ps(x + i + 8, s);
        _mm_sfence();
    }
    return n * 4.0 * num_floats;
}

static const struct {
    const char *name;
    double (*run)(long n);
    int in_memory;
} LOOPS[] = {
    {"fma", fma_flops, 0},   {"tile", tile_flops, 0},         {"read", read_bytes, 1},     {"copy", copy_bytes, 1},
    {"copy_nt", copy_nt_bytes, 1}, {"triad", triad_bytes, 1}, {"triad_nt", triad_nt_bytes, 1},
    {"update", update_bytes, 1},   {"fill", fill_bytes, 1},   {"fill_nt", fill_nt_bytes, 1},
};
enum { NUM_LOOPS = sizeof LOOPS / sizeof *LOOPS };

static float *array(long n) {
    float *found = aligned_alloc(1 << 21, (4 * n + (1 << 21) - 1) >> 21 << 21);
    if (!found) exit(2);
    madvise(found, 4 * n, MADV_HUGEPAGE); /* as NumPy does with large arrays */
    for (long i = 0; i < n; i++) found[i] = 0.25f;
    return found;
}

int main(int argc, char **argv) {
    long bytes = argc > 1 ? atol(argv[1]) : 1L << 28;
    num_floats = bytes / 4 / 64 * 64;
    if (num_floats < 64) return fprintf(stderr, "a working set has at least 256 bytes, found %ld\n", bytes), 2;
    num_repeats = (1L << 24) / bytes + 1;
    long room = num_floats > 1 << 20 ? num_floats : 1 << 20;
    x = array(room), y = array(room / 2 + 64), z = array(room / 3 + (1 << 19));
    double best[NUM_LOOPS] = {0};
    for (int pass = 0; pass < PASSES; pass++)
        for (int i = 0; i < NUM_LOOPS; i++)
            for (int k = 0; k < (LOOPS[i].in_memory ? 1 : TRIES); k++) {
                long n = LOOPS[i].in_memory ? num_repeats : i == 0 ? 500000 : 10;
                double begin = now_s(), work = LOOPS[i].run(n), found = work / (now_s() - begin);
                if (found > best[i]) best[i] = found;
            }
    for (int i = 0; i < NUM_LOOPS; i++) printf("%s %.6g\n", LOOPS[i].name, best[i]);
    return 0;
}
