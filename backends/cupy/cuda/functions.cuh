// Functions that CUDA has not by one name for float and double. Its own exp, log, sqrt, erfc are used as they are, right
// to a few units in the last place; none assumes that there is no NaN or infinity.

template <class T>
__device__ inline T sigmoid(T x) { return T(1) / (T(1) + exp(-x)); }

// The normal distribution, by erfc: no digits are lost where it is close to 0.
template <class T>
__device__ inline T normal(T x) { return T(0.5) * erfc(x * T(-0.70710678118654752)); }
