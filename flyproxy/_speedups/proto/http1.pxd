# HTTP/1.0 and 1.1 heads: bytes in, structs out, and heads written anew. Knows no socket and no clock.
# Return contract of every parser here: > 0 bytes consumed; 0 more bytes needed; < 0 the negated ErrorCode.
# This is the page to cimport from; each name says below which file it lives in.

# -- types, limits, flags
from flyproxy._speedups.proto.head cimport *

# -- requests
# int64_t http1_parse_request(buf, n, scanned, limits, via, out)
#   `scanned`: bytes of buf already looked at by an earlier call that returned 0. `via`: our pseudonym, for own_via.
#   Full strictness of docs/bad-input.md. Empty lines before the request line are skipped (RFC 9112 2.2), at most 4.
#   An error that is certain is returned although the head is not complete.
from flyproxy._speedups.proto.http1_request cimport http1_parse_request
# uint32_t http1_count_pipelined(buf, n, *scanned)
#   How many whole pipelined heads stand in buf before the first that is partial, malformed or has a body; *scanned is
#   the offset to continue from (counting may be resumed with more bytes).
from flyproxy._speedups.proto.http1_request cimport http1_count_pipelined
# uint32_t http1_emit_request(head, emit, out, cap)
#   Head written anew for a VM: hop-by-hop and forbidden headers dropped, ours added, framing from `head`. Bytes, or 0
# if
#   `cap` is too small; 2 * head bytes + 8 * nheaders + 2048 always suffice.
from flyproxy._speedups.proto.http1_emit cimport http1_emit_request
# Slice http1_header(head, name, name_n) / http1_cookie(head, name, name_n)
#   First value of a header (name in lower case; dropped ones are found too) or of a cookie; {NULL, 0} when absent.
from flyproxy._speedups.proto.http1_lookup cimport http1_cookie, http1_header

# -- responses. `method`: of the request; `upgrade`: the request asked for an upgrade.
# int64_t http1_parse_response(buf, n, scanned, limits, method, upgrade, out)
from flyproxy._speedups.proto.http1_response cimport http1_parse_response
# uint32_t http1_emit_response(head, emit, out, cap)
#   "Connection: close" is also written when only the end of the connection can end the body. The same room suffices.
from flyproxy._speedups.proto.http1_emit cimport http1_emit_response

# -- small shared helpers: digits written, no NUL; bytes
from flyproxy._speedups.proto.http1_lookup cimport put_decimal, put_hex
