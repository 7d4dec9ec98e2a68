"""The test door of net/tls: connections on descriptors that the test holds the other end of."""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc

from flyproxy._speedups.mem.buf cimport Pool, buf_len, pool_clear, pool_init
from flyproxy._speedups.net.openssl cimport (
    SSL_CTX, SSL_KEY_UPDATE_REQUESTED, ERR_clear_error, SSL_do_handshake, SSL_key_update,
)
from flyproxy._speedups.net.sockets cimport iovec
from flyproxy._speedups.net.tls cimport (
    Tls, TlsParty, tls_blocked, tls_end, tls_free, tls_handshake, tls_names, tls_new, tls_over,
    tls_party_clear, tls_party_init, tls_recv, tls_send, tls_writev,
)
from flyproxy._speedups.net.tls_context cimport Pem, tls_context


cdef class Party:
    """One certificate, and the block and pool that all connections under it share."""

    cdef TlsParty party
    cdef Pool pool

    def __cinit__(self, bytes ca, bytes cert, bytes key, uint32_t held_max=1 << 20):
        cdef char why[256]
        cdef SSL_CTX *context = tls_context(
            Pem(ca, <uint32_t>len(ca)), Pem(cert, <uint32_t>len(cert)), Pem(key, <uint32_t>len(key)), b"\x08flyproxy",
            why, sizeof(why),
        )
        pool_init(&self.pool, held_max)
        if context == NULL:
            raise ValueError(why.decode())
        if not tls_party_init(&self.party, context, &self.pool):
            raise MemoryError

    def __dealloc__(self):
        tls_party_clear(&self.party)
        pool_clear(&self.pool)

    @property
    def used(self) -> int:
        """Bytes of buffers that connections hold now."""
        return self.pool.used

    @property
    def open(self) -> int:
        return self.party.open


cdef class Wire:
    """TLS on a socket. Results are counts, 0 at the end, or a negative errno."""

    cdef Party party
    cdef Tls *tls

    def __cinit__(self, Party party, int fd, bytes name=None):
        self.party = party
        if name is None:
            self.tls = tls_new(&party.party, fd, NULL, 0)
        else:
            self.tls = tls_new(&party.party, fd, <const char *>name, <uint32_t>len(name))
        if self.tls == NULL:
            raise MemoryError

    def __dealloc__(self):
        self.free()

    def free(self) -> None:
        """Says the end, unless it was said or must not be."""
        if self.tls != NULL:
            tls_free(self.tls)
            self.tls = NULL

    def handshake(self) -> int:
        """1 done, 0 not yet, or a negative errno."""
        return tls_handshake(self.tls)

    def recv(self, uint32_t n) -> bytes | int:
        """Up to n bytes, b"" at the end, or a negative errno."""
        cdef char *p = <char *>malloc(n)
        cdef int64_t got = tls_recv(self.tls, p, n)
        try:
            return got if got < 0 else p[:got]
        finally:
            free(p)

    def send(self, bytes data) -> int:
        return tls_send(self.tls, <const char *>data, <uint32_t>len(data))

    def writev(self, list parts) -> int:
        cdef iovec vector[64]
        cdef int n = 0
        cdef bytes part
        for part in parts:
            vector[n].iov_base = <char *>part
            vector[n].iov_len = <size_t>len(part)
            n += 1
        return tls_writev(self.tls, vector, n)

    def end(self) -> int:
        """0 said, or a negative errno."""
        return tls_end(self.tls)

    def update_keys(self) -> int:
        """Ours, and the other side shall update its own. Said at once: to OpenSSL a pending update is a handshake, in
        which SSL_shutdown says nothing."""
        ERR_clear_error()
        return SSL_key_update(self.tls.ssl, SSL_KEY_UPDATE_REQUESTED) and SSL_do_handshake(self.tls.ssl) == 1

    def names(self, bytes name) -> bool:
        return bool(tls_names(self.tls, <const char *>name, <uint32_t>len(name)))

    @property
    def blocked(self) -> bool:
        return bool(tls_blocked(self.tls))

    @property
    def over(self) -> bool:
        return bool(tls_over(self.tls))

    @property
    def stashed(self) -> int:
        """Bytes received and not decrypted yet."""
        return buf_len(&self.tls.stash)
