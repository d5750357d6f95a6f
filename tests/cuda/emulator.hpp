// CUDA on the host: what kernels use of CUDA C++, as host C++, so that the real sources run where there is no GPU.
//
// A block's threads are fibers, which change places only where they wait for each other; blocks run one after the other.
// Both take their turns in another order each time: what depends on who comes first, for want of a barrier, shows.
// Shared memory is NaN when a block begins. Errors are a barrier that some thread of the block, or warp, never
// reaches; a wrong number of arguments; an address of no memory, or of none that is aligned as what is loaded there has
// to be; an index beyond an array in registers or shared memory; and an integer that grows out of its type.

#pragma once
#define GRAPHIR_EMULATED 1
// C's <math.h> and <stdlib.h>, not C++'s, which bring <cmath>: of every kernel g++ would spend a fifth of its time there.
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS
#include <math.h>
#include <stdlib.h>
#undef _GLIBCXX_INCLUDE_NEXT_C_HEADERS
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static __attribute__((section("shared_memory")))
#define __constant__ static
#define __launch_bounds__(...)

struct uint3 { unsigned int x, y, z; };
struct dim3 { unsigned int x = 1, y = 1, z = 1; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace emulated {

enum State { READY, AT_BLOCK, AT_WARP, DONE };

struct Fiber {
    ucontext_t context;
    jmp_buf place;
    bool started = false;
    State state = DONE;
    uint3 index;
};

const int MOST = 1024, STACK = 256 * 1024;
static Fiber fibers[MOST];
static int count, now;
static jmp_buf scheduler;
static unsigned char slots[MOST][16];
static unsigned char* dynamic_shared;
static void (*body)(void*);
static void* given;

// What went wrong in a launch; see the errors below.
static int fault;
// Where all that is __shared__ lies; nowhere if nothing is.
#define LINKER_MADE __attribute__((weak, visibility("hidden")))
extern "C" LINKER_MADE char __start_shared_memory[], __stop_shared_memory[];

static unsigned long long random_state = 1;

// Below `bound`; Marsaglia's xorshift.
static unsigned int random_below(unsigned int bound) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned int)(random_state >> 32) % bound;
}

static void shuffle(int* order, int many) {
    for (int i = many - 1; i > 0; --i) std::swap(order[i], order[random_below(i + 1)]);
}

static void give_way() {
    if (_setjmp(fibers[now].place) == 0) _longjmp(scheduler, 1);
}

static void live() {
    for (;;) {
        body(given);
        fibers[now].state = DONE;
        give_way();
    }
}

static void resume(int which) {
    now = which;
    Fiber& fiber = fibers[now];
    threadIdx = fiber.index;
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = malloc(STACK);
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, live, 0);
    setcontext(&fiber.context);
}

inline void wait(State state) {
    fibers[now].state = state;
    give_way();
}

// What threads have asked to be copied, and have not waited for: the later, the better a missing wait shows.
struct Copy {
    void* to;
    const void* from;
    size_t bytes;
    bool inside;
};
static std::vector<Copy> copies[MOST];

template <class T>
void copy_later(T& to, const T& from, bool inside) { copies[now].push_back({&to, &from, sizeof(T), inside}); }

inline void settle() {
    for (const Copy& each : copies[now]) {
        if (each.inside) memcpy(each.to, each.from, each.bytes);
        else memset(each.to, 0, each.bytes);
    }
    copies[now].clear();
}

// Lets go those who all wait for each other. Whether somebody was let go.
static bool release() {
    bool all = true;
    for (int i = 0; i < count; ++i) all = all && (fibers[i].state == AT_BLOCK || fibers[i].state == DONE);
    bool any = false;
    for (int low = 0; low < count; low += 32) {
        const int high = low + 32 < count ? low + 32 : count;
        bool warp = true;
        for (int i = low; i < high; ++i) warp = warp && fibers[i].state == AT_WARP;
        for (int i = low; i < high; ++i) {
            if (warp || (all && fibers[i].state == AT_BLOCK)) {
                fibers[i].state = READY;
                any = true;
            }
        }
    }
    return any;
}

const int STUCK = -1, WRONG_NUMBER = -2, TOO_LARGE = -3, OUTSIDE = -4, MISALIGNED = -5, BEYOND = -6, OVERFLOWN = -7;
const int NO_BLOCKS = -8;

// Ends the launch, from within a fiber.
static void fail(int what) {
    fault = what;
    _longjmp(scheduler, 1);
}

// Runs a block. Whether its threads all came to their end.
static bool run_block() {
    static int order[MOST];
    count = int(blockDim.x * blockDim.y * blockDim.z);
    if (__start_shared_memory) memset(__start_shared_memory, 0xFF, __stop_shared_memory - __start_shared_memory);
    for (int i = 0; i < count; ++i) {
        copies[i].clear();
        fibers[i].state = READY;
        fibers[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    }
    for (int i = 0; i < count; ++i) order[i] = i;
    do {
        shuffle(order, count);
        for (int i = 0; i < count && !fault; ++i) {
            if (fibers[order[i]].state == READY) resume(order[i]);
        }
    } while (!fault && release());
    bool done = true;
    for (int i = 0; i < count; ++i) {
        if (fibers[i].state == DONE) continue;
        done = false;
        fibers[i].started = false;  // its stack is left as it is
    }
    return done;
}

static unsigned long long common_divisor(unsigned long long a, unsigned long long b) {
    return b ? common_divisor(b, a % b) : a;
}

// A block of the grid by its number, in an order that goes through all: multiples of what shares no divisor with them.
static unsigned long long stride_through(unsigned long long blocks) {
    unsigned long long step = blocks < 3 ? 1 : 1 + random_below((unsigned int)blocks - 1);
    while (common_divisor(step, blocks) != 1) ++step;
    return step;
}

template <class... P, size_t... I>
void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<P>*>(arguments[I])...);
}

// 0, one of the errors above, or one more than the number of the argument that has too few bytes.
template <class... P>
int launch(
    void (*kernel)(P...), void** arguments, const int* bytes, int number, const unsigned int* grid,
    const unsigned int* block, size_t shared
) {
    const int sizes[] = {0, int(sizeof(P))...};
    if (number != int(sizeof...(P))) return WRONG_NUMBER;
    for (int i = 0; i < number; ++i) {
        if (bytes[i] < sizes[i + 1]) return i + 1;
    }
    if (block[0] * block[1] * block[2] > unsigned(MOST)) return TOO_LARGE;
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return NO_BLOCKS;
    static void (*chosen)(P...);
    chosen = kernel;
    given = arguments;
    body = [](void* each) { call(chosen, static_cast<void**>(each), std::index_sequence_for<P...>()); };
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    // It ends where its memory does: to read on is a fault.
    const size_t page = 4096, held = (shared + 15) / 16 * 16, pages = (held + page - 1) / page * page;
    void* const mapped = mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(static_cast<unsigned char*>(mapped) + pages, page, PROT_NONE);
    dynamic_shared = static_cast<unsigned char*>(mapped) + pages - held;
    fault = 0;
    struct sigaction mine = {}, before_segv, before_bus;
    mine.sa_handler = [](int) { fail(OUTSIDE); };
    mine.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &mine, &before_segv);
    sigaction(SIGBUS, &mine, &before_bus);
    const unsigned long long blocks = (unsigned long long)grid[0] * grid[1] * grid[2], step = stride_through(blocks);
    unsigned long long at = random_below((unsigned int)blocks);
    bool done = true;
    for (unsigned long long i = 0; done && i < blocks; ++i, at = (at + step) % blocks) {
        blockIdx = {(unsigned int)(at % grid[0]), (unsigned int)(at / grid[0] % grid[1]), (unsigned int)(at / grid[0] / grid[1])};
        memset(dynamic_shared, 0xFF, shared);
        done = run_block();
    }
    sigaction(SIGSEGV, &before_segv, nullptr);
    sigaction(SIGBUS, &before_bus, nullptr);
    munmap(mapped, pages + page);
    return done ? 0 : fault ? fault : STUCK;
}

}  // namespace emulated

// What g++'s checks call when they fail (-fsanitize=alignment,bounds,signed-integer-overflow).
#define CHECK(name, what, ...) \
    extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##name(__VA_ARGS__) { emulated::fail(what); }
CHECK(type_mismatch_v1, emulated::MISALIGNED, void*, void*)
CHECK(out_of_bounds, emulated::BEYOND, void*, void*)
CHECK(add_overflow, emulated::OVERFLOWN, void*, void*, void*)
CHECK(sub_overflow, emulated::OVERFLOWN, void*, void*, void*)
CHECK(mul_overflow, emulated::OVERFLOWN, void*, void*, void*)
CHECK(negate_overflow, emulated::OVERFLOWN, void*, void*)

// -- barriers and what warps tell each other ---------------------------------------------------------------

inline void __syncthreads() { emulated::wait(emulated::AT_BLOCK); }
inline void __syncwarp(unsigned int = 0xFFFFFFFFu) { emulated::wait(emulated::AT_WARP); }
inline void __threadfence() {}

namespace emulated {

// `x` of the thread `lane` of this warp; what it was before, where there is none.
template <class T>
T from_lane(T x, int lane) {
    const int mine = now, other = mine / 32 * 32 + lane;
    memcpy(slots[mine], &x, sizeof(T));
    __syncwarp();
    if (lane >= 0 && lane < 32 && other < count) memcpy(&x, slots[other], sizeof(T));
    __syncwarp();
    return x;
}

}  // namespace emulated

template <class T>
T __shfl_xor_sync(unsigned int, T x, int mask) { return emulated::from_lane(x, (emulated::now % 32) ^ mask); }
template <class T>
T __shfl_down_sync(unsigned int, T x, int by) { return emulated::from_lane(x, emulated::now % 32 + by); }
template <class T>
T __shfl_up_sync(unsigned int, T x, int by) { return emulated::from_lane(x, emulated::now % 32 - by); }
template <class T>
T __shfl_sync(unsigned int, T x, int lane) { return emulated::from_lane(x, lane % 32); }

inline unsigned int __ballot_sync(unsigned int, int holds) {
    unsigned int bits = 0;
    for (int lane = 0; lane < 32; ++lane) {
        const int vote = emulated::from_lane(emulated::now / 32 * 32 + lane < emulated::count ? holds : 0, lane);
        if (vote && emulated::now / 32 * 32 + lane < emulated::count) bits |= 1u << lane;
    }
    return bits;
}
inline int __popc(unsigned int x) { return __builtin_popcount(x); }
inline int __syncthreads_or(int holds) {
    static int any;
    __syncthreads();
    any = 0;
    __syncthreads();
    if (holds) any = 1;
    __syncthreads();
    return any;
}
template <class T>
T atomicAdd(T* target, T x) { const T old = *target; *target += x; return old; }

// -- numbers -----------------------------------------------------------------------------------------------

inline float __uint_as_float(unsigned int bits) { float x; memcpy(&x, &bits, 4); return x; }
inline unsigned int __float_as_uint(float x) { unsigned int bits; memcpy(&bits, &x, 4); return bits; }
// As CUDA has them, of float and of double; C has only the latter.
#define OF_FLOAT(name) inline float name(float x) { return name##f(x); }
OF_FLOAT(exp) OF_FLOAT(log) OF_FLOAT(sqrt) OF_FLOAT(tanh) OF_FLOAT(erf) OF_FLOAT(erfc) OF_FLOAT(sin) OF_FLOAT(cos)
OF_FLOAT(floor) OF_FLOAT(fabs)
inline float abs(float x) { return fabsf(x); }
inline double abs(double x) { return fabs(x); }
inline float pow(float x, float y) { return powf(x, y); }
inline float fmax(float x, float y) { return fmaxf(x, y); }
inline float fmin(float x, float y) { return fminf(x, y); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }

inline float float_of_half(unsigned short bits) { _Float16 x; memcpy(&x, &bits, 2); return float(x); }
inline unsigned short half_of_float(float x) {
    const _Float16 half = _Float16(x);
    unsigned short bits;
    memcpy(&bits, &half, 2);
    return bits;
}

struct __half {
    unsigned short bits;
    __half() = default;
    __half(float x) : bits(half_of_float(x)) {}
    operator float() const { return float_of_half(bits); }
};

struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) {
        const unsigned int wide = __float_as_uint(x);
        bits = x != x ? wide >> 16 | 0x40 : (wide + 0x7FFF + (wide >> 16 & 1)) >> 16;
    }
    operator float() const { return __uint_as_float((unsigned int)bits << 16); }
};
