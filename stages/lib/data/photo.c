/* One JPEG to the views a model sees of it: decoded only where a view looks, cropped, resized, mirrored. Without the GIL.

   Every pixel equals what Pillow gives (libjpeg-turbo's accurate integer transform and triangle upsampling, Pillow's antialiased
   resampling, all integer arithmetic): nothing here is an approximation, so this file moves no result, only the time it takes.
   Formulas: ITU-T T.81; Loeffler, Ligtenberg and Moschytz 1989 for the transform. What it does not know (progressive, CMYK,
   16 bits, odd sampling, damaged data, ...) it refuses as NOT_MINE, and the caller asks Pillow, which then has the last word.

   71 % of decoding a photograph is its Huffman code, one symbol after the other. So: bytes are unstuffed first, one look-up gives
   length, run and size of a symbol, and the only chain between two symbols is shift, look-up, shift. Blocks outside the views are
   parsed and not transformed; restart markers, where a file has them, are used to skip what lies before a view.

   Planes are kept column by column: the second pass of the transform gives columns, and resampling along a row then is a sum of
   whole columns, without a shuffle. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { DONE = 0, NOT_MINE = 1, MORE_ROOM = 2 };

typedef struct {
    int32_t left, top, width, height; /* box in the image, pixels */
    int32_t across, down;             /* the box is resized to this */
    int32_t x, y, w, h;               /* the part of that which is wanted */
    int32_t mirrored;                 /* left to right, after all else */
    int32_t filter;                   /* Pillow's: 2 bilinear, 3 bicubic */
    uint8_t *out;                     /* u8[3, h, w] with these strides, bytes */
    int64_t out_plane, out_row;
} View;

#define VIEWS 16         /* most in one call */
#define SIDE 65500       /* most pixels of a side, libjpeg's own limit */
#define ROOM (1ull << 30) /* most bytes of scratch */
#define PAD 64           /* bytes; vectors run over the ends of columns and rows */
#define FAST 10          /* bits of a symbol's look-up */
#define TAIL 2048        /* zero bytes behind the code: more than one MCU can take, so ends are checked once an MCU */

typedef int32_t v8i __attribute__((vector_size(32)));
typedef int16_t v8s __attribute__((vector_size(16)));
typedef uint8_t v8b __attribute__((vector_size(8)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint8_t v16b __attribute__((vector_size(16)));

/* ---- Huffman tables ------------------------------------------------------------------------------------------------------ */

/* A symbol: bits 0-5 length with its extra bits, 8-11 number of extra bits, 16-22 coefficients it advances, 24-28 length of
   the code alone. */
#define LONG (1u << 31) /* the code is longer than FAST bits */
#define OVER 100u /* what an end of block advances: more than a run can, so that the two are told apart */
#define BAD (1u << 30)  /* no such code, or one that no 8-bit image has */

typedef struct {
    uint32_t fast[1 << FAST];
    uint32_t symbol[256];
    int32_t last[17]; /* largest code of each length, left-aligned to 16 bits, exclusive */
    int32_t base[17]; /* place of a length's first symbol minus its first code */
    int present;
} Huffman;

static uint32_t entry(int value, int length, int is_dc) {
    int run = value >> 4, size = value & 15;
    if (is_dc) return size > 11 || run ? BAD | 1 : (uint32_t)(length + size) | (uint32_t)size << 8 | (uint32_t)length << 24;
    if (size > 10) return BAD | 1 | OVER << 16;
    uint32_t advance = size || run == 15 ? (uint32_t)run + 1 : OVER;
    if (!size && run && run != 15) return BAD | 1 | OVER << 16;     /* a progressive image's end of band */
    return (uint32_t)(length + size) | (uint32_t)size << 8 | advance << 16 | (uint32_t)length << 24;
}

/* counts u8[16] codes of each length, values u8[total]. 0 where they are no prefix code. */
static int huffman(Huffman *t, const uint8_t *counts, const uint8_t *values, int is_dc) {
    int32_t code = 0, place = 0;
    for (int i = 0; i < 1 << FAST; i++) t->fast[i] = LONG;
    for (int length = 1; length <= 16; length++) {
        t->base[length] = place - code;
        for (int i = 0; i < counts[length - 1]; i++, code++, place++) {
            uint32_t e = t->symbol[place] = entry(values[place], length, is_dc);
            if (code >= 1 << length) return 0;
            if (length <= FAST)
                for (int32_t f = code << (FAST - length), n = 1 << (FAST - length); n--; f++) t->fast[f] = e;
        }
        t->last[length] = code << (16 - length);
        code <<= 1;
    }
    t->present = 1;
    return 1;
}

static __attribute__((noinline)) uint32_t long_code(const Huffman *t, uint64_t bits) {
    int32_t code = (int32_t)(bits >> 48);
    for (int length = FAST + 1; length <= 16; length++)
        if (code < t->last[length]) return t->symbol[t->base[length] + (code >> (16 - length))];
    return BAD | 1 | OVER << 16;
}

/* ---- Header -------------------------------------------------------------------------------------------------------------- */

typedef struct {
    int id, h, v, quant, dc, ac;
    int width, height;           /* in samples */
    int bx0, bx1, by0, by1;      /* blocks that are transformed */
    int64_t stride;              /* bytes between two columns of the plane */
    uint8_t *plane;              /* u8[(bx1 - bx0) * 8][stride] */
} Part;

typedef struct {
    int width, height, parts, hmax, vmax, interval;
    int jfif, adobe;
    Part part[3];
    int32_t quant[4][64];
    int quant_present[4];
    Huffman dc[4], ac[4];
    const uint8_t *scan, *end;
} Jpeg;

static const uint8_t natural[64 + OVER] = { /* place in the block of the k-th coefficient; beyond (below): one nobody reads */
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    [64 ... 64 + OVER - 1] = 64,
};

static int u16(const uint8_t *p) { return p[0] << 8 | p[1]; }

static int read_quant(Jpeg *j, const uint8_t *p, const uint8_t *end) {
    while (p < end) {
        int wide = *p >> 4, to = *p & 15;
        p++;
        if (wide > 1 || to > 3 || end - p < 64 << wide) return 0;
        for (int k = 0; k < 64; k++, p += 1 + wide) j->quant[to][natural[k]] = wide ? u16(p) : *p;
        j->quant_present[to] = 1;
    }
    return 1;
}

static int read_huffman(Jpeg *j, const uint8_t *p, const uint8_t *end) {
    while (p < end) {
        int is_ac = *p >> 4, to = *p & 15, total = 0;
        if (is_ac > 1 || to > 3 || end - p < 17) return 0;
        for (int i = 1; i <= 16; i++) total += p[i];
        if (total > 256 || end - p < 17 + total) return 0;
        if (!huffman(is_ac ? &j->ac[to] : &j->dc[to], p + 1, p + 17, !is_ac)) return 0;
        p += 17 + total;
    }
    return 1;
}

static int read_frame(Jpeg *j, const uint8_t *p, const uint8_t *end) {
    if (j->parts || end - p < 6 || p[0] != 8) return 0;
    j->height = u16(p + 1), j->width = u16(p + 3);
    int parts = p[5];
    if (!j->height || !j->width || j->height > SIDE || j->width > SIDE) return 0;
    if ((parts != 1 && parts != 3) || end - p != 6 + 3 * parts) return 0;
    for (int c = 0; c < parts; c++) {
        Part *part = &j->part[c];
        part->id = p[6 + 3 * c], part->h = p[7 + 3 * c] >> 4, part->v = p[7 + 3 * c] & 15, part->quant = p[8 + 3 * c];
        if (part->quant > 3) return 0;
    }
    if (parts == 1) j->part[0].h = j->part[0].v = 1; /* one component is never interleaved: its factors mean nothing */
    j->hmax = j->part[0].h, j->vmax = j->part[0].v;
    if (j->hmax < 1 || j->hmax > 2 || j->vmax < 1 || j->vmax > 2) return 0;
    for (int c = 1; c < parts; c++)
        if (j->part[c].h != 1 || j->part[c].v != 1) return 0;
    j->parts = parts;
    for (int c = 0; c < parts; c++) {
        Part *part = &j->part[c];
        part->width = (j->width * part->h + j->hmax - 1) / j->hmax;
        part->height = (j->height * part->v + j->vmax - 1) / j->vmax;
    }
    /* Below three chroma columns libjpeg upsamples in another way. */
    return parts == 1 || j->hmax == 1 || j->part[1].width > 2;
}

static int read_scan(Jpeg *j, const uint8_t *p, const uint8_t *end) {
    if (!j->parts || end - p != 4 + 2 * j->parts || p[0] != j->parts) return 0;
    for (int c = 0; c < j->parts; c++) {
        Part *part = &j->part[c];
        if (p[1 + 2 * c] != part->id) return 0;
        part->dc = p[2 + 2 * c] >> 4, part->ac = p[2 + 2 * c] & 15;
        if (part->dc > 3 || part->ac > 3 || !j->dc[part->dc].present || !j->ac[part->ac].present) return 0;
        if (!j->quant_present[part->quant]) return 0;
    }
    const uint8_t *q = p + 1 + 2 * j->parts;
    return q[0] == 0 && q[1] == 63 && q[2] == 0;
}

/* Whether three components are luma and chroma, by libjpeg's rules. */
static int is_ycc(const Jpeg *j) {
    if (j->jfif) return 1;
    if (j->adobe >= 0) return j->adobe == 1;
    return j->part[0].id == 1 && j->part[1].id == 2 && j->part[2].id == 3;
}

static int header(Jpeg *j, const uint8_t *data, size_t bytes) {
    const uint8_t *p = data, *end = data + bytes;
    memset(j->quant_present, 0, sizeof j->quant_present);
    j->parts = j->interval = j->jfif = 0, j->adobe = -1;
    for (int i = 0; i < 4; i++) j->dc[i].present = j->ac[i].present = 0;
    if (bytes < 4 || p[0] != 0xFF || p[1] != 0xD8) return 0;
    for (p += 2;;) {
        if (end - p < 4 || p[0] != 0xFF) return 0;
        if (p[1] == 0xFF) { p++; continue; } /* fill bytes */
        int marker = p[1], length = u16(p + 2);
        const uint8_t *body = p + 4, *next = p + 2 + length;
        if (length < 2 || next > end) return 0;
        int fine = 1;
        switch (marker) {
        case 0xDB: fine = read_quant(j, body, next); break;
        case 0xC4: fine = read_huffman(j, body, next); break;
        case 0xC0: case 0xC1: fine = read_frame(j, body, next); break;
        case 0xDD: fine = length == 4; if (fine) j->interval = u16(body); break;
        case 0xE0: if (length >= 16 && !memcmp(body, "JFIF", 5)) j->jfif = 1; break;
        case 0xEE: if (length >= 14 && !memcmp(body, "Adobe", 5)) j->adobe = body[11]; break;
        case 0xDA:
            j->scan = next, j->end = end;
            return read_scan(j, body, next) && (j->parts == 1 || is_ycc(j));
        default: fine = (marker >= 0xE1 && marker <= 0xEF) || marker == 0xFE; /* application data, comment */
        }
        if (!fine) return 0;
        p = next;
    }
}

/* ---- The coded data ------------------------------------------------------------------------------------------------------ */

/* Copies the scan without its stuffed zeros; starts[i] is where the i-th restart interval begins, starts[n] where all ends.
   0 where intervals are missing or out of order, fill bytes lie in between, or no end of image follows. */
static int unstuff(const Jpeg *j, uint8_t *to, uint32_t *starts, uint32_t intervals) {
    const uint8_t *p = j->scan;
    uint8_t *at = to;
    uint32_t found = 0;
    starts[0] = 0;
    for (;;) {
        const uint8_t *ff = memchr(p, 0xFF, (size_t)(j->end - p));
        if (!ff || ff + 1 >= j->end) return 0;
        memcpy(at, p, (size_t)(ff - p));
        at += ff - p;
        int next = ff[1];
        p = ff + 2;
        if (next == 0) { *at++ = 0xFF; continue; }
        if (next == 0xD9) break;
        if (next < 0xD0 || next > 0xD7 || !j->interval || next - 0xD0 != (int)(found & 7) || ++found >= intervals) return 0;
        starts[found] = (uint32_t)(at - to);
    }
    if (found + 1 != intervals) return 0;
    starts[intervals] = (uint32_t)(at - to);
    memset(at, 0, TAIL);
    return 1;
}

typedef struct {
    uint64_t bits; /* the next ones, from the top */
    uint32_t have; /* how many of them count */
    const uint8_t *at;
} Bits;

static inline void refill(Bits *b) { /* to at least 56 */
    uint64_t next;
    memcpy(&next, b->at, 8);
    b->bits |= __builtin_bswap64(next) >> b->have;
    b->at += (63 - b->have) >> 3;
    b->have |= 56;
}

static inline uint32_t look_up(const Huffman *t, uint64_t bits) {
    uint32_t e = t->fast[bits >> (64 - FAST)];
    return __builtin_expect((int32_t)e < 0, 0) ? long_code(t, bits) : e;
}

/* The signed number in the extra bits of symbol e. */
static inline int32_t extra(uint32_t e, uint64_t bits) {
    uint32_t size = e >> 8 & 15;
    uint64_t top = bits << (e >> 24 & 31);
    int32_t value = (int32_t)((top >> 1) >> (63 - size));
    int32_t negative = (int32_t)~((int64_t)top >> 63);
    return value + (negative & (1 - (1 << size)));
}

static inline void drop(Bits *b, uint32_t e) {
    b->bits <<= e & 63;
    b->have -= e & 63;
}

static inline int32_t dc_step(Bits *b, const Huffman *dc, uint32_t *bad) {
    refill(b);
    uint32_t e = look_up(dc, b->bits);
    int32_t value = extra(e, b->bits);
    *bad |= e;
    drop(b, e);
    return value;
}

/* Reads a block's AC coefficients into coef i16[65], zeros before. Returns the place of the last, OVER more behind an end of block.
   A coefficient beyond the block lands in coef[64]. */
static inline int ac_read(Bits *b, const Huffman *ac, int16_t *coef, uint32_t *bad) {
    int k = 0;
    do {
        refill(b);
        uint32_t e = look_up(ac, b->bits);
        k += e >> 16 & 127;
        coef[natural[k]] = (int16_t)extra(e, b->bits);
        *bad |= e;
        drop(b, e);
        if (k >= 63) break;
        e = look_up(ac, b->bits); /* two symbols of at most 26 bits fit into 56 */
        k += e >> 16 & 127;
        coef[natural[k]] = (int16_t)extra(e, b->bits);
        *bad |= e;
        drop(b, e);
    } while (k < 63);
    return k;
}

static inline void ac_skip(Bits *b, const Huffman *ac, uint32_t *bad) {
    int k = 0;
    do {
        refill(b);
        uint32_t e = look_up(ac, b->bits);
        k += e >> 16 & 127;
        *bad |= e;
        drop(b, e);
        if (k >= 63) break;
        e = look_up(ac, b->bits);
        k += e >> 16 & 127;
        *bad |= e;
        drop(b, e);
    } while (k < 63);
}

/* ---- Inverse transform --------------------------------------------------------------------------------------------------- */

/* One pass over eight vectors, 13-bit constants, before scaling down. */
static inline void pass(const v8i in[8], v8i out[8]) {
    v8i z1 = (in[2] + in[6]) * 4433;
    v8i t2 = z1 - in[6] * 15137, t3 = z1 + in[2] * 6270;
    v8i t0 = (in[0] + in[4]) << 13, t1 = (in[0] - in[4]) << 13;
    v8i e0 = t0 + t3, e3 = t0 - t3, e1 = t1 + t2, e2 = t1 - t2;
    v8i a0 = in[7], a1 = in[5], a2 = in[3], a3 = in[1];
    v8i z5 = (a0 + a2 + a1 + a3) * 9633;
    v8i y1 = (a0 + a3) * -7373, y2 = (a1 + a2) * -20995;
    v8i y3 = (a0 + a2) * -16069 + z5, y4 = (a1 + a3) * -3196 + z5;
    v8i o0 = a0 * 2446 + y1 + y3, o1 = a1 * 16819 + y2 + y4, o2 = a2 * 25172 + y2 + y3, o3 = a3 * 12299 + y1 + y4;
    out[0] = e0 + o3, out[7] = e0 - o3, out[1] = e1 + o2, out[6] = e1 - o2;
    out[2] = e2 + o1, out[5] = e2 - o1, out[3] = e3 + o0, out[4] = e3 - o0;
}

static inline void transpose(v8i m[8]) {
    v8i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = __builtin_shufflevector(m[2 * i], m[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        a[2 * i + 1] = __builtin_shufflevector(m[2 * i], m[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) {
            b[i + k] = __builtin_shufflevector(a[i + k], a[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            b[i + k + 2] = __builtin_shufflevector(a[i + k], a[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int k = 0; k < 4; k++) {
        m[k] = __builtin_shufflevector(b[k], b[k + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        m[k + 4] = __builtin_shufflevector(b[k], b[k + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

static inline v8i clamp8(v8i x) {
    x &= ~(x >> 31);
    v8i over = (255 - x) >> 31;
    return (x & ~over) | (over & 255);
}

/* coef i16[64] and quant i32[64] by rows -> eight columns of eight samples. Returns non-zero where values are so large that 16-bit
   arithmetic, which libjpeg-turbo uses, would overflow: no encoder makes such a block. */
static inline int inverse(const int16_t *coef, const int32_t *quant, uint8_t *to, int64_t stride) {
    v8i m[8], w[8], wild = {0};
    for (int i = 0; i < 8; i++) {
        v8s c;
        v8i q;
        memcpy(&c, coef + 8 * i, sizeof c);
        memcpy(&q, quant + 8 * i, sizeof q);
        m[i] = __builtin_convertvector(c, v8i) * q;
        wild |= (m[i] + 8192) & ~16383;
    }
    pass(m, w);
    for (int i = 0; i < 8; i++) {
        w[i] = (w[i] + (1 << 10)) >> 11;
        wild |= (w[i] + 8192) & ~16383;
    }
    transpose(w);
    pass(w, m);
    for (int i = 0; i < 8; i++) {
        v8b column = __builtin_convertvector(clamp8(((m[i] + (1 << 17)) >> 18) + 128), v8b);
        memcpy(to + i * stride, &column, sizeof column);
    }
    int any = 0;
    for (int i = 0; i < 8; i++) any |= wild[i];
    return any;
}

static inline void flat(int32_t dc, uint8_t *to, int64_t stride) {
    int32_t value = ((dc + 4) >> 3) + 128;
    uint8_t sample = value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
    for (int i = 0; i < 8; i++) memset(to + i * stride, sample, 8);
}

/* ---- Decoding the blocks that views need --------------------------------------------------------------------------------- */

typedef struct {
    Jpeg *j;
    int16_t coef[64 + 8];
    int32_t last_dc[3];
    uint32_t bad;
} Decoder;

static inline void block(Decoder *d, Bits *b, int c, int bx, int by) {
    Part *part = &d->j->part[c];
    const Huffman *ac = &d->j->ac[part->ac];
    int32_t dc = d->last_dc[c] += dc_step(b, &d->j->dc[part->dc], &d->bad);
    if (bx < part->bx0 || bx >= part->bx1 || by < part->by0 || by >= part->by1) {
        ac_skip(b, ac, &d->bad);
        return;
    }
    const int32_t *quant = d->j->quant[part->quant];
    uint8_t *to = part->plane + (int64_t)(bx - part->bx0) * 8 * part->stride + (by - part->by0) * 8;
    if (dc < -32768 || dc > 32767) d->bad |= BAD;
    int k = ac_read(b, ac, d->coef, &d->bad);
    if (k == OVER) { /* the end of the block came first */
        int32_t value = dc * quant[0];
        if (value < -8192 || value > 8191) d->bad |= BAD;
        flat(value, to, part->stride);
        return;
    }
    d->coef[0] = (int16_t)dc;
    if (d->coef[64] || inverse(d->coef, quant, to, part->stride)) d->bad |= BAD;
    memset(d->coef, 0, sizeof d->coef);
}

/* Whether any block of MCUs first..last (of a row of `across`) is wanted. */
static int wanted(const Jpeg *j, int64_t first, int64_t last, int across) {
    int64_t row0 = first / across, row1 = last / across;
    int col0 = row0 == row1 ? (int)(first % across) : 0, col1 = row0 == row1 ? (int)(last % across) : across - 1;
    for (int c = 0; c < j->parts; c++) {
        const Part *p = &j->part[c];
        if (row0 * p->v < p->by1 && (row1 + 1) * p->v > p->by0 && col0 * p->h < p->bx1 && (col1 + 1) * p->h > p->bx0) return 1;
    }
    return 0;
}

static int decode(Jpeg *j, const uint8_t *code, const uint32_t *starts, uint32_t intervals) {
    int across = (j->width + 8 * j->hmax - 1) / (8 * j->hmax), down = (j->height + 8 * j->vmax - 1) / (8 * j->vmax);
    int64_t total = (int64_t)across * down, each = j->interval ? j->interval : total;
    int64_t rows = 0; /* MCU rows that hold something wanted, counted from the top */
    for (int c = 0; c < j->parts; c++) {
        int64_t need = (j->part[c].by1 + j->part[c].v - 1) / j->part[c].v;
        if (need > rows) rows = need;
    }
    Decoder d = {.j = j};
    for (uint32_t i = 0; i < intervals; i++) {
        int64_t first = i * each, last = first + each < total ? first + each : total;
        if (first >= rows * across) break;
        if (last > rows * across) last = rows * across;
        if (!wanted(j, first, last - 1, across)) continue;
        Bits b = {0, 0, code + starts[i]};
        int64_t end = 8ll * starts[i + 1];
        memset(d.last_dc, 0, sizeof d.last_dc);
        int mx = (int)(first % across), my = (int)(first / across);
        for (int64_t m = first; m < last; m++) {
            for (int c = 0; c < j->parts; c++)
                for (int v = 0; v < j->part[c].v; v++)
                    for (int h = 0; h < j->part[c].h; h++) block(&d, &b, c, mx * j->part[c].h + h, my * j->part[c].v + v);
            if (8 * (b.at - code) - (int64_t)b.have > end) return 0; /* the code ends before the picture */
            if (++mx == across) mx = 0, my++;
        }
        if (d.bad & BAD) return 0;
    }
    return 1;
}

/* ---- Colour -------------------------------------------------------------------------------------------------------------- */

static inline v16i load16(const uint8_t *p) {
    v16b b;
    memcpy(&b, p, sizeof b);
    return __builtin_convertvector(b, v16i);
}

static inline v16i clamp16(v16i x) {
    x &= ~(x >> 31);
    v16i over = (255 - x) >> 31;
    return (x & ~over) | (over & 255);
}

static inline void store16(uint8_t *p, v16i x) {
    v16b b = __builtin_convertvector(x, v16b);
    memcpy(p, &b, sizeof b);
}

/* n samples, rounded up to 16, of a column. */
static void to_rgb(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int n, uint8_t *r, uint8_t *g, uint8_t *b) {
    for (int i = 0; i < n; i += 16) {
        v16i luma = load16(y + i), u = load16(cb + i) - 128, v = load16(cr + i) - 128;
        store16(r + i, clamp16(luma + ((91881 * v + 32768) >> 16)));
        store16(g + i, clamp16(luma + ((-22554 * u - 46802 * v + 32768) >> 16)));
        store16(b + i, clamp16(luma + ((116130 * u + 32768) >> 16)));
    }
}

/* Sample column x of a plane; samples beyond the image are its edge. */
static const uint8_t *column(const Part *p, int x) {
    x = x < 0 ? 0 : x >= p->width ? p->width - 1 : x;
    return p->plane + (int64_t)(x - p->bx0 * 8) * p->stride;
}

/* Chroma of one component on its way to the size of luma. */
typedef struct {
    const Part *part;
    int y0, n;        /* rows of the image that are wanted */
    int held[2];      /* which columns lie in tall, by parity; -1: none */
    int16_t *tall[2]; /* i16[n + 2 PAD]: columns of full height, times 4 */
    uint8_t *near;    /* u8[n / 2 + 2 PAD] */
    uint8_t *out;     /* u8[n + 2 PAD] */
} Chroma;

/* Column x at full height: 3 near + far, for every row wanted. */
static const int16_t *at_full_height(Chroma *c, int x) {
    const Part *p = c->part;
    x = x < 0 ? 0 : x >= p->width ? p->width - 1 : x;
    int16_t *out = c->tall[x & 1];
    if (c->held[x & 1] == x) return out;
    c->held[x & 1] = x;
    const uint8_t *from = column(p, x) - p->by0 * 8;
    int r0 = (c->y0 >> 1) - 1, r1 = ((c->y0 + c->n - 1) >> 1) + 1; /* samples used; beyond the image its edge counts */
    int first = r0 < 0 ? 0 : r0, last = r1 >= p->height ? p->height - 1 : r1;
    memcpy(c->near + (first - r0), from + first, (size_t)(last - first + 1));
    if (r0 < first) c->near[0] = from[first];
    if (r1 > last) c->near[r1 - r0] = from[last];
    for (int i = 0; i < r1 - r0 - 1; i += 8) { /* row pairs, so out begins at an even row of the image */
        v8b b[3];
        for (int k = 0; k < 3; k++) memcpy(&b[k], c->near + i + k, sizeof b[k]);
        v8s mid = __builtin_convertvector(b[1], v8s) * 3;
        v8s upper = mid + __builtin_convertvector(b[0], v8s), lower = mid + __builtin_convertvector(b[2], v8s);
        v8s low = __builtin_shufflevector(upper, lower, 0, 8, 1, 9, 2, 10, 3, 11);
        v8s high = __builtin_shufflevector(upper, lower, 4, 12, 5, 13, 6, 14, 7, 15);
        memcpy(out + 2 * i, &low, sizeof low);
        memcpy(out + 2 * i + 8, &high, sizeof high);
    }
    return out;
}

/* The chroma under image column x: u8[n]. */
static const uint8_t *upsampled(const Jpeg *j, Chroma *c, int x) {
    const Part *p = c->part;
    int first = c->y0 - p->by0 * 8;
    if (j->hmax == 1 && j->vmax == 1) return column(p, x) + first;
    int side = x & 1, mid = x >> 1, far = side ? mid + 1 : mid - 1;
    if (j->vmax == 1) {
        const uint8_t *a = column(p, mid) + first, *b = column(p, far) + first;
        for (int i = 0; i < c->n; i += 8) {
            v8b near8, far8;
            memcpy(&near8, a + i, 8), memcpy(&far8, b + i, 8);
            v8s sum = __builtin_convertvector(near8, v8s) * 3 + __builtin_convertvector(far8, v8s) + (int16_t)(1 + side);
            v8b got = __builtin_convertvector(sum >> 2, v8b);
            memcpy(c->out + i, &got, 8);
        }
        return c->out;
    }
    const int16_t *a = at_full_height(c, j->hmax == 1 ? x : mid), *b = j->hmax == 1 ? a : at_full_height(c, far);
    for (int i = 0; i < c->n + 1; i += 8) {
        v8s near8, far8, odd = {0, 1, 0, 1, 0, 1, 0, 1};
        memcpy(&near8, a + i, sizeof near8), memcpy(&far8, b + i, sizeof far8);
        v8s sum = j->hmax == 1 ? (near8 + odd + 1) >> 2 : (near8 * 3 + far8 + (int16_t)(8 - side)) >> 4;
        v8b got = __builtin_convertvector(sum, v8b);
        memcpy(c->out + i, &got, 8);
    }
    return c->out + (c->y0 & 1);
}

/* ---- Resampling, as Pillow defines it ------------------------------------------------------------------------------------ */

#define PRECISION 22 /* bits of a weight */

typedef struct {
    int taps;        /* of every output, the last ones may be zero */
    int32_t *start;  /* first input of each output */
    int32_t *count;  /* inputs it has */
    int32_t *weight; /* i32[outputs][taps], PRECISION bits */
} Axis;

static double bicubic(double x) {
    const double a = -0.5;
    if (x < 0.0) x = -x;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double bilinear(double x) {
    if (x < 0.0) x = -x;
    return x < 1.0 ? 1.0 - x : 0.0;
}

static int taps_of(int from, int to, int filter) {
    double scale = (double)from / to, support = filter == 3 ? 2.0 : 1.0;
    if (scale < 1.0) scale = 1.0;
    return (int)ceil(support * scale) * 2 + 1;
}

/* Weights of outputs first..first+n when `from` samples become `to`. work: f64[taps]. */
static void weights(Axis *axis, int from, int to, int first, int n, int filter, double *work) {
    double scale = (double)from / to, wide = scale < 1.0 ? 1.0 : scale;
    double support = (filter == 3 ? 2.0 : 1.0) * wide, ss = 1.0 / wide;
    for (int i = 0; i < n; i++) {
        double center = (first + i + 0.5) * scale, sum = 0.0;
        int low = (int)(center - support + 0.5), high = (int)(center + support + 0.5);
        if (low < 0) low = 0;
        if (high > from) high = from;
        int count = high - low;
        for (int t = 0; t < count; t++) {
            double x = (t + low - center + 0.5) * ss;
            sum += work[t] = filter == 3 ? bicubic(x) : bilinear(x);
        }
        int32_t *weight = axis->weight + (int64_t)i * axis->taps;
        for (int t = 0; t < axis->taps; t++) {
            double w = t < count ? work[t] : 0.0;
            if (sum != 0.0) w /= sum;
            weight[t] = w < 0 ? (int)(-0.5 + w * (1 << PRECISION)) : (int)(0.5 + w * (1 << PRECISION));
        }
        axis->start[i] = low, axis->count[i] = count;
    }
}

/* to[i] = sum over t of weight[t] * from[t * stride + i], rounded and clipped; n rounded up to 32. */
static inline void blend(const uint8_t *from, int64_t stride, const int32_t *weight, int count, int n, uint8_t *to) {
    for (int i = 0; i < n; i += 32) {
        v16i a = (v16i){0} + (1 << (PRECISION - 1)), b = a;
        const uint8_t *p = from + i;
        for (int t = 0; t < count; t++, p += stride) {
            a += load16(p) * weight[t];
            b += load16(p + 16) * weight[t];
        }
        store16(to + i, clamp16(a >> PRECISION));
        store16(to + i + 16, clamp16(b >> PRECISION));
    }
}

static inline uint64_t load64(const uint8_t *p) {
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

/* u8[columns][from_stride] -> u8[rows][to_stride]; both rounded up to 8. reversed: the columns from the last to the first, which
   then must be a multiple of 8. */
static void turn(const uint8_t *from, int64_t from_stride, int columns, int rows, uint8_t *to, int64_t to_stride) {
    for (int y = 0; y < rows; y += 8)
        for (int x = 0; x < columns; x += 8) {
            uint64_t m[8];
            for (int i = 0; i < 8; i++) m[i] = load64(from + (int64_t)(x + i) * from_stride + y);
            for (int i = 0; i < 4; i++) {
                uint64_t s = ((m[i] >> 32) ^ m[i + 4]) & 0xFFFFFFFFull;
                m[i + 4] ^= s, m[i] ^= s << 32;
            }
            for (int i = 0; i < 8; i++)
                if (!(i & 2)) {
                    uint64_t s = ((m[i] >> 16) ^ m[i + 2]) & 0x0000FFFF0000FFFFull;
                    m[i + 2] ^= s, m[i] ^= s << 16;
                }
            for (int i = 0; i < 8; i += 2) {
                uint64_t s = ((m[i] >> 8) ^ m[i + 1]) & 0x00FF00FF00FF00FFull;
                m[i + 1] ^= s, m[i] ^= s << 8;
            }
            for (int i = 0; i < 8; i++) memcpy(to + (int64_t)(y + i) * to_stride + x, &m[i], 8);
        }
}

/* ---- Views --------------------------------------------------------------------------------------------------------------- */

typedef struct {
    int x0, x1, y0, y1; /* pixels of the image that the views touch */
} Region;

typedef struct {
    uint8_t *at, *end;
    uint64_t used; /* also counts what did not fit */
} Arena;

static void *take(Arena *a, uint64_t bytes) {
    bytes = (bytes + 63) & ~63ull;
    void *got = a->at;
    a->used += bytes;
    if (bytes > (uint64_t)(a->end - a->at)) return NULL;
    a->at += bytes;
    return got;
}

/* Inputs that outputs first..first+n read: low and high (exclusive). */
static void reach(int from, int to, int first, int n, int filter, int *low, int *high) {
    double scale = (double)from / to, wide = scale < 1.0 ? 1.0 : scale, support = (filter == 3 ? 2.0 : 1.0) * wide;
    int l = (int)((first + 0.5) * scale - support + 0.5), h = (int)((first + n - 1 + 0.5) * scale + support + 0.5);
    *low = l < 0 ? 0 : l, *high = h > from ? from : h;
}

static int fits(const View *v, int width, int height) {
    return v->width > 0 && v->height > 0 && v->left >= 0 && v->top >= 0 && v->left <= width - v->width
        && v->top <= height - v->height && v->across > 0 && v->down > 0 && v->across <= SIDE && v->down <= SIDE && v->x >= 0
        && v->y >= 0 && v->w > 0 && v->h > 0 && v->x <= v->across - v->w && v->y <= v->down - v->h
        && (v->filter == 2 || v->filter == 3);
}

static Region region_of(const View *views, int n) {
    Region all = {SIDE + 1, 0, SIDE + 1, 0};
    for (int i = 0; i < n; i++) {
        const View *v = &views[i];
        int x0, x1, y0, y1;
        reach(v->width, v->across, v->x, v->w, v->filter, &x0, &x1);
        reach(v->height, v->down, v->y, v->h, v->filter, &y0, &y1);
        if (v->left + x0 < all.x0) all.x0 = v->left + x0;
        if (v->left + x1 > all.x1) all.x1 = v->left + x1;
        if (v->top + y0 < all.y0) all.y0 = v->top + y0;
        if (v->top + y1 > all.y1) all.y1 = v->top + y1;
    }
    return all;
}

/* Which blocks of each component the region needs, a neighbour's sample for upsampling included. */
static void want(Jpeg *j, Region r) {
    for (int c = 0; c < j->parts; c++) {
        Part *p = &j->part[c];
        int x0 = r.x0, x1 = r.x1, y0 = r.y0, y1 = r.y1;
        if (p->h < j->hmax) x0 = x0 / 2 - 1, x1 = (x1 - 1) / 2 + 2;
        if (p->v < j->vmax) y0 = y0 / 2 - 1, y1 = (y1 - 1) / 2 + 2;
        x0 = x0 < 0 ? 0 : x0, y0 = y0 < 0 ? 0 : y0;
        x1 = x1 > p->width ? p->width : x1, y1 = y1 > p->height ? p->height : y1;
        p->bx0 = x0 / 8, p->bx1 = (x1 + 7) / 8, p->by0 = y0 / 8, p->by1 = (y1 + 7) / 8;
        p->stride = (int64_t)(p->by1 - p->by0) * 8 + PAD;
    }
}

typedef struct {
    uint8_t *plane[3]; /* u8[x1 - x0][stride], from (x0, y0) on */
    int64_t stride;
    Region region;
} Picture;

static void colour(const Jpeg *j, Picture *out, Chroma *cb, Chroma *cr) {
    Region r = out->region;
    const Part *luma = &j->part[0];
    for (int x = r.x0; x < r.x1; x++) {
        int64_t at = (x - r.x0) * out->stride;
        const uint8_t *y = column(luma, x) + (r.y0 - luma->by0 * 8);
        to_rgb(y, upsampled(j, cb, x), upsampled(j, cr, x), r.y1 - r.y0, out->plane[0] + at, out->plane[1] + at, out->plane[2] + at);
    }
}

/* Pillow resamples rows first, since version 13 (pull request 9549) columns first where the height shrinks by more than twice as
   much as the width. Between the two passes it rounds, so the order shows. */
static int height_first(const View *v) { return v->height > v->down && v->height - v->down > 2 * (v->width - v->across); }

static int64_t padded(int64_t n) { return (n + 31) / 32 * 32 + PAD; }

/* One plane: u8[h] rows of `row` bytes. a and b: `canvas` bytes each. */
static void show_plane(const View *v, const uint8_t *from, int64_t stride, const Axis *ax, const Axis *ay, uint8_t *a, uint8_t *b,
                       uint8_t *out) {
    int x0, x1, y0, y1;
    reach(v->width, v->across, v->x, v->w, v->filter, &x0, &x1);
    reach(v->height, v->down, v->y, v->h, v->filter, &y0, &y1);
    from += x0 * stride + y0;
    int m = x1 - x0, n = y1 - y0, late = height_first(v);
    int64_t columns = padded(m), high = padded(v->h), tall = late ? high : padded(n), row = padded(v->w);
    if (late) { /* a: rows, b: fewer rows, a: their columns */
        turn(from, stride, m, n, a, columns);
        for (int i = 0; i < v->h; i++)
            blend(a + (ay->start[i] - y0) * columns, columns, ay->weight + (int64_t)i * ay->taps, ay->count[i], m, b + i * columns);
        turn(b, columns, v->h, m, a, high);
        from = a, stride = high;
    }
    for (int i = 0; i < v->w; i++) {
        uint8_t *to = b + (int64_t)(v->mirrored ? v->w - 1 - i : i) * tall;
        blend(from + (ax->start[i] - x0) * stride, stride, ax->weight + (int64_t)i * ax->taps, ax->count[i], late ? v->h : n, to);
    }
    turn(b, tall, v->w, late ? v->h : n, a, row);
    for (int i = 0; i < v->h; i++) {
        const uint8_t *done = a + i * row;
        if (!late) {
            blend(a + (ay->start[i] - y0) * row, row, ay->weight + (int64_t)i * ay->taps, ay->count[i], v->w, b);
            done = b;
        }
        memcpy(out + i * v->out_row, done, (size_t)v->w);
    }
}

/* Bytes of the largest array on the way through show_plane. */
static uint64_t canvas(const View *v) {
    int64_t r = v->height > v->h ? v->height : v->h, c = v->width > v->w ? v->width : v->w;
    int64_t rows = (r + 8) * padded(c), columns = (c + 8) * padded(r);
    return (uint64_t)(rows > columns ? rows : columns) + 4 * PAD;
}

static Axis axis_in(Arena *a, int from, int to, int n, int filter) {
    Axis axis = {taps_of(from, to, filter), NULL, NULL, NULL};
    axis.start = take(a, 4ull * n), axis.count = take(a, 4ull * n), axis.weight = take(a, 4ull * n * axis.taps);
    return axis;
}

/* Views of a JPEG of width x height pixels (another is NOT_MINE): u8[3, h, w] each. scratch: `room` bytes, at least 64-byte aligned; needed: how many it takes.
   DONE, NOT_MINE (ask Pillow), or MORE_ROOM (call again with `needed` bytes). */
int photo_views(const uint8_t *data, int64_t bytes, int32_t width, int32_t height, const View *views, int32_t n, uint8_t *scratch,
                int64_t room, int64_t *needed) {
    Arena a = {scratch, scratch + room, 0};
    Jpeg *j = take(&a, sizeof *j);
    *needed = sizeof *j + 4096;
    if (!j) return MORE_ROOM;
    if (n < 1 || n > VIEWS || bytes < 0 || !header(j, data, (size_t)bytes)) return NOT_MINE;
    if (j->width != width || j->height != height) return NOT_MINE;
    for (int i = 0; i < n; i++)
        if (!fits(&views[i], j->width, j->height)) return NOT_MINE;
    Picture picture = {.region = region_of(views, n)};
    Region r = picture.region;
    want(j, r);
    int across = (j->width + 8 * j->hmax - 1) / (8 * j->hmax), down = (j->height + 8 * j->vmax - 1) / (8 * j->vmax);
    int64_t total = (int64_t)across * down;
    uint32_t intervals = j->interval ? (uint32_t)((total + j->interval - 1) / j->interval) : 1;

    int most = 0;
    uint64_t largest = 0;
    for (int i = 0; i < n; i++) {
        int tx = taps_of(views[i].width, views[i].across, views[i].filter), ty = taps_of(views[i].height, views[i].down, views[i].filter);
        most = tx > most ? tx : most, most = ty > most ? ty : most;
        if (canvas(&views[i]) > largest) largest = canvas(&views[i]);
    }
    uint8_t *code = take(&a, (uint64_t)(j->end - j->scan) + TAIL + 16);
    uint32_t *starts = take(&a, 4ull * (intervals + 1));
    for (int c = 0; c < j->parts; c++)
        j->part[c].plane = take(&a, (uint64_t)(j->part[c].bx1 - j->part[c].bx0 + 1) * 8 * j->part[c].stride + PAD);
    int rows = r.y1 - r.y0;
    picture.stride = ((int64_t)rows + 31) / 32 * 32 + PAD;
    for (int c = 0; c < 3 && j->parts == 3; c++) picture.plane[c] = take(&a, (uint64_t)(r.x1 - r.x0 + 8) * picture.stride + PAD);
    Chroma chroma[2];
    for (int c = 0; c < 2 && j->parts == 3; c++) {
        chroma[c] = (Chroma){.part = &j->part[c + 1], .y0 = r.y0, .n = rows, .held = {-1, -1}};
        for (int k = 0; k < 2; k++) chroma[c].tall[k] = take(&a, 2ull * (rows + 2 * PAD));
        chroma[c].near = take(&a, rows + 2 * PAD), chroma[c].out = take(&a, rows + 2 * PAD);
    }
    double *work = take(&a, 8ull * most);
    uint8_t *canvas_a = take(&a, largest), *canvas_b = take(&a, largest);
    Axis ax[VIEWS], ay[VIEWS];
    for (int i = 0; i < n; i++) {
        ax[i] = axis_in(&a, views[i].width, views[i].across, views[i].w, views[i].filter);
        ay[i] = axis_in(&a, views[i].height, views[i].down, views[i].h, views[i].filter);
    }
    *needed = (int64_t)a.used + 4096;
    if (a.used > ROOM) return NOT_MINE;
    if ((int64_t)a.used > room) return MORE_ROOM;

    if (!unstuff(j, code, starts, intervals) || !decode(j, code, starts, intervals)) return NOT_MINE;
    if (j->parts == 3) {
        colour(j, &picture, &chroma[0], &chroma[1]);
    } else { /* grey: one plane, shown three times */
        picture.plane[0] = j->part[0].plane + (int64_t)(r.x0 - j->part[0].bx0 * 8) * j->part[0].stride + (r.y0 - j->part[0].by0 * 8);
        picture.stride = j->part[0].stride;
    }
    for (int i = 0; i < n; i++) {
        weights(&ax[i], views[i].width, views[i].across, views[i].x, views[i].w, views[i].filter, work);
        weights(&ay[i], views[i].height, views[i].down, views[i].y, views[i].h, views[i].filter, work);
        const View *v = &views[i];
        for (int c = 0; c < j->parts; c++) {
            const uint8_t *from = picture.plane[c] + (int64_t)(v->left - r.x0) * picture.stride + (v->top - r.y0);
            show_plane(v, from, picture.stride, &ax[i], &ay[i], canvas_a, canvas_b, v->out + c * v->out_plane);
        }
        for (int c = 1; c < 3 && j->parts == 1; c++)
            for (int y = 0; y < v->h; y++)
                memcpy(v->out + c * v->out_plane + y * v->out_row, v->out + y * v->out_row, (size_t)v->w);
    }
    return DONE;
}
