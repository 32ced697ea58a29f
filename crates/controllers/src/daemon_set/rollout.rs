//! From one template of a DaemonSet to the next: either old pods go first (`maxUnavailable`), or new ones come first (`maxSurge`).

use crate::plan::Write;
use crate::proportion::{Round, scaled};

use super::{Daemon, Place, State};

/// The writes that move the rollout on; none when it is left to the user (`OnDelete`) or there is nothing to move.
pub(super) fn next(state: &State<'_>) -> Vec<Write> {
    if !is_rolling(state) {
        return Vec::new();
    }
    match surge(state) {
        0 => shrink_first(state),
        surge => grow_first(state, surge),
    }
}

fn is_rolling(state: &State<'_>) -> bool {
    let strategy = state.spec.update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

/// How many nodes may have two pods at the same time.
pub(super) fn surge(state: &State<'_>) -> usize {
    let strategy = state.spec.update_strategy.as_ref();
    let asked = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.max_surge.as_ref());
    count(asked.map_or(0, |asked| scaled(asked, state.desired(), Round::Up)))
}

/// How many nodes may be without an available pod.
fn unavailable_max(state: &State<'_>) -> usize {
    let strategy = state.spec.update_strategy.as_ref();
    let asked = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.max_unavailable.as_ref());
    let asked = asked.map_or(1, |asked| scaled(asked, state.desired(), Round::Up));
    // Neither room below nor above: nothing could ever move.
    count(if asked == 0 && surge(state) == 0 { 1 } else { asked })
}

fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// The pods of a wanted node that nobody asked to go: one of the old template, one of the present one.
fn sides<'s, 'a>(place: &'s Place<'a>) -> (Option<&'s Daemon<'a>>, Option<&'s Daemon<'a>>) {
    let find =
        |updated: bool| place.pods.iter().find(|daemon| daemon.updated == updated && !daemon.is_leaving());
    (find(false), find(true))
}

fn shrink_first(state: &State<'_>) -> Vec<Write> {
    let (mut broken, mut working, mut absent) = (Vec::new(), Vec::new(), 0);
    for place in state.places.values().filter(|place| place.wanted) {
        let (old, new) = sides(place);
        match (old, new) {
            (Some(old), None) if old.available => working.push(old),
            (Some(old), None) => {
                // It does not work: replacing it takes nothing away.
                absent += 1;
                broken.push(old);
            }
            (_, Some(new)) if new.available => {}
            (_, Some(_)) | (None, None) => absent += 1,
        }
    }
    let room = unavailable_max(state).saturating_sub(absent);
    broken.into_iter().chain(working.into_iter().take(room)).map(|old| state.delete(old.pod)).collect()
}

fn grow_first(state: &State<'_>, surge: usize) -> Vec<Write> {
    let (mut writes, mut waiting, mut doubled) = (Vec::new(), Vec::new(), 0);
    for (node, place) in state.places.iter().filter(|(_, place)| place.wanted) {
        match sides(place) {
            (Some(old), Some(new)) if new.available || !old.available => {
                doubled += usize::from(!new.available);
                writes.push(state.delete(old.pod));
            }
            (Some(_), Some(_)) => doubled += 1,
            // It does not work: its successor takes no room.
            (Some(old), None) if !old.available => writes.push(state.create(node)),
            (Some(_), None) => waiting.push(*node),
            (None, _) => {}
        }
    }
    let room = surge.saturating_sub(doubled);
    writes.extend(waiting.into_iter().take(room).map(|node| state.create(node)));
    writes
}
