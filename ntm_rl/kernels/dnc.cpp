// The DNC over whole sequences on a CPU; ntm_rl/cores/dnc.py is the specification.

#include "dnc_memory.h"
#include "sequence_operators.h"

namespace ntm_rl {
namespace {

// See `sequence.h` and `DncRow`.
struct DncMemory {
  struct Sizes : DncSizes {
    int64_t reads, parts, row, kept, work;

    Sizes(at::IntArrayRef shape, int64_t lanes, double clip_) {
      N = shape[0], M = shape[1], R = shape[2];
      masks = shape[3], wipes = shape[4], sharpens = shape[5];
      L = (N + lanes - 1) / lanes * lanes;
      clip = clip_;
      K = R + 1;
      P = K * M + M + 3 * R + K + (sharpens ? 2 * R : 0) + M + R + 2 + (masks ? K * M : 0);
      reads = R * M;
      parts = N * (M + 3 + N + R);
      row = DncRow<float>::size(*this);
      kept = DncKept<float>::size(*this);
      work = L * (M * K + N * K);
    }
  };

  template <typename s>
  using Scratch = DncScratch<s>;

  template <typename s>
  static void lay_out(const Sizes& z, const s* from, s* to) {
    lay_out_memory(z, from, to);
    lay_out_rows(z, 3 + z.N + z.R, from + z.N * z.M, to + z.L * z.M);
  }

  template <typename s>
  static void lay_back(const Sizes& z, const s* from, s* to) {
    lay_back_memory(z, from, to);
    lay_back_rows(z, 3 + z.N + z.R, from + z.L * z.M, to + z.N * z.M);
  }

  // Share of each slot that is not freed.
  template <typename s>
  static void retain(const Sizes& z, const DncRow<const s>& in, Scratch<s>& x) {
    std::fill(x.retention.begin(), x.retention.end(), s(1));
    for (int64_t r = 0; r < z.R; ++r)
#pragma omp simd
      for (int64_t n = 0; n < z.L; ++n) x.retention[n] *= 1 - x.interface.free[r] * in.readings[r * z.L + n];
  }

  template <typename s>
  static void step(const Sizes& z, const s* in_, const s* raw, s* out_, s* kept_, s* reads, Scratch<s>& x) {
    const DncRow<const s> in(z, in_);
    const DncRow<s> out(z, out_);
    const DncKept<s> kept(z, kept_);
    const Interface<s>& interface = x.interface;
    x.interface.activate(z, raw);
    retain(z, in, x);
#pragma omp simd
    for (int64_t n = 0; n < z.L; ++n)
      out.usage[n] = (in.usage[n] + in.written[n] * (1 - in.usage[n])) * x.retention[n];
    allocate(z, out.usage, kept, x);
    look_up(z, z.R, in.memory, interface, kept);
    const s gate = *interface.write, *similar = kept.content + z.R * z.L;
#pragma omp simd
    for (int64_t n = 0; n < z.L; ++n)
      out.written[n] = gate * ((1 - *interface.allocate) * similar[n] + *interface.allocate * kept.allocation[n]);
    write(z, in, out, x);
    link(z, in, out, kept);
    for (int64_t r = 0; r < z.R; ++r) look_up(z, r, out.memory, interface, kept);
    for (int64_t i = 0; z.sharpens && i < 2 * z.R; ++i) {
      s *sharpened = kept.sharpened + i * z.L, *plain = kept.directions + i * z.L;
#pragma omp simd
      for (int64_t n = 0; n < z.N; ++n) sharpened[n] = log_(std::max(plain[n], s(0)) + s(kLogEpsilon));
      softmax(sharpened, sharpened, interface.sharpness[i], z.N);
      std::fill(sharpened + z.N, sharpened + z.L, s(0));
    }
    for (int64_t r = 0; r < z.R; ++r) {
      const s *before = kept.sharpened + r * z.L, *after = before + z.R * z.L, *content = kept.content + r * z.L,
              *mode = interface.modes + 3 * r;
      s* readings = out.readings + r * z.L;
#pragma omp simd
      for (int64_t n = 0; n < z.L; ++n)
        readings[n] = mode[0] * before[n] + mode[1] * content[n] + mode[2] * after[n];
      sum_slots_of<1>(z, readings, out.memory, reads + r * z.M);
    }
  }

  template <typename s>
  static void write(const Sizes& z, const DncRow<const s>& in, const DncRow<s>& out, const Scratch<s>& x) {
    const s *erase = x.interface.erase, *add = x.interface.add;
    for (int64_t n = 0; n < z.L; n += kLanes<s>) {
      const Vector<s> weights = load(out.written + n), kept = retained(z, x, n);
      for (int64_t m = 0; m < z.M; ++m) {
        const int64_t i = n * z.M + m * kLanes<s>;
        store(out.memory + i, load(in.memory + i) * (1 - weights * erase[m]) * kept + weights * add[m]);
      }
    }
  }

  // Share of a vector of slots from n on that a write keeps.
  template <typename s>
  static Vector<s> retained(const Sizes& z, const Scratch<s>& x, int64_t n) {
    return z.wipes ? load(&x.retention[n]) : Vector<s>{} + 1;
  }

  template <typename s>
  static void step_backward(const Sizes& z, const s* in_, const s* raw, s* out_, s* kept_, const s* d_reads, s* d_row,
                            s* d_raw, Scratch<s>& x) {
    const DncRow<const s> in(z, in_);
    const DncRow<s> out(z, out_), d(z, d_row);
    const DncKept<s> kept(z, kept_);
    x.interface.activate(z, raw);
    retain(z, in, x);
    read_heads_backward(z, out, kept, d_reads, d, x);
    link_backward(z, in, out, x.d_directions.data(), d, d.readings);
    write_backward(z, in, out, d, x);
    weighting_backward(z, in, out, kept, d, x);
    s* d_retention = x.d_retention.data();
#pragma omp simd
    for (int64_t n = 0; n < z.L; ++n) {
      const s last = in.usage[n], written = in.written[n], d_used = d.usage[n] * x.retention[n];
      d_retention[n] += d.usage[n] * (last + written * (1 - last));
      d.usage[n] = d_used * (1 - written);
      d.written[n] = d_used * (1 - last);
    }
    retention_backward(z, in, d, x);
    x.interface.backward(z, raw, x.d_interface, d_raw);
  }

  // Gradients of the directions from those of the reads; adds to that of the memory.
  template <typename s>
  static void read_heads_backward(const Sizes& z, const DncRow<s>& out, const DncKept<s>& kept, const s* d_reads,
                                  const DncRow<s>& d, Scratch<s>& x) {
    for (int64_t r = 0; r < z.R; ++r) {
      s *d_readings = d.readings + r * z.L, *d_before = &x.d_directions[r * z.L], *d_after = d_before + z.R * z.L,
        *d_content = x.d_content.data();
      read_backward_of<1>(z, out.readings + r * z.L, out.memory, d_reads + r * z.M, d_readings, d.memory);
      const s *before = kept.sharpened + r * z.L, *after = before + z.R * z.L, *mode = x.interface.modes + 3 * r;
      s* d_mode = x.d_interface.modes + 3 * r;
      d_mode[0] = dot(d_readings, before, z.L);
      d_mode[1] = dot(d_readings, kept.content + r * z.L, z.L);
      d_mode[2] = dot(d_readings, after, z.L);
#pragma omp simd
      for (int64_t n = 0; n < z.L; ++n) {
        d_before[n] = mode[0] * d_readings[n];
        d_content[n] = mode[1] * d_readings[n];
        d_after[n] = mode[2] * d_readings[n];
      }
      look_up_backward(z, r, out.memory, kept, d_content, d.memory, x);
    }
    for (int64_t i = 0; z.sharpens && i < 2 * z.R; ++i) {
      const s *sharpened = kept.sharpened + i * z.L, *plain = kept.directions + i * z.L,
              gamma = x.interface.sharpness[i];
      s *d_direction = &x.d_directions[i * z.L], d_gamma = 0;
      const s mean = dot(sharpened, d_direction, z.L);
#pragma omp simd reduction(+ : d_gamma)
      for (int64_t n = 0; n < z.L; ++n) {
        const s base = std::max(plain[n], s(0)) + s(kLogEpsilon), d_power = sharpened[n] * (d_direction[n] - mean);
        d_gamma += d_power * log_(base);
        d_direction[n] = plain[n] < 0 ? s(0) : gamma * d_power / base;
      }
      x.d_interface.sharpness[i] = d_gamma;
    }
  }

  // Adds to the gradient of the write weighting and sets that of the retention.
  template <typename s>
  static void write_backward(const Sizes& z, const DncRow<const s>& in, const DncRow<s>& out, const DncRow<s>& d,
                             Scratch<s>& x) {
    const s *erase = x.interface.erase, *add = x.interface.add;
    for (int64_t m = 0; m < z.M; ++m) {
      Vector<s> d_add{}, d_erase{};
      for (int64_t n = 0; n < z.L; n += kLanes<s>) {
        const int64_t i = n * z.M + m * kLanes<s>;
        const Vector<s> weighted = load(d.memory + i) * load(out.written + n);
        d_add += weighted;
        d_erase -= weighted * retained(z, x, n) * load(in.memory + i);
      }
      x.d_interface.add[m] = sum_of<s>(d_add);
      x.d_interface.erase[m] = sum_of<s>(d_erase);
    }
    for (int64_t n = 0; n < z.L; n += kLanes<s>) {
      const Vector<s> weights = load(out.written + n), kept = retained(z, x, n);
      Vector<s> d_weights = load(d.written + n), d_kept{};
      for (int64_t m = 0; m < z.M; ++m) {
        const int64_t i = n * z.M + m * kLanes<s>;
        const Vector<s> d_slots = load(d.memory + i), slots = load(in.memory + i), left = 1 - weights * erase[m];
        d_weights += d_slots * (add[m] - erase[m] * kept * slots);
        d_kept += d_slots * left * slots;
        store(d.memory + i, d_slots * left * kept);
      }
      store(d.written + n, d_weights);
      store(&x.d_retention[n], z.wipes ? d_kept : Vector<s>{});
    }
  }

  // Gradients of the write weighting's gates; adds to those of memory and usage.
  template <typename s>
  static void weighting_backward(const Sizes& z, const DncRow<const s>& in, const DncRow<s>& out,
                                 const DncKept<s>& kept, const DncRow<s>& d, Scratch<s>& x) {
    const s gate = *x.interface.write, choice = *x.interface.allocate, *similar = kept.content + z.R * z.L;
    s *d_content = x.d_content.data(), *d_allocation = x.d_allocation.data(), d_gate = 0, d_choice = 0;
#pragma omp simd reduction(+ : d_gate, d_choice)
    for (int64_t n = 0; n < z.L; ++n) {
      const s d_mix = gate * d.written[n];
      d_gate += d.written[n] * ((1 - choice) * similar[n] + choice * kept.allocation[n]);
      d_choice += d_mix * (kept.allocation[n] - similar[n]);
      d_content[n] = (1 - choice) * d_mix;
      d_allocation[n] = choice * d_mix;
    }
    *x.d_interface.write = d_gate;
    *x.d_interface.allocate = d_choice;
    look_up_backward(z, z.R, in.memory, kept, d_content, d.memory, x);
    allocate_backward(z, out.usage, kept, d_allocation, d.usage, x);
  }

  // Adds to the gradients of the last read weightings.
  template <typename s>
  static void retention_backward(const Sizes& z, const DncRow<const s>& in, const DncRow<s>& d, Scratch<s>& x) {
    s* others = x.others.data();
    for (int64_t r = 0; r < z.R; ++r) {
      std::copy(x.d_retention.begin(), x.d_retention.end(), others);
      for (int64_t other = 0; other < z.R; ++other)
#pragma omp simd
        for (int64_t n = 0; n < z.L; ++n)
          others[n] *= other == r ? s(1) : 1 - x.interface.free[other] * in.readings[other * z.L + n];
      x.d_interface.free[r] = -dot(others, in.readings + r * z.L, z.L);
      add_scaled(d.readings + r * z.L, -x.interface.free[r], others, z.L);
    }
  }
};

}  // namespace

const Operators operators([](Library& library) { define_sequence<DncMemory>(library, "dnc"); });

}  // namespace ntm_rl
