"""Socket calls with plain results. Every socket made here is non-blocking and close-on-exec."""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    struct sockaddr_storage:
        unsigned short ss_family
    struct linger_t "linger":
        int l_onoff
        int l_linger
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    enum:
        AF_INET, AF_INET6, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, SO_KEEPALIVE
        SO_LINGER, MSG_NOSIGNAL, MSG_PEEK, MSG_DONTWAIT, SHUT_WR
    int accept4(int fd, sockaddr *addr, socklen_t *n, int flags)
    int socket(int family, int kind, int protocol)
    int bind(int fd, const sockaddr *addr, socklen_t n)
    int connect(int fd, const sockaddr *addr, socklen_t n)
    int getsockname(int fd, sockaddr *addr, socklen_t *n)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *n)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t n)
    int shutdown(int fd, int how)
    ssize_t recv(int fd, void *p, size_t n, int flags)
    ssize_t send(int fd, const void *p, size_t n, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    uint16_t htons(uint16_t v)
    uint16_t ntohs(uint16_t v)
    enum: IPPROTO_TCP, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_NODELAY, TCP_INFO, TCP_USER_TIMEOUT

cdef extern from "<errno.h>" nogil:
    enum: EINPROGRESS, EAGAIN

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from *:
    """
    #ifndef TCP_NOTSENT_LOWAT
    #define TCP_NOTSENT_LOWAT 25        /* linux/tcp.h has it, but cannot be included beside netinet/tcp.h */
    #endif
    static const unsigned char FP_V4_MAPPED[12] = {0,0,0,0,0,0,0,0,0,0,0xff,0xff};
    """
    enum: TCP_NOTSENT_LOWAT
    const uint8_t *FP_V4_MAPPED

cdef enum:
    TCP_INFO_BYTES = 256
    ACKNOWLEDGED_AT = 120       # tcpi_bytes_acked in the kernel's struct tcp_info, which only ever grows at its end
    GATHERED = 2048             # bytes up to which copying costs less than what the kernel does for a vector
    UNSENT_MAX = 1 << 20        # bytes not yet sent at which a socket stops being writable


cdef void from_sockaddr(const sockaddr_storage *in_, Endpoint *out) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *>in_
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *>in_
    if in_.ss_family == AF_INET:
        memcpy(out.address, FP_V4_MAPPED, 12)
        memcpy(out.address + 12, &v4.sin_addr, 4)
        out.port = ntohs(v4.sin_port)
    else:
        memcpy(out.address, &v6.sin6_addr, 16)
        out.port = ntohs(v6.sin6_port)


cdef int sock_accept(int listener, Endpoint *peer) noexcept nogil:
    cdef sockaddr_storage address
    cdef socklen_t n = sizeof(address)
    cdef int fd = accept4(listener, <sockaddr *>&address, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        return -errno
    from_sockaddr(&address, peer)
    return fd


cdef void sock_unacknowledged(int fd, unsigned int ms) noexcept nogil:
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms))


cdef int sock_local(int fd, Endpoint *out) noexcept nogil:
    cdef sockaddr_storage address
    cdef socklen_t n = sizeof(address)
    if getsockname(fd, <sockaddr *>&address, &n) < 0:
        return -errno
    from_sockaddr(&address, out)
    return 0


# The address as the kernel takes it; its length.
cdef socklen_t fill(sockaddr_storage *out, const uint8_t *address, uint16_t port) noexcept nogil:
    cdef sockaddr_in *v4 = <sockaddr_in *>out
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>out
    memset(out, 0, sizeof(sockaddr_storage))
    if memcmp(address, FP_V4_MAPPED, 12) == 0:
        v4.sin_family = AF_INET
        v4.sin_port = htons(port)
        memcpy(&v4.sin_addr, address + 12, 4)
        return sizeof(sockaddr_in)
    v6.sin6_family = AF_INET6
    v6.sin6_port = htons(port)
    memcpy(&v6.sin6_addr, address, 16)
    return sizeof(sockaddr_in6)


cdef int sock_connect(const Endpoint *to, const uint8_t *source) noexcept nogil:
    cdef sockaddr_storage address
    cdef socklen_t n = fill(&address, to.address, to.port)
    cdef int one = 1
    cdef int result = 0
    cdef int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -errno
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if source != NULL:
        # The port is chosen by the connect, which knows both ends (ip(7)): not one of 28,000 for all destinations.
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one))
        n = fill(&address, source, 0)
        result = bind(fd, <sockaddr *>&address, n)
        n = fill(&address, to.address, to.port)
    if result == 0:
        result = connect(fd, <sockaddr *>&address, n)
    if result < 0 and errno != EINPROGRESS:
        result = -errno
        close(fd)
        return result
    return fd


cdef int sock_error(int fd) noexcept nogil:
    cdef int value = 0
    cdef socklen_t n = sizeof(value)
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &n)
    return value


cdef void sock_prepare_listener(int fd) noexcept nogil:
    cdef int one = 1
    cdef int unsent = UNSENT_MAX
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one))
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent))


cdef int64_t sock_recv(int fd, char *p, uint32_t n) noexcept nogil:
    cdef ssize_t got = recv(fd, p, n, 0)
    return got if got >= 0 else -errno


cdef int64_t sock_send(int fd, const char *p, uint32_t n) noexcept nogil:
    cdef ssize_t sent = send(fd, p, n, MSG_NOSIGNAL)
    return sent if sent >= 0 else -errno


cdef int64_t sock_writev(int fd, iovec *iov, int n) noexcept nogil:
    cdef msghdr message
    cdef char whole[GATHERED]
    cdef size_t length = 0
    cdef ssize_t sent
    cdef int k
    for k in range(n):
        length += iov[k].iov_len
    if length <= GATHERED:
        length = 0
        for k in range(n):
            memcpy(whole + length, iov[k].iov_base, iov[k].iov_len)
            length += iov[k].iov_len
        return sock_send(fd, whole, <uint32_t>length)
    memset(&message, 0, sizeof(message))
    message.msg_iov = iov
    message.msg_iovlen = n
    sent = sendmsg(fd, &message, MSG_NOSIGNAL)     # writev would raise SIGPIPE
    return sent if sent >= 0 else -errno


cdef int sock_has_input(int fd) noexcept nogil:
    cdef char byte
    return not (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 and errno == EAGAIN)


cdef uint64_t sock_acknowledged(int fd) noexcept nogil:
    cdef uint8_t info[TCP_INFO_BYTES]
    cdef uint64_t acknowledged = 0
    cdef socklen_t n = TCP_INFO_BYTES
    if getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &n) == 0 and n >= ACKNOWLEDGED_AT + 8:
        memcpy(&acknowledged, info + ACKNOWLEDGED_AT, 8)
    return acknowledged


cdef void sock_shutdown_write(int fd) noexcept nogil:
    shutdown(fd, SHUT_WR)


cdef void sock_reset_on_close(int fd) noexcept nogil:
    cdef linger_t value
    value.l_onoff = 1
    value.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &value, sizeof(value))
