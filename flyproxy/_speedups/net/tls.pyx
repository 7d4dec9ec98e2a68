"""TLS connections over OpenSSL, with a BIO of our own.

Errors of OpenSSL stand in a queue of the thread and are read by SSL_get_error, so it is emptied before each call
(SSL_get_error(3)).
"""

from libc.errno cimport EAGAIN, ECONNRESET, ENOMEM, EPROTO
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from flyproxy._speedups.mem.buf cimport Buf, Pool, buf_append, buf_consume, buf_give, buf_len, buf_room
from flyproxy._speedups.net.openssl cimport (
    BIO, BIO_CTRL_FLUSH, BIO_TYPE_SOURCE_SINK, SSL_CTX, SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN,
    X509, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, X509_CHECK_FLAG_NO_WILDCARDS,
    BIO_clear_retry_flags, BIO_free, BIO_get_data, BIO_meth_free, BIO_meth_new, BIO_meth_set_ctrl,
    BIO_meth_set_read_ex, BIO_meth_set_write_ex, BIO_new, BIO_set_data, BIO_set_init, BIO_set_retry_read,
    ERR_clear_error, SSL_CTX_free, SSL_do_handshake, SSL_free, SSL_get0_alpn_selected, SSL_get0_param,
    SSL_get0_peer_certificate, SSL_get_error, SSL_new, SSL_read_ex, SSL_set_accept_state, SSL_set_bio,
    SSL_set_connect_state, SSL_shutdown, SSL_write_ex, X509_VERIFY_PARAM_set1_host, X509_VERIFY_PARAM_set_hostflags,
    X509_check_host,
)
from flyproxy._speedups.net.sockets cimport iovec, sock_recv, sock_send

cdef enum:
    RECORDS_ROOM = 512          # what the records of TLS_PART bytes have beyond them, and one more message
    NAME_FLAGS = X509_CHECK_FLAG_NO_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT


# -- the BIO

# 1: bytes are there; 0: none now; -1: none will come.
cdef int receive(Tls *t) noexcept nogil:
    cdef TlsParty *party = t.party
    cdef int64_t n
    if t.cut:
        return -1
    if t.dry:
        return 0
    n = sock_recv(t.fd, party.received, t.most)
    if n == -EAGAIN:
        return 0
    if n <= 0:
        t.cut = <int>-n if n else ECONNRESET
        return -1
    t.dry = t.ready and n < t.most      # the socket is empty: the call that would say so is saved
    party.start = 0
    party.end = <uint32_t>n
    return 1


cdef int bio_read(BIO *bio, char *out, size_t n, size_t *got) noexcept nogil:
    cdef Tls *t = <Tls *>BIO_get_data(bio)
    cdef TlsParty *party = t.party
    cdef int there
    got[0] = 0
    BIO_clear_retry_flags(bio)
    if buf_len(&t.stash):
        got[0] = n if n < buf_len(&t.stash) else buf_len(&t.stash)
        memcpy(out, t.stash.data + t.stash.start, got[0])
        buf_consume(party.pool, &t.stash, <uint32_t>got[0])
        return 1
    there = receive(t) if party.start == party.end else 1
    if there <= 0:
        if there == 0:
            BIO_set_retry_read(bio)
        return 0
    got[0] = n if n < party.end - party.start else party.end - party.start
    memcpy(out, party.received + party.start, got[0])
    party.start += <uint32_t>got[0]
    return 1


cdef int bio_write(BIO *bio, const char *p, size_t n, size_t *written) noexcept nogil:
    cdef Tls *t = <Tls *>BIO_get_data(bio)
    BIO_clear_retry_flags(bio)
    written[0] = n if buf_append(t.party.pool, &t.out, p, <uint32_t>n) else 0
    return written[0] != 0


cdef long bio_ctrl(BIO *bio, int command, long number, void *p) noexcept nogil:
    return command == BIO_CTRL_FLUSH


# -- parties

cdef int tls_party_init(TlsParty *party, SSL_CTX *context, Pool *pool) noexcept nogil:
    memset(party, 0, sizeof(TlsParty))
    party.context = context
    party.pool = pool
    party.received = <char *>malloc(TLS_RECEIVED)
    party.gathered = <char *>malloc(TLS_PART)
    party.method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, b"flyproxy")
    if party.received == NULL or party.gathered == NULL or party.method == NULL:
        tls_party_clear(party)
        return 0
    BIO_meth_set_read_ex(party.method, bio_read)
    BIO_meth_set_write_ex(party.method, bio_write)
    BIO_meth_set_ctrl(party.method, bio_ctrl)
    return 1


cdef void tls_party_clear(TlsParty *party) noexcept nogil:
    SSL_CTX_free(party.context)
    BIO_meth_free(party.method)
    free(party.received)
    free(party.gathered)
    memset(party, 0, sizeof(TlsParty))


# -- connections

cdef Tls *tls_new(TlsParty *party, int fd, const char *name, uint32_t n) noexcept nogil:
    cdef Tls *t = <Tls *>calloc(1, sizeof(Tls))
    cdef BIO *bio = BIO_new(party.method)
    ERR_clear_error()
    if t != NULL:
        t.ssl = SSL_new(party.context)
    if t == NULL or bio == NULL or t.ssl == NULL:
        if t != NULL:
            SSL_free(t.ssl)
        free(t)
        BIO_free(bio)
        return NULL
    t.party = party
    t.fd = fd
    BIO_set_data(bio, t)
    BIO_set_init(bio, 1)
    SSL_set_bio(t.ssl, bio, bio)
    party.open += 1
    if name == NULL:
        SSL_set_accept_state(t.ssl)
        return t
    SSL_set_connect_state(t.ssl)
    X509_VERIFY_PARAM_set_hostflags(SSL_get0_param(t.ssl), NAME_FLAGS)
    if not X509_VERIFY_PARAM_set1_host(SSL_get0_param(t.ssl), name, n):
        t.failed = ENOMEM       # without a name any certificate of the CA would do
    return t


cdef void tls_free(Tls *t) noexcept nogil:
    tls_end(t)
    SSL_free(t.ssl)
    buf_give(t.party.pool, &t.stash)
    buf_give(t.party.pool, &t.out)
    t.party.open -= 1
    free(t)


cdef void tls_feed(Tls *t, Buf *b) noexcept nogil:
    t.stash = b[0]
    memset(b, 0, sizeof(Buf))


cdef int tls_names(const Tls *t, const char *name, uint32_t n) noexcept nogil:
    cdef X509 *cert = SSL_get0_peer_certificate(t.ssl)
    return cert != NULL and X509_check_host(cert, name, n, NAME_FLAGS, NULL) == 1


# Keeps what is left in the shared block, which the next connection needs empty.
cdef void settle(Tls *t) noexcept nogil:
    cdef TlsParty *party = t.party
    if party.start != party.end and not t.failed:
        if not buf_append(party.pool, &t.stash, party.received + party.start, party.end - party.start):
            t.failed = ENOMEM
    party.start = party.end = 0


# 0: everything is sent.
cdef int flush(Tls *t) noexcept nogil:
    cdef uint32_t n = buf_len(&t.out)
    cdef int64_t sent
    if n == 0:
        return 0
    sent = sock_send(t.fd, t.out.data + t.out.start, n)
    if sent < 0:
        return <int>sent
    buf_consume(t.party.pool, &t.out, <uint32_t>sent)
    return 0 if sent == n else -EAGAIN


# What a call means that did not succeed.
cdef void judge(Tls *t, int result) noexcept nogil:
    cdef int error = SSL_get_error(t.ssl, result)
    if error == SSL_ERROR_WANT_READ:
        return
    if error == SSL_ERROR_ZERO_RETURN:
        t.ended = 1
        return
    t.failed = t.cut if t.cut else EPROTO
    flush(t)                    # the alert that tells the other side why


cdef int same_protocol(const Tls *t) noexcept nogil:
    cdef const uint8_t *name
    cdef unsigned int n
    SSL_get0_alpn_selected(t.ssl, &name, &n)
    return n != 0               # each side offers one alone


cdef int tls_handshake(Tls *t) noexcept nogil:
    cdef int result
    if not t.ready and not t.failed:
        ERR_clear_error()
        t.most = TLS_RECEIVED
        result = SSL_do_handshake(t.ssl)
        if result == 1:
            t.ready = 1
            if not same_protocol(t):
                t.failed = EPROTO
        else:
            judge(t, result)
            if t.ended:
                t.failed = ECONNRESET
        settle(t)
    if t.failed:
        return -t.failed
    result = flush(t)
    if result and result != -EAGAIN:
        return result
    return t.ready and result == 0


cdef int64_t tls_recv(Tls *t, char *p, uint32_t n) noexcept nogil:
    cdef uint32_t got = 0
    cdef size_t part = 0
    t.dry = 0
    while got < n and not tls_over(t):
        t.most = n - got + RECORDS_ROOM     # hardly more than fits: what is left must be copied
        if t.most > TLS_RECEIVED:
            t.most = TLS_RECEIVED
        ERR_clear_error()
        if not SSL_read_ex(t.ssl, p + got, n - got, &part):
            judge(t, 0)
            break
        got += <uint32_t>part
    settle(t)
    if got:
        return got
    if t.failed:
        return -t.failed
    return 0 if t.ended else -EAGAIN


cdef int encrypt(Tls *t, const char *p, uint32_t n) noexcept nogil:
    cdef size_t written
    ERR_clear_error()
    if not buf_room(t.party.pool, &t.out, n + RECORDS_ROOM):
        t.failed = ENOMEM
    elif not SSL_write_ex(t.ssl, p, n, &written):
        t.failed = EPROTO
    return t.failed


cdef int64_t tls_send(Tls *t, const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t taken = 0, part
    cdef int error = -t.failed if t.failed else flush(t)
    while error == 0 and taken < n:
        part = n - taken
        if t.owed:
            part = part if part < t.owed else t.owed
            t.owed -= part
            taken += part
            continue
        part = part if part < <uint32_t>TLS_PART else <uint32_t>TLS_PART
        error = -encrypt(t, p + taken, part)
        if error == 0:
            error = flush(t)
            if error == -EAGAIN:
                t.owed = part
            elif error == 0:
                taken += part
    if taken or error == 0:
        return taken
    return error


cdef int64_t tls_writev(Tls *t, const iovec *iov, int n) noexcept nogil:
    cdef uint32_t held = 0, part
    cdef size_t at = 0
    cdef int64_t sent = 0, now
    cdef int k = 0
    while k < n or held:
        while k < n and held < TLS_PART:
            part = TLS_PART - held
            if part > iov[k].iov_len - at:
                part = <uint32_t>(iov[k].iov_len - at)
            memcpy(t.party.gathered + held, <const char *>iov[k].iov_base + at, part)
            held += part
            at += part
            if at == iov[k].iov_len:
                k += 1
                at = 0
        now = tls_send(t, t.party.gathered, held)
        if now < 0:
            return sent if sent else now
        sent += now
        if now < held:
            return sent
        held = 0
    return sent


cdef int tls_end(Tls *t) noexcept nogil:
    if t.failed:
        return -t.failed
    if t.ready and not t.said_end:
        t.said_end = 1
        ERR_clear_error()
        SSL_shutdown(t.ssl)
    return flush(t)
