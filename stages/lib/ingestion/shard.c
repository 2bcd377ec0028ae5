/* Fills a shard: reads image files, hashes every image and the shard, writes the tar.

   The texts of a tar (headers, label, description) are made in Python (sample.py); here bytes only move. An image stands at a
   multiple of 512 bytes in its shard, so its own sha256 and the shard's go over the same blocks of 64 bytes: one pass expands
   a block's message once and runs the rounds of both, which depend on themselves only and so fill each other's gaps.

   Needs a processor with SHA instructions; shard_able() says whether this one has them. sha256 after FIPS 180-4. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 512, COLUMNS = 6, BEFORE = 0, BEHIND, PATH, DESCRIPTOR, OFFSET, SIZE };

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define SHA __attribute__((target("sha,sse4.1,ssse3")))

static const uint32_t K[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
static const uint32_t START[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* Eight words as the instructions want them: a b e f and c d g h, the first of each highest. */
typedef struct { __m128i abef, cdgh; } State;

SHA static inline State loaded(const uint32_t s[8]) {
    State r = {_mm_set_epi32(s[0], s[1], s[4], s[5]), _mm_set_epi32(s[2], s[3], s[6], s[7])};
    return r;
}

SHA static inline void stored(uint32_t s[8], State r) {
    s[0] = _mm_extract_epi32(r.abef, 3), s[1] = _mm_extract_epi32(r.abef, 2);
    s[4] = _mm_extract_epi32(r.abef, 1), s[5] = _mm_extract_epi32(r.abef, 0);
    s[2] = _mm_extract_epi32(r.cdgh, 3), s[3] = _mm_extract_epi32(r.cdgh, 2);
    s[6] = _mm_extract_epi32(r.cdgh, 1), s[7] = _mm_extract_epi32(r.cdgh, 0);
}

SHA static inline State sum(State a, State b) {
    State r = {_mm_add_epi32(a.abef, b.abef), _mm_add_epi32(a.cdgh, b.cdgh)};
    return r;
}

/* `blocks` blocks of 64 bytes into two states at once; `two` is constant where this is inlined. */
SHA static inline __attribute__((always_inline)) void
hash(uint32_t first[8], uint32_t second[8], const uint8_t *data, int64_t blocks, int two) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    State a = loaded(first), b = two ? loaded(second) : a;
    for (; blocks > 0; blocks--, data += 64) {
        const State a0 = a, b0 = b;
        __m128i w[4];
#pragma GCC unroll 16
        for (int g = 0; g < 16; g++) { /* four rounds each */
            if (g < 4) {
                w[g] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)data + g), swap);
            } else {
                const __m128i last = w[(g + 3) & 3];
                const __m128i part = _mm_sha256msg1_epu32(w[g & 3], w[(g + 1) & 3]);
                w[g & 3] = _mm_sha256msg2_epu32(
                    _mm_add_epi32(part, _mm_alignr_epi8(last, w[(g + 2) & 3], 4)), last);
            }
            const __m128i wk = _mm_add_epi32(w[g & 3], _mm_load_si128((const __m128i *)K + g));
            const __m128i high = _mm_shuffle_epi32(wk, 0x0E);
            a.cdgh = _mm_sha256rnds2_epu32(a.cdgh, a.abef, wk);
            if (two) b.cdgh = _mm_sha256rnds2_epu32(b.cdgh, b.abef, wk);
            a.abef = _mm_sha256rnds2_epu32(a.abef, a.cdgh, high);
            if (two) b.abef = _mm_sha256rnds2_epu32(b.abef, b.cdgh, high);
        }
        a = sum(a, a0);
        if (two) b = sum(b, b0);
    }
    stored(first, a);
    if (two) stored(second, b);
}

SHA static void hash_one(uint32_t state[8], const uint8_t *data, int64_t blocks) { hash(state, state, data, blocks, 0); }

SHA static void hash_two(uint32_t first[8], uint32_t second[8], const uint8_t *data, int64_t blocks) {
    hash(first, second, data, blocks, 1);
}

/* The end of a message of `length` bytes whose last `length` % 64 lie at `rest`; then its digest in hex. */
static void finish(uint32_t state[8], const uint8_t *rest, uint64_t length, char hex[64]) {
    uint8_t last[128] = {0};
    const int64_t left = length % 64, blocks = left < 56 ? 1 : 2;
    if (left) memcpy(last, rest, left);
    last[left] = 0x80;
    for (int i = 0; i < 8; i++) last[64 * blocks - 1 - i] = (uint8_t)(length * 8 >> 8 * i);
    hash_one(state, last, blocks);
    for (int i = 0; i < 64; i++) hex[i] = "0123456789abcdef"[state[i / 8] >> (28 - 4 * (i % 8)) & 15];
}

int shard_able(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3)) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}
#else
static const uint32_t START[8];
static void hash_one(uint32_t s[8], const uint8_t *d, int64_t n) { (void)s, (void)d, (void)n; }
static void hash_two(uint32_t s[8], uint32_t t[8], const uint8_t *d, int64_t n) { (void)s, (void)t, (void)d, (void)n; }
static void finish(uint32_t s[8], const uint8_t *r, uint64_t n, char h[64]) { (void)s, (void)r, (void)n, (void)h; }
int shard_able(void) { return 0; }
#endif

/* 0, or -errno. */
static int64_t put(int out, const uint8_t *data, int64_t size) {
    while (size > 0) {
        const ssize_t done = write(out, data, size);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return -errno;
        data += done, size -= done;
    }
    return 0;
}

/* Whether an image of `size` bytes, no more and no fewer, was read; `to` has room for one byte more.

   A file of its own is opened below `folder` (path not NULL); else it lies in an open one at `offset`. */
static int got(uint8_t *to, int folder, const char *path, int descriptor, int64_t offset, int64_t size) {
    int64_t have = 0;
    const int own = path != 0, file = own ? openat(folder, path, O_RDONLY | O_CLOEXEC) : descriptor;
    if (file < 0) return 0;
    const int64_t wanted = own ? size + 1 : size; /* a byte too many shows a file that has grown */
    while (have < wanted) {
        const ssize_t n = own ? read(file, to + have, wanted - have) : pread(file, to + have, wanted - have, offset + have);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        have += n;
        if (own && have == size) break;
    }
    if (own) close(file);
    return have == size;
}

/* Writes n samples to `out` and takes them into `state`, the shard's sha256 so far.

   text    u8, what stands before and behind each image: before 0, behind 0, before 1, ...; multiples of 512 bytes
   table   i64[n][6]: bytes before, bytes behind, start of the path in `paths` or -1, descriptor, offset in there, image bytes
   paths   file names below `folder`, each with a zero behind
   sha256  64 hex digits an image
   buffer  `room` bytes, at least one more than the largest sample has

   Returns n; i < n: image i is not the one that was recorded, and the shard is spoilt; -errno: writing failed. */
int64_t shard_write(uint32_t state[8], int out, uint8_t *buffer, int64_t room, int folder, int64_t n, const uint8_t *text,
                    const int64_t *table, const char *paths, const char *sha256) {
    int64_t used = 0, error;
    for (int64_t i = 0; i < n; i++, table += COLUMNS) {
        const int64_t size = table[SIZE], padded = size + (BLOCK - size % BLOCK) % BLOCK;
        if (used + table[BEFORE] + padded + table[BEHIND] + 1 > room) {
            if ((error = put(out, buffer, used))) return error;
            used = 0;
        }
        uint8_t *const image = buffer + used + table[BEFORE];
        memcpy(buffer + used, text, table[BEFORE]);
        hash_one(state, buffer + used, table[BEFORE] / 64);
        const char *path = table[PATH] < 0 ? 0 : paths + table[PATH];
        if (!got(image, folder, path, (int)table[DESCRIPTOR], table[OFFSET], size)) return i;
        uint32_t own[8];
        char hex[64];
        memcpy(own, START, sizeof own);
        hash_two(state, own, image, size / 64);
        finish(own, image + size / 64 * 64, size, hex);
        if (memcmp(hex, sha256 + 64 * i, 64)) return i;
        memset(image + size, 0, padded - size);
        memcpy(image + padded, text + table[BEFORE], table[BEHIND]);
        hash_one(state, image + size / 64 * 64, (padded - size / 64 * 64 + table[BEHIND]) / 64);
        used += table[BEFORE] + padded + table[BEHIND];
        text += table[BEFORE] + table[BEHIND];
    }
    return (error = put(out, buffer, used)) ? error : n;
}

/* Writes the `zeros` bytes (a multiple of 512) that end a tar of `bytes` bytes with them; its sha256 to hex. 0, or -errno. */
int64_t shard_end(uint32_t state[8], int out, int64_t zeros, int64_t bytes, char hex[64]) {
    const uint8_t nothing[BLOCK] = {0};
    for (; zeros > 0; zeros -= BLOCK) {
        const int64_t error = put(out, nothing, BLOCK);
        if (error) return error;
        hash_one(state, nothing, BLOCK / 64);
    }
    finish(state, nothing, bytes, hex);
    return 0;
}
