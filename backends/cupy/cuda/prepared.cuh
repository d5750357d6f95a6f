// Numbers that are known at run time only, each the counterpart of a function of the same name beside the snippet that
// asks for it (backends/rows). One thread of a block computes them, in double precision as the host does.

template <class T>
__device__ inline void write_rate(double lr, T* numbers) { numbers[0] = T(lr); }

template <class T>
__device__ inline void write_shrink(double lr, double weight_decay, T* numbers) {
    numbers[0] = T(1 - lr * weight_decay);
}

template <class T>
__device__ inline void write_corrections(
    long long step, double lr, double beta1, double beta2, double epsilon, T* numbers
) {
    const double t = double(step + 1), c = sqrt(1 - pow(beta2, t));
    numbers[0] = T(lr * c / (1 - pow(beta1, t)));
    numbers[1] = T(epsilon * c);
}

__device__ inline double warm(long long t, double peak, long long warmup) {
    return t < warmup ? peak * double(t + 1) / double(warmup) : peak;
}

__device__ inline double done(long long t, long long warmup, long long total) {
    const double share = double(t - warmup) / double(total - warmup);
    return share < 1 ? share : 1;
}

template <class T>
__device__ inline void write_constant(
    long long t, double peak, long long warmup, long long total, double floor, T* numbers
) {
    numbers[0] = T(warm(t, peak, warmup));
}

template <class T>
__device__ inline void write_linear(
    long long t, double peak, long long warmup, long long total, double floor, T* numbers
) {
    const double falling = floor + (peak - floor) * (1 - done(t, warmup, total));
    numbers[0] = T(t < warmup ? warm(t, peak, warmup) : falling);
}

template <class T>
__device__ inline void write_cosine(
    long long t, double peak, long long warmup, long long total, double floor, T* numbers
) {
    const double share = 0.5 * (1 + cos(3.14159265358979323846 * done(t, warmup, total)));
    numbers[0] = T(t < warmup ? warm(t, peak, warmup) : floor + (peak - floor) * share);
}
