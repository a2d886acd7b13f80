/* wire: joins two network namespaces by a point-to-point link of chosen quality, in user space.
 *
 * For kernels without a delay qdisc. Each namespace gets a TUN device "wire0"; what is read from one is written to the
 * other after delay and jitter, unless it is lost, or the queue in front of the bottleneck is full (drop-tail).
 * Order is kept, but for packets that are late. SIGUSR1 cuts the link and joins it again.
 *
 * usage: wire NETNS_A NETNS_B SEED FILE
 * FILE has two lines, for the direction from A to B and for the other one, of the same numbers:
 *   DELAY_US LOSS_PPM RATE_KBIT JITTER_US QUEUE_BYTES LARGEST LATE_PPM TWICE_PPM     (RATE_KBIT 0: no limit)
 * Of all packets LATE_PPM are overtaken by those of the next LATE_NS, TWICE_PPM arrive twice. SIGHUP has FILE read anew.
 * Prints "ready" when both ends are up, and "read" when FILE was; the addresses are 10.99.0.1 and 10.99.0.2.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 1 << 17, MTU = 1500, BATCH = 128, LATE = 256, LATE_NS = 20000000 };

struct slot {
  uint64_t leaves_wire_ns; /* when the bottleneck has sent it: until then it stands in the queue */
  uint64_t arrives_ns;
  uint16_t size;
  unsigned char bytes[MTU + 4];
};

struct quality {
  uint64_t delay_ns, loss_ppm, rate_kbit, jitter_ns, queue_bytes, largest, late_ppm, twice_ppm;
};

struct direction {
  struct quality quality;
  struct slot *ring;
  struct slot late[LATE]; /* those that others overtake, in no order; of size 0 where none is */
  uint64_t head, tail; /* next to deliver, next to fill */
  uint64_t standing;   /* first slot that still stands in the queue */
  uint64_t queued_bytes, wire_free_ns, last_arrival_ns;
  uint64_t carried, lost, overflowed;
};

static uint64_t seed;
static volatile sig_atomic_t is_cut, ended, is_changed = 1;

static void toggle(int number) { (void)number; is_cut = !is_cut; }
static void end(int number) { (void)number; ended = 1; }
static void change(int number) { (void)number; is_changed = 1; }

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* splitmix64: repeatable for a seed, and good enough for dice */
static uint64_t draw(void) {
  uint64_t z = (seed += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void read_qualities(const char *path, struct direction *directions) {
  FILE *file = fopen(path, "r");
  if (!file) fail(path);
  for (int i = 0; i < 2; i++) {
    unsigned long long n[8];
    for (int k = 0; k < 8; k++)
      if (fscanf(file, "%llu", &n[k]) != 1) fail("not eight numbers");
    directions[i].quality = (struct quality){.delay_ns = n[0] * 1000, .loss_ppm = n[1], .rate_kbit = n[2],
        .jitter_ns = n[3] * 1000, .queue_bytes = n[4], .largest = n[5], .late_ppm = n[6], .twice_ppm = n[7]};
  }
  fclose(file);
}

static int open_end(const char *netns, const char *address) {
  char path[256], command[256];
  snprintf(path, sizeof path, "/run/netns/%s", netns);
  int namespace = open(path, O_RDONLY | O_CLOEXEC);
  if (namespace < 0 || setns(namespace, CLONE_NEWNET)) fail(path);
  close(namespace);
  int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
  strcpy(request.ifr_name, "wire0");
  if (tun < 0 || ioctl(tun, TUNSETIFF, &request)) fail("/dev/net/tun");
  snprintf(command, sizeof command,
           "ip link set lo up && ip address add %s/24 dev wire0 && ip link set wire0 mtu %d txqueuelen 20000 up",
           address, MTU);
  if (system(command)) fail("ip");
  return tun;
}

static void advance_queue(struct direction *d, uint64_t now) {
  while (d->standing < d->tail && d->ring[d->standing % SLOTS].leaves_wire_ns <= now)
    d->queued_bytes -= d->ring[d->standing++ % SLOTS].size;
}

/* Puts a packet aside to come later; whether there was room. */
static int put_aside(struct direction *d, const struct slot *slot) {
  for (int i = 0; i < LATE; i++)
    if (!d->late[i].size) {
      d->late[i] = *slot;
      d->late[i].arrives_ns += LATE_NS;
      return 1;
    }
  return 0;
}

static void repeat(struct direction *d, const struct slot *slot) {
  if (d->tail - d->head >= SLOTS) return;
  struct slot *copy = &d->ring[d->tail++ % SLOTS];
  *copy = *slot;
  d->queued_bytes += copy->size;
}

static void take_in(struct direction *d, int from) {
  const struct quality *q = &d->quality;
  for (int i = 0; i < BATCH; i++) {
    struct slot *slot = &d->ring[d->tail % SLOTS];
    unsigned char spill[MTU + 4];
    int full = d->tail - d->head >= SLOTS;
    ssize_t size = read(from, full ? spill : slot->bytes, MTU + 4);
    if (size <= 0) return;
    uint64_t now = now_ns();
    advance_queue(d, now);
    if (is_cut || (uint64_t)size > q->largest || draw() % 1000000 < q->loss_ppm) {
      d->lost++;
      continue;
    }
    if (full || d->queued_bytes + (uint64_t)size > q->queue_bytes) {
      d->overflowed++;
      continue;
    }
    uint64_t begins = d->wire_free_ns > now ? d->wire_free_ns : now;
    slot->leaves_wire_ns = q->rate_kbit ? begins + (uint64_t)size * 8000000u / q->rate_kbit : now;
    d->wire_free_ns = slot->leaves_wire_ns;
    slot->arrives_ns = slot->leaves_wire_ns + q->delay_ns + (q->jitter_ns ? draw() % q->jitter_ns : 0);
    if (slot->arrives_ns < d->last_arrival_ns) slot->arrives_ns = d->last_arrival_ns;
    d->last_arrival_ns = slot->arrives_ns;
    slot->size = (uint16_t)size;
    if (draw() % 1000000 < q->late_ppm && put_aside(d, slot)) continue;
    d->queued_bytes += (uint64_t)size;
    d->tail++;
    if (draw() % 1000000 < q->twice_ppm) repeat(d, slot);
  }
}

static void give_out(struct direction *d, int to, uint64_t now) {
  advance_queue(d, now);
  for (int i = 0; i < LATE; i++)
    if (d->late[i].size && d->late[i].arrives_ns <= now) {
      if (write(to, d->late[i].bytes, d->late[i].size) < 0 && errno == EAGAIN) return;
      d->late[i].size = 0;
      d->carried++;
    }
  for (; d->head < d->standing && d->ring[d->head % SLOTS].arrives_ns <= now; d->head++) {
    struct slot *slot = &d->ring[d->head % SLOTS];
    if (write(to, slot->bytes, slot->size) < 0 && errno == EAGAIN) return;
    d->carried++;
  }
}

static uint64_t next_arrival(const struct direction *d) {
  uint64_t next = d->head < d->tail ? d->ring[d->head % SLOTS].arrives_ns : UINT64_MAX;
  for (int i = 0; i < LATE; i++)
    if (d->late[i].size && d->late[i].arrives_ns < next) next = d->late[i].arrives_ns;
  return next;
}

int main(int count, char **words) {
  if (count != 5) {
    fprintf(stderr, "usage: wire NETNS_A NETNS_B SEED FILE\n");
    return 2;
  }
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  seed = strtoull(words[3], NULL, 10);
  int ends[2] = {open_end(words[1], "10.99.0.1"), open_end(words[2], "10.99.0.2")};
  static struct direction directions[2];
  for (int i = 0; i < 2; i++)
    if (!(directions[i].ring = malloc(sizeof(struct slot) * SLOTS))) fail("malloc");
  signal(SIGUSR1, toggle);
  signal(SIGHUP, change);
  signal(SIGTERM, end);
  signal(SIGINT, end);
  puts("ready");
  while (!ended) {
    if (is_changed) {
      is_changed = 0;
      read_qualities(words[4], directions);
      puts("read");
      fflush(stdout);
    }
    uint64_t now = now_ns(), next = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
      give_out(&directions[i], ends[1 - i], now);
      uint64_t arrival = next_arrival(&directions[i]);
      if (arrival < next) next = arrival;
    }
    uint64_t wait_ns = next == UINT64_MAX ? 1000000000u : next > now ? next - now : 0;
    struct timespec wait = {.tv_sec = (time_t)(wait_ns / 1000000000u), .tv_nsec = (long)(wait_ns % 1000000000u)};
    struct pollfd polls[2] = {{.fd = ends[0], .events = POLLIN}, {.fd = ends[1], .events = POLLIN}};
    if (ppoll(polls, 2, &wait, NULL) > 0)
      for (int i = 0; i < 2; i++)
        if (polls[i].revents & POLLIN) take_in(&directions[i], ends[i]);
  }
  for (int i = 0; i < 2; i++)
    fprintf(stderr, "%s: carried %llu, lost %llu, overflowed %llu\n", i ? "b to a" : "a to b",
            (unsigned long long)directions[i].carried, (unsigned long long)directions[i].lost,
            (unsigned long long)directions[i].overflowed);
  return 0;
}
