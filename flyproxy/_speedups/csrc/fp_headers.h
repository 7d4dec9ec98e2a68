/* The headers that the proxy knows by name, and what it does with each: one row per header.
 *
 * fp_header_kind finds a name by its length and its first eight bytes; at most a few constants are compared.
 */
#ifndef FLYPROXY_HEADERS_H
#define FLYPROXY_HEADERS_H

#include "fp_text.h"

enum fp_header_kind {  /* at most 64: sets of kinds are one word */
    H_UNKNOWN = 0,
    H_TE, H_VIA,
    H_DATE, H_HOST, H_RANGE,
    H_ACCEPT, H_COOKIE, H_EXPECT, H_PRAGMA, H_SERVER,
    H_TRAILER, H_UPGRADE,
    H_FORWARDED,
    H_CONNECTION, H_KEEP_ALIVE, H_SET_COOKIE, H_TRACESTATE,
    H_TRACEPARENT,
    H_CONTENT_TYPE, H_MAX_FORWARDS,
    H_AUTHORIZATION, H_CACHE_CONTROL, H_CONTENT_RANGE,
    H_CONTENT_LENGTH, H_HTTP2_SETTINGS,
    H_X_FORWARDED_FOR, H_X_REQUEST_START,
    H_CONTENT_ENCODING, H_PROXY_CONNECTION, H_X_FORWARDED_PORT, H_WWW_AUTHENTICATE,
    H_SEC_WEBSOCKET_KEY, H_TRANSFER_ENCODING,
    H_PROXY_AUTHENTICATE,
    H_PROXY_AUTHORIZATION,
    H_SEC_WEBSOCKET_VERSION,
    H_PROXY_AUTHENTICATION_INFO,
    H_COUNT,
};

enum fp_header_rule {
    HF_RQ_DROP = 1,      /* not passed to a VM as it came: hop-by-hop, or written by us */
    HF_RS_DROP = 2,      /* not passed to a client as it came */
    HF_ONCE = 4,         /* a second one makes the request ambiguous (RFC 9110 5.3): refused */
    HF_TWIN = 8,         /* its spelling with underscores is dropped: CGI-style servers read both as one name */
    HF_KEEP = 16,        /* Connection cannot nominate it away */
    HF_NO_TRAILER = 32,  /* RFC 9110 6.5.1: framing, routing, authentication, content format, and what we set */
    HF_RQ_READ = 64,     /* the request parser reads its value */
    HF_RS_READ = 128,    /* the response parser reads its value */
};

/* Drop both ways, twin included: RFC 9110 7.6.1 and what framing is made from. */
#define HF_HOP_ (HF_RQ_DROP | HF_RS_DROP | HF_TWIN | HF_NO_TRAILER)
/* Written by us on the way to a VM. */
#define HF_OURS_ (HF_RQ_DROP | HF_TWIN | HF_KEEP | HF_NO_TRAILER)

static const uint8_t fp_header_rules[H_COUNT] __attribute__((unused)) = {
    [H_TE] = HF_HOP_ | HF_RQ_READ,
    [H_VIA] = HF_OURS_ | HF_RQ_READ,
    [H_DATE] = HF_NO_TRAILER,
    [H_HOST] = HF_OURS_ | HF_RQ_READ,
    [H_RANGE] = HF_NO_TRAILER,
    [H_ACCEPT] = HF_RQ_READ,
    [H_COOKIE] = HF_KEEP | HF_NO_TRAILER,
    [H_EXPECT] = HF_RQ_DROP | HF_TWIN | HF_KEEP | HF_NO_TRAILER | HF_RQ_READ,
    [H_PRAGMA] = HF_NO_TRAILER,
    [H_SERVER] = HF_NO_TRAILER,
    [H_TRAILER] = HF_NO_TRAILER,
    [H_UPGRADE] = HF_HOP_ | HF_RQ_READ | HF_RS_READ,
    [H_FORWARDED] = HF_OURS_,
    [H_CONNECTION] = HF_HOP_ | HF_RQ_READ | HF_RS_READ,
    [H_KEEP_ALIVE] = HF_HOP_,
    [H_SET_COOKIE] = HF_NO_TRAILER,
    [H_TRACESTATE] = HF_OURS_,
    [H_TRACEPARENT] = HF_OURS_ | HF_RQ_READ,
    [H_CONTENT_TYPE] = HF_ONCE | HF_KEEP | HF_NO_TRAILER,
    [H_MAX_FORWARDS] = HF_NO_TRAILER,
    [H_AUTHORIZATION] = HF_ONCE | HF_KEEP | HF_NO_TRAILER,
    [H_CACHE_CONTROL] = HF_NO_TRAILER,
    [H_CONTENT_RANGE] = HF_NO_TRAILER,
    [H_CONTENT_LENGTH] = HF_HOP_ | HF_ONCE | HF_KEEP | HF_RQ_READ | HF_RS_READ,
    [H_HTTP2_SETTINGS] = HF_HOP_,
    [H_X_FORWARDED_FOR] = HF_OURS_,
    [H_X_REQUEST_START] = HF_OURS_,
    [H_CONTENT_ENCODING] = HF_KEEP | HF_NO_TRAILER,
    [H_PROXY_CONNECTION] = HF_HOP_,
    [H_X_FORWARDED_PORT] = HF_OURS_,
    [H_WWW_AUTHENTICATE] = HF_NO_TRAILER,
    [H_SEC_WEBSOCKET_KEY] = HF_ONCE | HF_KEEP | HF_NO_TRAILER | HF_RQ_READ,
    [H_TRANSFER_ENCODING] = HF_HOP_ | HF_ONCE | HF_KEEP | HF_RQ_READ | HF_RS_READ,
    [H_PROXY_AUTHENTICATE] = HF_HOP_,
    [H_PROXY_AUTHORIZATION] = HF_HOP_,
    [H_SEC_WEBSOCKET_VERSION] = HF_ONCE | HF_KEEP | HF_NO_TRAILER | HF_RQ_READ,
    [H_PROXY_AUTHENTICATION_INFO] = HF_HOP_,
};

#define FP_IS_(literal, kind) \
    if (word == fp_literal(literal) && fp_same_tail(name, literal, sizeof literal - 1)) \
        return kind

/* name: n token characters. */
FP_INLINE int fp_header_kind(const char *name, uint32_t n)
{
    if (n < 2 || n > 25)
        return H_UNKNOWN;
    uint64_t word = fp_lower_word(name, n);
    switch (n) {
    case 2:
        FP_IS_("te", H_TE);
        break;
    case 3:
        FP_IS_("via", H_VIA);
        break;
    case 4:
        FP_IS_("host", H_HOST);
        FP_IS_("date", H_DATE);
        break;
    case 5:
        FP_IS_("range", H_RANGE);
        break;
    case 6:
        FP_IS_("accept", H_ACCEPT);
        FP_IS_("cookie", H_COOKIE);
        FP_IS_("server", H_SERVER);
        FP_IS_("expect", H_EXPECT);
        FP_IS_("pragma", H_PRAGMA);
        break;
    case 7:
        FP_IS_("upgrade", H_UPGRADE);
        FP_IS_("trailer", H_TRAILER);
        break;
    case 9:
        FP_IS_("forwarded", H_FORWARDED);
        break;
    case 10:
        FP_IS_("connection", H_CONNECTION);
        FP_IS_("keep-alive", H_KEEP_ALIVE);
        FP_IS_("set-cookie", H_SET_COOKIE);
        FP_IS_("tracestate", H_TRACESTATE);
        break;
    case 11:
        FP_IS_("traceparent", H_TRACEPARENT);
        break;
    case 12:
        FP_IS_("content-type", H_CONTENT_TYPE);
        FP_IS_("max-forwards", H_MAX_FORWARDS);
        break;
    case 13:
        FP_IS_("authorization", H_AUTHORIZATION);
        FP_IS_("cache-control", H_CACHE_CONTROL);
        FP_IS_("content-range", H_CONTENT_RANGE);
        break;
    case 14:
        FP_IS_("content-length", H_CONTENT_LENGTH);
        FP_IS_("http2-settings", H_HTTP2_SETTINGS);
        break;
    case 15:
        FP_IS_("x-forwarded-for", H_X_FORWARDED_FOR);
        FP_IS_("x-request-start", H_X_REQUEST_START);
        break;
    case 16:
        FP_IS_("content-encoding", H_CONTENT_ENCODING);
        FP_IS_("proxy-connection", H_PROXY_CONNECTION);
        FP_IS_("x-forwarded-port", H_X_FORWARDED_PORT);
        FP_IS_("www-authenticate", H_WWW_AUTHENTICATE);
        break;
    case 17:
        FP_IS_("sec-websocket-key", H_SEC_WEBSOCKET_KEY);
        FP_IS_("transfer-encoding", H_TRANSFER_ENCODING);
        break;
    case 18:
        FP_IS_("proxy-authenticate", H_PROXY_AUTHENTICATE);
        break;
    case 19:
        FP_IS_("proxy-authorization", H_PROXY_AUTHORIZATION);
        break;
    case 21:
        FP_IS_("sec-websocket-version", H_SEC_WEBSOCKET_VERSION);
        break;
    case 25:
        FP_IS_("proxy-authentication-info", H_PROXY_AUTHENTICATION_INFO);
        break;
    }
    return H_UNKNOWN;
}

/* Names that only we write, whatever follows: Fly-*, flyproxy-*, X-Forwarded-* (but For and Port have rows above). */
FP_INLINE int fp_reserved_name(const char *name, uint32_t n)
{
    return fp_starts(name, n, "fly-") || fp_starts(name, n, "flyproxy-") || fp_starts(name, n, "x-forwarded-");
}

/* 1 when the name has an underscore and, with hyphens in their place, is one that frames a message or that we set.
 * A longer name than any of ours is a twin by its beginning at most, so the copy may be cut. */
FP_INLINE int fp_is_twin(const char *name, uint32_t n)
{
    char plain[32];
    uint32_t kept = n < sizeof plain ? n : sizeof plain;
    if (memchr(name, '_', kept) == NULL)
        return 0;
    for (uint32_t i = 0; i < kept; i++)
        plain[i] = name[i] == '_' ? '-' : name[i];
    int kind = n == kept ? fp_header_kind(plain, n) : H_UNKNOWN;
    return (fp_header_rules[kind] & HF_TWIN) || fp_reserved_name(plain, kept);
}

#endif
