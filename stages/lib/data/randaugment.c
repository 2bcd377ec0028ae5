/* RandAugment's ops on planes u8[3, height, width] in place: one call an image, without the GIL.

   Every byte equals what Pillow 13 gives (stages/lib/data/randaugment.py is the definition): by the same arithmetic in the same
   order, float where Pillow has float and double where it has double, or by cheaper arithmetic where its error cannot reach the
   byte, as is shown beside it. So nothing here moves a result, only the time it takes.
   What makes it fast: bytes are moved by vectors; of the five warps only a rotation needs sixteen taps, the others move whole
   rows or columns, and a fraction of exactly 0 along one axis leaves Pillow's cubic there as the middle tap itself. Columns
   are moved as rows of the transposed plane.

   Keys (1981) for the cubic, with a = -1; ITU-R 601-2 for luma. */
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

/* Keep the places of OPS and the field order of STEP in stages/lib/data/randaugment_planes.py. */
enum { AUTO_CONTRAST, EQUALIZE, INVERT, POSTERIZE, SOLARIZE, SOLARIZE_ADD, COLOR, CONTRAST, BRIGHTNESS, SHARPNESS, WARP };

typedef struct {
    int32_t op;
    int32_t whole;    /* posterize: mask; solarize: threshold; solarize_add: what is added */
    double number[6]; /* color to sharpness: the factor, first; warp: a b c d e f, output (x, y) shows (ax + by + c, dx + ey + f) */
} Step;

typedef struct {
    uint8_t *pixels; /* [3][height][width] */
    int64_t height, width;
    uint8_t *scratch; /* room() bytes */
    const uint8_t *fill; /* [3], where a warp looks beyond the image */
} Image;

#define GROUP 16    /* floats computed together */
#define LANES 8     /* doubles computed together */
#define EDGE 2      /* pixels a cubic's taps reach beyond the image on each side */
#define SLACK 64    /* bytes vectors may run over an end of scratch */
#define SIDE 65535  /* most pixels of a side: Python asks Pillow beyond */
#define TILE 16     /* side of a square transposed at once */

typedef uint8_t v16b __attribute__((vector_size(16)));
typedef uint8_t v8b __attribute__((vector_size(8)));
typedef uint32_t v4u __attribute__((vector_size(16)));
typedef int16_t v16s __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef float v4f __attribute__((vector_size(16)));
typedef float v8f __attribute__((vector_size(32)));
typedef float v16f __attribute__((vector_size(64)));
typedef double v8d __attribute__((vector_size(64)));
typedef double v16d __attribute__((vector_size(128)));

#if defined(__clang__) && defined(__AVX512F__)
#define WIDE __attribute__((min_vector_width(512))) /* else halves of the register are left unused */
#else
#define WIDE
#endif

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static uint8_t byte(int32_t v) { return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v; }

/* Bytes of scratch any step needs: packed pixels with their edges, or a plane and its transpose, and a few lines. */
static int64_t room(int64_t height, int64_t width) {
    return 4 * (height + 2 * EDGE) * (width + 2 * EDGE) + 76 * (most(height, width) + GROUP) + 4 * SLACK;
}

/* ---- Look-ups ------------------------------------------------------------------------------------------------------------ */

#if defined(__AVX512BW__)
#define VECTOR 64
typedef __m512i Bytes;
#define EVERYWHERE(p) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(p)))
#define SHUFFLE _mm512_shuffle_epi8
#define XOR _mm512_xor_si512
#define MINUS _mm512_subs_epi8
#define SAME _mm512_set1_epi8
#elif defined(__AVX2__)
#define VECTOR 32
typedef __m256i Bytes;
#define EVERYWHERE(p) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(p)))
#define SHUFFLE _mm256_shuffle_epi8
#define XOR _mm256_xor_si256
#define MINUS _mm256_subs_epi8
#define SAME _mm256_set1_epi8
#endif

#ifdef VECTOR
/* A byte shuffle looks up 16 entries by the low four bits of an index and gives 0 where its highest bit is set. So with 16 less
   for every further sixteenth, index x meets sixteenths 0..x / 16 of its half; as each but the first holds its xor with the one
   before, the xor of all is the entry. */
static int64_t look_up_vectors(uint8_t *p, int64_t n, const uint8_t *table) {
    uint8_t step[256];
    for (int i = 0; i < 256; i++) step[i] = i % 128 < 16 ? table[i] : table[i] ^ table[i - 16];
    int64_t i = 0;
    for (; i + VECTOR <= n; i += VECTOR) {
        Bytes low, high, found = SAME(0);
        memcpy(&low, p + i, VECTOR);
        high = XOR(low, SAME((char)128));
        for (int part = 0; part < 128; part += 16) {
            found = XOR(found, SHUFFLE(EVERYWHERE(step + part), low));
            found = XOR(found, SHUFFLE(EVERYWHERE(step + 128 + part), high));
            low = MINUS(low, SAME(16)), high = MINUS(high, SAME(16));
        }
        memcpy(p + i, &found, VECTOR);
    }
    return i;
}
#else
static int64_t look_up_vectors(uint8_t *p, int64_t n, const uint8_t *table) { return (void)p, (void)n, (void)table, 0; }
#endif

static void look_up(uint8_t *p, int64_t n, const uint8_t table[256]) {
    for (int64_t i = look_up_vectors(p, n, table); i < n; i++) p[i] = table[p[i]];
}

static void count(const uint8_t *p, int64_t n, int64_t histogram[256]) {
    uint32_t part[4][256]; /* so that equal neighbours do not wait for each other */
    memset(histogram, 0, 256 * sizeof *histogram);
    while (n) {
        int64_t some = least(n, 1 << 30), i = 0;
        memset(part, 0, sizeof part);
        for (; i + 4 <= some; i += 4) part[0][p[i]]++, part[1][p[i + 1]]++, part[2][p[i + 2]]++, part[3][p[i + 3]]++;
        for (; i < some; i++) part[0][p[i]]++;
        for (int v = 0; v < 256; v++) histogram[v] += (int64_t)part[0][v] + part[1][v] + part[2][v] + part[3][v];
        p += some, n -= some;
    }
}

static void auto_contrast(uint8_t *p, int64_t n) {
    uint8_t low = 255, high = 0, table[256];
    for (int64_t i = 0; i < n; i++) low = p[i] < low ? p[i] : low, high = p[i] > high ? p[i] : high;
    if (high <= low) return;
    double scale = 255.0 / (high - low), offset = -low * scale;
    for (int v = 0; v < 256; v++) table[v] = byte((int32_t)(v * scale + offset));
    look_up(p, n, table);
}

static void equalize(uint8_t *p, int64_t n) {
    int64_t histogram[256];
    uint8_t table[256];
    count(p, n, histogram);
    int last = 255;
    while (!histogram[last]) last--;
    int64_t step = (n - histogram[last]) / 255, sum = step / 2;
    if (!step) return; /* also where there is one value only */
    for (int v = 0; v < 256; v++) table[v] = byte((int32_t)least(sum / step, 255)), sum += histogram[v];
    look_up(p, n, table);
}

/* The four ops whose table needs nothing of the image. */
static void point(const Image *m, const Step *s) {
    uint8_t table[256];
    for (int v = 0; v < 256; v++)
        table[v] = s->op == INVERT      ? (uint8_t)(255 - v)
                   : s->op == POSTERIZE ? (uint8_t)(v & s->whole)
                   : s->op == SOLARIZE  ? (uint8_t)(v < s->whole ? v : 255 - v)
                                        : (v < 128 ? byte(v + s->whole) : (uint8_t)v);
    look_up(m->pixels, 3 * m->height * m->width, table);
}

/* ---- Blends -------------------------------------------------------------------------------------------------------------- */

/* From `from` towards (alpha < 1) or beyond (alpha > 1) `to`, cut to a byte. */
static inline uint8_t blended(int32_t from, int32_t to, float alpha) {
    return byte((int32_t)((float)from + alpha * (float)(to - from)));
}

static inline int32_t luma(int32_t r, int32_t g, int32_t b) { return (19595 * r + 38470 * g + 7471 * b + 32768) >> 16; }

static void blend_with(const Image *m, int32_t grey, float alpha) {
    uint8_t table[256];
    for (int v = 0; v < 256; v++) table[v] = blended(grey, v, alpha);
    look_up(m->pixels, 3 * m->height * m->width, table);
}

static void contrast(const Image *m, float alpha) {
    int64_t n = m->height * m->width, sum = 0;
    for (int64_t from = 0; from < n; from += 4096) { /* 4096 * 255 fits 32 bits, which vectors add faster */
        const uint8_t *p = m->pixels + from;
        int32_t part = 0;
        for (int64_t i = 0, some = least(4096, n - from); i < some; i++) part += luma(p[i], p[i + n], p[i + 2 * n]);
        sum += part;
    }
    blend_with(m, (int32_t)((double)sum / (double)n + 0.5), alpha);
}

static void color(const Image *m, float alpha) {
    int64_t n = m->height * m->width;
    uint8_t *r = m->pixels, *g = r + n, *b = g + n;
    for (int64_t i = 0; i < n; i++) {
        int32_t grey = luma(r[i], g[i], b[i]);
        r[i] = blended(grey, r[i], alpha), g[i] = blended(grey, g[i], alpha), b[i] = blended(grey, b[i], alpha);
    }
}

/* A row between its neighbours, smoothed: the sum of nine pixels, the middle one five times, over 13, rounded. Pillow adds floats,
   but a sum of bytes over 13 and a half is never nearer than 1/26 to a whole number, so whole numbers tell the same.
   column: u16[width]. */
static void smooth_row(uint8_t *restrict out, uint16_t *restrict column, const uint8_t *restrict above,
                       const uint8_t *restrict row, const uint8_t *restrict below, int64_t width) {
    for (int64_t x = 0; x < width; x++) column[x] = (uint16_t)(above[x] + row[x] + below[x]);
    for (int64_t x = 1; x < width - 1; x++) {
        uint16_t sum = (uint16_t)(column[x - 1] + column[x] + column[x + 1] + 4 * row[x] + 6);
        out[x] = (uint8_t)((uint32_t)sum * 5042 >> 16); /* that is sum / 13, below 6000 */
    }
}

/* The outermost pixels have no neighbours: they stay, and with fewer than 3 rows or columns all do. */
static void sharpness(const Image *m, float alpha) {
    int64_t w = m->width;
    uint16_t *column = (uint16_t *)m->scratch;
    uint8_t *above = m->scratch + 2 * w, *row = above + w, *smooth = row + w;
    for (int channel = 0; channel < 3; channel++) {
        uint8_t *p = m->pixels + channel * m->height * w;
        memcpy(row, p, (size_t)w);
        for (int64_t y = 1; y < m->height - 1; y++) {
            uint8_t *free = above, *out = p + y * w;
            above = row, row = free;
            memcpy(row, out, (size_t)w);
            smooth_row(smooth, column, above, row, out + w, w);
            for (int64_t x = 1; x < w - 1; x++) out[x] = blended(smooth[x], row[x], alpha);
        }
    }
}

/* ---- Warps ---------------------------------------------------------------------------------------------------------------

   Pillow's cubic is a chain of doubles, cut to a byte. Here floats come first: four taps times four weights. With u = 2^-24 a
   weight, a product and the two sums above it are each wrong by a share u at most, the weights' absolute sum is 1.5 at most and
   bytes are 255 at most, so the float is wrong by 4 u 1.5 255 < 1/10000 along one axis and by 8 u 1.5^2 255 < 1/3600 along two.
   Where it is further than that from a whole number, its whole part is that of the doubles, too. Elsewhere, less than 1 % of the
   pixels of a photograph, Pillow's chain decides. */
#define NEAR_ROW (1.0f / 4096)
#define NEAR_PIXEL (1.0f / 2048)

/* Pillow's cubic between b (at 0) and c (at 1), at d: integers, doubles or vectors of them. */
#define SLOPE(a, b, c, e) ((c) - (a))
#define BEND(a, b, c, e) (2 * ((a) - (b)) + (c) - (e))
#define TWIST(a, b, c, e) ((b) - (a) - (c) + (e))
#define CUBIC(b, slope, bend, twist, d) ((b) + (d) * ((slope) + (d) * ((bend) + (d) * (twist))))

/* The same, as what each of four taps counts at `across`, and each of four at `down`. */
static inline void weigh(float weight[8], double across, double down) {
    const v8d d = {across, across, across, across, down, down, down, down};
    const v8d once = {0, 1, 0, 0, 0, 1, 0, 0}, d1 = {-1, 0, 1, 0, -1, 0, 1, 0};
    const v8d d2 = {2, -2, 1, -1, 2, -2, 1, -1}, d3 = {-1, 1, -1, 1, -1, 1, -1, 1};
    v8f both = __builtin_convertvector(once + d * (d1 + d * (d2 + d * d3)), v8f);
    memcpy(weight, &both, sizeof both);
}

static inline int64_t floor_of(double v) {
    int64_t i = (int64_t)v;
    return i - (v < (double)i);
}

/* Values cut to bytes; returns whether one of them is within `margin` of a whole number where that matters. unsure: which. */
static inline int to_bytes(const v16f *of, float margin, uint8_t *out, v16b *unsure) {
    v16f v = *of;
    v16i low = v < 0.5f, high = v > 255.5f; /* what lies further out cannot be cut wrongly */
    v = (v16f)(((v16i)v & ~low & ~high) | (0x3f000000 & low) | (0x437f8000 & high)); /* the bits of 0.5 and 255.5 */
    v16i whole = __builtin_convertvector(v, v16i);
    v16f off = v - __builtin_convertvector(whole, v16f) - 0.5f;
    v16i near = (off > 0.5f - margin) | (off < margin - 0.5f);
    v16b bytes = __builtin_convertvector(whole, v16b);
    uint64_t half[2];
    *unsure = __builtin_convertvector(near, v16b);
    memcpy(out, &bytes, 16);
    memcpy(half, unsure, 16);
    return (half[0] | half[1]) != 0;
}

/* The first x in 0..n whose (k (x + 1/2) + rest) + last, which rounding leaves monotonous, has come to `bound` from below (k > 0)
   or below it from above (k < 0). */
static int64_t reach(double k, double rest, double last, int64_t n, double bound) {
#define THERE(x) ((((k * ((double)(x) + 0.5) + rest) + last) >= bound) == (k > 0))
    double guess = (bound - (rest + last)) / k;
    int64_t x = guess > 0 ? (guess < (double)n ? (int64_t)guess : n) : 0;
    while (x > 0 && THERE(x - 1)) x--;
    while (x < n && !THERE(x)) x++;
    return x;
#undef THERE
}

/* The outputs in [0, n) for which that lies inside [0, limit). */
static void inside(double k, double rest, double last, int64_t n, double limit, int64_t *low, int64_t *high) {
    if (k == 0) {
        *low = 0, *high = rest + last >= 0 && rest + last < limit ? n : 0;
    } else {
        *low = reach(k, rest, last, n, k > 0 ? 0 : limit);
        *high = most(*low, reach(k, rest, last, n, k > 0 ? limit : 0));
    }
}

/* Neighbouring outputs whose taps are neighbours too. Output i looks at ((centre + i step) + rest) + last; its second tap lies at
   place + i step, and its fraction is that of output 0, both but for rounding: some 1e-10, nothing beside the margins above. The
   doubles of `exact` follow it to the bit. */
typedef struct {
    double centre, rest, last;
    int64_t place;
    int step;    /* 1 along a row, 0 across rows */
    int on_edge; /* so near a pixel that rounding may move the taps of a further output: by 1e-6 at most, with sides to SIDE */
    float weight[8]; /* of which four are used */
} Run;

static Run run_from(double centre, double rest, double last, int step) {
    double at = ((centre + rest) + last) - 0.5;
    Run run = {.centre = centre, .rest = rest, .last = last, .place = floor_of(at), .step = step};
    double d = at - (double)run.place;
    weigh(run.weight, d, 0);
    run.on_edge = d < 1e-6 || d > 1 - 1e-6;
    return run;
}

/* One output by doubles, wherever its taps are. */
static uint8_t exact_one(const Run *run, int64_t i, const uint8_t *const tap[4]) {
    double at = (((run->centre + (double)(run->step * i)) + run->rest) + run->last) - 0.5;
    int64_t place = floor_of(at), to = place - (run->place + run->step * i) + i; /* only along a row are the two ever unequal */
    double a = tap[0][to], b = tap[1][to], c = tap[2][to], e = tap[3][to];
    return byte((int32_t)CUBIC(b, SLOPE(a, b, c, e), BEND(a, b, c, e), TWIST(a, b, c, e), at - (double)place));
}

/* LANES outputs from output i on. */
static inline void exact(uint8_t *out, const Run *run, int64_t i, const uint8_t *const tap[4]) {
    const v8d lanes = {0, 1, 2, 3, 4, 5, 6, 7};
    v8d moved = (double)run->step * (lanes + (double)i);
    v8d d = ((((run->centre + moved) + run->rest) + run->last) - 0.5) - ((double)run->place + moved);
    v8b t[4];
    for (int k = 0; k < 4; k++) memcpy(&t[k], tap[k] + i, LANES);
    v8i a = __builtin_convertvector(t[0], v8i), b = __builtin_convertvector(t[1], v8i);
    v8i c = __builtin_convertvector(t[2], v8i), e = __builtin_convertvector(t[3], v8i);
    v8d slope = __builtin_convertvector(SLOPE(a, b, c, e), v8d), bend = __builtin_convertvector(BEND(a, b, c, e), v8d);
    v8d twist = __builtin_convertvector(TWIST(a, b, c, e), v8d);
    v8i v = __builtin_convertvector(CUBIC(__builtin_convertvector(b, v8d), slope, bend, twist, d), v8i);
    v8i over = v > 255;
    v8b whole = __builtin_convertvector((v & ~(v >> 31) & ~over) | (over & 255), v8b);
    memcpy(out, &whole, LANES);
}

/* out[i] from the four bytes tap[.][i]; GROUP of each are there to be read even if n is less. */
WIDE static void run_of_pixels(uint8_t *out, const Run *run, const uint8_t *const tap[4], int64_t n) {
    for (int64_t i = 0; i < n; i += GROUP) {
        v16b b[4], unsure;
        v16f part[4];
        uint8_t bytes[GROUP];
        if (i + GROUP > n && n >= GROUP) i = n - GROUP; /* some again, so that none is left */
        for (int k = 0; k < 4; k++) {
            memcpy(&b[k], tap[k] + i, GROUP);
            part[k] = run->weight[k] * __builtin_convertvector(__builtin_convertvector(b[k], v16i), v16f);
        }
        part[0] = (part[0] + part[1]) + (part[2] + part[3]);
        if (to_bytes(&part[0], NEAR_ROW, bytes, &unsure)) {
            if (run->on_edge)
                for (int k = 0; k < least(GROUP, n - i); k++) bytes[k] = exact_one(run, i + k, tap);
            else exact(bytes, run, i, tap), exact(bytes + LANES, run, i + LANES, tap);
        }
        memcpy(out + i, bytes, n < GROUP ? (size_t)n : GROUP);
    }
}

/* Repeats the ends of rows of scratch u8[rows][EDGE + width + EDGE]. */
static void extend(uint8_t *padded, int64_t rows, int64_t width) {
    for (; rows--; padded += width + 2 * EDGE)
        memset(padded, padded[EDGE], EDGE), memset(padded + EDGE + width, padded[EDGE + width - 1], EDGE);
}

/* Planes in scratch u8[3][height][EDGE + width + EDGE] -> pixels [3][height][width], of which (x, y) shows
   (x + slope y + last, y). */
static void move_rows(const Image *m, int64_t height, int64_t width, double slope, double last) {
    int64_t stride = width + 2 * EDGE, low = 0, high = 0;
    Run run = {0};
    extend(m->scratch, 3 * height, width);
    for (int64_t y = 0; y < height; y++) {
        if (!y || slope != 0) {
            inside(1, slope * ((double)y + 0.5), last, width, (double)width, &low, &high);
            if (low < high) run = run_from((double)low + 0.5, slope * ((double)y + 0.5), last, 1);
        }
        for (int channel = 0; channel < 3; channel++) {
            uint8_t *row = m->pixels + (channel * height + y) * width;
            memset(row, m->fill[channel], (size_t)low);
            memset(row + high, m->fill[channel], (size_t)(width - high));
            if (low == high) continue;
            const uint8_t *first = m->scratch + (channel * height + y) * stride + EDGE + run.place - 1;
            const uint8_t *tap[4] = {first, first + 1, first + 2, first + 3};
            run_of_pixels(row + low, &run, tap, high - low);
        }
    }
}

static void move_along_rows(const Image *m, double slope, double last) {
    int64_t w = m->width;
    for (int64_t i = 0; i < 3 * m->height; i++) memcpy(m->scratch + i * (w + 2 * EDGE) + EDGE, m->pixels + i * w, (size_t)w);
    move_rows(m, m->height, w, slope, last);
}

/* 16 x 16 bytes: each round interleaves rows that lie half of them apart. */
static void transpose_tile(uint8_t *out, int64_t out_row, const uint8_t *in, int64_t in_row) {
    v16b a[TILE], b[TILE];
    for (int i = 0; i < TILE; i++) memcpy(&a[i], in + i * in_row, TILE);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < TILE / 2; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(a, b, sizeof a);
    }
    for (int i = 0; i < TILE; i++) memcpy(out + i * out_row, &a[i], TILE);
}

/* in u8[height][width] -> out u8[width][.], whose rows lie `apart` bytes apart. */
static void transpose(uint8_t *restrict out, const uint8_t *restrict in, int64_t height, int64_t width, int64_t apart) {
    int64_t tall = height - height % TILE, wide = width - width % TILE;
    for (int64_t y = 0; y < tall; y += TILE)
        for (int64_t x = 0; x < wide; x += TILE) transpose_tile(out + x * apart + y, apart, in + y * width + x, width);
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = y < tall ? wide : 0; x < width; x++) out[x * apart + y] = in[y * width + x];
}

/* Output (x, y) shows (x, slope x + y): rows of the transposed planes, which for a while lie where the pixels were. */
static void move_along_columns(const Image *m, double slope) {
    int64_t h = m->height, w = m->width, apart = h + 2 * EDGE;
    for (int channel = 0; channel < 3; channel++)
        transpose(m->scratch + channel * w * apart + EDGE, m->pixels + channel * h * w, h, w, apart);
    move_rows(m, w, h, slope, 0);
    memcpy(m->scratch, m->pixels, (size_t)(3 * h * w));
    for (int channel = 0; channel < 3; channel++)
        transpose(m->pixels + channel * h * w, m->scratch + channel * h * w, w, h, w);
}

/* Output (x, y) shows (x, y + last). */
static void move_across_rows(const Image *m, double last) {
    int64_t h = m->height, w = m->width, low, high;
    inside(1, 0, last, h, (double)h, &low, &high);
    for (int channel = 0; channel < 3; channel++) {
        uint8_t *p = m->pixels + channel * h * w;
        memcpy(m->scratch, p, (size_t)(h * w));
        memset(p, m->fill[channel], (size_t)(low * w)), memset(p + high * w, m->fill[channel], (size_t)((h - high) * w));
        for (int64_t y = low; y < high; y++) {
            Run run = run_from((double)y + 0.5, 0, last, 0);
            const uint8_t *tap[4];
            for (int i = 0; i < 4; i++) tap[i] = m->scratch + w * most(0, least(h - 1, run.place - 1 + i));
            run_of_pixels(p + y * w, &run, tap, w);
        }
    }
}

/* Planes -> pixels of 4 bytes with EDGE more on each side, so that a row of four taps is one load and none needs a bound. */
static void pack(const Image *m, uint8_t *packed) {
    int64_t h = m->height, w = m->width, row = 4 * (w + 2 * EDGE);
    for (int64_t y = -EDGE; y < h + EDGE; y++, packed += row) {
        const uint8_t *restrict r = m->pixels + w * most(0, least(h - 1, y)), *restrict g = r + h * w, *restrict b = g + h * w;
        uint8_t *restrict out = packed + 4 * EDGE;
        for (int64_t x = 0; x < w; x++) out[4 * x] = r[x], out[4 * x + 1] = g[x], out[4 * x + 2] = b[x], out[4 * x + 3] = 0;
        for (int i = 0; i < EDGE; i++) memcpy(packed + 4 * i, out, 4), memcpy(out + 4 * (w + i), out + 4 * (w - 1), 4);
    }
}

/* Four rows of four taps of four bytes -> by tap: v16b, row after row. */
static inline void gather(const uint8_t *tap, int64_t row, v16b by_tap[4]) {
    v4u r0, r1, r2, r3;
    memcpy(&r0, tap, 16), memcpy(&r1, tap + row, 16), memcpy(&r2, tap + 2 * row, 16), memcpy(&r3, tap + 3 * row, 16);
    v4u low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
    v4u high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7), high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
    by_tap[0] = (v16b)__builtin_shufflevector(low01, low23, 0, 1, 4, 5);
    by_tap[1] = (v16b)__builtin_shufflevector(low01, low23, 2, 3, 6, 7);
    by_tap[2] = (v16b)__builtin_shufflevector(high01, high23, 0, 1, 4, 5);
    by_tap[3] = (v16b)__builtin_shufflevector(high01, high23, 2, 3, 6, 7);
}

/* One pixel, before it is cut. weight: four across, four down. */
static inline v4f mixed(const uint8_t *tap, int64_t row, const float weight[8]) {
    v16b t[4];
    v16f part[4];
    v4f down;
    gather(tap, row, t);
    for (int k = 0; k < 4; k++) part[k] = weight[k] * __builtin_convertvector(__builtin_convertvector(t[k], v16i), v16f);
    memcpy(&down, weight + 4, sizeof down);
    v16f rows = ((part[0] + part[1]) + (part[2] + part[3])) *
                __builtin_shufflevector(down, down, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    v8f half = __builtin_shufflevector(rows, rows, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(rows, rows, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
}

/* One pixel as Pillow mixes it. */
WIDE static uint32_t exactly(const uint8_t *tap, int64_t row, double dx, double dy) {
    v16b t[4];
    gather(tap, row, t);
    v16s a = __builtin_convertvector(t[0], v16s), b = __builtin_convertvector(t[1], v16s);
    v16s c = __builtin_convertvector(t[2], v16s), e = __builtin_convertvector(t[3], v16s);
    v16d slope = __builtin_convertvector(SLOPE(a, b, c, e), v16d), bend = __builtin_convertvector(BEND(a, b, c, e), v16d);
    v16d twist = __builtin_convertvector(TWIST(a, b, c, e), v16d);
    v16d rows = CUBIC(__builtin_convertvector(b, v16d), slope, bend, twist, dx);
    uint8_t out[4];
    for (int k = 0; k < 4; k++) {
        double p = rows[k], q = rows[4 + k], s = rows[8 + k], u = rows[12 + k];
        out[k] = byte((int32_t)CUBIC(q, -p + s, 2 * (p - q) + s - u, -p + q - s + u, dy));
    }
    uint32_t pixel;
    memcpy(&pixel, out, 4);
    return pixel;
}

/* Whether the 4 x 4 pixels are one colour, which every cubic then gives: differences of nothing, times anything. */
static inline int flat(const uint8_t *tap, int64_t row) {
    uint64_t r[2], differ = 0, first;
    memcpy(&first, tap, 8);
    for (int k = 0; k < 4; k++) memcpy(r, tap + k * row, 16), differ |= (r[0] ^ first) | (r[1] ^ first);
    return differ == 0 && (uint32_t)first == (uint32_t)(first >> 32);
}

/* What each output of a row of a warp needs. Vectors may run GROUP over the ends. */
typedef struct {
    double *dx, *dy; /* fractions */
    int64_t *place;  /* of the first tap, bytes */
    float *weight;   /* [.][8] four across, four down */
    float *sum;      /* [.][4] */
    uint8_t *out;    /* [.][4] */
} Row;

WIDE static void look(const Row *r, const double *k, int64_t y, int64_t low, int64_t high, int64_t stride) {
    double across = k[1] * ((double)y + 0.5), down = k[4] * ((double)y + 0.5);
    for (int64_t x = low; x < high; x++) {
        double u = ((k[0] * ((double)x + 0.5) + across) + k[2]) - 0.5, v = ((k[3] * ((double)x + 0.5) + down) + k[5]) - 0.5;
        int64_t i = floor_of(u), j = floor_of(v);
        r->dx[x] = u - (double)i, r->dy[x] = v - (double)j;
        r->place[x] = (j - 1 + EDGE) * stride + (i - 1 + EDGE) * 4;
    }
    for (int64_t x = low; x < high; x++) weigh(r->weight + 8 * x, r->dx[x], r->dy[x]);
}

WIDE static void mix_row(const Row *r, const uint8_t *packed, int64_t low, int64_t high, int64_t stride) {
    for (int64_t x = low; x < high; x++) {
        v4f sum = mixed(packed + r->place[x], stride, r->weight + 8 * x);
        memcpy(r->sum + 4 * x, &sum, sizeof sum);
    }
    for (int64_t x = low; x < high; x += 4) {
        v16f sum;
        v16b unsure;
        uint32_t which[4];
        memcpy(&sum, r->sum + 4 * x, sizeof sum);
        if (!to_bytes(&sum, NEAR_PIXEL, r->out + 4 * x, &unsure)) continue;
        memcpy(which, &unsure, sizeof which);
        for (int64_t k = x; k < least(x + 4, high); k++) {
            const uint8_t *tap = packed + r->place[k];
            if (!which[k - x]) continue;
            uint32_t pixel;
            if (flat(tap, stride)) memcpy(&pixel, tap, 4);
            else pixel = exactly(tap, stride, r->dx[k], r->dy[k]);
            memcpy(r->out + 4 * k, &pixel, 4);
        }
    }
}

/* Any affine map. */
static void warp(const Image *m, const double *k) {
    int64_t h = m->height, w = m->width, stride = 4 * (w + 2 * EDGE), long_row = w + GROUP;
    Row r = {.dx = (double *)m->scratch};
    r.dy = r.dx + long_row, r.place = (int64_t *)(r.dy + long_row), r.weight = (float *)(r.place + long_row);
    r.sum = r.weight + 8 * long_row, r.out = (uint8_t *)(r.sum + 4 * long_row);
    uint8_t *packed = r.out + 4 * long_row;
    pack(m, packed);
    for (int64_t y = 0; y < h; y++) {
        int64_t low, high, low2, high2;
        inside(k[0], k[1] * ((double)y + 0.5), k[2], w, (double)w, &low, &high);
        inside(k[3], k[4] * ((double)y + 0.5), k[5], w, (double)h, &low2, &high2);
        low = most(low, low2), high = most(low, least(high, high2));
        look(&r, k, y, low, high, stride);
        mix_row(&r, packed, low, high, stride);
        for (int channel = 0; channel < 3; channel++) {
            uint8_t *out = m->pixels + (channel * h + y) * w;
            memset(out, m->fill[channel], (size_t)low), memset(out + high, m->fill[channel], (size_t)(w - high));
            for (int64_t x = low; x < high; x++) out[x] = r.out[4 * x + channel];
        }
    }
}

static void move(const Image *m, const double *k) {
    if (k[0] == 1 && k[3] == 0 && k[4] == 1 && k[5] == 0)
        move_along_rows(m, k[1], k[2]);
    else if (k[0] == 1 && k[1] == 0 && k[2] == 0 && k[3] == 0 && k[4] == 1)
        move_across_rows(m, k[5]);
    else if (k[0] == 1 && k[1] == 0 && k[2] == 0 && k[4] == 1 && k[5] == 0)
        move_along_columns(m, k[3]);
    else
        warp(m, k);
}

/* ---- Entry --------------------------------------------------------------------------------------------------------------- */

static void apply(const Image *m, const Step *s) {
    int64_t plane = m->height * m->width;
    float alpha = (float)s->number[0];
    switch (s->op) {
    case AUTO_CONTRAST:
    case EQUALIZE:
        for (int channel = 0; channel < 3; channel++)
            (s->op == EQUALIZE ? equalize : auto_contrast)(m->pixels + channel * plane, plane);
        break;
    case COLOR: color(m, alpha); break;
    case CONTRAST: contrast(m, alpha); break;
    case BRIGHTNESS: blend_with(m, 0, alpha); break;
    case SHARPNESS: sharpness(m, alpha); break;
    case WARP: move(m, s->number); break;
    default: point(m, s);
    }
}

/* All steps in order on pixels u8[3][height][width], height and width 1..SIDE. 0: done; else the bytes of scratch (aligned to 8)
   that are needed, and nothing has been done. */
int64_t randaugment(uint8_t *pixels, int64_t height, int64_t width, const Step *steps, int32_t count, const uint8_t *fill,
                    uint8_t *scratch, int64_t bytes) {
    Image m = {pixels, height, width, scratch, fill};
    int64_t needed = room(height, width);
    if (bytes < needed) return needed;
    for (int32_t i = 0; i < count; i++) apply(&m, steps + i);
    return 0;
}
