/* Calls every function of kernels.c on arrays of exactly the size that it may touch, so that a
   sanitizer sees what it reads or writes beyond them: molecules, neighbours and widths at random.

       memory SEED TRIES */

#include "../../hpsearch/kernels/kernels.c"

#include <stdio.h>
#include <stdlib.h>

#define MOST_ATOMS 29
#define MOST_MOLECULES 6

static int between(int low, int high)
{
    return low + rand() % (high - low + 1);
}

static float *numbers(int64_t count)
{
    float *x = malloc(count * sizeof(float));
    for (int64_t i = 0; i < count; i++)
        x[i] = (rand() % 2000 - 1000) / 500.0f;
    return x;
}

typedef struct {
    int64_t atoms, molecules, slots, pairs;
    int64_t *molecule, *pair, *neighbour, *reverse;
    float *direction;
} Batch;

/* Of the pairs of each molecule none, a third, two thirds or all are neighbours. */
static Batch random_batch(void)
{
    static int64_t number[MOST_MOLECULES][MOST_ATOMS][MOST_ATOMS];
    static int64_t slot[MOST_MOLECULES][MOST_ATOMS][MOST_ATOMS];
    int atoms[MOST_MOLECULES], thirds = between(0, 3);
    Batch b = {.molecules = between(1, MOST_MOLECULES), .slots = 1};
    for (int m = 0; m < b.molecules; m++) {
        atoms[m] = between(1, MOST_ATOMS);
        b.atoms += atoms[m];
        for (int i = 0; i < atoms[m]; i++)
            for (int j = i; j < atoms[m]; j++)
                number[m][i][j] = number[m][j][i] = j > i && rand() % 3 < thirds ? b.pairs++ : -1;
        for (int i = 0; i < atoms[m]; i++) {
            int64_t used = 0;
            for (int j = 0; j < atoms[m]; j++)
                used += number[m][i][j] >= 0;
            b.slots = used > b.slots ? used : b.slots;
        }
    }
    b.pairs += between(0, 5); /* filled up */
    int64_t all = b.atoms * b.slots;
    b.molecule = malloc(b.atoms * sizeof(int64_t));
    b.pair = malloc(all * sizeof(int64_t));
    b.neighbour = calloc(all, sizeof(int64_t));
    b.reverse = calloc(all, sizeof(int64_t));
    b.direction = numbers(3 * all);
    for (int64_t i = 0; i < all; i++)
        b.pair[i] = b.pairs;
    for (int m = 0, first = 0; m < b.molecules; first += atoms[m++]) {
        for (int i = 0; i < atoms[m]; i++) {
            int64_t place = (first + i) * b.slots;
            b.molecule[first + i] = m;
            for (int j = 0; j < atoms[m]; j++)
                if (number[m][i][j] >= 0) {
                    b.pair[place] = number[m][i][j];
                    b.neighbour[place] = first + j;
                    slot[m][i][j] = place++;
                }
        }
        for (int i = 0; i < atoms[m]; i++)
            for (int j = 0; j < atoms[m]; j++)
                if (number[m][i][j] >= 0)
                    b.reverse[slot[m][i][j]] = slot[m][j][i];
    }
    return b;
}

static void try_products(const Batch *b, int threads)
{
    int64_t H = rand() % 5 ? between(1, 40) : between(90, 128);
    Neighbourhoods n = {b->atoms, b->molecules, b->slots, b->pairs,
                        H,        threads,      b->molecule, b->pair};
    float *g = numbers(n.pairs * H), *dg = numbers(n.pairs * H);

    int64_t C = between(1, 70), slots = n.atoms * n.slots * C, sums = n.atoms * H * C;
    float *x = numbers(slots), *dx = numbers(slots), *A = numbers(sums);
    char *memory = malloc(hpsearch_scratch_bytes(&n, C));
    hpsearch_aggregate(&n, g, x, A, memory, C);
    hpsearch_pull_back(&n, g, x, A, dx, dg, memory, C);
    hpsearch_pull_back(&n, g, x, A, NULL, dg, memory, C);
    hpsearch_pull_back(&n, g, NULL, A, dx, NULL, memory, C);
    free(x), free(dx), free(A), free(memory);

    int64_t D = rand() % 2 ? 1 : 3, U = rand() % 8 ? between(1, 60) : between(60, 500);
    if (H * C >= 16) { /* as slots.py has it */
        Weights w = {D, C, U};
        float *W = numbers(U * H * C), *dW = numbers(U * H * C);
        float *G = numbers(D * n.atoms * U), *out = numbers(D * n.atoms * U);
        x = numbers(D * slots), dx = numbers(D * slots);
        memory = malloc(hpsearch_weights_scratch_bytes(&n, &w));
        hpsearch_convolve(&n, &w, g, x, W, out, memory);
        for (int set = 0; set < 2; set++) {
            hpsearch_convolve_inputs(&n, &w, g, x, W, G, dx, dg, memory, set);
            hpsearch_convolve_inputs(&n, &w, g, x, W, G, NULL, dg, memory, set);
            hpsearch_convolve_inputs(&n, &w, g, NULL, W, G, dx, NULL, memory, set);
        }
        hpsearch_convolve_weights(&n, &w, g, x, G, dW, memory);
        free(x), free(dx), free(W), free(dW), free(G), free(out), free(memory);
    }
    free(g), free(dg);
}

static void try_slots(const Batch *b, int threads)
{
    int most = rand() % 3 ? 70 : 20;
    int64_t S = between(0, most), V = between(0, most), slots = b->atoms * b->slots;
    SlotTable n = {b->atoms, b->slots, b->pairs, S, V, threads, b->pair, b->neighbour, b->reverse,
                   b->direction};
    float *s = numbers(b->atoms * S), *v = numbers(3 * b->atoms * V);
    float *x = numbers(slots * (S + V)), *xi = numbers(9 * slots * V), *m = numbers(slots * V);
    hpsearch_gather(&n, s, v, x, NULL);
    hpsearch_gather(&n, s, v, x, xi);
    hpsearch_scatter(&n, x, NULL, s, v);
    hpsearch_scatter(&n, x, xi, s, v);
    hpsearch_directed_sum(&n, m, v);
    hpsearch_directed(&n, v, m);
    free(s), free(v), free(x), free(xi), free(m);
}

static void try_radial(int threads)
{
    int64_t T = between(1, 20), P = between(0, 300), B = between(1, 100), H = between(1, 120);
    Radial n = {T, P, B, H, {0, threads, 1, 5.0f, 1.3f}};
    float *phi = numbers(P * B), *w = numbers(T * H * B), *dw = numbers(T * H * B);
    float *g = numbers(T * P * H);
    for (int64_t i = 0; i < P * B; i++)
        phi[i] = rand() % B < 2 ? phi[i] : 0;
    int32_t *band = malloc(2 * P * sizeof(int32_t));
    char *memory = malloc(hpsearch_radial_scratch_bytes(&n));
    hpsearch_radial(&n, phi, w, band, g, memory);
    hpsearch_radial_weights(&n, phi, w, band, g, dw, memory);
    Softplus all = {T * P * H, threads, 1, 5.0f, 1.3f};
    hpsearch_softplus(&all, g, g);
    hpsearch_softplus_slope(&all, g, g, g);
    free(phi), free(w), free(dw), free(g), free(band), free(memory);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    srand(atoi(argv[1]));
    for (int i = 0; i < atoi(argv[2]); i++) {
        int threads = between(1, 3);
        Batch b = random_batch();
        try_products(&b, threads);
        try_slots(&b, threads);
        try_radial(threads);
        free(b.molecule), free(b.pair), free(b.neighbour), free(b.reverse), free(b.direction);
    }
    puts("clean");
    return 0;
}
