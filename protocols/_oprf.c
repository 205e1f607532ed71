/* The loops of the KKRT intersection that numpy has no words for: BLAKE2s of many short texts, a bit matrix turned,
   cuckoo placing, tags. Bytes in, bytes out, no state; Python side and portable twin: protocols/psi/oprf_engine.py.

   Addresses depend on digests of a party's own ids under a salt of the run (placing), never on a peer's secret.

   Sources: RFC 7693 (BLAKE2s); Warren, Hacker's Delight, section 7-3 (turning bits); Pagh and Rodler 2004 (cuckoo). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 448
#define ROW (WIDTH / 8)
#define DIGEST 16
#define HASHES 3
#define MOST_MOVES 2000

/* ---- BLAKE2s, unkeyed, one block or more ---- */

static const uint32_t IV[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                               0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

static inline uint32_t turn_right(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

#define MIX(a, b, c, d, x, y) \
    a += b + (x), d = turn_right(d ^ a, 16), c += d, b = turn_right(b ^ c, 12); \
    a += b + (y), d = turn_right(d ^ a, 8), c += d, b = turn_right(b ^ c, 7)

#define ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, sa, sb, sc, sd, se, sf) \
    MIX(v0, v4, v8, vc, m[s0], m[s1]); \
    MIX(v1, v5, v9, vd, m[s2], m[s3]); \
    MIX(v2, v6, va, ve, m[s4], m[s5]); \
    MIX(v3, v7, vb, vf, m[s6], m[s7]); \
    MIX(v0, v5, va, vf, m[s8], m[s9]); \
    MIX(v1, v6, vb, vc, m[sa], m[sb]); \
    MIX(v2, v7, v8, vd, m[sc], m[sd]); \
    MIX(v3, v4, v9, ve, m[se], m[sf])

static inline void compress(uint32_t h[8], const uint8_t block[64], uint64_t length, int last)
{
    uint32_t m[16];
    memcpy(m, block, 64); /* little-endian machines; the module is not built for others */
    uint32_t v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
    uint32_t v8 = IV[0], v9 = IV[1], va = IV[2], vb = IV[3];
    uint32_t vc = IV[4] ^ (uint32_t)length, vd = IV[5] ^ (uint32_t)(length >> 32), ve = last ? ~IV[6] : IV[6], vf = IV[7];
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);
    ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);
    ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);
    ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);
    ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);
    ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);
    ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);
    ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);
    h[0] ^= v0 ^ v8, h[1] ^= v1 ^ v9, h[2] ^= v2 ^ va, h[3] ^= v3 ^ vb;
    h[4] ^= v4 ^ vc, h[5] ^= v5 ^ vd, h[6] ^= v6 ^ ve, h[7] ^= v7 ^ vf;
}

/* Sixteen texts side by side, one a lane: chosen at run time. */
#if defined(__x86_64__) && defined(__GNUC__)
#define LANES 16
typedef uint32_t lanes __attribute__((vector_size(4 * LANES)));

#define ROUNDS \
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); \
    ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3); \
    ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4); \
    ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8); \
    ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13); \
    ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9); \
    ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11); \
    ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10); \
    ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5); \
    ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0)

#undef MIX
#define TURNED(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define MIX(a, b, c, d, x, y) \
    a += b + (x), d = TURNED(d ^ a, 16), c += d, b = TURNED(b ^ c, 12); \
    a += b + (y), d = TURNED(d ^ a, 8), c += d, b = TURNED(b ^ c, 7)

/* The last block of each lane: state h, words m, bytes in all. */
__attribute__((target("avx512f"))) static void compress_lanes(lanes h[8], const lanes m[16], const lanes *length)
{
    lanes v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
    const lanes zero = {0};
    lanes v8 = zero + IV[0], v9 = zero + IV[1], va = zero + IV[2], vb = zero + IV[3];
    lanes vc = *length ^ IV[4], vd = zero + IV[5], ve = zero + ~IV[6], vf = zero + IV[7];
    ROUNDS;
    h[0] ^= v0 ^ v8, h[1] ^= v1 ^ v9, h[2] ^= v2 ^ va, h[3] ^= v3 ^ vb;
    h[4] ^= v4 ^ vc, h[5] ^= v5 ^ vd, h[6] ^= v6 ^ ve, h[7] ^= v7 ^ vf;
}

static int wide(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f");
}

/* Sixteen last blocks: blocks are 64 bytes each, out takes `size` bytes each. */
static void finish_lanes(uint8_t *out, uint32_t size, const uint32_t state[8], uint8_t blocks[LANES][64],
                         const uint32_t lengths[LANES])
{
    lanes h[8], m[16], length;
    uint32_t turned[16][LANES], digest[LANES][8];
    for (int lane = 0; lane < LANES; lane++)
        for (int w = 0; w < 16; w++)
            memcpy(&turned[w][lane], blocks[lane] + 4 * w, 4);
    memcpy(m, turned, sizeof turned);
    memcpy(&length, lengths, sizeof length);
    for (int k = 0; k < 8; k++)
        for (int lane = 0; lane < LANES; lane++)
            ((uint32_t *)&h[k])[lane] = state[k];
    compress_lanes(h, m, &length);
    for (int lane = 0; lane < LANES; lane++) {
        for (int k = 0; k < 8; k++)
            digest[lane][k] = ((const uint32_t *)&h[k])[lane];
        memcpy(out + (size_t)lane * size, digest[lane], size);
    }
}
#else
#define LANES 1
static int wide(void)
{
    return 0;
}
static void finish_lanes(uint8_t *out, uint32_t size, const uint32_t state[8], uint8_t blocks[LANES][64],
                         const uint32_t lengths[LANES])
{
    (void)out, (void)size, (void)state, (void)blocks, (void)lengths;
}
#endif

static inline void start(uint32_t h[8], uint32_t size)
{
    memcpy(h, IV, sizeof IV);
    h[0] ^= 0x01010000 ^ size;
}

/* BLAKE2s with a digest of `size` bytes of the 32 bytes of `salt` followed by the text. */
static void salted(uint8_t *out, uint32_t size, const uint8_t salt[32], const uint8_t *text, size_t length)
{
    uint32_t h[8];
    uint8_t block[64];
    start(h, size);
    memcpy(block, salt, 32);
    size_t filled = 32, done = 0;
    for (;;) {
        const size_t part = length < 64 - filled ? length : 64 - filled;
        memcpy(block + filled, text, part);
        filled += part, text += part, length -= part;
        if (!length)
            break;
        done += 64;
        compress(h, block, done, 0);
        filled = 0;
    }
    memset(block + filled, 0, 64 - filled);
    compress(h, block, done + filled, 1);
    memcpy(out, h, size);
}

/* ---- a matrix of 448 rows of bits, turned ---- */

static void turn_64(uint64_t a[64])
{
    uint64_t mask = 0x00000000FFFFFFFFULL;
    for (int width = 32; width; width >>= 1, mask ^= mask << width)
        for (int k = 0; k < 64; k = ((k | width) + 1) & ~width) {
            const uint64_t t = (a[k] >> width ^ a[k | width]) & mask;
            a[k] ^= t << width;
            a[k | width] ^= t;
        }
}

/* columns: 448 rows of `bytes` bytes, bit i of a row least first; out: 8 `bytes` rows of 56 bytes. bytes % 8 == 0. */
static void turn_matrix(uint8_t *out, const uint8_t *columns, size_t bytes)
{
    uint64_t a[64];
    for (size_t word = 0; word < bytes / 8; word++)
        for (size_t block = 0; block < WIDTH / 64; block++) {
            for (size_t i = 0; i < 64; i++)
                memcpy(&a[i], columns + (64 * block + i) * bytes + 8 * word, 8);
            turn_64(a);
            for (size_t i = 0; i < 64; i++)
                memcpy(out + (64 * word + i) * ROW + 8 * block, &a[i], 8);
        }
}

/* ---- cuckoo ---- */

static inline uint32_t bin_of(const uint8_t *digest, int hash, uint32_t segment)
{
    uint32_t word;
    memcpy(&word, digest + 4 * hash, 4);
    return (uint32_t)hash * segment + (uint32_t)((uint64_t)word * segment >> 32);
}

/* Item in each bin, or -1; 0, or -1 if some item found no place. Which hash evicts next is drawn from the fourth word of
   the digest and a counter: any rule will do, and this one repeats. */
static int place(int32_t *bins, const uint8_t *digests, int32_t items, uint32_t segment, uint8_t *used)
{
    memset(bins, 0xff, sizeof(int32_t) * HASHES * segment);
    for (int32_t item = 0; item < items; item++) {
        int32_t homeless = item;
        uint32_t state;
        memcpy(&state, digests + (size_t)item * DIGEST + 12, 4);
        int last = -1, moves = 0;
        for (;; moves++) {
            const uint8_t *digest = digests + (size_t)homeless * DIGEST;
            int placed = 0;
            for (int hash = 0; hash < HASHES && !placed; hash++) {
                const uint32_t bin = bin_of(digest, hash, segment);
                if (bins[bin] < 0) {
                    bins[bin] = homeless;
                    used[homeless] = (uint8_t)hash;
                    placed = 1;
                }
            }
            if (placed)
                break;
            if (moves == MOST_MOVES)
                return -1;
            state = state * 1664525u + 1013904223u;
            int hash = (int)((state >> 16) % HASHES);
            if (hash == last)
                hash = (hash + 1) % HASHES;
            const uint32_t bin = bin_of(digest, hash, segment);
            const int32_t evicted = bins[bin];
            bins[bin] = homeless;
            used[homeless] = (uint8_t)hash;
            homeless = evicted;
            last = used[homeless];
        }
    }
    return 0;
}

/* ---- Python ---- */

static PyObject *invalid(const char *text)
{
    PyErr_SetString(PyExc_ValueError, text);
    return NULL;
}

static PyObject *py_digests(PyObject *self, PyObject *args)
{
    Py_buffer salt, data, ends;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*", &salt, &data, &ends))
        return NULL;
    const int64_t *end = ends.buf, count = ends.len / 8;
    int valid = salt.len == 32 && ends.len % 8 == 0 && (count ? end[count - 1] : 0) == data.len;
    for (int64_t i = 0; valid && i < count; i++)
        valid = end[i] >= (i ? end[i - 1] : 0);
    if (!valid)
        invalid("the ends do not describe the texts");
    else if ((result = PyBytes_FromStringAndSize(NULL, count * DIGEST))) {
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(result);
        const uint8_t *text = data.buf;
        Py_BEGIN_ALLOW_THREADS
        const int lanes_at_once = wide();
        uint32_t fresh[8], lengths[LANES];
        uint8_t blocks[LANES][64];
        start(fresh, DIGEST);
        for (int64_t i = 0; i < count;) {
            int alike = lanes_at_once && count - i >= LANES; /* sixteen ids that take one block each */
            for (int lane = 0; alike && lane < LANES; lane++) {
                const int64_t from = i + lane ? end[i + lane - 1] : 0, length = end[i + lane] - from;
                alike = length <= 32;
                if (alike) {
                    memcpy(blocks[lane], salt.buf, 32);
                    memcpy(blocks[lane] + 32, text + from, (size_t)length);
                    memset(blocks[lane] + 32 + length, 0, (size_t)(32 - length));
                    lengths[lane] = (uint32_t)(32 + length);
                }
            }
            if (alike) {
                finish_lanes(out + i * DIGEST, DIGEST, fresh, blocks, lengths);
                i += LANES;
                continue;
            }
            const int64_t from = i ? end[i - 1] : 0;
            salted(out + i * DIGEST, DIGEST, salt.buf, text + from, (size_t)(end[i] - from));
            i++;
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&salt), PyBuffer_Release(&data), PyBuffer_Release(&ends);
    return result;
}

static PyObject *py_turned(PyObject *self, PyObject *args)
{
    Py_buffer columns;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*", &columns))
        return NULL;
    if (columns.len % (WIDTH * 8))
        invalid("the matrix has a wrong length");
    else if ((result = PyBytes_FromStringAndSize(NULL, columns.len))) {
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS
        turn_matrix(out, columns.buf, (size_t)columns.len / WIDTH);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&columns);
    return result;
}

static PyObject *py_place(PyObject *self, PyObject *args)
{
    Py_buffer digests;
    Py_ssize_t segment;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*n", &digests, &segment))
        return NULL;
    const Py_ssize_t items = digests.len / DIGEST;
    uint8_t *used = NULL;
    int failed = 0;
    if (digests.len % DIGEST || items > INT32_MAX || segment < 1 || segment > INT32_MAX / HASHES)
        invalid("the digests or the number of bins are out of range");
    else if ((used = malloc((size_t)items + 1)) == NULL)
        PyErr_NoMemory();
    else if ((result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)sizeof(int32_t) * HASHES * segment))) {
        int32_t *bins = (int32_t *)PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS
        failed = place(bins, digests.buf, (int32_t)items, (uint32_t)segment, used);
        Py_END_ALLOW_THREADS
    }
    free(used);
    PyBuffer_Release(&digests);
    if (result && failed) {
        Py_DECREF(result);
        Py_RETURN_NONE;
    }
    return result;
}

/* Tags: BLAKE2s of (row XOR (code AND secret)) and the bin, for items in any bins of one chunk. Without codes, of the
   rows themselves. Rows 56 bytes, bins as int64 from `first` on, codes four arrays of 16 bytes an item. */
static PyObject *py_tags(PyObject *self, PyObject *args)
{
    Py_buffer salt, rows, bins, secret, codes;
    Py_ssize_t first, size;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*nn", &salt, &rows, &bins, &secret, &codes, &first, &size))
        return NULL;
    const int64_t *bin = bins.buf, count = bins.len / 8, held = rows.len / ROW;
    const int plain = codes.len == 0;
    int valid = salt.len == 32 && rows.len % ROW == 0 && bins.len % 8 == 0 && secret.len == ROW && size >= 1 && size <= 32 &&
                (plain || codes.len == 4 * DIGEST * count);
    for (int64_t i = 0; valid && i < count; i++)
        valid = bin[i] >= first && bin[i] < first + held;
    if (!valid)
        invalid("rows, bins and codes do not fit together");
    else if ((result = PyBytes_FromStringAndSize(NULL, count * size))) {
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(result);
        uint32_t salt_state[8];
        uint8_t block[64] = {0};
        uint64_t s[ROW / 8];
        memcpy(s, secret.buf, ROW);
        Py_BEGIN_ALLOW_THREADS
        start(salt_state, (uint32_t)size);
        memcpy(block, salt.buf, 32);
        compress(salt_state, block, 64, 0); /* the salt, padded to a block: once */
        const int together = wide() ? LANES : 1;
        uint8_t blocks[LANES][64];
        uint32_t lengths[LANES];
        for (int lane = 0; lane < LANES; lane++)
            lengths[lane] = 128;
        for (int64_t i = 0; i < count; i++) {
            uint64_t m[8], c[8];
            memcpy(m, (const uint8_t *)rows.buf + (bin[i] - first) * ROW, ROW);
            if (!plain) {
                for (int k = 0; k < 4; k++)
                    memcpy(c + 2 * k, (const uint8_t *)codes.buf + (k * count + i) * DIGEST, DIGEST);
                for (int k = 0; k < ROW / 8; k++)
                    m[k] ^= c[k] & s[k];
            }
            m[7] = (uint64_t)bin[i];
            const int lane = (int)(i % together);
            memcpy(blocks[lane], m, 64);
            if (together > 1 && lane == together - 1)
                finish_lanes(out + (i - lane) * size, (uint32_t)size, salt_state, blocks, lengths);
            else if (together == 1 || i >= count - count % together) {
                uint32_t h[8];
                memcpy(h, salt_state, sizeof h);
                compress(h, blocks[lane], 128, 1);
                memcpy(out + i * size, h, (size_t)size);
            }
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&salt), PyBuffer_Release(&rows), PyBuffer_Release(&bins), PyBuffer_Release(&secret);
    PyBuffer_Release(&codes);
    return result;
}

static PyMethodDef methods[] = {
    {"digests", py_digests, METH_VARARGS, "digests(salt, data, ends): 16 bytes a text"},
    {"turned", py_turned, METH_VARARGS, "turned(columns): 448 rows of bits to rows of 448"},
    {"place", py_place, METH_VARARGS, "place(digests, segment): item of each bin as int32, or None"},
    {"tags", py_tags, METH_VARARGS, "tags(salt, rows, bins, secret, codes, first, size)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_oprf", "Loops of the KKRT intersection.", 0, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__oprf(void)
{
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    PyErr_SetString(PyExc_ImportError, "for little-endian processors only");
    return NULL;
#endif
    return PyModule_Create(&module);
}
