/* wire: joins two network namespaces by a point-to-point link of chosen quality, in user space.
 *
 * For kernels without a delay qdisc. Each namespace gets a TUN device "wire0"; what is read from one is written to the
 * other after delay and jitter, unless it is lost, or the queue in front of the bottleneck is full (drop-tail).
 * Order is kept. SIGUSR1 cuts the link and joins it again.
 *
 * usage: wire NETNS_A NETNS_B DELAY_US LOSS_PPM RATE_KBIT JITTER_US QUEUE_BYTES SEED LARGEST     (RATE_KBIT 0: no limit)
 * Prints "ready" when both ends are up; the addresses are 10.99.0.1 and 10.99.0.2.
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

enum { SLOTS = 1 << 17, MTU = 1500, BATCH = 128 };

struct slot {
  uint64_t leaves_wire_ns; /* when the bottleneck has sent it: until then it stands in the queue */
  uint64_t arrives_ns;
  uint16_t size;
  unsigned char bytes[MTU + 4];
};

struct direction {
  struct slot *ring;
  uint64_t head, tail; /* next to deliver, next to fill */
  uint64_t standing;   /* first slot that still stands in the queue */
  uint64_t queued_bytes, wire_free_ns, last_arrival_ns;
  uint64_t carried, lost, overflowed;
};

static uint64_t delay_ns, jitter_ns, loss_ppm, rate_kbit, queue_bytes, seed, largest;
static volatile sig_atomic_t is_cut, ended;

static void toggle(int number) { (void)number; is_cut = !is_cut; }
static void end(int number) { (void)number; ended = 1; }

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

static void take_in(struct direction *d, int from) {
  for (int i = 0; i < BATCH; i++) {
    struct slot *slot = &d->ring[d->tail % SLOTS];
    unsigned char spill[MTU + 4];
    int full = d->tail - d->head >= SLOTS;
    ssize_t size = read(from, full ? spill : slot->bytes, MTU + 4);
    if (size <= 0) return;
    uint64_t now = now_ns();
    advance_queue(d, now);
    if (is_cut || (uint64_t)size > largest || draw() % 1000000 < loss_ppm) {
      d->lost++;
      continue;
    }
    if (full || d->queued_bytes + (uint64_t)size > queue_bytes) {
      d->overflowed++;
      continue;
    }
    uint64_t begins = d->wire_free_ns > now ? d->wire_free_ns : now;
    slot->leaves_wire_ns = rate_kbit ? begins + (uint64_t)size * 8000000u / rate_kbit : now;
    d->wire_free_ns = slot->leaves_wire_ns;
    slot->arrives_ns = slot->leaves_wire_ns + delay_ns + (jitter_ns ? draw() % jitter_ns : 0);
    if (slot->arrives_ns < d->last_arrival_ns) slot->arrives_ns = d->last_arrival_ns;
    d->last_arrival_ns = slot->arrives_ns;
    slot->size = (uint16_t)size;
    d->queued_bytes += (uint64_t)size;
    d->tail++;
  }
}

static void give_out(struct direction *d, int to, uint64_t now) {
  advance_queue(d, now);
  for (; d->head < d->standing && d->ring[d->head % SLOTS].arrives_ns <= now; d->head++) {
    struct slot *slot = &d->ring[d->head % SLOTS];
    if (write(to, slot->bytes, slot->size) < 0 && errno == EAGAIN) return;
    d->carried++;
  }
}

static uint64_t next_arrival(const struct direction *d) {
  return d->head < d->tail ? d->ring[d->head % SLOTS].arrives_ns : UINT64_MAX;
}

int main(int count, char **words) {
  if (count != 10) {
    fprintf(stderr, "usage: wire NETNS_A NETNS_B DELAY_US LOSS_PPM RATE_KBIT JITTER_US QUEUE_BYTES SEED LARGEST\n");
    return 2;
  }
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  delay_ns = strtoull(words[3], NULL, 10) * 1000;
  loss_ppm = strtoull(words[4], NULL, 10);
  rate_kbit = strtoull(words[5], NULL, 10);
  jitter_ns = strtoull(words[6], NULL, 10) * 1000;
  queue_bytes = strtoull(words[7], NULL, 10);
  seed = strtoull(words[8], NULL, 10);
  largest = strtoull(words[9], NULL, 10);
  int ends[2] = {open_end(words[1], "10.99.0.1"), open_end(words[2], "10.99.0.2")};
  struct direction directions[2] = {{0}, {0}};
  for (int i = 0; i < 2; i++)
    if (!(directions[i].ring = malloc(sizeof(struct slot) * SLOTS))) fail("malloc");
  signal(SIGUSR1, toggle);
  signal(SIGTERM, end);
  signal(SIGINT, end);
  puts("ready");
  fflush(stdout);
  while (!ended) {
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
