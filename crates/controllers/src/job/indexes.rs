//! Sets of completion indexes, written as `0-2,5`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Indexes in ascending order.
pub(super) type Indexes = BTreeSet<i32>;

/// Reads `0-2,5`; parts that are none, and indexes that are not below `count`, are left out.
pub(super) fn parse(text: &str, count: i32) -> Indexes {
    let mut indexes = Indexes::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(count - 1));
        }
    }
    indexes
}

/// Writes `0-2,5`: neighbours are joined.
pub(super) fn format(indexes: &Indexes) -> String {
    let mut text = String::new();
    let mut rest = indexes.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|next| *next == last + 1) {
            last = next;
        }
        if !text.is_empty() {
            text.push(',');
        }
        // Writing to a string cannot fail.
        let _ = match last - first {
            0 => write!(text, "{first}"),
            1 => write!(text, "{first},{last}"),
            _ => write!(text, "{first}-{last}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (text, count, want) in [
            ("", 10, ""),
            ("0", 10, "0"),
            ("0,1", 10, "0,1"),
            ("0-2,4", 10, "0-2,4"),
            ("1,3-5,7,8,9", 10, "1,3-5,7-9"),
            ("0-9", 4, "0-3"),
            ("x,-1,2-1,3", 10, "3"),
        ] {
            assert_eq!(format(&parse(text, count)), want, "{text}");
        }
    }
}
