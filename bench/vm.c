/* The backend of every benchmark: one thread, epoll, fixed answers.
 *
 *     vm HTTP_PORT BULK_PORT
 *
 * HTTP_PORT: GET /small (13 bytes), /16k, /1m; /pour: a body without an end; /hang: a head whose body never comes; /ws: a
 * WebSocket that says nothing. Keep-alive and pipelining; a request is a head that ends in an empty line.
 * BULK_PORT: sends zeros for as long as somebody reads.
 */
#include "loop.h"

enum { MEGA = 1 << 20, BATCH = 256, HEAD_MAX = 16 * 1024 };

/* `body` bytes follow the head at once; `promised` is what it says. */
struct answer { const char *path; size_t body; unsigned long long promised; char *bytes; size_t n; };
static struct answer answers[] = {
    {"/16k", 16 * 1024, 16 * 1024, 0, 0}, {"/1m", MEGA, MEGA, 0, 0}, {"/pour", 0, 1ull << 50, 0, 0},
    {"/hang", 0, 1, 0, 0}, {"/ws", 0, 0, 0, 0}, {"/", 13, 13, 0, 0},
};
static const char upgraded[] = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                               "Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n";

struct conn {
    int fd;
    bool bulk, dead;
    size_t in_n;
    const struct answer *out; /* the answer being sent, NULL when none */
    size_t out_at;
    char in[HEAD_MAX];
};

static char zeros[256 * 1024];
static struct conn *graves[BATCH];
static int ngraves;

static void build_answers(void) {
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct answer *a = &answers[i];
        a->bytes = malloc(a->body + 256);
        int head = !a->promised ? sprintf(a->bytes, upgraded)
            : sprintf(a->bytes, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %llu\r\n\r\n", a->promised);
        memset(a->bytes + head, 'x', a->body);
        a->n = (size_t)head + a->body;
    }
}

static void bury(struct conn *c) {
    if (c->dead) return;
    c->dead = true;
    close(c->fd);
    graves[ngraves++] = c;
}

/* True when the answer is out as a whole. */
static bool flush(struct conn *c) {
    while (c->out_at < c->out->n) {
        ssize_t n = send(c->fd, c->out->bytes + c->out_at, c->out->n - c->out_at, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) bury(c);
            return false;
        }
        c->out_at += (size_t)n;
    }
    c->bulk = c->out->promised > MEGA;
    c->out = NULL;
    return true;
}

static bool next_request(struct conn *c) {
    char *end = memmem(c->in, c->in_n, "\r\n\r\n", 4);
    char *path = memchr(c->in, ' ', c->in_n);
    if (!end || !path) return false;
    struct answer *a = answers;
    while (strncmp(path + 1, a->path, strlen(a->path))) a++; /* the last one matches every path */
    c->out = a;
    c->out_at = 0;
    size_t used = (size_t)(end + 4 - c->in);
    memmove(c->in, c->in + used, c->in_n -= used);
    return true;
}

static void pour(struct conn *c) {
    char byte;
    ssize_t n = recv(c->fd, &byte, 1, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return bury(c);
    while ((n = send(c->fd, zeros, sizeof zeros, MSG_NOSIGNAL)) > 0);
    if (n < 0 && errno != EAGAIN) bury(c);
}

static void serve(struct conn *c, bool hung_up) {
    if (c->out && !flush(c)) return;
    if (c->bulk) return pour(c);
    for (bool more = true;;) {
        while (next_request(c)) {
            if (!flush(c)) return;
            if (c->bulk) return pour(c);
        }
        if (!more) return;
        size_t room = HEAD_MAX - 1 - c->in_n;
        ssize_t n = recv(c->fd, c->in + c->in_n, room, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN) bury(c);
            return;
        }
        more = (size_t)n == room || hung_up; /* after a short read the next one would say EAGAIN */
        c->in_n += (size_t)n;
    }
}

static void accept_all(int epoll, int listener, bool bulk) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct conn *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->bulk = bulk;
        no_delay(fd);
        watch(epoll, fd, c, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: vm HTTP_PORT BULK_PORT\n"), 2;
    build_answers();
    int http = listen_on(atoi(argv[1])), bulk = listen_on(atoi(argv[2])), epoll = epoll_create1(0);
    watch(epoll, http, &http, EPOLLIN);
    watch(epoll, bulk, &bulk, EPOLLIN);
    struct epoll_event events[BATCH];
    for (;;) {
        int n = epoll_wait(epoll, events, BATCH, -1);
        for (int i = 0; i < n; i++) {
            void *who = events[i].data.ptr;
            if (who == &http) accept_all(epoll, http, false);
            else if (who == &bulk) accept_all(epoll, bulk, true);
            else if (((struct conn *)who)->dead) continue;
            else if (events[i].events & (EPOLLHUP | EPOLLERR)) bury(who);
            else if (((struct conn *)who)->bulk) pour(who);
            else serve(who, events[i].events & EPOLLRDHUP);
        }
        while (ngraves) free(graves[--ngraves]);
    }
}
