// CUDA on the host: what kernels use of CUDA C++, as host C++, so that the real sources run where there is no GPU.
//
// A block's threads are fibers, which change places only where they wait for each other; blocks run one after the other.
// Shared memory is static. A barrier that some thread of the block, or warp, never reaches is an error, as is a wrong
// number of arguments.

#pragma once
#define GRAPHIR_EMULATED 1
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
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

// Runs a block; false if its threads wait for each other for ever.
static bool run_block() {
    count = int(blockDim.x * blockDim.y * blockDim.z);
    for (int i = 0; i < count; ++i) {
        fibers[i].state = READY;
        fibers[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    }
    do {
        for (int i = 0; i < count; ++i) {
            if (fibers[i].state == READY) resume(i);
        }
    } while (release());
    bool done = true;
    for (int i = 0; i < count; ++i) {
        if (fibers[i].state == DONE) continue;
        done = false;
        fibers[i].started = false;  // its stack is left as it is
    }
    return done;
}

const int STUCK = -1, WRONG_NUMBER = -2, TOO_LARGE = -3;

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
    static void (*chosen)(P...);
    chosen = kernel;
    given = arguments;
    body = [](void* each) { call(chosen, static_cast<void**>(each), std::index_sequence_for<P...>()); };
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    dynamic_shared = static_cast<unsigned char*>(aligned_alloc(128, (shared / 128 + 1) * 128));
    bool done = true;
    for (unsigned int z = 0; done && z < grid[2]; ++z) {
        for (unsigned int y = 0; done && y < grid[1]; ++y) {
            for (unsigned int x = 0; done && x < grid[0]; ++x) {
                blockIdx = {x, y, z};
                done = run_block();
            }
        }
    }
    free(dynamic_shared);
    return done ? 0 : STUCK;
}

}  // namespace emulated

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
