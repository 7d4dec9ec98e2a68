# TLS on a socket, with the results of plain sockets: bytes, 0 at the end, or a negative errno. Knows descriptors and
# buffers, nothing of what is said.
#
# OpenSSL never touches the socket. A BIO of ours receives lazily into one block that all connections of a thread share
# (what is left in it at the end of a call is kept with the connection), and collects written records so that one call
# of ours is one send. Bytes count as taken by a send only when the kernel has all of their records, so who sends keeps
# what is left over and offers the same bytes first the next time, as on a plain socket.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from flyproxy._speedups.mem.buf cimport Buf, Pool
from flyproxy._speedups.net.openssl cimport BIO_METHOD, SSL, SSL_CTX
from flyproxy._speedups.net.sockets cimport iovec

cdef enum:
    TLS_RECEIVED = 66 << 10     # ciphertext of one receive
    TLS_PART = 64 << 10         # bytes that are encrypted before they are sent
    TLS_BYTES = 23 << 10        # what OpenSSL holds for an idle connection, with its peer's certificate, as measured

cdef struct TlsParty:           # what the connections of one thread share
    SSL_CTX *context            # NULL: we have no certificate
    BIO_METHOD *method
    Pool *pool
    char *received              # [TLS_RECEIVED]; bytes [start, end) belong to the connection that is being read
    uint32_t start
    uint32_t end
    uint32_t open               # connections
    char *gathered              # [TLS_PART]

cdef struct Tls:
    TlsParty *party
    SSL *ssl
    int fd
    int failed                  # errno of everything from now on
    int cut                     # errno with which receiving has ended; ECONNRESET for a FIN
    uint8_t ready               # the handshake is done
    uint8_t ended               # the other side has said that it sends no more
    uint8_t said_end            # and so have we
    uint8_t dry                 # the last receive of this call was a short one
    uint32_t most               # that the next receive asks for
    uint32_t owed               # bytes whose records wait in `out`, not yet counted as taken
    Buf stash                   # received and not decrypted yet
    Buf out                     # records that the kernel has not taken

# Takes over `context`, also when there is no memory (0).
cdef int tls_party_init(TlsParty *party, SSL_CTX *context, Pool *pool) noexcept nogil
cdef void tls_party_clear(TlsParty *party) noexcept nogil       # no connection is left
# NULL: out of memory. `name`: what the server's certificate must be for; NULL: we are the server.
cdef Tls *tls_new(TlsParty *party, int fd, const char *name, uint32_t n) noexcept nogil
# Says the end unless it is said, or the connection has failed; the descriptor stays open.
cdef void tls_free(Tls *t) noexcept nogil
cdef void tls_feed(Tls *t, Buf *b) noexcept nogil               # what was received before, taken over
# 1 done; 0 not yet: again when the socket is readable, or when it is writable if tls_blocked; -errno. Reads until
# EAGAIN.
cdef int tls_handshake(Tls *t) noexcept nogil
# Whether the other side's certificate is for this name: a dNSName, no wildcards.
cdef int tls_names(const Tls *t, const char *name, uint32_t n) noexcept nogil
# Less than `n` bytes: there are no more, neither here nor in the socket. 0: the other side has said the end. A FIN
# without that is a truncation, -ECONNRESET (RFC 8446 6.1).
cdef int64_t tls_recv(Tls *t, char *p, uint32_t n) noexcept nogil
cdef int64_t tls_send(Tls *t, const char *p, uint32_t n) noexcept nogil
cdef int64_t tls_writev(Tls *t, const iovec *iov, int n) noexcept nogil
# We send no more. 0 said; -EAGAIN: again when the socket is writable; or another negative errno.
cdef int tls_end(Tls *t) noexcept nogil

cdef inline int tls_blocked(const Tls *t) noexcept nogil:
    return t.out.end != t.out.start

# What can be read from now on is the end or an error, whatever the socket says.
cdef inline int tls_over(const Tls *t) noexcept nogil:
    return t.ended or t.failed
