// Ranges of integers: the least and the greatest of some.

template <class T>
struct Range {
    T least, greatest;

    __device__ inline void put(T number) { least = greatest = number; }
    __device__ inline void join(const Range& other) {
        least = other.least < least ? other.least : least;
        greatest = other.greatest > greatest ? other.greatest : greatest;
    }
    // With those of all lanes of a warp.
    __device__ inline void join_lanes() {
#pragma unroll
        for (int by = 16; by > 0; by /= 2) {
            Range other;
            other.least = __shfl_xor_sync(0xffffffffu, least, by);
            other.greatest = __shfl_xor_sync(0xffffffffu, greatest, by);
            join(other);
        }
    }
};
