// O = DO(S(SM(Q Kᵀ))) V, without the scores [q, k] in memory: softmax along with the products, as each tile of keys
// may raise a row's maximum, by which all that was added up before is scaled down (Milakov and Gimelshein, 2018; Dao et
// al., 2022). The sums of a row are over all its probabilities, those too that dropout leaves out. With STATISTICS a
// row's maximum and sum are left for the gradient. A query that sees no key has O = 0.

extern "C" __global__ void __launch_bounds__(32 * WARPS) run(
    const Value* Q, const Value* K, const Value* V, Result* O, Sum* tops, Sum* sums, long long heads, long long queries,
    long long keys, int width, Sum scale, Sum factor,
    long long Q_b, long long Q_h, long long Q_g, long long Q_s, long long Q_d, long long K_b, long long K_h,
    long long K_s, long long K_d, long long V_b, long long V_h, long long V_s, long long V_d, long long O_b,
    long long O_h, long long O_g, long long O_s, long long O_d, long long tops_b, long long tops_h, long long tops_g,
    long long tops_s, long long sums_b, long long sums_h, long long sums_g, long long sums_s,
    MASK_PARAMETERS)
{
    // The last queries see the most keys: they begin first.
    const int tiles = int((queries + TALL - 1) / TALL), first = (tiles - 1 - int(blockIdx.x) % tiles) * TALL;
    const Place place(int(blockIdx.x) / tiles, int(heads));
    const Head<const Value> of_q(Q, place, Q_b, Q_h, Q_g, Q_s, Q_d), of_k(K, place, K_b, K_h, K_s, K_d),
        of_v(V, place, V_b, V_h, V_s, V_d);
    const Head<Result> of_o(O, place, O_b, O_h, O_g, O_s, O_d);
    MAKE_MASK(mask, place);
    Pieces pieces;
    Value *const q_tile = pieces.take<Value>(TALL * LD), *const k_tiles = pieces.take<Value>(2 * WIDE * LD),
        *const v_tiles = pieces.take<Value>(2 * WIDE * LD), *const spare = take_spare(pieces);
    const int q = first + warp_row(), stop = mask.keys_before(first + TALL);
    const Sighted<ByQueries> block(mask, first, TALL), warp(mask, q, 16 * HIGH);
    const int begin = block.next(mask, 0);
    const Scale of(scale);
    Rows out;
    Numbers top, total;
    clear(out);
#pragma unroll
    for (int m = 0; m < HIGH; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) top[m][half] = of.least(), total[m][half] = 0;
    }
    send_for<TALL>(q_tile, of_q, first, mask.queries, width);
    send_for<WIDE>(k_tiles, of_k, begin, mask.keys, width);
    send_for<WIDE>(v_tiles, of_v, begin, mask.keys, width);
    // The first tile is on its way even where no query sees a key.
    for (int k = begin, at = 0, next; k == begin || k < stop; k = next, at = WIDE * LD - at) {
        next = block.next(mask, k + WIDE);
        await_tiles();
        if (next < stop) {
            send_for<WIDE>(k_tiles + WIDE * LD - at, of_k, next, mask.keys, width);
            send_for<WIDE>(v_tiles + WIDE * LD - at, of_v, next, mask.keys, width);
        }
        if (SIGHT ? !warp.sees_some(mask, k) : !mask.sees_some(q + 16 * HIGH - 1, k)) continue;
        Scores z;
        clear(z);
        Multiply::multiply_rows<WIDTH, LD, LD>(z, q_tile + warp_row() * LD, k_tiles + at);
        if (SIGHT ? !warp.sees_all(mask, k) : !mask.sees_all(q, k, WIDE)) hide<false>(z, mask, q, k);
#pragma unroll
        for (int m = 0; m < HIGH; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                Sum most = top[m][half];
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    most = fmax(most, fmax(z[m][n][2 * half], z[m][n][2 * half + 1]));
                }
                most = row_top(most);
                const Sum shrink = of.shrink(top[m][half], most);
                top[m][half] = most;
                total[m][half] *= shrink;
#pragma unroll
                for (int n = 0; n < COLUMNS; ++n) {
                    out[m][n][2 * half] *= shrink;
                    out[m][n][2 * half + 1] *= shrink;
                }
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    Sum* const two = z[m][n] + 2 * half;
                    two[0] = of.relative(two[0], most);
                    two[1] = of.relative(two[1], most);
                    total[m][half] += two[0] + two[1];
                    if (DROPOUT) {
                        bool kept[2];
                        mask.keeps_two(q + lane_row(m, half), k + lane_column(n), kept);
                        two[0] = kept[0] ? two[0] : Sum(0);
                        two[1] = kept[1] ? two[1] : Sum(0);
                    }
                }
            }
        }
        Multiply::multiply_tile<WIDE, LD>(out, z, spare, v_tiles + at);
    }
    const Line<Sum> of_tops(tops, place, tops_b, tops_h, tops_g, tops_s),
        of_sums(sums, place, sums_b, sums_h, sums_g, sums_s);
    Numbers factors;
#pragma unroll
    for (int m = 0; m < HIGH; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Sum sum = row_sum(total[m][half]);
            const int row = q + lane_row(m, half);
            factors[m][half] = sum == Sum(0) ? Sum(0) : factor / sum;
            if (STATISTICS && threadIdx.x % 4 == 0 && row < mask.queries) {
                of_tops[row] = sum == Sum(0) ? MASKED : top[m][half] * of.natural;
                of_sums[row] = sum;
            }
        }
    }
    store(of_o, out, q, queries, width, factors);
}
