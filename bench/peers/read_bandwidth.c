/* Bytes that threads read from memory per second: read_bandwidth [THREADS], one JSON line.
 *
 * 512 MiB, each thread its own part, touched by the thread that reads it; the best and the median of
 * 9 passes. The sum is used, so the loads cannot be left out. Any processor: the compiler's vectors. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PASSES = 9 };
static const size_t TOTAL = (size_t)512 << 20;

typedef struct {
  uint64_t *words;
  size_t count;
  uint64_t sum;
} Part;

static pthread_barrier_t barrier;
static volatile uint64_t sink;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

typedef uint64_t Vector __attribute__((vector_size(64)));

/* Four independent sums, so that loads, not one chain, set the pace. */
#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t read_all(const Vector *from, size_t count) {
  Vector a = {0}, b = {0}, c = {0}, d = {0};
  for (size_t i = 0; i + 4 <= count; i += 4) {
    a ^= from[i];
    b ^= from[i + 1];
    c ^= from[i + 2];
    d ^= from[i + 3];
  }
  a ^= b ^ c ^ d;
  return a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
}

static void *work(void *argument) {
  Part *part = argument;
  for (size_t i = 0; i < part->count; i++) part->words[i] = i * 0x9E3779B97F4A7C15u;
  for (int pass = 0; pass < PASSES; pass++) {
    pthread_barrier_wait(&barrier);
    part->sum ^= read_all((const Vector *)part->words, part->count / 8);
    pthread_barrier_wait(&barrier);
  }
  return NULL;
}

static int rising(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 1;
  if (threads < 1 || threads > 256) {
    fprintf(stderr, "read_bandwidth: THREADS is a number from 1 to 256\n");
    return 2;
  }
  size_t count = TOTAL / sizeof(uint64_t) / threads;
  Part *parts = calloc(threads, sizeof *parts);
  pthread_t *ids = calloc(threads, sizeof *ids);
  pthread_barrier_init(&barrier, NULL, threads + 1);
  for (int t = 0; t < threads; t++) {
    parts[t].count = count;
    parts[t].words = aligned_alloc(4096, count * sizeof(uint64_t) / 4096 * 4096 + 4096);
    if (!parts[t].words || pthread_create(&ids[t], NULL, work, &parts[t])) {
      fprintf(stderr, "read_bandwidth: no memory or no thread\n");
      return 2;
    }
  }
  double rates[PASSES];
  for (int pass = 0; pass < PASSES; pass++) {
    pthread_barrier_wait(&barrier);
    double start = now();
    pthread_barrier_wait(&barrier);
    rates[pass] = (double)count * sizeof(uint64_t) * threads / (now() - start) / 1e9;
  }
  for (int t = 0; t < threads; t++) {
    pthread_join(ids[t], NULL);
    sink ^= parts[t].sum;
  }
  qsort(rates, PASSES, sizeof *rates, rising);
  printf("{\"threads\": %d, \"read_gbps\": %.2f, \"best_gbps\": %.2f}\n", threads, rates[PASSES / 2], rates[PASSES - 1]);
  return 0;
}
