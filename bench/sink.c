/* Reads one TCP stream for a while and throws the bytes away in the kernel (MSG_TRUNC: no copy to user space).
 *
 *     sink PORT SECONDS        prints the bytes read
 */
#include "loop.h"
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: sink PORT SECONDS\n"), 2;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = loopback(atoi(argv[1]));
    struct timeval patience = {.tv_sec = 5};
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    double end = now() + atof(argv[2]);
    unsigned long long total = 0;
    while (now() < end) {
        ssize_t n = recv(fd, NULL, 1 << 20, MSG_TRUNC);
        if (n <= 0) die("recv: the stream stopped");
        total += (unsigned long long)n;
    }
    printf("%llu\n", total);
    return 0;
}
