"""From PEM texts to an OpenSSL context for both roles. Nothing is taken over from one connection to the next: no
tickets, no session cache, no early data.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport strlen

from flyproxy._speedups.net.openssl cimport (
    BIO, ERR_clear_error, ERR_error_string_n, ERR_peek_last_error, EVP_PKEY, OPENSSL_NPN_NEGOTIATED, SSL, SSL_CTX,
    SSL_MODE_RELEASE_BUFFERS, SSL_SESS_CACHE_OFF, SSL_TLSEXT_ERR_ALERT_FATAL, SSL_TLSEXT_ERR_OK, SSL_VERIFY_PEER,
    SSL_VERIFY_FAIL_IF_NO_PEER_CERT, TLS1_3_VERSION, X509, X509_STORE, BIO_free, BIO_new_mem_buf, EVP_PKEY_free,
    PEM_read_bio_PrivateKey, PEM_read_bio_X509, SSL_CTX_add0_chain_cert, SSL_CTX_free, SSL_CTX_get_cert_store,
    SSL_CTX_new, SSL_CTX_set_alpn_protos, SSL_CTX_set_alpn_select_cb, SSL_CTX_set_ciphersuites,
    SSL_CTX_set_min_proto_version, SSL_CTX_set_mode, SSL_CTX_set_num_tickets, SSL_CTX_set_session_cache_mode,
    SSL_CTX_set_verify, SSL_CTX_use_PrivateKey, SSL_CTX_use_certificate, SSL_select_next_proto, TLS_method,
    X509_STORE_add_cert, X509_free,
)

cdef extern from *:
    """
    /* AES-128 first: it costs a third less than AES-256, and a mesh has no older peers to please. */
    #define FP_SUITES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
    """
    const char *FP_SUITES


# A key that wants a pass phrase is refused: there is nobody to ask.
cdef int no_password(char *out, int n, int writing, void *u) noexcept nogil:
    return -1


cdef int read_ca(SSL_CTX *ctx, BIO *pem) noexcept nogil:
    cdef X509_STORE *store = SSL_CTX_get_cert_store(ctx)
    cdef X509 *cert = PEM_read_bio_X509(pem, NULL, no_password, NULL)
    cdef int n = 0
    while cert != NULL:
        n += X509_STORE_add_cert(store, cert)
        X509_free(cert)
        cert = PEM_read_bio_X509(pem, NULL, no_password, NULL)
    return n


cdef int read_chain(SSL_CTX *ctx, BIO *pem) noexcept nogil:
    cdef X509 *cert = PEM_read_bio_X509(pem, NULL, no_password, NULL)
    cdef int done
    if cert == NULL:
        return 0
    done = SSL_CTX_use_certificate(ctx, cert)
    X509_free(cert)
    while done:
        cert = PEM_read_bio_X509(pem, NULL, no_password, NULL)
        if cert == NULL:
            return 1
        done = SSL_CTX_add0_chain_cert(ctx, cert)
        if not done:
            X509_free(cert)
    return 0


# Fits it the certificate? That is looked at in here (SSL_CTX_use_PrivateKey(3)).
cdef int read_key(SSL_CTX *ctx, BIO *pem) noexcept nogil:
    cdef EVP_PKEY *key = PEM_read_bio_PrivateKey(pem, NULL, no_password, NULL)
    cdef int done = key != NULL and SSL_CTX_use_PrivateKey(ctx, key)
    EVP_PKEY_free(key)
    return done


ctypedef int (*Reader)(SSL_CTX *ctx, BIO *pem) noexcept nogil


cdef int read_pem(SSL_CTX *ctx, Pem text, Reader reader, const char *what, char *why, uint32_t why_n) noexcept nogil:
    cdef BIO *pem = BIO_new_mem_buf(text.p, <int>text.n)
    cdef char reason[256]
    cdef int done
    if pem == NULL:
        return 0
    ERR_clear_error()
    done = reader(ctx, pem)
    BIO_free(pem)
    if not done:
        ERR_error_string_n(ERR_peek_last_error(), reason, sizeof(reason))
        snprintf(why, why_n, b"%s: %s", what, reason)
    ERR_clear_error()           # also of the end of the file, which is an error of PEM_read
    return done


cdef int choose(SSL *ssl, const uint8_t **out, uint8_t *out_n, const uint8_t *theirs, unsigned int n,
                void *ours) noexcept nogil:
    if SSL_select_next_proto(<uint8_t **>out, out_n, <const uint8_t *>ours, <unsigned int>strlen(<const char *>ours),
                             theirs, n) == OPENSSL_NPN_NEGOTIATED:
        return SSL_TLSEXT_ERR_OK
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef SSL_CTX *tls_context(Pem ca, Pem cert, Pem key, const char *protocol, char *why, uint32_t why_n) noexcept nogil:
    cdef SSL_CTX *ctx = SSL_CTX_new(TLS_method())
    snprintf(why, why_n, b"out of memory")
    if ctx == NULL:
        return NULL
    SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION)
    SSL_CTX_set_ciphersuites(ctx, FP_SUITES)
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS)
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF)
    SSL_CTX_set_num_tickets(ctx, 0)
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL)
    SSL_CTX_set_alpn_protos(ctx, <const uint8_t *>protocol, <unsigned int>strlen(protocol))
    SSL_CTX_set_alpn_select_cb(ctx, choose, <void *>protocol)
    if (read_pem(ctx, ca, read_ca, b"ca", why, why_n) and read_pem(ctx, cert, read_chain, b"cert", why, why_n)
            and read_pem(ctx, key, read_key, b"key", why, why_n)):
        return ctx
    SSL_CTX_free(ctx)
    return NULL
