/* Arithmetic modulo an odd number in eight lanes: Montgomery multiplication with AVX-512 IFMA (52-bit limbs).

   A number is a row of limbs, least first, padded to a multiple of eight words. Eight of them side by side, limb j of
   all in one register, are a block; lanes never mix. Numbers stay below 2 m between multiplications, which needs no
   comparison: with R = 2^(52 L) > 4 m and a, b < 2 m, a b / R + m < 2 m. Only results are reduced to [0, m).
   No branch depends on a number, and no address but those of the fixed-base table, which follow the digits of the
   exponent (docs/protocols/paillier.md says what that leaks). Every function takes and gives bytes and holds no state.

   Sources: Montgomery, Math. Comp. 44 (1985); Gueron and Krasnov, "Accelerating Big Integer Arithmetic Using Intel IFMA
   Extensions", ARITH 2016 (the radix); Brickell, Gordon, McCurley, Wilson, EUROCRYPT 1992 (fixed base).
   Python side and portable twin: protocols/montgomery.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_IFMA 1
#endif

#ifdef HAVE_IFMA

#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512ifma,avx512dq,avx512vl,avx512bw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")
#endif

#define LANES 8
#define LIMB_BITS 52
#define LIMB_MASK ((1ULL << LIMB_BITS) - 1)
#define MOST_LIMBS 160 /* 8,192 bits and a little: N^2 of a key of 4,096 */
#define MOST_WINDOW 5

typedef __m512i vec;
typedef uint64_t word;

typedef struct {
    int limbs;       /* L */
    int stride;      /* words of a row: L, rounded up to a multiple of eight */
    size_t width;    /* bytes of a number outside */
    vec factor;      /* -1 / m mod 2^52 */
    vec modulus[MOST_LIMBS];
    vec square[MOST_LIMBS]; /* R^2 mod m: into Montgomery form */
    vec one[MOST_LIMBS];    /* R mod m: one in Montgomery form */
    word plain[MOST_LIMBS];
} field;

/* r = a b / 2^(52 L) mod m, below 2 m; two limbs of a at a time, so that a sum is read and written half as often. */
static inline void multiply(vec *restrict r, const vec *restrict a, const vec *restrict b, const field *f)
{
    vec sums[MOST_LIMBS + 2];
    const vec zero = _mm512_setzero_si512(), mask = _mm512_set1_epi64(LIMB_MASK), k = f->factor;
    const vec *m = f->modulus;
    const int limbs = f->limbs;
    for (int j = 0; j < limbs; j++)
        sums[j] = zero;
    int i = 0;
    for (; i + 2 <= limbs; i += 2) {
        const vec a0 = a[i], a1 = a[i + 1];
        vec t0 = _mm512_madd52lo_epu64(sums[0], a0, b[0]);
        const vec q0 = _mm512_madd52lo_epu64(zero, t0, k);
        vec t1 = _mm512_madd52lo_epu64(sums[1], a0, b[1]);
        t1 = _mm512_madd52hi_epu64(t1, a0, b[0]);
        t1 = _mm512_madd52lo_epu64(t1, a1, b[0]);
        t0 = _mm512_madd52lo_epu64(t0, q0, m[0]);
        t1 = _mm512_madd52lo_epu64(t1, q0, m[1]);
        t1 = _mm512_madd52hi_epu64(t1, q0, m[0]);
        t1 = _mm512_add_epi64(t1, _mm512_srli_epi64(t0, LIMB_BITS));
        const vec q1 = _mm512_madd52lo_epu64(zero, t1, k);
        t1 = _mm512_madd52lo_epu64(t1, q1, m[0]);
        const vec carry = _mm512_srli_epi64(t1, LIMB_BITS);
        vec b0 = b[0], b1 = b[1], m0 = m[0], m1 = m[1], u, w;
#pragma GCC unroll 6
        for (int j = 2; j < limbs; j++) {
            const vec bj = b[j], mj = m[j];
            vec t = sums[j];
            u = _mm512_madd52hi_epu64(zero, a0, b1);
            w = _mm512_madd52hi_epu64(zero, a1, b0);
            t = _mm512_madd52lo_epu64(t, a0, bj);
            u = _mm512_madd52hi_epu64(u, q0, m1);
            w = _mm512_madd52hi_epu64(w, q1, m0);
            t = _mm512_madd52lo_epu64(t, q0, mj);
            u = _mm512_madd52lo_epu64(u, a1, b1);
            w = _mm512_madd52lo_epu64(w, q1, m1);
            sums[j - 2] = _mm512_add_epi64(_mm512_add_epi64(t, u), w);
            b0 = b1, b1 = bj, m0 = m1, m1 = mj;
        }
        u = _mm512_madd52hi_epu64(zero, a0, b1);
        w = _mm512_madd52hi_epu64(zero, a1, b0);
        u = _mm512_madd52hi_epu64(u, q0, m1);
        w = _mm512_madd52hi_epu64(w, q1, m0);
        u = _mm512_madd52lo_epu64(u, a1, b1);
        w = _mm512_madd52lo_epu64(w, q1, m1);
        sums[limbs - 2] = _mm512_add_epi64(u, w);
        u = _mm512_madd52hi_epu64(zero, a1, b1);
        sums[limbs - 1] = _mm512_madd52hi_epu64(u, q1, m1);
        sums[0] = _mm512_add_epi64(sums[0], carry);
    }
    if (i < limbs) {
        const vec a0 = a[i];
        vec t0 = _mm512_madd52lo_epu64(sums[0], a0, b[0]);
        const vec q0 = _mm512_madd52lo_epu64(zero, t0, k);
        t0 = _mm512_madd52lo_epu64(t0, q0, m[0]);
        const vec carry = _mm512_srli_epi64(t0, LIMB_BITS);
        for (int j = 1; j < limbs; j++) {
            vec u = _mm512_madd52hi_epu64(zero, a0, b[j - 1]);
            vec t = _mm512_madd52lo_epu64(sums[j], a0, b[j]);
            u = _mm512_madd52hi_epu64(u, q0, m[j - 1]);
            t = _mm512_madd52lo_epu64(t, q0, m[j]);
            sums[j - 1] = _mm512_add_epi64(t, u);
        }
        vec u = _mm512_madd52hi_epu64(zero, a0, b[limbs - 1]);
        sums[limbs - 1] = _mm512_madd52hi_epu64(u, q0, m[limbs - 1]);
        sums[0] = _mm512_add_epi64(sums[0], carry);
    }
    vec carry = zero;
    for (int j = 0; j < limbs; j++) {
        const vec t = _mm512_add_epi64(sums[j], carry);
        r[j] = _mm512_and_si512(t, mask);
        carry = _mm512_srli_epi64(t, LIMB_BITS);
    }
}

/* Eight words of each of eight rows, turned: word t of row l becomes lane l of out[t]. Its own inverse. */
static inline void turn(vec *out, const vec *in)
{
    vec p[LANES], q[LANES];
    for (int i = 0; i < LANES; i += 2) {
        p[i] = _mm512_unpacklo_epi64(in[i], in[i + 1]);
        p[i + 1] = _mm512_unpackhi_epi64(in[i], in[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int h = 0; h < 2; h++) {
            q[i + h] = _mm512_shuffle_i64x2(p[i + h], p[i + 2 + h], 0x88);
            q[i + 2 + h] = _mm512_shuffle_i64x2(p[i + h], p[i + 2 + h], 0xdd);
        }
    for (int i = 0; i < 4; i++) {
        const vec low = _mm512_shuffle_i64x2(q[i], q[i + 4], 0x88);
        const vec high = _mm512_shuffle_i64x2(q[i], q[i + 4], 0xdd);
        /* q[0], q[1]: words 0, 1 and 4, 5 of rows; q[2], q[3]: 2, 3 and 6, 7 */
        out[i] = low;
        out[i + 4] = high;
    }
}

static void load(vec *block, const word *const rows[LANES], const field *f)
{
    for (int j = 0; j < f->stride; j += LANES) {
        vec in[LANES];
        for (int lane = 0; lane < LANES; lane++)
            in[lane] = _mm512_loadu_si512(rows[lane] + j);
        turn(block + j, in);
    }
}

static void store(word *const rows[LANES], const vec *block, const field *f)
{
    for (int j = 0; j < f->stride; j += LANES) {
        vec out[LANES], in[LANES];
        for (int t = 0; t < LANES; t++)
            in[t] = j + t < f->limbs ? block[j + t] : _mm512_setzero_si512();
        turn(out, in);
        for (int lane = 0; lane < LANES; lane++)
            _mm512_storeu_si512(rows[lane] + j, out[lane]);
    }
}

static void limbs_of(word *row, const uint8_t *bytes, const field *f)
{
    memset(row, 0, sizeof(word) * (size_t)f->stride);
    for (int j = 0; j < f->limbs; j++) {
        const size_t bit = (size_t)j * LIMB_BITS, at = bit / 8;
        word value = 0;
        if (at < f->width)
            memcpy(&value, bytes + at, f->width - at < 8 ? f->width - at : 8);
        row[j] = (value >> (bit % 8)) & LIMB_MASK;
    }
}

/* The number that a row below 2 m stands for, in [0, m), as bytes. The subtraction is made always, and kept by mask. */
static void bytes_of(uint8_t *bytes, const word *row, const field *f)
{
    word reduced[MOST_LIMBS], borrow = 0;
    for (int j = 0; j < f->limbs; j++) {
        const word difference = row[j] - f->plain[j] - borrow;
        borrow = difference >> 63;
        reduced[j] = difference & LIMB_MASK;
    }
    const word keep = (word)0 - borrow; /* all ones: the row was below m */
    memset(bytes, 0, f->width);
    for (int j = 0; j < f->limbs; j++) {
        const word limb = (row[j] & keep) | (reduced[j] & ~keep);
        const size_t bit = (size_t)j * LIMB_BITS, at = bit / 8;
        word value = limb << (bit % 8);
        for (size_t i = 0; i < 8 && at + i < f->width; i++, value >>= 8)
            bytes[at + i] |= (uint8_t)value;
    }
}

static void spread(vec *block, const word *row, const field *f)
{
    for (int j = 0; j < f->limbs; j++)
        block[j] = _mm512_set1_epi64((long long)row[j]);
}

/* 0, or -1 if the modulus is even or too long. */
static int set_field(field *f, const uint8_t *modulus, const uint8_t *square, size_t width)
{
    size_t bits = 8 * width;
    while (bits && !(modulus[(bits - 1) / 8] >> ((bits - 1) % 8) & 1))
        bits--;
    const size_t limbs = (bits + 2 + LIMB_BITS - 1) / LIMB_BITS;
    if (bits < 2 || limbs > MOST_LIMBS - LANES || !(modulus[0] & 1))
        return -1;
    f->limbs = limbs < 2 ? 2 : (int)limbs;
    f->stride = (f->limbs + LANES - 1) / LANES * LANES;
    f->width = width;
    limbs_of(f->plain, modulus, f);
    spread(f->modulus, f->plain, f);
    word inverse = 1;
    for (int i = 0; i < 6; i++)
        inverse *= 2 - f->plain[0] * inverse;
    f->factor = _mm512_set1_epi64((long long)((0 - inverse) & LIMB_MASK));
    word row[MOST_LIMBS];
    limbs_of(row, square, f);
    spread(f->square, row, f);
    vec unit[MOST_LIMBS];
    memset(unit, 0, sizeof unit);
    unit[0] = _mm512_set1_epi64(1);
    multiply(f->one, f->square, unit, f);
    return 0;
}

static void *aligned(size_t size)
{
    return aligned_alloc(64, (size + 63) / 64 * 64 + 64);
}

/* Rows `first`.. of a batch of `count`, short of eight filled with the last one. */
static void rows_at(const word *rows[LANES], const word *base, size_t first, size_t count, const field *f)
{
    for (int lane = 0; lane < LANES; lane++) {
        const size_t i = first + (size_t)lane < count ? first + (size_t)lane : count - 1;
        rows[lane] = base + i * (size_t)f->stride;
    }
}

static void read_block(vec *block, const uint8_t *bytes, size_t first, size_t count, const field *f)
{
    word row[LANES][MOST_LIMBS];
    const word *rows[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        const size_t i = first + (size_t)lane < count ? first + (size_t)lane : count - 1;
        limbs_of(row[lane], bytes + i * f->width, f);
        rows[lane] = row[lane];
    }
    vec plain[MOST_LIMBS];
    load(plain, rows, f);
    multiply(block, plain, f->square, f);
}

static void write_block(uint8_t *bytes, const vec *block, size_t first, size_t count, const field *f)
{
    word row[LANES][MOST_LIMBS];
    word *rows[LANES];
    vec unit[MOST_LIMBS], plain[MOST_LIMBS];
    memset(unit, 0, sizeof(vec) * (size_t)f->limbs);
    unit[0] = _mm512_set1_epi64(1);
    multiply(plain, block, unit, f);
    for (int lane = 0; lane < LANES; lane++)
        rows[lane] = row[lane];
    store(rows, plain, f);
    for (int lane = 0; lane < LANES && first + (size_t)lane < count; lane++)
        bytes_of(bytes + (first + (size_t)lane) * f->width, row[lane], f);
}

/* base^e for eight bases, each with its exponent of `size` bytes. Fixed windows: no digit is skipped, and every entry of
   the table is read for each. */
static void power_block(vec *result, const vec *base, const uint8_t *const exponents[LANES], size_t size, int window,
                        vec *table, const field *f)
{
    const int limbs = f->limbs, entries = 1 << window;
    memcpy(table, f->one, sizeof(vec) * (size_t)limbs);
    memcpy(table + limbs, base, sizeof(vec) * (size_t)limbs);
    for (int e = 2; e < entries; e++)
        multiply(table + e * limbs, table + (e - 1) * limbs, base, f);
    vec current[MOST_LIMBS], factor[MOST_LIMBS];
    memcpy(result, f->one, sizeof(vec) * (size_t)limbs);
    const size_t bits = 8 * size, digits = (bits + (size_t)window - 1) / (size_t)window;
    for (size_t d = digits; d-- > 0;) {
        if (d + 1 < digits)
            for (int s = 0; s < window; s++) {
                memcpy(current, result, sizeof(vec) * (size_t)limbs);
                multiply(result, current, current, f);
            }
        long long digit[LANES];
        const size_t bit = d * (size_t)window, at = bit / 8;
        for (int l = 0; l < LANES; l++) {
            unsigned value = exponents[l][at];
            if (at + 1 < size)
                value |= (unsigned)exponents[l][at + 1] << 8;
            digit[l] = (long long)(value >> (bit % 8) & (unsigned)(entries - 1));
        }
        const vec wanted = _mm512_loadu_si512(digit);
        memset(factor, 0, sizeof(vec) * (size_t)limbs);
        for (int e = 0; e < entries; e++) {
            const __mmask8 here = _mm512_cmpeq_epi64_mask(wanted, _mm512_set1_epi64(e));
            for (int j = 0; j < limbs; j++)
                factor[j] = _mm512_mask_mov_epi64(factor[j], here, table[e * limbs + j]);
        }
        memcpy(current, result, sizeof(vec) * (size_t)limbs);
        multiply(result, current, factor, f);
    }
}

static int powers(uint8_t *out, const uint8_t *bases, const uint8_t *exponents, size_t size, int shared, size_t count,
                  const field *f)
{
    const int window = size <= 4 ? 2 : size <= 32 ? 4 : MOST_WINDOW;
    vec *table = aligned(sizeof(vec) * (size_t)f->limbs << window);
    if (!table)
        return -1;
    for (size_t first = 0; first < count; first += LANES) {
        vec base[MOST_LIMBS], result[MOST_LIMBS];
        const uint8_t *of[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            const size_t i = first + (size_t)lane < count ? first + (size_t)lane : count - 1;
            of[lane] = exponents + (shared ? 0 : i * size);
        }
        read_block(base, bases, first, count, f);
        power_block(result, base, of, size, window, table, f);
        write_block(out, result, first, count, f);
    }
    free(table);
    return 0;
}

/* Powers of a generator: row 256 w + d of the table is g^(d 256^w), in Montgomery form. */
static void fill_table(word *table, const uint8_t *generator, size_t windows, const field *f)
{
    /* Lane l makes the powers of its own window, eight windows at a time. */
    vec base[MOST_LIMBS], step[MOST_LIMBS], power[MOST_LIMBS], last[MOST_LIMBS];
    const size_t stride = (size_t)f->stride;
    word scrap[MOST_LIMBS], bases[LANES][MOST_LIMBS];
    read_block(base, generator, 0, 1, f);
    for (size_t first = 0; first < windows; first += LANES) {
        /* bases of eight windows, one after the other: each is the 256th power of the one before */
        for (int lane = 0; lane < LANES; lane++) {
            word *all[LANES];
            for (int l = 0; l < LANES; l++)
                all[l] = l == 0 ? bases[lane] : scrap;
            store(all, base, f);
            for (int s = 0; s < 8; s++) {
                memcpy(last, base, sizeof(vec) * (size_t)f->limbs);
                multiply(base, last, last, f);
            }
        }
        const word *from[LANES];
        for (int lane = 0; lane < LANES; lane++)
            from[lane] = bases[lane];
        load(step, from, f);
        memcpy(power, f->one, sizeof(vec) * (size_t)f->limbs);
        for (int d = 0; d < 256; d++) {
            word *to[LANES];
            for (int lane = 0; lane < LANES; lane++) {
                const size_t window = first + (size_t)lane;
                to[lane] = window < windows ? table + (256 * window + (size_t)d) * stride : scrap;
            }
            store(to, power, f);
            memcpy(last, power, sizeof(vec) * (size_t)f->limbs);
            multiply(power, last, step, f);
        }
    }
}

#define BATCH 32 /* blocks whose products stay in the cache beside one window of the table */

static int fixed_base(uint8_t *out, const word *table, const uint8_t *exponents, size_t windows, size_t count,
                      const field *f)
{
    const size_t limbs = (size_t)f->limbs, stride = (size_t)f->stride;
    vec *products = aligned(sizeof(vec) * limbs * BATCH);
    if (!products)
        return -1;
    for (size_t start = 0; start < count; start += BATCH * LANES) {
        const size_t rows = count - start < BATCH * LANES ? count - start : BATCH * LANES;
        const size_t blocks = (rows + LANES - 1) / LANES;
        for (size_t w = 0; w < windows; w++) {
            const word *window = table + 256 * w * stride;
            for (size_t b = 0; b < blocks; b++) {
                const word *entries[LANES];
                for (int lane = 0; lane < LANES; lane++) {
                    size_t i = start + b * LANES + (size_t)lane;
                    i = i < count ? i : count - 1;
                    entries[lane] = window + exponents[i * windows + w] * stride;
                }
                vec factor[MOST_LIMBS], before[MOST_LIMBS];
                load(factor, entries, f);
                if (w == 0) {
                    memcpy(products + b * limbs, factor, sizeof(vec) * limbs);
                    continue;
                }
                memcpy(before, products + b * limbs, sizeof(vec) * limbs);
                multiply(products + b * limbs, before, factor, f);
            }
        }
        for (size_t b = 0; b < blocks; b++)
            write_block(out, products + b * limbs, start + b * LANES, count, f);
    }
    free(products);
    return 0;
}

/* Products of the rows of each segment. Segments first[l] .. first[l + 1] - 1 belong to lane l, which goes through them
   one after the other; a step multiplies one row into the running product of each lane that has one left. */
static void products(word *out, const word *rows, const int64_t *order, const int64_t *ends, const int64_t first[LANES + 1],
                     const field *f)
{
    const size_t stride = (size_t)f->stride;
    vec sums[MOST_LIMBS], factor[MOST_LIMBS], before[MOST_LIMBS];
    word running[LANES][MOST_LIMBS], one[MOST_LIMBS], scrap[MOST_LIMBS];
    word *all[LANES];
    int64_t segment[LANES], at[LANES];
    for (int lane = 0; lane < LANES; lane++)
        all[lane] = lane == 0 ? one : scrap;
    store(all, f->one, f);
    for (int lane = 0; lane < LANES; lane++) {
        segment[lane] = first[lane] - 1;
        at[lane] = 0;
    }
    memcpy(sums, f->one, sizeof(vec) * (size_t)f->limbs);
    for (;;) {
        const word *operands[LANES];
        __mmask8 fresh = 0;
        int busy = 0;
        for (int lane = 0; lane < LANES; lane++) {
            /* Segments of one row or none need no multiplication. */
            while (segment[lane] < first[lane + 1] && (segment[lane] < first[lane] || at[lane] == ends[segment[lane]])) {
                if (++segment[lane] == first[lane + 1])
                    break;
                const int64_t s = segment[lane], begin = s ? ends[s - 1] : 0, length = ends[s] - begin;
                const word *start = length ? rows + (size_t)order[begin] * stride : one;
                at[lane] = length ? begin + 1 : begin;
                memcpy(length > 1 ? running[lane] : out + (size_t)s * stride, start, sizeof(word) * stride);
                if (length > 1)
                    fresh |= (__mmask8)(1u << lane);
            }
            operands[lane] = one;
            if (segment[lane] < first[lane + 1]) {
                operands[lane] = rows + (size_t)order[at[lane]++] * stride;
                busy = 1;
            }
        }
        if (!busy)
            return;
        if (fresh) {
            const word *starts[LANES];
            for (int lane = 0; lane < LANES; lane++)
                starts[lane] = fresh >> lane & 1 ? running[lane] : one;
            load(before, starts, f);
            for (int j = 0; j < f->limbs; j++)
                sums[j] = _mm512_mask_blend_epi64(fresh, sums[j], before[j]);
        }
        load(factor, operands, f);
        memcpy(before, sums, sizeof(vec) * (size_t)f->limbs);
        multiply(sums, before, factor, f);
        for (int lane = 0; lane < LANES; lane++) {
            const int64_t s = segment[lane];
            if (s < first[lane + 1] && at[lane] == ends[s]) {
                word *to = out + (size_t)s * stride;
                memset(to, 0, sizeof(word) * stride);
                for (int j = 0; j < f->limbs; j++)
                    to[j] = ((const word *)&sums[j])[lane];
            }
        }
    }
}

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

/* Outside: this must run where those instructions do not. */
static int supported(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512ifma") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}

static int read_field(field *f, const Py_buffer *modulus, const Py_buffer *square)
{
    if (modulus->len < 1 || square->len != modulus->len ||
        set_field(f, modulus->buf, square->buf, (size_t)modulus->len)) {
        PyErr_SetString(PyExc_ValueError, "the modulus is even, too long, or without its square");
        return -1;
    }
    return 0;
}

static PyObject *invalid(const char *text)
{
    PyErr_SetString(PyExc_ValueError, text);
    return NULL;
}

/* Work that touches no Python object, while other threads may run. */
#define UNLOCKED(work) \
    Py_BEGIN_ALLOW_THREADS work; \
    Py_END_ALLOW_THREADS

static PyObject *py_powers(PyObject *self, PyObject *args)
{
    Py_buffer modulus, square, bases, exponents;
    Py_ssize_t size;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*y*n", &modulus, &square, &bases, &exponents, &size))
        return NULL;
    field f;
    if (read_field(&f, &modulus, &square))
        goto done;
    const Py_ssize_t count = bases.len / modulus.len;
    const int shared = exponents.len == size;
    if (bases.len % modulus.len || size < 1 || (!shared && (exponents.len % size || exponents.len / size != count))) {
        invalid("bases or exponents have a wrong length");
        goto done;
    }
    result = PyBytes_FromStringAndSize(NULL, bases.len);
    if (result && count) {
        int failed;
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(result);
        UNLOCKED(failed = powers(out, bases.buf, exponents.buf, (size_t)size, shared, (size_t)count, &f))
        if (failed) {
            Py_CLEAR(result);
            PyErr_NoMemory();
        }
    }
done:
    PyBuffer_Release(&modulus), PyBuffer_Release(&square), PyBuffer_Release(&bases), PyBuffer_Release(&exponents);
    return result;
}

static PyObject *py_table(PyObject *self, PyObject *args)
{
    Py_buffer modulus, square, generator;
    Py_ssize_t windows;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*n", &modulus, &square, &generator, &windows))
        return NULL;
    field f;
    if (read_field(&f, &modulus, &square))
        goto done;
    if (generator.len != modulus.len || windows < 1 || windows > 4096) {
        invalid("the generator or the number of windows is out of range");
        goto done;
    }
    result = PyBytes_FromStringAndSize(NULL, windows * 256 * f.stride * (Py_ssize_t)sizeof(word));
    if (result) {
        word *table = (word *)PyBytes_AS_STRING(result);
        UNLOCKED(fill_table(table, generator.buf, (size_t)windows, &f))
    }
done:
    PyBuffer_Release(&modulus), PyBuffer_Release(&square), PyBuffer_Release(&generator);
    return result;
}

static PyObject *py_fixed_base(PyObject *self, PyObject *args)
{
    Py_buffer modulus, square, table, exponents;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*y*", &modulus, &square, &table, &exponents))
        return NULL;
    field f;
    if (read_field(&f, &modulus, &square))
        goto done;
    const Py_ssize_t window = 256 * f.stride * (Py_ssize_t)sizeof(word), windows = table.len / window;
    if (windows < 1 || table.len % window || exponents.len % windows) {
        invalid("the table or the exponents have a wrong length");
        goto done;
    }
    const Py_ssize_t count = exponents.len / windows;
    result = PyBytes_FromStringAndSize(NULL, count * modulus.len);
    if (result && count) {
        int failed;
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(result);
        UNLOCKED(failed = fixed_base(out, table.buf, exponents.buf, (size_t)windows, (size_t)count, &f))
        if (failed) {
            Py_CLEAR(result);
            PyErr_NoMemory();
        }
    }
done:
    PyBuffer_Release(&modulus), PyBuffer_Release(&square), PyBuffer_Release(&table), PyBuffer_Release(&exponents);
    return result;
}

static PyObject *py_rows(PyObject *self, PyObject *args)
{
    Py_buffer modulus, square, items;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*", &modulus, &square, &items))
        return NULL;
    field f;
    if (read_field(&f, &modulus, &square))
        goto done;
    if (items.len % modulus.len) {
        invalid("the numbers have a wrong length");
        goto done;
    }
    const size_t count = (size_t)(items.len / modulus.len), stride = (size_t)f.stride;
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * stride * sizeof(word)));
    if (result) {
        word *out = (word *)PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS
        for (size_t first = 0; first < count; first += LANES) {
            vec block[MOST_LIMBS];
            word scrap[MOST_LIMBS], *to[LANES];
            for (int lane = 0; lane < LANES; lane++)
                to[lane] = first + (size_t)lane < count ? out + (first + (size_t)lane) * stride : scrap;
            read_block(block, items.buf, first, count, &f);
            store(to, block, &f);
        }
        Py_END_ALLOW_THREADS
    }
done:
    PyBuffer_Release(&modulus), PyBuffer_Release(&square), PyBuffer_Release(&items);
    return result;
}

static PyObject *py_numbers(PyObject *self, PyObject *args)
{
    Py_buffer modulus, square, rows;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*", &modulus, &square, &rows))
        return NULL;
    field f;
    if (read_field(&f, &modulus, &square))
        goto done;
    const size_t row = (size_t)f.stride * sizeof(word), count = (size_t)rows.len / row;
    if ((size_t)rows.len % row) {
        invalid("the rows have a wrong length");
        goto done;
    }
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count * modulus.len);
    if (result) {
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS
        for (size_t first = 0; first < count; first += LANES) {
            vec block[MOST_LIMBS];
            const word *from[LANES];
            rows_at(from, rows.buf, first, count, &f);
            load(block, from, &f);
            write_block(out, block, first, count, &f);
        }
        Py_END_ALLOW_THREADS
    }
done:
    PyBuffer_Release(&modulus), PyBuffer_Release(&square), PyBuffer_Release(&rows);
    return result;
}

static PyObject *py_products(PyObject *self, PyObject *args)
{
    Py_buffer modulus, square, rows, order, ends;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*", &modulus, &square, &rows, &order, &ends))
        return NULL;
    field f;
    if (read_field(&f, &modulus, &square))
        goto done;
    const size_t row = (size_t)f.stride * sizeof(word);
    const int64_t count = (int64_t)((size_t)rows.len / row), items = order.len / 8, segments = ends.len / 8;
    const int64_t *index = order.buf, *end = ends.buf;
    int valid = (size_t)rows.len % row == 0 && order.len % 8 == 0 && ends.len % 8 == 0;
    for (int64_t i = 0; valid && i < items; i++)
        valid = index[i] >= 0 && index[i] < count;
    for (int64_t s = 0; valid && s < segments; s++)
        valid = end[s] >= (s ? end[s - 1] : 0);
    if (!valid || (segments ? end[segments - 1] : 0) != items) {
        invalid("the segments do not describe the rows");
        goto done;
    }
    result = PyBytes_FromStringAndSize(NULL, segments * (Py_ssize_t)row);
    if (result) {
        /* Lanes get whole segments, as evenly as those allow. */
        int64_t first[LANES + 1] = {0}, s = 0;
        for (int lane = 1; lane <= LANES; lane++) {
            while (s < segments && (lane == LANES || end[s] <= items * lane / LANES))
                s++;
            first[lane] = s;
        }
        word *out = (word *)PyBytes_AS_STRING(result);
        UNLOCKED(products(out, rows.buf, index, end, first, &f))
    }
done:
    PyBuffer_Release(&modulus), PyBuffer_Release(&square), PyBuffer_Release(&rows), PyBuffer_Release(&order);
    PyBuffer_Release(&ends);
    return result;
}

static PyObject *py_supported(PyObject *self, PyObject *args)
{
    (void)self, (void)args;
    return PyBool_FromLong(supported());
}

static PyMethodDef methods[] = {
    {"supported", py_supported, METH_NOARGS, "Whether this processor has the instructions."},
    {"powers", py_powers, METH_VARARGS, "powers(modulus, square, bases, exponents, size)"},
    {"table", py_table, METH_VARARGS, "table(modulus, square, generator, windows)"},
    {"fixed_base", py_fixed_base, METH_VARARGS, "fixed_base(modulus, square, table, exponents)"},
    {"rows", py_rows, METH_VARARGS, "rows(modulus, square, numbers)"},
    {"numbers", py_numbers, METH_VARARGS, "numbers(modulus, square, rows)"},
    {"products", py_products, METH_VARARGS, "products(modulus, square, rows, order, ends)"},
    {NULL, NULL, 0, NULL},
};

#else /* another processor: the module is there, and says that it cannot */

static PyObject *py_supported(PyObject *self, PyObject *args)
{
    (void)self, (void)args;
    Py_RETURN_FALSE;
}

static PyMethodDef methods[] = {
    {"supported", py_supported, METH_NOARGS, "Whether this processor has the instructions."},
    {NULL, NULL, 0, NULL},
};

#endif

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_ifma", "Eight-lane arithmetic: see the source.", 0, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__ifma(void)
{
    return PyModule_Create(&module);
}
