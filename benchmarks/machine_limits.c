/* What this machine can do at most: FMA rate and read bandwidth.
 *
 *     machine_limits CPU[,CPU...] fma MILLISECONDS
 *     machine_limits CPU[,CPU...] read MILLISECONDS BYTES_PER_THREAD...
 *
 * One thread runs on each CPU listed, pinned to it. Prints GFLOP/s (float32, an FMA counted as two)
 * or, for each size, GB/s: all threads together, in the fastest of ROUNDS rounds of about the given
 * length. A round starts when all threads are ready and ends when the last one is done. Each thread
 * reads memory of its own again and again, which stays in the cache that it fits into.
 *
 * Vectors are as wide as the CPU's that it is compiled for (-march=native). Compile with
 * -ffp-contract=fast and without -ffast-math: then the sums cannot be reordered or left out.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define LANES (VECTOR_BYTES / 4)

/* Independent sums: more than FMA latency times FMA units, fewer than registers. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define SUMS 24
#else
#define SUMS 12
#endif
#define READS 8 /* vectors added in one iteration, each to a sum of its own */

enum { ROUNDS = 5, MOST_CPUS = 1024, HUGE_PAGE = 2 << 20 };

typedef float vector __attribute__((vector_size(VECTOR_BYTES)));

struct worker {
    int cpu;
    size_t bytes; /* read by each thread; 0: FMA */
    double target_s;
    double work; /* floating-point operations, or bytes, of one round */
    float *memory;
    struct job *job;
};

struct job {
    pthread_barrier_t barrier;
    int threads;
    struct worker *workers;
    long repeats;
    double best; /* GFLOP/s or GB/s */
};

static volatile float sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void keep(vector v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    sink = total;
}

static void multiply_add(long repeats) {
    vector sums[SUMS], x, y;
    for (int i = 0; i < LANES; i++) x[i] = 0.999f, y[i] = 1e-3f;
    for (int k = 0; k < SUMS; k++) sums[k] = y * (float)k;
    for (long r = 0; r < repeats; r++)
#pragma GCC unroll 64
        for (int k = 0; k < SUMS; k++) sums[k] = sums[k] * x + y;
    for (int k = 1; k < SUMS; k++) sums[0] += sums[k];
    keep(sums[0]);
}

static void read_all(const float *memory, size_t bytes, long repeats) {
    const vector *p = (const vector *)memory;
    size_t count = bytes / VECTOR_BYTES / READS * READS;
    vector sums[READS] = {0};
    for (long r = 0; r < repeats; r++) {
        for (size_t i = 0; i < count; i += READS)
#pragma GCC unroll 64
            for (int k = 0; k < READS; k++) sums[k] += p[i + k];
        __asm__ volatile("" ::"r"(p) : "memory"); /* or the repeats might be merged */
    }
    for (int k = 1; k < READS; k++) sums[0] += sums[k];
    keep(sums[0]);
}

static void round_of(const struct worker *w, long repeats) {
    if (w->bytes) read_all(w->memory, w->bytes, repeats);
    else multiply_add(repeats);
}

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) {
        perror("sched_setaffinity");
        exit(1);
    }
}

static void allocate(struct worker *w) {
    size_t size = (w->bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    w->memory = aligned_alloc(HUGE_PAGE, size);
    if (!w->memory) {
        perror("aligned_alloc");
        exit(1);
    }
    madvise(w->memory, size, MADV_HUGEPAGE); /* only a wish */
    memset(w->memory, 0, size);
}

/* The number of repeats that takes about the target, found by doubling (this warms up, too). */
static long calibrate(const struct worker *w) {
    for (long repeats = 1;; repeats *= 2) {
        double start = now();
        round_of(w, repeats);
        double elapsed = now() - start;
        if (elapsed > w->target_s / 4) {
            long scaled = (long)(repeats * w->target_s / elapsed);
            return scaled > 0 ? scaled : 1;
        }
    }
}

static void *run(void *argument) {
    struct worker *w = argument;
    struct job *job = w->job;
    int first = w == job->workers;
    pin(w->cpu);
    if (w->bytes) allocate(w);
    if (first) job->repeats = calibrate(w);
    pthread_barrier_wait(&job->barrier);
    round_of(w, w->bytes ? 1 : job->repeats / 4);
    for (int i = 0; i < ROUNDS; i++) {
        pthread_barrier_wait(&job->barrier);
        double start = now();
        round_of(w, job->repeats);
        pthread_barrier_wait(&job->barrier);
        double rate = job->threads * w->work * job->repeats / (now() - start) / 1e9;
        if (first && rate > job->best) job->best = rate;
    }
    free(w->memory);
    return NULL;
}

static double measure(const int *cpus, int threads, size_t bytes, double target_s) {
    struct worker workers[MOST_CPUS];
    pthread_t ids[MOST_CPUS];
    struct job job = {.threads = threads, .workers = workers};
    double work = bytes ? (double)(bytes / VECTOR_BYTES / READS * READS * VECTOR_BYTES)
                        : (double)SUMS * LANES * 2;
    pthread_barrier_init(&job.barrier, NULL, threads);
    for (int i = 0; i < threads; i++)
        workers[i] = (struct worker){cpus[i], bytes, target_s, work, NULL, &job};
    for (int i = 0; i < threads; i++)
        if (pthread_create(ids + i, NULL, run, workers + i)) {
            perror("pthread_create");
            exit(1);
        }
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    pthread_barrier_destroy(&job.barrier);
    return job.best;
}

int main(int count, char **arguments) {
    int cpus[MOST_CPUS], threads = 0;
    if (count < 4) {
        fprintf(stderr, "usage: machine_limits CPU[,CPU...] fma|read MILLISECONDS [BYTES...]\n");
        return 2;
    }
    for (char *cpu = strtok(arguments[1], ","); cpu && threads < MOST_CPUS;
         cpu = strtok(NULL, ","))
        cpus[threads++] = atoi(cpu);
    double target_s = atof(arguments[3]) / 1e3;
    if (!strcmp(arguments[2], "fma")) printf("%.3f\n", measure(cpus, threads, 0, target_s));
    for (int i = 4; i < count; i++) {
        size_t bytes = strtoull(arguments[i], NULL, 10);
        if (bytes < READS * VECTOR_BYTES) {
            fprintf(stderr, "%s bytes are too few\n", arguments[i]);
            return 2;
        }
        printf("%.3f\n", measure(cpus, threads, bytes, target_s));
        fflush(stdout);
    }
    return 0;
}
