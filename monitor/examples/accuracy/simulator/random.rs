//! Numbers that look random and are the same every time.

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled",
/// 2016).
pub struct Random(u64);

impl Random {
    /// A course of its own for every seed.
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give neighbouring courses (SplitMix64's finaliser).
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// From 0 to `below` - 1.
    pub fn index(&mut self, below: usize) -> usize {
        ((self.unit() * below as f64) as usize).min(below.saturating_sub(1))
    }

    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// How many of `of` happen, each with a chance of `share`: Poisson's approximation where few
    /// do (Knuth), the normal one where many do.
    pub fn count(&mut self, of: u64, share: f64) -> u64 {
        let mean = of as f64 * share;
        if mean <= 0.0 {
            return 0;
        }
        let count = if mean < 30.0 {
            let limit = (-mean).exp();
            let (mut product, mut count) = (self.unit(), 0.0);
            while product > limit {
                product *= self.unit();
                count += 1.0;
            }
            count
        } else {
            // Twelve uniform ones: a normal one, nearly (Irwin and Hall).
            let normal: f64 = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
            (mean + normal * mean.sqrt()).round()
        };
        (count.max(0.0) as u64).min(of)
    }
}
