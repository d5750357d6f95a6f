// Random numbers by counter: the hash from which dropout masks are drawn, bit for bit that of the reference kernel
// (graphir/operators/special.py). A draw has 16 bits; elements 2i and 2i + 1 of a tensor are the halves of hash i.
//
// SplitMix64's finalizer (Steele, Lea and Flood, 2014) makes keys of (seed, step, node); each page of 2^32 counters has
// keys of its own. The hash of 32 bits is the product of one of a counter's block of 1024 and one of its place in it.

struct Keys {
    unsigned long long stream;
    unsigned int first, second;  // of page 0
};

__device__ inline unsigned long long mix_64(unsigned long long x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

__device__ inline unsigned int factor(unsigned int number, unsigned int key, unsigned int spread) {
    const unsigned int x = ((number << 1) ^ key) * spread;
    return x ^ x >> 15 | 1u;
}

__device__ inline unsigned int mix_32(unsigned int x, unsigned int first, unsigned int second) {
    x = factor(x >> 10, first, 0xED5AD4BBu) * factor(x & 1023u, second, 0xAC4C1B51u);
    return x ^ x >> 16;
}

__device__ inline void write_keys(long long seed, long long step, long long node, Keys* keys) {
    unsigned long long mixed = mix_64((unsigned long long)seed);
    mixed = mix_64(mixed ^ (unsigned long long)step);
    keys->stream = mixed = mix_64(mixed ^ (unsigned long long)node);
    mixed = mix_64(mixed);
    keys->first = (unsigned int)mixed;
    keys->second = (unsigned int)(mixed >> 32);
}

// The hash of a pair of elements.
__device__ inline unsigned int pair_bits(const Keys& keys, unsigned long long pair) {
    const unsigned long long page = pair >> 32;
    if (page == 0) return mix_32((unsigned int)pair, keys.first, keys.second);
    const unsigned long long mixed = mix_64(keys.stream ^ page);
    return mix_32((unsigned int)pair, (unsigned int)mixed, (unsigned int)(mixed >> 32));
}

__device__ inline unsigned short draw(const Keys& keys, long long element) {
    return (unsigned short)(pair_bits(keys, (unsigned long long)element >> 1) >> (element & 1) * 16);
}

template <int N>
struct Draws {
    unsigned short v[N];
};

// N draws from element on, which is even, as N is.
template <int N>
__device__ inline Draws<N> draws(const Keys& keys, long long element) {
    Draws<N> drawn;
#pragma unroll
    for (int j = 0; j < N; j += 2) {
        const unsigned int bits = pair_bits(keys, (unsigned long long)(element + j) >> 1);
        drawn.v[j] = (unsigned short)bits;
        drawn.v[j + 1] = (unsigned short)(bits >> 16);
    }
    return drawn;
}
