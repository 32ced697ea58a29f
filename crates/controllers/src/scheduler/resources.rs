//! Amounts of resources: what pods request, what nodes have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths of each resource by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts(BTreeMap<String, i128>);

impl Amounts {
    fn of(quantities: Option<&BTreeMap<String, Quantity>>) -> Self {
        let amounts = quantities.into_iter().flatten();
        Self(amounts.filter_map(|(name, quantity)| Some((name.clone(), thousandths(&quantity.0)?))).collect())
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_default() += amount;
        }
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_default() -= amount;
        }
        self.0.retain(|_, amount| *amount != 0);
    }

    /// The greater of both, resource by resource.
    fn at_least(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let present = self.0.entry(name.clone()).or_default();
            *present = (*present).max(*amount);
        }
    }

    fn amount(&self, name: &str) -> i128 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// What a pod needs at any one time: its containers and sidecars together, or the greediest init container before them.
pub(super) fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::default() };
    let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
    for container in spec.init_containers.iter().flatten() {
        let mut needed = of_container(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&needed);
        } else {
            needed.add(&sidecars);
            peak.at_least(&needed);
        }
    }
    let mut total = sidecars;
    spec.containers.iter().for_each(|container| total.add(&of_container(container)));
    total.at_least(&peak);
    total.add(&Amounts::of(spec.overhead.as_ref()));
    total.0.retain(|_, amount| *amount != 0);
    total
}

/// A limit without a request is a request.
fn of_container(container: &Container) -> Amounts {
    let Some(resources) = &container.resources else { return Amounts::default() };
    let mut amounts = Amounts::of(resources.limits.as_ref());
    amounts.0.extend(Amounts::of(resources.requests.as_ref()).0);
    amounts
}

/// Resources of which the node has too little left. A node that does not say what it has is not asked.
pub(super) fn insufficient(requests: &Amounts, used: &Amounts, node: &Node) -> Vec<String> {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let Some(allocatable) = allocatable.map(|allocatable| Amounts::of(Some(allocatable))) else {
        return Vec::new();
    };
    let short = |name: &str, wanted: i128| wanted > allocatable.amount(name) - used.amount(name);
    let asked = requests.0.iter().filter(|(_, wanted)| **wanted > 0);
    asked.filter(|(name, wanted)| short(name, **wanted)).map(|(name, _)| name.clone()).collect()
}

/// How many pods the node takes.
pub(super) fn pods_max(node: &Node) -> Option<usize> {
    let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
    usize::try_from(thousandths(&allocatable.get("pods")?.0)? / 1000).ok()
}

/// `100m`, `1.5`, `2Gi`, `1e3` in thousandths, rounded up; `None` for what is no quantity.
fn thousandths(text: &str) -> Option<i128> {
    let digits =
        text.find(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != '-' && letter != '+');
    let (number, suffix) = text.split_at(digits.unwrap_or(text.len()));
    // In thousandths of the thousandth, so that small suffixes are exact.
    const NANO_IN_MILLI: i128 = 1_000_000;
    let factor: i128 = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => NANO_IN_MILLI,
        "" => 1_000 * NANO_IN_MILLI,
        "k" => 1_000_000 * NANO_IN_MILLI,
        "M" => 1_000_000_000 * NANO_IN_MILLI,
        "G" => 1_000_000_000_000 * NANO_IN_MILLI,
        "T" => 1_000_000_000_000_000 * NANO_IN_MILLI,
        "P" => 1_000_000_000_000_000_000 * NANO_IN_MILLI,
        "Ki" => (1_000 << 10) * NANO_IN_MILLI,
        "Mi" => (1_000 << 20) * NANO_IN_MILLI,
        "Gi" => (1_000 << 30) * NANO_IN_MILLI,
        "Ti" => (1_000 << 40) * NANO_IN_MILLI,
        "Pi" => (1_000 << 50) * NANO_IN_MILLI,
        exponent => {
            let exponent: u32 =
                exponent.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| *power <= 18)?;
            1_000 * NANO_IN_MILLI * 10_i128.checked_pow(exponent)?
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 || whole.len() > 19 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let nanos = whole.checked_mul(factor)?.checked_add(fraction.checked_mul(factor)?.checked_div(scale)?)?;
    Some(nanos.checked_add(NANO_IN_MILLI - 1)?.div_euclid(NANO_IN_MILLI))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities() {
        for (text, want) in [
            ("100m", Some(100)),
            ("1", Some(1000)),
            ("1.5", Some(1500)),
            (".5", Some(500)),
            ("1Ki", Some(1_024_000)),
            ("2G", Some(2_000_000_000_000)),
            ("1e3", Some(1_000_000)),
            ("1n", Some(1)),
            ("0", Some(0)),
            ("", None),
            ("much", None),
            ("1X", None),
            ("1e99", None),
        ] {
            assert_eq!(thousandths(text), want, "{text}");
        }
    }

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_always() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = json!("Always");
        let pod = json!({"spec": {"initContainers": [sidecar, container("4")], "containers": [container("2"), {"name": "d", "resources": {"limits": {"cpu": "500m"}}}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(requests(&pod).amount("cpu"), 5000);
    }
}
