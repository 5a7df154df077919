/* The products of hpsearch/nn/slots.py over the neighbour slots of each atom, what enters them
   (hpsearch/nn/slot_inputs.py) and activations (hpsearch/nn/activations.py), in float32.

   With k over the used slots of atom a, which come first, and g[a,k,:] the row of its pair:

     aggregate    out[a,h,c]  = sum_k g[a,k,h] x[a,k,c]
     distribute   dx[a,k,c]  += sum_h g[a,k,h] y[a,h,c]
     contract     dg[pair,h] += sum_c x[a,k,c] y[a,h,c]

   The first two are outer products, summed in a tile of registers: a few rows by a few vectors along
   c. The third is a matrix of dot products: four neighbouring c lie in each quarter of a vector,
   whose quarters (of 128 bits) belong to different k; the four are added at the end.

   One thread computes all of a molecule, in the order of its atoms, so results do not depend on the
   number of threads, and the two slots of a pair never meet in two threads. */

#include <fenv.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
static int thread_number(void) { return omp_get_thread_num(); }
#else
static int thread_number(void) { return 0; }
#endif

#if defined(__AVX512F__)
#define LANES 16
#define COLUMNS 6
#define GROUPS 6
#elif defined(__AVX__)
#define LANES 8
#define COLUMNS 3
#define GROUPS 2
#else
#define LANES 4
#define COLUMNS 3
#define GROUPS 2
#endif
#define ROWS 4
#define STREAMS 3        /* arrays of which `dots` fetches the next atom's part */
#define AHEAD 3          /* tiles between one being summed and one whose place is fetched */
#define SPAN (LANES / 4) /* slots in a vector of `contract` */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float quarter __attribute__((vector_size(16), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
/* Keep a vector in a register: loading it again for each use would cost more than it saves. */
#ifdef __x86_64__
#define HOLD(v) __asm__("" : "+v"(v))
#else
#define HOLD(v)
#endif

typedef struct {
    int64_t atoms, molecules, slots, pairs, hidden, threads;
    const int64_t *molecule; /* [atoms], ascending */
    const int64_t *pair;     /* [atoms, slots]; `pairs` where unused */
} Neighbourhoods;

/* Memory that will be read or written soon. Arrays are larger than the cache, and tiles go through
   them too irregularly for the processor to guess what comes next. */
INLINE void fetch(const float *from, int64_t count)
{
    for (int64_t i = 0; i < count; i += 16)
        __builtin_prefetch(from + i);
}

/* The same in equal portions, between which something is computed: the processor takes only some
   dozens of such requests at a time and stands still over the next. */
typedef struct {
    const float *from;
    int64_t left, portion;
} Stream;

INLINE Stream stream(const float *from, int64_t count, int64_t portions)
{
    return (Stream){from, from ? count : 0, (count / portions / 16 + 1) * 16};
}

INLINE void fetch_portion(Stream *s)
{
    int64_t count = s->left < s->portion ? s->left : s->portion;
    fetch(s->from, count);
    s->from += count;
    s->left -= count;
}

/* --- out[r,c] (+)= sum_i left[i*step + r*across] right[i,c] --- */

INLINE void tile(int rows, int columns, int add, int64_t terms, const float *left, int64_t step,
                 int64_t across, const float *right, float *out, int64_t width, int64_t last)
{
    vector sum[ROWS][COLUMNS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < columns; c++)
            sum[r][c] = add ? *(vector *)(out + r * width + (c < columns - 1 ? c * LANES : last))
                            : (vector){0};
    for (int64_t i = 0; i < terms; i++) {
        vector row[COLUMNS];
        UNROLL for (int c = 0; c < columns; c++)
        {
            row[c] = *(const vector *)(right + i * width + (c < columns - 1 ? c * LANES : last));
            HOLD(row[c]);
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int c = 0; c < columns; c++)
                sum[r][c] += left[i * step + r * across] * row[c];
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < columns; c++)
            *(vector *)(out + r * width + (c < columns - 1 ? c * LANES : last)) = sum[r][c];
}

/* Rows in tiles of nearly equal height. */
INLINE void tiles_of(int columns, int add, int64_t rows, int64_t terms, const float *left,
                     int64_t step, int64_t across, const float *right, float *out, int64_t width,
                     int64_t last)
{
    int64_t tiles = (rows + ROWS - 1) / ROWS;
    for (int64_t t = 0; t < tiles; t++) {
        int64_t from = t * rows / tiles, to = (t + 1) * rows / tiles;
        const float *start = left + from * across;
        float *place = out + from * width;
        if (!add)
            UNROLL for (int r = 0; r < ROWS; r++)
                fetch(place + (AHEAD * ROWS + r) * width, columns * LANES);
        switch (to - from) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        tile(n, columns, add, terms, start, step, across, right, place, width, last);              \
        break;
            CASE(1)
            CASE(2)
            CASE(3)
            CASE(4)
#undef CASE
        }
    }
}

/* Columns in blocks of nearly equal numbers of vectors. The last vector ends with the row, so it
   may overlap the one before it, which lies in the same block: both hold the same sums there. */
static void outer(int add, int64_t rows, int64_t terms, const float *left, int64_t step,
                  int64_t across, const float *right, float *out, int64_t width)
{
    int64_t vectors = (width + LANES - 1) / LANES, blocks = (vectors + COLUMNS - 1) / COLUMNS;
    for (int64_t b = 0; b < blocks; b++) {
        int64_t from = b * vectors / blocks, to = (b + 1) * vectors / blocks, at = from * LANES;
        int64_t last = (b + 1 < blocks ? to * LANES : width) - LANES - at;
        switch (to - from) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        tiles_of(n, add, rows, terms, left, step, across, right + at, out + at, width, last);      \
        break;
            CASE(1)
            CASE(2)
            CASE(3)
#if COLUMNS > 3
            CASE(4)
            CASE(5)
            CASE(6)
#endif
#undef CASE
        }
    }
}


/* --- dg[k][h] += sum_c x[k,c] y[h,c] --- */

/* In every quarter: two lanes of a, then two of b, whose lanes are counted from 4. */
#if LANES == 16
#define PICK(a, b, i, j, k, l)                                                                     \
    __builtin_shufflevector(a, b, i, j, k + 12, l + 12, i + 4, j + 4, k + 16, l + 16, i + 8,       \
                            j + 8, k + 20, l + 20, i + 12, j + 12, k + 24, l + 24)
#elif LANES == 8
#define PICK(a, b, i, j, k, l)                                                                     \
    __builtin_shufflevector(a, b, i, j, k + 4, l + 4, i + 4, j + 4, k + 8, l + 8)
#else
#define PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#endif

/* Four numbers in every quarter. */
INLINE vector repeat(const float *x)
{
#if LANES == 16
    typedef __int128 whole __attribute__((may_alias, aligned(4)));
    whole q = *(const whole *)x;
    return (vector)(__int128 __attribute__((vector_size(64)))){q, q, q, q};
#elif LANES == 8
    quarter q = *(const quarter *)x;
    return __builtin_shufflevector(q, q, 0, 1, 2, 3, 0, 1, 2, 3);
#else
    return *(const quarter *)x;
#endif
}

/* The sums of four vectors' quarters, side by side. */
INLINE vector sum_quarters(const vector *v)
{
    vector low = PICK(v[0], v[1], 0, 1, 4, 5) + PICK(v[0], v[1], 2, 3, 6, 7);
    vector high = PICK(v[2], v[3], 0, 1, 4, 5) + PICK(v[2], v[3], 2, 3, 6, 7);
    return PICK(low, high, 0, 2, 4, 6) + PICK(low, high, 1, 3, 5, 7);
}

/* The last four columns of y may overlap those before; x is zero in the lanes that do. */
INLINE void dots_of(int groups, int64_t used, int64_t hidden, const float *x, const float *y,
                    int64_t width, float *const *dg, Stream *next)
{
    int64_t steps = (width + 3) / 4;
    for (int64_t h = 0; h < hidden; h += 4) {
        const float *row[4];
        UNROLL for (int i = 0; i < 4; i++)
            row[i] = y + (h + i < hidden ? h + i : hidden - 1) * width;
        vector sum[GROUPS][4];
        UNROLL for (int p = 0; p < groups; p++)
            UNROLL for (int i = 0; i < 4; i++)
                sum[p][i] = (vector){0};
        for (int i = 0; i < STREAMS; i++)
            fetch_portion(next + i);
        for (int64_t s = 0; s < steps; s++) {
            int64_t at = s + 1 < steps ? 4 * s : width - 4;
            vector four[4];
            UNROLL for (int i = 0; i < 4; i++)
            {
                four[i] = repeat(row[i] + at);
                HOLD(four[i]);
            }
            UNROLL for (int p = 0; p < groups; p++)
            {
                vector lanes = *(const vector *)(x + (p * steps + s) * LANES);
                HOLD(lanes);
                UNROLL for (int i = 0; i < 4; i++)
                    sum[p][i] += lanes * four[i];
            }
        }
        UNROLL for (int p = 0; p < groups; p++)
        {
            vector total = sum_quarters(sum[p]);
            for (int j = 0; j < SPAN && p * SPAN + j < used; j++) {
                float *to = dg[p * SPAN + j] + h;
                if (h + 4 <= hidden)
                    *(quarter *)to += ((quarter *)&total)[j];
                else
                    for (int i = 0; h + i < hidden; i++)
                        to[i] += ((float *)&total)[4 * j + i];
            }
        }
    }
}

/* x of the used slots as `dots_of` reads it. */
INLINE void pack_quarters(int64_t used, const float *x, int64_t width, float *packed)
{
    int64_t steps = (width + 3) / 4;
    for (int64_t k = 0; k < (used + SPAN - 1) / SPAN * SPAN; k++) {
        float *to = packed + k / SPAN * steps * LANES + k % SPAN * 4;
        const float *from = x + k * width;
        for (int64_t s = 0; s < steps; s++, to += LANES)
            *(quarter *)to = k < used ? *(const quarter *)(from + (s + 1 < steps ? 4 * s : width - 4))
                                      : (quarter){0};
        if (k < used)
            for (int64_t i = 0; i < 4 * steps - width; i++)
                to[i - LANES] = 0;
    }
}

INLINE void dots(int64_t used, int64_t hidden, const float *x, const float *y, int64_t width,
                 float *const *dg, Stream *next)
{
    int64_t steps = (width + 3) / 4, groups = (used + SPAN - 1) / SPAN;
    int64_t blocks = (groups + GROUPS - 1) / GROUPS;
    for (int64_t b = 0; b < blocks; b++) {
        int64_t from = b * groups / blocks, to = (b + 1) * groups / blocks;
        const float *part = x + from * steps * LANES;
        int64_t left = used - from * SPAN;
        switch (to - from) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        dots_of(n, left, hidden, part, y, width, dg + from * SPAN, next);                                \
        break;
            CASE(1)
            CASE(2)
#if GROUPS > 2
            CASE(3)
            CASE(4)
            CASE(5)
            CASE(6)
#endif
#undef CASE
        }
    }
}

/* --- one atom --- */

/* A thread's own memory: g of the used slots, x as `dots` reads it, and rows narrower than a vector
   filled up to one. */
typedef struct {
    float *g, *quarters, *x, *y, *out, **dg;
} Room;

INLINE void copy_rows(int64_t rows, const float *from, int64_t from_width, float *to,
                      int64_t to_width)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < to_width; c++)
            to[r * to_width + c] = c < from_width ? from[r * from_width + c] : 0;
}

INLINE int64_t take_used(const Neighbourhoods *n, int64_t atom, const float *g, Room *room)
{
    const int64_t *pair = n->pair + atom * n->slots;
    int64_t k = 0;
    for (; k < n->slots && pair[k] < n->pairs; k++)
        memcpy(room->g + k * n->hidden, g + pair[k] * n->hidden, n->hidden * sizeof(float));
    return k;
}

INLINE int64_t used_slots(const Neighbourhoods *n, int64_t atom)
{
    int64_t used = 0;
    while (used < n->slots && n->pair[atom * n->slots + used] < n->pairs)
        used++;
    return used;
}

/* The rows of an atom's pairs; returns their number. */
INLINE int64_t fetch_pairs(const Neighbourhoods *n, int64_t atom, const float *g, const float *dg)
{
    const int64_t *pair = n->pair + atom * n->slots;
    int64_t used = used_slots(n, atom);
    for (int64_t k = 0; k < used; k++) {
        fetch(g + pair[k] * n->hidden, n->hidden);
        if (dg)
            fetch(dg + pair[k] * n->hidden, n->hidden);
    }
    return used;
}

static void aggregate_atom(const Neighbourhoods *n, int64_t atom, const float *g, const float *x,
                           float *out, int64_t width, Room *room)
{
    int64_t used = take_used(n, atom, g, room), hidden = n->hidden;
    if (atom + 1 < n->atoms)
        fetch(x + (atom + 1) * n->slots * width, fetch_pairs(n, atom + 1, g, NULL) * width);
    x += atom * n->slots * width;
    out += atom * hidden * width;
    if (width >= LANES) {
        outer(0, hidden, used, room->g, hidden, 1, x, out, width);
    } else {
        copy_rows(used, x, width, room->x, LANES);
        outer(0, hidden, used, room->g, hidden, 1, room->x, room->out, LANES);
        copy_rows(hidden, room->out, LANES, out, width);
    }
}

static void pull_back_atom(const Neighbourhoods *n, int64_t atom, const float *g, const float *x,
                        const float *y, float *dx, float *dg, int64_t width, Room *room)
{
    int64_t used = take_used(n, atom, g, room), hidden = n->hidden, full = width;
    Stream next[STREAMS] = {{0}};
    if (atom + 1 < n->atoms) {
        int64_t count = fetch_pairs(n, atom + 1, g, dg) * width, portions = (hidden + 3) / 4;
        int64_t rows = (atom + 1) * n->slots * width;
        next[0] = stream(y + (atom + 1) * hidden * width, hidden * width, portions);
        next[1] = stream(dx ? dx + rows : NULL, count, portions);
        next[2] = stream(dg ? x + rows : NULL, count, portions);
    }
    y += atom * hidden * width;
    if (width < LANES) {
        full = LANES;
        copy_rows(hidden, y, width, room->y, full);
        y = room->y;
    }
    if (dx) {
        dx += atom * n->slots * width;
        if (width == full) {
            outer(1, used, hidden, room->g, 1, hidden, y, dx, full);
        } else {
            copy_rows(used, dx, width, room->out, full);
            outer(1, used, hidden, room->g, 1, hidden, y, room->out, full);
            copy_rows(used, room->out, full, dx, width);
        }
    }
    if (dg) {
        x += atom * n->slots * width;
        if (width < full) {
            copy_rows(used, x, width, room->x, full);
            x = room->x;
        }
        for (int64_t k = 0; k < used; k++)
            room->dg[k] = dg + n->pair[atom * n->slots + k] * hidden;
        pack_quarters(used, x, full, room->quarters);
        dots(used, hidden, room->quarters, y, full, room->dg, next);
    }
    for (int i = 0; i < STREAMS; i++)
        fetch(next[i].from, next[i].left);
}

/* --- all atoms --- */

static int64_t first_atom(const Neighbourhoods *n, int64_t molecule)
{
    int64_t low = 0, high = n->atoms;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (n->molecule[middle] < molecule)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Where the parts of a thread's room lie. */
typedef struct {
    int64_t H, K, rows, narrow, quarters, pointers, bytes;
} Plan;

static Plan plan(const Neighbourhoods *n, int64_t width)
{
    Plan p;
    p.H = n->hidden;
    p.K = (n->slots + SPAN - 1) / SPAN * SPAN;
    p.rows = p.K > p.H ? p.K : p.H;
    p.narrow = width < LANES ? LANES : 0;
    p.quarters = p.K * 4 * (((p.narrow ? p.narrow : width) + 3) / 4);
    p.pointers = (p.K + 7) / 8 * 64; /* bytes */
    p.bytes = p.pointers + 4 * (p.quarters + p.narrow * (p.K + p.H + p.rows) + p.K * p.H);
    p.bytes = (p.bytes + 63) / 64 * 64;
    return p;
}

/* Bytes of room that one call needs: a part for each thread, and what aligns the first. */
int64_t hpsearch_room(const Neighbourhoods *n, int64_t width)
{
    return n->threads * plan(n, width).bytes + 64;
}

/* For each molecule, with the caller's rounding and denormal modes in all threads. */
static void each_atom(const Neighbourhoods *n, const float *g, const float *x, const float *y,
                      float *out, float *dx, float *dg, char *memory, int64_t width)
{
    Plan p = plan(n, width);
    memory += (64 - (uintptr_t)memory % 64) % 64;
    fenv_t modes;
    fegetenv(&modes);
#pragma omp parallel num_threads(n->threads)
    {
        fesetenv(&modes);
        char *mine = memory + thread_number() * p.bytes;
        Room room;
        room.dg = (float **)mine;
        room.quarters = (float *)(mine + p.pointers);
        room.x = room.quarters + p.quarters;
        room.y = room.x + p.narrow * p.K;
        room.out = room.y + p.narrow * p.H;
        room.g = room.out + p.narrow * p.rows;
#pragma omp for schedule(dynamic, 1)
        for (int64_t m = 0; m < n->molecules; m++)
            for (int64_t a = first_atom(n, m); a < n->atoms && n->molecule[a] == m; a++) {
                if (out)
                    aggregate_atom(n, a, g, x, out, width, &room);
                else
                    pull_back_atom(n, a, g, x, y, dx, dg, width, &room);
            }
    }
}

void hpsearch_aggregate(const Neighbourhoods *n, const float *g, const float *x, float *out,
                        char *room, int64_t width)
{
    each_atom(n, g, x, NULL, out, NULL, NULL, room, width);
}

/* `distribute` to dx and `contract` to dg; either may be null. */
void hpsearch_pull_back(const Neighbourhoods *n, const float *g, const float *x, const float *y,
                        float *dx, float *dg, char *room, int64_t width)
{
    each_atom(n, g, x, y, NULL, dx, dg, room, width);
}

/* --- hpsearch/nn/slot_inputs.py: X = [S ; u.V] and X_i = [V ; V x u ; u (u.V) - V/3]_i --- */

typedef struct {
    int64_t atoms, slots, pairs, scalars, vectors, threads;
    const int64_t *pair, *neighbour, *reverse; /* [atoms, slots] */
    const float *direction;                    /* [atoms, slots, 3] */
} Slots;

#define C0 0.57735026918962576f /* sqrt(1/3) */
#define C1 0.70710678118654752f /* sqrt(1/2) */
#define C2 1.22474487139158905f /* sqrt(3/2) */
#define THIRD (1.0f / 3.0f)

/* s [atoms, S], v [3, atoms, V] to x [atoms, K, S + V], xi [3, atoms, K, 3 V]; unused slots are
   left alone. */
void hpsearch_gather(const Slots *n, const float *s, const float *v, float *x, float *xi)
{
    int64_t A = n->atoms, K = n->slots, S = n->scalars, V = n->vectors;
#pragma omp parallel for num_threads(n->threads) schedule(static)
    for (int64_t a = 0; a < A; a++)
        for (int64_t k = a * K; k < (a + 1) * K && n->pair[k] < n->pairs; k++) {
            int64_t b = n->neighbour[k];
            float u0 = n->direction[3 * k], u1 = n->direction[3 * k + 1],
                  u2 = n->direction[3 * k + 2];
            float *restrict to = x + k * (S + V), *restrict x0 = xi + k * 3 * V,
                  *restrict x1 = x0 + A * K * 3 * V, *restrict x2 = x1 + A * K * 3 * V;
            const float *restrict v0 = v + b * V, *restrict v1 = v0 + A * V,
                        *restrict v2 = v1 + A * V;
            memcpy(to, s + b * S, S * sizeof(float));
            for (int64_t c = 0; c < V; c++) {
                float along = u0 * v0[c] + u1 * v1[c] + u2 * v2[c];
                to[S + c] = along;
                x0[c] = C0 * v0[c];
                x1[c] = C0 * v1[c];
                x2[c] = C0 * v2[c];
                x0[V + c] = C1 * (v1[c] * u2 - v2[c] * u1);
                x1[V + c] = C1 * (v2[c] * u0 - v0[c] * u2);
                x2[V + c] = C1 * (v0[c] * u1 - v1[c] * u0);
                x0[2 * V + c] = C2 * (u0 * along - THIRD * v0[c]);
                x1[2 * V + c] = C2 * (u1 * along - THIRD * v1[c]);
                x2[2 * V + c] = C2 * (u2 * along - THIRD * v2[c]);
            }
        }
}

/* Its transpose: an atom's gradient is the sum of what stands in its neighbours' slots. */
void hpsearch_scatter(const Slots *n, const float *dx, const float *dxi, float *ds, float *dv)
{
    int64_t A = n->atoms, K = n->slots, S = n->scalars, V = n->vectors;
#pragma omp parallel for num_threads(n->threads) schedule(static)
    for (int64_t a = 0; a < A; a++) {
        float *restrict to = ds + a * S, *restrict v0 = dv + a * V, *restrict v1 = v0 + A * V,
                        *restrict v2 = v1 + A * V;
        memset(to, 0, S * sizeof(float));
        memset(v0, 0, V * sizeof(float));
        memset(v1, 0, V * sizeof(float));
        memset(v2, 0, V * sizeof(float));
        for (int64_t own = a * K; own < (a + 1) * K && n->pair[own] < n->pairs; own++) {
            int64_t k = n->reverse[own];
            float u0 = n->direction[3 * k], u1 = n->direction[3 * k + 1],
                  u2 = n->direction[3 * k + 2];
            const float *restrict from = dx + k * (S + V), *restrict x0 = dxi + k * 3 * V,
                        *restrict x1 = x0 + A * K * 3 * V, *restrict x2 = x1 + A * K * 3 * V;
            for (int64_t c = 0; c < S; c++)
                to[c] += from[c];
            for (int64_t c = 0; c < V; c++) {
                const float *restrict y0 = x0 + V, *restrict y1 = x1 + V, *restrict y2 = x2 + V;
                const float *restrict z0 = y0 + V, *restrict z1 = y1 + V, *restrict z2 = y2 + V;
                /* V x u turns into u x y, and u (u.V) into u (u.z). */
                float along = from[S + c] + C2 * (u0 * z0[c] + u1 * z1[c] + u2 * z2[c]);
                v0[c] += C0 * x0[c] + C1 * (u1 * y2[c] - u2 * y1[c]) - C2 * THIRD * z0[c] + u0 * along;
                v1[c] += C0 * x1[c] + C1 * (u2 * y0[c] - u0 * y2[c]) - C2 * THIRD * z1[c] + u1 * along;
                v2[c] += C0 * x2[c] + C1 * (u0 * y1[c] - u1 * y0[c]) - C2 * THIRD * z2[c] + u2 * along;
            }
        }
    }
}

/* --- hpsearch/nn/activations.py: softplus(x) = log(1 + exp(beta x)) / beta, shifted and scaled --- */

typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vector all(float x)
{
    return (vector){0} + x;
}

INLINE vector pick(integers mask, vector yes, vector no)
{
    return (vector)((mask & (integers)yes) | (~mask & (integers)no));
}

/* exp(-|z|), to two units in the last place; zero below the normal numbers. */
INLINE vector decay(vector z)
{
    vector t = (vector)((integers)z | INT32_MIN);
    t = pick(t < -87.0f, all(-87.0f), t); /* what is not a number stays so */
    vector n = t * 1.44269504f + 12582912.0f; /* rounds to the nearest integer */
    integers exponent = (integers)n << 23;
    n -= 12582912.0f;
    vector r = t - n * 0.693359375f + n * 2.12194440e-4f;
    vector p = all(0.00139485835f);
    p = p * r + 0.00837513059f;
    p = p * r + 0.0416662171f;
    p = p * r + 0.166664153f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    vector power = (vector)(exponent + (127 << 23));
    return pick(t <= -87.0f, all(0), p * power);
}

/* log(1 + e) of e in [0, 1], relative error 6e-8. */
INLINE vector log_one_plus(vector e)
{
    vector p = all(-0.003256378462538123f);
    p = p * e + 0.019907161593437195f;
    p = p * e - 0.057064201682806015f;
    p = p * e + 0.10614264756441116f;
    p = p * e - 0.15311862528324127f;
    p = p * e + 0.19678117334842682f;
    p = p * e - 0.24954558908939362f;
    p = p * e + 0.33330005407333374f;
    p = p * e - 0.4999990463256836f;
    p = p * e + 1.0f;
    return p * e;
}

typedef struct {
    int64_t count, threads, shifted;
    float beta, scale;
} Softplus;

/* (log(1 + exp(z)) - log 2 if shifted) scale / beta; exactly zero at zero if shifted. */
INLINE vector softplus(const Softplus *s, vector x)
{
    vector z = x * s->beta;
    vector positive = pick(z < 0, all(0), z);
    vector shift = s->shifted ? log_one_plus(all(1)) : all(0);
    return (positive + log_one_plus(decay(z)) - shift) * (s->scale / s->beta);
}

INLINE vector softplus_slope(const Softplus *s, vector x)
{
    vector z = x * s->beta, e = decay(z);
    return pick(z < 0, e, all(1)) / (e + 1.0f) * s->scale;
}

/* Of one vector: y = softplus(x) without dy, and the gradient of x in its place with it. */
INLINE void one_vector(const Softplus *n, const float *x, const float *dy, float *y)
{
    vector in = *(const vector *)x;
    if (dy)
        in = *(const vector *)dy * softplus_slope(n, in);
    else
        in = softplus(n, in);
    *(vector *)y = in;
}

static void each_vector(const Softplus *n, const float *x, const float *dy, float *y)
{
    fenv_t modes;
    fegetenv(&modes);
    int64_t whole = n->count / LANES * LANES;
#pragma omp parallel num_threads(n->threads)
    {
        fesetenv(&modes);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < whole; i += LANES)
            one_vector(n, x + i, dy ? dy + i : NULL, y + i);
    }
    /* The rest, filled up. */
    size_t rest = (n->count - whole) * sizeof(float);
    float in[LANES] = {0}, upstream[LANES] = {0};
    memcpy(in, x + whole, rest);
    if (dy)
        memcpy(upstream, dy + whole, rest);
    one_vector(n, in, dy ? upstream : NULL, in);
    memcpy(y + whole, in, rest);
}

void hpsearch_softplus(const Softplus *n, const float *x, float *y)
{
    each_vector(n, x, NULL, y);
}

void hpsearch_softplus_slope(const Softplus *n, const float *x, const float *dy, float *dx)
{
    each_vector(n, x, dy, dx);
}
