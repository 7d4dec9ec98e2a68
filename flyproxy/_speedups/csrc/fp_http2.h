/* The two tables of HTTP/2: the life of a stream (RFC 9113 5.1) and the budgets of an untrusted peer. */
#ifndef FLYPROXY_HTTP2_H
#define FLYPROXY_HTTP2_H

#include <stdint.h>

enum fp_stream_state {
    ST_IDLE,
    ST_OPEN,
    ST_HALF_LOCAL,   /* we have ended our side */
    ST_HALF_REMOTE,  /* the peer has ended its side */
    ST_CLOSED,       /* both ended, or the peer reset it */
    ST_RESET,        /* we reset it: what the peer sent before it knew is ignored */
    STREAM_STATES,
};

enum fp_stream_input {
    IN_HEADERS, IN_HEADERS_END, IN_DATA, IN_DATA_END, IN_RST, IN_WINDOW,  /* received; END is END_STREAM */
    OUT_HEADERS, OUT_HEADERS_END, OUT_DATA, OUT_DATA_END, OUT_RST,        /* sent */
    STREAM_INPUTS,
};

enum fp_verdict {
    V_OK,
    V_IGNORE,        /* as if it had not come */
    V_STREAM,        /* stream error STREAM_CLOSED */
    V_CONNECTION,    /* connection error PROTOCOL_ERROR */
    V_CLOSED,        /* connection error STREAM_CLOSED */
    V_REFUSED,       /* ours: the caller may not send this now */
};

#define OPN ST_OPEN
#define HLO ST_HALF_LOCAL
#define HRE ST_HALF_REMOTE
#define CLO ST_CLOSED
#define RES ST_RESET
#define BAD (V_CONNECTION << 4)
#define END (V_CLOSED << 4)
#define RST (V_STREAM << 4)
#define IGN (V_IGNORE << 4)
#define ___ (V_REFUSED << 4)

/* The next state, or a verdict above four bits. A frame on a stream that both sides ended is no race: END_STREAM is the
 * last that a peer sends. Only RST_STREAM and WINDOW_UPDATE may still be on their way then. */
static const uint8_t fp_stream_steps[STREAM_STATES][STREAM_INPUTS] __attribute__((unused)) = {
    /*                in: headers  +end  data  +end  rst  window   out: headers  +end  data  +end  rst */
    [ST_IDLE]        = {  OPN,     HRE,  BAD,  BAD,  BAD, BAD,          OPN,     HLO,  ___,  ___,  ___ },
    [ST_OPEN]        = {  OPN,     HRE,  OPN,  HRE,  CLO, OPN,          OPN,     HLO,  OPN,  HLO,  RES },
    [ST_HALF_LOCAL]  = {  HLO,     CLO,  HLO,  CLO,  CLO, HLO,          ___,     ___,  ___,  ___,  RES },
    [ST_HALF_REMOTE] = {  RST,     RST,  RST,  RST,  CLO, HRE,          HRE,     CLO,  HRE,  CLO,  RES },
    [ST_CLOSED]      = {  END,     END,  END,  END,  IGN, IGN,          ___,     ___,  ___,  ___,  ___ },
    [ST_RESET]       = {  IGN,     IGN,  IGN,  IGN,  IGN, IGN,          ___,     ___,  ___,  ___,  ___ },
};

#undef OPN
#undef HLO
#undef HRE
#undef CLO
#undef RES
#undef BAD
#undef END
#undef RST
#undef IGN
#undef ___

enum fp_budget {
    B_RESET,       /* streams that the peer reset (CVE-2023-44487) */
    B_OWN_RESET,   /* streams that it made us reset or refuse (CVE-2025-8671) */
    B_PING,        /* CVE-2019-9512 */
    B_SETTINGS,    /* CVE-2019-9515 */
    B_EMPTY_DATA,  /* DATA without bytes and without END_STREAM (CVE-2019-9518) */
    B_WINDOW,      /* WINDOW_UPDATE; every DATA frame of ours earns two (CVE-2019-9511) */
    B_IGNORED,     /* PRIORITY, unknown frames, frames on closed streams (CVE-2019-9513) */
    BUDGETS,
};

struct fp_budget_rule { uint16_t size, per_second; };

static const struct fp_budget_rule fp_budget_rules[BUDGETS] __attribute__((unused)) = {
    [B_RESET] = {200, 20}, [B_OWN_RESET] = {100, 10}, [B_PING] = {100, 10}, [B_SETTINGS] = {50, 1},
    [B_EMPTY_DATA] = {100, 10}, [B_WINDOW] = {2000, 200}, [B_IGNORED] = {1000, 100},
};

#endif
