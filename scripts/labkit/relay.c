/* The wire of a lab, as relay.py, in C: for measurements, where the wire must not be what is measured.
 *
 *     relay PORTS DELAY_US LOSS_PER_MILLION BYTES_A_SECOND QUEUE_US BURST EVERY SEED
 *
 * A learning switch between the ports v1..vN of this namespace: packet sockets (packet(7)), one ring of frames for each
 * port's way out. A frame is dropped with the given chance, or when it is among the first BURST of EVERY frames that
 * came in by its port; what finds neighbours is spared. Then it takes its place behind those before it at the rate (none:
 * 0), is dropped when that is more than QUEUE_US away, and leaves DELAY_US after. Times are those at which the kernel saw the
 * frame, and the relay runs before anything else (SCHED_FIFO), so that a busy machine makes no losses of its own. It ends
 * when standard input closes.
 *
 * A byte there is answered by a line, figures since the last such line: for each port in turn, of what came in by it,
 * frames, of these dropped by chance (or in a burst), and by a full queue; and at last frames that the kernel dropped
 * before they were seen here or did not take on their way out, and microseconds by which a frame left late at most. The
 * last two tell whether the relay itself was too slow. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORTS 16
#define SLOTS 16384 /* of each way out */
#define FRAME 2048
#define LEARNED 64
#define IGNORE_OUTGOING 23 /* PACKET_IGNORE_OUTGOING */

struct out {
    unsigned char *frames;
    int length[SLOTS];
    long due[SLOTS];
    unsigned head, tail;
    long free_at;
};

static struct out outs[PORTS];
static int sockets[PORTS];
static unsigned long chance[PORTS], count[PORTS];
static unsigned long frames[PORTS], by_chance[PORTS], by_queue[PORTS];
static unsigned long refused;
static long latest;
static struct { unsigned char address[6]; int port; } learned[LEARNED];
static int known;

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static unsigned draw(int port) { /* xorshift64 */
    unsigned long x = chance[port];
    x ^= x << 13; x ^= x >> 7; x ^= x << 17;
    chance[port] = x;
    return (unsigned)(x >> 32) % 1000000u;
}

static int finds_neighbours(const unsigned char *frame, int size) {
    if (frame[12] == 0x08 && frame[13] == 0x06) return 1;
    if (frame[12] != 0x86 || frame[13] != 0xdd || size <= 54) return 0;
    return frame[20] == 0 || (frame[20] == 58 && frame[54] >= 133 && frame[54] <= 137);
}

static int port_of(const unsigned char *address) {
    for (int i = 0; i < known; i++)
        if (!memcmp(learned[i].address, address, 6)) return learned[i].port;
    return -1;
}

static void learn(const unsigned char *address, int port) {
    for (int i = 0; i < known; i++)
        if (!memcmp(learned[i].address, address, 6)) { learned[i].port = port; return; }
    if (known < LEARNED) {
        memcpy(learned[known].address, address, 6);
        learned[known++].port = port;
    }
}

/* One frame, and when it came; CLOCK_REALTIME, as the kernel stamps it. */
static int receive(int from, unsigned char *frame, size_t room, long *at) {
    char control[64];
    struct iovec vector = {frame, room};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int size = (int)recvmsg(from, &message, 0);
    *at = now();
    for (struct cmsghdr *c = size > 0 ? CMSG_FIRSTHDR(&message) : NULL; c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(c), sizeof t);
            *at = t.tv_sec * 1000000000L + t.tv_nsec;
        }
    return size;
}

static int enqueue(struct out *out, const unsigned char *frame, int size, long t, long delay, double rate, long queue) {
    if (out->head - out->tail >= SLOTS) return 0;
    long due = t;
    if (rate > 0) {
        if (out->free_at < t) out->free_at = t;
        if (out->free_at - t > queue) return 0;
        out->free_at += (long)(size * 1e9 / rate);
        due = out->free_at;
    }
    unsigned slot = out->head++ % SLOTS;
    memcpy(out->frames + (long)slot * FRAME, frame, (size_t)size);
    out->length[slot] = size;
    out->due[slot] = due + delay;
    return 1;
}

static void tell(int ports) {
    unsigned long unseen = 0;
    for (int i = 0; i < ports; i++) {
        struct tpacket_stats stats;
        socklen_t room = sizeof stats;
        if (!getsockopt(sockets[i], SOL_PACKET, PACKET_STATISTICS, &stats, &room)) unseen += stats.tp_drops;
        printf("%lu %lu %lu ", frames[i], by_chance[i], by_queue[i]);
        frames[i] = by_chance[i] = by_queue[i] = 0;
    }
    printf("%lu %ld\n", unseen + refused, latest / 1000);
    fflush(stdout);
    refused = 0;
    latest = 0;
}

int main(int argc, char **argv) {
    if (argc != 9) return 2;
    int ports = atoi(argv[1]);
    long delay = atol(argv[2]) * 1000, queue = atol(argv[5]) * 1000;
    unsigned loss = (unsigned)atol(argv[3]);
    double rate = atof(argv[4]);
    unsigned long burst = strtoul(argv[6], NULL, 10), every = strtoul(argv[7], NULL, 10);
    struct pollfd poll_for[PORTS + 1];
    if (ports < 1 || ports > PORTS) return 2;
    for (int i = 0; i < ports; i++) {
        char name[IFNAMSIZ];
        int one = 1, room = 32 << 20;
        snprintf(name, sizeof name, "v%d", i + 1);
        int s = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL));
        struct sockaddr_ll address = {
            .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(name)};
        setsockopt(s, SOL_PACKET, IGNORE_OUTGOING, &one, sizeof one);
        setsockopt(s, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
        setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
        setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
        if (bind(s, (struct sockaddr *)&address, sizeof address)) { perror(name); return 1; }
        sockets[i] = s;
        chance[i] = (88172645463325252UL + 7919UL * strtoul(argv[8], NULL, 10)) * (unsigned long)(2 * i + 3) | 1;
        for (int k = 0; k < 32; k++) draw(i);
        outs[i].frames = malloc((size_t)SLOTS * FRAME);
        poll_for[i] = (struct pollfd){s, POLLIN, 0};
    }
    poll_for[ports] = (struct pollfd){0, POLLIN, 0};
    struct sched_param first = {.sched_priority = 2};
    sched_setscheduler(0, SCHED_FIFO, &first);
    puts("ready");
    fflush(stdout);
    for (unsigned turns = 0;;) {
        long next = now() + 100000000L;
        int busy = 0;
        for (int i = 0; i < ports; i++) {
            for (int k = 0; k < 64; k++) {
                unsigned char frame[FRAME];
                long t;
                int size = receive(sockets[i], frame, sizeof frame, &t);
                if (size < 14) break;
                busy = 1;
                learn(frame + 6, i);
                frames[i]++;
                if (!finds_neighbours(frame, size) &&
                    ((every && count[i]++ % every < burst) || (loss && draw(i) < loss))) {
                    by_chance[i]++;
                    continue;
                }
                int to = port_of(frame);
                for (int out = 0; out < ports; out++)
                    if (out != i && (to == out || to < 0) &&
                        !enqueue(&outs[out], frame, size, t, delay, rate, queue))
                        by_queue[i]++;
            }
            struct out *out = &outs[i];
            while (out->tail != out->head) {
                unsigned slot = out->tail % SLOTS;
                long late = now() - out->due[slot];
                if (late < 0) {
                    if (out->due[slot] < next) next = out->due[slot];
                    break;
                }
                if (late > latest) latest = late;
                /* what the interface does not take is lost, as on a wire */
                if (send(sockets[i], out->frames + (long)slot * FRAME, (size_t)out->length[slot], 0) >= 0) busy = 1;
                else refused++;
                out->tail++;
            }
        }
        if (busy && ++turns % 256) continue;
        long pause = next - now();
        if (busy) pause = 0;
        if (pause >= 0) {
            struct timespec for_long = {pause / 1000000000L, pause % 1000000000L};
            ppoll(poll_for, (nfds_t)ports + 1, &for_long, NULL);
        }
        char asked[16];
        if (poll_for[ports].revents) {
            if (read(0, asked, sizeof asked) <= 0) return 0;
            tell(ports);
        }
        poll_for[ports].revents = 0;
    }
}
