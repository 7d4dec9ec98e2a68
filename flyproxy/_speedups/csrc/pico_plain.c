/* picohttpparser without SIMD: for other CPUs, and for valgrind, which does not know pcmpestri. */
#define phr_parse_request fp_pico_request_plain
#define phr_parse_response fp_pico_response_plain
#define phr_parse_headers fp_pico_headers_plain
#define phr_decode_chunked fp_pico_decode_chunked_plain
#define phr_decode_chunked_is_in_data fp_pico_in_data_plain
#include "picohttpparser.c"
