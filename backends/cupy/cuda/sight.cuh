// Which tiles of columns some rows see, where arguments say who sees whom (sight.py): rows of queries, columns of keys,
// or the other way round. Of rows the least and the greatest are known; of columns each lane of a warp asks some, so
// that all warps of a block agree on what the block's rows see. Without SIGHT nothing is asked, and all is seen.

struct ByQueries {
    typedef QueryRange Range;
    __device__ static inline int rows(const Mask& mask) { return mask.queries; }
    __device__ static inline int columns(const Mask& mask) { return mask.keys; }
    __device__ static inline Range row(const Mask& mask, int q) { return mask.sight.query(q); }
    __device__ static inline bool may_see(const Mask& mask, const Range& queries, int k) {
        return Sight::may_see(queries, mask.sight.key(k));
    }
    __device__ static inline bool may_miss(const Mask& mask, const Range& queries, int k) {
        return Sight::may_miss(queries, mask.sight.key(k));
    }
};

struct ByKeys {
    typedef KeyRange Range;
    __device__ static inline int rows(const Mask& mask) { return mask.keys; }
    __device__ static inline int columns(const Mask& mask) { return mask.queries; }
    __device__ static inline Range row(const Mask& mask, int k) { return mask.sight.key(k); }
    __device__ static inline bool may_see(const Mask& mask, const Range& keys, int q) {
        return Sight::may_see(mask.sight.query(q), keys);
    }
    __device__ static inline bool may_miss(const Mask& mask, const Range& keys, int q) {
        return Sight::may_miss(mask.sight.query(q), keys);
    }
};

// So many rows from `first` on, of which those behind the last count as that one.
template <class By>
struct Sighted {
    typename By::Range range;

    __device__ inline Sighted(const Mask& mask, int first, int count) {
        if (!SIGHT) return;
        const int last = By::rows(mask) - 1;
        range = By::row(mask, first < last ? first : last);
        for (int i = first + threadIdx.x % 32; i < first + count; i += 32) {
            range.join(By::row(mask, i < last ? i : last));
        }
        range.join_lanes();
    }

    // Whether one of them may see one of a tile's columns from `column` on.
    __device__ inline bool sees_some(const Mask& mask, int column) const {
        bool found = false;
        for (int i = column + threadIdx.x % 32; i < column + WIDE; i += 32) {
            found = found || (i < By::columns(mask) && By::may_see(mask, range, i));
        }
        return __ballot_sync(0xffffffffu, found) != 0;
    }

    // Whether all of them see all of a tile's columns, and there are as many.
    __device__ inline bool sees_all(const Mask& mask, int column) const {
        bool missed = false;
        for (int i = column + threadIdx.x % 32; i < column + WIDE; i += 32) {
            missed = missed || i >= By::columns(mask) || By::may_miss(mask, range, i);
        }
        return __ballot_sync(0xffffffffu, missed) == 0;
    }

    // The first tile from `column` on of whose columns one of them may see one; behind the last column without.
    __device__ inline int next(const Mask& mask, int column) const {
        while (SIGHT && column < By::columns(mask) && !sees_some(mask, column)) column += WIDE;
        return column;
    }
};
