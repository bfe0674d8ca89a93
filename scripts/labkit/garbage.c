/* Sends garbage to a UDP port at a steady rate: garbage TARGET PORT RATE SECONDS SESSION SEED. For scripts/measure flood.

   SESSION (hexadecimal, 0: none) is put before three of four datagrams, so that the receiver has to try its key. Sizes
   are those of real traffic. Prints how many were sent. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static uint64_t state;

static uint64_t next(void) { /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    static const int sizes[] = {29, 60, 128, 300, 700, 1238, 1400};
    unsigned char data[1400];
    if (argc != 7) return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    uint32_t session = htonl(strtoul(argv[5], NULL, 16));
    state = strtoull(argv[6], NULL, 10) * 2 + 1;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) return 1;
    double begin = now(), due = begin;
    long sent = 0;
    while (now() - begin < seconds) {
        double wait = due - now();
        if (wait > 0) {
            struct timespec t = {0, (long)(wait * 1e9)};
            nanosleep(&t, NULL);
        }
        due += 10 / rate; /* ten at a time */
        for (int k = 0; k < 10; k++) {
            int size = sizes[next() % 7];
            for (int at = 0; at < size; at += 8) {
                uint64_t word = next();
                memcpy(data + at, &word, size - at < 8 ? size - at : 8);
            }
            if (session && next() % 4) {
                memcpy(data, &session, 4);
                memset(data + 4, 0, 4); /* a counter that may be */
            }
            sent += sendto(fd, data, size, 0, (struct sockaddr *)&to, sizeof to) == size;
        }
    }
    printf("%ld\n", sent);
    return 0;
}
