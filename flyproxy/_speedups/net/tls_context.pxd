# The certificates of one party, as OpenSSL keeps them. Made once, then only read.
from libc.stdint cimport uint32_t
from flyproxy._speedups.net.openssl cimport SSL_CTX

cdef struct Pem:
    const char *p
    uint32_t n

# TLS 1.3 alone, both sides show a certificate of `ca` and speak `protocol` (ALPN, its length in front). `cert` may be
# followed by the certificates between it and the CA. NULL: `why` says what could not be used.
cdef SSL_CTX *tls_context(Pem ca, Pem cert, Pem key, const char *protocol, char *why, uint32_t why_n) noexcept nogil
