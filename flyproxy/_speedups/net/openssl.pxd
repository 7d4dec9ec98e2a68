# What we call of OpenSSL 3: one context of certificates, connections in it, and a BIO of our own under each.
from libc.stdint cimport uint8_t, uint64_t

cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    enum: BIO_TYPE_SOURCE_SINK, BIO_CTRL_FLUSH
    BIO_METHOD *BIO_meth_new(int type, const char *name)
    void BIO_meth_free(BIO_METHOD *method)
    int BIO_meth_set_read_ex(BIO_METHOD *method, int (*read)(BIO *, char *, size_t, size_t *) noexcept nogil)
    int BIO_meth_set_write_ex(BIO_METHOD *method, int (*write)(BIO *, const char *, size_t, size_t *) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD *method, long (*ctrl)(BIO *, int, long, void *) noexcept nogil)
    BIO *BIO_new(const BIO_METHOD *method)
    BIO *BIO_new_mem_buf(const void *p, int n)
    int BIO_free(BIO *bio)
    void BIO_set_data(BIO *bio, void *data)
    void *BIO_get_data(BIO *bio)
    void BIO_set_init(BIO *bio, int init)
    void BIO_set_retry_read(BIO *bio)
    void BIO_clear_retry_flags(BIO *bio)

cdef extern from "<openssl/x509v3.h>" nogil:
    ctypedef struct X509:
        pass
    ctypedef struct X509_STORE:
        pass
    ctypedef struct X509_VERIFY_PARAM:
        pass
    ctypedef struct EVP_PKEY:
        pass
    enum: X509_CHECK_FLAG_NO_WILDCARDS, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
    void X509_free(X509 *cert)
    void EVP_PKEY_free(EVP_PKEY *key)
    int X509_STORE_add_cert(X509_STORE *store, X509 *cert)
    int X509_check_host(X509 *cert, const char *name, size_t n, unsigned int flags, char **peername)
    void X509_VERIFY_PARAM_set_hostflags(X509_VERIFY_PARAM *param, unsigned int flags)
    int X509_VERIFY_PARAM_set1_host(X509_VERIFY_PARAM *param, const char *name, size_t n)

cdef extern from "<openssl/pem.h>" nogil:
    X509 *PEM_read_bio_X509(BIO *bio, X509 **out, int (*password)(char *, int, int, void *) noexcept nogil, void *u)
    EVP_PKEY *PEM_read_bio_PrivateKey(BIO *bio, EVP_PKEY **out,
                                      int (*password)(char *, int, int, void *) noexcept nogil, void *u)

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()
    unsigned long ERR_peek_last_error()
    void ERR_error_string_n(unsigned long e, char *out, size_t n)

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL_METHOD:
        pass
    enum:
        SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN, SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        SSL_MODE_RELEASE_BUFFERS, SSL_SESS_CACHE_OFF, TLS1_3_VERSION, SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_ALERT_FATAL
        SSL_KEY_UPDATE_REQUESTED, OPENSSL_NPN_NEGOTIATED
    const SSL_METHOD *TLS_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *ctx)
    int SSL_CTX_set_min_proto_version(SSL_CTX *ctx, int version)
    int SSL_CTX_set_ciphersuites(SSL_CTX *ctx, const char *names)
    long SSL_CTX_set_mode(SSL_CTX *ctx, long mode)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *ctx, long mode)
    int SSL_CTX_set_num_tickets(SSL_CTX *ctx, size_t n)
    void SSL_CTX_set_verify(SSL_CTX *ctx, int mode, void *callback)
    X509_STORE *SSL_CTX_get_cert_store(SSL_CTX *ctx)
    int SSL_CTX_use_certificate(SSL_CTX *ctx, X509 *cert)
    int SSL_CTX_use_PrivateKey(SSL_CTX *ctx, EVP_PKEY *key)
    int SSL_CTX_add0_chain_cert(SSL_CTX *ctx, X509 *cert)
    int SSL_CTX_set_alpn_protos(SSL_CTX *ctx, const uint8_t *protos, unsigned int n)
    void SSL_CTX_set_alpn_select_cb(
        SSL_CTX *ctx,
        int (*select)(SSL *, const uint8_t **, uint8_t *, const uint8_t *, unsigned int, void *) noexcept nogil,
        void *u)
    int SSL_select_next_proto(uint8_t **out, uint8_t *out_n, const uint8_t *ours, unsigned int ours_n,
                              const uint8_t *theirs, unsigned int theirs_n)
    SSL *SSL_new(SSL_CTX *ctx)
    void SSL_free(SSL *ssl)
    void SSL_set_bio(SSL *ssl, BIO *read, BIO *write)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    X509_VERIFY_PARAM *SSL_get0_param(SSL *ssl)
    X509 *SSL_get0_peer_certificate(const SSL *ssl)
    void SSL_get0_alpn_selected(const SSL *ssl, const uint8_t **name, unsigned int *n)
    int SSL_do_handshake(SSL *ssl)
    int SSL_read_ex(SSL *ssl, void *p, size_t n, size_t *got)
    int SSL_write_ex(SSL *ssl, const void *p, size_t n, size_t *written)
    int SSL_shutdown(SSL *ssl)
    int SSL_key_update(SSL *ssl, int kind)
    int SSL_get_error(const SSL *ssl, int result)
