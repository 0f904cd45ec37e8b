//! A probability distribution over token ids, as sampling and speculation handle it.

/// Probabilities of the ids that are possible. They are kept as weights and their sum, so nothing is lost to rounding
/// before a number is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Ascending ids, weights above 0.
    weights: Vec<(u32, f32)>,
    /// Sum of the weights, added in the order of the ids.
    total: f64,
}

impl Distribution {
    /// All probability on one id.
    pub fn certain(id: u32) -> Self {
        Self { weights: vec![(id, 1.0)], total: 1.0 }
    }

    /// Probabilities in proportion to the weights, which come with ascending ids; those not above 0 are left out.
    /// `None` if none are left.
    pub fn from_weights(mut weights: Vec<(u32, f32)>) -> Option<Self> {
        debug_assert!(weights.is_sorted_by(|a, b| a.0 < b.0));
        weights.retain(|&(_, weight)| weight > 0.0);
        let total = weights.iter().map(|&(_, weight)| f64::from(weight)).sum();
        (total > 0.0).then_some(Self { weights, total })
    }

    /// The probability of `id`.
    pub fn probability(&self, id: u32) -> f64 {
        match self.weights.binary_search_by_key(&id, |&(id, _)| id) {
            Ok(index) => f64::from(self.weights[index].1) / self.total,
            Err(_) => 0.0,
        }
    }

    /// Ids that are possible, ascending, with their probabilities.
    pub fn probabilities(&self) -> impl Iterator<Item = (u32, f64)> + '_ {
        self.weights.iter().map(|&(id, weight)| (id, f64::from(weight) / self.total))
    }

    /// The id whose share of [0, 1) holds `u`, the ids in ascending order.
    pub fn draw(&self, u: f64) -> u32 {
        let target = u * self.total;
        let mut sum = 0.0;
        for &(id, weight) in &self.weights {
            sum += f64::from(weight);
            if target < sum {
                return id;
            }
        }
        // Only if u is 1 or more: the walk adds the same numbers in the same order as `total`.
        self.weights[self.weights.len() - 1].0
    }

    /// norm(max(self − other, 0)): where the next token comes from after one drawn from `other` was rejected. `None`
    /// where rounding leaves nothing; then the two are equal to the last bit that matters.
    pub fn residual(&self, other: &Self) -> Option<Self> {
        let mut others = other.probabilities().peekable();
        let above = |(id, p): (u32, f64)| {
            while others.next_if(|&(q_id, _)| q_id < id).is_some() {}
            let q = others.next_if(|&(q_id, _)| q_id == id).map_or(0.0, |(_, q)| q);
            (id, (p - q).max(0.0) as f32)
        };
        Self::from_weights(self.probabilities().map(above).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(weights: &[(u32, f32)]) -> Distribution {
        Distribution::from_weights(weights.to_vec()).unwrap()
    }

    #[test]
    fn draws_take_shares_in_the_order_of_the_ids() {
        let d = made(&[(2, 1.0), (5, 0.0), (7, 3.0)]);
        assert_eq!([0.0, 0.249, 0.25, 0.999, 1.0].map(|u| d.draw(u)), [2, 2, 7, 7, 7]);
        assert_eq!((d.probability(2), d.probability(5), d.probability(7)), (0.25, 0.0, 0.75));
    }

    #[test]
    fn the_residual_is_what_lies_above() {
        let p = made(&[(0, 0.5), (1, 0.25), (2, 0.25)]);
        let q = made(&[(0, 0.25), (1, 0.5), (3, 0.25)]);
        let residual = p.residual(&q).unwrap();
        assert_eq!(residual.probabilities().collect::<Vec<_>>(), [(0, 0.5), (2, 0.5)]);
        assert_eq!(p.residual(&p), None);
        assert_eq!(p.residual(&Distribution::certain(0)).unwrap().probability(1), 0.5);
    }

    #[test]
    fn no_weight_is_no_distribution() {
        assert_eq!(Distribution::from_weights(vec![(0, 0.0), (1, -1.0)]), None);
    }
}
