//! The arithmetic of a rollout. Two promises hold whatever the pods do: never more than `replicas + maxSurge` pods are asked
//! for, and nothing available is taken away below `replicas - maxUnavailable`.

use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::proportion::{Round, scaled};

/// Sizes that a rollout may not cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// `spec.replicas`.
    pub(super) replicas: i32,
    /// Pods above `replicas`.
    pub(super) surge: i32,
    /// Pods that may be missing from `replicas`.
    pub(super) unavailable: i32,
}

/// A ReplicaSet: what is asked for, and how many of its pods can be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// `spec.replicas`.
    pub(super) replicas: i32,
    /// `status.availableReplicas`.
    pub(super) available: i32,
}

/// A ReplicaSet's part of a rollout that is being scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// `spec.replicas`.
    pub(super) replicas: i32,
    /// `replicas + maxSurge` of the Deployment when that was decided, if noted.
    pub(super) sized_for: Option<i32>,
}

impl Bounds {
    /// Percentages: surge rounds up, unavailable rounds down; if both come to nothing, one may be unavailable, else nothing
    /// could ever move.
    pub(super) fn of(spec: &DeploymentSpec) -> Self {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self { replicas, surge: 0, unavailable: replicas };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
        let quarter = IntOrString::String("25%".to_owned());
        let surge = scaled(rolling.max_surge.as_ref().unwrap_or(&quarter), replicas, Round::Up);
        let unavailable = scaled(rolling.max_unavailable.as_ref().unwrap_or(&quarter), replicas, Round::Down);
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(replicas) };
        Self { replicas, surge, unavailable }
    }

    /// The most pods there may be.
    pub(super) fn total_max(self) -> i32 {
        if self.replicas == 0 { 0 } else { self.replicas.saturating_add(self.surge) }
    }

    /// The fewest available pods there may be.
    pub(super) fn available_min(self) -> i32 {
        (self.replicas - self.unavailable).max(0)
    }

    /// The size of the new ReplicaSet: as far as the surge allows.
    pub(super) fn grow_new(self, new: i32, total: i32) -> i32 {
        if new > self.replicas {
            return self.replicas;
        }
        let room = self.replicas.saturating_add(self.surge).saturating_sub(total).max(0);
        new.saturating_add(room.min(self.replicas - new))
    }

    /// The sizes of the old ReplicaSets, oldest first: pods that are broken go first, for they serve nobody; then healthy
    /// ones as far as availability allows.
    pub(super) fn shrink_old(self, new: Size, old: &[Size]) -> Vec<i32> {
        let mut sizes: Vec<i32> = old.iter().map(|size| size.replicas).collect();
        let total: i32 = sizes.iter().sum::<i32>().saturating_add(new.replicas);
        let new_missing = (new.replicas - new.available).max(0);
        // What may go if every old pod counts as available.
        let mut budget = total - self.available_min() - new_missing;
        for (size, before) in sizes.iter_mut().zip(old) {
            let broken = (before.replicas - before.available).max(0);
            let go = broken.min(budget).max(0);
            *size -= go;
            budget -= go;
        }
        // A status that lags behind its ReplicaSet may count pods that are leaving already: never more than its size.
        let available = old.iter().map(|size| size.available.min(size.replicas)).sum::<i32>()
            + new.available.min(new.replicas);
        let mut spare = (available - self.available_min()).min(budget);
        for size in &mut sizes {
            let go = (*size).min(spare).max(0);
            *size -= go;
            spare -= go;
        }
        sizes
    }

    /// New sizes in proportion to the present ones (oldest first, as given); what rounding leaves goes to the biggest.
    pub(super) fn proportional(self, shares: &[Share]) -> Vec<i32> {
        let total: i32 = shares.iter().map(|share| share.replicas).sum();
        let mut left = self.total_max().saturating_sub(total);
        let mut order: Vec<usize> = (0..shares.len()).collect();
        // Growing favours the newest of equal sizes, shrinking takes from the oldest.
        order.sort_by_key(|&at| {
            let replicas = shares.get(at).map_or(0, |share| share.replicas);
            (
                std::cmp::Reverse(replicas),
                if left > 0 { std::cmp::Reverse(at) } else { std::cmp::Reverse(usize::MAX - at) },
            )
        });
        let mut sizes: Vec<i32> = shares.iter().map(|share| share.replicas).collect();
        for &at in &order {
            let (Some(share), Some(size)) = (shares.get(at), sizes.get_mut(at)) else { continue };
            let change = self.fraction(*share);
            let change = if left > 0 { change.clamp(0, left) } else { change.clamp(left, 0) };
            *size += change;
            left -= change;
        }
        if let Some(biggest) = order.first().and_then(|&at| sizes.get_mut(at)) {
            *biggest = (*biggest + left).max(0);
        }
        sizes
    }

    fn fraction(self, share: Share) -> i32 {
        if self.replicas == 0 {
            return -share.replicas;
        }
        let sized_for =
            i64::from(share.sized_for.filter(|sized_for| *sized_for > 0).unwrap_or(self.total_max()));
        let scaled = i64::from(share.replicas) * i64::from(self.total_max());
        let rounded = (2 * scaled + sized_for) / (2 * sized_for);
        i32::try_from(rounded).unwrap_or(i32::MAX).saturating_sub(share.replicas)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn bounds() {
        struct Case {
            name: &'static str,
            given: Value,
            want: (i32, i32),
        }
        let rolling = |surge: Value, unavailable: Value| json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        for case in [
            Case { name: "default quarter of 10: up and down", given: json!({}), want: (3, 2) },
            Case { name: "counts", given: rolling(json!(2), json!(1)), want: (2, 1) },
            Case { name: "both nothing", given: rolling(json!(0), json!("5%")), want: (0, 1) },
            Case { name: "everything", given: rolling(json!("100%"), json!("100%")), want: (10, 10) },
            Case { name: "more than everything", given: rolling(json!(0), json!(99)), want: (0, 10) },
            Case { name: "recreate", given: json!({"type": "Recreate"}), want: (0, 10) },
        ] {
            let spec: DeploymentSpec = serde_json::from_value(
                json!({"replicas": 10, "selector": {}, "template": {}, "strategy": case.given}),
            )
            .unwrap();
            let bounds = Bounds::of(&spec);
            assert_eq!((bounds.surge, bounds.unavailable), case.want, "{}", case.name);
        }
    }

    #[test]
    fn scaling_during_a_rollout_keeps_the_proportions() {
        struct Case {
            name: &'static str,
            bounds: Bounds,
            given: Vec<(i32, i32)>,
            want: Vec<i32>,
        }
        let bounds = |replicas, surge| Bounds { replicas, surge, unavailable: 0 };
        for case in [
            Case { name: "up", bounds: bounds(20, 0), given: vec![(5, 10), (5, 10)], want: vec![10, 10] },
            Case {
                name: "up with a rest for the newest",
                bounds: bounds(15, 0),
                given: vec![(5, 10), (5, 10)],
                want: vec![7, 8],
            },
            Case { name: "down", bounds: bounds(4, 0), given: vec![(8, 10), (2, 10)], want: vec![3, 1] },
            Case {
                name: "to nothing",
                bounds: bounds(0, 3),
                given: vec![(8, 10), (2, 10)],
                want: vec![0, 0],
            },
        ] {
            let shares: Vec<_> = case
                .given
                .iter()
                .map(|&(replicas, sized_for)| Share { replicas, sized_for: Some(sized_for) })
                .collect();
            assert_eq!(case.bounds.proportional(&shares), case.want, "{}", case.name);
        }
    }

    proptest! {
        #[test]
        fn neither_bound_is_crossed_from_any_state_inside_them(
            replicas in 1..20i32, surge in 0..6i32, unavailable in 0..6i32,
            new in (0..20i32, 0..20i32), old in prop::collection::vec((0..20i32, 0..20i32), 0..4),
        ) {
            let unavailable = if surge == 0 { unavailable.clamp(1, replicas) } else { unavailable.min(replicas) };
            let bounds = Bounds { replicas, surge, unavailable };
            let size = |(replicas, available): (i32, i32)| Size { replicas, available: available.min(replicas) };
            let (new, old): (Size, Vec<Size>) = (size(new), old.into_iter().map(size).collect());
            let total: i32 = old.iter().map(|size| size.replicas).sum::<i32>() + new.replicas;
            let grown = bounds.grow_new(new.replicas, total);
            prop_assert!(grown <= replicas);
            prop_assert!(total - new.replicas + grown <= total.max(replicas + surge));

            let available: i32 = old.iter().map(|size| size.available).sum::<i32>() + new.available;
            let shrunk = bounds.shrink_old(new, &old);
            // The worst choice of pods: every available one that the sizes allow to go is gone.
            let kept: i32 = shrunk.iter().zip(&old).map(|(size, old)| {
                let broken = old.replicas - old.available;
                let gone = old.replicas - size;
                old.available - (gone - broken).max(0)
            }).sum::<i32>() + new.available;
            prop_assert!(kept >= available.min(bounds.available_min()), "{new:?} {old:?} -> {shrunk:?}");
            prop_assert!(shrunk.iter().zip(&old).all(|(size, old)| (0..=old.replicas).contains(size)));
        }

        #[test]
        fn scaling_ends_at_the_allowed_total(replicas in 0..50i32, surge in 0..10i32, given in prop::collection::vec(1..30i32, 2..5)) {
            let bounds = Bounds { replicas, surge, unavailable: 0 };
            let sized_for: i32 = given.iter().sum();
            let shares: Vec<_> = given.iter().map(|&replicas| Share { replicas, sized_for: Some(sized_for) }).collect();
            prop_assert_eq!(bounds.proportional(&shares).iter().sum::<i32>(), bounds.total_max());
        }
    }
}
