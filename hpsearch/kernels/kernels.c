/* In float32, the code behind these files:

     hpsearch/kernels/slots.py        the products over the neighbour slots of an atom, with weights
     hpsearch/kernels/slot_inputs.py  the inputs of the slots, and the sums of their vectors
     hpsearch/kernels/activations.py  softplus
     hpsearch/nn/radial.py            the first layer of the radial MLPs

   With k over the used slots of atom a, which come first, and g[a,k,:] the row of the slot's pair:

     aggregate    out[a,h,c]  = sum_k g[a,k,h] x[a,k,c]
     distribute   dx[a,k,c]  += sum_h g[a,k,h] y[a,h,c]
     contract     dg[pair,h] += sum_c x[a,k,c] y[a,h,c]

   The first two are outer products, summed in a tile of registers: a few rows by a few vectors
   along c. The third is a matrix of dot products. There a vector is divided into quarters of 128
   bits; a quarter contains four adjacent c of one k, and its four sums are added at the end.
   Products with weights are outer products too, or dot products along the long rows of the weights.

   One thread computes a molecule completely, in the order of its atoms. So results do not depend on
   the number of threads, and two threads never write to the same pair. */

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
#define TALL_ROWS 8
#define TALL_COLUMNS 3
#elif defined(__AVX__)
#define LANES 8
#define COLUMNS 3
#define GROUPS 2
#define TALL_ROWS 6
#define TALL_COLUMNS 2
#else
#define LANES 4
#define COLUMNS 3
#define GROUPS 2
#define TALL_ROWS 6
#define TALL_COLUMNS 2
#endif
#define ROWS 4
#define STREAMS 3        /* arrays whose part for the next atom `dots` prefetches */
#define AHEAD 3          /* how many tiles ahead the output is prefetched */
#define SPAN (LANES / 4) /* slots in a vector of `contract` */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float quarter __attribute__((vector_size(16), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
/* Keep a vector in a register; without this the compiler may load it again for every use. */
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

/* whole / part, rounded up. */
INLINE int64_t ceiling(int64_t whole, int64_t part)
{
    return (whole + part - 1) / part;
}

/* Prefetch memory that will be read or written soon. The arrays are larger than the cache, and the
   access is too irregular for the processor's own prefetching. */
INLINE void fetch(const float *from, int64_t count)
{
    for (int64_t i = 0; i < count; i += 16)
        __builtin_prefetch(from + i);
}

/* Memory that is prefetched in equal portions between computations: the processor accepts only some
   dozens of prefetches at a time and waits at the next one. */
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

/* The compile-time variant of an `outer`: the most rows and vectors of a tile, whether it adds to
   the output, and whether the part of `right` for the next tiles is prefetched. */
typedef struct {
    int rows, columns, add, fetch;
} Shape;

typedef struct {
    int64_t rows, terms;
    const float *left;
    int64_t step, across;
    const float *right;
    int64_t right_width;
    float *out;
    int64_t out_width;
    Stream *next; /* prefetched between tiles; may be null */
} Outer;

#define AT(c) ((c) < columns - 1 ? (c) * LANES : last)

INLINE void tile(Shape shape, int rows, int columns, const Outer *o, const float *left,
                 const float *right, float *out, int64_t last)
{
    vector sum[8][6];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < columns; c++)
            sum[r][c] = shape.add ? *(vector *)(out + r * o->out_width + AT(c)) : (vector){0};
    const int64_t step = o->step, across = o->across, terms = o->terms, width = o->right_width;
    for (int64_t i = 0; i < terms; i++) {
        vector row[6];
        UNROLL for (int c = 0; c < columns; c++)
        {
            row[c] = *(const vector *)(right + i * width + AT(c));
            HOLD(row[c]);
            if (shape.fetch)
                __builtin_prefetch(right + i * width + (columns + c) * LANES);
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int c = 0; c < columns; c++)
                sum[r][c] += left[i * step + r * across] * row[c];
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < columns; c++)
            *(vector *)(out + r * o->out_width + AT(c)) = sum[r][c];
}

/* Divide the rows into tiles of nearly equal height. */
INLINE void tiles_of(Shape shape, int columns, const Outer *o, int64_t at, int64_t last)
{
    int64_t tiles = ceiling(o->rows, shape.rows);
    for (int64_t t = 0; t < tiles; t++) {
        int64_t from = t * o->rows / tiles, to = (t + 1) * o->rows / tiles;
        const float *left = o->left + from * o->across, *right = o->right + at;
        float *out = o->out + from * o->out_width + at;
        if (o->next)
            fetch_portion(o->next);
        if (!shape.add)
            UNROLL for (int r = 0; r < shape.rows; r++)
                fetch(out + (AHEAD * shape.rows + r) * o->out_width, columns * LANES);
        switch (to - from) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        if (n <= shape.rows)                                                                       \
            tile(shape, n, columns, o, left, right, out, last);                                    \
        break;
            CASE(1)
            CASE(2)
            CASE(3)
            CASE(4)
            CASE(5)
            CASE(6)
            CASE(7)
            CASE(8)
#undef CASE
        }
    }
}

/* Divide the columns into blocks of nearly the same number of vectors. The last vector ends with
   the row, so it may overlap the one before it. Both lie in the same block and have the same sums
   in the overlap. */
INLINE void outer(Shape shape, Outer o, int64_t width)
{
    int64_t vectors = ceiling(width, LANES);
    int64_t blocks = ceiling(vectors, shape.columns);
    for (int64_t b = 0; b < blocks; b++) {
        int64_t from = b * vectors / blocks, to = (b + 1) * vectors / blocks, at = from * LANES;
        int64_t last = (b + 1 < blocks ? to * LANES : width) - LANES - at;
        switch (to - from) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        if (n <= shape.columns)                                                                    \
            tiles_of(shape, n, &o, at, last);                                                      \
        break;
            CASE(1)
            CASE(2)
            CASE(3)
            CASE(4)
            CASE(5)
            CASE(6)
#undef CASE
        }
    }
}

/* One copy of the code for every variant in use. The first two are for a `right` that fits into the
   first-level cache; the tall ones are for so many terms that only a few of its columns fit. */
static void outer_set(Outer o, int64_t width)
{
    outer((Shape){ROWS, COLUMNS, 0, 0}, o, width);
}

static void outer_add(Outer o, int64_t width)
{
    outer((Shape){ROWS, COLUMNS, 1, 0}, o, width);
}

static void tall_outer_set(Outer o, int64_t width)
{
    outer((Shape){TALL_ROWS, TALL_COLUMNS, 0, 1}, o, width);
}

static void tall_outer_add(Outer o, int64_t width)
{
    outer((Shape){TALL_ROWS, TALL_COLUMNS, 1, 1}, o, width);
}

/* --- dg[k][h] += sum_c x[k,c] y[h,c] --- */

/* In every quarter, two lanes of a and then two of b. The lanes of b are counted from 4. */
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

/* The same four numbers in every quarter. */
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

/* For every quarter, the sums of that quarter of the four vectors, as four lanes. */
INLINE vector sum_quarters(const vector *v)
{
    vector low = PICK(v[0], v[1], 0, 1, 4, 5) + PICK(v[0], v[1], 2, 3, 6, 7);
    vector high = PICK(v[2], v[3], 0, 1, 4, 5) + PICK(v[2], v[3], 2, 3, 6, 7);
    return PICK(low, high, 0, 2, 4, 6) + PICK(low, high, 1, 3, 5, 7);
}

/* Quarter j of a vector. Reading it through memory would wait until the vector is written, and
   twice as long if the vector crosses two cache lines. */
#define QUARTER(v, j)                                                                              \
    __builtin_shufflevector(v, v, (4 * (j)) % LANES, (4 * (j) + 1) % LANES, (4 * (j) + 2) % LANES, \
                            (4 * (j) + 3) % LANES)

INLINE void add_quarter(quarter sums, float *to, int64_t left)
{
    if (left >= 4)
        *(quarter *)to += sums;
    else
        for (int64_t i = 0; i < left; i++)
            to[i] += sums[i];
}

/* The last four columns of y may overlap the ones before; x is zero in the lanes that overlap. */
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
#define CASE(j)                                                                                    \
    if (j < SPAN && p * SPAN + j < used)                                                           \
        add_quarter(QUARTER(total, j), dg[p * SPAN + j] + h, hidden - h);
            CASE(0)
            CASE(1)
            CASE(2)
            CASE(3)
#undef CASE
        }
    }
}

/* Copy x of the used slots into the layout that `dots_of` reads. */
INLINE void pack_quarters(int64_t used, const float *x, int64_t width, float *packed)
{
    int64_t steps = (width + 3) / 4;
    for (int64_t k = 0; k < ceiling(used, SPAN) * SPAN; k++) {
        float *to = packed + k / SPAN * steps * LANES + k % SPAN * 4;
        const float *from = x + k * width;
        for (int64_t s = 0; s < steps; s++, to += LANES)
            *(quarter *)to = k < used
                                 ? *(const quarter *)(from + (s + 1 < steps ? 4 * s : width - 4))
                                 : (quarter){0};
        if (k < used)
            for (int64_t i = 0; i < 4 * steps - width; i++)
                to[i - LANES] = 0;
    }
}

/* Not inlined: inside a larger function compilers run out of registers. */
static __attribute__((noinline)) void dots(int64_t used, int64_t hidden, const float *x,
                                           const float *y, int64_t width, float *const *dg,
                                           Stream *next)
{
    int64_t steps = (width + 3) / 4, groups = ceiling(used, SPAN);
    int64_t blocks = ceiling(groups, GROUPS);
    for (int64_t b = 0; b < blocks; b++) {
        int64_t from = b * groups / blocks, to = (b + 1) * groups / blocks;
        const float *part = x + from * steps * LANES;
        int64_t left = used - from * SPAN;
        switch (to - from) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        dots_of(n, left, hidden, part, y, width, dg + from * SPAN, next);                          \
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

/* The scratch memory of a thread: g of the used slots, x in the layout of `dots`, and rows narrower
   than a vector, padded to one. */
typedef struct {
    float *g, *quarters, *x, *y, *out, **dg;
} Scratch;

/* Copy a few dozen numbers, for which a call of memcpy takes longer than the copy itself. */
INLINE void copy_row(const float *from, float *to, int64_t count)
{
    if (count < LANES) {
        for (int64_t i = 0; i < count; i++)
            to[i] = from[i];
        return;
    }
    for (int64_t i = 0; i < count - LANES; i += LANES)
        *(vector *)(to + i) = *(const vector *)(from + i);
    *(vector *)(to + count - LANES) = *(const vector *)(from + count - LANES);
}

/* The number of rows at which reading a full vector stays within the array. */
INLINE int64_t whole_rows(int64_t rows, int64_t width)
{
    int64_t others = (LANES - 1) / width;
    return rows > others ? rows - others : 0;
}

/* Copy rows narrower than a vector to rows of one vector, padded with zeros. */
INLINE void widen(int64_t rows, const float *from, int64_t width, float *to)
{
    integers inside;
    for (int i = 0; i < LANES; i++)
        inside[i] = i < width ? -1 : 0;
    int64_t whole = whole_rows(rows, width);
    for (int64_t r = 0; r < whole; r++)
        *(integers *)(to + r * LANES) = *(const integers *)(from + r * width) & inside;
    for (int64_t r = whole; r < rows; r++)
        for (int64_t c = 0; c < LANES; c++)
            to[r * LANES + c] = c < width ? from[r * width + c] : 0;
}

/* The inverse of `widen`. A row overwrites the padding of the row before it. */
INLINE void narrow(int64_t rows, const float *from, float *to, int64_t width)
{
    int64_t whole = whole_rows(rows, width);
    for (int64_t r = 0; r < whole; r++)
        *(vector *)(to + r * width) = *(const vector *)(from + r * LANES);
    for (int64_t r = whole; r < rows; r++)
        for (int64_t c = 0; c < width; c++)
            to[r * width + c] = from[r * LANES + c];
}

/* Copy g of the used slots of an atom, for a range of neurons, next to each other; returns the
   number of used slots. */
INLINE int64_t take_used(const Neighbourhoods *n, int64_t atom, const float *g, int64_t first,
                         int64_t neurons, Scratch *scratch)
{
    const int64_t *pair = n->pair + atom * n->slots;
    int64_t k = 0;
    for (; k < n->slots && pair[k] < n->pairs; k++)
        copy_row(g + pair[k] * n->hidden + first, scratch->g + k * neurons, neurons);
    return k;
}

INLINE int64_t used_slots(const Neighbourhoods *n, int64_t atom)
{
    int64_t used = 0;
    while (used < n->slots && n->pair[atom * n->slots + used] < n->pairs)
        used++;
    return used;
}

/* Prefetch the rows of an atom's pairs; returns the number of pairs. */
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

/* out [hidden, width] = sum_k g[k,:] x[k,:] over the used slots of an atom, prefetching `next`. */
INLINE void aggregate_rows(int64_t used, const float *g, int64_t hidden, const float *x, float *out,
                           int64_t width, Scratch *scratch, Stream *next)
{
    Outer o = {hidden, used, g, hidden, 1, x, width, out, width, next};
    if (width >= LANES) {
        outer_set(o, width);
    } else {
        widen(used, x, width, scratch->x);
        o.right = scratch->x, o.right_width = LANES, o.out = scratch->out, o.out_width = LANES;
        outer_set(o, LANES);
        narrow(hidden, scratch->out, out, width);
    }
}

static void aggregate_atom(const Neighbourhoods *n, int64_t atom, const float *g, const float *x,
                           float *out, int64_t width, Scratch *scratch)
{
    int64_t used = take_used(n, atom, g, 0, n->hidden, scratch), hidden = n->hidden;
    Stream next = {0};
    if (atom + 1 < n->atoms)
        next = stream(x + (atom + 1) * n->slots * width,
                      fetch_pairs(n, atom + 1, g, NULL) * width, ceiling(hidden, ROWS));
    aggregate_rows(used, scratch->g, hidden, x + atom * n->slots * width,
                   out + atom * hidden * width, width, scratch, &next);
}

/* The backward pass of one atom, whose g is already in `scratch`: from y [hidden, width] to dx
   [K, width], which is set or added to, and to dg, which is added to; dx or dg may be null. */
INLINE void pull_back_rows(const Neighbourhoods *n, const int64_t *pair, int64_t used,
                           const float *x, const float *y, float *dx, int64_t set, float *dg,
                           int64_t width, Scratch *scratch, Stream *next)
{
    int64_t hidden = n->hidden, full = width;
    if (width < LANES) {
        full = LANES;
        widen(hidden, y, width, scratch->y);
        y = scratch->y;
    }
    if (dx) {
        Outer o = {used, hidden, scratch->g, 1, hidden, y, full, dx, full};
        if (width < full) {
            if (!set)
                widen(used, dx, width, scratch->out);
            o.out = scratch->out;
        }
        if (set)
            outer_set(o, full);
        else
            outer_add(o, full);
        if (width < full)
            narrow(used, scratch->out, dx, width);
    }
    if (dg) {
        if (width < full) {
            widen(used, x, width, scratch->x);
            x = scratch->x;
        }
        for (int64_t k = 0; k < used; k++)
            scratch->dg[k] = dg + pair[k] * hidden;
        pack_quarters(used, x, full, scratch->quarters);
        dots(used, hidden, scratch->quarters, y, full, scratch->dg, next);
    }
}

static void pull_back_atom(const Neighbourhoods *n, int64_t atom, const float *g, const float *x,
                           const float *y, float *dx, float *dg, int64_t width, Scratch *scratch)
{
    int64_t used = take_used(n, atom, g, 0, n->hidden, scratch), hidden = n->hidden;
    int64_t here = atom * n->slots * width;
    Stream next[STREAMS] = {{0}};
    if (atom + 1 < n->atoms) {
        int64_t count = fetch_pairs(n, atom + 1, g, dg) * width, portions = (hidden + 3) / 4;
        int64_t rows = (atom + 1) * n->slots * width;
        next[0] = stream(y + (atom + 1) * hidden * width, hidden * width, portions);
        next[1] = stream(dx ? dx + rows : NULL, count, portions);
        next[2] = stream(dg ? x + rows : NULL, count, portions);
    }
    pull_back_rows(n, n->pair + atom * n->slots, used, x ? x + here : NULL,
                   y + atom * hidden * width, dx ? dx + here : NULL, 0, dg, width, scratch, next);
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

/* The layout of a thread's scratch memory. */
typedef struct {
    int64_t H, K, rows, narrow, quarters, pointers, bytes;
} Plan;

static Plan plan(const Neighbourhoods *n, int64_t width)
{
    Plan p;
    p.H = n->hidden;
    p.K = ceiling(n->slots, SPAN) * SPAN;
    p.rows = p.K > p.H ? p.K : p.H;
    p.narrow = width < LANES ? LANES : 0;
    p.quarters = p.K * 4 * (((p.narrow ? p.narrow : width) + 3) / 4);
    p.pointers = (p.K + 7) / 8 * 64; /* bytes */
    p.bytes = p.pointers + 4 * (p.quarters + p.narrow * (p.K + p.H + p.rows) + p.K * p.H);
    p.bytes = (p.bytes + 63) / 64 * 64;
    return p;
}

INLINE Scratch scratch_at(char *memory, const Plan *p)
{
    Scratch scratch;
    scratch.dg = (float **)memory;
    scratch.quarters = (float *)(memory + p->pointers);
    scratch.x = scratch.quarters + p->quarters;
    scratch.y = scratch.x + p->narrow * p->K;
    scratch.out = scratch.y + p->narrow * p->H;
    scratch.g = scratch.out + p->narrow * p->rows;
    return scratch;
}

/* The arguments of a call of a function below; those it does not have are zero. */
typedef struct {
    const Neighbourhoods *n;
    Plan plan;
    int64_t parts, width, outs; /* of the products with weights */
    int64_t tasks, set;
    const float *g, *x, *y, *weights;
    float *out, *dx, *dg;
} Call;

/* The first address at or after `memory` at which a cache line of 64 bytes begins. */
INLINE char *aligned(char *memory)
{
    return memory + (64 - (uintptr_t)memory % 64) % 64;
}

/* Run all tasks in any order in several threads. The threads inherit the caller's rounding and
   denormal modes. A thread has `bytes` bytes of the aligned memory. */
static void share_out(const Call *call, void (*task)(const Call *, int64_t, Scratch *, char *),
                      char *memory, int64_t bytes)
{
    memory = aligned(memory);
    fenv_t modes;
    fegetenv(&modes);
#pragma omp parallel num_threads(call->n->threads)
    {
        fesetenv(&modes);
        char *mine = memory + thread_number() * bytes;
        Scratch scratch = scratch_at(mine, &call->plan);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < call->tasks; i++)
            task(call, i, &scratch, mine + call->plan.bytes);
    }
}

static void aggregate_molecule(const Call *c, int64_t m, Scratch *scratch, char *memory)
{
    (void)memory;
    for (int64_t a = first_atom(c->n, m); a < c->n->atoms && c->n->molecule[a] == m; a++)
        aggregate_atom(c->n, a, c->g, c->x, c->out, c->width, scratch);
}

static void pull_back_molecule(const Call *c, int64_t m, Scratch *scratch, char *memory)
{
    (void)memory;
    for (int64_t a = first_atom(c->n, m); a < c->n->atoms && c->n->molecule[a] == m; a++)
        pull_back_atom(c->n, a, c->g, c->x, c->y, c->dx, c->dg, c->width, scratch);
}

/* The bytes of scratch memory that one call needs: a part per thread, and padding for alignment. */
int64_t hpsearch_scratch_bytes(const Neighbourhoods *n, int64_t width)
{
    return n->threads * plan(n, width).bytes + 64;
}

void hpsearch_aggregate(const Neighbourhoods *n, const float *g, const float *x, float *out,
                        char *scratch, int64_t width)
{
    Call c = {.n = n, .plan = plan(n, width), .width = width, .tasks = n->molecules,
              .g = g, .x = x, .out = out};
    share_out(&c, aggregate_molecule, scratch, c.plan.bytes);
}

/* `distribute` to dx and `contract` to dg; dx or dg may be null. */
void hpsearch_pull_back(const Neighbourhoods *n, const float *g, const float *x, const float *y,
                        float *dx, float *dg, char *scratch, int64_t width)
{
    Call c = {.n = n, .plan = plan(n, width), .width = width, .tasks = n->molecules,
              .g = g, .x = x, .y = y, .dx = dx, .dg = dg};
    share_out(&c, pull_back_molecule, scratch, c.plan.bytes);
}

/* --- the same products times weights W [outs, hidden, width], while they are in the cache ---

     convolve            out[a,o]  = sum_hc W[o,hc] A[a,hc]    with A from `aggregate`
     gradient of inputs  y[a,hc]   = sum_o  G[a,o] W[o,hc]     for `distribute` and `contract`
     gradient of W       dW[o,hc]  = sum_a  G[a,o] A[a,hc]

   There is one part (scalars) or there are three (the components of vectors), which share g and W:
   x is [parts, atoms, slots, width], out and G are [parts, atoms, outs]. A row of A must have at
   least the length of a vector. */

typedef struct {
    int64_t parts, width, outs;
} Weights;

/* The parts of A and y that are in a cache at one time: */
#define BLOCK 28        /* rows of A or y with all columns, in the second-level cache, through which
                           W passes. It is a multiple of the tile's rows, and fits three components
                           of nine atoms and most molecules. */
#define DEPTH 512       /* columns of such a block in the first-level cache */
#define NEURONS 24      /* for the gradient of W: neurons whose columns of A are stored, ... */
#define TERMS 128       /* ... in at most this many rows ... */
#define NUMBERS (1 << 17) /* ... and this many numbers, but at least the rows of one atom */

/* `tasks` rounded up to a multiple of `threads`, so that all threads end at the same time. */
INLINE int64_t evenly(int64_t tasks, int64_t threads)
{
    return ceiling(tasks, threads) * threads;
}

/* The distance between two rows of A or y: a multiple of a vector, with space for one more vector
   after the row. */
INLINE int64_t row_of(int64_t terms)
{
    return (terms / LANES + 1) * LANES;
}

#define TILE (ROWS * COLUMNS)

/* The number of vectors into which `dot_tiles` sums. */
INLINE int64_t tiles_in(int64_t rows, int64_t outs)
{
    return ceiling(rows, ROWS) * ceiling(outs, COLUMNS) * TILE;
}

/* The numbers of A stored for the gradient of W; a group may have slightly more than NEURONS. */
INLINE int64_t numbers_of(int64_t parts, int64_t width)
{
    int64_t atom = parts * row_of(2 * NEURONS * width);
    return atom > NUMBERS ? atom : NUMBERS;
}

/* The numbers that a task needs in addition to its thread's `Scratch`. */
static int64_t extra_numbers(const Neighbourhoods *n, const Weights *w)
{
    int64_t row = row_of(n->hidden * w->width);
    int64_t longer = row > w->outs ? row : w->outs; /* the results take the place of A */
    int64_t convolve = tiles_in(BLOCK, w->outs) * LANES + BLOCK * (LANES + longer);
    int64_t inputs = BLOCK * (row + w->outs);
    int64_t weights = numbers_of(w->parts, w->width) + TERMS * w->outs;
    int64_t most = convolve > inputs ? convolve : inputs;
    return row_of(most > weights ? most : weights);
}

static int64_t weights_bytes(const Neighbourhoods *n, const Weights *w)
{
    return plan(n, w->width).bytes + 4 * extra_numbers(n, w);
}

int64_t hpsearch_weights_scratch_bytes(const Neighbourhoods *n, const Weights *w)
{
    return n->threads * weights_bytes(n, w) + 64;
}

/* sum[r][o] += a[r,:] w[o,:], separately for every lane; the terms of a row are contiguous. */
INLINE void dot_tile(int rows, int outs, int64_t terms, const float *a, int64_t a_row,
                     const float *w, int64_t w_row, int64_t ahead, vector *sum)
{
    vector s[ROWS][COLUMNS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int o = 0; o < outs; o++)
            s[r][o] = sum[r * COLUMNS + o];
    for (int64_t k = 0; k < terms; k += LANES) {
        vector left[ROWS];
        UNROLL for (int r = 0; r < rows; r++)
        {
            left[r] = *(const vector *)(a + r * a_row + k);
            HOLD(left[r]);
        }
        UNROLL for (int o = 0; o < outs; o++)
        {
            vector right = *(const vector *)(w + o * w_row + k);
            HOLD(right);
            __builtin_prefetch(w + o * w_row + k + ahead);
            UNROLL for (int r = 0; r < rows; r++)
                s[r][o] += left[r] * right;
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int o = 0; o < outs; o++)
            sum[r * COLUMNS + o] = s[r][o];
}

/* The same for any number of rows, in tiles. Of the tiles that read the same part of w, the first
   one prefetches the next part. */
static void dot_tiles(int64_t rows, int64_t outs, int64_t terms, const float *a, int64_t a_row,
                      const float *w, int64_t w_row, vector *sum)
{
    int64_t across = ceiling(outs, COLUMNS), down = ceiling(rows, ROWS);
    for (int64_t j = 0; j < across; j++) {
        int64_t left = j * outs / across, right = (j + 1) * outs / across;
        const float *part = w + left * w_row;
        for (int64_t i = 0; i < down; i++, sum += TILE) {
            int64_t top = i * rows / down, bottom = (i + 1) * rows / down;
            int64_t ahead = i ? 0 : (right - left) * w_row;
            switch ((bottom - top - 1) * COLUMNS + right - left) {
#define CASE(r, o)                                                                                 \
    case (r - 1) * COLUMNS + o:                                                                    \
        dot_tile(r, o, terms, a + top * a_row, a_row, part, w_row, ahead, sum);                    \
        break;
#if COLUMNS > 3
#define CASES(r) CASE(r, 1) CASE(r, 2) CASE(r, 3) CASE(r, 4) CASE(r, 5) CASE(r, 6)
#else
#define CASES(r) CASE(r, 1) CASE(r, 2) CASE(r, 3)
#endif
                CASES(1)
                CASES(2)
                CASES(3)
                CASES(4)
#undef CASES
#undef CASE
            }
        }
    }
}

/* Add the lanes of the sums of `dot_tiles` and write them to out [rows, outs]. */
static void add_lanes(int64_t rows, int64_t outs, const vector *sum, float *out)
{
    int64_t across = ceiling(outs, COLUMNS), down = ceiling(rows, ROWS);
    for (int64_t j = 0; j < across; j++) {
        int64_t left = j * outs / across, right = (j + 1) * outs / across;
        for (int64_t i = 0; i < down; i++, sum += TILE) {
            int64_t top = i * rows / down, bottom = (i + 1) * rows / down;
            for (int64_t r = 0; r < bottom - top; r++)
                for (int64_t o = left; o < right; o += 4) {
                    vector four[4] = {{0}};
                    int64_t count = right - o < 4 ? right - o : 4;
                    for (int64_t q = 0; q < count; q++)
                        four[q] = sum[r * COLUMNS + o - left + q];
                    vector total = sum_quarters(four);
                    quarter all = QUARTER(total, 0);
#if SPAN > 1
                    all += QUARTER(total, 1);
#endif
#if SPAN > 2
                    all += QUARTER(total, 2) + QUARTER(total, 3);
#endif
                    for (int64_t q = 0; q < count; q++)
                        out[(top + r) * outs + o + q] = all[q];
                }
        }
    }
}

/* The convolution of a range of atoms, regardless of molecules. */
static void convolve_atoms(const Call *c, int64_t number, Scratch *scratch, char *memory)
{
    const Neighbourhoods *n = c->n;
    int64_t first = number * n->atoms / c->tasks, end = (number + 1) * n->atoms / c->tasks;
    int64_t atoms = end - first, rows = atoms * c->parts, slots = n->slots * c->width;
    int64_t terms = n->hidden * c->width, whole = terms / LANES * LANES, row = row_of(terms);
    vector *sum = (vector *)memory;
    float *ends = (float *)(sum + tiles_in(BLOCK, c->outs)), *A = ends + BLOCK * LANES;
    for (int64_t a = 0; a < atoms; a++) {
        int64_t used = take_used(n, first + a, c->g, 0, n->hidden, scratch);
        if (first + a + 1 < n->atoms)
            fetch_pairs(n, first + a + 1, c->g, NULL);
        for (int64_t part = 0; part < c->parts; part++) {
            const float *x = c->x + (part * n->atoms + first + a) * slots;
            float *to = A + (part * atoms + a) * row, *rest = ends + (part * atoms + a) * LANES;
            Stream next = {0};
            if (a + 1 < atoms)
                next = stream(x + slots, used * c->width, ceiling(n->hidden, ROWS));
            aggregate_rows(used, scratch->g, n->hidden, x, to, c->width, scratch, &next);
            /* The last vector ends with the row; lanes that are counted already are set to zero. */
            for (int64_t i = 0; i < LANES; i++)
                rest[i] = terms - LANES + i < whole ? 0 : to[terms - LANES + i];
        }
    }
    memset(sum, 0, tiles_in(rows, c->outs) * sizeof(vector));
    for (int64_t k = 0; k < whole; k += DEPTH)
        dot_tiles(rows, c->outs, whole - k < DEPTH ? whole - k : DEPTH, A + k, row, c->weights + k,
                  terms, sum);
    if (whole < terms)
        dot_tiles(rows, c->outs, LANES, ends, LANES, c->weights + terms - LANES, terms, sum);
    float *result = A; /* A is no longer needed */
    add_lanes(rows, c->outs, sum, result);
    for (int64_t part = 0; part < c->parts; part++)
        memcpy(c->out + (part * n->atoms + first) * c->outs, result + part * atoms * c->outs,
               atoms * c->outs * sizeof(float));
}

static void pull_back_atoms(const Call *c, int64_t first, int64_t atoms, Scratch *scratch,
                            char *memory)
{
    const Neighbourhoods *n = c->n;
    int64_t terms = n->hidden * c->width, row = row_of(terms), slots = n->slots * c->width;
    float *y = (float *)memory, *copy = y + BLOCK * row;
    const float *G = c->y + first * c->outs;
    if (c->parts > 1) {
        for (int64_t part = 0; part < c->parts; part++)
            memcpy(copy + part * atoms * c->outs, c->y + (part * n->atoms + first) * c->outs,
                   atoms * c->outs * sizeof(float));
        G = copy;
    }
    Outer o = {atoms * c->parts, c->outs, G, 1, c->outs, c->weights, terms, y, row};
    tall_outer_set(o, terms);
    for (int64_t a = 0; a < atoms; a++) {
        int64_t used = take_used(n, first + a, c->g, 0, n->hidden, scratch);
        int64_t portions = (n->hidden + 3) / 4;
        if (first + a + 1 < n->atoms)
            fetch_pairs(n, first + a + 1, c->g, c->dg);
        for (int64_t part = 0; part < c->parts; part++) {
            int64_t here = (part * n->atoms + first + a) * slots;
            const float *x = c->x ? c->x + here : NULL;
            float *dx = c->dx ? c->dx + here : NULL;
            Stream next[STREAMS] = {{0}};
            if (a + 1 < atoms && c->dg) {
                next[0] = stream(dx ? dx + slots : NULL, used * c->width, portions);
                next[1] = stream(x + slots, used * c->width, portions);
            }
            pull_back_rows(n, n->pair + (first + a) * n->slots, used, x,
                           y + (part * atoms + a) * row, dx, c->set, c->dg, c->width, scratch,
                           next);
        }
    }
}

static void pull_back_molecule_weighted(const Call *c, int64_t m, Scratch *scratch, char *memory)
{
    int64_t first = first_atom(c->n, m), atoms = first_atom(c->n, m + 1) - first;
    int64_t blocks = ceiling(atoms, BLOCK / c->parts);
    for (int64_t b = 0; b < blocks; b++) {
        int64_t from = b * atoms / blocks, to = (b + 1) * atoms / blocks;
        pull_back_atoms(c, first + from, to - from, scratch, memory);
    }
}

/* The first neuron of a group. Unless the groups are small, it is rounded down to the first row of
   a tile, so that the last group is not narrower than the others. */
INLINE int64_t first_neuron(const Call *c, int64_t group)
{
    int64_t H = c->n->hidden, at = group * H / c->tasks;
    return group < c->tasks && H / c->tasks >= 2 * ROWS ? at / ROWS * ROWS : at;
}

/* The gradient of the weights of a group of neurons, block by block of atoms. */
static void weigh_neurons(const Call *c, int64_t group, Scratch *scratch, char *memory)
{
    const Neighbourhoods *n = c->n;
    int64_t h = first_neuron(c, group), neurons = first_neuron(c, group + 1) - h;
    int64_t columns = neurons * c->width, row = row_of(columns), slots = n->slots * c->width;
    int64_t numbers = numbers_of(c->parts, c->width), most = numbers / row;
    int64_t blocks = ceiling(n->atoms, (most < TERMS ? most : TERMS) / c->parts);
    float *A = (float *)memory, *copy = A + numbers, *out = c->out + h * c->width;
    for (int64_t b = 0; b < blocks; b++) {
        int64_t first = b * n->atoms / blocks, atoms = (b + 1) * n->atoms / blocks - first;
        for (int64_t a = 0; a < atoms; a++) {
            int64_t used = take_used(n, first + a, c->g, h, neurons, scratch);
            for (int64_t part = 0; part < c->parts; part++) {
                int64_t atom = part * n->atoms + first + a, at = a * c->parts + part;
                const float *x = c->x + atom * slots;
                Stream next = {0};
                if (a + 1 < atoms)
                    next = stream(x + slots, used * c->width, ceiling(neurons, ROWS));
                aggregate_rows(used, scratch->g, neurons, x, A + at * row, c->width, scratch,
                               &next);
                if (c->parts > 1)
                    copy_row(c->y + atom * c->outs, copy + at * c->outs, c->outs);
            }
        }
        const float *G = c->parts > 1 ? copy : c->y + first * c->outs;
        Outer o = {c->outs, atoms * c->parts, G,   c->outs,           1,
                   A,       row,              out, n->hidden * c->width};
        if (b == 0)
            tall_outer_set(o, columns);
        else
            tall_outer_add(o, columns);
    }
}

INLINE Call weighted(const Neighbourhoods *n, const Weights *w, int64_t tasks, const float *g,
                     const float *x)
{
    return (Call){.n = n, .plan = plan(n, w->width), .parts = w->parts, .width = w->width,
                  .outs = w->outs, .tasks = tasks, .g = g, .x = x};
}

void hpsearch_convolve(const Neighbourhoods *n, const Weights *w, const float *g, const float *x,
                       const float *weights, float *out, char *scratch)
{
    Call c = weighted(n, w, evenly(ceiling(n->atoms, BLOCK / w->parts), n->threads), g, x);
    c.weights = weights, c.out = out;
    share_out(&c, convolve_atoms, scratch, weights_bytes(n, w));
}

/* Set dx [parts, atoms, slots, width] or add to it, and add to dg [pairs, hidden]; dx or dg may be
   null. x is needed for dg only. */
void hpsearch_convolve_inputs(const Neighbourhoods *n, const Weights *w, const float *g,
                              const float *x, const float *weights, const float *G, float *dx,
                              float *dg, char *scratch, int64_t set)
{
    Call c = weighted(n, w, n->molecules, g, x);
    c.weights = weights, c.y = G, c.dx = dx, c.dg = dg, c.set = set;
    share_out(&c, pull_back_molecule_weighted, scratch, weights_bytes(n, w));
}

void hpsearch_convolve_weights(const Neighbourhoods *n, const Weights *w, const float *g,
                               const float *x, const float *G, float *dw, char *scratch)
{
    int64_t groups = ceiling(n->hidden, NEURONS), most = n->hidden / ceiling(LANES, w->width);
    groups = evenly(groups, n->threads);
    groups = groups < most ? groups : most > 1 ? most : 1;
    Call c = weighted(n, w, groups, g, x);
    c.y = G, c.out = dw;
    share_out(&c, weigh_neurons, scratch, weights_bytes(n, w));
}

/* --- kernels/slot_inputs.py: X = [S ; u.V] and X_i = [V ; V x u ; u (u.V) - V/3]_i --- */

typedef struct {
    int64_t atoms, slots, pairs, scalars, vectors, threads;
    const int64_t *pair, *neighbour, *reverse; /* [atoms, slots] */
    const float *direction;                    /* [atoms, slots, 3] */
} SlotTable;

#define C0 0.57735026918962576f /* sqrt(1/3) */
#define C1 0.70710678118654752f /* sqrt(1/2) */
#define C2 1.22474487139158905f /* sqrt(3/2) */
#define THIRD (1.0f / 3.0f)
#define ROOT3 1.73205080756887729f

/* Run `body(type, column)` over all columns, in vectors, or one by one if a row is shorter than a
   vector. The last vector ends with the row and may overlap the one before it. */
#define COLUMNS_OF(width, body)                                                                    \
    if ((width) >= LANES) {                                                                        \
        for (int64_t c = 0; c < (width); c += LANES)                                               \
            body(vector, c + LANES <= (width) ? c : (width) - LANES)                               \
    } else {                                                                                       \
        for (int64_t c = 0; c < (width); c++)                                                      \
            body(scalar, c)                                                                        \
    }

#define OF(T, array, c) (*(T *)((array) + (c)))

typedef float scalar __attribute__((may_alias));

/* From the vectors of the neighbour in a slot to u.V, and to X_i unless xi is null. */
#define GATHER(T, column)                                                                          \
    {                                                                                              \
        const int64_t at = column;                                                                 \
        T a0 = OF(T, v0, at), a1 = OF(T, v1, at), a2 = OF(T, v2, at);                              \
        T along = u0 * a0 + u1 * a1 + u2 * a2;                                                     \
        OF(T, to + S, at) = along;                                                                 \
        if (xi) {                                                                                  \
            OF(T, x0, at) = C0 * a0;                                                               \
            OF(T, x1, at) = C0 * a1;                                                               \
            OF(T, x2, at) = C0 * a2;                                                               \
            OF(T, x0 + V, at) = C1 * (a1 * u2 - a2 * u1);                                          \
            OF(T, x1 + V, at) = C1 * (a2 * u0 - a0 * u2);                                          \
            OF(T, x2 + V, at) = C1 * (a0 * u1 - a1 * u0);                                          \
            OF(T, x0 + 2 * V, at) = C2 * (u0 * along - THIRD * a0);                                \
            OF(T, x1 + 2 * V, at) = C2 * (u1 * along - THIRD * a1);                                \
            OF(T, x2 + 2 * V, at) = C2 * (u2 * along - THIRD * a2);                                \
        }                                                                                          \
    }

/* From s [atoms, S] and v [3, atoms, V] to x [atoms, K, S + V] and xi [3, atoms, K, 3 V]. xi may be
   null; unused slots are not written. */
void hpsearch_gather(const SlotTable *n, const float *s, const float *v, float *x, float *xi)
{
    int64_t A = n->atoms, K = n->slots, S = n->scalars, V = n->vectors, step = A * K * 3 * V;
#pragma omp parallel for num_threads(n->threads) schedule(static)
    for (int64_t a = 0; a < A; a++)
        for (int64_t k = a * K; k < (a + 1) * K && n->pair[k] < n->pairs; k++) {
            int64_t b = n->neighbour[k];
            const float *u = n->direction + 3 * k;
            const float u0 = u[0], u1 = u[1], u2 = u[2];
            const float *v0 = v + b * V, *v1 = v0 + A * V, *v2 = v1 + A * V;
            float *to = x + k * (S + V);
            float *x0 = xi ? xi + k * 3 * V : NULL, *x1 = xi ? x0 + step : NULL,
                  *x2 = xi ? x1 + step : NULL;
            copy_row(s + b * S, to, S);
            COLUMNS_OF(V, GATHER)
        }
}

/* The gradient of an atom's scalars: the sum over the reverse slots of its own slots. */
#define SCATTER_SCALARS(T, column)                                                                 \
    {                                                                                              \
        const int64_t at = column;                                                                 \
        T sum = {0};                                                                               \
        for (int64_t k = first; k < end; k++)                                                      \
            sum += OF(const T, dx + n->reverse[k] * (S + V), at);                                  \
        OF(T, ds + a * S, at) = sum;                                                               \
    }

/* The gradient of its vectors: V x u becomes u x y, and u (u.V) becomes u (u.z). */
#define SCATTER_VECTORS(T, column)                                                                 \
    {                                                                                              \
        const int64_t at = column;                                                                 \
        T s0 = {0}, s1 = {0}, s2 = {0};                                                            \
        for (int64_t own = first; own < end; own++) {                                              \
            const int64_t k = n->reverse[own];                                                     \
            const float *u = n->direction + 3 * k;                                                 \
            const float u0 = u[0], u1 = u[1], u2 = u[2];                                           \
            T along = OF(const T, dx + k * (S + V) + S, at);                                       \
            if (dxi) {                                                                             \
                const float *x0 = dxi + k * 3 * V, *x1 = x0 + step, *x2 = x1 + step;               \
                T y0 = OF(const T, x0 + V, at), z0 = OF(const T, x0 + 2 * V, at);                  \
                T y1 = OF(const T, x1 + V, at), z1 = OF(const T, x1 + 2 * V, at);                  \
                T y2 = OF(const T, x2 + V, at), z2 = OF(const T, x2 + 2 * V, at);                  \
                along += C2 * (u0 * z0 + u1 * z1 + u2 * z2);                                       \
                s0 += C0 * OF(const T, x0, at) + C1 * (u1 * y2 - u2 * y1) - C2 * THIRD * z0;       \
                s1 += C0 * OF(const T, x1, at) + C1 * (u2 * y0 - u0 * y2) - C2 * THIRD * z1;       \
                s2 += C0 * OF(const T, x2, at) + C1 * (u0 * y1 - u1 * y0) - C2 * THIRD * z2;       \
            }                                                                                      \
            s0 += u0 * along;                                                                      \
            s1 += u1 * along;                                                                      \
            s2 += u2 * along;                                                                      \
        }                                                                                          \
        OF(T, dv + a * V, at) = s0;                                                                \
        OF(T, dv + (A + a) * V, at) = s1;                                                          \
        OF(T, dv + (2 * A + a) * V, at) = s2;                                                      \
    }

/* The transpose of `hpsearch_gather`: the gradient of an atom is the sum over all slots that
   contain it. dxi may be null. */
void hpsearch_scatter(const SlotTable *n, const float *dx, const float *dxi, float *ds, float *dv)
{
    int64_t A = n->atoms, K = n->slots, S = n->scalars, V = n->vectors, step = A * K * 3 * V;
#pragma omp parallel for num_threads(n->threads) schedule(static)
    for (int64_t a = 0; a < A; a++) {
        int64_t first = a * K, end = first;
        while (end < (a + 1) * K && n->pair[end] < n->pairs)
            end++;
        COLUMNS_OF(S, SCATTER_SCALARS)
        COLUMNS_OF(V, SCATTER_VECTORS)
    }
}

/* out[i,a,:] = sqrt(3) sum_k u[a,k,i] m[reverse[a,k],:], with m [atoms, slots, vectors]: the sum of
   the messages that the neighbours of a have for it. */
void hpsearch_directed_sum(const SlotTable *n, const float *m, float *out)
{
    int64_t A = n->atoms, K = n->slots, V = n->vectors;
#pragma omp parallel for num_threads(n->threads) schedule(static)
    for (int64_t a = 0; a < A; a++) {
        float *restrict o0 = out + a * V, *restrict o1 = o0 + A * V, *restrict o2 = o1 + A * V;
        memset(o0, 0, V * sizeof(float));
        memset(o1, 0, V * sizeof(float));
        memset(o2, 0, V * sizeof(float));
        for (int64_t k = a * K; k < (a + 1) * K && n->pair[k] < n->pairs; k++) {
            float u0 = ROOT3 * n->direction[3 * k], u1 = ROOT3 * n->direction[3 * k + 1],
                  u2 = ROOT3 * n->direction[3 * k + 2];
            const float *restrict from = m + n->reverse[k] * V;
            for (int64_t c = 0; c < V; c++) {
                o0[c] += u0 * from[c];
                o1[c] += u1 * from[c];
                o2[c] += u2 * from[c];
            }
        }
    }
}

/* The transpose of `hpsearch_directed_sum`; unused slots are not written. */
void hpsearch_directed(const SlotTable *n, const float *dout, float *dm)
{
    int64_t A = n->atoms, K = n->slots, V = n->vectors;
#pragma omp parallel for num_threads(n->threads) schedule(static)
    for (int64_t a = 0; a < A; a++)
        for (int64_t k = a * K; k < (a + 1) * K && n->pair[k] < n->pairs; k++) {
            const float *u = n->direction + 3 * n->reverse[k];
            float u0 = ROOT3 * u[0], u1 = ROOT3 * u[1], u2 = ROOT3 * u[2];
            const float *restrict g0 = dout + n->neighbour[k] * V, *restrict g1 = g0 + A * V,
                        *restrict g2 = g1 + A * V;
            float *restrict to = dm + k * V;
            for (int64_t c = 0; c < V; c++)
                to[c] = u0 * g0[c] + u1 * g1[c] + u2 * g2[c];
        }
}

/* --- kernels/activations.py: softplus(x) = log(1 + exp(beta x)) / beta, shifted, scaled --- */

INLINE vector all(float x)
{
    return (vector){0} + x;
}

INLINE vector pick(integers mask, vector yes, vector no)
{
    return (vector)((mask & (integers)yes) | (~mask & (integers)no));
}

/* exp(-|z|), accurate to two units in the last place; zero instead of denormal numbers. */
INLINE vector decay(vector z)
{
    vector t = (vector)((integers)z | INT32_MIN);
    t = pick(t < -87.0f, all(-87.0f), t); /* NaN stays NaN */
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

/* log(1 + e) for e in [0, 1], with a relative error of 6e-8. */
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

/* For one vector: y = softplus(x) if dy is null, else y = the gradient of x. */
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
    /* The rest, padded to a vector. */
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

/* --- nn/radial.py: g[t,p,:] = softplus(sum_b phi[p,b] w[t,:,b]), with few b for every p --- */

typedef struct {
    int64_t copies, pairs, functions, hidden;
    Softplus softplus; /* its count is not used */
} Radial;

#define RADIAL_PAIRS 256 /* pairs of a task in the forward pass */
/* Least number of parts, over all copies, into which the backward pass divides the pairs. It does
   not depend on the number of threads, so neither do the sums. */
#define RADIAL_PARTS 16

/* The numbers in a row of neurons, padded to full vectors; those in a copy's weights; the parts. */
typedef struct {
    int64_t row, copy, parts;
} RadialSizes;

static RadialSizes radial_sizes(const Radial *n)
{
    int64_t row = ceiling(n->hidden, LANES) * LANES;
    return (RadialSizes){row, n->functions * row, ceiling(RADIAL_PARTS, n->copies)};
}

/* Weights [copies, functions, row], and their gradients [copies, parts, functions, row]. */
typedef struct {
    float *weights, *gradients;
} RadialScratch;

static RadialScratch radial_scratch(const Radial *n, char *memory)
{
    float *weights = (float *)aligned(memory);
    return (RadialScratch){weights, weights + n->copies * radial_sizes(n).copy};
}

/* The bytes of scratch memory that one call needs. */
int64_t hpsearch_radial_scratch_bytes(const Radial *n)
{
    const RadialSizes size = radial_sizes(n);
    return 4 * n->copies * (1 + size.parts) * size.copy + 64;
}

/* Whether all lanes of a vector are zero. */
INLINE int all_zero(const float *x)
{
    int32_t any = 0;
    for (int i = 0; i < LANES; i++)
        any |= (*(const integers *)x)[i] & INT32_MAX; /* without the sign */
    return !any;
}

/* Called in all threads: for every pair, the first function that is not zero, and the end of them.
   */
static void find_bands(const Radial *n, const float *phi, int32_t *band)
{
    int64_t B = n->functions;
#pragma omp for schedule(static)
    for (int64_t p = 0; p < n->pairs; p++) {
        int64_t first = 0, end = B;
        while (first + LANES <= end && all_zero(phi + p * B + first))
            first += LANES;
        while (first < end && phi[p * B + first] == 0)
            first++;
        while (first + LANES <= end && all_zero(phi + p * B + end - LANES))
            end -= LANES;
        while (end > first && phi[p * B + end - 1] == 0)
            end--;
        band[2 * p] = first;
        band[2 * p + 1] = end;
    }
}

/* Called in all threads: transpose the weights, so that the neurons of a function are contiguous.
   */
static void transpose_weights(const Radial *n, const float *w, float *out)
{
    int64_t B = n->functions, H = n->hidden, row = radial_sizes(n).row;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n->copies * B; i++) {
        float *to = out + i * row;
        const float *from = w + i / B * H * B + i % B;
        for (int64_t h = 0; h < row; h++)
            to[h] = h < H ? from[h * B] : 0;
    }
}

/* The neurons h to h + LANES - 1 of a pair, before the activation. */
INLINE vector before_softplus(const float *phi, const int32_t *band, const float *w, int64_t row)
{
    vector x = {0};
    for (int64_t b = band[0]; b < band[1]; b++)
        x += phi[b] * *(const vector *)(w + b * row);
    return x;
}

/* From w [copies, hidden, functions] to g [copies, pairs, hidden], and to band [pairs, 2]. */
void hpsearch_radial(const Radial *n, const float *phi, const float *w, int32_t *band, float *g,
                     char *memory)
{
    const RadialScratch scratch = radial_scratch(n, memory);
    const RadialSizes size = radial_sizes(n);
    int64_t B = n->functions, H = n->hidden, P = n->pairs, blocks = ceiling(P, RADIAL_PAIRS);
    fenv_t modes;
    fegetenv(&modes);
#pragma omp parallel num_threads(n->softplus.threads)
    {
        fesetenv(&modes);
        find_bands(n, phi, band);
        transpose_weights(n, w, scratch.weights);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n->copies * blocks; i++) {
            const float *weights = scratch.weights + i / blocks * size.copy;
            int64_t from = i % blocks * RADIAL_PAIRS, to = from + RADIAL_PAIRS;
            to = to < P ? to : P;
            for (int64_t p = from; p < to; p++)
                for (int64_t h = 0; h < H; h += LANES) {
                    float *out = g + (i / blocks * P + p) * H + h;
                    vector x = before_softplus(phi + p * B, band + 2 * p, weights + h, size.row);
                    vector y = softplus(&n->softplus, x);
                    if (h + LANES <= H)
                        *(vector *)out = y;
                    else
                        memcpy(out, &y, (H - h) * sizeof(float));
                }
        }
    }
}

/* From dg [copies, pairs, hidden] to dw, which has the shape of w. */
void hpsearch_radial_weights(const Radial *n, const float *phi, const float *w, const int32_t *band,
                             const float *dg, float *dw, char *memory)
{
    const RadialScratch scratch = radial_scratch(n, memory);
    const RadialSizes size = radial_sizes(n);
    int64_t B = n->functions, H = n->hidden, P = n->pairs;
    fenv_t modes;
    fegetenv(&modes);
#pragma omp parallel num_threads(n->softplus.threads)
    {
        fesetenv(&modes);
        transpose_weights(n, w, scratch.weights);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < n->copies * size.parts; i++) {
            int64_t copy = i / size.parts, part = i % size.parts;
            const float *weights = scratch.weights + copy * size.copy;
            float *sums = scratch.gradients + i * size.copy;
            memset(sums, 0, size.copy * sizeof(float));
            for (int64_t p = part * P / size.parts; p < (part + 1) * P / size.parts; p++) {
                for (int64_t h = 0; h < H; h += LANES) {
                    const float *upstream = dg + (copy * P + p) * H + h;
                    vector dx = {0};
                    if (h + LANES <= H)
                        dx = *(const vector *)upstream;
                    else
                        memcpy(&dx, upstream, (H - h) * sizeof(float));
                    vector x = before_softplus(phi + p * B, band + 2 * p, weights + h, size.row);
                    dx *= softplus_slope(&n->softplus, x);
                    for (int64_t b = band[2 * p]; b < band[2 * p + 1]; b++)
                        *(vector *)(sums + b * size.row + h) += phi[p * B + b] * dx;
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n->copies * B; i++) {
            int64_t copy = i / B, b = i % B;
            float *parts = scratch.gradients + copy * size.parts * size.copy + b * size.row;
            for (int64_t part = 1; part < size.parts; part++)
                for (int64_t h = 0; h < size.row; h++)
                    parts[h] += parts[part * size.copy + h];
            for (int64_t h = 0; h < H; h++)
                dw[(copy * H + h) * B + b] = parts[h];
        }
    }
}
