/*
 * Counts what a program does with memory: heap allocations, and bytes moved by memcpy and memmove in calls of at least
 * 512 bytes. Loaded with LD_PRELOAD; the totals are in the file named by SEALANE_COUNT_FILE, mapped, so that they can be
 * read at any time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE = 512 };

struct totals {
    uint64_t allocations;
    uint64_t copied_bytes;
};

static struct totals unmapped;
static struct totals *totals = &unmapped;

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

__attribute__((constructor)) static void map_totals(void)
{
    const char *file = getenv("SEALANE_COUNT_FILE");
    int fd = file ? open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (fd < 0 || ftruncate(fd, sizeof *totals) != 0)
        _exit(99);
    void *map = mmap(NULL, sizeof *totals, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        _exit(99);
    close(fd);
    totals = map;
}

static void count_allocation(void)
{
    __atomic_fetch_add(&totals->allocations, 1, __ATOMIC_RELAXED);
}

static void count_copy(size_t bytes)
{
    if (bytes >= LARGE)
        __atomic_fetch_add(&totals->copied_bytes, bytes, __ATOMIC_RELAXED);
}

void *malloc(size_t bytes)
{
    count_allocation();
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    count_allocation();
    return __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
    count_allocation();
    return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    count_allocation();
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    count_allocation();
    *out = __libc_memalign(alignment, bytes);
    return *out ? 0 : 12;
}

void *memcpy(void *to, const void *from, size_t bytes)
{
    count_copy(bytes);
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    count_copy(bytes);
    unsigned char *target = to;
    const unsigned char *source = from;
    if (target <= source || target >= source + bytes) {
        __asm__ volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(bytes) : : "memory");
    } else {
        while (bytes--) {
            target[bytes] = source[bytes];
            __asm__ volatile("" : : : "memory");
        }
    }
    return to;
}
