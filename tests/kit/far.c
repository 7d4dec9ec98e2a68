/* A long way between two hosts: a relay that delivers everything DELAY later, in order, at any speed.
 *
 *     far DELAY_MS LOSS SEED [tcp|udp LISTEN_IP LISTEN_PORT UPSTREAM_IP UPSTREAM_PORT]...
 *
 * Prints "IP PORT" for each listener. Reads commands from standard input, answers each with "ok ..." or "error ...", and
 * ends with its input:
 *     delay MS | rate MB_S | loss SHARE | cut forward|back|both | heal
 *     | counts (forward bytes, back bytes, datagrams, lost ones)
 *
 * A rate (0: none) is one line in each direction, shared by all links. What waits for the line is at most QUEUE_NS long:
 * then streams are read no more, datagrams are lost.
 * TCP: ends and resets travel like bytes. Nothing is read from one side while the other takes nothing, so what is held
 * is at most the rate times the delay. A cut direction is read no more and delivers nothing until it heals; while any is
 * cut, new connections wait. UDP: the share LOSS of the datagrams is lost, and all of a cut direction.
 * The upstream sees the client's address where this machine may use it (all of 127.0.0.0/8).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FORWARD, BACK };
enum { CHUNK = 64 * 1024, BATCH = 256, LINKS = 128, READS = 4, DATAGRAMS = 64, UDP_BUFFER = 8 << 20, QUEUE_NS = 20000000 };
enum what { DATA, END, RESET };

struct address { struct sockaddr_storage at; socklen_t n; };

struct chunk { /* what travels; in the list of its direction by due time, and in its lane's */
    struct chunk *next, *next_in_lane;
    struct flow *flow;
    uint64_t due;
    size_t n, at;
    uint8_t lane;
    enum what what;
    char bytes[CHUNK];
};

struct side {
    int fd;
    uint32_t events; /* registered with epoll; 0: not at all */
    bool broken;     /* takes nothing more */
    struct flow *flow;
};

struct lane { /* one direction of a flow, from side[lane] to the other */
    struct chunk *head, **tail;
    unsigned due;    /* chunks at the head whose time has come */
    bool blocked;    /* the other side takes nothing now */
    bool ended;      /* nothing more comes */
    bool done;       /* and the end is delivered */
};

struct flow { /* one connection, or one UDP client */
    struct side side[2];
    struct lane lane[2];
    struct flow *next, **at;
    struct link *link;
    struct address client; /* of UDP */
    unsigned chunks;       /* that still name it */
    bool closed;
};

struct link { struct side side; bool udp; struct address upstream; };

static struct link links[LINKS];
static unsigned nlinks;
static struct flow *flows, *graves;
static struct chunk *first[2], **last[2] = {&first[0], &first[1]}, *spare;
static int epoll_fd;
static uint64_t delay_ns, random_state, lost, datagrams, passed[2];
static uint64_t line_free[2]; /* when the line of a direction has taken all that waits for it */
static double loss, ns_per_byte;
static bool cut[2], full[2];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool unlucky(void) { /* xorshift64*: the same seed loses the same datagrams */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (double)(random_state * 2685821657736338717u >> 11) / 9007199254740992.0 < loss;
}

/* ---- which events a socket waits for */

static void want(struct side *side, uint32_t events) {
    if (events == side->events || side->fd < 0) return;
    struct epoll_event event = {.events = events, .data.ptr = side};
    int op = !events ? EPOLL_CTL_DEL : side->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(epoll_fd, op, side->fd, &event)) die("epoll_ctl");
    side->events = events;
}

static void rearm(struct flow *flow) {
    for (int i = 0; i < 2 && !flow->closed; i++) {
        struct lane *out = &flow->lane[i], *in = &flow->lane[!i];
        want(&flow->side[i], (!out->ended && !out->blocked && !cut[i] && !full[i] ? EPOLLIN : 0) | (in->blocked ? EPOLLOUT : 0));
    }
}

/* ---- flows */

static struct flow *flow_new(struct link *link, int client, int upstream) {
    struct flow *flow = calloc(1, sizeof *flow);
    flow->link = link;
    for (int i = 0; i < 2; i++) {
        flow->side[i] = (struct side){.fd = i ? upstream : client, .flow = flow};
        flow->lane[i].tail = &flow->lane[i].head;
    }
    flow->next = flows;
    flow->at = &flows;
    if (flows) flows->at = &flow->next;
    flows = flow;
    return flow;
}

static void flow_close(struct flow *flow, bool reset) {
    if (flow->closed) return;
    struct linger linger = {.l_onoff = 1};
    for (int i = 0; i < 2; i++) {
        if (reset) setsockopt(flow->side[i].fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        want(&flow->side[i], 0);
        close(flow->side[i].fd);
    }
    flow->closed = true;
    *flow->at = flow->next;
    if (flow->next) flow->next->at = flow->at;
    flow->next = graves; /* freed after the batch: later events of it may still point here */
    graves = flow;
}

/* ---- travelling */

static struct chunk *chunk_new(void) {
    struct chunk *chunk = spare;
    if (chunk) spare = chunk->next;
    else if (!(chunk = malloc(sizeof *chunk))) die("malloc");
    return chunk;
}

static void chunk_free(struct chunk *chunk) {
    chunk->next = spare;
    spare = chunk;
}

static bool crowded(int lane) {
    return line_free[lane] > now_ns() + QUEUE_NS;
}

static void depart(struct flow *flow, int lane, struct chunk *chunk, size_t n, enum what what) {
    uint64_t now = now_ns();
    if (line_free[lane] < now) line_free[lane] = now;
    line_free[lane] += (uint64_t)((double)n * ns_per_byte);
    chunk->flow = flow;
    chunk->lane = (uint8_t)lane;
    chunk->what = what;
    chunk->n = n;
    chunk->at = 0;
    chunk->due = line_free[lane] + delay_ns;
    chunk->next = chunk->next_in_lane = NULL;
    *last[lane] = chunk;
    last[lane] = &chunk->next;
    *flow->lane[lane].tail = chunk;
    flow->lane[lane].tail = &chunk->next_in_lane;
    flow->chunks++;
    if (what != DATA) flow->lane[lane].ended = true;
}

/* True when the chunk is out as a whole; else the other side takes nothing now. */
static bool send_chunk(struct flow *flow, struct chunk *chunk) {
    struct side *to = &flow->side[!chunk->lane];
    while (chunk->at < chunk->n && !to->broken) {
        ssize_t n = send(to->fd, chunk->bytes + chunk->at, chunk->n - chunk->at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return false;
        if (n < 0) to->broken = true; /* its own end or reset is read from it, and travels back */
        else {
            chunk->at += (size_t)n;
            passed[chunk->lane] += (uint64_t)n;
        }
    }
    return true;
}

static void send_datagram(struct flow *flow, struct chunk *chunk) {
    ssize_t n = chunk->lane == FORWARD
        ? send(flow->side[1].fd, chunk->bytes, chunk->n, 0)
        : sendto(flow->link->side.fd, chunk->bytes, chunk->n, 0, (struct sockaddr *)&flow->client.at, flow->client.n);
    if (n >= 0) passed[chunk->lane] += (uint64_t)n;
}

/* Hands over what is due on the lane, in order. */
static void deliver(struct flow *flow, int lane) {
    struct lane *l = &flow->lane[lane];
    while (l->due && !flow->closed) {
        struct chunk *chunk = l->head;
        if (flow->link->udp) {
            if (cut[lane]) lost++;
            else send_datagram(flow, chunk);
        } else {
            l->blocked = !cut[lane] && !send_chunk(flow, chunk);
            if (cut[lane] || l->blocked) return rearm(flow);
            if (chunk->what == RESET) flow_close(flow, true);
            if (chunk->what == END) {
                shutdown(flow->side[!lane].fd, SHUT_WR);
                l->done = true;
                if (flow->lane[!lane].done) flow_close(flow, false);
            }
        }
        l->head = chunk->next_in_lane;
        if (!l->head) l->tail = &l->head;
        l->due--;
        flow->chunks--;
        chunk_free(chunk);
    }
    if (!flow->closed && !flow->link->udp) rearm(flow);
}

static void arrive(int lane) {
    for (uint64_t now = now_ns(); first[lane] && first[lane]->due <= now;) {
        struct chunk *chunk = first[lane];
        struct flow *flow = chunk->flow;
        first[lane] = chunk->next;
        if (!first[lane]) last[lane] = &first[lane];
        if (flow->closed) {
            flow->chunks--;
            chunk_free(chunk);
        } else {
            flow->lane[lane].due++;
            deliver(flow, lane);
        }
    }
}

/* Streams are read while there is room on the line of their direction. */
static void gauge(int lane) {
    if (full[lane] ? line_free[lane] > now_ns() + QUEUE_NS / 2 : !crowded(lane)) return;
    full[lane] = !full[lane];
    for (struct flow *flow = flows; flow; flow = flow->next)
        if (!flow->link->udp) rearm(flow);
}

/* Nanoseconds until something is due or a line has room; UINT64_MAX: never. */
static uint64_t patience(void) {
    uint64_t now = now_ns(), at = UINT64_MAX;
    for (int lane = 0; lane < 2; lane++) {
        if (first[lane] && first[lane]->due < at) at = first[lane]->due;
        if (full[lane] && line_free[lane] - QUEUE_NS / 2 < at) at = line_free[lane] - QUEUE_NS / 2;
    }
    return at == UINT64_MAX ? at : at > now ? at - now : 0;
}

static void bury(void) {
    for (struct flow **at = &graves, *flow; (flow = *at);) {
        for (int i = 0; i < 2; i++) /* the due chunks of a closed flow are on no other list any more */
            for (struct lane *l = &flow->lane[i]; l->due; l->due--, flow->chunks--) {
                struct chunk *chunk = l->head;
                l->head = chunk->next_in_lane;
                chunk_free(chunk);
            }
        if (flow->chunks) at = &flow->next;
        else {
            *at = flow->next;
            free(flow);
        }
    }
}

/* ---- reading */

static void read_stream(struct flow *flow, int lane) {
    for (int i = 0; i < READS && !crowded(lane); i++) {
        struct chunk *chunk = chunk_new();
        ssize_t n = recv(flow->side[lane].fd, chunk->bytes, CHUNK, 0);
        if (n < 0 && errno == EAGAIN) return chunk_free(chunk);
        depart(flow, lane, chunk, n > 0 ? (size_t)n : 0, n > 0 ? DATA : n == 0 ? END : RESET);
        if (n < 0) flow->side[lane].broken = true;
        if (n < CHUNK) break;
    }
    rearm(flow);
}

/* A socket for the link's upstream, on its way to it, from the client's own address where that may be used. */
static int open_upstream(const struct link *link, const struct address *client) {
    int family = link->upstream.at.ss_family, on = 1;
    int fd = socket(family, (link->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    struct sockaddr_storage from = client->at;
    if (family == AF_INET) ((struct sockaddr_in *)&from)->sin_port = 0;
    else ((struct sockaddr_in6 *)&from)->sin6_port = 0;
    if (!link->udp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (from.ss_family == family && bind(fd, (struct sockaddr *)&from, client->n) && errno != EADDRNOTAVAIL) die("bind");
    if (connect(fd, (const struct sockaddr *)&link->upstream.at, link->upstream.n) && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

static void accept_all(struct link *link) {
    for (int on = 1;;) {
        struct address client = {.n = sizeof client.at};
        int fd = accept4(link->side.fd, (struct sockaddr *)&client.at, &client.n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        int upstream = open_upstream(link, &client);
        if (upstream < 0) close(fd);
        else rearm(flow_new(link, fd, upstream));
    }
}

static struct flow *udp_flow(struct link *link, const struct address *client) {
    for (struct flow *flow = flows; flow; flow = flow->next)
        if (flow->link == link && flow->client.n == client->n && !memcmp(&flow->client.at, &client->at, client->n)) return flow;
    int upstream = open_upstream(link, client);
    if (upstream < 0) return NULL;
    setsockopt(upstream, SOL_SOCKET, SO_RCVBUFFORCE, &(int){UDP_BUFFER}, sizeof(int));
    struct flow *flow = flow_new(link, -1, upstream);
    flow->client = *client;
    want(&flow->side[1], EPOLLIN);
    return flow;
}

/* From the link's clients (flow NULL) or from a flow's upstream. */
static void read_datagrams(struct link *link, struct flow *flow) {
    int lane = flow ? BACK : FORWARD;
    for (int i = 0; i < DATAGRAMS; i++) {
        struct chunk *chunk = chunk_new();
        struct address from = {.n = sizeof from.at};
        int fd = flow ? flow->side[1].fd : link->side.fd;
        ssize_t n = recvfrom(fd, chunk->bytes, CHUNK, 0, (struct sockaddr *)&from.at, &from.n);
        struct flow *of = n < 0 ? NULL : flow ? flow : udp_flow(link, &from);
        bool gone = false;
        if (n >= 0) {
            datagrams++;
            gone = unlucky() || cut[lane] || crowded(lane); /* the dice are thrown for each: what is lost depends on the seed alone */
            lost += gone;
        }
        if (of && !gone) depart(of, lane, chunk, (size_t)n, DATA);
        else chunk_free(chunk);
        if (n < 0) return; /* EAGAIN, or the other end's port is closed */
    }
}

/* ---- commands */

static void cut_now(bool forward, bool back) {
    cut[FORWARD] = forward;
    cut[BACK] = back;
    for (unsigned i = 0; i < nlinks; i++)
        if (!links[i].udp) want(&links[i].side, forward || back ? 0 : EPOLLIN);
    for (struct flow *flow = flows, *next; flow; flow = next) {
        next = flow->next;
        if (flow->link->udp) continue;
        rearm(flow);
        for (int lane = 0; lane < 2 && !flow->closed; lane++) deliver(flow, lane);
    }
}

static void command(const char *line) {
    char word[16] = "";
    double number;
    if (sscanf(line, "delay %lf", &number) == 1 && number >= 0) delay_ns = (uint64_t)(number * 1e6);
    else if (sscanf(line, "rate %lf", &number) == 1 && number >= 0) ns_per_byte = number ? 1e3 / number : 0;
    else if (sscanf(line, "loss %lf", &number) == 1 && number >= 0 && number <= 1) loss = number;
    else if (sscanf(line, "cut %15s", word) == 1 && (!strcmp(word, "both") || !strcmp(word, "forward") || !strcmp(word, "back")))
        cut_now(strcmp(word, "back"), strcmp(word, "forward"));
    else if (!strcmp(line, "heal")) cut_now(false, false);
    else if (strcmp(line, "counts")) {
        printf("error: no such command: %s\n", line);
        return;
    }
    printf("ok %llu %llu %llu %llu\n", (unsigned long long)passed[FORWARD], (unsigned long long)passed[BACK],
           (unsigned long long)datagrams, (unsigned long long)lost);
}

static void read_commands(void) {
    static char text[1024];
    static size_t n;
    ssize_t got = read(0, text + n, sizeof text - 1 - n);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) exit(0);
    n += (size_t)got;
    for (char *end; (end = memchr(text, '\n', n));) {
        *end = 0;
        command(text);
        n -= (size_t)(end + 1 - text);
        memmove(text, end + 1, n);
    }
    fflush(stdout);
}

/* ---- starting */

static struct address resolve(const char *ip, const char *port) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(ip, port, &hints, &found);
    if (error) {
        fprintf(stderr, "far: %s %s: %s\n", ip, port, gai_strerror(error));
        exit(2);
    }
    struct address address = {.n = found->ai_addrlen};
    memcpy(&address.at, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return address;
}

static void open_link(char **argv) {
    struct link *link = &links[nlinks++];
    struct address at = resolve(argv[1], argv[2]);
    int on = 1;
    *link = (struct link){.udp = !strcmp(argv[0], "udp"), .upstream = resolve(argv[3], argv[4])};
    int fd = link->side.fd = socket(at.at.ss_family, (link->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (!link->udp) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    else setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &(int){UDP_BUFFER}, sizeof(int));
    if (fd < 0 || bind(fd, (struct sockaddr *)&at.at, at.n) || (!link->udp && listen(fd, 1024))) die("listen");
    if (getsockname(fd, (struct sockaddr *)&at.at, &at.n)) die("getsockname");
    char ip[INET6_ADDRSTRLEN], port[8];
    getnameinfo((struct sockaddr *)&at.at, at.n, ip, sizeof ip, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    printf("%s %s\n", ip, port);
    want(&link->side, EPOLLIN);
}

static void on_event(struct side *side) {
    struct link *link = (struct link *)side;
    if (!side) read_commands();
    else if (link >= links && link < links + nlinks) {
        if (link->udp) read_datagrams(link, NULL);
        else accept_all(link);
    } else if (side->flow->closed) return;
    else if (side->flow->link->udp) read_datagrams(side->flow->link, side->flow);
    else {
        int lane = side == &side->flow->side[BACK];
        struct flow *flow = side->flow;
        if (flow->lane[!lane].blocked) deliver(flow, !lane);
        if (!flow->closed && side->events & EPOLLIN) read_stream(flow, lane);
    }
}

int main(int argc, char **argv) {
    if (argc < 9 || (argc - 4) % 5 || (argc - 4) / 5 > LINKS)
        return fprintf(stderr, "usage: far DELAY_MS LOSS SEED [tcp|udp LISTEN_IP PORT UPSTREAM_IP PORT]...\n"), 2;
    delay_ns = (uint64_t)(atof(argv[1]) * 1e6);
    loss = atof(argv[2]);
    random_state = strtoull(argv[3], NULL, 10) | 1;
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    fcntl(0, F_SETFL, O_NONBLOCK);
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL}, events[BATCH];
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &input)) die("epoll_ctl: standard input must be a pipe");
    for (int i = 4; i < argc; i += 5) open_link(argv + i);
    fflush(stdout);
    for (;;) {
        uint64_t wait = patience();
        struct timespec timeout = {.tv_sec = (time_t)(wait / 1000000000u), .tv_nsec = (long)(wait % 1000000000u)};
        int n = epoll_pwait2(epoll_fd, events, BATCH, wait == UINT64_MAX ? NULL : &timeout, NULL);
        for (int i = 0; i < n; i++) on_event(events[i].data.ptr);
        for (int lane = 0; lane < 2; lane++) {
            arrive(lane);
            gauge(lane);
        }
        bury();
    }
}
