/* The floor: an epoll relay that parses nothing. Every client connection gets an upstream connection of its own and bytes
 * go both ways, by recv and send ("copy") or by splice through a pipe ("splice").
 *
 *     relay copy|splice LISTEN_PORT:UPSTREAM_PORT ...
 */
#include "loop.h"

enum { CHUNK = 64 * 1024, PIPE = 256 * 1024, BATCH = 256, PAIRS = 4 };

struct side { /* one socket; `peer` is the other one of the pair */
    struct side *peer;
    int fd;
    int pipe[2];       /* splice: bytes from this side on their way to the peer; -1 until first used */
    size_t piped;
    char *rest;        /* copy: bytes from this side that the peer did not take yet */
    size_t rest_n, rest_at;
    bool readable, hung_up, ended, dead;
};

struct listener { int fd; struct sockaddr_in upstream; };

static struct listener listeners[PAIRS];
static int epoll_fd;
static bool use_splice;
static char scratch[CHUNK];
static struct side *graves[BATCH * 2];
static int ngraves;

static struct side *side_new(int fd) {
    struct side *side = calloc(1, sizeof *side);
    side->fd = fd;
    side->pipe[0] = side->pipe[1] = -1;
    no_delay(fd);
    return side;
}

static void bury(struct side *side) { /* freed after the batch: later events of it may still point here */
    if (side->dead) return;
    for (int i = 0; i < 2; i++, side = side->peer) {
        side->dead = true;
        close(side->fd);
        if (side->pipe[0] >= 0) close(side->pipe[0]), close(side->pipe[1]);
        graves[ngraves++] = side;
    }
}

static void end_of(struct side *from) {
    from->ended = true;
    shutdown(from->peer->fd, SHUT_WR);
    if (from->peer->ended) bury(from);
}

/* True when everything read from `from` has been taken by its peer. */
static bool flush_copy(struct side *from) {
    while (from->rest_at < from->rest_n) {
        ssize_t n = send(from->peer->fd, from->rest + from->rest_at, from->rest_n - from->rest_at, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) bury(from);
            return false;
        }
        from->rest_at += (size_t)n;
    }
    from->rest_n = from->rest_at = 0;
    return true;
}

static void pump_copy(struct side *from) {
    if (!flush_copy(from)) return;
    while (from->readable && !from->ended) {
        ssize_t n = recv(from->fd, scratch, CHUNK, 0);
        if (n < 0) {
            if (errno == EAGAIN) from->readable = false;
            else bury(from);
            return;
        }
        if (n == 0) return end_of(from);
        if (n < CHUNK && !from->hung_up) from->readable = false; /* a short read: the next one would say EAGAIN */
        ssize_t sent = send(from->peer->fd, scratch, (size_t)n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return bury(from);
        if (sent < n) {
            size_t done = sent < 0 ? 0 : (size_t)sent;
            if (!from->rest) from->rest = malloc(CHUNK);
            from->rest_n = (size_t)n - done;
            memcpy(from->rest, scratch + done, from->rest_n);
            return;
        }
    }
}

static bool flush_splice(struct side *from) {
    while (from->piped) {
        ssize_t n = splice(from->pipe[0], NULL, from->peer->fd, NULL, from->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN) bury(from);
            return false;
        }
        from->piped -= (size_t)n;
    }
    return true;
}

static void pump_splice(struct side *from) {
    if (from->pipe[0] < 0) {
        if (pipe2(from->pipe, O_NONBLOCK)) die("pipe2");
        fcntl(from->pipe[1], F_SETPIPE_SZ, PIPE);
    }
    while (flush_splice(from) && from->readable && !from->ended) {
        ssize_t n = splice(from->fd, NULL, from->pipe[1], NULL, PIPE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n < 0) {
            if (errno == EAGAIN) from->readable = false;
            else bury(from);
            return;
        }
        if (n == 0) return end_of(from);
        from->piped += (size_t)n;
    }
}

static void pump(struct side *from) {
    if (from->dead || from->peer->dead) return;
    if (use_splice) pump_splice(from);
    else pump_copy(from);
}

static void accept_all(const struct listener *from) {
    for (int client; (client = accept4(from->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        int up = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (up < 0) die("socket");
        if (connect(up, (const struct sockaddr *)&from->upstream, sizeof from->upstream) && errno != EINPROGRESS) die("connect");
        struct side *a = side_new(client), *b = side_new(up);
        a->peer = b;
        b->peer = a;
        uint32_t events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
        watch(epoll_fd, client, a, events);
        watch(epoll_fd, up, b, events);
    }
}

static void on_event(struct side *side, uint32_t events) {
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) side->readable = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) side->hung_up = true;
    if (side->readable) pump(side);
    if (events & EPOLLOUT && !side->dead) pump(side->peer);
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 2 + PAIRS) return fprintf(stderr, "usage: relay copy|splice LISTEN:UPSTREAM ...\n"), 2;
    use_splice = !strcmp(argv[1], "splice");
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(0);
    for (int i = 2; i < argc; i++) {
        struct listener *l = &listeners[i - 2];
        int from, to;
        if (sscanf(argv[i], "%d:%d", &from, &to) != 2) return fprintf(stderr, "relay: %s is not LISTEN:UPSTREAM\n", argv[i]), 2;
        l->fd = listen_on(from);
        l->upstream = loopback(to);
        watch(epoll_fd, l->fd, l, EPOLLIN);
    }
    struct epoll_event events[BATCH];
    for (;;) {
        int n = epoll_wait(epoll_fd, events, BATCH, -1);
        for (int i = 0; i < n; i++) {
            struct listener *l = events[i].data.ptr;
            if (l >= listeners && l < listeners + PAIRS) accept_all(l);
            else on_event(events[i].data.ptr, events[i].events);
        }
        while (ngraves) {
            struct side *side = graves[--ngraves];
            free(side->rest);
            free(side);
        }
    }
}
