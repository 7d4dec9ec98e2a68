/* Reads TCP streams for a while and throws the bytes away in the kernel (MSG_TRUNC: no copy to user space).
 *
 *     sink PORT SECONDS [CONNECTIONS WARM_SECONDS [PATH]]
 *
 * Prints the bytes read in SECONDS, after WARM_SECONDS, over all connections, and the fewest that one of them got. With PATH
 * each connection first asks for it by HTTP.
 */
#include "loop.h"
#include <poll.h>
#include <time.h>

enum { CONNECTIONS = 1000, PATIENCE_MS = 5000 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int open_stream(int port, const char *path) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = loopback(port);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    char request[1024];
    int n = path ? snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: bench.localhost\r\n\r\n", path) : 0;
    if (send(fd, request, (size_t)n, 0) != n) die("send");
    return fd;
}

int main(int argc, char **argv) {
    static struct pollfd streams[CONNECTIONS];
    static unsigned long long got[CONNECTIONS];
    int n = argc > 4 ? atoi(argv[3]) : 1;
    if (argc < 3 || n < 1 || n > CONNECTIONS)
        return fprintf(stderr, "usage: sink PORT SECONDS [CONNECTIONS WARM_SECONDS [PATH]]\n"), 2;
    for (int i = 0; i < n; i++)
        streams[i] = (struct pollfd){.fd = open_stream(atoi(argv[1]), argc > 5 ? argv[5] : NULL), .events = POLLIN};
    double begin = now() + (argc > 4 ? atof(argv[4]) : 0), end = begin + atof(argv[2]);
    for (double at; (at = now()) < end;) {
        if (poll(streams, (nfds_t)n, PATIENCE_MS) < 1) die("the streams stopped");
        for (int i = 0; i < n; i++) {
            if (!streams[i].revents) continue;
            ssize_t bytes = recv(streams[i].fd, NULL, 1 << 20, MSG_TRUNC);
            if (bytes <= 0) die("recv: a stream ended");
            if (at >= begin) got[i] += (unsigned long long)bytes;
        }
    }
    unsigned long long total = 0, least = got[0];
    for (int i = 0; i < n; i++) {
        total += got[i];
        least = got[i] < least ? got[i] : least;
    }
    printf("%llu %llu\n", total, least);
    return 0;
}
