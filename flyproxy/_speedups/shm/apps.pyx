cimport cython

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from flyproxy._speedups.shm.arena cimport arena_retire
from flyproxy._speedups.shm.budget cimport BK_APP
from flyproxy._speedups.shm.draft cimport (
    Draft, Drafting, draft_build, draft_discard, draft_free, draft_publish, draft_reorder, draft_reset_ring,
)
from flyproxy._speedups.shm.idpool cimport (
    idpool_close, idpool_forget, idpool_give, idpool_keep, idpool_open, idpool_take,
)
from flyproxy._speedups.shm.platform cimport fp_release_u32, fp_store_u32
from flyproxy._speedups.shm.ports cimport ports_close, ports_count, ports_open, ports_publish
from flyproxy._speedups.shm.segments cimport NOBODY, Shm
from flyproxy._speedups.shm.spec cimport Spec, spec_free, spec_parse
from flyproxy._speedups.shm.table cimport TApp, TService, Table, table_app, table_service
from flyproxy._speedups.shm.table_layout cimport DirEntry


@cython.no_gc_clear
cdef class Apps:
    cdef open(self, Shm *shm, Room room, Table *former):
        cdef const TApp *app
        cdef uint32_t id
        cdef int error
        self.shm = shm
        self.room = room
        self.former = former
        self.declared = 0
        self.by_name, self.former_names, self.dirty_ids, self.gone_services = {}, {}, [], []
        self.drafts = <Draft *>calloc(shm.sizes.apps, sizeof(Draft))
        error = self.drafts == NULL
        error |= ports_open(&self.ports)
        error |= idpool_open(&self.ids, shm, shm.sizes.apps, BK_APP, -1,
                             <const DirEntry *>(former.base + shm.at.app_dir))
        error |= idpool_open(&self.service_ids, shm, shm.at.services, -1, -1,
                             <const DirEntry *>(former.base + shm.at.service_dir))
        if error:
            self.close()
            raise MemoryError("the table writer's own memory could not be allocated")
        for id in range(self.ids.fresh):
            app = table_app(former, id, self.ids.generation[id]) if self.ids.kept[id] else NULL
            if app != NULL:
                self.former_names[app.name[:app.name_n]] = id

    cdef close(self):
        cdef uint32_t id
        if self.drafts != NULL:
            for id in range(self.shm.sizes.apps):
                draft_free(&self.drafts[id])
        free(self.drafts)
        free(self.drafting.gone)
        self.drafts = NULL
        memset(&self.drafting, 0, sizeof(Drafting))
        idpool_close(&self.ids)
        idpool_close(&self.service_ids)
        ports_close(&self.ports)

    # -- names and ids
    cdef Draft *of(self, bytes name) except NULL:
        cdef Draft *draft
        cdef uint32_t id = NOBODY
        known = self.by_name.get(name)
        if known is not None:
            return &self.drafts[<uint32_t>known]
        former = self.former_names.get(name)
        if len(self.by_name) < self.shm.root.limit_apps:
            if former is not None and self.ids.kept[<uint32_t>former]:
                id = former
                idpool_keep(&self.ids, id)
            else:
                id = idpool_take(&self.ids)
        if id == NOBODY:
            raise self.room.full("apps", self.shm.root.limit_apps, "[table] apps")
        self.by_name[name] = id
        draft = self.dirty(id)
        draft.id = id
        draft.generation = self.ids.generation[id]
        draft.name_n = <uint32_t>len(name)
        memcpy(draft.name, <const char *>name, len(name))
        return draft

    cdef Draft *dirty(self, uint32_t id):
        cdef Draft *draft = &self.drafts[id]
        if not draft.dirty:
            draft.dirty = 1
            self.dirty_ids.append(id)
        return draft

    cdef count_ref(self, uint32_t id, int sign):
        if id != NOBODY:
            self.dirty(id).refs += sign

    cdef bint was(self, Draft *draft):
        return self.former_names.get(draft.name[:draft.name_n]) == draft.id

    # -- declarations
    cdef declare(self, bytes name, list services):
        cdef Spec spec
        cdef Draft *draft
        spec_parse(services, &spec)
        try:
            draft = self.of(name)
            self.assign_services(draft, &spec)
        except BaseException:
            spec_free(&spec)
            raise
        ports_count(&self.ports, draft.id, draft.ports, draft.nports, -1)
        ports_count(&self.ports, draft.id, spec.ports, spec.nports, 1)
        free(draft.ports)
        free(draft.services)
        draft.ports, draft.nports = spec.ports, spec.nports
        draft.services, draft.nservices = spec.services, spec.nservices
        self.declared += not draft.declared
        draft.declared = 1
        self.dirty(draft.id)
        if draft.hashes != spec.hashes:
            draft.hashes = spec.hashes
            draft_reset_ring(draft, &self.drafting)

    cdef hide(self, bytes name):
        cdef Draft *draft
        cdef uint32_t i
        known = self.by_name.get(name)
        if known is None or not self.drafts[<uint32_t>known].declared:
            return
        draft = self.dirty(known)
        ports_count(&self.ports, draft.id, draft.ports, draft.nports, -1)
        for i in range(draft.nservices):
            self.gone_services.append(draft.services[i].id)
        draft.nports = draft.nservices = 0
        draft.declared = draft.hashes = 0
        self.declared -= 1
        draft_reset_ring(draft, &self.drafting)

    cdef reorder(self):
        cdef uint32_t id
        cdef int changed
        for id in self.by_name.values():
            changed = draft_reorder(&self.drafts[id], &self.drafting)
            if changed:
                self.dirty(id)
            if changed < 0:
                raise MemoryError("the table writer's own memory is used up")

    cdef assign_services(self, Draft *draft, Spec *spec):
        """Ids and generations: those of the service with the same internal port, in order; new ones for the others."""
        cdef uint32_t i, id
        had = self.services_of(draft)
        taken = []
        for i in range(spec.nservices):
            same = had.get(spec.services[i].internal_port)
            if same:
                id = same.pop(0)
            else:
                id = idpool_take(&self.service_ids)
                if id == NOBODY:
                    for id in taken:
                        idpool_give(&self.service_ids, id)
                    raise self.room.full("services", self.shm.at.services, "[table] apps")
                taken.append(id)
            spec.services[i].id = id
            spec.services[i].generation = self.service_ids.generation[id]
        for i in range(spec.nservices):
            idpool_keep(&self.service_ids, spec.services[i].id)
        for left in had.values():
            self.gone_services.extend(left)

    cdef dict services_of(self, Draft *draft):
        """{internal port: [service ids]} of the app as it is, or as the former table had it."""
        cdef const TApp *app = NULL
        cdef const TService *service
        cdef uint32_t i
        found = {}
        for i in range(draft.nservices):
            found.setdefault(draft.services[i].internal_port, []).append(draft.services[i].id)
        if not draft.declared and self.was(draft):
            app = table_app(self.former, draft.id, draft.generation)
        for i in range(app.nservices if app != NULL else 0):
            service = table_service(self.former, app, i)
            if service != NULL and service.id < self.shm.at.services and self.service_ids.kept[service.id]:
                found.setdefault(service.internal_port, []).append(service.id)
        return found

    # -- commit
    cdef build(self):
        cdef uint32_t id, failed
        for failed in self.dirty_ids:
            if draft_build(&self.drafts[failed], &self.drafting) < 0:
                for id in self.dirty_ids:
                    draft_discard(&self.drafts[id], &self.drafting)
                raise self.room.memory_full()

    cdef publish(self, uint8_t *base):
        cdef DirEntry *apps = <DirEntry *>(base + self.shm.at.app_dir)
        cdef DirEntry *services = <DirEntry *>(base + self.shm.at.service_dir)
        cdef const TService *service
        cdef uint32_t id, i
        for id in self.dirty_ids:
            draft_publish(&self.drafts[id], &self.drafting, &apps[id])
            for i in range(self.drafts[id].nservices):
                service = &self.drafts[id].services[i]
                fp_store_u32(&services[service.id].generation, service.generation)
                fp_release_u32(&services[service.id].ref, id + 1)
        for id in self.gone_services:
            fp_release_u32(&services[id].ref, 0)
            idpool_keep(&self.service_ids, id)
            idpool_give(&self.service_ids, id)
        self.gone_services.clear()
        ports_publish(&self.ports, <uint32_t *>(base + self.shm.at.raw_ports), base + self.shm.at.http_ports)

    cdef collect(self):
        """What nobody names any more: lists of closed regions, apps, ids of the former table."""
        cdef Draft *draft
        cdef uint32_t i
        for i in range(self.drafting.gone_n):
            arena_retire(self.drafting.arena, self.drafting.gone[i])
        self.drafting.gone_n = 0
        for i in self.dirty_ids:
            draft = &self.drafts[i]
            if not draft.declared and draft.refs == 0:
                del self.by_name[draft.name[:draft.name_n]]
                draft_free(draft)
                idpool_give(&self.ids, i)
        self.dirty_ids.clear()
        if self.former_names:
            idpool_forget(&self.ids)
            idpool_forget(&self.service_ids)
            self.former_names = {}
