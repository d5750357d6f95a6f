// Dtypes: what an array holds, and the number that kernels compute with.
//
//     number(x)        what a stored element stands for: float of float16, bfloat16 and float32, double of float64,
//                      integers and bools as they are
//     convert<S>(x)    x as an element of type S, rounded to nearest, ties to even
//
// float16 is converted by the machine, bfloat16 by its bits: it is the upper half of a float32. A float64 goes to
// either by way of float32. NaN stays NaN, and what is too large becomes infinity.

#ifndef GRAPHIR_EMULATED
__device__ inline float float_of_half(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ inline unsigned short half_of_float(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif

struct float16 {
    unsigned short bits;
};

struct bfloat16 {
    unsigned short bits;
};

__device__ inline float number(float16 x) { return float_of_half(x.bits); }
__device__ inline float number(bfloat16 x) { return __uint_as_float((unsigned int)x.bits << 16); }
__device__ inline float number(float x) { return x; }
__device__ inline double number(double x) { return x; }
__device__ inline int number(int x) { return x; }
__device__ inline long long number(long long x) { return x; }
__device__ inline bool number(bool x) { return x; }

template <class S>
struct Converted {
    template <class X>
    static __device__ inline S of(X x) { return S(x); }
};

template <>
struct Converted<float16> {
    template <class X>
    static __device__ inline float16 of(X x) { return float16{half_of_float(float(x))}; }
};

template <>
struct Converted<bfloat16> {
    template <class X>
    static __device__ inline bfloat16 of(X x) {
        const unsigned int bits = __float_as_uint(float(x));
        if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return bfloat16{(unsigned short)(bits >> 16 | 0x40u)};
        return bfloat16{(unsigned short)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};
    }
};

template <class S, class X>
__device__ inline S convert(X x) { return Converted<S>::of(x); }
