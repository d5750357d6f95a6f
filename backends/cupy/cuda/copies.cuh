// Copies from global to shared memory that go on while a thread computes.
//
//     copy_later(to, from, inside)   16 bytes, or zeros where they are not inside
//     await_copies()                 until those of this thread are there; the others' are behind a barrier

struct alignas(16) Chunk {
    unsigned int part[4];
};

#ifdef GRAPHIR_EMULATED
__device__ inline void copy_later(void* to, const void* from, bool inside) {
    emulated::copy_later(*(Chunk*)to, *(const Chunk*)from, inside);
}

__device__ inline void await_copies() { emulated::settle(); }
#elif __CUDA_ARCH__ >= 800
__device__ inline void copy_later(void* to, const void* from, bool inside) {
    const unsigned int place = (unsigned int)__cvta_generic_to_shared(to), bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(bytes) : "memory");
}

__device__ inline void await_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#else
__device__ inline void copy_later(void* to, const void* from, bool inside) {
    *(Chunk*)to = inside ? *(const Chunk*)from : Chunk{{0, 0, 0, 0}};
}

__device__ inline void await_copies() {}
#endif
