// The NTM over whole sequences on a CPU; ntm_rl/cores/ntm.py is the specification.

#include "ntm_memory.h"
#include "sequence_operators.h"

namespace ntm_rl {
namespace {

// See `sequence.h`. Its row: memory and weightings [K, L]. Kept of a step: content weightings, similarities and norms.
struct NtmMemory {
  struct Sizes : MemorySizes {
    int64_t reads, parts, row, kept, work;

    Sizes(at::IntArrayRef shape, int64_t lanes, double clip_) {
      N = shape[0], M = shape[1], R = shape[2], W = shape[3], S = shape[4];
      L = (N + lanes - 1) / lanes * lanes;
      clip = clip_;
      K = R + W;
      P = K * (M + 3 + S) + 2 * W * M;
      reads = R * M;
      parts = N * M + K * N;
      row = L * M + K * L;
      kept = 2 * K * L + L;
      work = L * M * K;
    }
  };

  template <typename s>
  using Scratch = ntm_rl::Scratch<s>;

  // From a flat state's parts to the row, and back.
  template <typename s>
  static void lay_out(const Sizes& z, const s* from, s* to) {
    lay_out_memory(z, from, to);
    lay_out_rows(z, z.K, from + z.N * z.M, to + z.L * z.M);
  }

  template <typename s>
  static void lay_back(const Sizes& z, const s* from, s* to) {
    lay_back_memory(z, from, to);
    lay_back_rows(z, z.K, from + z.L * z.M, to + z.N * z.M);
  }

  template <typename s>
  static MemoryStep<s> of(const Sizes& z, s* row, s* kept) {
    return {row, row + z.L * z.M, kept, kept + z.K * z.L, kept + 2 * z.K * z.L};
  }

  // Runs a step from the row `in`, which may be `out`; writes out, kept and reads.
  template <typename s>
  static void step(const Sizes& z, const s* in, const s* raw, s* out, s* kept, s* reads, Scratch<s>& scratch) {
    address(z, in, in + z.L * z.M, raw, of(z, out, kept), reads, scratch);
  }

  // Backward of `step`. d_row: in, the gradient of `out`; out, of `in`. Writes d_raw.
  template <typename s>
  static void step_backward(const Sizes& z, const s* in, const s* raw, s* out, s* kept, const s* d_reads, s* d_row,
                            s* d_raw, Scratch<s>& scratch) {
    address_backward(z, in, in + z.L * z.M, raw, of(z, out, kept), d_reads, d_row, d_row + z.L * z.M, d_raw, scratch);
  }
};

}  // namespace

const Operators operators([](Library& library) {
  define_sequence<NtmMemory>(library, "ntm");
});

}  // namespace ntm_rl
