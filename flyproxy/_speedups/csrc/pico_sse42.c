/* picohttpparser with SSE4.2 (setup.py adds -msse4.2 for this file alone). */
#define phr_parse_request fp_pico_request_sse42
#define phr_parse_response fp_pico_response_sse42
#define phr_parse_headers fp_pico_headers_sse42
#define phr_decode_chunked fp_pico_decode_chunked_sse42
#define phr_decode_chunked_is_in_data fp_pico_in_data_sse42
#include "picohttpparser.c"
