from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset
from flyproxy._speedups.shm.table cimport HOST_PORTS_MAX, ROLE_EDGE, ROLE_WORKER
from flyproxy._speedups.shm.table_layout cimport HOST_MAX, NAME_MAX

HEALTH = {"unknown": 0, "passing": 1, "critical": 2}
ROLES = {"edge": ROLE_EDGE, "worker": ROLE_WORKER}


cdef bytes name_bytes(str what, value, int most):
    name = value.encode() if value.isascii() else b""
    if not 0 < len(name) <= most:
        raise ValueError(f"{what} {value!r} does not have 1 to {most} ASCII characters")
    return name


cdef bytes app_bytes(name):
    return name_bytes("app", name, NAME_MAX)


cdef bytes host_bytes(host):
    name = name_bytes("hostname", host, HOST_MAX)
    if host != host.lower() or "*" in host.removeprefix("*."):
        raise ValueError(f"hostname {host!r} is not in lower case, or has a '*' that is not the whole first label")
    return name


cdef bytes address_bytes(address):
    if len(address) != 16:
        raise ValueError(f"address has {len(address)} bytes; it must have 16 (v4 as v4-mapped)")
    return bytes(address)


cdef bytes region_bytes(region):
    return name_bytes("region", region, 15) if region else b""


cdef int fill_text(char *out, uint32_t cap, str what, value) except -1:
    text = name_bytes(what, value, cap - 1) if value else b""
    memcpy(out, <const char *>text, len(text))
    return <int>len(text)


cdef int fill_machine(TMachine *out, id, ip16, int port, region, host, health, bint cordoned) except -1:
    address = address_bytes(ip16)
    memset(out, 0, sizeof(TMachine))
    if not id:
        raise ValueError("a machine needs an id")
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} is not between 0 and 65535")
    if health not in HEALTH:
        raise ValueError(f"health {health!r} is not one of {', '.join(HEALTH)}")
    out.id_n = fill_text(out.id, sizeof(out.id), "machine id", id)
    out.region_n = fill_text(out.region, sizeof(out.region), "region", region)
    out.host_n = fill_text(out.host, sizeof(out.host), "host", host)
    memcpy(out.address, <const uint8_t *>address, 16)
    out.port = port
    out.health = HEALTH[health]
    out.cordoned = cordoned
    return 0


cdef int fill_host(THost *out, id, region, ip16, ports, epoch, roles, bint tls) except -1:
    cdef uint32_t i
    address = address_bytes(ip16)
    memset(out, 0, sizeof(THost))
    if not id:
        raise ValueError("a host needs an id")
    if len(ports) > HOST_PORTS_MAX or not all(0 < port <= 65535 for port in ports):
        raise ValueError(f"ports {ports!r} of host {id!r} are not at most {HOST_PORTS_MAX} numbers from 1 to 65535")
    if not 0 <= epoch < 1 << 32:
        raise ValueError(f"epoch {epoch!r} of host {id!r} is not between 0 and {(1 << 32) - 1}")
    for role in roles:
        if role not in ROLES:
            raise ValueError(f"role {role!r} of host {id!r} is not one of {', '.join(ROLES)}")
        out.roles |= <uint8_t>ROLES[role]
    out.id_n = fill_text(out.id, sizeof(out.id), "host", id)
    out.region_n = fill_text(out.region, sizeof(out.region), "region", region)
    memcpy(out.address, <const uint8_t *>address, 16)
    out.epoch = epoch
    out.tls = tls
    out.nports = len(ports)
    for i in range(out.nports):
        out.ports[i] = ports[i]
    return 0
