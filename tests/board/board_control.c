// What a test turns while the board runs: memory that runs out at a chosen allocation, and time that has passed.
//
// BOARD_CONTROL names a file of the seven numbers below, which is mapped: the test writes and reads it from outside, and
// nothing of Python here takes part. Without it everything is as if this file were not there.

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "py/gc.h"
#include "py/mpconfig.h"

static struct {
    volatile int64_t fail_at; // the allocation that fails: 1 is the next; 0 none
    volatile int64_t fail_more; // how many behind it fail as well
    volatile int64_t of_c; // which allocations are meant: those of the MicroPython heap, or 1: of C's, which mbedTLS uses
    volatile int64_t allocations; // so far
    volatile int64_t failed; // so far
    volatile int64_t ticks_ms; // added to time.ticks_ms()
    volatile int64_t clock_s; // added to the clock
} nothing, *control = &nothing;

__attribute__((constructor)) static void control_open(void) {
    const char *name = getenv("BOARD_CONTROL");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (fd >= 0) {
        void *at = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        control = at == MAP_FAILED ? &nothing : at;
        close(fd);
    }
}

static bool fails(bool of_c) {
    if (control == &nothing || control->of_c != of_c) {
        return false;
    }
    ++control->allocations;
    if (control->fail_at == 0 || --control->fail_at > 0) {
        return false;
    }
    if (control->fail_more > 0) {
        --control->fail_more;
        control->fail_at = 1;
    }
    ++control->failed;
    return true;
}

// Between the sweep of a soft reset and the restart all that lives is free memory: one allocation would be somebody's
// object. On an ESP32 it goes well most times.
bool board_heap_is_gone;

void *__real_gc_alloc(size_t n_bytes, unsigned int alloc_flags);
void *__wrap_gc_alloc(size_t n_bytes, unsigned int alloc_flags) {
    if (board_heap_is_gone) {
        static const char why[] = "memory was taken after the heap had been swept\r\n";
        _exit(write(STDOUT_FILENO, why, sizeof(why) - 1) > 0 ? 70 : 71);
    }
    return fails(false) ? NULL : __real_gc_alloc(n_bytes, alloc_flags);
}

void *__real_gc_realloc(void *ptr, size_t n_bytes, bool allow_move);
void *__wrap_gc_realloc(void *ptr, size_t n_bytes, bool allow_move) {
    // What becomes smaller, or is given back, does not fail
    return n_bytes > (ptr ? gc_nbytes(ptr) : 0) && fails(false) ? NULL : __real_gc_realloc(ptr, n_bytes, allow_move);
}

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size) {
    return fails(true) ? NULL : __real_calloc(n, size);
}

mp_uint_t __real_mp_hal_ticks_ms(void);
mp_uint_t __wrap_mp_hal_ticks_ms(void) {
    return __real_mp_hal_ticks_ms() + (mp_uint_t)control->ticks_ms;
}

int64_t board_clock_s(void) {
    return control->clock_s;
}
