/* Measures what one machine can do at most: reading memory, and fp32 multiply-adds in registers.
   Usage: limits THREADS. Prints JSON: bytes_per_second, flops. Best of several rounds: a limit is what was ever reached.
   Refuses to know any workload. */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef float half_vec __attribute__((vector_size(8 * sizeof(float))));
typedef uint64_t words __attribute__((vector_size(64)));

enum { ROUNDS = 9, FMA_LOOPS = 8 * 1000 * 1000, ACCUMULATORS = 12, AHEAD = 32 };
static const size_t BYTES = (size_t)1 << 30;

static pthread_barrier_t barrier;
static int n_threads;
static char *memory;
static volatile uint64_t sink_words;
static volatile float sink_floats;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void read_memory(int thread) {
    size_t share = BYTES / (size_t)n_threads / 4096 * 4096;
    const words *from = (const words *)(memory + share * (size_t)thread);
    words a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i < share / sizeof(words); i += 4) {
        for (size_t line = 0; line < 4; line++) __builtin_prefetch(from + i + AHEAD + line);
        a ^= from[i];
        b ^= from[i + 1];
        c ^= from[i + 2];
        d ^= from[i + 3];
    }
    words all = a ^ b ^ c ^ d;
    sink_words += all[0] ^ all[7];
}

/* Twelve independent chains hide the latency of the multiply-add; named variables stay in registers, arrays do not. */
#define CHAINS(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define START(i) s##i = zero + (float)(thread + i);
#define STEP(i) s##i = s##i * scale + shift;
#define KEEP(i) total += s##i;
#define FMA_LOOP(name, type)                                                                                           \
    static void name(int thread) {                                                                                     \
        type zero = {0}, scale = zero + 0.999f, shift = zero + 0.001f, total = zero;                                   \
        type s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11;                                                         \
        CHAINS(START)                                                                                                  \
        for (long loop = 0; loop < FMA_LOOPS; loop++) {                                                                \
            CHAINS(STEP)                                                                                               \
        }                                                                                                              \
        CHAINS(KEEP)                                                                                                   \
        sink_floats += total[0];                                                                                       \
    }

FMA_LOOP(multiply_add, vec)
#if LANES == 16
/* Wide registers may lower the clock: the narrower ones get their chance. */
FMA_LOOP(multiply_add_half, half_vec)
#endif

struct job {
    int thread;
    void (*work)(int);
    double best;
};

static void *run(void *given) {
    struct job *job = given;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(&barrier);
        double start = now();
        job->work(job->thread);
        pthread_barrier_wait(&barrier);
        double took = now() - start;
        if (round == 0 || took < job->best) job->best = took;
    }
    return NULL;
}

static double best_seconds(void (*work)(int)) {
    pthread_t threads[1024];
    struct job jobs[1024];
    pthread_barrier_init(&barrier, NULL, (unsigned)n_threads);
    for (int i = 0; i < n_threads; i++) {
        jobs[i] = (struct job){i, work, 0};
        pthread_create(&threads[i], NULL, run, &jobs[i]);
    }
    for (int i = 0; i < n_threads; i++) pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    return jobs[0].best;
}

int main(int argc, char **argv) {
    n_threads = argc > 1 ? atoi(argv[1]) : 1;
    if (n_threads < 1 || n_threads > 1024) return 2;
    if (posix_memalign((void **)&memory, (size_t)1 << 21, BYTES) != 0) return 3;
#ifdef MADV_HUGEPAGE
    /* Engines read weights from large pages where they can. */
    madvise(memory, BYTES, MADV_HUGEPAGE);
#endif
    memset(memory, 1, BYTES);
    double work = 2.0 * ACCUMULATORS * (double)FMA_LOOPS * n_threads;
    double flops = work * LANES / best_seconds(multiply_add);
#if LANES == 16
    double half = work * 8 / best_seconds(multiply_add_half);
    if (half > flops) flops = half;
#endif
    double bytes = (double)BYTES / best_seconds(read_memory);
    printf("{\"bytes_per_second\": %.4g, \"flops\": %.4g}\n", bytes, flops);
    return 0;
}
