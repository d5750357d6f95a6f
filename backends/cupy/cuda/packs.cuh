// Packs: N elements that lie side by side, loaded and stored at once, in words of up to 16 bytes.
//
//     load<N>(p)          from where N elements lie side by side; N > 1 needs p to be aligned to the pack
//     gather<N>(p, step)  from any places, one by one
//     store, scatter      back

template <class S, int N>
struct alignas(sizeof(S) * N < 16 ? sizeof(S) * N : 16) Pack {
    S v[N];
};

template <int N, class S>
__device__ inline Pack<S, N> load(const S* p) {
    return *reinterpret_cast<const Pack<S, N>*>(p);
}

template <int N, class S>
__device__ inline Pack<S, N> gather(const S* p, long long step) {
    Pack<S, N> x;
#pragma unroll
    for (int j = 0; j < N; ++j) x.v[j] = p[j * step];
    return x;
}

template <int N, class S>
__device__ inline void store(S* p, const Pack<S, N>& x) {
    *reinterpret_cast<Pack<S, N>*>(p) = x;
}

template <int N, class S>
__device__ inline void scatter(S* p, long long step, const Pack<S, N>& x) {
#pragma unroll
    for (int j = 0; j < N; ++j) p[j * step] = x.v[j];
}
